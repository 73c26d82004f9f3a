"""The demo without a browser: what its page publishes, its pace, its end, and what it needs."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import pytest

from bot import replies
from bot.config import Settings, SynthSection
from bot.delivery import Ear, Making, Order
from bot.demo import demo, demo_backend, demo_settings
from bot.demo_pace import PacedBackend
from bot.demo_page import LivePage, furnish
from bot.demo_sound import PageSounds
from bot.errors import StartError
from synth.audio import TARGET_LUFS, measure, open_ffmpeg, run
from synth.client import ProcessBackend
from synth.protocol import RANDOM_MODEL, Cancel, Event, Failed, Progress, Reason, Stage, Submit
from tests.bot.harness import ScriptedBackend, World, open_world, ready
from tests.discord_server.recording import read_clip
from tests.synth.sounds import peaky

ROOT = Path(__file__).parents[2]


class Reader:
    """A browser's side of the page: looks at it, and presses its buttons."""

    def __init__(self, session: aiohttp.ClientSession, page: LivePage) -> None:
        self._session = session
        self._base, _, capability = page.url.partition("#")
        self._headers = {"X-Simcord-Capability": capability}
        self.seen: dict[str, Any] = {}

    async def open(self) -> None:
        self.seen = await self._ask("POST", "api/pages", json={})
        self._headers["X-Simcord-Context"] = self.seen["context"]["id"]

    async def look(self) -> list[str]:
        """The messages as they stand, oldest first."""
        self.seen = await self._ask("GET", "api/state")
        return [self.seen["messages"][each]["content"] for each in self.seen["timeline"]]

    async def press(self, label: str, seen: dict[str, Any] | None = None) -> dict[str, Any]:
        """Press a button; seen: on what the page showed then, in place of the last look."""
        seen = seen or self.seen
        key = next(
            each["control_key"] for each in _dictionaries(seen) if each.get("label") == label
        )
        return await self._ask(
            "POST",
            "api/action",
            json={
                "kind": "click",
                "control_key": key,
                "target_id": key.split(":")[1],
                "protocol_version": 3,
                "sequence": 1,
                "request_id": "press",
                "generation": seen["context"]["generation"],
                "bot_generation": seen["botGeneration"],
                "published_revision": seen["publishedRevision"],
            },
        )

    async def _ask(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        url = self._base + path
        async with self._session.request(method, url, headers=self._headers, **options) as answer:
            assert answer.status == 200, await answer.text()
            return await answer.json()


def _dictionaries(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
        value = list(value.values())
    if isinstance(value, list):
        for each in value:
            yield from _dictionaries(each)


async def _move_on(world: World, result: Any, fraction: float) -> None:
    """Let the job go on, and the next edit of its status be due."""
    world.clock.now += 10
    before = result.response.content
    world.worker.progress(Stage.COARSE, fraction)
    await world.until(lambda: result.response.content != before)


async def test_the_page_follows_the_bot(tmp_path: Path) -> None:
    """simcord alone shows edits only after Refresh, so that the status stood at 0% for ever."""
    async with open_world(tmp_path) as world:
        page = LivePage(world.env, world.channel, world.ada, 0)
        async with page:
            async with aiohttp.ClientSession() as session:
                reader = Reader(session, page)
                await reader.open()
                result = await world.bark()
                assert "0% · starting" in (await reader.look())[-1]
                await _move_on(world, result, 0.5)
                moved = (await reader.look())[-1]
                assert "shaping the voice" in moved
                assert reader.seen["targetId"] == str(result.response.id)

                revision = reader.seen["publishedRevision"]
                assert (await reader.look())[-1] == moved
                assert reader.seen["publishedRevision"] == revision  # nothing happened

                # What happens between a look and a press must not make the press void, nor must
                # looks whose answers are still on their way.
                shown = reader.seen
                await _move_on(world, result, 0.75)
                await reader.look()
                await _move_on(world, result, 0.8)
                await reader.look()
                assert reader.seen["publishedRevision"] == shown["publishedRevision"] + 2
                await _move_on(world, result, 0.9)
                receipt = await reader.press("Cancel", shown)
                assert not receipt["rejected"]
                await world.until(lambda: result.response.content == replies.CANCELLED)
                assert replies.CANCELLED in await reader.look()


@pytest.mark.parametrize(
    ("command", "options", "told"),
    [
        ("bark", {"text": " "}, "The text is empty"),
        ("bark", {"text": "a" * 3000}, "3,000 characters"),
        ("bark", {"text": "😀"}, "nothing to speak"),
        ("bark", {"text": "Hello", "preset": "nobody"}, "no voice called nobody"),
        ("skip", {}, replies.NO_VOICE_COMMANDS_HERE),
    ],
)
async def test_a_refusal_is_no_crash(
    tmp_path: Path, command: str, options: dict[str, Any], told: str
) -> None:
    """The page called the outcome of a command uncertain whose refusal stood right above."""
    async with open_world(tmp_path) as world:
        channel, person = await furnish(world.env, world.client, speaks=True)
        before = world.env.error_cursor
        result: Any = await person.slash(channel, command, **options)
        assert told in result.response.content
        assert not world.env.errors_since(before)


async def test_an_error_of_ours_counts_as_a_crash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("a bug")

    async with open_world(tmp_path, allowed_errors=(RuntimeError,)) as world:
        channel, person = await furnish(world.env, world.client, speaks=True)
        monkeypatch.setattr(replies, "help_text", broken)
        before = world.env.error_cursor
        result: Any = await person.slash(channel, "help")
        assert "Something went wrong" in result.response.content
        assert len(world.env.errors_since(before)) == 1


async def test_a_page_that_is_reloaded_leaves_the_sound_quietly(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It gave the terminal an error with a traceback: the sound had lost its reader."""
    sounds = PageSounds(open_ffmpeg(), target_lufs=TARGET_LUFS)
    async with open_world(tmp_path) as world:
        page = LivePage(world.env, world.channel, world.ada, 0, sounds)
        async with page, aiohttp.ClientSession(page.url.partition("#")[0]) as browser:
            ear = sounds.ear(None, 24_000)
            ear.hear(np.zeros(4800, np.float32), 0.1)
            answer = await browser.get("/live/sound?number=1")
            await answer.content.readexactly(44)
            answer.close()
            for _ in range(50):  # more than the connection's buffer holds
                ear.hear(np.zeros(24_000, np.float32), 0.1)
                await asyncio.sleep(0)
            ear.end(whole=True)
            async with browser.get("/live.js"):
                pass
    assert not [record for record in caplog.records if record.exc_info]


async def test_the_page_hears_a_clip_while_it_is_made(tmp_path: Path) -> None:
    sounds, worker = PageSounds(open_ffmpeg(), target_lufs=TARGET_LUFS), ScriptedBackend(ready())

    def ear(order: Order, making: Making) -> Ear:
        return sounds.ear(order.request.voice, making.sample_rate)

    async with open_world(tmp_path, worker=worker, ear=ear) as world:
        page = LivePage(world.env, world.channel, world.ada, 0, sounds)
        async with page, aiohttp.ClientSession(page.url.partition("#")[0]) as browser:
            async with browser.get("/") as answer:
                assert '<script type="module" src="/live.js">' in await answer.text()
            async with browser.get("/live.js") as answer:
                assert answer.content_type == "text/javascript" and "audio.play()" in (
                    await answer.text()
                )
            result = await world.bark()
            tone = np.sin(np.arange(4800) / 20).astype(np.float32) / 4
            for chunk in range(10):
                worker.sound(tone, chunk=chunk)
            async with browser.get("/live/next?after=0") as answer:
                assert await answer.json() == {"number": 1}
            async with browser.get("/live/sound?number=1") as answer:
                assert answer.content_type == "audio/wav"
                early = await answer.content.readexactly(44 + 2 * 4800 * 5)
                assert not result.response.attachments  # it is still being made
                worker.sound(tone, chunk=10)
                worker.done(11 * 0.2)
                data = early + await answer.content.read()
            assert len(read_clip(data)) == pytest.approx(11 * 9600, abs=100)
            await world.until(lambda: result.response.attachments)

            # A slow one is played when it is whole, and one that is called off not at all.
            result = await world.bark()
            worker.sound(tone)
            world.client.services.desk.cancel(worker.last.job_id)
            await world.until(lambda: result.response.content == replies.CANCELLED)
            result = await world.bark()
            await world.spoken(result)
            async with browser.get("/live/next?after=1") as answer:
                assert await answer.json() == {"number": 2}
            async with browser.get("/live/sound?number=1") as answer:
                assert answer.status == 404
            async with browser.get("/live/next", headers={"Host": "evil.example"}) as answer:
                assert answer.status == 403

            waiting = asyncio.create_task(browser.get("/live/next?after=2").__aenter__())
            await asyncio.sleep(0)
            async with browser.get("/live.js"):  # by then the other is being waited for
                pass
            assert not waiting.done()
            await page.close()  # at once, whoever waits
            assert (await waiting).status == 503


async def test_the_page_is_as_loud_as_a_voice_channel(tmp_path: Path) -> None:
    """Its peaks were cut off where they passed full scale, and its gain went only as far as the
    highest peak let it: up to 12 LU below the target.
    """
    async with open_world(tmp_path) as world:
        ffmpeg = open_ffmpeg()
        sounds = PageSounds(ffmpeg, target_lufs=TARGET_LUFS)
        page = LivePage(world.env, world.channel, world.ada, 0, sounds)
        async with page, aiohttp.ClientSession(page.url.partition("#")[0]) as browser:
            ear = sounds.ear(None, 24_000)
            for piece in np.split(peaky(5.0, 0.9, seed=1), 10):
                ear.hear(piece, 0.5)
            ear.end(whole=True)
            async with browser.get("/live/sound?number=1") as answer:
                heard = read_clip(await answer.content.read())
    loudness = run(measure(heard, 48_000, ffmpeg=ffmpeg))
    assert loudness.integrated_lufs == pytest.approx(TARGET_LUFS, abs=3)
    assert np.abs(heard).max() < 0.8  # held, not cut off


async def test_the_first_message_says_what_makes_the_noise(tmp_path: Path) -> None:
    worker = ScriptedBackend(ready(notice="This is a random model: it makes noise."))
    async with open_world(tmp_path, worker=worker) as world:
        channel, person = await furnish(world.env, world.client, speaks=False)
        welcome = channel.last_message
        assert welcome and welcome.author.name == "Bark"
        assert "This is a random model: it makes noise." in welcome.content
        assert " -m synth fetch suno/bark-small" in welcome.content
        assert person.name == "you"

        result = await world.bark("Hello", to="voice")  # there is no voice channel to go to
        response = await world.spoken(result)
        assert replies.NO_VOICE_HERE in response.content
        assert response.attachments


def test_a_model_of_ones_own_is_not_called_noise_nor_slowed_down(tmp_path: Path) -> None:
    assert "noise" not in replies.demo_welcome("", speaks=True)
    assert "synth fetch" not in replies.demo_welcome("", speaks=True)
    small = replies.demo_welcome("It is small.", speaks=True, python=".venv/bin/python")
    assert "\n.venv/bin/python -m synth fetch suno/bark-small\n" in small
    mine = Settings.model_construct(synth=SynthSection(model="suno/bark", threads=3, slots=4))
    shown = demo_settings(mine, tmp_path, "suno/bark-small")
    assert shown.synth == mine.synth.model_copy(update={"model": "suno/bark-small"})
    assert shown.database.parent == tmp_path
    assert isinstance(demo_backend(shown), ProcessBackend)
    noise = demo_settings(mine, tmp_path, RANDOM_MODEL)
    assert (noise.synth.slots, noise.synth.threads) == (1, 1)
    assert isinstance(demo_backend(noise), PacedBackend)


async def test_paced_events_come_in_time_and_at_once_after_a_cancel() -> None:
    now = 0.0
    worker = ScriptedBackend(ready())
    paced = PacedBackend(worker, job_s=3600, clock=lambda: now)
    await paced.start()
    assert paced.slots == 1
    events = aiter(paced.events())
    submit = Submit(job_id="a", text="Hello")

    paced.send(submit)
    assert worker.last is submit
    worker.say(Progress("a", Stage.FINE, 0.5))
    now = 3000.0  # past 5/8 of an hour: not held back
    assert await anext(events) == Progress("a", Stage.FINE, 0.5)

    paced.send(Submit(job_id="b", text="Hello"))
    worker.say(Progress("b", Stage.CODEC, 1.0))
    held = asyncio.create_task(_next(events))
    for _ in range(20):
        await asyncio.sleep(0)
    assert not held.done()
    paced.send(Cancel("b"))
    assert await held == Progress("b", Stage.CODEC, 1.0)
    assert await anext(events) == Failed("b", Reason.CANCELLED, "The job was cancelled.")


async def _next(events: AsyncIterator[Event]) -> Event:
    return await anext(events)


async def test_missing_packages_are_named_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "bot.demo_page")
    monkeypatch.setitem(sys.modules, "simcord", None)
    with pytest.raises(StartError, match=r"pip install '\.\[demo\]'"):
        await demo(Settings.model_construct(), tell=[].append)


async def test_a_port_in_use_is_told_before_the_model_is_loaded() -> None:
    told: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(StartError, match=f"Port {port} cannot be used .*--port"):
            await demo(Settings.model_construct(), port=port, tell=told.append)
    with pytest.raises(StartError, match="no port 70000; choose one"):
        await demo(Settings.model_construct(), port=70_000, tell=told.append)
    assert not told


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_demo_and_leaves_nothing(tmp_path: Path, number: int) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "bot", "demo", "--no-browser"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as demo:
        try:
            assert demo.stdout and demo.stderr
            while "http://127.0.0.1:" not in (line := demo.stdout.readline()):
                assert line, demo.stderr.read()
            demo.send_signal(number)
            # The synthesis process holds the same pipes: their end is its end too.
            _, complaints = demo.communicate(timeout=20)
        finally:
            demo.kill()
    assert demo.returncode == (130 if number == signal.SIGINT else 0)
    assert "Traceback" not in complaints
    assert not list(tmp_path.iterdir())
