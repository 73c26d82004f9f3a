"""The names behind the mentions in a text: from memory, else asked for, but never waited for long.

Without the members intent the bot knows few members; a single one may be asked for by id.
"""

import asyncio
import re

import discord

from bot.access import Interaction
from bot.answer import UNREACHABLE
from bot.text import Names

_USER = re.compile(r"<@!?(\d{1,20})>")
_ASKED_AT_MOST = 5
_PATIENCE_S = 1.0  # of the 3 s until the request must be acknowledged


async def names_in(interaction: Interaction, written: str) -> Names:
    """Names for the users, roles and channels that `written` mentions."""
    guild = interaction.guild
    if guild is None:
        return Names()
    users = {interaction.user.id: interaction.user.display_name}
    unknown: list[int] = []
    for user_id in dict.fromkeys(int(found) for found in _USER.findall(written)):
        member = guild.get_member(user_id)
        if member is not None:
            users[user_id] = member.display_name
        elif user_id not in users:
            unknown.append(user_id)
    users |= await _asked_for(guild, unknown[:_ASKED_AT_MOST])

    def role(role_id: int) -> str | None:
        found = guild.get_role(role_id)
        return found.name if found else None

    def channel(channel_id: int) -> str | None:
        found = guild.get_channel_or_thread(channel_id)
        return found.name if found else None

    return Names(users.get, role, channel)


async def _asked_for(guild: discord.Guild, user_ids: list[int]) -> dict[int, str]:
    async def ask(user_id: int) -> tuple[int, str] | None:
        try:
            return user_id, (await guild.fetch_member(user_id)).display_name
        except UNREACHABLE:
            return None

    tasks = [asyncio.create_task(ask(user_id)) for user_id in user_ids]
    if not tasks:
        return {}
    try:
        done, _ = await asyncio.wait(tasks, timeout=_PATIENCE_S)
        return dict(found for task in done if (found := task.result()))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
