"""How soon a clip can be heard, by each way its sound may leave the engine.

Part of `python -m synth bench --streaming`. Times are wall seconds from the request to the samples,
in this process; what a listener's side adds is not in them.
"""

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from synth.model import Model
from synth.pipeline import Pipeline
from synth.prefill_graphs import WARM_UP_S
from synth.protocol import Audio, HistoryPrompt, JobEvent, Sampling, Streaming, Submit

_TEXT = "Hello there, how soon can you hear what I am saying?"


@dataclass(frozen=True)
class Heard:
    """One clip. Seconds from the request on.

    first_s: the first samples. steady_s: the earliest that playing could begin and not run dry
    before the end. made_s: the last samples.
    """

    streaming: Streaming
    first_s: float
    steady_s: float
    made_s: float
    audio_s: float


def measure(
    model: Model,
    history: HistoryPrompt | None,
    seconds: float,
    *,
    repeats: int = 3,
    clock: Callable[[], float] = time.perf_counter,
) -> Iterator[Heard]:
    """Each way's clip of so many seconds, in turn, `repeats` times."""
    pipeline = Pipeline(model)
    sampling = Sampling(seed=1, max_seconds=seconds, early_stop=False)
    warm_up_s = WARM_UP_S if model.device.type == "cuda" else 0.2
    warm_up = Sampling(seed=1, max_seconds=warm_up_s, early_stop=False)
    for streaming in Streaming:
        submit = Submit(job_id="warm-up", text=_TEXT, sampling=warm_up, streaming=streaming)
        pipeline.run(submit, history)
    for _ in range(repeats):
        for streaming in Streaming:
            submit = Submit(job_id="heard", text=_TEXT, sampling=sampling, streaming=streaming)
            yield _hear(pipeline, submit, history, clock)


def _hear(
    pipeline: Pipeline,
    submit: Submit,
    history: HistoryPrompt | None,
    clock: Callable[[], float],
) -> Heard:
    rate = pipeline.model.config.codec.sample_rate
    chunks: list[tuple[float, float]] = []  # when, and how many seconds of sound
    began = clock()

    def note(event: JobEvent) -> None:
        if isinstance(event, Audio):
            chunks.append((clock() - began, len(event.samples) / rate))

    pipeline.run(submit, history, note)
    steady_s = before_s = 0.0
    for at_s, length_s in chunks:
        steady_s = max(steady_s, at_s - before_s)
        before_s += length_s
    return Heard(submit.streaming, chunks[0][0], steady_s, chunks[-1][0], before_s)


def table(clips: Sequence[Heard]) -> str:
    """Medians as a Markdown table."""
    lines = [["", "first sound s", "plays on from s", "all made s", "s / audio s"]]
    lines.append(["---", *["---:"] * 4])
    for streaming in Streaming:
        mine = [clip for clip in clips if clip.streaming is streaming]
        figures = [
            statistics.median(figure(clip) for clip in mine)
            for figure in (
                lambda clip: clip.first_s,
                lambda clip: clip.steady_s,
                lambda clip: clip.made_s,
                lambda clip: clip.made_s / clip.audio_s,
            )
        ]
        lines.append([f"`{streaming}`", *(f"{figure:.2f}" for figure in figures)])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
