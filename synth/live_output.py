"""Sound that is written, or played through the speakers, while it is still being made.

For the command line: one FFmpeg from samples to a stream, and ffplay behind it to be heard. Blocks
nobody: a thread writes, at whatever pace the other end reads.
"""

import contextlib
import os
import queue
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import numpy as np

from synth.audio import AudioFormat
from synth.errors import InvalidRequest, SynthError
from synth.ffmpeg_graphs import Samples, pcm_bytes
from synth.ffmpeg_runner import FFmpeg, open_ffmpeg
from synth.interpreter import python
from synth.live_audio import encode_live
from synth.loudness import MOST_HELD_DB
from synth.prefill import Paces, Timeline
from synth.protocol import Audio, JobEvent
from synth.stream_gain import StreamGain, VoiceLevels


def find_player(ffmpeg: FFmpeg) -> str:
    """The path of ffplay: beside the FFmpeg in use, or on the PATH. Raises InvalidRequest."""
    beside = shutil.which("ffplay", path=str(Path(ffmpeg.path).parent))
    player = beside or shutil.which("ffplay")
    if player is None:
        raise InvalidRequest(
            "ffplay was not found, which --play needs: install FFmpeg with its player (apt install "
            "ffmpeg, brew install ffmpeg or winget install ffmpeg), or let another program play: "
            f'{python()} -m synth say "Hello" -o - --format wav | aplay'
        )
    return player


class LiveOutput:
    """One stream, of one clip or of several in a row. Use as a context; give it a job's events.

    fmt: of `synth.live_audio.FORMATS`. sink: an open binary file, which is not closed, or the path
    of an ffplay. A player is given nothing before it can play without running dry.
    """

    def __init__(
        self,
        ffmpeg: FFmpeg,
        sample_rate: int,
        fmt: str,
        sink: IO[bytes] | str,
        *,
        levels: VoiceLevels | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._command = encode_live(sample_rate, ffmpeg=ffmpeg, fmt=fmt)
        self._sample_rate = sample_rate
        self._sink = sink
        self._clock = clock
        self._levels = levels or VoiceLevels()
        self._paces = Paces()
        self._processes: list[subprocess.Popen[Any]] = []
        self._complaints = tempfile.TemporaryFile()  # what FFmpeg says: a pipe would fill up
        self._input: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._writer = threading.Thread(target=self._write, name="live output", daemon=True)
        self._broken: OSError | None = None
        self._gain: StreamGain | None = None
        self._held: list[Samples] | None = None
        self._text = ""

    def __enter__(self) -> Self:
        """Raises SynthError when a program cannot be started."""
        pipe, flags = subprocess.PIPE, getattr(subprocess, "CREATE_NO_WINDOW", 0)
        options: dict[str, Any] = {"stdin": pipe, "creationflags": flags}
        try:
            if isinstance(self._sink, str):
                player = [self._sink, "-nodisp", "-autoexit", "-loglevel", "error", "-i", "pipe:0"]
                self._processes.append(
                    subprocess.Popen(player, stdout=subprocess.DEVNULL, **options)
                )
                out = self._processes[0].stdin
            else:
                out = self._sink
            encoder = subprocess.Popen(
                self._command.args, stdout=out, stderr=self._complaints, **options
            )
            self._processes.append(encoder)
        except OSError as error:
            self._end(kill=True)
            raise SynthError(f"{error.filename} could not be started: {error.strerror}.") from error
        if isinstance(self._sink, str) and out is not None:
            out.close()  # the encoder's now: with its end, the player sees the end
        self._writer.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Wait until all was written, and heard; after an error, end at once.

        Raises SynthError, BrokenPipeError when the reader went away.
        """
        self._input.put(b"")
        if kind is None:
            self._writer.join()
        self._end(kill=kind is not None)
        self._writer.join()
        self._complaints.seek(0)
        complaints = self._complaints.read().decode(errors="replace").strip()
        self._complaints.close()
        if kind is not None:
            return
        if "Broken pipe" in complaints:
            raise BrokenPipeError
        if any(process.returncode for process in self._processes):
            name = "ffplay" if self._processes[0].returncode and len(self._processes) > 1 else None
            why = complaints.splitlines()[-1] if complaints else "see above"
            raise SynthError(f"{name or 'FFmpeg'} could not take the sound: {why}")

    def begin(self, text: str, voice: str | None) -> None:
        """Another clip follows, of `text`; voice: its name, for its loudness."""
        self._release()
        self._gain = StreamGain(self._levels, voice, self._sample_rate, held_db=MOST_HELD_DB)
        self._timeline = Timeline(self._clock())
        self._text = text
        self._held = [] if isinstance(self._sink, str) else None

    def __call__(self, event: JobEvent) -> None:
        """Take in one event of the clip. Raises BrokenPipeError when nobody reads any more."""
        if self._broken is not None:
            raise BrokenPipeError from self._broken
        if not isinstance(event, Audio):
            return
        assert self._gain is not None, "a clip was begun"
        self._timeline.came(self._clock(), len(event.samples) / self._sample_rate)
        if self._held is None:
            self._put(event.samples)
            return
        self._held.append(event.samples)
        if self._timeline.made_s >= self._paces.needed_s(len(self._text), self._timeline):
            self._release()

    def finish(self) -> None:
        """The clip is whole."""
        self._release()
        if self._gain is not None:
            self._gain.finish()
            self._paces.learn(len(self._text), self._timeline)

    def _release(self) -> None:
        held, self._held = self._held, None
        if held:
            self._put(np.concatenate(held))

    def _put(self, samples: Samples) -> None:
        assert self._gain is not None
        self._input.put(pcm_bytes(self._gain(samples)))

    def _write(self) -> None:
        pipe = self._processes[-1].stdin
        assert pipe is not None
        try:
            while data := self._input.get():
                pipe.write(data)
                pipe.flush()
        except OSError as error:
            self._broken = error
        finally:
            with contextlib.suppress(OSError):
                pipe.close()

    def _end(self, *, kill: bool) -> None:
        for process in reversed(self._processes):
            if kill:
                process.kill()
            process.wait()


class LiveOutputs:
    """What `synth say` lets out while it is made. Use as a context around all clips.

    player: the path of an ffplay that is to play them; stdout_format: of the one stream of them all
    on standard output; files: each clip's own file is written as it is made. Each may be absent.
    """

    def __init__(
        self, sample_rate: int, *, player: str | None, stdout_format: str | None, files: bool
    ) -> None:
        self._sample_rate = sample_rate
        self._player = player
        self._stdout_format = stdout_format
        self._files = files
        self._levels = VoiceLevels()
        self._common: list[LiveOutput] = []
        self._open = contextlib.ExitStack()

    def __enter__(self) -> Self:
        if self._player is not None:
            self._common.append(self._open.enter_context(self._output("wav", self._player)))
        if self._stdout_format is not None:
            live = self._output(self._stdout_format, standard_output())
            self._common.append(self._open.enter_context(live))
        return self

    def __exit__(self, *error: Any) -> None:
        self._open.__exit__(*error)

    @contextlib.contextmanager
    def clip(
        self, text: str, voice: str | None, path: Path | None
    ) -> Iterator[Callable[[JobEvent], None]]:
        """Around the making of one clip: what its events are to be given to.

        voice: its name. path: of its file. Raises SynthError when that cannot be written.
        """
        with contextlib.ExitStack() as own:
            lives = list(self._common)
            if self._files and path is not None:
                try:
                    file = own.enter_context(path.open("wb"))
                except OSError as error:
                    raise SynthError(f"{path} could not be written: {error.strerror}.") from error
                lives.append(own.enter_context(self._output(AudioFormat.of(path).value, file)))
            for live in lives:
                live.begin(text, voice)

            def hear(event: JobEvent) -> None:
                for live in lives:
                    live(event)

            yield hear
            for live in lives:
                live.finish()

    def _output(self, fmt: str, sink: IO[bytes] | str) -> LiveOutput:
        return LiveOutput(open_ffmpeg(), self._sample_rate, fmt, sink, levels=self._levels)


def standard_output() -> IO[bytes]:
    """Where `-o -` goes. Raises InvalidRequest for a terminal."""
    if os.isatty(sys.stdout.fileno()):
        raise InvalidRequest(
            "-o - writes sound to standard output, which is a terminal here: send it to a file or "
            "a program, as in: ... -o - --format wav | aplay"
        )
    return sys.stdout.buffer
