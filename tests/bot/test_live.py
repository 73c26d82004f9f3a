"""A clip that is heard while it is still being made: the whole bot, over real sockets, with an
engine whose every piece of sound the test gives out, and a clock that it moves.
"""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import pytest
import yarl
from discord.gateway import DiscordWebSocket
from discord.http import Route

from bot import live_encoder, replies
from bot.app import open_bot
from bot.client import BarkClient
from bot.config import Settings
from bot.store import Outcome
from synth.audio import VoiceLevels
from synth.protocol import Played, Reason, Stage
from tests.bot.harness import Clock, ScriptedBackend, ready
from tests.discord_server import DiscordServer, recording
from tests.discord_server.hearing import Hearing
from tests.discord_server.interactions import Interaction
from tests.discord_server.server import TOKEN
from tests.synth.sounds import RATE, speech_like

pytestmark = pytest.mark.timeout(90)

PIECE_S = 0.2
CLIP_S = 2.4


class Scene:
    """A server with Alice in its voice channel, the bot, and its engine."""

    def __init__(self, server: DiscordServer, client: BarkClient, engine: ScriptedBackend) -> None:
        self.server = server
        self.client = client
        self.engine = engine
        self.clock = Clock()
        self.speech = speech_like(CLIP_S, seed=11)
        self.made = 0
        self.hearing = Hearing(server)
        self.processes: list[asyncio.subprocess.Process] = []

    async def bark(self, **options: Any) -> Interaction:
        """Ask for a clip, and wait until the engine has it."""
        self.made, self.hearing = 0, Hearing(self.server)
        jobs = len(self.engine.submits)
        options = {"text": "Hear me", "to": "voice"} | options
        asked = await self.server.command(self.server.world.alice, "bark", None, **options)
        await self.server.answered(asked, lambda i: "Cancel" in i.buttons)
        assert len(self.engine.submits) == jobs + 1
        return asked

    def make(self, seconds: float, rtf: float = 0.5) -> None:
        """Let the engine make the next pieces of its sound, at that pace by the clock."""
        piece = int(PIECE_S * RATE)
        for _ in range(round(seconds / PIECE_S)):
            self.clock.now += rtf * PIECE_S
            begin = self.made * piece % len(self.speech)
            self.engine.sound(self.speech[begin : begin + piece], chunk=self.made)
            self.made += 1

    def finish(self) -> None:
        self.make(CLIP_S - self.made * PIECE_S)
        self.engine.done(CLIP_S)

    @property
    def wanted(self) -> np.ndarray:
        """What was to be heard, at the rate it is heard at."""
        places = np.arange(len(self.speech) * 2) / 2
        return np.interp(places, np.arange(len(self.speech)), self.speech)

    def likeness(self, packets: list[recording.Packet]) -> float:
        return recording.similarity(recording.decode(packets), self.wanted)[0]

    def place_of(self, packets: list[recording.Packet]) -> tuple[float, float, float]:
        """How well what was heard fits into it, and where: from, to, in seconds."""
        heard = recording.decode(packets)
        score, start = recording.similarity(self.wanted, heard)
        return score, start / recording.RATE, (start + len(heard)) / recording.RATE

    async def use(self, command: str) -> Interaction:
        return await self.server.answered(
            await self.server.command(self.server.world.alice, command)
        )

    async def over(self, asked: Interaction) -> None:
        """Wait until nothing of the last job is left: no task, no process, no place in a queue."""
        job_id = self.engine.last.job_id
        await self.server.answered(asked, lambda i: "Cancel" not in i.buttons)
        await asyncio.wait_for(
            asyncio.gather(*(t for t in asyncio.all_tasks() if t.get_name() == f"job {job_id}")), 10
        )
        assert all(process.returncode is not None for process in self.processes)
        assert not [t for t in asyncio.all_tasks() if t.get_name() == "live encoder"]


@pytest.fixture
async def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Scene]:
    async with opened(tmp_path, monkeypatch) as scene:
        yield scene
        assert not scene.server.failures


@asynccontextmanager
async def opened(folder: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Scene]:
    settings = Settings.model_construct()
    settings = settings.model_copy(
        update={
            "data_folder": folder,
            "limits": settings.limits.model_copy(update={"cooldown_s": 0.0}),
        }
    )
    engine, clock = ScriptedBackend(ready()), Clock()
    async with (
        DiscordServer() as server,
        open_bot(settings, backends=[engine], clock=clock) as client,
    ):
        monkeypatch.setattr(Route, "BASE", server.api_url)
        monkeypatch.setattr(DiscordWebSocket, "DEFAULT_GATEWAY", yarl.URL(server.gateway.url))
        scene = Scene(server, client, engine)
        scene.clock = clock
        start = live_encoder.start_process

        async def noted(command: Any) -> asyncio.subprocess.Process:
            scene.processes.append(await start(command))
            return scene.processes[-1]

        monkeypatch.setattr(live_encoder, "start_process", noted)
        context = ssl.create_default_context(cafile=str(server.authority))
        client.http.connector = aiohttp.TCPConnector(ssl=context)
        running = asyncio.create_task(client.start(TOKEN))
        try:
            await server.logged_in()
            await server.join_voice(server.world.alice, server.world.lounge)
            yield scene
        finally:
            await client.close()
            await running


async def test_the_first_packet_leaves_before_the_clip_is_made(scene: Scene) -> None:
    """And the sound is whole all the same, told of to the engine, and posted where asked for."""
    asked = await scene.bark(to="both", format="flac")
    scene.make(1.0)
    await scene.hearing.some(30)
    scene.engine.progress(Stage.COARSE, 0.5)
    scene.clock.now += 10
    scene.engine.progress(Stage.COARSE, 0.6)
    where = f"<#{scene.server.world.lounge.id}>"
    await scene.server.answered(asked, lambda i: "shaping the voice" in i.content)
    assert where in asked.content and not asked.attachments
    queue = await scene.use("queue")
    assert queue.content.count("Hear me") == 1 and "▶" in queue.content

    scene.finish()
    await scene.server.answered(asked, lambda i: bool(i.attachments))
    assert where in asked.content
    packets = await scene.hearing.end()
    assert scene.likeness(packets) > 0.98
    assert len(packets) >= CLIP_S * 50 and recording.missing(packets) == 0
    assert recording.read_clip(asked.attachments[0].data).size == pytest.approx(
        CLIP_S * 48_000, abs=960
    )
    assert scene.engine.played[0] == Played(scene.engine.last.job_id, 0.5)
    await scene.over(asked)


async def test_a_long_text_is_heard_from_its_first_utterance_on(scene: Scene) -> None:
    sentence = "The quick brown fox jumps over the lazy dog and then it runs away into the woods. "
    asked = await scene.bark(text=sentence * 4)
    job_id = scene.engine.last.job_id
    scene.make(CLIP_S, rtf=0.1)
    await scene.hearing.some(10)
    assert scene.engine.last.job_id == job_id  # no other utterance was even begun
    scene.engine.done(CLIP_S)
    async with asyncio.timeout(10):
        while scene.engine.last.job_id == job_id:  # noqa: ASYNC110
            await asyncio.sleep(0)
    while scene.engine.last.job_id != job_id:
        job_id = scene.engine.last.job_id
        scene.make(1.0, rtf=0.1)
        scene.engine.done(1.0)
        for _ in range(100):  # until the next one is asked for, if there is one
            await asyncio.sleep(0)
    await scene.server.answered(asked, lambda i: "seed" in i.content)
    packets = await scene.hearing.end()
    assert len(packets) > 130 and not any(packet.silent for packet in packets)


@pytest.mark.parametrize("rtf", [0.1, 3.0])
async def test_a_dialogue_does_not_tell_how_loud_the_askers_voice_is(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, rtf: float
) -> None:
    """Heard while it is made, and when it is whole."""
    learnt: list[object] = []
    monkeypatch.setattr(VoiceLevels, "learn", lambda _, voice, meter: learnt.append(voice))

    async def made(text: str, lines: int) -> None:
        asked = await scene.bark(text=text)
        for line in range(lines):
            last = scene.engine.last.job_id
            scene.make(CLIP_S, rtf)
            scene.engine.done(CLIP_S)
            async with asyncio.timeout(10):
                while line + 1 < lines and scene.engine.last.job_id == last:  # noqa: ASYNC110
                    await asyncio.sleep(0)
        await scene.server.answered(asked, lambda i: "seed" in i.content)
        await scene.use("stop")

    await made("Alice: Did you hear that?\nBob: I did.", 2)
    assert not learnt
    await made("Hear me", 1)
    assert learnt


async def test_an_engine_that_does_not_keep_up_is_heard_when_the_clip_is_whole(
    scene: Scene,
) -> None:
    asked = await scene.bark()
    scene.make(1.6, rtf=1.2)
    scene.engine.progress(Stage.FINE, 0.5)
    scene.clock.now += 10
    scene.engine.progress(Stage.FINE, 0.9)
    await scene.server.answered(asked, lambda i: "adding detail" in i.content)
    assert not scene.hearing.sound and not scene.processes
    scene.finish()
    assert scene.likeness(await scene.hearing.end()) > 0.99
    await scene.over(asked)


@pytest.mark.parametrize("way", ["cancel", "skip", "stop"])
async def test_what_is_called_off_is_made_no_further(scene: Scene, way: str) -> None:
    asked = await scene.bark()
    job_id = scene.engine.last.job_id
    scene.make(2.0)
    await scene.hearing.some(10)
    if way == "cancel":
        assert asked.original is not None
        await scene.server.press(scene.server.world.alice, asked.original, "Cancel")
    else:
        await scene.use(way)
    await scene.server.answered(asked, lambda i: i.content == replies.CANCELLED)
    await scene.hearing.end()
    assert len(scene.hearing.sound) < 80
    assert scene.engine.cancelled == [job_id]
    await scene.over(asked)
    row = await scene.client.services.store.job(job_id)
    assert row is not None and row.outcome is Outcome.CANCELLED
    # The channel is free for the next one.
    asked = await scene.bark()
    scene.finish()
    assert scene.likeness(await scene.hearing.end()) > 0.98
    await scene.over(asked)


@pytest.mark.parametrize("to", ["voice", "both"])
async def test_a_stop_holds_for_a_clip_that_is_not_heard_yet(scene: Scene, to: str) -> None:
    asked = await scene.bark(to=to)
    scene.make(1.0, rtf=1.2)  # too slow to be heard before it is whole
    scene.engine.progress(Stage.FINE, 0.5)
    await scene.server.journal.wait_for("voice_connected", 0)
    assert (await scene.use("stop")).content == replies.stopped(1)
    if to == "voice":
        await scene.server.answered(asked, lambda i: i.content == replies.CANCELLED)
    else:
        scene.finish()
        await scene.server.answered(asked, lambda i: bool(i.attachments))
        assert replies.STOPPED_UNHEARD in asked.content
    await scene.over(asked)
    assert not scene.hearing.sound
    assert len(scene.engine.cancelled) == (to == "voice")


async def test_a_skipped_clip_that_is_wanted_as_a_file_is_made(scene: Scene) -> None:
    asked = await scene.bark(to="both")
    scene.make(1.0)
    await scene.hearing.some(10)
    await scene.use("skip")
    scene.finish()
    await scene.server.answered(asked, lambda i: bool(i.attachments))
    assert not scene.engine.cancelled
    await scene.over(asked)


async def test_an_engine_that_fails_half_way_ends_the_clip_with_a_sentence(scene: Scene) -> None:
    """What was made of it is heard to its end."""
    asked = await scene.bark()
    scene.make(1.6)
    await scene.hearing.some(5)
    scene.engine.fail(Reason.CRASHED, "The speech engine crashed.")
    await scene.server.answered(asked, lambda i: "The speech engine crashed." in i.content)
    packets = await scene.hearing.end()
    assert 75 <= len(packets) <= 82  # less what is held back to be faded or trimmed
    await scene.over(asked)
    asked = await scene.bark()
    scene.finish()
    assert scene.likeness(await scene.hearing.end()) > 0.98
    await scene.over(asked)


async def test_a_dropped_connection_resumes_a_clip_that_is_still_being_made(scene: Scene) -> None:
    asked = await scene.bark()
    scene.make(1.4)
    await scene.hearing.some(30)
    before = scene.hearing.sound
    scene.server.drop_voice()
    scene.finish()  # goes on while nobody can hear it
    after = Hearing(scene.server)
    packets = await after.end()
    places: list[tuple[float, float]] = []
    for heard, ends in ((before, False), (packets, True)):
        score, begin, end = scene.place_of(heard)
        assert score > 0.97
        assert end > CLIP_S - 0.1 if ends else begin < 0.05
        places.append((begin, end))
    assert abs(places[1][0] - places[0][1]) < 0.5  # on its way when the line was cut
    await scene.over(asked)


async def test_a_bot_that_is_sent_away_posts_the_clip_when_it_is_made(scene: Scene) -> None:
    asked = await scene.bark()
    scene.make(2.0)
    await scene.hearing.some(10)
    await scene.use("leave")
    scene.finish()
    await scene.server.answered(asked, lambda i: "asked to leave" in i.content)
    assert asked.attachments and not scene.engine.cancelled
    await scene.over(asked)


async def test_a_late_engine_makes_one_pause_and_loses_nothing(scene: Scene) -> None:
    """It was as quick as it gets, and then it was not: nothing could have foreseen that."""
    asked = await scene.bark()
    scene.make(1.0, rtf=0.1)
    await scene.hearing.some(40)
    await scene.server.journal.until(
        lambda: len([p for p in scene.hearing.packets if p.silent]) > 10, "a pause"
    )
    scene.finish()
    packets = await scene.hearing.end()
    sound = [packet for packet in packets if not packet.silent]
    assert scene.likeness(sound) > 0.97
    await scene.over(asked)


async def test_an_encoder_that_dies_leaves_the_clip_as_a_file(scene: Scene) -> None:
    asked = await scene.bark()
    scene.make(2.0)
    await scene.hearing.some(10)
    scene.processes[0].kill()
    scene.finish()
    await scene.server.answered(asked, lambda i: bool(i.attachments))
    assert re.search("could not encode", asked.content)
    await scene.over(asked)


async def test_a_stop_of_the_bot_leaves_no_encoder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(tmp_path, monkeypatch) as scene:
        asked = await scene.bark()
        scene.make(2.0)
        await scene.hearing.some(10)
    assert asked.content == replies.STOPPING
    assert scene.processes and all(each.returncode is not None for each in scene.processes)
