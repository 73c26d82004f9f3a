"""The packet source, alone and under discord.py's own player thread."""

import sys
import threading
import time
from types import SimpleNamespace
from typing import Any

import discord
import pytest
from discord.player import AudioPlayer

from bot.opus_source import SILENCE, OpusSource, PacketStream

PACKETS = [bytes([0xFC, number]) for number in range(20)]


class Receiver:
    """What AudioPlayer needs of a voice client; notes when each packet came."""

    timeout = 1.0

    def __init__(self) -> None:
        self.arrivals: list[tuple[float, bytes]] = []
        self.ws = SimpleNamespace(speak=lambda _: None)
        self.client = SimpleNamespace(loop=None)

    def is_connected(self) -> bool:
        return True

    def send_audio_packet(self, data: bytes, *, encode: bool) -> None:
        assert not encode
        self.arrivals.append((time.perf_counter(), data))


def drain(source: OpusSource) -> list[bytes]:
    return list(iter(source.read, b""))


def test_all_packets_once_then_the_end() -> None:
    source = OpusSource(PacketStream(PACKETS))
    assert source.is_opus()
    assert drain(source) == PACKETS
    assert source.read() == b""
    assert (source.sent, source.due, source.exhausted) == (20, 20, True)


def test_dry_it_gives_silence_until_it_is_finished() -> None:
    stream = PacketStream(finished=False)
    source = OpusSource(stream)
    assert source.read() == SILENCE and source.underruns == 1
    stream.append(PACKETS[:1])
    assert source.read() == PACKETS[0]
    assert not source.exhausted
    stream.finish()
    assert source.read() == b"" and source.exhausted
    with pytest.raises(RuntimeError):
        stream.append(PACKETS)


def test_run_dry_it_waits_until_going_on_is_worth_it() -> None:
    """One pause and not a stutter; the end of the stream is always worth it."""
    stream = PacketStream(PACKETS[:1], finished=False)
    source = OpusSource(stream, refill=3)
    assert [source.read(), source.read()] == [PACKETS[0], SILENCE]
    stream.append(PACKETS[1:3])
    assert [source.read(), source.read()] == [SILENCE, SILENCE]
    stream.append(PACKETS[3:4])
    assert [source.read() for _ in range(4)] == [*PACKETS[1:4], SILENCE]
    assert (source.underruns, source.silences) == (2, 4)
    stream.append(PACKETS[4:5])
    stream.finish()
    assert drain(source) == PACKETS[4:5]


def test_it_tells_twice_a_second_what_was_heard() -> None:
    told: list[int] = []
    drain(OpusSource(PacketStream(PACKETS * 3), on_heard=told.append))
    assert told == [25, 50]


def test_the_last_packets_are_not_lost_to_a_finish_in_between() -> None:
    """Asking for a packet before asking whether it was over lost the tail of most streams."""
    stream = PacketStream(finished=False)
    source = OpusSource(stream)

    class FilledJustTooLate(list[bytes]):
        def __len__(self) -> int:
            length = super().__len__()
            if not length:  # the writer's thread comes in here
                stream.append(PACKETS)
                stream.finish()
            return length

    stream.packets = FilledJustTooLate()
    assert drain(source) == [SILENCE, *PACKETS]


def test_a_writer_in_another_thread_is_heard_whole() -> None:
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for _ in range(100):
            stream = PacketStream(finished=False)
            source = OpusSource(stream)

            def write(stream: PacketStream = stream) -> None:
                for packet in PACKETS:
                    stream.append([packet])
                stream.finish()

            writer = threading.Thread(target=write)
            writer.start()
            heard = [packet for packet in drain(source) if packet != SILENCE]
            writer.join()
            assert heard == PACKETS
    finally:
        sys.setswitchinterval(interval)


def test_held_it_keeps_its_packets_and_gives_up_at_the_limit() -> None:
    held = True
    source = OpusSource(PacketStream(PACKETS), hold=lambda: held, hold_limit_s=0.1)
    assert [source.read() for _ in range(5)] == [SILENCE] * 5
    held = False
    assert source.read() == PACKETS[0]
    held = True
    assert [source.read() for _ in range(6)] == [SILENCE] * 5 + [b""]
    assert source.stalled and not source.exhausted and source.sent == 1


def test_rewound_it_says_the_last_packet_again() -> None:
    source = OpusSource(PacketStream(PACKETS))
    assert [source.read(), source.read()] == PACKETS[:2]
    source.rewind(1)
    assert drain(source) == PACKETS[1:]
    OpusSource(PacketStream(PACKETS)).rewind(5)  # before the beginning there is nothing


def test_it_tells_once_when_the_first_real_packet_goes() -> None:
    told: list[float] = []
    stream = PacketStream(finished=False)
    source = OpusSource(stream, on_first_packet=told.append, clock=lambda: 12.5)
    source.read()
    assert told == []
    stream.append(PACKETS)
    assert [source.read(), source.read()] == PACKETS[:2]
    assert told == [12.5]


def test_a_writer_that_is_late_causes_no_burst(monkeypatch: pytest.MonkeyPatch) -> None:
    """The player makes up for time lost in read() by sending several packets at once.

    Its clock is ours here, and moves only when it sleeps or when a read takes time: packets that
    came 0.4 s late are sent 20 ms apart all the same, with silence for what was missing.
    """
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    stream = PacketStream(finished=False)
    source = OpusSource(stream)
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        now[0] += seconds
        if len(slept) == 20:
            stream.append(PACKETS)
            stream.finish()

    monkeypatch.setattr(time, "sleep", sleep)
    receiver: Any = Receiver()
    player = AudioPlayer(source, receiver, after=None)
    monkeypatch.setattr(player, "_speak", lambda _: None)
    player.run()  # in this thread: nothing else may see the stubbed clock
    sound = [(at, data) for at, data in receiver.arrivals if data != SILENCE]
    assert [data for _, data in sound] == PACKETS
    gaps = [b[0] - a[0] for a, b in zip(sound, sound[1:], strict=False)]
    assert min(gaps) == pytest.approx(discord.opus.Encoder.FRAME_LENGTH / 1000)
    assert (source.underruns, source.silences) == (1, 20)
