"""What `recording` says of packets that came too late, too early or not at all."""

import numpy as np
import pytest

from tests.discord_server import opus, recording
from tests.discord_server.dave import SILENCE
from tests.discord_server.recording import PACKET_S, Packet


def packets_of(samples: recording.Samples) -> list[Packet]:
    return [
        Packet(number * PACKET_S, number, number * 960, data, True, False)
        for number, data in enumerate(opus.encode(samples))
    ]


def test_gaps_and_bursts() -> None:
    even = packets_of(opus.sweep(1))
    assert recording.longest_gap_s(even) == pytest.approx(PACKET_S)
    assert recording.largest_burst(even) == 1
    late = [p if p.sequence < 10 else _at(p, p.arrived_s + 0.2) for p in even]
    assert recording.longest_gap_s(late) == pytest.approx(0.22)
    burst = [p if p.sequence < 10 else _at(p, 0.2 + p.sequence / 1000) for p in even]
    assert recording.largest_burst(burst) == len(even) - 10


def test_lost_packets() -> None:
    packets = packets_of(opus.sweep(1))
    assert recording.missing(packets) == 0
    assert recording.missing(packets[:10] + packets[13:]) == 3


def test_silence_around_the_sound_is_left_out() -> None:
    silence = [Packet(0, 0, 0, SILENCE, False, False)]
    sound = packets_of(opus.sweep(0.2))
    assert recording.sounding([*silence, *sound, *silence]) == sound
    assert recording.sounding(silence) == []


def test_similarity_tells_the_whole_from_a_part_and_from_another_sound() -> None:
    tone = opus.sweep(2)
    heard = recording.decode(packets_of(tone))
    whole, start = recording.similarity(heard, tone)
    assert whole > 0.99
    assert start / recording.RATE < 0.02
    cut, _ = recording.similarity(heard[: len(heard) // 2], tone)
    assert cut < 0.8
    doubled, _ = recording.similarity(np.repeat(heard, 2), tone)
    assert doubled < 0.5
    noise = np.random.default_rng(0).standard_normal(len(tone))
    assert recording.similarity(heard, noise)[0] < 0.1


def _at(packet: Packet, arrived_s: float) -> Packet:
    return Packet(
        arrived_s, packet.sequence, packet.timestamp, packet.opus, packet.end_to_end, packet.exposed
    )
