"""The real bot on a simulated Discord, with a worker whose every word the test chooses."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import discord
import numpy as np
import simcord
from discord import app_commands

from bot.app import open_bot
from bot.client import BarkClient
from bot.config import Settings
from bot.errors import BotError
from synth.errors import SynthError
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
    Progress,
    Ready,
    Reason,
    Request,
    Stage,
    Submit,
    Timings,
    VoiceInfo,
)

SAMPLE_RATE = 24_000

VOICES = tuple(
    VoiceInfo(f"v2/{language}_speaker_{number}", language, "v2", gender, 5.0)
    for language in ("en", "de", "fr")
    for number, gender in enumerate([Gender.MALE, Gender.FEMALE, Gender.UNKNOWN] * 3)
)


def ready(**changes: Any) -> Ready:
    values: dict[str, Any] = {
        "model": "scripted",
        "family": "bark",
        "languages": ("en", "de", "fr"),
        "voices": VOICES,
        "sample_rate": SAMPLE_RATE,
        "limits": Limits(slots=1, text_tokens=256, utterance_s=15.4),
        "device": "cpu",
        "precision": "fp32",
    }
    return Ready(**(values | changes))


class ScriptedBackend:
    """A worker that does nothing by itself: a test says what happens, and when."""

    def __init__(self, ready: Ready) -> None:
        self.ready = ready
        self.submits: list[Submit] = []
        self.cancelled: list[str] = []
        self.played: list[Played] = []
        self._events: asyncio.Queue[Event] = asyncio.Queue()

    @property
    def slots(self) -> int:
        return self.ready.limits.slots

    async def start(self) -> Ready:
        return self.ready

    def send(self, request: Request) -> None:
        match request:
            case Submit():
                self.submits.append(request)
            case Cancel(job_id=job_id):
                self.cancelled.append(job_id)
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

    @property
    def last(self) -> Submit:
        return self.submits[-1]

    def say(self, event: Event) -> None:
        self._events.put_nowait(event)

    def progress(self, stage: Stage, fraction: float) -> None:
        self.say(Progress(self.last.job_id, stage, fraction))

    def speak(self, seconds: float = 1.0, submit: Submit | None = None) -> None:
        """Finish a job with a tone of that length."""
        submit = submit or self.last
        times = np.arange(int(seconds * SAMPLE_RATE), dtype=np.float32) / SAMPLE_RATE
        self.sound((np.sin(2 * np.pi * 220 * times) / 5).astype(np.float32), submit)
        self.done(seconds, submit)

    def sound(self, samples: np.ndarray, submit: Submit | None = None, chunk: int = 0) -> None:
        self.say(Audio((submit or self.last).job_id, 0, chunk, samples))

    def done(self, seconds: float, submit: Submit | None = None) -> None:
        submit = submit or self.last
        self.say(
            Done(
                job_id=submit.job_id,
                audio_s=seconds,
                seed=submit.sampling.seed,
                timings=Timings(semantic_s=1, coarse_s=2, fine_s=1, codec_s=0.1),
                history=HistoryPrompt(
                    np.zeros(0, np.int64),
                    np.zeros((2, 0), np.int64),
                    np.zeros((8, 0), np.int64),
                    "bark",
                ),
            )
        )

    def fail(self, reason: Reason, detail: str) -> None:
        self.say(Failed(self.last.job_id, reason, detail))


class Clock:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class _Heard(list[Any]):
    """What simcord writes down of events and requests, with somebody told of each line.

    Gateway events alone would miss what only one person sees.
    """

    def __init__(self, changed: asyncio.Event) -> None:
        super().__init__()
        self._changed = changed

    def append(self, item: Any) -> None:
        super().append(item)
        self._changed.set()


class World:
    """One server with a text channel, two members and the bot in it."""

    def __init__(
        self, env: simcord.Env, client: BarkClient, worker: ScriptedBackend, clock: Clock
    ) -> None:
        self.env = env
        self.client = client
        self.worker = worker
        self.clock = clock
        self.guild = env.create_guild("Home")
        self.channel = self.guild.create_text_channel("general")
        self.ada = self.guild.add_member(env.create_user("ada"))
        self.bob = self.guild.add_member(env.create_user("bob"))
        staff = self.guild.create_role("staff", permissions=discord.Permissions(manage_guild=True))
        self.manager = self.guild.add_member(env.create_user("mia"), roles=[staff])
        self._changed = asyncio.Event()
        env.backend.transcript = _Heard(self._changed)

    async def bark(self, text: str = "Hello there", actor: Any = None, **options: Any) -> Any:
        return await (actor or self.ada).slash(self.channel, "bark", text=text, **options)

    async def until(self, condition: Callable[[], Any]) -> None:
        """Wait for something the bot does to Discord: what Discord is told is looked at."""
        async with asyncio.timeout(20):
            while not condition():
                self._changed.clear()
                await self._changed.wait()
        await self.env.settle()

    async def spoken(self, result: Any, seconds: float = 1.0) -> Any:
        """Let the worker finish the last job, and what follows of its text, and wait for the
        clip.
        """
        said, job_id = 0, self.worker.last.job_id.partition(".")[0]
        while said < len(self.worker.submits) and self.worker.last.job_id.startswith(job_id):
            said = len(self.worker.submits)
            self.worker.speak(seconds)
            await self.env.settle()
        await self.until(lambda: result.response.attachments)
        return result.response


async def press(world: World, actor: Any, result: Any, custom_id: str) -> Any:
    """Press a button that the newest state of the message has not any more."""
    stored = world.env.backend.get_message(result.response.channel_id, result.response.id)
    kept = stored.components
    stored.components = [
        {
            "type": 1,
            "components": [{"type": 2, "style": 2, "label": "Cancel", "custom_id": custom_id}],
        }
    ]
    try:
        return await actor.click(result.response.message, custom_id=custom_id)
    finally:
        stored.components = kept


@asynccontextmanager
async def open_world(
    folder: Path,
    *,
    settings: Settings | None = None,
    worker: Any = None,
    clock: Clock | None = None,
    voice: bool = False,
    ear: Any = None,
    allowed_errors: Sequence[type[BaseException]] = (BotError, SynthError),
    **limits: Any,
) -> AsyncGenerator[World]:
    settings = settings or Settings.model_construct()
    limits = {"cooldown_s": 0.0} | limits
    settings = settings.model_copy(
        update={
            "data_folder": folder,
            "limits": settings.limits.model_copy(update=limits),
        }
    )
    worker = worker or ScriptedBackend(ready())
    clock = clock or Clock()
    environment: list[simcord.Env] = []

    async def waiting(awaitable: Any) -> Any:
        return await environment[0].external_wait(awaitable, reason="the synthesis worker")

    async with open_bot(
        settings, backends=[worker], clock=clock, waiting=waiting, voice=voice, ear=ear
    ) as client:
        async with simcord.run(client, check_errors=False) as env:
            environment.append(env)
            yield World(env, client, worker, clock)
            for error in env.errors:
                if isinstance(error, app_commands.CommandInvokeError):
                    error = error.original
                if not isinstance(error, tuple(allowed_errors)):
                    raise error
