"""One request from text to sound: what a cancellation leaves, and when."""

import asyncio

from bot.speech import Speech, SpeechRequest, Status
from synth.client import SynthClient
from synth.protocol import Sampling, Stage
from tests.bot.harness import ScriptedBackend, ready


class Watcher:
    """Sees every status at once. Implements `bot.speech.Watcher`."""

    due_s = None

    def __init__(self) -> None:
        self.seen: list[Status] = []

    def update(self, status: Status) -> None:
        self.seen.append(status)

    def flush(self) -> None: ...


def request(job_id: str) -> SpeechRequest:
    return SpeechRequest(job_id=job_id, user="1", text="Hello", voice=None, sampling=Sampling())


async def test_a_cancellation_gets_through_at_whatever_moment_it_comes() -> None:
    """One that came between two events was swallowed: the bot could not be stopped, and the job
    went on for nobody.
    """
    worker = ScriptedBackend(ready())
    async with SynthClient([worker]) as synth:
        await synth.ready()
        speech = Speech(synth)
        for turns in range(1, 24):  # one that has not begun has nothing to leave
            utterance = speech.submit(request(f"job-{turns}"))
            task = asyncio.create_task(utterance.run(Watcher()))
            for turn in range(turns):
                if turn % 2 == 0:
                    worker.progress(Stage.SEMANTIC, turn / turns)
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait({task}, timeout=5)
            assert task.cancelled(), turns
            assert utterance.position is None
        assert len(worker.cancelled) == len(worker.submits)


async def test_a_clip_is_put_together_from_all_its_pieces() -> None:
    worker, watcher = ScriptedBackend(ready()), Watcher()
    async with SynthClient([worker]) as synth:
        await synth.ready()
        utterance = Speech(synth).submit(request("one"))
        worker.progress(Stage.COARSE, 0.5)
        worker.speak(0.5)
        clip = await utterance.run(watcher)
    assert len(clip.samples) == clip.sample_rate // 2
    assert (clip.seed, clip.audio_s, utterance.position) == (worker.last.sampling.seed, 0.5, None)
    assert [status.stage for status in watcher.seen] == [None, Stage.COARSE]
