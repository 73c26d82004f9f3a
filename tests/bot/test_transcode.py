"""Files and packets for Discord, made by the real FFmpeg."""

import asyncio
import os
import stat
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bot.errors import SynthUnavailable, UserError
from bot.transcode import Transcoder, packet_ms, packets_of
from synth.audio import AudioFormat, FFmpeg
from tests.synth.sounds import RATE, correlation, decode, meter, sine, speech_like

PLENTY = 10 << 20


@pytest.fixture
def transcoder() -> Transcoder:
    return Transcoder()


def ogg_of(packets: list[bytes]) -> bytes:
    """An Ogg Opus file of stereo packets, as a listener's client would decode them."""

    def page(number: int, flags: int, granule: int, body: list[bytes]) -> bytes:
        lacing = b"".join(b"\xff" * (len(p) // 255) + bytes([len(p) % 255]) for p in body)
        head = struct.pack("<4sBBqIIIB", b"OggS", 0, flags, granule, 1, number, 0, len(lacing))
        raw = bytearray(head + lacing + b"".join(body))
        crc = 0
        for byte in raw:
            crc ^= byte << 24
            for _ in range(8):
                crc = (crc << 1 ^ (0x04C11DB7 if crc & 0x80000000 else 0)) & 0xFFFFFFFF
        raw[22:26] = struct.pack("<I", crc)
        return bytes(raw)

    head = b"OpusHead" + struct.pack("<BBHIhB", 1, 2, 0, 48_000, 0, 0)
    tags = b"OpusTags" + struct.pack("<II", 0, 0)
    pages = [page(0, 2, 0, [head]), page(1, 0, 0, [tags])]
    for number, packet in enumerate(packets):
        last = 4 if number == len(packets) - 1 else 0
        pages.append(page(number + 2, last, 960 * (number + 1), [packet]))
    return b"".join(pages)


async def test_packets_of_a_clip_are_20_ms_each_and_say_all_of_it(
    transcoder: Transcoder, tmp_path: Path
) -> None:
    speech = speech_like(1.5)
    packets = await transcoder.opus_packets(speech, RATE)
    assert {packet_ms(packet) for packet in packets} == {20}
    assert not [p for p in packets if p.startswith(b"Opus")]
    assert len(packets) in (75, 76)  # Opus looks ahead 6.5 ms
    path = tmp_path / "heard.ogg"
    path.write_bytes(ogg_of(packets))
    heard = decode(path, channels=2)
    assert np.allclose(heard[:, 0], heard[:, 1], atol=0.01)
    assert correlation(heard[:, 0], speech) > 0.99
    assert meter(path)[0] == pytest.approx(-16, abs=1)


async def test_the_end_of_a_clip_is_not_cut_off(transcoder: Transcoder, tmp_path: Path) -> None:
    """The encoder holds back 6.5 ms; a click in the last one must come out."""
    samples = sine(1.01, peak=0.1)
    samples[-20:] = 0.8
    packets = await transcoder.opus_packets(samples, RATE)
    (tmp_path / "heard.ogg").write_bytes(ogg_of(packets))
    heard = decode(tmp_path / "heard.ogg")[:, 0]
    assert np.abs(heard).argmax() == pytest.approx(1.01 * RATE + 0.0065 * RATE - 10, abs=60)


async def test_both_channels_of_the_voice_carry_the_full_level(
    transcoder: Transcoder, tmp_path: Path
) -> None:
    """Spreading mono over two channels by FFmpeg's own mixing loses 3 dB on each."""
    from synth.audio import encode

    tone = sine(1.0, peak=0.25)
    recipe = encode(tone, RATE, fmt=AudioFormat.OGG, ffmpeg=transcoder.ffmpeg, channels=2, gain=1.0)
    path = tmp_path / "tone.ogg"
    path.write_bytes(await transcoder._run(recipe))
    heard = decode(path, channels=2)[RATE // 4 : -RATE // 4]
    rms_db = 20 * np.log10(np.sqrt((heard**2).mean(axis=0)) / (0.25 / np.sqrt(2)))
    assert rms_db == pytest.approx([0, 0], abs=0.2)


@pytest.mark.parametrize("fmt", list(AudioFormat))
async def test_each_format_is_posted_as_itself(transcoder: Transcoder, fmt: AudioFormat) -> None:
    clip = await transcoder.encode_clip(speech_like(1.0), RATE, fmt, limit_bytes=PLENTY)
    magic = {"ogg": b"OggS", "mp3": b"\xff\xfb", "flac": b"fLaC", "wav": b"RIFF"}[fmt]
    id3 = fmt is AudioFormat.MP3 and clip.data.startswith(b"ID3")
    assert clip.data.startswith(magic) or id3
    assert (clip.suffix, clip.duration_s, clip.notes) == (f".{fmt}", 1.0, ())


async def test_the_loudness_can_be_set(tmp_path: Path) -> None:
    quieter = Transcoder(target_lufs=-24)
    clip = await quieter.encode_clip(speech_like(1.0), RATE, AudioFormat.OGG, limit_bytes=PLENTY)
    (tmp_path / "clip.ogg").write_bytes(clip.data)
    assert meter(tmp_path / "clip.ogg")[0] == pytest.approx(-24, abs=1)
    (tmp_path / "heard.ogg").write_bytes(ogg_of(await quieter.opus_packets(speech_like(1.0), RATE)))
    assert meter(tmp_path / "heard.ogg")[0] == pytest.approx(-24, abs=1)


async def test_a_big_clip_is_encoded_smaller_then_trimmed_and_says_so(
    transcoder: Transcoder, tmp_path: Path
) -> None:
    speech = speech_like(4.0)
    small = await transcoder.encode_clip(speech, RATE, AudioFormat.OGG, limit_bytes=30_000)
    assert len(small.data) <= 30_000 and small.duration_s == 4.0
    assert any("encoded smaller" in note for note in small.notes)
    tiny = await transcoder.encode_clip(speech, RATE, AudioFormat.MP3, limit_bytes=12_000)
    assert len(tiny.data) <= 12_000 and 1 <= tiny.duration_s < 4
    assert any("Only the first" in note for note in tiny.notes)
    path = tmp_path / "tiny.mp3"
    path.write_bytes(tiny.data)
    assert len(decode(path)) / RATE == pytest.approx(tiny.duration_s, abs=0.1)


async def test_a_big_wav_becomes_ogg_and_says_so(transcoder: Transcoder) -> None:
    clip = await transcoder.encode_clip(speech_like(2.0), RATE, AudioFormat.WAV, limit_bytes=60_000)
    assert clip.fmt is AudioFormat.OGG and clip.data.startswith(b"OggS")
    assert clip.notes[0] == "As WAV it was too big to post here, so it is an Ogg Opus file."


async def test_a_limit_nothing_fits_is_one_plain_sentence(transcoder: Transcoder) -> None:
    with pytest.raises(UserError, match="Not even a second of sound fits 3000 bytes"):
        await transcoder.encode_clip(speech_like(2.0), RATE, AudioFormat.OGG, limit_bytes=3000)


@pytest.mark.parametrize(
    "samples", [np.zeros(0, "f4"), np.full(RATE, np.nan, "f4"), np.zeros((2, 9), "f4")]
)
async def test_what_is_no_clip_is_refused(transcoder: Transcoder, samples: np.ndarray) -> None:
    with pytest.raises(UserError):
        await transcoder.opus_packets(samples, RATE)
    assert transcoder.running == 0


def stand_in(folder: Path, body: str) -> FFmpeg:
    """A program in FFmpeg's place that does what a test needs of it."""
    path = folder / "ffmpeg"
    path.write_text(f"#!{sys.executable}\nimport os, sys, time\n{body}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return FFmpeg(str(path), soxr=True)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def until(condition: Callable[[], object]) -> None:
    """Waits for what another process does: there is no event for it."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def pid_in(file: Path) -> int:
    """The number another process writes into `file`, once it has."""

    def written() -> str:
        return file.read_text() if file.exists() else ""

    await until(written)
    return int(written())


HANG = "open(os.path.dirname(sys.argv[0]) + '/pid', 'w').write(str(os.getpid())); time.sleep(60)"


async def test_cancelled_it_leaves_no_process(tmp_path: Path) -> None:
    transcoder = Transcoder(stand_in(tmp_path, HANG))
    task = asyncio.create_task(transcoder.opus_packets(speech_like(5.0), RATE))
    pid = await pid_in(tmp_path / "pid")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not alive(pid) and transcoder.running == 0


async def test_too_slow_it_is_stopped_and_said_so(tmp_path: Path) -> None:
    transcoder = Transcoder(stand_in(tmp_path, HANG), timeout_s=0.5)
    with pytest.raises(SynthUnavailable, match="longer than"):
        await transcoder.opus_packets(speech_like(1.0), RATE)
    assert not alive(await pid_in(tmp_path / "pid"))


async def test_a_pile_of_clips_runs_so_many_at_a_time(tmp_path: Path) -> None:
    folder, go, counts = tmp_path / "now", tmp_path / "go", tmp_path / "counts"
    folder.mkdir()
    # The first two stay until both are there, however late the second starts.
    body = f"""
mine = {str(folder)!r} + f"/{{os.getpid()}}"
open(mine, "w").close()
print(len(os.listdir({str(folder)!r})), file=open({str(counts)!r}, "a"))
sys.stdin.buffer.read()
while not os.path.exists({str(go)!r}): time.sleep(.01)
os.unlink(mine)
sys.exit(1)"""
    transcoder = Transcoder(stand_in(tmp_path, body), concurrency=2)
    speech = speech_like(0.2)
    clips = asyncio.gather(
        *(transcoder.opus_packets(speech, RATE) for _ in range(8)), return_exceptions=True
    )
    await until(lambda: counts.exists() and counts.read_text().count("\n") == 2)
    go.touch()
    assert all(isinstance(result, SynthUnavailable) for result in await clips)
    seen = [int(line) for line in counts.read_text().split()]
    assert len(seen) == 8 and max(seen) == 2


async def test_a_waiting_clip_that_is_cancelled_never_starts(tmp_path: Path) -> None:
    transcoder = Transcoder(stand_in(tmp_path, HANG), concurrency=1)
    first = asyncio.create_task(transcoder.opus_packets(speech_like(1.0), RATE))
    await pid_in(tmp_path / "pid")
    second = asyncio.create_task(transcoder.opus_packets(speech_like(1.0), RATE))
    await asyncio.sleep(0)
    assert transcoder.running == 1
    for task in (second, first):
        task.cancel()
    await asyncio.wait({first, second})
    assert first.cancelled() and second.cancelled() and transcoder.running == 0


async def test_a_program_that_vanished_is_one_plain_sentence() -> None:
    transcoder = Transcoder(FFmpeg("/nowhere/ffmpeg", soxr=True))
    with pytest.raises(SynthUnavailable, match="FFmpeg could not be started"):
        await transcoder.opus_packets(speech_like(1.0), RATE)


async def test_no_process_is_left_after_real_work(
    transcoder: Transcoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[asyncio.subprocess.Process] = []
    start = asyncio.create_subprocess_exec

    async def noted(*args: str, **options: Any) -> asyncio.subprocess.Process:
        started.append(await start(*args, **options))
        return started[-1]

    monkeypatch.setattr(asyncio, "create_subprocess_exec", noted)
    await transcoder.opus_packets(speech_like(1.0), RATE)
    assert len(started) >= 2  # measured, encoded
    assert [process.returncode for process in started] == [0] * len(started)
    assert not [process.pid for process in started if alive(process.pid)]


@pytest.mark.parametrize(
    ("toc", "ms"),
    [(b"\x08", 20), (b"\x00", 10), (b"\x18", 60), (b"\x78", 20), (b"\xf8", 20), (b"\xe0", 2.5)],
)
def test_the_length_of_a_packet_is_in_its_first_byte(toc: bytes, ms: float) -> None:
    assert packet_ms(toc + b"\xff") == ms
    assert packet_ms(bytes([toc[0] | 1]) + b"\xff") == 2 * ms
    assert packet_ms(bytes([toc[0] | 3, 3])) == 3 * ms


def test_packets_of_another_length_are_refused() -> None:
    with pytest.raises(ValueError, match="packet 1 is 40 ms"):
        packets_of(ogg_of([b"\xf8\xff\xfe", b"\xf9\xff\xfe"]))
