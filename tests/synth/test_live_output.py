"""Sound that is written or played while it is made: the command line's, by its programs."""

import io
import os
import stat
import subprocess
import sys
import threading
import wave
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import pytest

from synth import __main__ as command
from synth.audio import FFmpeg, open_ffmpeg
from synth.errors import InvalidRequest, SynthError
from synth.live_output import LiveOutput, find_player
from synth.protocol import Audio
from tests.synth import forged
from tests.synth.sounds import RATE, correlation, speech_like

PLAYER = """#!{python}
import sys
open({heard!r}, "wb").write(sys.stdin.buffer.read())
sys.exit({status})
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return forged.suno_folder(tmp_path_factory.mktemp("models") / "suno")


@pytest.fixture(autouse=True)
def place(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder.parent / "xdg"))  # converted once for all tests
    monkeypatch.chdir(tmp_path)
    return tmp_path


def read(data: bytes) -> np.ndarray:
    """Mono samples at RATE of a file, or of a stream that was cut off."""
    resampler = av.AudioResampler("flt", "mono", RATE)
    with av.open(io.BytesIO(data), "r") as container:
        frames = [each for frame in container.decode(audio=0) for each in resampler.resample(frame)]
    return np.concatenate([each.to_ndarray()[0] for each in frames + resampler.resample(None)])


def audio(samples: np.ndarray, chunk: int = 0) -> Audio:
    return Audio("job", 0, chunk, samples)


@pytest.fixture
def pipe() -> Iterator[tuple[io.BufferedReader, io.BufferedWriter]]:
    receiving, sending = os.pipe()
    with os.fdopen(receiving, "rb") as reader, os.fdopen(sending, "wb") as writer:
        yield reader, writer


@pytest.mark.parametrize("fmt", ["wav", "raw", "ogg", "mp3", "flac"])
def test_what_is_made_is_read_before_there_is_more(
    pipe: tuple[io.BufferedReader, io.BufferedWriter], fmt: str
) -> None:
    reader, writer = pipe
    speech = speech_like(3.0, seed=2)
    with LiveOutput(open_ffmpeg(), RATE, fmt, writer) as live:
        live.begin("Hello", None)
        live(audio(speech[:RATE]))
        early = reader.read(1000)  # of what one second gives, and the second is not made yet
        rest: list[bytes] = []
        reading = threading.Thread(target=lambda: rest.append(reader.read()))
        reading.start()
        live(audio(speech[RATE:], 1))
        live.finish()
    writer.close()
    reading.join()
    data = early + rest[0]
    heard = np.frombuffer(data, "<i2") / 32768 if fmt == "raw" else read(data)
    assert abs(len(heard) - len(speech)) < RATE / 10
    assert correlation(heard, speech) > 0.97
    assert np.abs(heard).max() < 1


def test_nobody_reading_ends_the_work(pipe: tuple[io.BufferedReader, io.BufferedWriter]) -> None:
    reader, writer = pipe
    with pytest.raises(BrokenPipeError), LiveOutput(open_ffmpeg(), RATE, "raw", writer) as live:
        live.begin("Hello", None)
        reader.close()
        for chunk in range(200):
            live(audio(speech_like(1.0), chunk))


def write_player(place: Path, monkeypatch: pytest.MonkeyPatch, status: int = 0) -> Path:
    """An ffplay that listens as the real one does, and keeps what it hears in a file."""
    heard, player = place / "heard.wav", place / "bin" / "ffplay"
    player.parent.mkdir()
    player.write_text(PLAYER.format(python=sys.executable, heard=str(heard), status=status))
    player.chmod(player.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(player.parent))
    return heard


@pytest.mark.skipif(sys.platform == "win32", reason="a script as a program")
def test_play_gives_the_player_the_sound_and_writes_no_file(
    folder: Path, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    heard = write_player(place, monkeypatch)
    given = ["say", "Hello world", "--model", str(folder), "--seed", "3", "--play"]
    assert command.main(given) == 0
    assert "Spoken: " in capsys.readouterr().err
    first = heard.read_bytes()
    assert first.startswith(b"RIFF") and len(read(first)) > RATE / 10
    assert sorted(each.name for each in place.iterdir()) == ["bin", "heard.wav"]
    assert command.main([*given, "-o", "too.ogg"]) == 0
    assert (place / "too.ogg").read_bytes().startswith(b"OggS") and heard.read_bytes() == first


@pytest.mark.skipif(sys.platform == "win32", reason="a script as a program")
def test_a_player_that_fails_is_told(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_player(place, monkeypatch, status=1)
    ffmpeg = open_ffmpeg()
    with pytest.raises(SynthError, match="ffplay could not take the sound"):
        with LiveOutput(ffmpeg, RATE, "wav", find_player(ffmpeg)) as live:
            live.begin("Hello", None)
            live(audio(speech_like(1.0)))
            live.finish()


def test_no_player_is_told_with_the_remedy(
    folder: Path, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(place))
    with pytest.raises(InvalidRequest, match="ffplay was not found"):
        find_player(FFmpeg(str(place / "ffmpeg"), soxr=True))
    assert command.main(["say", "Hello", "--model", "none", "--play"]) == 1
    assert "apt install ffmpeg" in capsys.readouterr().err  # before any model is looked for


def say(folder: Path, *given: str) -> subprocess.CompletedProcess[bytes]:
    root = Path(__file__).parents[2]
    return subprocess.run(
        [sys.executable, "-m", "synth", "say", "Hello world", "--seed", "3", *given]
        + ["--model", str(folder)],
        capture_output=True,
        env=os.environ | {"PYTHONPATH": str(root)},
    )


def test_standard_output_carries_sound_and_nothing_else(folder: Path, place: Path) -> None:
    done = say(folder, "-o", "-")
    assert done.returncode == 0 and b"Spoken: " in done.stderr
    with wave.open(io.BytesIO(done.stdout)) as file:
        assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (RATE, 1, 2)
    assert len(read(done.stdout)) > RATE / 10
    assert not list(place.iterdir())


def test_a_file_can_be_written_as_its_sound_is_made(folder: Path, place: Path) -> None:
    given = ["say", "Hello world", "--model", str(folder), "--seed", "3"]
    assert command.main([*given, "-o", "a.wav", "--stream"]) == 0
    assert command.main([*given, "-o", "b.wav"]) == 0
    streamed, whole = (read((place / name).read_bytes()) for name in ("a.wav", "b.wav"))
    assert len(streamed) == len(whole)
    assert correlation(streamed, whole) > 0.97


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (["--format", "ogg"], "--format is for -o -"),
        (["-o", "-", "--raw"], "--raw needs the whole clip"),
        (["-o", "-", "--play"], "not both"),
        (["--play", "--stream"], "--stream is for files"),
    ],
)
def test_what_does_not_go_together_is_told(
    given: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main(["say", "Hello", "--model", "none", *given]) == 1
    assert sentence in capsys.readouterr().err
