"""One FFmpeg a clip: packets come while samples do, whole and unclipped, and no process is left."""

import asyncio
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bot import live_encoder
from bot.errors import SynthUnavailable
from bot.live_encoder import PacketEncoder
from synth.audio import open_ffmpeg
from tests.discord_server import recording
from tests.discord_server.recording import Packet
from tests.synth.sounds import RATE, correlation, speech_like


def heard(packets: list[bytes]) -> np.ndarray:
    return recording.decode(
        [Packet(0.0, i, 0, opus, True, False) for i, opus in enumerate(packets)]
    )


class Encoding:
    """An encoder at work, and what has come out of it."""

    def __init__(self, **options: Any) -> None:
        self.packets: list[bytes] = []
        self._came = asyncio.Event()
        ffmpeg = dataclasses.replace(open_ffmpeg(), **options)
        self.encoder = PacketEncoder(ffmpeg, RATE, self._take)
        self.task = asyncio.create_task(self.encoder.run())

    def _take(self, packets: list[bytes]) -> None:
        self.packets += packets
        self._came.set()

    async def until(self, count: int) -> None:
        while len(self.packets) < count:
            self._came.clear()
            await self._came.wait()


async def test_packets_come_before_the_sound_has_ended_and_none_is_lost() -> None:
    speech = speech_like(3.0, seed=3)
    encoding = Encoding()
    for begin in range(0, len(speech), 4800):
        encoding.encoder.feed(speech[begin : begin + 4800])
        await encoding.until((begin + 4800) // 480 - 10)  # no more than 0.2 s are held back
    assert not encoding.task.done()
    encoding.encoder.finish()
    await encoding.task
    assert 150 <= len(encoding.packets) <= 152
    wanted = np.interp(np.arange(len(speech) * 2) / 2, np.arange(len(speech)), speech)
    assert correlation(heard(encoding.packets), wanted) > 0.99


async def test_sound_that_is_too_loud_is_held_down_and_not_clipped() -> None:
    encoding = Encoding()
    encoding.encoder.feed(speech_like(2.0, peak=4.0, seed=5))
    encoding.encoder.finish()
    await encoding.task
    assert 0.5 < np.abs(heard(encoding.packets)).max() < 1.0


async def test_no_samples_give_no_packets_that_sound() -> None:
    encoding = Encoding()
    encoding.encoder.feed(np.zeros(0, np.float32))
    encoding.encoder.finish()
    await encoding.task
    assert len(encoding.packets) <= 1


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


async def test_cancelled_it_leaves_no_process(
    processes: list[asyncio.subprocess.Process],
) -> None:
    encoding = Encoding()
    encoding.encoder.feed(speech_like(1.0))
    await encoding.until(10)
    encoding.task.cancel()
    await asyncio.wait({encoding.task})
    assert encoding.task.cancelled()
    assert processes[0].returncode is not None  # reaped: nobody else sets it


async def test_a_process_that_dies_is_told(processes: list[asyncio.subprocess.Process]) -> None:
    encoding = Encoding()
    encoding.encoder.feed(speech_like(1.0))
    await encoding.until(10)
    processes[0].kill()
    with pytest.raises(SynthUnavailable, match="while it was made"):
        await encoding.task


async def test_a_program_that_is_not_there_is_told(tmp_path: Path) -> None:
    encoding = Encoding(path=str(tmp_path / "none"))
    with pytest.raises(SynthUnavailable, match="could not be started"):
        await encoding.task
