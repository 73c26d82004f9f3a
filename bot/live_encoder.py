"""One clip's way from samples to Opus packets while it is still being made: one FFmpeg, fed.

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
from synth.audio import FFmpeg, encode_live

_READ_BYTES = 65_536


class LiveEncoder:
    """Takes samples with `feed`, hands packets to `on_packets`, both on the loop, neither waiting.

    `run` does the work and ends with the stream; cancelling it ends the process.
    """

    def __init__(
        self, ffmpeg: FFmpeg, sample_rate: int, on_packets: Callable[[list[bytes]], None]
    ) -> None:
        self._command = encode_live(sample_rate, ffmpeg=ffmpeg, channels=2, bit_rate=VOICE_BIT_RATE)
        self._on_packets = on_packets
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
        pages, headers = OggPackets(), 2  # OpusHead and OpusTags
        while data := await process.stdout.read(_READ_BYTES):
            packets = pages.feed(data)
            skipped = min(headers, len(packets))
            headers -= skipped
            packets = packets[skipped:]
            if any(packet_ms(packet) != 20 for packet in packets):
                raise ValueError("An Opus packet is not 20 ms long.")
            if packets:
                self._on_packets(packets)

    async def _write(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdin is not None
        # A process that has ended takes no more: what it says of that is read elsewhere.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            while data := await self._input.get():
                process.stdin.write(data)
                await process.stdin.drain()
            process.stdin.close()


async def _read_all(stream: asyncio.StreamReader | None) -> bytes:
    assert stream is not None
    return await stream.read()
