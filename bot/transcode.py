"""Clips in the shapes Discord takes: a file under a size limit, Opus packets for a voice channel.

What FFmpeg is asked to do is written in `synth.audio`; here it is run on the event loop, a bounded
number at a time, killed when nobody waits for it any more and always reaped. Knows no Discord
object but the Ogg reader.
"""

import asyncio
import io
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from discord.oggparse import OggStream

from bot.errors import SynthUnavailable, UserError
from synth.audio import (
    TARGET_LUFS,
    AudioFormat,
    Command,
    FFmpeg,
    Loudness,
    Output,
    Recipe,
    checked,
    encode,
    measure,
    open_ffmpeg,
)
from synth.errors import InvalidRequest, SynthError

T = TypeVar("T")
Samples = npt.NDArray[np.floating]

PACKET_S = 0.02
VOICE_BIT_RATE = 96_000
# What is tried in turn, in bits per second, when a clip is over a limit.
OGG_BIT_RATES = (96_000, 64_000, 48_000, 32_000, 24_000, 16_000)
MP3_BIT_RATES = (128_000, 96_000, 64_000, 48_000, 32_000)
CONTAINER_BYTES = 4096  # what headers and pages may add to the sound itself
SHORTEST_TRIM_S = 1.0
FADE_S = 0.05


@dataclass(frozen=True)
class EncodedClip:
    """A file ready to be posted. `notes` are plain sentences on what was done to make it fit."""

    data: bytes
    fmt: AudioFormat
    duration_s: float
    notes: tuple[str, ...] = ()

    @property
    def suffix(self) -> str:
        return self.fmt.suffix


class Transcoder:
    """Runs FFmpeg for the bot: at most `concurrency` at a time, each at most `timeout_s` seconds.

    Clips come out at `target_lufs`, or lower where their true peak would pass -1 dBTP.
    Raises what `open_ffmpeg` raises when there is no FFmpeg that can do the work.
    """

    def __init__(
        self,
        ffmpeg: FFmpeg | None = None,
        *,
        concurrency: int = 2,
        timeout_s: float = 60,
        target_lufs: float = TARGET_LUFS,
    ) -> None:
        self.ffmpeg = ffmpeg or open_ffmpeg()
        self.running = 0
        self._slots = asyncio.Semaphore(concurrency)
        self._timeout_s = timeout_s
        self._target_lufs = target_lufs

    async def encode_clip(
        self, samples: Samples, sample_rate: int, fmt: AudioFormat, *, limit_bytes: int
    ) -> EncodedClip:
        """Encode a finished clip for posting.

        samples: (N,) float in [-1, 1], mono, at `sample_rate` Hz. Where the file would be larger
        than `limit_bytes` it is encoded smaller, a WAV or FLAC as Ogg Opus, or in the end trimmed,
        and a note says so. Raises UserError when even a second does not fit or there is no sound,
        SynthUnavailable when FFmpeg fails or takes too long.
        """
        samples = _clip(samples)
        notes: tuple[str, ...] = ()
        clip = await self._fit(samples, sample_rate, fmt, limit_bytes)
        if clip is None and not fmt.lossy:
            notes = (f"As {fmt.name} it was too big to post here, so it is an Ogg Opus file.",)
            fmt = AudioFormat.OGG
            clip = await self._fit(samples, sample_rate, fmt, limit_bytes)
        if clip is None:
            clip = await self._trim(samples, sample_rate, fmt, limit_bytes)
        return replace(clip, notes=notes + clip.notes)

    async def opus_packets(
        self, samples: Samples, sample_rate: int, *, bit_rate: int = VOICE_BIT_RATE
    ) -> list[bytes]:
        """Encode a finished clip for a voice channel: Opus packets of 20 ms, 48 kHz stereo.

        samples: (N,) float in [-1, 1], mono, at `sample_rate` Hz. The last packet is filled up with
        silence. Raises as `encode_clip`.
        """
        data = await self._run(
            encode(
                _clip(samples),
                sample_rate,
                fmt=AudioFormat.OGG,
                ffmpeg=self.ffmpeg,
                bit_rate=bit_rate,
                channels=2,
                target_lufs=self._target_lufs,
            )
        )
        return packets_of(data)

    async def _fit(
        self, samples: Samples, sample_rate: int, fmt: AudioFormat, limit_bytes: int
    ) -> EncodedClip | None:
        """The clip at the highest bit rate that fits, or None."""
        duration_s = len(samples) / sample_rate
        if not fmt.lossy:
            if fmt is AudioFormat.WAV and 2 * len(samples) > limit_bytes:
                return None
            data = await self._encode(samples, sample_rate, fmt, None, None)
            return EncodedClip(data, fmt, duration_s) if len(data) <= limit_bytes else None
        bit_rates = OGG_BIT_RATES if fmt is AudioFormat.OGG else MP3_BIT_RATES
        loudness = await self._run(measure(samples, sample_rate, ffmpeg=self.ffmpeg))
        for bit_rate in bit_rates:
            if duration_s * bit_rate / 8 > limit_bytes:
                continue
            data = await self._encode(samples, sample_rate, fmt, bit_rate, loudness)
            if len(data) <= limit_bytes:
                note = f"It was encoded smaller ({bit_rate // 1000} kbit/s) to fit the size limit."
                notes = () if bit_rate == bit_rates[0] else (note,)
                return EncodedClip(data, fmt, duration_s, notes)
        return None

    async def _trim(
        self, samples: Samples, sample_rate: int, fmt: AudioFormat, limit_bytes: int
    ) -> EncodedClip:
        bit_rate = (OGG_BIT_RATES if fmt is AudioFormat.OGG else MP3_BIT_RATES)[-1]
        whole_s = len(samples) / sample_rate
        keep_s = min(whole_s, (limit_bytes - CONTAINER_BYTES) * 8 / bit_rate)
        while keep_s >= min(SHORTEST_TRIM_S, whole_s):
            kept = samples[: int(keep_s * sample_rate)].astype(np.float32)
            fade = min(len(kept), int(FADE_S * sample_rate))
            if len(kept) < len(samples) and fade:
                kept[-fade:] *= np.linspace(1, 0, fade, dtype=np.float32)
            data = await self._encode(kept, sample_rate, fmt, bit_rate, None)
            if len(data) <= limit_bytes:
                note = (
                    f"Only the first {keep_s:.0f} of {whole_s:.0f} seconds fit the size limit here."
                )
                return EncodedClip(data, fmt, keep_s, (note,))
            keep_s *= 0.95 * limit_bytes / len(data)
        raise UserError(
            f"Not even a second of sound fits {limit_bytes} bytes, the size limit for files here."
        )

    async def _encode(
        self,
        samples: Samples,
        sample_rate: int,
        fmt: AudioFormat,
        bit_rate: int | None,
        loudness: Loudness | None,
    ) -> bytes:
        recipe = encode(
            samples,
            sample_rate,
            fmt=fmt,
            ffmpeg=self.ffmpeg,
            bit_rate=bit_rate,
            loudness=loudness,
            target_lufs=self._target_lufs,
        )
        return await self._run(recipe)

    async def _run(self, recipe: Recipe[T]) -> T:
        """Carry a recipe out; one slot for all of its commands, which run one after the other."""
        async with self._slots:
            self.running += 1
            try:
                command = next(recipe)
                while True:
                    command = recipe.send(await self._execute(command))
            except StopIteration as stop:
                return stop.value
            except InvalidRequest as error:
                raise UserError(str(error)) from error
            except SynthError as error:
                raise SynthUnavailable(str(error)) from error
            finally:
                recipe.close()
                self.running -= 1

    async def _execute(self, command: Command) -> Output:
        process = await start_process(command)
        try:
            async with asyncio.timeout(self._timeout_s):
                stdout, stderr = await process.communicate(command.stdin)
        except TimeoutError as error:
            raise SynthUnavailable(
                f"Encoding the clip took longer than {self._timeout_s:.0f} s and was stopped: "
                "try again, or try a shorter clip."
            ) from error
        finally:
            await reap(process)
        assert process.returncode is not None
        return Output(process.returncode, stdout, stderr.decode(errors="replace"))


async def start_process(command: Command) -> asyncio.subprocess.Process:
    """Start FFmpeg with a pipe to each end of it; `reap` it. Raises SynthUnavailable."""
    pipe = asyncio.subprocess.PIPE
    try:
        return await asyncio.create_subprocess_exec(
            *command.args, stdin=pipe, stdout=pipe, stderr=pipe
        )
    except OSError as error:
        raise SynthUnavailable(
            f"FFmpeg could not be started ({error.strerror or error}): tell whoever runs the "
            "bot to look with `python -m bot doctor`."
        ) from error


async def reap(process: asyncio.subprocess.Process) -> None:
    """Leave no process behind, whatever ended the wait for it."""
    if process.returncode is not None:
        return
    try:
        process.kill()
    except ProcessLookupError:
        pass  # it ended by itself in between
    # A killed process is gone within a blink; a second cancellation must not leave a zombie, nor
    # unread pipes, so it is held back until then.
    reaper = asyncio.ensure_future(process.communicate())
    cancelled: asyncio.CancelledError | None = None
    while not reaper.done():
        try:
            await asyncio.shield(reaper)
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled


def packets_of(ogg: bytes) -> list[bytes]:
    """The sound packets of an Ogg Opus file, its two header packets left out.

    Raises ValueError for a packet that is not of 20 ms, which a voice channel would play too fast
    or too slow.
    """
    packets = [
        packet
        for packet in OggStream(io.BytesIO(ogg)).iter_packets()
        if not packet.startswith((b"OpusHead", b"OpusTags"))
    ]
    for number, packet in enumerate(packets):
        if packet_ms(packet) != 20:
            raise ValueError(f"Opus packet {number} is {packet_ms(packet)} ms long, not 20 ms.")
    return packets


def packet_ms(packet: bytes) -> float:
    """How long an Opus packet plays. Source: RFC 6716, section 3.1, the TOC byte."""
    config, code = packet[0] >> 3, packet[0] & 3
    if config < 12:  # SILK
        frame_ms = (10, 20, 40, 60)[config % 4]
    elif config < 16:  # hybrid
        frame_ms = (10, 20)[config % 2]
    else:  # CELT
        frame_ms = (2.5, 5, 10, 20)[config % 4]
    frames = (1, 2, 2)[code] if code < 3 else packet[1] & 0x3F
    return frame_ms * frames


def _clip(samples: Samples) -> Samples:
    try:
        return checked(samples)
    except InvalidRequest as error:
        raise UserError(str(error)) from error
