"""One clip's way from samples to an encoded stream while it is still being made: one FFmpeg, fed.

Each clip that is heard while it is made has one, so there are never more than jobs in the works.
The process is killed when nobody waits for it any more, and always reaped.
"""

import asyncio
import contextlib
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from bot.errors import SynthUnavailable
from bot.ogg import OggPackets
from bot.transcode import VOICE_BIT_RATE, packet_ms, reap, start_process
from synth.audio import Command, FFmpeg, encode_live

_READ_BYTES = 65_536


class LiveEncoder:
    """Takes samples with `feed`, hands bytes to `on_bytes`, both on the loop, neither waiting.

    command: of `encode_live`. `run` does the work and ends with the stream; cancelling it ends the
    process.
    """

    def __init__(self, command: Command, on_bytes: Callable[[bytes], None]) -> None:
        self._command = command
        self._on_bytes = on_bytes
        # Not bounded here: it holds what the job has made and the clip keeps anyway.
        self._input: asyncio.Queue[bytes] = asyncio.Queue()

    def feed(self, samples: npt.NDArray[np.floating]) -> None:
        """The next (n,) samples, mono, at the loudness they are to have."""
        if len(samples):
            self._input.put_nowait(samples.astype("<f4").tobytes())

    def finish(self) -> None:
        """There are no more samples: `run` ends with the last packet."""
        self._input.put_nowait(b"")

    async def run(self) -> None:
        """Encode until `finish`. Raises SynthUnavailable when FFmpeg fails."""
        process = await start_process(self._command)
        writing = asyncio.create_task(self._write(process))
        complaint = asyncio.create_task(_read_all(process.stderr))
        try:
            await self._read(process)
            status = await process.wait()
            if status or not writing.done():
                reason = (await complaint).decode(errors="replace").strip().splitlines()
                why = reason[-1] if reason else f"exit status {status}"
                raise SynthUnavailable(f"FFmpeg could not encode the clip while it was made: {why}")
        except ValueError as error:
            raise SynthUnavailable(str(error)) from error
        finally:
            for task in (writing, complaint):
                task.cancel()
            await asyncio.gather(writing, complaint, return_exceptions=True)
            await reap(process)

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        while data := await process.stdout.read(_READ_BYTES):
            self._on_bytes(data)

    async def _write(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdin is not None
        # A process that has ended takes no more: what it says of that is read elsewhere.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            while data := await self._input.get():
                process.stdin.write(data)
                await process.stdin.drain()
            process.stdin.close()


class PacketEncoder(LiveEncoder):
    """The same into Opus packets for a voice channel, handed to `on_packets`."""

    def __init__(
        self, ffmpeg: FFmpeg, sample_rate: int, on_packets: Callable[[list[bytes]], None]
    ) -> None:
        command = encode_live(sample_rate, ffmpeg=ffmpeg, channels=2, bit_rate=VOICE_BIT_RATE)
        super().__init__(command, self._take_apart)
        self._on_packets = on_packets
        self._pages, self._headers = OggPackets(), 2  # OpusHead and OpusTags

    def _take_apart(self, data: bytes) -> None:
        packets = self._pages.feed(data)
        skipped = min(self._headers, len(packets))
        self._headers -= skipped
        packets = packets[skipped:]
        if any(packet_ms(packet) != 20 for packet in packets):
            raise ValueError("An Opus packet is not 20 ms long.")
        if packets:
            self._on_packets(packets)


async def _read_all(stream: asyncio.StreamReader | None) -> bytes:
    assert stream is not None
    return await stream.read()
