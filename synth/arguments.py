"""The options of `python -m synth`, and how a clip is sampled by them. Parses; does nothing."""

import argparse

from synth.live_audio import FORMATS
from synth.protocol import Sampling


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="python -m synth", description="Bark, text to speech.")
    top.add_argument("--verbose", action="store_true", help="log what is being done")
    commands = top.add_subparsers(required=True, metavar="say | voices | fetch | bench")
    _say_arguments(commands.add_parser("say", help="speak a text into a sound file"))

    listing = commands.add_parser("voices", help="list the voices")
    listing.add_argument("filter", nargs="?", help="part of a name, as en_speaker")
    listing.add_argument("--language", help="a code, as en")
    listing.add_argument("--gender", choices=["female", "male", "unknown"])
    listing.add_argument(
        "--model", help="whose voices; if not given all that ship, the usable ones first"
    )
    listing.set_defaults(command="voices")

    loading = commands.add_parser("fetch", help="download a model from the Hugging Face hub")
    loading.add_argument(
        "model", nargs="?", default="suno/bark", choices=["suno/bark", "suno/bark-small"]
    )
    loading.add_argument(
        "--original", action="store_true", help="Suno's own .pt files, several times as large"
    )
    loading.set_defaults(command="fetch")
    commands.add_parser("bench", help="measure the engine; see python -m synth bench --help")
    return top


def _say_arguments(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(command="say")
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
        "--voice",
        metavar="NAME|FILE.npz",
        help="a preset, as nano/clio, with Bark v2/en_speaker_6; or a saved voice",
    )
    parser.add_argument(
        "--cast",
        action="append",
        default=[],
        metavar="NAME=VOICE",
        help="who speaks the lines NAME: of a dialogue, as in --cast Alice=nano/ada; once "
        "for each name; a file is then one text",
    )
    parser.add_argument(
        "--takes",
        type=int,
        default=1,
        metavar="N",
        help="think each piece of the text up N times at once and speak the best",
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
