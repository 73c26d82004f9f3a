"""The benchmark's picture: cost against the length of a clip and against jobs at once."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from synth.bench_report import Results, median
from synth.contenders import Case
from synth.errors import InvalidRequest
from synth.vocab import ModelConfig


def check(path: Path) -> None:
    """Raise InvalidRequest when no picture can be drawn there, before hours are spent."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
    except ImportError:
        raise InvalidRequest(
            "--plot needs matplotlib: pip install 'bark-for-discord[bench]'."
        ) from None
    kinds = FigureCanvasAgg.get_supported_filetypes()
    if path.suffix.removeprefix(".").lower() not in kinds:
        raise InvalidRequest(f"{path} is no picture: end its name in .png, .svg or .pdf.")


def draw(
    path: Path,
    results: Results,
    config: ModelConfig,
    lengths: Sequence[Case],
    batches: Sequence[Case],
) -> None:
    """Write the picture in the format of the path's ending (png, svg, pdf).

    Left: CPU seconds of clips of some lengths. Right: CPU seconds a second of audio, by jobs.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    for name in dict.fromkeys(name for _, name in results):
        _line(left, results, name, [(case.audio_s(config), case, 1.0) for case in lengths])
        _line(right, results, name, [(case.jobs, case, case.audio_s(config)) for case in batches])
    left.set(xlabel="seconds of audio", ylabel="CPU seconds", xscale="log", yscale="log")
    right.set(xlabel="clips at once", ylabel="CPU seconds / audio second", xscale="log")
    for axes in (left, right):
        axes.grid(True, which="both", alpha=0.3)
        axes.legend()
    figure.suptitle(config.name)
    figure.savefig(path)


def _line(axes: Any, results: Results, name: str, points: list[tuple[float, Case, float]]) -> None:
    """points: x, the case, and what its CPU seconds are divided by."""
    made = sorted(
        (x, median(results[case, name], lambda s: s.cpu_s) / over)
        for x, case, over in points
        if (case, name) in results
    )
    if made:
        axes.plot(*zip(*made, strict=True), marker="o", label=name)
