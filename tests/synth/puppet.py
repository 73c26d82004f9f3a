"""A worker in the test's own process that does nothing by itself: the test says what happens."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import numpy as np

from synth.client import SynthClient
from synth.protocol import (
    Audio,
    Cancel,
    Done,
    Event,
    Failed,
    Gender,
    HistoryPrompt,
    Limits,
    Played,
    Ready,
    Reason,
    Rendition,
    Request,
    Submit,
    Timings,
    VoiceInfo,
)
from tests.synth.clock import FakeClock

RATE = 24_000
NOTHING = HistoryPrompt(
    np.zeros(0, np.int64), np.zeros((2, 0), np.int64), np.zeros((8, 0), np.int64), "puppet"
)
VOICES = tuple(
    VoiceInfo(f"v2/{language}_speaker_{number}", language, "v2", gender, 5.0)
    for language in ("en", "de")
    for number, gender in enumerate([Gender.MALE, Gender.FEMALE] * 2)
)


class Puppet:
    def __init__(self, slots: int) -> None:
        self._slots = slots
        self.submits: list[Submit] = []  # all that ever came, in order
        self.running: list[Submit] = []
        self.cancelled: list[str] = []
        self.played: list[Played] = []
        self._events: asyncio.Queue[Event] = asyncio.Queue()

    @property
    def slots(self) -> int:
        return self._slots

    async def start(self) -> Ready:
        return Ready(
            model="puppet",
            family="puppet",
            languages=("en", "de"),
            voices=VOICES,
            sample_rate=RATE,
            limits=Limits(slots=self._slots, text_tokens=256, utterance_s=15.4),
            device="cpu",
            precision="fp32",
        )

    def send(self, request: Request) -> None:
        match request:
            case Submit():
                self.submits.append(request)
                self.running.append(request)
                assert len(self.running) <= self._slots
            case Cancel(job_id=job_id):
                self.cancelled.append(job_id)
                self._ended(job_id)
                self.say(Failed(job_id, Reason.CANCELLED, "The job was cancelled."))
            case Played():
                self.played.append(request)
            case _:
                pass

    async def events(self) -> AsyncIterator[Event]:
        while True:
            yield await self._events.get()

    async def close(self, *, kill: bool = False) -> None:
        pass

    # What a test says.

    def say(self, event: Event) -> None:
        self._events.put_nowait(event)

    def sound(self, submit: Submit, chunk: int = 0, seconds: float = 0.5) -> None:
        times = np.arange(round(seconds * RATE)) / RATE
        tone = (0.2 * np.sin(2 * np.pi * 220 * times)).astype(np.float32)
        self.say(Audio(submit.job_id, submit.utterance, chunk, tone))

    def finish(self, submit: Submit, seconds: float = 0.5) -> None:
        """seconds: how long its sound is; a draft's would be."""
        if not submit.draft:
            self.sound(submit, seconds=seconds)
        self._ended(submit.job_id)
        made = Rendition(text=submit.text, seed=submit.sampling.seed, audio_s=seconds)
        self.say(
            Done(
                job_id=submit.job_id,
                audio_s=0.0 if submit.draft else seconds,
                seed=submit.sampling.seed,
                timings=Timings(1.0, 1.0, 1.0, 1.0),
                history=NOTHING,
                renditions=(made,),
            )
        )

    def fail(self, submit: Submit, detail: str = "No such thing.") -> None:
        self._ended(submit.job_id)
        self.say(Failed(submit.job_id, Reason.INVALID, detail))

    def _ended(self, job_id: str) -> None:
        self.running = [submit for submit in self.running if submit.job_id != job_id]


async def settle() -> None:
    """Let everything that can happen without the test happen."""
    for _ in range(20):
        await asyncio.sleep(0)


@asynccontextmanager
async def running(slots: int = 2, **options: object) -> AsyncIterator[tuple[SynthClient, Puppet]]:
    puppet, clock = Puppet(slots), FakeClock()
    options = {"clock": clock, "sleep": clock.sleep} | options
    async with SynthClient([puppet], **options) as client:  # type: ignore[arg-type]
        await client.ready()
        yield client, puppet
