"""What happens to jobs when their worker dies, wedges or never comes up: real child processes."""

import os
import re
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from synth.client import Job, ProcessBackend, SynthClient
from synth.errors import EngineFailed, InvalidRequest, JobCancelled, JobTimeout, SynthError
from synth.protocol import Accepted, Audio, Beat, Done, Progress, Submit
from synth.supervisor import Patience
from tests.synth import scripted
from tests.synth.clock import FakeClock, loop_until

QUICK = Patience(backoff_s=0.0)


def client_of(model: str = "ok", *, slots: int = 1, start_timeout_s: float = 60.0) -> SynthClient:
    return SynthClient([backend_of(model, slots, start_timeout_s)], patience=QUICK)


def backend_of(model: str = "ok", slots: int = 1, start_timeout_s: float = 60.0) -> ProcessBackend:
    return ProcessBackend(scripted.settings(model, slots=slots, start_timeout_s=start_timeout_s))


async def until(job: Job, kind: type) -> object:
    while not isinstance(event := await anext(job), kind):
        pass
    return event


async def placed(job: Job, position: int) -> None:
    """Wait until the job is told this place; what was said before is behind it then."""
    while await until(job, Accepted) != Accepted(job.job_id, position):
        pass


async def error_of(job: Job) -> SynthError:
    with pytest.raises(SynthError) as caught:
        await until(job, Done)
    return caught.value


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("crash", r"exit status 3"),
        ("kill", "killed by the system"),
        ("oom", "ran out of memory"),
        ("cuda-oom", "ran out of memory"),
        ("bug", r"crashed \(ValueError\)"),
        ("half", "exit status 4"),
        ("garbage hang", "cannot be read"),
    ],
)
async def test_a_death_ends_its_job_with_a_reason_and_the_queued_go_on(
    text: str, what: str
) -> None:
    backend = backend_of()
    async with SynthClient([backend], patience=QUICK) as client:
        await client.ready()
        first = backend.pid
        job, queued = client.submit(text, user="a"), client.submit("chunk", user="b")
        error = await error_of(job)
        assert type(error) is EngineFailed
        assert re.search(what, str(error)), error
        assert isinstance(await until(queued, Done), Done)
        assert backend.pid != first


async def test_a_job_past_its_deadline_is_ended_though_the_worker_never_answers() -> None:
    clock = FakeClock()
    patience = Patience(backoff_s=0.0, grace_s=5.0)
    async with SynthClient(
        [backend_of(slots=2)], deadline_s=40, clock=clock, sleep=clock.sleep, patience=patience
    ) as client:
        await client.ready()
        hanging = client.submit("hang", user="a")
        await clock.asleep()  # the watch
        clock.advance(10)
        bystander = client.submit("chunk", user="b")  # in the same child, ten seconds younger
        queued = client.submit("chunk", user="c")
        assert [j.position for j in (hanging, bystander, queued)] == [0, 0, 1]
        clock.advance(35)
        error = await error_of(hanging)
        assert type(error) is JobTimeout and "too long" in str(error)
        await until(bystander, Done)
        await until(queued, Done)


async def test_a_silent_worker_is_killed() -> None:
    clock = FakeClock()
    patience = Patience(backoff_s=0.0, stall_s=60.0)
    async with SynthClient(
        [backend_of()], clock=clock, sleep=clock.sleep, patience=patience
    ) as client:
        await client.ready()
        job, queued = client.submit("hang", user="a"), client.submit("chunk", user="b")
        await clock.asleep()
        clock.advance(60)
        error = await error_of(job)
        assert type(error) is JobTimeout and "stopped answering" in str(error)
        await until(queued, Done)


@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="no SIGSTOP here")
async def test_a_child_that_reads_nothing_stops_neither_the_loop_nor_its_own_end() -> None:
    """A request can be larger than what a pipe holds."""
    clock = FakeClock()
    patience = Patience(backoff_s=0.0, stall_s=60.0)
    backend = backend_of()
    async with SynthClient([backend], clock=clock, sleep=clock.sleep, patience=patience) as client:
        await client.ready()
        assert backend.pid
        os.kill(backend.pid, signal.SIGSTOP)
        large = replace(scripted.NOTHING, semantic=np.zeros(1_000_000, np.int64))
        job = client.submit("chunk", user="a", voice=large)
        queued = client.submit("chunk", user="b", voice=large)
        await clock.asleep()
        clock.advance(60)
        assert type(await error_of(job)) is JobTimeout
        assert isinstance(await until(queued, Done), Done)


async def test_a_worker_that_speaks_is_left_alone() -> None:
    clock = FakeClock()
    backend = backend_of()
    async with SynthClient(
        [backend], clock=clock, sleep=clock.sleep, patience=Patience(stall_s=60.0)
    ) as client:
        await client.ready()
        first = backend.pid
        job = client.submit("hold", user="a")
        for _ in range(4):
            await until(job, Progress)
            await until(job, Progress)  # said after the clock was last moved
            clock.advance(59)
        await until(job, Progress)
        assert backend.pid == first


async def test_a_working_child_that_has_nothing_to_say_gives_signs_of_life() -> None:
    backend = backend_of()
    await backend.start()
    backend.send(Submit(job_id="j", text="mute"))
    async for event in backend.events():
        assert event == Beat()
        break
    await backend.close()


async def test_several_jobs_of_a_dead_worker_run_again_each_alone() -> None:
    """Nobody knows which of them crashed it: the one that crashes it again is told so."""
    async with client_of(slots=3) as client:
        await client.ready()
        first, second, guilty = (
            client.submit(text, user="a") for text in ("hold", "hold", "crash")
        )
        await placed(first, 1)  # back in line after the crash
        await placed(second, 2)
        await placed(first, 0)
        newcomer = client.submit("chunk", user="b")
        places = [job.position for job in (first, second, newcomer, guilty)]
        assert places == [0, 1, 2, 3]
        first.cancel()
        await placed(second, 0)
        assert newcomer.position == 1
        second.cancel()
        await until(newcomer, Done)
        assert "exit status 3" in str(await error_of(guilty))


async def test_a_suspect_is_not_put_beside_the_jobs_of_another_worker() -> None:
    backends = [backend_of(slots=2), backend_of(slots=2)]
    async with SynthClient(backends, patience=QUICK) as client:
        await client.ready()
        workers = client._jobs.workers
        await loop_until(lambda: all(worker.free for worker in workers))
        # The emptiest worker gets the next job, so the first and the third share one.
        guilty = client.submit("company crash", user="a")
        elsewhere = client.submit("hold", user="a")
        beside = client.submit("hold", user="b")
        pids = [backend.pid for backend in backends]
        await placed(beside, 2)  # behind the guilty one
        assert "exit status 3" in str(await error_of(guilty))
        await placed(beside, 0)
        assert elsewhere.position == 0
        assert [old == backend.pid for old, backend in zip(pids, backends, strict=True)] == [
            False,
            True,
        ]


async def test_a_job_whose_audio_was_sent_is_not_said_twice() -> None:
    async with client_of(slots=2) as client:
        await client.ready()
        heard = client.submit("chunk hold", user="a")
        await until(heard, Audio)
        crash = client.submit("crash", user="b")
        assert "exit status 3" in str(await error_of(heard))
        assert "exit status 3" in str(await error_of(crash))


async def test_a_job_cancelled_in_a_worker_that_dies_stays_cancelled() -> None:
    async with client_of(slots=2) as client:
        await client.ready()
        crash, other = client.submit("crash", user="a"), client.submit("hold", user="b")
        other.cancel()
        other.cancel()
        assert type(await error_of(crash)) is EngineFailed
        assert type(await error_of(other)) is JobCancelled
        assert isinstance(await until(client.submit("chunk", user="a"), Done), Done)


async def test_settings_that_can_never_work_are_told_at_the_start() -> None:
    async with client_of("missing") as client:
        early = client.submit("chunk", user="a")
        with pytest.raises(InvalidRequest, match="no model here"):
            await client.ready()
        assert "no model here" in str(await error_of(early))
        with pytest.raises(SynthError, match="no model here"):
            client.submit("chunk", user="a")


@pytest.mark.parametrize(
    ("model", "start_timeout_s", "what"),
    [("broken", 60.0, "RuntimeError"), ("dead", 60.0, "exit status 5"), ("stuck", 0.3, "0.3 s")],
)
async def test_a_worker_that_never_comes_up_keeps_nobody_waiting(
    model: str, start_timeout_s: float, what: str
) -> None:
    async with client_of(model, start_timeout_s=start_timeout_s) as client:
        early = client.submit("chunk", user="a")
        with pytest.raises(EngineFailed, match=what):
            await client.ready()
        assert what in str(await error_of(early))
        with pytest.raises(EngineFailed, match=what):
            client.submit("chunk", user="a")


async def test_starting_backs_off_and_recovers_when_the_cause_is_gone(tmp_path: Path) -> None:
    clock = FakeClock()
    trouble = tmp_path / "trouble"
    trouble.touch()
    patience = Patience(backoff_s=0.5, backoff_max_s=4.0, starts=3)
    async with SynthClient(
        [backend_of(f"while:{trouble}")], clock=clock, sleep=clock.sleep, patience=patience
    ) as client:
        for count, delay in enumerate((0.5, 1.0, 2.0, 4.0, 4.0), start=1):
            await clock.asleep(count)
            assert clock.sleeps[-1] == delay
            if count == 5:
                trouble.unlink()
            clock.advance(delay)
        with pytest.raises(EngineFailed, match="RuntimeError"):
            await client.ready()
        await loop_until(lambda: client.info)  # its last try is under way
        assert (await client.ready()).model.startswith("while:")
        assert isinstance(await until(client.submit("chunk", user="a"), Done), Done)


async def test_a_worker_that_crashes_on_every_job_is_restarted_ever_more_slowly() -> None:
    clock = FakeClock()
    async with SynthClient(
        [backend_of()], clock=clock, sleep=clock.sleep, patience=Patience(backoff_s=0.5)
    ) as client:
        await client.ready()
        delays: list[float] = []
        for text in ("crash", "crash", "chunk", "crash"):
            job = client.submit(text, user="a")
            if text == "chunk":
                await until(job, Done)
                continue
            await error_of(job)
            await loop_until(lambda: clock.sleeps[-1] < 60)  # 60 and more is the watch's
            delays.append(clock.sleeps[-1])
            clock.advance(clock.sleeps[-1])
        assert delays == [0.5, 1.0, 0.5]


async def test_one_of_two_backends_may_be_broken(tmp_path: Path) -> None:
    trouble = tmp_path / "trouble"
    trouble.touch()
    backends = [backend_of(f"while:{trouble}"), backend_of()]
    async with SynthClient(backends, patience=Patience(backoff_s=3600.0, starts=1)) as client:
        assert (await client.ready()).model == "ok"
        jobs = [client.submit("chunk", user=u) for u in "abc"]
        for job in jobs:
            await until(job, Done)


async def test_a_crash_in_one_backend_leaves_the_jobs_of_the_other_alone() -> None:
    backends = [backend_of(), backend_of()]
    async with SynthClient(backends, patience=QUICK) as client:
        await client.ready()
        jobs = [client.submit("hold", user=u) for u in "ab"]
        for job in jobs:
            await until(job, Progress)
        pids = [backend.pid for backend in backends]
        jobs[0].cancel()
        assert type(await error_of(client.submit("crash", user="c"))) is EngineFailed
        await until(client.submit("chunk", user="c"), Done)
        await until(jobs[1], Progress)
        assert sum(backend.pid in pids for backend in backends) == 1
