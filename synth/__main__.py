"""python -m synth say | voices | fetch | bench: speech from the command line.

Reads arguments, calls, prints; every failure is one plain sentence. Exit status: 78 when there is
no usable model or download, 2 for wrong arguments, 1 for what else went wrong, 130 after Ctrl-C.
"""

import argparse
import io
import logging
import os
import secrets
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TextIO

from tqdm import tqdm

from synth.audio import AudioFormat, find_ffmpeg, open_ffmpeg
from synth.dialogue import parse_cast
from synth.errors import InvalidRequest, SynthError
from synth.live_audio import FORMATS
from synth.live_output import LiveOutputs, find_player, standard_output
from synth.protocol import JobEvent, Progress, Sampling, Stage, Streaming

if TYPE_CHECKING:
    from synth.api import Bark, Clip
    from synth.voices import VoiceBook

EX_CONFIG = 78


def main(argv: Sequence[str] | None = None) -> int:
    arguments = sys.argv[1:] if argv is None else list(argv)
    if arguments[:1] == ["bench"]:  # it has its own options, and imports other engines
        from synth import bench

        return bench.main(arguments[1:])
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO if options.verbose else logging.WARNING)
    try:
        return options.run(options)
    except _Unusable as error:
        print(f"Error: {error}", file=sys.stderr)
        return EX_CONFIG
    except SynthError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Stopped.", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `python -m synth voices | head`: what is left to flush has no reader
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (MemoryError, RuntimeError) as error:  # torch has its own for each device
        if not any("MemoryError" in kind.__name__ for kind in type(error).__mro__):
            raise
        print(
            "Error: The memory does not suffice: use suno/bark-small, or --device cpu.",
            file=sys.stderr,
        )
        return 1


class _Unusable(SynthError):
    """There is no model to work with, or it cannot be had."""


@contextmanager
def _model_needed() -> Iterator[None]:
    try:
        yield
    except SynthError as error:
        raise _Unusable(str(error)) from error


# -- say ------------------------------------------------------------------------------------------


def say(options: argparse.Namespace) -> int:
    """Load once, then speak and save each text; one that cannot be spoken keeps no other back."""
    from synth.job import check_sampling

    texts = _texts(options)
    live = _live(options)
    outputs = _outputs(options, len(texts))
    sampling = sampling_of(options)
    check_sampling(sampling)
    cast_names = parse_cast(options.cast)
    bark = _load(options)
    if bark.notice:
        print(bark.notice, file=sys.stderr)
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
    from synth.api import Bark

    with _model_needed():
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
            raise InvalidRequest('Give a text in quotes, as in: python -m synth say "Hello".')
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


def sampling_of(options: argparse.Namespace) -> Sampling:
    """--temperature is for semantic and coarse, and for fine only when it is 0: greedy everywhere.

    The specific options win.
    """

    def first(*values: float | None) -> float | None:
        return next((value for value in values if value is not None), None)

    everywhere = options.temperature
    return Sampling(
        text_temperature=first(options.text_temperature, everywhere),
        waveform_temperature=first(options.waveform_temperature, everywhere),
        fine_temperature=first(options.fine_temperature, 0.0 if everywhere == 0 else None),
        top_k=options.top_k,
        top_p=options.top_p,
        min_eos_p=options.min_eos_p,
        max_seconds=options.max_seconds,
    )


class StageBars:
    """A progress bar a stage, fed with a job's events; silent where there is no terminal."""

    def __init__(self) -> None:
        self._bars: dict[Stage | None, tqdm] = {}  # None: of all the work

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        for bar in self._bars.values():
            bar.close()

    def __call__(self, event: JobEvent) -> None:
        if not isinstance(event, Progress):
            return
        stage = event.stage if event.whole is None else None
        if stage not in self._bars:
            # tqdm would take a terminal that does not know its size, as containers have, for one
            # without room.
            columns, lines = shutil.get_terminal_size()
            self._bars[stage] = tqdm(
                total=1.0,
                desc=f"{stage.value:8}" if stage else "speaking",
                bar_format="{desc} {percentage:3.0f}%|{bar}| {elapsed}",
                disable=None,
                ncols=columns,
                nrows=lines,
            )
        bar = self._bars[stage]
        bar.update((event.fraction if event.whole is None else event.whole) - bar.n)


# -- voices and fetch -----------------------------------------------------------------------------


def voices(options: argparse.Namespace) -> int:
    """List the voices of a model, or all that ship with the package when no model is named."""
    from synth.voices import shipped_voices

    infos = shipped_voices() if options.model is None else _book_of(options.model).infos
    wanted = (options.filter or "").lower()
    found = [
        info
        for info in infos
        if wanted in info.name.lower()
        and options.language in (None, info.language)
        and options.gender in (None, info.gender.value)
    ]
    if not found:
        raise InvalidRequest(
            "No voice fits: leave out a filter." if infos else "This model has no voices."
        )
    for info in found:
        print(f"{info.name:20} {info.language:3} {info.gender.value:8} {info.duration_s:5.1f} s")
    return 0


def _book_of(model: str) -> "VoiceBook":
    from synth.checkpoints import open_checkpoint
    from synth.random_model import voice_book

    with _model_needed():
        return voice_book(open_checkpoint(model).config)


def fetch(options: argparse.Namespace) -> int:
    """Download a model from the hub."""
    from synth.fetch import fetch_model

    with _model_needed():
        folder = fetch_model(options.model, original=options.original)
    print(f'{options.model} is in {folder}. Try: python -m synth say "Hello" -o hello.ogg')
    return 0


# -- Arguments ------------------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m synth", description="Bark, text to speech.")
    parser.add_argument("--verbose", action="store_true", help="log what is being done")
    commands = parser.add_subparsers(required=True, metavar="say | voices | fetch | bench")
    _say_arguments(commands.add_parser("say", help="speak a text into a sound file"))

    listing = commands.add_parser("voices", help="list the voices")
    listing.add_argument("filter", nargs="?", help="part of a name, as en_speaker")
    listing.add_argument("--language", help="a code, as en")
    listing.add_argument("--gender", choices=["female", "male", "unknown"])
    listing.add_argument("--model", help="whose voices; all that ship if not given")
    listing.set_defaults(run=voices)

    loading = commands.add_parser("fetch", help="download a model from the Hugging Face hub")
    loading.add_argument(
        "model", nargs="?", default="suno/bark", choices=["suno/bark", "suno/bark-small"]
    )
    loading.add_argument(
        "--original", action="store_true", help="Suno's own .pt files, several times as large"
    )
    loading.set_defaults(run=fetch)
    commands.add_parser("bench", help="measure the engine; see python -m synth bench --help")
    return parser


def _say_arguments(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=say)
    parser.add_argument("text", nargs="*", help="the text; - or nothing reads standard input")
    parser.add_argument(
        "--file", metavar="FILE", help="speak each line of a text file (- is stdin)"
    )
    parser.add_argument(
        *("-o", "--output"),
        metavar="FILE",
        help=".ogg, .mp3, .flac or .wav; numbered when there are several texts (speech.ogg, or "
        "speech.wav with --raw); - is standard output, written as the sound is made",
    )
    parser.add_argument(
        "--format", choices=list(FORMATS), help="of what goes to standard output (wav)"
    )
    parser.add_argument(
        "--play",
        action="store_true",
        help="play through ffplay, as soon as it cannot run dry any more; a file only with -o",
    )
    parser.add_argument(
        "--stream",
        action="store_true",
        help="write the file as the sound is made, at a loudness found on the way",
    )
    parser.add_argument(
        "--model",
        metavar="NAME|FOLDER",
        help="suno/bark, suno/bark-small, nano or a model folder; the best one here if not given",
    )
    parser.add_argument(
        "--voice", metavar="NAME|FILE.npz", help="a preset, as v2/en_speaker_6, or a saved voice"
    )
    parser.add_argument(
        "--cast",
        action="append",
        default=[],
        metavar="NAME=VOICE",
        help="who speaks the lines NAME: of a dialogue, as in --cast Alice=v2/en_speaker_9; once "
        "for each name; a file is then one text",
    )
    parser.add_argument(
        "--takes",
        type=int,
        default=1,
        metavar="N",
        help="speak each piece of the text N times at once and keep the best",
    )
    parser.add_argument(
        "--rerolls",
        type=int,
        default=2,
        metavar="N",
        help="speak a piece anew up to N times when its end does not come in time (2)",
    )
    parser.add_argument("--save-voice", metavar="FILE.npz", help="keep the (last) clip as a voice")
    parser.add_argument("--seed", type=int, help="the same seed gives the same clip")
    parser.add_argument("--max-seconds", type=float, metavar="S", help="the longest a clip may get")
    parser.add_argument(
        "--single",
        action="store_true",
        help="each text is one utterance exactly as the original treats it, cut at 256 tokens; "
        "nothing is trimmed or spoken anew",
    )
    parser.add_argument(
        "--raw",
        action="store_true",
        help="32-bit float WAV of the samples untouched: none trimmed or spoken anew",
    )
    parser.add_argument(
        "--low-latency",
        action="store_true",
        help="sound comes while the clip is being made; not quite Bark's own computation",
    )
    drawing = parser.add_argument_group("sampling", "what is not given is the model's own")
    drawing.add_argument(
        "--temperature",
        type=float,
        metavar="T",
        help="for semantic and coarse; 0 is greedy everywhere; the specific options win",
    )
    drawing.add_argument("--text-temperature", type=float, metavar="T", help="semantic only")
    drawing.add_argument("--waveform-temperature", type=float, metavar="T", help="coarse only")
    drawing.add_argument("--fine-temperature", type=float, metavar="T", help="fine only")
    drawing.add_argument("--top-k", type=int, metavar="K", help="draw from the K likeliest")
    drawing.add_argument("--top-p", type=float, metavar="P", help="draw from the likeliest share P")
    drawing.add_argument(
        "--min-eos-p", type=float, metavar="P", help="end as soon as the end is this likely"
    )
    machine = parser.add_argument_group("machine")
    machine.add_argument("--device", default="auto", help="auto, cpu, cuda, mps (untried)")
    machine.add_argument("--precision", default="auto", help="auto, fp32, bf16, fp16, int8")
    machine.add_argument(
        "--turbo", action="store_true", help="less work by windows that are not Bark's own"
    )
    machine.add_argument(
        "--no-graphs", action="store_false", dest="graphs", help="launch each kernel by itself"
    )
    machine.add_argument("--threads", type=int, help="CPU threads; one a core if not given")


if __name__ == "__main__":
    sys.exit(main())
