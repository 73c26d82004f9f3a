"""Every error that is foreseen has a sentence; the others have none."""

import discord
import pytest
from discord import AppCommandOptionType, app_commands

from bot import error_replies, errors
from synth import errors as synth_errors


def kinds(module: object, base: type[Exception]) -> list[type[Exception]]:
    found = [each for each in vars(module).values() if isinstance(each, type)]
    return [each for each in found if issubclass(each, base) and each is not base]


@pytest.mark.parametrize(
    "kind",
    [*kinds(synth_errors, synth_errors.SynthError), errors.UserError, errors.StoreUnavailable],
)
def test_a_foreseen_error_becomes_one_short_sentence(kind: type[Exception]) -> None:
    said = error_replies.sentence(kind("What is wrong, and what to do. " * 100))
    assert said is not None and len(said) <= 2000
    assert said == "Cancelled." or "What is wrong" in said


@pytest.mark.parametrize("error", [ZeroDivisionError("a secret"), errors.StartError("a path")])
def test_an_unforeseen_one_has_none(error: Exception) -> None:
    assert error_replies.sentence(error) is None
    assert error_replies.discord_refusal(error) is None


def test_what_discord_did_not_take_is_quoted_briefly_and_without_markup() -> None:
    class Never(app_commands.Transformer):
        pass

    error = app_commands.TransformerError(
        "**@everyone** " * 400, AppCommandOptionType.string, Never()
    )
    said = error_replies.discord_refusal(error)
    assert said is not None and len(said) < 200
    assert "@everyone" not in said and discord.utils.remove_markdown(said) != said
    assert "reload Discord" in str(
        error_replies.discord_refusal(app_commands.CommandNotFound("old", []))
    )
