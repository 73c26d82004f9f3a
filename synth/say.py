"""python -m synth say: texts in, sound out, to files, speakers or standard output."""

import argparse
import io
import os
import secrets
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from synth.arguments import sampling_of
from synth.audio import AudioFormat, find_ffmpeg, open_ffmpeg
from synth.dialogue import parse_cast
from synth.errors import InvalidRequest, model_needed
from synth.interpreter import python
from synth.live_output import LiveOutputs, find_player, standard_output
from synth.protocol import JobEvent, Streaming
from synth.stage_bars import StageBars

if TYPE_CHECKING:
    from synth.api import Bark, Clip


def say(options: argparse.Namespace) -> int:
    """Load once, then speak and save each text; one that cannot be spoken keeps no other back."""
    from synth.random_model import remedy_of
    from synth.request_checks import check_sampling

    texts = _texts(options)
    live = _live(options)
    outputs = _outputs(options, len(texts))
    sampling = sampling_of(options)
    check_sampling(sampling)
    cast_names = parse_cast(options.cast)
    bark = _load(options)
    for line in filter(None, (bark.notice, remedy_of(bark.config))):
        print(line, file=sys.stderr)
    voice = None if options.voice is None else bark.voice(options.voice)
    cast = {name: bark.voice(named) for name, named in cast_names.items()}
    last: tuple[Path | None, Clip] | None = None
    failed = 0
    with LiveOutputs(bark.config.codec.sample_rate, **live) as heard:
        for text, output in zip(texts, outputs, strict=True):
            seed = secrets.randbelow(2**31) if options.seed is None else options.seed
            try:
                with StageBars() as bars, heard.clip(text, options.voice, output) as hear:
                    clip = bark.say(
                        text,
                        voice,
                        seed=seed,
                        sampling=sampling,
                        streaming=Streaming.LOW_LATENCY if options.low_latency else Streaming.EXACT,
                        cast=cast,
                        takes=options.takes,
                        rerolls=options.rerolls,
                        single=options.single,
                        plain=options.raw,
                        live=options.play or options.stream or options.output == "-",
                        on_event=_both(bars, hear),
                    )
            except InvalidRequest as error:
                if len(texts) == 1:
                    raise
                print(f"Error: {output or repr(text)} was not made: {error}", file=sys.stderr)
                failed += 1
                continue
            if output is not None and not options.stream:
                clip.save(output, raw=options.raw)
            _tell(output, clip)
            last = output, clip
    if last and options.save_voice:
        output, clip = last
        clip.save_voice(options.save_voice)
        print(f"{options.save_voice}: the voice of {output or 'the clip'}", file=_told_to(output))
    return 1 if failed else 0


def _live(options: argparse.Namespace) -> dict[str, Any]:
    """What is let out while it is made, for `LiveOutputs`; found wanting before minutes of work."""
    to_stdout = options.output == "-"
    if options.format and not to_stdout:
        raise InvalidRequest("--format is for -o -; a file's suffix says what format it gets.")
    if options.raw and (to_stdout or options.stream):
        raise InvalidRequest(
            "--raw needs the whole clip: leave it out, or write a file without --stream. What "
            "--format raw gives is 16-bit samples."
        )
    if to_stdout and options.play:
        raise InvalidRequest("Give --play or -o -, not both.")
    if options.stream and options.play and options.output is None:
        raise InvalidRequest("--stream is for files: name one with -o.")
    if to_stdout:
        standard_output()
    return {
        "player": find_player(open_ffmpeg()) if options.play else None,
        "stdout_format": (options.format or "wav") if to_stdout else None,
        "files": options.stream,
    }


def _load(options: argparse.Namespace) -> "Bark":
    from synth.api import Bark, check_machine

    check_machine(options.device, options.precision, options.threads)  # no fault of a model's
    with model_needed():
        return Bark.load(
            options.model,
            device=options.device,
            precision=options.precision,
            turbo=options.turbo,
            graphs=options.graphs,
            threads=options.threads,
        )


def _texts(options: argparse.Namespace) -> list[str]:
    """The texts to speak: the words given, or the lines of a file or of standard input."""
    if options.text and options.text != ["-"]:
        if options.file:
            raise InvalidRequest("Give a text or --file, not both.")
        return [" ".join(options.text)]
    name = options.file or "-"
    if name == "-":
        if sys.stdin.isatty() and not options.text and not options.file:
            raise InvalidRequest(f'Give a text in quotes, as in: {python()} -m synth say "Hello"')
        if isinstance(sys.stdin, io.TextIOWrapper):
            sys.stdin.reconfigure(errors="strict")  # some locales let anything pass
    try:
        content = sys.stdin.read() if name == "-" else Path(name).read_text(encoding="utf-8")
    except OSError as error:
        raise InvalidRequest(f"{name} cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError:
        where = "Standard input" if name == "-" else name
        raise InvalidRequest(f"{where} is not text in UTF-8: save it as such.") from None
    content = content.removeprefix("\ufeff")  # Windows marks its text files so
    if options.cast:  # the lines are turns of one dialogue
        texts = [content.strip()] if content.strip() else []
    else:
        texts = [line.strip() for line in content.splitlines() if line.strip()]
    if not texts:
        raise InvalidRequest("There is nothing to say: the input has no text.")
    return texts


def _outputs(options: argparse.Namespace, count: int) -> Sequence[Path | None]:
    """One file a text: hello.ogg, or hello-1.ogg, hello-2.ogg and so on; none where all goes to
    the speakers or to standard output.

    What would keep them from being written is found here, before minutes of work.
    """
    outputs: list[Path] = []
    find_ffmpeg()
    if options.output != "-" and (options.output or not options.play):
        output = Path(options.output or ("speech.wav" if options.raw else "speech.ogg"))
        if AudioFormat.of(output) is not AudioFormat.WAV and options.raw:
            raise InvalidRequest(
                f"Raw samples go into a .wav file only: use -o {output.with_suffix('.wav')}."
            )
        outputs = [output]
        if count > 1:
            width = len(str(count))
            outputs = [output.with_stem(f"{output.stem}-{n:0{width}}") for n in range(1, count + 1)]
    voice = Path(options.save_voice) if options.save_voice is not None else None
    if voice is not None and voice.suffix != ".npz":
        raise InvalidRequest(f"A voice is saved as .npz, not {options.save_voice}.")
    for path in [*outputs, *([voice] if voice is not None else [])]:
        if path.is_dir():
            raise InvalidRequest(f"{path} is a folder: name a file.")
        if not path.parent.is_dir():
            raise InvalidRequest(f"The folder {path.parent} does not exist: make it first.")
        if not os.access(path.parent, os.W_OK):
            raise InvalidRequest(f"Nothing may be written to {path.parent}: name another folder.")
    return outputs or [None] * count


def _tell(output: Path | None, clip: "Clip") -> None:
    work = clip.timings.work_s
    print(
        f"{output or 'Spoken'}: {clip.duration_s:.2f} s, seed {clip.seed}, "
        f"made in {work:.1f} s ({work / clip.duration_s:.2f} x real time)",
        file=_told_to(output),
    )
    for note in clip.notes:
        print(note, file=_told_to(output))


def _told_to(output: Path | None) -> TextIO:
    """Where words go: standard output may be taken by sound."""
    return sys.stderr if output is None else sys.stdout


def _both(*listeners: Callable[[JobEvent], None]) -> Callable[[JobEvent], None]:
    def tell(event: JobEvent) -> None:
        for listener in listeners:
            listener(event)

    return tell
