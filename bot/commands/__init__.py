"""The application commands: each reads its options, calls, and replies."""

from collections.abc import Sequence
from typing import Any

from discord import app_commands

from bot.commands.bark import bark  # pyright: ignore[reportUnknownVariableType]

# discord.py leaves the type of a command's owner open, and these have none.
COMMANDS: Sequence[app_commands.Command[Any, ..., Any] | app_commands.Group] = [
    bark,  # pyright: ignore[reportUnknownVariableType]
]
