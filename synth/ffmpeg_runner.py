"""Finding an FFmpeg that can do the work, and running it. Knows nothing of audio formats.

A `Recipe` is a generator that yields the `Command`s it wants run and is sent back their `Output`s,
so that one description of the work serves blocking callers (`run` here) and asyncio (`bot`).
"""

import os
import shutil
import subprocess
from collections.abc import Generator
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeVar

from synth.errors import JobTimeout, SynthError

T = TypeVar("T")

# What `synth.audio` asks for; FFmpeg's own names.
NEEDED_ENCODERS = frozenset({"libopus", "libmp3lame", "flac", "pcm_s16le", "pcm_f32le"})

REMEDY = (
    "Install FFmpeg with libopus and libmp3lame (apt install ffmpeg, brew install ffmpeg or "
    "winget install ffmpeg), or run pip install imageio-ffmpeg, or give its path in the settings."
)


@dataclass(frozen=True)
class FFmpeg:
    """A program that was run and found able. `soxr` is False where only swr can resample."""

    path: str
    soxr: bool

    @property
    def notes(self) -> tuple[str, ...]:
        """What this build lacks, as plain sentences."""
        if self.soxr:
            return ()
        return (f"{self.path} was built without libsoxr, so it resamples with its own resampler.",)


@dataclass(frozen=True)
class Command:
    """One run of FFmpeg: `args` with the program first, `stdin` in full."""

    args: tuple[str, ...]
    stdin: bytes = b""


@dataclass(frozen=True)
class Output:
    """What a finished `Command` left behind."""

    returncode: int
    stdout: bytes
    stderr: str


Recipe = Generator[Command, Output, T]


def execute(command: Command, timeout_s: float = 120) -> Output:
    """Run one command and wait for it.

    Raises JobTimeout after `timeout_s` seconds, SynthError when the program does not start.
    """
    try:
        # Without a console window of its own on Windows; 0 elsewhere.
        flags = getattr(subprocess, "CREATE_NO_WINDOW", 0)
        done = subprocess.run(
            command.args,
            input=command.stdin,
            capture_output=True,
            timeout=timeout_s,
            creationflags=flags,
        )
    except subprocess.TimeoutExpired as error:
        raise JobTimeout(f"FFmpeg did not finish within {timeout_s:.0f} s.") from error
    except OSError as error:
        raise SynthError(f"{command.args[0]} could not be run ({error}).") from error
    return Output(done.returncode, done.stdout, done.stderr.decode(errors="replace"))


def run(recipe: Recipe[T], timeout_s: float = 120) -> T:
    """Carry a recipe out, blocking; `timeout_s` seconds for each command."""
    try:
        command = next(recipe)
        while True:
            command = recipe.send(execute(command, timeout_s))
    except StopIteration as stop:
        return stop.value
    finally:
        recipe.close()


@lru_cache(maxsize=8)
def probe(path: str) -> FFmpeg:
    """Run the program at `path` and see what it can do. Raises SynthError saying what it lacks."""
    listed = execute(Command((path, "-hide_banner", "-nostdin", "-encoders")), timeout_s=30)
    if listed.returncode != 0:
        raise SynthError(f"{path} does not run as FFmpeg (exit status {listed.returncode}).")
    # " A....D libopus   libopus Opus (codec opus)"
    rows = [row.split() for row in listed.stdout.decode(errors="replace").splitlines()]
    missing = NEEDED_ENCODERS - {row[1] for row in rows if len(row) > 1}
    if missing:
        raise SynthError(f"{path} was built without {', '.join(sorted(missing))}.")
    # Not in any list: a build without soxr only says so when a filter asks for it.
    trial = "-hide_banner -nostdin -v error -f s16le -ar 24000 -ac 1 -i pipe:0"
    soxr = "-af aresample=48000:resampler=soxr -f null -"
    args = (path, *trial.split(), *soxr.split())
    return FFmpeg(path, soxr=execute(Command(args, bytes(4800)), timeout_s=30).returncode == 0)


def open_ffmpeg(path: str | os.PathLike[str] | None = None) -> FFmpeg:
    """Find an FFmpeg: the one at `path` if given, else the system's, else imageio-ffmpeg's.

    Raises SynthError that says what was wrong with each and names the remedy.
    """
    if path is not None:
        try:
            return probe(shutil.which(path) or os.fspath(path))  # a bare name is a command's
        except SynthError as error:
            raise SynthError(f"{error} {REMEDY}") from error
    reasons: list[str] = []
    for candidate in (shutil.which("ffmpeg"), _bundled()):
        if candidate is None:
            continue
        try:
            return probe(candidate)
        except SynthError as error:
            reasons.append(str(error))
    found = " ".join(reasons) or "FFmpeg was not found."
    raise SynthError(f"{found} {REMEDY}")


def find_ffmpeg(path: str | os.PathLike[str] | None = None) -> str:
    """The path of an FFmpeg that runs and has every encoder needed; see `open_ffmpeg`."""
    return open_ffmpeg(path).path


def _bundled() -> str | None:
    try:
        import imageio_ffmpeg

        return imageio_ffmpeg.get_ffmpeg_exe()
    except (ImportError, RuntimeError):
        return None
