"""How long clips take, stage by stage, beside the original and transformers in the same run.

`python -m synth bench`. Random weights of the real shapes do the same work as trained ones, so no
download is needed. Each contender has a process of its own, all with the same number of threads;
they take turns within each repeat, so that a busy minute hits them all; medians are shown.
`--streaming` tells instead how soon a clip is heard, `--quality` how far precisions and low latency
are from the exact way. With `--device cuda` everybody runs on the GPU: see `gpu_bench`.
"""

import argparse
import contextlib
import json
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from synth import agreement, bench_plot, bench_report, fidelity, first_sound, gpu_bench, roofline
from synth.bench_models import SIZES, config_of, in_a_folder, open_model
from synth.bench_report import Results
from synth.bound import Fidelity
from synth.contenders import (
    BATCHED_PEERS,
    NAMES,
    PEERS,
    Case,
    usual,
)
from synth.cores import usable_cores
from synth.errors import InvalidRequest, SynthError
from synth.model import Checkpoint, Model, build_model, pick_device
from synth.protocol import HistoryPrompt, Stage
from synth.stopwatch import Child
from synth.vocab import ModelConfig

_HISTORY_TOKENS = 350  # a whole window of history in every stage
_LENGTHS = (2.0, 5.0, 10.0, 20.0, 40.0, 60.0)
_BATCHES = (1, 2, 4, 8)
_ROUNDED = ("bf16", "int8")  # precisions whose distance from fp32 is told


def random_history(config: ModelConfig) -> HistoryPrompt:
    """A voice of random tokens, long enough to fill every stage's history."""
    rng = np.random.default_rng(0)
    frames = int(_HISTORY_TOKENS * config.codec.frame_rate / config.semantic.rate_hz)
    codes = rng.integers(config.codec.codebook_size, size=(config.fine.codebooks, frames))
    return HistoryPrompt(
        semantic=rng.integers(config.semantic.vocab, size=_HISTORY_TOKENS),
        coarse_codes=codes[: config.coarse.codebooks],
        fine_codes=codes,
        family=config.family,
    )


def case_for(
    seconds: float, config: ModelConfig, jobs: int = 1, history: HistoryPrompt | None = None
) -> Case:
    """Clips of so many seconds; one longer than an utterance is as many equal ones as it takes."""
    pieces = max(1, math.ceil(seconds / config.max_utterance_s))
    tokens = max(1, round(seconds / pieces * config.semantic.rate_hz))
    return Case(min(tokens, config.semantic.max_steps), jobs * pieces, history)


def _positive(kind: type[int] | type[float]) -> Callable[[str], float]:
    def parse(text: str) -> float:
        if (value := kind(text)) > 0:
            return value
        raise argparse.ArgumentTypeError(f"{text} is not more than 0")

    return parse


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(prog="python -m synth bench", description=__doc__)
    add = p.add_argument
    add("--model", default="small",
        help="small or large with random weights, or a name or folder")  # fmt: skip
    add("--seconds", type=_positive(float),
        help="length of a clip: 5 by default, on a GPU 10")  # fmt: skip
    add("--jobs", type=_positive(int),
        help=f"clips at once, 1 by default, on a GPU {gpu_bench.JOBS}; peers without a batch make "
        "one, counted so many times")  # fmt: skip
    add(
        "--repeats",
        type=_positive(int),
        default=3,
        help="how often each case is made; medians are shown",
    )
    add("--threads", type=_positive(int), default=usable_cores(),
        help="CPU threads, the same for everybody; one a core by default")  # fmt: skip
    add("--device", default="cpu", help="cuda: what a GPU makes of it, in one process")
    add("--peer-seconds", type=_positive(float),
        help="on a GPU, a shorter clip for the peers, and for this engine beside them")  # fmt: skip
    add("--voice", choices=("none", "full"), default="none", help="full: continue a full history")
    add("--only", nargs="+", choices=NAMES, metavar="NAME",
        help=f"of {', '.join(NAMES)}; by default each peer in the precision that is its fastest "
        "here, and ours-auto where that is none of the others")  # fmt: skip
    add("--json", type=Path, metavar="FILE", help="write every sample there")
    add("--plot", type=Path, metavar="FILE",
        help="draw cost against clip length and jobs at once; measures all of it")  # fmt: skip
    add("--lengths", nargs="+", type=_positive(float), default=_LENGTHS, help="for --plot: seconds")
    add(
        "--batches",
        nargs="+",
        type=_positive(int),
        default=_BATCHES,
        help="for --plot: jobs at once",
    )
    add("--quality", action="store_true",
        help="in place of times: how far precisions and low latency are from exact")  # fmt: skip
    add("--streaming", action="store_true",
        help="in place of times: how soon a clip is heard, by each way")  # fmt: skip
    add("--precision", default="auto", help="for --quality, --streaming and a GPU")
    return p


def quality(
    checkpoint: Checkpoint,
    model: Model,
    history: HistoryPrompt | None,
    seconds: float | None,
) -> Iterator[str]:
    """Lines that say how far this engine's shortcuts are from the exact way, as they are measured.

    model: of the checkpoint, in the precision that low latency is measured in.
    seconds: the length of the clips; None lets them end by themselves.
    """
    device = str(model.device)
    exact = build_model(checkpoint, device=device, precision="fp32")
    found: dict[str, dict[Stage, Fidelity]] = {}
    for name in _ROUNDED:
        try:
            other = build_model(checkpoint, device=device, precision=name)
        except InvalidRequest as error:  # this machine has no such products
            yield f"{name} is left out: {error}"
            continue
        text = agreement.CLIPS[0][1]
        found[name] = fidelity.measure(exact, other, text, history, seconds=seconds)
    yield "Precisions against fp32, teacher forced"
    yield fidelity.table(found)
    yield "Low latency against exact: the same code, by codebook, and difference of log-mel spectra"
    rows = agreement.measure(model, agreement.CLIPS, history, seconds=seconds)
    yield agreement.table(list(rows), model.config)


def compare(
    options: argparse.Namespace, cases: Sequence[Case], config: ModelConfig
) -> Iterator[str | Results]:
    """Make every case with every contender, in turn. Lines as it goes, the results at the end."""
    results: Results = {}
    with contextlib.ExitStack() as stack:
        source = stack.enter_context(in_a_folder(options.model))
        children: list[Child] = []
        for name in options.only:
            if name in BATCHED_PEERS and all(case.jobs == 1 for case in cases):
                continue  # it would be the same as one by one
            try:
                child = Child(name, source, threads=options.threads, device=options.device)
            except InvalidRequest as error:
                yield f"{name} is left out: {error}"
                continue
            children.append(stack.enter_context(child))
        for repeat in range(options.repeats):
            for case in cases:
                for child in children:
                    if child.name in BATCHED_PEERS and case.jobs == 1:
                        continue
                    sample = child.measure(case)
                    results.setdefault((case, child.name), []).append(sample)
                    yield (
                        f"  {repeat + 1}/{options.repeats} {child.name}, "
                        f"{case.audio_s(config):.1f} s of audio in {case.jobs}: "
                        f"{sample.cpu_s:.1f} CPU s, {sample.wall_s:.1f} s; {bench_report.load()}"
                    )
    yield results


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark and write its tables to standard output. Returns an exit status."""
    options = parser().parse_args(argv)
    if options.seconds is None:
        options.seconds = 10.0 if options.device.startswith("cuda") else 5.0
    torch.set_num_threads(options.threads)

    def say(line: str) -> None:
        sys.stdout.write(line + "\n")
        sys.stdout.flush()

    try:
        config = config_of(options.model)
        history = random_history(config) if options.voice == "full" else None
        if options.quality or options.streaming:
            _report_in_place(options, history, say)
        elif options.device.startswith("cuda"):
            _report_of_gpu(options, history, say)
        else:
            _report_side_by_side(options, config, history, say)
    except SynthError as error:
        say(str(error))
        return 78
    return 0


def _report_side_by_side(
    options: argparse.Namespace,
    config: ModelConfig,
    history: HistoryPrompt | None,
    say: Callable[[str], None],
) -> None:
    options.only = options.only or usual(options.device, config)
    for path in (options.json, options.plot):
        if path and not path.parent.is_dir():
            raise InvalidRequest(f"The folder {path.parent} does not exist: make it first.")
    if options.plot:
        bench_plot.check(options.plot)
    case = case_for(options.seconds, config, options.jobs or 1, history)
    cases, lengths, batches = [case], list[Case](), list[Case]()
    if options.plot:
        lengths = [case_for(s, config, 1, history) for s in options.lengths]
        batches = [case_for(options.seconds, config, n, history) for n in options.batches]
        cases = list(dict.fromkeys([case, *lengths, *batches]))
    say(bench_report.machine(options.threads))
    say(
        f"{config.name}, {case.audio_s(config) / case.jobs:.2f} s of audio, "
        f"{case.jobs} at once, voice: {options.voice}, median of {options.repeats}, "
        f"{bench_report.load()}"
    )
    rates = roofline.measure()
    results: Results = {}
    for told in compare(options, cases, config):
        if isinstance(told, str):
            say(told)
        else:
            results = told
    say("\n" + bench_report.table(results, case, config))
    say("\n" + bench_report.floors(results, case, config, rates))
    if options.json:
        values = bench_report.to_json(results, config, rates, options.threads)
        options.json.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
    if options.plot:
        bench_plot.draw(options.plot, results, config, lengths, batches)


def _report_of_gpu(
    options: argparse.Namespace, history: HistoryPrompt | None, say: Callable[[str], None]
) -> None:
    if options.json or options.plot:
        raise InvalidRequest("--json and --plot are for --device cpu: leave them out for a GPU.")
    device = pick_device(options.device)
    checkpoint = open_model(options.model, options.device)
    named = options.only or usual(options.device, config_of(options.model))
    peers = [name for name in named if name in PEERS]
    with torch.cuda.device(device):  # not every peer names the card it is on
        for line in gpu_bench.lines(
            checkpoint,
            history,
            options.seconds,
            peers,
            device=options.device,
            precision=options.precision,
            repeats=options.repeats,
            jobs=options.jobs or gpu_bench.JOBS,
            peer_seconds=options.peer_seconds,
        ):
            say(line)


def _report_in_place(
    options: argparse.Namespace, history: HistoryPrompt | None, say: Callable[[str], None]
) -> None:
    checkpoint = open_model(options.model)
    model = build_model(checkpoint, device=options.device, precision=options.precision)
    say(f"{bench_report.machine(options.threads)}, precision {model.precision.name}")
    if options.streaming:
        clips = first_sound.measure(model, history, options.seconds, repeats=options.repeats)
        say(first_sound.table(list(clips)))
    if options.quality:
        ends_itself = options.model not in SIZES
        for line in quality(checkpoint, model, history, None if ends_itself else options.seconds):
            say(line)
