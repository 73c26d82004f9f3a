"""python -m synth.nano data | tokens | adopt | align | train STAGE | export | evaluate"""

import argparse
import logging
from dataclasses import replace
from pathlib import Path

from synth.nano.recipe import Paths


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m synth.nano", description=__doc__)
    parser.add_argument("--root", type=Path, required=True, help="folder for data and checkpoints")
    commands = parser.add_subparsers(dest="command", required=True)
    data = commands.add_parser("data", help="write the corpus and have the teacher read it")
    data.add_argument("--wordnet", type=Path, help="WordNet 3.0 `dict` folder; only to write it")
    data.add_argument("--size", type=int, default=104_000, help="utterances")
    data.add_argument("--workers", type=int, default=1, help="shards at a time")
    units = commands.add_parser("tokens", help="fit the quantizers and tokenize the speech")
    units.add_argument("--workers", type=int, default=1, help="shards at a time")
    take = commands.add_parser("adopt", help="go on from an export instead of from nothing")
    take.add_argument("--model", type=Path, default=Path(__file__).parent, help="folder")
    again = commands.add_parser("align", help="render speech at the phase the decoder will have")
    again.add_argument("--shards", type=int, default=1, help="how many, 2.5 hours each")
    again.add_argument("--workers", type=int, default=1, help="shards at a time")
    fit = commands.add_parser("train", help="train one stage, from its checkpoint if there is one")
    fit.add_argument("stage", choices=("decoder", "semantic", "coarse", "fine"))
    fit.add_argument("--device", default="cpu")
    fit.add_argument("--threads", type=int, default=1)
    fit.add_argument("--workers", type=int, default=0, help="processes that prepare batches")
    fit.add_argument("--scale", type=int, default=1, help="times the batch; for a GPU")
    fit.add_argument("--steps", type=int, help="stop at this step")
    fit.add_argument("--minutes", type=float, help="stop after so long")
    fit.add_argument("--cooldown", type=int, default=0, help="last steps of --steps, rate to zero")
    fit.add_argument("--cooldown-minutes", type=float, default=0.0, help="the same of --minutes")
    fit.add_argument("--save-every", type=int, help="steps; twice as many between validations")
    out = commands.add_parser("export", help="write the engine's checkpoint and the voices")
    out.add_argument("--to", type=Path, default=Path(__file__).parent, help="folder")
    table = commands.add_parser("evaluate", help="speak held-out sentences and print the table")
    table.add_argument("--model", type=Path, default=Path(__file__).parent, help="folder")
    table.add_argument("--seeds", type=int, default=3)
    table.add_argument("--easy", type=int, default=40)
    table.add_argument("--rare", type=int, default=80)
    table.add_argument("--text-temperature", type=float)
    table.add_argument("--waveform-temperature", type=float)
    table.add_argument("--codec", action="store_true", help="only the codec, on teacher codes")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    logging.getLogger("faster_whisper").setLevel(logging.WARNING)
    paths = Paths(options.root)
    if options.command == "data":
        from synth.nano.corpus import write_corpus
        from synth.nano.shards import speak_corpus

        if not paths.corpus.exists():
            write_corpus(paths, options.wordnet, options.size)
        speak_corpus(paths, options.workers)
    elif options.command == "adopt":
        from synth.nano.handover import adopt

        adopt(paths, options.model)
    elif options.command == "tokens":
        from synth.nano.tokens import tokenize_shards

        tokenize_shards(paths, options.workers)
    elif options.command == "align":
        from synth.nano.aligned import align_shards

        align_shards(paths, options.shards, options.workers)
    elif options.command == "train":
        import torch

        from synth.nano.recipe import RUNS, SEED
        from synth.nano.stages import STAGES
        from synth.nano.trainer import Limits, train

        torch.set_num_threads(options.threads)
        torch.manual_seed(SEED)
        run = RUNS[options.stage]
        if options.save_every:
            run = replace(run, save_every=options.save_every)
        stage = STAGES[options.stage](paths, run.batch * options.scale, options.device)
        limits = Limits(options.steps, options.minutes, options.cooldown, options.cooldown_minutes)
        train(stage, run, paths.checkpoint(options.stage), limits, options.workers)
    elif options.command == "export":
        from synth.nano.export import export

        export(paths, options.to)
    elif options.command == "evaluate":
        import json

        import torch

        from synth.nano.evaluate import copy_synthesis, evaluate, table

        torch.set_num_threads(1)
        if options.codec:
            print(json.dumps(copy_synthesis(paths, options.model), indent=1))
        else:
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
    main()
