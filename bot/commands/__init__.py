"""The application commands: each reads its options, calls, and replies."""

from collections.abc import Sequence
from typing import Any

from discord import app_commands

from bot.commands import about, bark, channel, voices

# discord.py leaves the type of a command's owner open, and these have none.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
COMMANDS: Sequence[app_commands.Command[Any, ..., Any] | app_commands.Group] = [
    bark.bark,
    voices.voices,
    voices.voice,
    channel.join,
    channel.leave,
    channel.skip,
    channel.stop,
    channel.queue,
    about.invite,
    about.help_,
]
