"""Threads that lend a hand."""

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import pytest
import torch

from synth import helpers
from synth.helpers import Helpers, _Helper, tried


@pytest.fixture(autouse=True)
def three_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)


def test_each_thread_has_its_own_and_the_caller_is_one() -> None:
    seen: list[int] = []
    made = Helpers("test", most=2)
    made.run(seen.append, (), lambda thread: thread)
    for helper in made._helpers:
        helper._waiting[0].result()
    assert sorted(seen) == [0, 1]


def test_what_a_helper_failed_with_is_raised_before_anything_begins() -> None:
    """Others had been given work by then, which went on in what the next call used."""

    def fails(thread: int) -> None:
        if thread:
            raise ValueError("a helper's")

    begun: list[int] = []
    made = Helpers("test", most=3)
    made.run(fails, (), lambda thread: thread)
    for helper in made._helpers:
        helper._waiting[0].exception()  # waits for it to be over
    with pytest.raises(ValueError, match="a helper's"):
        made.run(begun.append, (), lambda thread: thread)
    assert begun == []


def test_without_threads_the_caller_does_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    class None_:
        def __init__(self, *_: object) -> None: ...

        def submit(self, *_: object) -> Future[None]:
            raise RuntimeError("can't start new thread")

    monkeypatch.setattr(helpers, "ThreadPoolExecutor", None_)
    seen: list[int] = []
    Helpers("test", most=3).run(seen.append, (), lambda thread: thread)
    assert seen == [0]


def test_a_helper_that_is_behind_gets_no_more() -> None:
    helper = _Helper("test")
    waiting: Any = [Future[None](), Future[None]()]
    helper._waiting.extend(waiting)
    assert not helper.is_free
    for future in waiting:
        future.set_result(None)
    helper.settle()
    assert helper.is_free and not helper._waiting


def test_what_could_not_be_kept_is_called_again() -> None:
    calls: list[Callable[[], object]] = []

    def call() -> None:
        calls.append(call)
        if len(calls) == 1:
            raise OSError("File too large")

    tried(call)
    assert len(calls) == 2
