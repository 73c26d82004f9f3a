"""Which sentence an error becomes, for the one who asked.

Knows the errors of `bot`, `synth` and discord.py. What it gives None for, nobody foresaw: that is
logged, and answered with a number to look for.
"""

from discord import app_commands

from bot import replies
from bot.errors import StoreUnavailable, SynthUnavailable, UserError
from synth.errors import EngineFailed, JobCancelled, SynthError


def engine_down(error: EngineFailed) -> str:
    """What a request is told that could not even be taken in."""
    return f"The bot cannot speak at the moment: {error} Try again in a minute."


def unexpected(reference: str) -> str:
    return f"Something went wrong on the bot's side; tell its owner this number: {reference}."


def cause_of(error: BaseException) -> BaseException:
    """What went wrong in a command, out of what discord.py wraps it in."""
    while isinstance(error, app_commands.CommandInvokeError | app_commands.TransformerError):
        if error.__cause__ is None:
            break
        error = error.__cause__
    return error


def foreseen(error: BaseException) -> str | None:
    """What a user is told of an error in a command or button; None for one nobody foresaw."""
    return sentence(error) or discord_refusal(error)


def sentence(error: BaseException) -> str | None:
    """What a user is told of an error of our own; None for any other."""
    match error:
        case JobCancelled():
            return replies.CANCELLED
        case EngineFailed():
            return replies.cut(f"{error} Your clip is lost; try again in a minute.")
        case UserError() | SynthUnavailable() | StoreUnavailable() | SynthError():
            return replies.cut(str(error))
        case _:
            return None


def discord_refusal(error: BaseException) -> str | None:
    """What a user is told of an error of discord.py's own; None for one that nobody foresaw."""
    match error:
        case app_commands.TransformerError():
            value = replies.cut(replies.escape(str(error.value)), 100)
            return f"{value} does not work for that option; choose another."
        case app_commands.CommandNotFound() | app_commands.CommandSignatureMismatch():
            return "That command has changed; wait a moment, reload Discord, and try again."
        case app_commands.CheckFailure():
            return "You cannot use that command here."
        case _:
            return None
