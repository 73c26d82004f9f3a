"""What commands and buttons work with, and how they find it from an interaction."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol, cast

from bot.access import Interaction
from bot.catalogue import Catalogue
from bot.config import Settings
from bot.desk import Clock, Desk
from bot.live_clip import LiveSounds
from bot.playback import VoiceSessions
from bot.store import Store
from bot.transcode import Transcoder
from synth.client import SynthClient
from synth.protocol import Ready


@dataclass(frozen=True)
class Services:
    """Opened by `bot.app`, closed by it. `sessions` is None where there are no voice channels."""

    settings: Settings
    store: Store
    synth: SynthClient
    ready: Ready
    catalogue: Catalogue
    desk: Desk
    transcoder: Transcoder
    sounds: LiveSounds
    sessions: VoiceSessions | None
    clock: Clock


class HasServices(Protocol):
    """The Discord client, as commands and buttons know it."""

    services: Services

    async def refuse(
        self, interaction: Interaction, error: BaseException, reference: str | None = None
    ) -> None:
        """Answer an interaction that went wrong."""
        ...


def services_of(interaction: Interaction) -> Services:
    return cast(HasServices, interaction.client).services


async def guarded(interaction: Interaction, work: Callable[[], Awaitable[None]]) -> None:
    """Run a button's work; discord.py would log its errors and leave the user without an answer."""
    try:
        await work()
    except Exception as error:
        await cast(HasServices, interaction.client).refuse(interaction, error)
