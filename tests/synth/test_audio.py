"""Finished clips as files: loudness as a meter reads it, exactness, and every way to fail."""

import errno
import os
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest

from synth.audio import (
    AudioFormat,
    Loudness,
    encode,
    measure,
    normalise_gain,
    open_ffmpeg,
    save,
)
from synth.errors import InvalidRequest, JobTimeout, SynthError
from synth.ffmpeg_runner import Command, FFmpeg, execute, probe, run
from synth.loudness import gain_for
from tests.synth.sounds import RATE, correlation, decode, meter, peaky, sine, speech_like

SIGNALS = {
    "speech of 1 s": speech_like(1.0),
    "speech of 4 s": speech_like(4.0, seed=3),
    "quiet speech": speech_like(2.0, peak=0.005),
    "clipped speech": np.clip(speech_like(2.0) * 8, -1, 1),
    "sine": sine(1.0, peak=0.9),
    "high sine between samples": sine(2.0, hertz=5_999, peak=0.99),
    "noise": np.random.default_rng(1).normal(0, 0.05, RATE * 2).astype(np.float32),
    "clicks": np.where(np.arange(RATE * 3) % 6000 < 2, 0.9, 0).astype(np.float32),
    "far over full scale": sine(2.0, peak=6.0),
}


EVERY_FORMAT = ("speech of 1 s", "high sine between samples")
LOSSLESS_TOO = [(name, AudioFormat.WAV) for name in ("clicks", "far over full scale")]


@pytest.mark.parametrize(
    ("name", "fmt"),
    [
        (name, fmt)
        for name in SIGNALS
        for fmt in AudioFormat
        # Opus moves peaks; where it does not matter, what a lossless file holds follows from it.
        if name in EVERY_FORMAT or fmt is AudioFormat.OGG or (name, fmt) in LOSSLESS_TOO
    ],
)
def test_every_clip_is_as_loud_as_it_may_be(name: str, fmt: AudioFormat, tmp_path: Path) -> None:
    path = tmp_path / f"clip{fmt.suffix}"
    save(SIGNALS[name], RATE, path)
    lufs, peak = meter(path)
    assert peak <= -1.0
    # Either the loudness is right, or the peak is as high as it may be and forbids more.
    assert abs(lufs + 16) <= 1 or (lufs < -16 and peak > -2.5)


def test_one_gain_for_the_whole_clip() -> None:
    loud_then_quiet = np.concatenate([sine(2.0, peak=0.5), sine(2.0, peak=0.05)])
    gain = normalise_gain(loud_then_quiet, RATE)
    assert normalise_gain(loud_then_quiet * gain, RATE) == pytest.approx(1, abs=0.02)
    assert normalise_gain(loud_then_quiet * 2, RATE) == pytest.approx(gain / 2, rel=0.02)
    # Two channels add 3 LU, so each is played that much lower.
    assert normalise_gain(loud_then_quiet, RATE, channels=2) == pytest.approx(
        gain / np.sqrt(2), rel=0.02
    )


@pytest.mark.parametrize("seconds", [0.001, 0.05, 0.39, 0.7])
def test_silence_and_short_clips_do_not_explode(seconds: float, tmp_path: Path) -> None:
    silence = np.zeros(max(1, int(seconds * RATE)), np.float32)
    assert normalise_gain(silence, RATE) == 1.0
    quiet = np.random.default_rng(0).normal(0, 1e-4, len(silence)).astype(np.float32)
    assert normalise_gain(quiet, RATE) <= 10 ** (12 / 20)
    path = tmp_path / "short.ogg"
    save(speech_like(max(seconds, 0.01)), RATE, path)
    assert 0.01 < np.abs(decode(path, 48_000)).max() <= 10 ** (-1 / 20)


def test_a_clip_of_single_peaks_is_as_loud_as_all_others(tmp_path: Path) -> None:
    """It stayed 1.2 LU below: the limiter took of what had been made up for it, too."""
    save(peaky(2.0, 0.7, seed=1), RATE, tmp_path / "clip.wav")
    assert meter(tmp_path / "clip.wav")[0] == pytest.approx(-16, abs=1)


def test_the_gain_of_a_measurement() -> None:
    assert gain_for(Loudness(-22.0, -20.0), 2.0) == pytest.approx(10 ** (6 / 20))
    assert gain_for(Loudness(-10.0, -3.0), 2.0) == pytest.approx(10 ** (-6 / 20))
    assert gain_for(Loudness(-22.0, -4.0), 2.0) < 10 ** (3 / 20)  # the peak wins
    assert gain_for(Loudness(-69.0, -60.0), 2.0) == pytest.approx(10 ** (50 / 20))
    assert gain_for(Loudness(-np.inf, -60.0), 2.0) == 1.0


def test_what_is_saved_is_what_was_said(tmp_path: Path) -> None:
    speech = np.tanh(6 * speech_like(1.0))  # no peak of it has to be held
    for fmt, least in {"ogg": 0.99, "mp3": 0.99, "flac": 0.99999, "wav": 0.99999}.items():
        path = tmp_path / f"clip.{fmt}"
        save(speech, RATE, path)
        heard = decode(path)[:, 0]
        assert correlation(heard, speech) > least
        assert len(heard) == pytest.approx(len(speech), abs=RATE * 0.06)  # MP3 pads
    assert len(decode(tmp_path / "clip.flac")) == len(speech)


def test_raw_keeps_every_bit(tmp_path: Path) -> None:
    samples = np.random.default_rng(2).normal(0, 1, 5000).astype(np.float32)
    samples[:5] = [np.inf, -np.inf, np.nan, 1e-42, -0.0]
    path = tmp_path / "raw.wav"
    save(samples, RATE, path, raw=True)
    data = path.read_bytes()
    assert samples.astype("<f4").tobytes() in data
    assert b"WAVEfmt " in data and data[20:22] in (b"\x03\x00", b"\xfe\xff")  # float
    with pytest.raises(InvalidRequest, match=r"into a \.wav file only, not raw\.ogg"):
        save(samples, RATE, tmp_path / "raw.ogg", raw=True)


def test_the_same_clip_gives_the_same_bytes(tmp_path: Path) -> None:
    speech = speech_like(0.5)
    for fmt in (AudioFormat.OGG, AudioFormat.MP3):
        first, second = (tmp_path / f"{n}{fmt.suffix}" for n in "ab")
        save(speech, RATE, first)
        save(speech, RATE, second)
        assert first.read_bytes() == second.read_bytes()


def test_the_bundled_ffmpeg_writes_the_same_loudness(tmp_path: Path) -> None:
    bundled = open_ffmpeg(imageio_ffmpeg.get_ffmpeg_exe())
    for fmt in AudioFormat:
        path = tmp_path / f"clip{fmt.suffix}"
        save(SIGNALS["noise"], RATE, path, ffmpeg=bundled)
        assert meter(path)[0] == pytest.approx(-16, abs=1)


def test_without_soxr_it_still_works_and_says_so(tmp_path: Path) -> None:
    found = open_ffmpeg()
    plain = FFmpeg(found.path, soxr=False)
    path = tmp_path / "clip.ogg"
    save(SIGNALS["noise"], RATE, path, ffmpeg=plain)
    assert meter(path)[0] == pytest.approx(-16, abs=1)
    assert "without libsoxr" in plain.notes[0]


def test_resampling_is_by_soxr_where_there_is_one() -> None:
    ffmpeg = FFmpeg("ffmpeg", soxr=True)
    recipe = encode(sine(1.0), RATE, fmt=AudioFormat.OGG, ffmpeg=ffmpeg, loudness=Loudness(-20, -6))
    assert "resampler=soxr" in " ".join(next(recipe).args)
    recipe.close()


@pytest.mark.parametrize(
    ("samples", "said"),
    [
        (np.zeros(0, np.float32), "empty"),
        (np.full(RATE, np.nan, np.float32), "not numbers"),
        (np.zeros((2, RATE), np.float32), "one row"),
        (np.zeros(RATE, np.int16), "int16"),
    ],
)
def test_what_is_no_clip_is_refused_and_leaves_no_file(
    samples: np.ndarray, said: str, tmp_path: Path
) -> None:
    with pytest.raises(InvalidRequest, match=said):
        save(samples, RATE, tmp_path / "clip.ogg")
    assert not list(tmp_path.iterdir())


def test_an_unknown_suffix_lists_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match=r"\.aac is not .*\.ogg, \.mp3, \.flac, \.wav"):
        save(sine(1.0), RATE, tmp_path / "clip.aac")
    with pytest.raises(InvalidRequest, match="No suffix"):
        save(sine(1.0), RATE, tmp_path / "clip")


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(SynthError, match="folder .*nowhere does not exist"):
        save(sine(1.0), RATE, tmp_path / "nowhere" / "clip.ogg")


def test_a_full_disk_is_named_and_leaves_the_old_file_whole(tmp_path: Path) -> None:
    """A limit on file size stands in for the disk: the write fails in the middle just so."""
    path = tmp_path / "clip.wav"
    path.write_bytes(b"the old one")
    script = f"""
        import resource, signal, sys
        from pathlib import Path
        from synth.audio import AudioFormat, encode, open_ffmpeg, run, write_atomically
        from synth.errors import SynthError
        from tests.synth.sounds import sine
        clip = run(encode(sine(4.0), 24000, fmt=AudioFormat.WAV, ffmpeg=open_ffmpeg()))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
        write_atomically(Path({str(tmp_path / "small.wav")!r}), clip[:40_000])
        try:
            write_atomically(Path({str(path)!r}), clip)
        except SynthError as error:
            sys.exit(str(error))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert done.stderr.strip() == (
        f"The disk is full: {path} was not saved. Free some space and try again."
    )
    assert path.read_bytes() == b"the old one"
    assert sorted(os.listdir(tmp_path)) == ["clip.wav", "small.wav"]


def test_a_disk_that_ffmpeg_fills_is_named(tmp_path: Path) -> None:
    program = tmp_path / "ffmpeg"
    program.write_text("#!/bin/sh\necho 'av_write: No space left on device' >&2\n")
    program.chmod(0o755)
    with pytest.raises(SynthError, match="The disk is full"):
        save(sine(1.0), RATE, tmp_path / "clip.wav", ffmpeg=FFmpeg(str(program), soxr=True))
    assert os.listdir(tmp_path) == ["ffmpeg"]


def test_a_temporary_folder_that_is_full_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def full(*_: object, **__: object) -> str:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tempfile, "mkdtemp", full)
    with pytest.raises(SynthError, match="The disk is full"):
        save(sine(1.0), RATE, tmp_path / "clip.flac")
    assert not os.listdir(tmp_path)


# Finding FFmpeg


def test_no_ffmpeg_at_all_names_the_remedy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(tmp_path / "gone"))
    with pytest.raises(SynthError, match="pip install imageio-ffmpeg"):
        open_ffmpeg()


def test_the_bundled_one_serves_where_the_system_has_none(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert open_ffmpeg().path == imageio_ffmpeg.get_ffmpeg_exe()


@pytest.mark.parametrize("body", ["exit 3", "echo ' A....D flac x'", "echo"])
def test_an_unable_one_is_passed_over_unless_it_was_asked_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, body: str
) -> None:
    program = tmp_path / "ffmpeg"
    program.write_text(f"#!/bin/sh\n{body}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert open_ffmpeg().path == imageio_ffmpeg.get_ffmpeg_exe()
    with pytest.raises(SynthError, match="(does not run as FFmpeg|built without).*Install FFmpeg"):
        open_ffmpeg(program)
    with pytest.raises(SynthError, match="could not be run.*Install FFmpeg"):
        open_ffmpeg(tmp_path / "missing")


def test_the_one_found_can_all_that_is_asked_of_it() -> None:
    ffmpeg = open_ffmpeg()
    assert probe(ffmpeg.path) == ffmpeg
    loudness = run(measure(sine(1.0, hertz=1000, peak=1.0), RATE, ffmpeg=ffmpeg))
    assert loudness.integrated_lufs == pytest.approx(-3.0, abs=0.2)  # BS.1770's own reference
    assert loudness.true_peak_dbtp == pytest.approx(0.0, abs=0.2)


def test_a_program_that_hangs_is_ended() -> None:
    with pytest.raises(JobTimeout, match="within 0 s"):
        execute(Command((sys.executable, "-c", "import time; time.sleep(60)")), timeout_s=0.2)
