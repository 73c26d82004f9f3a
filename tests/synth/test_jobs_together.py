"""Whoever comes, goes, listens or is late: every job makes what it makes alone, and nobody starves.

Through the scheduler, on tiny random models. In double precision rounding cannot decide a draw; in
8 bits a row is exact by itself, so there it must not matter either.
"""

from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from synth.errors import InvalidRequest
from synth.job import Job
from synth.linear import int8_limit
from synth.pipeline import Pipeline
from synth.protocol import (
    Audio,
    Cancel,
    Done,
    Failed,
    HistoryPrompt,
    JobEvent,
    Played,
    Reason,
    Sampling,
    Streaming,
    Submit,
)
from synth.scheduler import Scheduler
from tests.synth.tiny import RANDOM, history, letters, tiny_model

# For each of S slots, in steps: the four stages take turns, and among S jobs nobody is passed over
# as often as 3 S times, for as long as a fine window takes. (A prefill: for two turns.)
STEPS_A_SLOT = 4 * 3 * (RANDOM.fine.codebooks - RANDOM.coarse.codebooks)


@dataclass(frozen=True)
class Kind:
    """All that may decide what a job makes."""

    seed: int
    pieces: int
    seconds: float
    voice: int | None
    utterance: int
    streaming: Streaming

    def submit(self, job_id: str) -> Submit:
        return Submit(
            job_id=job_id,
            text=letters(self.pieces),
            voice=None if self.voice is None else history(RANDOM, self.voice),
            sampling=Sampling(
                seed=self.seed, max_seconds=self.seconds, early_stop=self.seed % 2 == 0
            ),
            utterance=self.utterance,
            streaming=self.streaming,
        )


@dataclass(frozen=True)
class Arrival:
    kind: Kind
    wait: int  # steps before the next arrival
    user: int
    cancel_after: int | None  # steps
    deadline: int | None  # steps
    hears_at: float  # seconds of sound that the listener hears a step


KINDS = st.builds(
    Kind,
    seed=st.integers(0, 2),
    pieces=st.sampled_from([1, 8]),
    # Past a second, coarse begins before semantic ends, and its windows slide.
    seconds=st.sampled_from([0.1, 0.5, 1.6]),
    voice=st.sampled_from([None, 90]),
    utterance=st.sampled_from([0, 2]),
    streaming=st.sampled_from(list(Streaming)),
)
ARRIVALS = st.builds(
    Arrival,
    kind=KINDS,
    wait=st.sampled_from([0, 0, 1, 7, 40]),
    user=st.integers(0, 2),
    cancel_after=st.sampled_from([None, None, None, 0, 9, 60]),
    deadline=st.sampled_from([None, None, None, 30, 90]),
    hears_at=st.sampled_from([0.0, 0.01, 0.2]),
)
PLANS = st.lists(ARRIVALS, min_size=2, max_size=8)

_alone: dict[tuple[str, Kind], Done] = {}


def alone(precision: str, kind: Kind) -> Done:
    if (precision, kind) not in _alone:
        submit = kind.submit("alone")
        assert not isinstance(submit.voice, str)
        pipeline = Pipeline(tiny_model(RANDOM, precision))
        _alone[precision, kind] = pipeline.run(submit, submit.voice)[1]
    return _alone[precision, kind]


def state(job: Job) -> tuple[object, ...]:
    """What changes whenever a job is worked on."""
    coarse = job.coarse.generated, job.window_ends
    fine = job.fine.fraction, job.fine.final
    return job.semantic_started, len(job.semantic), *coarse, *fine, job.sound.frames, job.stage


class World:
    """A pipeline, its clients and its clock, which counts steps."""

    def __init__(self, precision: str, slots: int) -> None:
        self.slots = slots
        self.now = 0
        model = tiny_model(RANDOM, precision)
        self.pipeline = Pipeline(model, slots=slots, clock=lambda: float(self.now))
        rate = RANDOM.codec.sample_rate
        self.scheduler = Scheduler(self.pipeline, self._no_voice, sample_rate=rate)
        self.done: dict[str, Done] = {}
        self.failed: dict[str, Reason] = {}
        self.sent_s: dict[str, float] = {}
        self._arrivals: dict[str, tuple[Arrival, int]] = {}
        self._heard_s: dict[str, float] = {}
        self._served: dict[Job, tuple[int, tuple[object, ...]]] = {}

    def _no_voice(self, name: str) -> HistoryPrompt:
        raise InvalidRequest(name)

    def arrive(self, job_id: str, arrival: Arrival) -> None:
        deadline_s = None if arrival.deadline is None else float(arrival.deadline)
        submit = arrival.kind.submit(job_id)
        submit = replace(submit, user=f"user{arrival.user}", deadline_s=deadline_s)
        assert self.scheduler.handle(submit) == []
        self._arrivals[job_id] = arrival, self.now

    def step(self) -> None:
        for job_id, (arrival, since) in list(self._arrivals.items()):
            self._heard_s[job_id] = self._heard_s.get(job_id, 0.0) + arrival.hears_at
            if arrival.hears_at:
                heard = min(self._heard_s[job_id], self.sent_s.get(job_id, 0.0))
                self.scheduler.handle(Played(job_id, heard))
            if arrival.cancel_after is not None and self.now - since >= arrival.cancel_after:
                self._take(self.scheduler.handle(Cancel(job_id)))
        self._take(self.scheduler.step())
        self.now += 1
        self._check_service()

    def _take(self, events: list[JobEvent]) -> None:
        for event in events:
            assert event.job_id in self._arrivals, "a job that is over says something"
            if isinstance(event, Audio):
                seconds = len(event.samples) / RANDOM.codec.sample_rate
                self.sent_s[event.job_id] = self.sent_s.get(event.job_id, 0.0) + seconds
            elif isinstance(event, Done):
                self.done[event.job_id] = event
                del self._arrivals[event.job_id]
            elif isinstance(event, Failed):
                self.failed[event.job_id] = event.reason
                del self._arrivals[event.job_id]

    def _check_service(self) -> None:
        jobs = [job for job in self.pipeline._jobs if job is not None]
        served, self._served = self._served, {}
        for job in jobs:
            last, then = served.get(job, (self.now, ()))
            changed = state(job) != then
            self._served[job] = (self.now if changed else last), state(job)
            # Ends of late jobs take steps as well, one of each slot's at most in that time.
            waited = self.now - self._served[job][0]
            assert waited <= (STEPS_A_SLOT + 1) * self.slots, f"{job.id} waited {waited} steps"


def check(precision: str, slots: int, plan: list[Arrival]) -> None:
    world = World(precision, slots)
    for number, arrival in enumerate(plan):
        while not world.pipeline.free:
            world.step()
        world.arrive(f"job{number}", arrival)
        for _ in range(arrival.wait):
            world.step()
    for _ in range(4000):
        if world.scheduler.idle:
            break
        world.step()
    assert world.scheduler.idle and world.pipeline.free == slots
    assert world.pipeline.step() == []
    assert len(world.done) + len(world.failed) == len(plan)
    for number, arrival in enumerate(plan):
        job_id = f"job{number}"
        if job_id in world.failed:
            reason = world.failed[job_id]
            assert reason in (Reason.CANCELLED, Reason.TIMEOUT)
            told = arrival.cancel_after if reason is Reason.CANCELLED else arrival.deadline
            assert told is not None
            continue
        together, by_itself = world.done[job_id], alone(precision, arrival.kind)
        for part in ("semantic", "coarse_codes", "fine_codes"):
            np.testing.assert_array_equal(
                getattr(together.history, part), getattr(by_itself.history, part), part
            )
        assert world.sent_s[job_id] == pytest.approx(by_itself.audio_s)


@settings(max_examples=7, deadline=None, derandomize=True)
@given(slots=st.integers(1, 4), plan=PLANS)
def test_jobs_together_are_jobs_alone(slots: int, plan: list[Arrival]) -> None:
    check("fp64", slots, plan)


@pytest.mark.skipif(not int8_limit(), reason="no 8 bit products on this machine")
@settings(max_examples=4, deadline=None, derandomize=True)
@given(slots=st.integers(2, 4), plan=PLANS)
def test_jobs_together_are_jobs_alone_in_8_bits(slots: int, plan: list[Arrival]) -> None:
    check("int8", slots, plan)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp64", "int8"])
@settings(max_examples=40, deadline=None)
@given(slots=st.integers(1, 6), plan=st.lists(ARRIVALS, min_size=2, max_size=16))
def test_more_jobs_together(precision: str, slots: int, plan: list[Arrival]) -> None:
    if precision == "int8" and not int8_limit():
        pytest.skip("no 8 bit products on this machine")
    check(precision, slots, plan)
