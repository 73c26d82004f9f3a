"""The command line as a user meets it: a model folder in, sound files or one sentence out."""

import io
import os
import signal
import subprocess
import sys
import wave
from pathlib import Path

import numpy as np
import pytest
import torch

from synth import __main__ as command
from synth.api import Bark
from synth.audio import find_ffmpeg
from synth.errors import InvalidRequest
from synth.protocol import Sampling, Streaming
from synth.vocab import BARK
from synth.voices import load_npz
from tests.synth import forged


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return forged.suno_folder(tmp_path_factory.mktemp("models") / "suno")


@pytest.fixture(autouse=True)
def place(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder.parent / "xdg"))  # converted once for all tests
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


def seconds(file: Path) -> float:
    """The length FFmpeg decodes `file` to."""
    raw = subprocess.run(
        [find_ffmpeg(), "-v", "error", "-i", file, "-f", "s16le", "-ar", "8000", "-ac", "1", "-"],
        capture_output=True,
        check=True,
    )
    return len(raw.stdout) / 2 / 8000


def float_samples(file: Path) -> np.ndarray:
    """The samples of a 32-bit float WAV."""
    data = file.read_bytes()
    plain, extended = data[20:22], data[44:46]
    assert (extended if plain == b"\xfe\xff" else plain) == b"\x03\x00"  # IEEE float
    place = data.index(b"data") + 8
    assert int.from_bytes(data[place - 4 : place], "little") == len(data) - place
    return np.frombuffer(data[place:], "<f4")


def test_say_writes_a_file_that_plays(folder: Path, place: Path, capsys) -> None:
    status = command.main(
        ["say", "Hello", "world", "[laughs]", "--model", str(folder), "--voice"]
        + ["v2/en_speaker_6", "-o", "hello.ogg", "--seed", "7", "--save-voice", "me.npz"]
    )
    out = capsys.readouterr().out
    assert status == 0 and "hello.ogg: " in out and "seed 7" in out
    voice = load_npz(place / "me.npz", BARK)
    assert seconds(place / "hello.ogg") == pytest.approx(voice.fine_codes.shape[1] / 75, abs=0.1)
    assert sorted(file.name for file in place.iterdir()) == ["hello.ogg", "me.npz"]


def test_raw_samples_are_untouched_and_the_seed_repeats_them(folder: Path, place: Path) -> None:
    given = ["say", "Hello world", "--model", str(folder), "--raw", "--seed", "3"]
    assert command.main(given) == 0
    assert command.main([*given, "-o", "b.wav", "--temperature", "0.7"]) == 0
    clip = Bark.load(folder).say("Hello world", seed=3, plain=True)
    assert np.array_equal(float_samples(place / "speech.wav"), clip.samples)
    assert np.array_equal(float_samples(place / "b.wav"), clip.samples)
    assert command.main([*given, "-o", "c.wav", "--low-latency"]) == 0
    sooner = Bark.load(folder).say("Hello world", seed=3, streaming=Streaming.LOW_LATENCY)
    assert np.array_equal(float_samples(place / "c.wav"), sooner.samples)
    assert not np.array_equal(sooner.samples, clip.samples)


def test_single_is_one_utterance_cut_at_256_tokens(folder: Path, place: Path, capsys) -> None:
    given = ["say", "--model", str(folder), "--raw", "--temperature", "0", "--max-seconds", ".3"]
    long = "a b c d " * 64
    for name, text, options in (
        ("default", long + "e " * 44, []),
        ("single", long + "e " * 44, ["--single"]),
        ("cut", long, ["--single"]),
    ):
        assert command.main([*given, text, "-o", f"{name}.wav", *options]) == 0
        notes = capsys.readouterr().out.splitlines()[1:]
        lost = "The text was too long for one clip: the last 14.7 % of it (44 of 300 word pieces)"
        wanted = {"cut": [], "single": [f"{lost} was cut."]}
        assert notes == wanted.get(name, ["The clip was cut at 0.3 s."])
    assert (place / "single.wav").read_bytes() == (place / "cut.wav").read_bytes()


def test_many_texts_load_the_model_once(
    folder: Path, place: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    (place / "lines.txt").write_text("Hello world.\n\n  こんにちは \n", encoding="utf-8")
    loads = []
    real = Bark.load.__func__  # type: ignore[attr-defined]
    monkeypatch.setattr(
        Bark, "load", classmethod(lambda c, *a, **k: loads.append(1) or real(c, *a, **k))
    )
    given = ["say", "--model", str(folder), "-o", "out.wav", "--max-seconds", ".2"]
    assert command.main([*given, "--file", "lines.txt"]) == 0
    assert {file.name for file in place.glob("*.wav")} == {"out-1.wav", "out-2.wav"}
    monkeypatch.setattr("sys.stdin", io.StringIO("Hello\nSuno\nmusic\n"))
    assert command.main([*given, "-o", "std.wav"]) == 0
    assert len(list(place.glob("std-*.wav"))) == 3
    assert len(loads) == 2
    with wave.open(str(place / "std-1.wav")) as file:
        assert file.getframerate() == 24_000


def test_a_text_that_cannot_be_spoken_keeps_no_other_back(
    folder: Path, place: Path, capsys
) -> None:
    """A line of nothing but a zero-width space ended the run, without a word which line it was.

    The mark that Windows puts before a text file is no text either.
    """
    (place / "lines.txt").write_text("\ufeffHello\n\u200b\nworld\n", encoding="utf-8")
    given = ["say", "--model", str(folder), "--file", "lines.txt", "--max-seconds", ".2"]
    assert command.main([*given, "-o", "a.wav", "--save-voice", "me.npz"]) == 1
    told = capsys.readouterr()
    assert told.err == "Error: a-2.wav was not made: There is nothing to say: the text is empty.\n"
    assert "me.npz: the voice of a-3.wav" in told.out
    made = {"lines.txt", "a-1.wav", "a-3.wav", "me.npz"}
    assert {file.name for file in place.iterdir()} == made


def test_what_the_memory_does_not_hold_is_one_sentence(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    """A card that is too small for the model gave a traceback."""

    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr("synth.api.build_model", full)
    assert command.main(["say", "Hello", "--model", str(folder)]) == 1
    assert capsys.readouterr().err.startswith("Error: The memory does not suffice: use suno/bark-")


def test_an_error_of_ours_is_not_dressed_up(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr("synth.api.build_model", broken)
    with pytest.raises(RuntimeError, match="a bug"):
        command.main(["say", "Hello", "--model", str(folder)])


def test_a_folder_that_may_not_be_written_is_seen_before_the_work(
    folder: Path, place: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    """It was only seen when the clip was done."""
    monkeypatch.setattr("os.access", lambda path, mode: path != Path("."))  # root may write there
    monkeypatch.setattr(Bark, "load", None)
    assert command.main(["say", "Hello", "--model", str(folder)]) == 1
    assert "Nothing may be written to .: name another" in capsys.readouterr().err


def test_a_duration_cap_is_the_originals(folder: Path, place: Path) -> None:
    given = ["say", "Hello", "--model", str(folder), "--raw", "-o", "a.wav", "--min-eos-p", "2"]
    assert command.main([*given, "--max-seconds", "0.2", "--temperature", "0"]) == 0
    assert len(float_samples(place / "a.wav")) == 320 * 15  # 10 semantic tokens, 15 frames


@pytest.mark.parametrize(
    ("given", "status", "says"),
    [
        ("say Hello --model suno/bark", 78, " -m synth fetch"),
        ("say Hello --model nowhere", 78, "no model folder nowhere"),
        ("say Hello --model .", 78, "holds no model"),
        ("say Hello --model FOLDER --device tpu", 1, "no device 'tpu'"),
        ("say Hello --model FOLDER --precision fp7", 1, "no precision 'fp7'"),
        ("say Hello --model FOLDER --threads 0", 1, "at least 1 thread, not 0"),
        pytest.param("say Hello --model " + "a" * 5000, 78, "cannot be read", id="a long name"),
        ("voices --model nowhere", 78, "no model folder nowhere"),
        ("say Hello --model FOLDER --voice=", 1, "no voice ''"),
        ("say Hello --model FOLDER --voice gone.NPZ", 1, "no voice file gone.NPZ"),
        ("say Hello --model FOLDER --voice folder.npz", 1, "folder.npz cannot be read"),
        ("say Hello --model FOLDER -o hello", 1, "what format hello is to have"),
        ("say --file wide.txt --model FOLDER", 1, "wide.txt is not text in UTF-8"),
        ("say Hello --model FOLDER --voice v2/en_speaker_66", 1, "nearest are v2/en_speaker_6"),
        ("say Hello --model FOLDER --voice gone.npz", 1, "no voice file gone.npz"),
        ("say Hello --model FOLDER --voice bad.npz", 1, "bad.npz is no voice"),
        ("say Hello --model FOLDER -o hello.xyz", 1, ".xyz"),
        ("say Hello --model FOLDER -o gone/hello.ogg", 1, "folder gone does not exist"),
        ("say Hello --model FOLDER -o folder.ogg", 1, "folder.ogg is a folder"),
        ("say Hello --model FOLDER -o hello.ogg --raw", 1, "use -o hello.wav"),
        ("say Hello --model FOLDER --save-voice me.wav", 1, "saved as .npz, not me.wav"),
        ("say Hello --model FOLDER --temperature -1", 1, "temperature is -1.0"),
        ("say Hello --model FOLDER --top-p 7", 1, "top_p is 7.0"),
        ("say Hello --model FOLDER --max-seconds 0", 1, "max_seconds is 0.0"),
        ("say --file gone.txt --model FOLDER", 1, "gone.txt cannot be read: No such file"),
        ("say - --model FOLDER", 1, "the input has no text"),
        ("say 😀 --model FOLDER --voice v2/en_speaker_6 --file x", 1, "not both"),
        ("say 😀 --model FOLDER", 1, "nothing to say: add some words to the signs and emoji"),
        ("say Привет --model FOLDER", 1, "no letters for that text"),
        ("say Привет --single --model FOLDER", 1, "knows no word of it"),
        ("voices klingon", 1, "No voice fits"),
    ],
)
def test_what_is_wrong_is_said_in_one_sentence(
    folder: Path, place: Path, monkeypatch: pytest.MonkeyPatch, capsys, given, status, says
) -> None:
    (place / "bad.npz").write_bytes(b"no zip at all")
    (place / "folder.ogg").mkdir()
    (place / "folder.npz").mkdir()
    (place / "wide.txt").write_text("Hello", encoding="utf-16")
    before = sorted(place.iterdir())
    monkeypatch.setattr("sys.stdin", io.StringIO(" \n"))
    assert command.main(given.replace("FOLDER", str(folder)).split()) == status
    error = capsys.readouterr().err
    assert error.startswith("Error: ") and says in error and error.count("\n") == 1
    assert sorted(place.iterdir()) == before


@pytest.mark.parametrize(
    "text",
    [
        "word " * 2000,
        "Hello, مرحبا بالعالم",
        "a\x00b\x07c\u202ed",
        "<@123456> @everyone **bold** https://example.org",
        "one 😀😀😀",
        "half a character \ud83d",
    ],
    ids=[
        "10000 characters",
        "right to left",
        "control characters",
        "mentions",
        "emoji",
        "surrogate",
    ],
)
def test_odd_texts_become_clips(folder: Path, place: Path, capsys, text: str) -> None:
    given = ["say", text, "--model", str(folder), "--max-seconds", ".3", "-o", "odd.flac"]
    assert command.main(given) == 0
    assert seconds(place / "odd.flac") > 0
    if len(text) > 5000:
        assert "The clip was cut at 0.3 s." in capsys.readouterr().out


def test_input_that_is_no_text_is_named(
    folder: Path, place: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    lenient = io.TextIOWrapper(io.BytesIO(b"\xff\xfe"), "utf-8", errors="surrogateescape")
    monkeypatch.setattr("sys.stdin", lenient)
    assert command.main(["say", "--model", str(folder)]) == 1
    assert "Standard input is not text in UTF-8" in capsys.readouterr().err


def test_voices_are_listed_and_filtered(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    """Bark's came first, as if the model that is here had them."""
    assert command.main(["voices"]) == 0
    told = capsys.readouterr()
    lines = told.out.splitlines()
    assert len(lines) == 271 + 4
    assert lines[0].startswith("nano/ada ") and not any("needs" in line for line in lines[:4])
    assert all(line.endswith("  needs Bark") for line in lines[4:])
    assert told.err.endswith(" -m synth fetch suno/bark-small\n")
    with monkeypatch.context() as patched:
        patched.setattr("synth.checkpoints.default_model", lambda: "suno/bark-small")
        assert command.main(["voices"]) == 0
        told = capsys.readouterr()
        assert told.out.splitlines()[0].endswith(" s") and not told.err
        assert told.out.splitlines()[-1].endswith("  needs --model nano")
    for given in (["voices", "nano/"], ["voices", "--model", "nano"]):
        assert command.main(given) == 0
        names = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
        assert names == ["nano/ada", "nano/bruno", "nano/clio", "nano/dario"]
    assert command.main(["voices", "v2", "--language", "ja", "--gender", "female"]) == 0
    assert capsys.readouterr().out.startswith(
        "v2/ja_speaker_0      ja  female     5.9 s  needs Bark\n"
    )


def test_who_looks_for_a_doctor_is_told_where(capsys) -> None:
    assert command.main(["doctor"]) == 2
    assert capsys.readouterr().err.endswith(" -m bot doctor` checks the engine, too.\n")


def test_a_voice_of_another_family_names_the_remedy(folder: Path, place: Path, capsys) -> None:
    given = ["say", "Hello", "-o", "a.wav", "--max-seconds", ".3"]
    assert command.main([*given, "--model", str(folder), "--save-voice", "me.npz"]) == 0
    capsys.readouterr()
    assert command.main([*given, "--model", "random", "--voice", "me.npz"]) == 1
    assert "belongs to another model" in capsys.readouterr().err


def test_a_folder_called_random_is_not_the_random_model(folder: Path, place: Path, capsys) -> None:
    """Its voices were made up and its speech was called noise, for its name."""
    (place / "random").mkdir()
    for file in folder.iterdir():
        os.link(file, place / "random" / file.name)
    given = ["say", "Hello", "--model", "./random", "--max-seconds", ".2", "-o", "a.wav"]
    assert command.main([*given, "--voice", "announcer"]) == 0
    assert "noise" not in capsys.readouterr().err


def test_the_random_model_says_that_it_is_noise(place: Path, capsys) -> None:
    given = ["say", "Hello", "--model", "random", "--max-seconds", ".3", "-o", "a.wav"]
    assert command.main([*given, "--voice", "v2/en_speaker_6"]) == 0
    assert "noise, not speech" in capsys.readouterr().err


def test_ctrl_c_stops_with_nothing_half_written(folder: Path, place: Path) -> None:
    """A real interrupt of a real process, in the middle of a clip that would take minutes."""
    lines = "Hello world.\n" * 5000
    process = subprocess.Popen(
        [sys.executable, "-m", "synth", "say", "--model", str(folder), "-o", "clip.ogg"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=place,
        env=os.environ
        | {"PYTHONPATH": str(Path(command.__file__).parents[1]), "PYTHONUNBUFFERED": "1"},
    )
    try:
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(lines)
        process.stdin.close()
        assert "clip-0001.ogg" in process.stdout.readline()
        process.send_signal(signal.SIGINT)
        process.stdin = None
        _, errors = process.communicate(timeout=30)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 130 and errors == "Stopped.\n"
    for file in place.iterdir():
        assert file.suffix == ".ogg" and seconds(file) > 0


def test_three_lines_of_python(folder: Path, place: Path) -> None:
    from synth import Bark

    bark = Bark.load(folder)
    clip = bark.say("Hello [laughs]", voice="v2/en_speaker_6", seed=1)
    clip.save("hello.mp3")
    assert seconds(place / "hello.mp3") == pytest.approx(clip.duration_s, abs=0.15)
    assert clip.sample_rate == 24_000 and clip.samples.dtype == np.float32
    more = bark.say("and on", clip.history, sampling=Sampling(seed=5))
    assert more.seed == 5 and len(bark.voices) == 271
    clip.save_voice("me.npz")
    assert np.array_equal(
        bark.say("and on", "me.npz", sampling=Sampling(seed=5)).samples, more.samples
    )
    with pytest.raises(InvalidRequest, match="no voice"):
        bark.say("Hello", voice="nobody")
