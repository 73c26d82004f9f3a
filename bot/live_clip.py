"""A clip that is heard while it is still being made: from its first samples to its last packet.

Keeps what has come until it may begin, then sends it through one encoder at the loudness of its
voice. Knows no channel. Everything runs on the event loop and nothing waits in `hear`.
"""

import asyncio

import numpy as np
import numpy.typing as npt

from bot.errors import SynthUnavailable
from bot.live_encoder import PacketEncoder
from bot.opus_source import PACKETS_PER_S, PacketStream
from synth.audio import MOST_HELD_DB, FFmpeg, Meter, StreamGain, VoiceLevels

Samples = npt.NDArray[np.float32]

CHANNELS = 2  # of a voice channel
_FLUSH_S = 20.0  # for the encoder's last words, of which there are few
_READY = PACKETS_PER_S // 5  # packets that the encoder has made before the player is told to begin


class LiveSounds:
    """Makes the bot's live clips. Owns how loud each voice is, which all clips teach it."""

    def __init__(self, ffmpeg: FFmpeg, *, target_lufs: float) -> None:
        self._ffmpeg = ffmpeg
        self._target_lufs = target_lufs
        self._levels = VoiceLevels()

    def clip(self, voice: str | None, sample_rate: int) -> "LiveClip":
        gain = StreamGain(
            self._levels,
            voice,
            sample_rate,
            channels=CHANNELS,
            target_lufs=self._target_lufs,
            held_db=MOST_HELD_DB,
        )
        return LiveClip(self._ffmpeg, gain, sample_rate)

    def learn(self, voice: str | None, samples: Samples, sample_rate: int) -> None:
        """Take note of a clip that was not heard live."""
        meter = Meter(sample_rate, CHANNELS)
        meter.add(samples)
        self._levels.learn(voice, meter)


class LiveClip:
    """Samples in, packets in `stream` out. `close` it."""

    def __init__(self, ffmpeg: FFmpeg, gain: StreamGain, sample_rate: int) -> None:
        self.stream = PacketStream(finished=False)
        self._gain = gain
        self._sample_rate = sample_rate
        self._encoder = PacketEncoder(ffmpeg, sample_rate, self._append)
        self._encoding: asyncio.Task[None] | None = None
        self._kept: list[Samples] = []  # what came before it began
        self._made = 0
        self._ready = asyncio.Event()

    @property
    def begun(self) -> bool:
        """Whether it is on its way; else it is one for when it is whole."""
        return self._encoding is not None

    def hear(self, samples: Samples, needed_s: float) -> None:
        """Take the next (n,) samples; needed_s: of them all, to begin."""
        self._made += len(samples)
        self._kept.append(samples)
        if not self.begun and self._made < needed_s * self._sample_rate:
            return
        if self._encoding is None:
            self._encoding = asyncio.create_task(self._encode(), name="live encoder")
        self._encoder.feed(self._gain(np.concatenate(self._kept)))
        self._kept.clear()

    async def until_ready(self) -> None:
        """Wait until it can be handed to a player, which will want a packet every 20 ms."""
        await self._ready.wait()

    async def finish(self) -> None:
        """There are no more samples: wait for the last packet. Raises SynthUnavailable."""
        if self._encoding is None:
            return
        self._encoder.finish()
        _, late = await asyncio.wait({self._encoding}, timeout=_FLUSH_S)
        if late:
            self._encoding.cancel()
            raise SynthUnavailable("Encoding the end of the clip took too long and was stopped.")
        if not self._encoding.cancelled():
            self._encoding.result()

    def learn(self) -> None:
        """The clip is whole: what it says of its voice's loudness is for the next one."""
        self._gain.finish()

    def cut(self) -> None:
        """Nobody wants the rest."""
        if self._encoding is not None:
            self._encoding.cancel()

    async def close(self) -> None:
        """Leave no encoder behind."""
        if self._encoding is not None:
            self._encoding.cancel()
            await asyncio.gather(self._encoding, return_exceptions=True)

    async def _encode(self) -> None:
        try:
            await self._encoder.run()
        finally:
            self.stream.finish()
            self._ready.set()

    def _append(self, packets: list[bytes]) -> None:
        self.stream.append(packets)
        if len(self.stream) >= _READY:
            self._ready.set()
