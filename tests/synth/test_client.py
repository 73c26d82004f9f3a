"""The client against real child processes that run scripted jobs."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import numpy as np
import pytest

from synth.client import Job, ProcessBackend, SynthClient
from synth.errors import (
    Busy,
    EngineFailed,
    InvalidRequest,
    JobCancelled,
    JobTimeout,
    SynthError,
)
from synth.protocol import Accepted, Audio, Done, Progress
from synth.supervisor import Patience
from tests.synth import scripted
from tests.synth.clock import FakeClock

QUICK = Patience(backoff_s=0.0)


@asynccontextmanager
async def running(
    model: str = "ok", *, slots: int = 1, backends: int = 1, **options: object
) -> AsyncIterator[SynthClient]:
    workers = [ProcessBackend(scripted.settings(model, slots=slots)) for _ in range(backends)]
    options.setdefault("patience", QUICK)
    async with SynthClient(workers, **options) as client:  # type: ignore[arg-type]
        await client.ready()
        yield client


async def outcome(job: Job) -> list[object]:
    """All events of a job; its failure, if any, as the last."""
    events: list[object] = []
    try:
        async with job:
            async for event in job:
                events.append(event)
    except SynthError as error:
        events.append(error)
    return events


async def until(job: Job, kind: type) -> object:
    while not isinstance(event := await anext(job), kind):
        pass
    return event


async def test_a_job_gives_its_audio_in_order_and_then_its_end() -> None:
    async with running() as client:
        events = await outcome(client.submit("chunk chunk chunk", user="a", job_id="j"))
    assert [type(e) for e in events] == [Accepted, Audio, Audio, Audio, Done]
    assert events[0] == Accepted("j", 0)
    chunks = [e for e in events if isinstance(e, Audio)]
    assert [c.chunk for c in chunks] == [0, 1, 2]
    for chunk in chunks:
        assert chunk.samples.dtype == np.float32
        np.testing.assert_array_equal(chunk.samples, np.full(scripted.CHUNK, chunk.chunk))
    done = events[-1]
    assert isinstance(done, Done)
    assert done.audio_s == pytest.approx(0.3)
    assert 0 < done.timings.ttfa_s < 60


async def test_leaving_the_block_frees_the_slot() -> None:
    async with running() as client:
        async with client.submit("hold", user="a") as job:
            await until(job, Progress)
            waiting = client.submit("chunk", user="b")
            assert (job.position, waiting.position) == (0, 1)
        assert isinstance((await outcome(waiting))[-1], Done)


async def test_dropping_a_job_without_a_block_frees_the_slot() -> None:
    async with running() as client:
        async for event in client.submit("hold", user="a"):
            if isinstance(event, Progress):
                break
        assert isinstance((await outcome(client.submit("chunk", user="b")))[-1], Done)


async def test_a_timeout_on_one_event_leaves_the_job_alive() -> None:
    async with running() as client, client.submit("mute", user="a") as job:
        assert await anext(job) == Accepted(job.job_id, 0)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0):
                await anext(job)
        assert job.position == 0


async def test_cancelling_twice_is_cancelling_once() -> None:
    async with running(slots=2) as client:
        job, other = client.submit("hold", user="a"), client.submit("hold chunk", user="b")
        await until(job, Progress)
        job.cancel()
        job.cancel()
        assert job.position is None
        with pytest.raises(JobCancelled):
            await until(job, Done)
        with pytest.raises(StopAsyncIteration):
            await anext(job)
        job.cancel()
        await until(other, Progress)
        assert other.position == 0
        # Exactly one slot is free: one more job starts at once, the next waits.
        third, fourth = client.submit("hold", user="c"), client.submit("hold", user="d")
        await until(third, Progress)
        assert fourth.position == 1


async def test_cancelling_a_waiting_job_moves_the_others_up() -> None:
    async with running() as client:
        running_job = client.submit("hold", user="a")
        first, second = client.submit("chunk", user="b"), client.submit("chunk", user="c")
        assert await anext(second) == Accepted(second.job_id, 2)
        first.cancel()
        assert await anext(second) == Accepted(second.job_id, 1)
        with pytest.raises(JobCancelled):
            await until(first, Done)
        running_job.cancel()
        assert isinstance((await outcome(second))[-1], Done)


async def test_users_take_turns_and_always_know_their_place() -> None:
    async with running() as client:
        blocker = client.submit("hold", user="z")
        await until(blocker, Progress)
        jobs = {
            name: client.submit("chunk", user=name[0], job_id=name)
            for name in ("a1", "a2", "a3", "b1", "b2", "c1")
        }
        assert client.waiting == 6
        order = {name: job.position for name, job in jobs.items()}
        assert order == {"a1": 1, "b1": 2, "c1": 3, "a2": 4, "b2": 5, "a3": 6}

        finished: list[str] = []

        async def follow(name: str) -> list[int]:
            events = await outcome(jobs[name])
            finished.append(name)
            return [e.position for e in events if isinstance(e, Accepted)]

        followers = {name: asyncio.create_task(follow(name)) for name in jobs}
        blocker.cancel()
        places = {name: await task for name, task in followers.items()}
        assert finished == ["a1", "b1", "c1", "a2", "b2", "a3"]
        for name, seen in places.items():
            assert seen == sorted(seen, reverse=True) and seen[-1] == 0, name
        # Every place on the way; those given before the reader began to read may be missed.
        assert places["a3"][-5:] == [4, 3, 2, 1, 0]


async def test_a_full_queue_refuses_at_once_with_its_length_and_an_estimate() -> None:
    clock = FakeClock()
    async with running(queue_limit=2, clock=clock, sleep=clock.sleep) as client:
        assert client.estimate_s() == 0.0
        blocker = client.submit("hold", user="a")
        assert client.estimate_s() is None  # nothing measured yet
        await until(blocker, Progress)
        blocker.cancel()
        job = client.submit("chunk chunk chunk chunk", user="a")
        await until(job, Accepted)
        clock.now += 0.0
        await outcome(job)

        blocker = client.submit("hold", user="a")
        waiting = [client.submit("chunk", user=u) for u in "bc"]
        with pytest.raises(Busy, match=r"queue is full \(2 waiting") as refused:
            client.submit("chunk", user="d")
        assert refused.value.waiting == 2
        assert refused.value.estimate_s is not None
        waiting[0].cancel()
        late = client.submit("chunk", user="d")
        assert late.position == 2
        blocker.cancel()
        assert isinstance((await outcome(late))[-1], Done)


async def test_what_is_wrong_with_a_request_is_told_to_its_caller_only() -> None:
    async with running(slots=2) as client:
        other = client.submit("hold", user="b")
        with pytest.raises(InvalidRequest, match="no text"):
            client.submit(" \n", user="a")
        for text, voice, what in (
            ("chunk", "nobody", "no voice nobody"),
            ("refuse", None, "cannot be spoken"),
        ):
            with pytest.raises(InvalidRequest, match=what):
                async with client.submit(text, user="a", voice=voice) as job:
                    await until(job, Done)
        assert isinstance(
            (await outcome(client.submit("chunk", user="a", voice="known")))[-1], Done
        )
        await until(other, Progress)
        with pytest.raises(InvalidRequest, match="already"):
            client.submit("chunk", user="a", job_id=other.job_id)


async def test_two_backends_share_the_work() -> None:
    async with running(backends=2) as client:
        # Both have come up when two jobs are worked on at the same time.
        jobs = [client.submit("hold", user=u) for u in "ab"]
        for job in jobs:
            await until(job, Progress)
        third = client.submit("chunk", user="c")
        assert [j.position for j in (*jobs, third)] == [0, 0, 1]
        jobs[1].cancel()
        assert isinstance((await outcome(third))[-1], Done)
        assert jobs[0].position == 0


async def test_the_log_has_one_line_a_job_and_never_its_text(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    async with running() as client:
        await outcome(client.submit("chunk", user="a", job_id="job-1"))
        job = client.submit("hold", user="a", job_id="job-2")
        await until(job, Progress)
        job.cancel()
    lines = [r.getMessage() for r in caplog.records if r.levelno == logging.INFO]
    first, second = [m for m in lines if m.startswith("job ")]
    assert first.startswith("job job-1: audio_s=0.10 ttfa_ms=") and "outcome=done" in first
    assert "rtf=" in first
    assert "job-2" in second and second.endswith("outcome=cancelled")
    assert not any("chunk" in r.getMessage() or "hold" in r.getMessage() for r in caplog.records)


async def test_closing_ends_every_reader() -> None:
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(running())
        jobs = [client.submit("hold", user=u) for u in "ab"]
        await until(jobs[0], Progress)
    for job in jobs:
        with pytest.raises(EngineFailed, match="shutting down"):
            await until(job, Done)
    with pytest.raises(EngineFailed, match="shutting down"):
        client.submit("chunk", user="a")


__all__ = ["JobTimeout"]
