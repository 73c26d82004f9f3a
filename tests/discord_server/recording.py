"""What a listener heard: packets to sound, and how evenly they came.

Knows nothing of sockets or encryption.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import av
import numpy as np
import numpy.typing as npt

from tests.discord_server.dave import SILENCE

RATE = 48_000
PACKET_S = 0.02
SAMPLES_A_PACKET = 960

Samples = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Packet:
    """One RTP packet after transport decryption.

    opus: what a listener could decode, None when nobody could.
    end_to_end: whether DAVE had encrypted it.
    exposed: whether sound went out readable for the server while somebody listened.
    """

    arrived_s: float
    sequence: int
    timestamp: int
    opus: bytes | None
    end_to_end: bool
    exposed: bool

    @property
    def silent(self) -> bool:
        return self.opus == SILENCE


def sounding(packets: Sequence[Packet]) -> list[Packet]:
    """Without the silence before the first and after the last packet that has sound."""
    loud = [index for index, packet in enumerate(packets) if not packet.silent]
    return list(packets[loud[0] : loud[-1] + 1]) if loud else []


def decode(packets: Sequence[Packet]) -> Samples:
    """Mono samples at 48 kHz. Raises AssertionError where a packet could not be read."""
    decoder = av.CodecContext.create("libopus", "r")
    decoder.sample_rate = RATE
    decoder.layout = "stereo"
    pieces: list[Samples] = []
    for packet in packets:
        assert packet.opus is not None, f"nobody could read packet {packet.sequence}"
        for frame in decoder.decode(av.Packet(packet.opus)):
            array = frame.to_ndarray()
            samples = array.astype(np.float64)
            if array.dtype.kind == "i":
                samples /= 32768  # interleaved or planar 16 bit
            channels = samples if samples.shape[0] == 2 else samples.reshape(-1, 2).T
            pieces.append(channels.mean(axis=0))
    return np.concatenate(pieces) if pieces else np.zeros(0)


def read_clip(data: bytes) -> Samples:
    """Any audio file as mono samples at 48 kHz."""
    resampler = av.AudioResampler("flt", "mono", RATE)
    pieces: list[Samples] = []
    with av.open(io.BytesIO(data), "r") as container:
        for frame in container.decode(audio=0):
            for resampled in resampler.resample(frame):
                pieces.append(resampled.to_ndarray()[0].astype(np.float64))
        for resampled in resampler.resample(None):
            pieces.append(resampled.to_ndarray()[0].astype(np.float64))
    return np.concatenate(pieces)


def similarity(heard: Samples, reference: Samples) -> tuple[float, int]:
    """Correlation of `reference` with the stretch of `heard` it fits best, and where that starts.

    Both mono at 48 kHz. The part of the reference that lies outside of what was heard counts as
    not heard, so that a lost beginning or end shows. What is below 20 Hz is left out: Opus does not
    carry it.
    """
    heard, reference = _audible(heard), _audible(reference)
    size = len(heard) + len(reference)
    spectrum = np.fft.rfft(heard, size) * np.conj(np.fft.rfft(reference, size))
    products = np.fft.irfft(spectrum, size)
    best = int(np.argmax(products))
    start = best if best < len(heard) else best - size
    span = heard[max(start, 0) : start + len(reference)]
    energy = float(np.sum(span**2) * np.sum(reference**2))
    return (float(products[best] / np.sqrt(energy)) if energy else 0.0), start


def _audible(samples: Samples) -> Samples:
    spectrum = np.fft.rfft(samples)
    spectrum[np.fft.rfftfreq(len(samples), 1 / RATE) < 20] = 0
    return np.fft.irfft(spectrum, len(samples))


def longest_gap_s(packets: Sequence[Packet]) -> float:
    arrivals = [packet.arrived_s for packet in packets]
    return max((b - a for a, b in zip(arrivals, arrivals[1:], strict=False)), default=0.0)


def largest_burst(packets: Sequence[Packet], closer_than_s: float = 0.005) -> int:
    """The most packets in a row that came closer to each other than `closer_than_s`."""
    largest = run = 1 if packets else 0
    for before, after in zip(packets, packets[1:], strict=False):
        run = run + 1 if after.arrived_s - before.arrived_s < closer_than_s else 1
        largest = max(largest, run)
    return largest


def missing(packets: Sequence[Packet]) -> int:
    """How many RTP sequence numbers were skipped between the first and the last packet."""
    return sum(
        (after.sequence - before.sequence - 1) % 65536
        for before, after in zip(packets, packets[1:], strict=False)
    )
