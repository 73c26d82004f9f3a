"""The application commands: each reads its options, calls, and replies."""

from collections.abc import Sequence
from typing import Any

from discord import app_commands

from bot.commands import about, bark, channel, voices

# discord.py leaves the type of a command's owner open, and these have none.
COMMANDS: Sequence[app_commands.Command[Any, ..., Any] | app_commands.Group] = [
    bark.bark,  # pyright: ignore[reportUnknownMemberType]
    voices.voices,  # pyright: ignore[reportUnknownMemberType]
    voices.voice,
    channel.join,  # pyright: ignore[reportUnknownMemberType]
    channel.leave,  # pyright: ignore[reportUnknownMemberType]
    channel.skip,  # pyright: ignore[reportUnknownMemberType]
    channel.stop,  # pyright: ignore[reportUnknownMemberType]
    channel.queue,  # pyright: ignore[reportUnknownMemberType]
    about.invite,  # pyright: ignore[reportUnknownMemberType]
    about.help_,  # pyright: ignore[reportUnknownMemberType]
]
