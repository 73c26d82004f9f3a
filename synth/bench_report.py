"""What the benchmark measured, as tables to read, as JSON, and beside the machine's own floor."""

import os
import platform
import statistics
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from synth import roofline
from synth.contenders import OURS, TURBO, Case
from synth.model import largest_transformer
from synth.precision import automatic
from synth.protocol import Stage
from synth.roofline import Rates
from synth.stopwatch import Sample
from synth.vocab import ModelConfig

# A case and a contender's name -> one sample a repeat.
Results = dict[tuple[Case, str], list[Sample]]

_MEGABYTE = 1 << 20


def median(samples: list[Sample], figure: Callable[[Sample], float]) -> float:
    """Of one figure over the repeats."""
    return statistics.median(map(figure, samples))


def processor() -> str:
    """The processor's name, as far as the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def machine(threads: int) -> str:
    """One line: what this ran on."""
    found = torch.cpu.get_capabilities()
    looked_for = ("avx2", "avx512_f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8")
    known = ", ".join(part for part in looked_for if found.get(part)) or "no vector units known"
    return (
        f"{processor()} ({known}), {os.cpu_count()} processors, {threads} thread(s), "
        f"torch {torch.__version__}"
    )


def load() -> str:
    """How busy the machine is."""
    try:
        return f"load average {os.getloadavg()[0]:.1f}"
    except (AttributeError, OSError):
        return "load average unknown"


def _markdown(lines: list[list[str]]) -> str:
    rule = ["---"] + ["---:"] * (len(lines[0]) - 1)
    rows = [lines[0], rule, *lines[1:]]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def table(results: Results, case: Case, config: ModelConfig) -> str:
    """Medians of one case as a Markdown table, and how this engine compares with the best peer.

    CPU seconds by stage, totals, CPU over audio seconds, peak memory; the last column is how many
    times less CPU time than the peer that takes the least.
    """
    audio_s = case.audio_s(config)
    mine = {name: samples for (made, name), samples in results.items() if made == case}
    cpu = {name: median(samples, lambda s: s.cpu_s) for name, samples in mine.items()}
    peers = [seconds for name, seconds in cpu.items() if name not in OURS]
    head = ["", *(f"{stage} s" for stage in Stage)]
    head += ["CPU s", "wall s", "CPU s / audio s", "peak MB", "best peer / this"]
    rows = [head]
    for name, samples in mine.items():
        stages = [f"{median(samples, lambda s, at=stage: s.cpu[at]):.2f}" for stage in Stage]
        wall = median(samples, lambda s: s.wall_s)
        peak = median(samples, lambda s: s.peak_bytes) / _MEGABYTE
        ratio = f"{min(peers) / cpu[name]:.2f}" if peers else ""
        totals = [f"{cpu[name]:.1f}", f"{wall:.1f}", f"{cpu[name] / audio_s:.2f}", f"{peak:.0f}"]
        rows.append([name, *stages, *totals, ratio])
    return _markdown(rows)


def floors(results: Results, case: Case, config: ModelConfig, rates: Rates) -> str:
    """How many times the machine's own floor each stage of this engine takes, by wall time."""
    speeds = ", ".join(f"{name} {rate / 1e9:.0f}" for name, rate in rates.flops_s.items())
    lines = [f"Memory is read at {rates.bytes_s / 1e9:.1f} GB/s; products, GFLOP/s: {speeds}."]
    rows = [["wall s / floor s", *map(str, Stage), "all"]]
    for name in OURS:
        if name != TURBO and (samples := results.get((case, name))):  # it has another floor
            least = _least(name.partition("-")[2], case, config, rates)
            took = {stage: median(samples, lambda s, at=stage: s.wall[at]) for stage in Stage}
            pairs = [(took[stage], least[stage]) for stage in Stage]
            pairs.append((sum(took.values()), sum(least.values())))
            rows.append([name, *(f"{a:.2f} / {b:.2f} = {a / b:.1f}" for a, b in pairs)])
    return "\n".join([*lines, "", _markdown(rows)]) if len(rows) > 1 else lines[0]


def _least(precision: str, case: Case, config: ModelConfig, rates: Rates) -> dict[Stage, float]:
    names = dict.fromkeys(Stage, precision)
    if precision == "auto":
        chosen = automatic(torch.device("cpu"), largest_transformer(config))
        names = dict.fromkeys(Stage, "fp32") | chosen
    held = {stage: name.partition("-")[0] for stage, name in names.items()}
    return {stage: roofline.floors(case, config, held[stage], rates)[stage] for stage in Stage}


def to_json(results: Results, config: ModelConfig, rates: Rates, threads: int) -> dict[str, Any]:
    """Everything, as plain values."""
    return {
        "machine": machine(threads),
        "model": config.name,
        "threads": threads,
        "rates": asdict(rates),
        "results": [
            {
                "contender": name,
                "jobs": case.jobs,
                "audio_s": case.audio_s(config),
                "voice": "none" if case.history is None else "full",
                "samples": [asdict(sample) for sample in samples],
            }
            for (case, name), samples in results.items()
        ],
    }
