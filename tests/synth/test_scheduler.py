"""The scheduler over a scripted pipeline: requests in, events out, no process."""

from collections.abc import Mapping

import pytest

from synth.errors import InvalidRequest
from synth.protocol import (
    Audio,
    Cancel,
    Done,
    Failed,
    HistoryPrompt,
    JobEvent,
    Played,
    Progress,
    Reason,
    Submit,
)
from synth.scheduler import Scheduler, is_out_of_memory
from tests.synth import scripted


def scheduler_of(slots: int = 1) -> Scheduler:
    def voice(name: str) -> HistoryPrompt:
        if name != "known":
            raise InvalidRequest(f"There is no voice {name}.")
        return scripted.NOTHING

    pipeline = scripted.ScriptedPipeline(slots)
    return Scheduler(pipeline, voice, sample_rate=scripted.RATE)


def submit(job_id: str, text: str, voice: str | None = None) -> Submit:
    return Submit(job_id=job_id, text=text, voice=voice)


def test_it_is_idle_until_a_job_comes_and_after_it_is_done() -> None:
    scheduler = scheduler_of()
    assert scheduler.idle and scheduler.step() == []
    assert scheduler.handle(submit("j", "chunk", "known")) == []
    assert not scheduler.idle
    assert [type(e) for e in scheduler.step()] == [Audio]
    assert [type(e) for e in scheduler.step()] == [Done]
    assert scheduler.idle


def test_what_cannot_be_admitted_fails_and_takes_no_slot() -> None:
    scheduler = scheduler_of()
    for request, reason in (
        (submit("j", "chunk", "nobody"), Reason.INVALID),
        (submit("j", "refuse"), Reason.INVALID),
        (submit("j", "choke"), Reason.CRASHED),
    ):
        (failed,) = scheduler.handle(request)
        assert isinstance(failed, Failed) and failed.reason is reason
        assert scheduler.idle
    scheduler.handle(submit("first", "hold"))
    (failed,) = scheduler.handle(submit("second", "hold"))
    assert isinstance(failed, Failed)
    assert (failed.job_id, failed.reason) == ("second", Reason.BUSY)
    assert [e.job_id for e in scheduler.step()] == ["first"]


def test_cancelling_frees_the_slot_before_the_next_step() -> None:
    scheduler = scheduler_of()
    scheduler.handle(submit("j", "hold"))
    assert [type(e) for e in scheduler.step()] == [Progress]
    (failed,) = scheduler.handle(Cancel("j"))
    assert isinstance(failed, Failed) and failed.reason is Reason.CANCELLED
    assert scheduler.idle
    assert scheduler.handle(Cancel("j")) == []
    assert scheduler.handle(submit("k", "chunk")) == []


def test_what_a_listener_has_in_hand_is_what_was_sent_and_not_yet_heard() -> None:
    scheduler = scheduler_of(slots=2)
    scheduler.handle(submit("j", "chunk chunk hold"))
    scheduler.handle(submit("k", "hold"))
    scheduler.step()
    scheduler.step()
    assert scheduler.buffered_s("j") == pytest.approx(0.2)
    assert scheduler.buffered_s("k") == 0.0
    scheduler.handle(Played("j", 0.15))
    scheduler.handle(Played("j", 0.05))  # overtaken on the way
    scheduler.handle(Played("gone", 1.0))
    assert scheduler.buffered_s("j") == pytest.approx(0.05)


def test_who_waits_for_a_piece_of_a_text_hears_the_earlier_ones_first() -> None:
    """A later piece of which nothing exists used to seem more urgent than the one that sounds."""
    scheduler = scheduler_of(slots=4)
    for number, text in ((1, "chunk chunk hold"), (2, "chunk hold"), (3, "hold")):
        piece = Submit(job_id=f"t.{number}", text=text, user="a", utterance=number)
        scheduler.handle(piece)
    scheduler.handle(Submit(job_id="other", text="hold", user="b", utterance=3))
    scheduler.step()
    scheduler.step()
    buffered = [scheduler.buffered_s(job_id) for job_id in ("t.1", "t.2", "t.3", "other")]
    assert buffered == pytest.approx([0.2, 0.3, 0.3, 0.0])
    scheduler.handle(Played("t.1", -1.5))  # still in a piece that has left its slot
    assert scheduler.buffered_s("t.3") == pytest.approx(1.8)
    scheduler.handle(Played("t.1", 0.1))
    assert scheduler.buffered_s("t.3") == pytest.approx(0.2)


def test_the_pipeline_is_told_what_listeners_have_in_hand(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told: list[Mapping[str, float] | None] = []
    step = scripted.ScriptedPipeline.step

    def noted(
        self: scripted.ScriptedPipeline, buffered_s: Mapping[str, float] | None = None
    ) -> list[JobEvent]:
        told.append(buffered_s)
        return step(self)

    monkeypatch.setattr(scripted.ScriptedPipeline, "step", noted)
    scheduler = scheduler_of()
    scheduler.handle(submit("j", "chunk hold"))
    scheduler.step()
    scheduler.step()
    assert told == [{"j": 0.0}, {"j": pytest.approx(0.1)}]


def test_a_pipeline_that_breaks_is_not_papered_over() -> None:
    scheduler = scheduler_of()
    scheduler.handle(submit("j", "bug"))
    with pytest.raises(ValueError):
        scheduler.step()


def test_want_of_memory_is_told_from_other_errors() -> None:
    assert is_out_of_memory(MemoryError())
    assert is_out_of_memory(scripted.OutOfMemoryError("CUDA out of memory."))
    assert is_out_of_memory(
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory")
    )
    assert not is_out_of_memory(RuntimeError("size mismatch"))
