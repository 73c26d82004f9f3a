"""Opus packets of a made-up sound, for bots that only exist to try the stand-in."""

from __future__ import annotations

import av
import numpy as np

from tests.discord_server.recording import RATE, SAMPLES_A_PACKET, Samples


def sweep(seconds: float) -> Samples:
    """A tone that climbs from 200 Hz to 3 kHz: it fits itself in one place only. Mono, 48 kHz."""
    at_s = np.arange(round(seconds * RATE)) / RATE
    return 0.5 * np.sin(2 * np.pi * (200 * at_s + 1400 / seconds * at_s**2))


def encode(samples: Samples) -> list[bytes]:
    """20 ms packets, stereo."""
    encoder = av.CodecContext.create("libopus", "w")
    encoder.sample_rate = RATE
    encoder.layout = "stereo"
    encoder.format = "s16"
    encoder.bit_rate = 128_000
    packets: list[bytes] = []
    for start in range(0, len(samples) - SAMPLES_A_PACKET + 1, SAMPLES_A_PACKET):
        mono = (samples[start : start + SAMPLES_A_PACKET] * 32767).astype(np.int16)
        frame = av.AudioFrame.from_ndarray(np.repeat(mono, 2)[None], "s16", "stereo")
        frame.sample_rate = RATE
        frame.pts = start
        packets += [bytes(packet) for packet in encoder.encode(frame)]
    return packets
