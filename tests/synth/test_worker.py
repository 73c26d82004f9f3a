"""The real engine in a real child process, on the small random model."""

import asyncio
import os

import numpy as np
import pytest

from synth.client import ProcessBackend, SynthClient, WorkerSettings
from synth.errors import InvalidRequest
from synth.protocol import RANDOM_MODEL, Accepted, Audio, Done, Progress, Sampling, Stage, Streaming

TEXT = "Hello there, world"
LINUX = hasattr(os, "sched_getaffinity")
SHORT = Sampling(seed=7, max_seconds=1.0)
SOONER = Streaming.LOW_LATENCY


async def test_a_text_becomes_a_clip_that_neighbours_and_cancels_do_not_change() -> None:
    backend = ProcessBackend(WorkerSettings(model=RANDOM_MODEL, slots=2, threads=1))
    async with SynthClient([backend]) as client:
        ready = await client.ready()
        assert ready.model == RANDOM_MODEL and "noise" in ready.notice
        assert {"a", "Z", "♪"} <= ready.characters
        assert (ready.limits.slots, ready.device, ready.sample_rate) == (2, "cpu", 24_000)

        async def clip() -> tuple[np.ndarray, Done]:
            pieces: list[np.ndarray] = []
            async with client.submit(TEXT, user="a", sampling=SHORT) as job:
                async for event in job:
                    if isinstance(event, Audio):
                        pieces.append(event.samples)
                    elif isinstance(event, Done):
                        return np.concatenate(pieces), event
            raise AssertionError("no end")

        alone, done = await clip()
        assert alone.dtype == np.float32 and len(alone) == round(done.audio_s * ready.sample_rate)
        assert np.abs(alone).max() > 0
        assert done.history.family == ready.family and len(done.history.semantic)
        assert done.timings.codec_s > 0
        assert done.timings.ttfa_s >= done.timings.work_s - done.timings.codec_s  # first sound

        async def leave_at(stage: Stage) -> None:
            async with client.submit(TEXT, user="b") as job:
                async for event in job:
                    if isinstance(event, Progress) and event.stage is stage:
                        break

        async with asyncio.TaskGroup() as tasks:
            beside = tasks.create_task(clip())
            tasks.create_task(leave_at(Stage.SEMANTIC))
            tasks.create_task(leave_at(Stage.COARSE))
        np.testing.assert_array_equal(beside.result()[0], alone)

        async with client.submit(TEXT, user="a", sampling=SHORT, streaming=SOONER) as job:
            ends = [event async for event in job if isinstance(event, Done)]
        books = ends[0].history.fine_codes
        np.testing.assert_array_equal(books[:2], done.history.coarse_codes)
        assert not np.array_equal(books, done.history.fine_codes)

        with pytest.raises(InvalidRequest, match="voice"):
            async with client.submit(TEXT, user="a", voice="nobody") as job:
                async for event in job:
                    assert isinstance(event, Accepted)


async def test_a_model_that_does_not_exist_is_named_at_the_start() -> None:
    settings = WorkerSettings(model="no/such/model", threads=1)
    async with SynthClient([ProcessBackend(settings)]) as client:
        with pytest.raises(InvalidRequest, match="no/such/model"):
            await client.ready()
