"""Threads that lend a hand."""

import pytest

from synth.helpers import _Helper


def test_what_a_helper_fails_with_is_raised() -> None:
    """It was dropped with the step that it had failed in."""

    def broken() -> None:
        raise ValueError("a helper's")

    helper = _Helper()
    helper.help(broken)
    helper._waiting[0].exception()  # waits for it to be over
    with pytest.raises(ValueError, match="a helper's"):
        helper.help(lambda: None)
    assert not helper._waiting
