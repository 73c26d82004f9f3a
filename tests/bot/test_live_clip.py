"""A clip from its first samples to its last packet: kept until it may begin, then whole."""

import asyncio
import math
import signal
import sys
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest

from bot import live_clip, live_encoder
from bot.errors import SynthUnavailable
from bot.live_clip import LiveClip, LiveSounds
from synth.audio import open_ffmpeg
from tests.discord_server import recording
from tests.discord_server.recording import Packet
from tests.synth.sounds import RATE, correlation, speech_like


@pytest.fixture
def sounds() -> LiveSounds:
    return LiveSounds(open_ffmpeg(), target_lufs=-20.0)


@pytest.fixture
def processes(monkeypatch: pytest.MonkeyPatch) -> list[asyncio.subprocess.Process]:
    """Those that are started."""
    begun: list[asyncio.subprocess.Process] = []
    start = live_encoder.start_process

    async def noted(command: Any) -> asyncio.subprocess.Process:
        begun.append(await start(command))
        return begun[-1]

    monkeypatch.setattr(live_encoder, "start_process", noted)
    return begun


@pytest.fixture
async def clip(sounds: LiveSounds) -> AsyncIterator[LiveClip]:
    clip = sounds.clip("a", RATE)
    yield clip
    await clip.close()


def heard(clip: LiveClip) -> np.ndarray:
    packets = enumerate(clip.stream.packets)
    return recording.decode([Packet(0.0, i, 0, opus, True, False) for i, opus in packets])


async def test_what_came_before_it_may_begin_is_heard_too(
    clip: LiveClip, processes: list[asyncio.subprocess.Process]
) -> None:
    speech = speech_like(2.0, seed=3)
    clip.hear(speech[:RATE], math.inf)
    clip.hear(speech[RATE : RATE + 100], 1.5)
    await asyncio.sleep(0)
    assert not clip.begun and not processes
    clip.hear(speech[RATE + 100 :], 1.5)
    assert clip.begun
    await clip.until_ready()
    assert len(clip.stream) and not clip.stream.finished
    await clip.finish()
    assert clip.stream.finished and len(processes) == 1
    wanted = np.interp(np.arange(len(speech) * 2) / 2, np.arange(len(speech)), speech)
    assert correlation(heard(clip), wanted) > 0.98


async def test_one_that_never_began_has_nothing_to_finish(
    clip: LiveClip, processes: list[asyncio.subprocess.Process]
) -> None:
    clip.hear(speech_like(1.0), math.inf)
    await clip.finish()
    clip.cut()
    assert not clip.begun and not processes


async def test_cut_it_ends_its_stream_and_its_encoder(
    clip: LiveClip, processes: list[asyncio.subprocess.Process]
) -> None:
    clip.hear(speech_like(1.0), 0.3)
    await clip.until_ready()
    clip.cut()
    await clip.finish()  # as when the engine was done at that moment
    assert clip.stream.finished and processes[0].returncode is not None


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
async def test_an_encoder_that_hangs_is_not_waited_for(
    clip: LiveClip,
    processes: list[asyncio.subprocess.Process],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(live_clip, "_FLUSH_S", 0.1)
    clip.hear(speech_like(1.0), 0.3)
    await clip.until_ready()
    processes[0].send_signal(signal.SIGSTOP)
    clip.hear(speech_like(1.0), 0.3)
    with pytest.raises(SynthUnavailable, match="too long"):
        await clip.finish()
    await clip.close()
    assert processes[0].returncode == -signal.SIGKILL


async def test_a_voice_is_as_loud_live_as_its_whole_clips_taught(sounds: LiveSounds) -> None:
    """A quiet voice's first live clip after a whole one needs no correction on the way."""
    quiet = speech_like(4.0, peak=0.05, seed=8)
    sounds.learn("quiet", quiet, RATE)
    levels: list[float] = []
    for each in (sounds, LiveSounds(open_ffmpeg(), target_lufs=-20.0)):
        clip = each.clip("quiet", RATE)
        clip.hear(quiet[: RATE // 3], 0.0)
        clip.hear(quiet[RATE // 3 :], 0.0)
        await clip.finish()
        sound = heard(clip)
        levels.append(float(np.std(sound[: 2 * RATE]) / np.std(sound[4 * RATE :])))
    expected = float(np.std(quiet[:RATE]) / np.std(quiet[2 * RATE :]))
    assert levels[0] == pytest.approx(expected, rel=0.05)
    assert levels[1] < 0.8 * expected  # nobody knew: it began too softly
