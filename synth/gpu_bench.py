"""What a GPU makes of it: `python -m synth bench --device cuda`, lines as they are measured.

Milliseconds of a decode step by how many clips it makes a step of, beside what reading the weights
alone would take; a clip from end to end, and its first sound; many clips at once; several takes of
one; and the same clip by the two other implementations on the same card. All in one process, one
after the other. Each gate of `gpu_gates` is told behind the figures that it is for.
"""

import gc
import math
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch

from synth import bench_report, first_sound, gpu_gates
from synth.contenders import TEXT, Case, Contender, Mark, Ours, build
from synth.errors import InvalidRequest
from synth.model import Checkpoint, Model, build_model
from synth.pipeline import Pipeline
from synth.protocol import Done, HistoryPrompt, Sampling, Stage, Streaming, Submit
from synth.quantum import most_steps
from synth.semantic import SemanticStage
from synth.takes import score
from synth.vocab import ModelConfig

BATCHES = (1, 2, 4, 8, 16)
JOBS = 16  # at once, for throughput
SOME_JOBS = 8  # fewer of them
TAKES = 4
_STEPS = most_steps(torch.device("cuda"))  # a run, as the engine makes them
_POSITIONS = 400  # live when a step is timed: the middle of a clip
_COPY_BYTES = 1 << 31
_WARM_UP_S = 0.5
_RUNS = 4  # timed, of each repeat


def lines(
    checkpoint: Checkpoint,
    history: HistoryPrompt | None,
    seconds: float,
    peers: Sequence[str],
    *,
    device: str = "cuda",
    precision: str = "auto",
    repeats: int = 3,
    batches: Sequence[int] = BATCHES,
    jobs: int = JOBS,
    peer_seconds: float | None = None,
) -> Iterator[str]:
    """Measure and tell.

    peers: of `contenders.PEERS`; those that cannot be had are left out. They make `peer_seconds`
    where `seconds` take too long, after a clip of half a second that warms up.
    """
    where = torch.device(device)
    config = checkpoint.config
    bytes_s = _copy_rate(where)
    held = _allocated(where)  # random weights lie there too, and are nobody's
    began = time.perf_counter()
    model = build_model(checkpoint, device=device, precision=precision)
    _wait(where)
    yield (
        f"{_card(where)}; a copy moves {bytes_s / 1e12:.2f} TB/s. {config.name}, "
        f"{model.precision.name}, built in {time.perf_counter() - began:.1f} s from weights in "
        "memory"
    )
    Pipeline(model, slots=jobs).warm_up()
    _wait(where)
    yield f"ready for {jobs} clips at once after {time.perf_counter() - began:.1f} s"
    yield ""
    yield from _steps(model, batches, _weight_bytes(config, model) / bytes_s * 1e3, repeats)
    yield ""
    yield _row_head()
    ours = Ours(model)
    case = _case(seconds, config, history)
    mine = _clip(ours, case, where, repeats + 1)
    yield _row("this engine", case, config, mine, held)
    alone_s, case_s = mine.wall_s, case.audio_s(config)
    if peers and peer_seconds is not None and peer_seconds != seconds:
        case = _case(peer_seconds, config, history)
        mine = _clip(ours, case, where, repeats + 1)
        yield _row("this engine", case, config, mine, held)
    if SOME_JOBS < jobs:
        some = _case(seconds, config, history, SOME_JOBS)
        together = _clip(ours, some, where, repeats + 1)
        yield _row(f"this engine, {SOME_JOBS} at once", some, config, together, held)
    many = _case(seconds, config, history, jobs)
    together = _clip(ours, many, where, repeats + 1)
    yield _row(f"this engine, {jobs} at once", many, config, together, held)
    gain = many.audio_s(config) / together.wall_s / (case_s / alone_s)
    yield f"{jobs} at once make {gain:.1f} times as much sound a second as one"
    if seconds == gpu_gates.CLIP_SECONDS:
        yield gpu_gates.CLIP.line(alone_s)
    yield gpu_gates.TOGETHER.line(many.audio_s(config) / together.wall_s)
    del ours
    _let_go()
    yield ""
    yield "How soon a clip is heard"
    clips = list(first_sound.measure(model, history, seconds, repeats=repeats))
    yield first_sound.table(clips)
    sooner = [clip.first_s for clip in clips if clip.streaming is Streaming.LOW_LATENCY]
    yield gpu_gates.FIRST_SOUND.line(statistics.median(sooner))
    yield ""
    yield from _takes(model, history, seconds, repeats)
    yield ""
    if peers:
        yield _row_head()
    del model
    _let_go()
    for name in peers:
        try:
            with where:  # where they make up the weights that are then replaced
                peer = build(name, checkpoint, device)
        except (ImportError, InvalidRequest) as error:
            yield f"{name} is left out: {error}"
            continue
        _clip(peer, _case(_WARM_UP_S, config, history), where, 1)
        theirs = _clip(peer, case, where, 1)
        ratio = theirs.wall_s / mine.wall_s
        yield _row(f"{name} ({ratio:.1f} x this engine's time)", case, config, theirs, held)
        if name.startswith("transformers"):
            yield gpu_gates.RATIO.line(ratio)
        del peer
        _let_go()


def _steps(model: Model, batches: Sequence[int], least_ms: float, repeats: int) -> Iterator[str]:
    """A row for each number of clips at once, then their gates."""
    yield (
        "ms a semantic step (median; as the engine samples, at "
        f"{_live_positions(model.config, repeats)} positions)"
    )
    yield "| clips at once | graphs | kernels one by one | reading the weights | first use s |"
    yield "|---|---:|---:|---:|---:|"
    gates: list[str] = []
    for batch in batches:
        first_s, graphed_ms = _step_ms(model, batch, True, repeats)
        _, plain_ms = _step_ms(model, batch, False, 1)
        yield f"| {batch} | {graphed_ms:.3f} | {plain_ms:.3f} | {least_ms:.3f} | {first_s:.2f} |"
        if gate := gpu_gates.STEPS.get(batch):
            gates.append(gate.line(graphed_ms))
    yield from gates


def _takes(
    model: Model, history: HistoryPrompt | None, seconds: float, repeats: int
) -> Iterator[str]:
    """A clip, and the best of several drafts of it: what the choice costs."""
    pipeline = Pipeline(model, slots=TAKES)
    yield "| takes | wall s | of one take |"
    yield "|---|---:|---:|"
    one_s = ratio = math.nan
    for takes in (1, TAKES):
        _best_of(pipeline, history, seconds, takes)  # warms up
        wall_s = statistics.median(
            _best_of(pipeline, history, seconds, takes) for _ in range(repeats)
        )
        one_s = wall_s if takes == 1 else one_s
        ratio = wall_s / one_s
        yield f"| {takes} | {wall_s:.2f} | {ratio:.2f} |"
    yield gpu_gates.TAKES.line(ratio)


def _best_of(
    pipeline: Pipeline, history: HistoryPrompt | None, seconds: float, takes: int
) -> float:
    """Seconds until the best of so many takes is a clip, as `synth.recital` chooses."""
    how = Sampling(seed=0, early_stop=False, max_seconds=seconds)
    whole = Submit(job_id="whole", text=TEXT, sampling=how)
    began = time.perf_counter()
    if takes > 1:
        for seed in range(takes):
            draft = replace(whole, job_id=str(seed), draft=True, sampling=replace(how, seed=seed))
            pipeline.admit(draft, history)
        drafts: list[Done] = []
        while len(drafts) < takes:
            drafts += [event for event in pipeline.step() if isinstance(event, Done)]
        best = max(drafts, key=lambda done: score(TEXT, done.renditions[0]))
        tokens = tuple(best.history.semantic.tolist())
        whole = replace(whole, sampling=replace(how, seed=best.seed), semantic_tokens=tokens)
    pipeline.run(whole, history)
    return time.perf_counter() - began


def _case(
    seconds: float, config: ModelConfig, history: HistoryPrompt | None, jobs: int = 1
) -> Case:
    return Case(round(seconds * config.semantic.rate_hz), jobs, history)


def _card(device: torch.device) -> str:
    """The device's name."""
    if device.type != "cuda":
        return bench_report.processor()
    return f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}"


class _Clip:
    """Wall seconds by stage, and the most memory of the device that was taken."""

    def __init__(self, wall: dict[Stage, float], peak_bytes: int) -> None:
        self.wall, self.peak_bytes = wall, peak_bytes
        self.wall_s = sum(wall.values())


def _clip(contender: Contender, case: Case, device: torch.device, repeats: int) -> _Clip:
    """A case made some times; the (lower) median one of all but the first, which warms up."""
    made: list[_Clip] = []
    for _ in range(repeats):
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        wall = dict.fromkeys(Stage, 0.0)
        contender.make(case, _marker(wall, device))
        peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0
        made.append(_Clip(wall, peak))
    counted = made[1:] or made
    median_s = statistics.median_low(clip.wall_s for clip in counted)
    return next(clip for clip in counted if clip.wall_s == median_s)


def _marker(wall: dict[Stage, float], device: torch.device) -> Mark:
    last = time.perf_counter()

    def mark(stage: Stage) -> None:
        nonlocal last
        _wait(device)
        now = time.perf_counter()
        wall[stage] += now - last
        last = now

    return mark


def _row_head() -> str:
    stages = " | ".join(f"{stage} s" for stage in Stage)
    rule = "---:|" * (len(Stage) + 4)
    return f"| | audio s | {stages} | wall s | audio s / s | GPU MB |\n|---|{rule}"


def _row(name: str, case: Case, config: ModelConfig, clip: _Clip, held: int) -> str:
    stages = " | ".join(f"{clip.wall[stage]:.2f}" for stage in Stage)
    speed = case.audio_s(config) / clip.wall_s
    memory = max(0, clip.peak_bytes - held) / (1 << 20)
    made_s = case.audio_s(config)
    return f"| {name} | {made_s:.1f} | {stages} | {clip.wall_s:.2f} | {speed:.1f} | {memory:.0f} |"


def _step_ms(model: Model, batch: int, graphs: bool, repeats: int) -> tuple[float, float]:
    """Seconds of the first steps, which record graphs, and median milliseconds of a later one."""
    config = model.config
    with torch.inference_mode():
        stage = SemanticStage(model.semantic, config, slots=batch)
        if graphs and model.device.type == "cuda":
            stage.record_steps()
        text = model.tokenizer.encode(TEXT).text_tokens
        slots = list(range(batch))
        for slot in slots:
            stage.start(slot, text, None, Sampling(seed=slot, early_stop=False), 0)
        _wait(model.device)
        began = time.perf_counter()
        stage.run(_STEPS, slots)
        first_s = time.perf_counter() - began
        further = _live_positions(config, repeats) - _first_positions(config)
        for _ in range(math.ceil(further / _STEPS)):
            stage.run(_STEPS, slots)
        times: list[float] = []
        for _ in range(_RUNS * repeats):
            began = time.perf_counter()
            stage.run(_STEPS, slots)
            times.append((time.perf_counter() - began) / _STEPS * 1e3)
    return first_s, statistics.median(times)


def _live_positions(config: ModelConfig, repeats: int) -> int:
    """Positions before the steps that are timed: fewer than wanted where they would not fit."""
    room = config.semantic_shape.context - (_RUNS * repeats + 1) * _STEPS
    return max(_first_positions(config), min(_POSITIONS, room))


def _first_positions(config: ModelConfig) -> int:
    """Positions behind a prompt without history and the first run."""
    return config.text.block + 1 + _STEPS


def _weight_bytes(config: ModelConfig, model: Model) -> float:
    shape = config.semantic_shape
    weights = 12 * shape.n_layer * shape.width**2 + (config.semantic.vocab + 1) * shape.width
    return weights * model.semantic.wpe.element_size()


def _copy_rate(device: torch.device) -> float:
    """Bytes a second, read and written together."""
    size = _COPY_BYTES if device.type == "cuda" else 1 << 26
    source = torch.zeros(size // 4, device=device)
    target = torch.empty_like(source)
    times: list[float] = []
    for _ in range(6):
        _wait(device)
        began = time.perf_counter()
        target.copy_(source)
        _wait(device)
        times.append(time.perf_counter() - began)
    return 2 * size / min(times)


def _allocated(device: torch.device) -> int:
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else 0


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _let_go() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
