"""Buttons that carry what they mean in their id: they survive restarts and hold no memory."""

import re
from typing import Self

import discord

from bot import replies, voice_browser
from bot.access import Interaction, is_manager
from bot.desk import CancelResult
from bot.errors import UserError
from bot.services import guarded, services_of


class CancelButton(
    discord.ui.DynamicItem[discord.ui.Button[discord.ui.View]],
    template=r"bark:cancel:(?P<job_id>[0-9a-f]{1,64})",
):
    """Calls a job off, for its requester and for managers."""

    def __init__(self, job_id: str) -> None:
        super().__init__(
            discord.ui.Button(
                label="Cancel",
                style=discord.ButtonStyle.secondary,
                custom_id=f"bark:cancel:{job_id}",
            )
        )
        self.job_id = job_id

    @classmethod
    async def from_custom_id(
        cls,
        interaction: Interaction,
        item: discord.ui.Item[discord.ui.View],
        match: re.Match[str],
        /,
    ) -> Self:
        return cls(match["job_id"])

    async def callback(self, interaction: Interaction) -> None:
        await guarded(interaction, lambda: self._cancel(interaction))

    async def _cancel(self, interaction: Interaction) -> None:
        services = services_of(interaction)
        row = await services.store.job(self.job_id)
        if row is None:
            raise UserError(replies.JOB_GONE)
        if interaction.user.id != row.user_id and not (
            row.guild_id == interaction.guild_id and is_manager(interaction)
        ):
            raise UserError(replies.NOT_YOURS)
        match services.desk.cancel(self.job_id):
            case CancelResult.CANCELLED:
                content = replies.CANCELLING
            case CancelResult.ALREADY:
                content = replies.ALREADY_CANCELLED
            case CancelResult.TOO_LATE:
                content = replies.ALREADY_DONE
            case CancelResult.UNKNOWN:
                content = replies.job_ended(row)
        await interaction.response.send_message(content, ephemeral=True)


def controls(job_id: str) -> discord.ui.View:
    """The buttons under the status of a job."""
    view = discord.ui.View(timeout=None)
    view.add_item(CancelButton(job_id))
    return view


DYNAMIC_ITEMS = (CancelButton, *voice_browser.DYNAMIC_ITEMS)
