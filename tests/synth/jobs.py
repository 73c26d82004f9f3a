"""Jobs for pipelines under test, and what becomes of them."""

import numpy as np
import numpy.typing as npt

from synth.model import Model, build_model
from synth.pipeline import Pipeline
from synth.protocol import (
    Audio,
    Done,
    Failed,
    Sampling,
    Submit,
)
from synth.random_model import RandomCheckpoint
from tests.synth.tiny import RANDOM, tiny_checkpoint


def submit(
    job_id: str = "job", text: str = "Hello there", utterance: int = 0, **how: object
) -> Submit:
    return Submit(job_id=job_id, text=text, sampling=Sampling(**how), utterance=utterance)  # pyright: ignore[reportArgumentType]


Heard = dict[str, npt.NDArray[np.float32]]


def finish(
    pipeline: Pipeline, count: int, heard: Heard | None = None
) -> dict[str, tuple[npt.NDArray[np.float32], Done]]:
    """Step until `count` jobs are done; `heard` keeps what jobs that are not said so far."""
    samples: Heard = {} if heard is None else heard
    done: dict[str, Done] = {}
    while len(done) < count:
        for event in pipeline.step():
            assert not isinstance(event, Failed), event
            if isinstance(event, Audio):
                before = samples.get(event.job_id, np.zeros(0, np.float32))
                samples[event.job_id] = np.concatenate([before, event.samples])
            elif isinstance(event, Done):
                done[event.job_id] = event
    return {job_id: (samples[job_id], done[job_id]) for job_id in done}


def assert_same(one: Done, other: Done) -> None:
    np.testing.assert_array_equal(one.history.semantic, other.history.semantic)
    np.testing.assert_array_equal(one.history.coarse_codes, other.history.coarse_codes)
    np.testing.assert_array_equal(one.history.fine_codes, other.history.fine_codes)


def model_that_ends_at_once() -> Model:
    """RANDOM with an end that is certain from the first position on."""
    checkpoint = tiny_checkpoint(RANDOM)
    semantic = {n: t.clone() for n, t in checkpoint.tensors("semantic").items()}
    head = semantic["lm_head.weight"]
    semantic["transformer.wpe.weight"] += (
        500 * head[RANDOM.semantic.pad] / head[RANDOM.semantic.pad].norm()
    )
    ending = RandomCheckpoint(
        RANDOM, checkpoint.tokenizer_file, {**checkpoint.stages, "semantic": semantic}
    )
    return build_model(ending, device="cpu", precision="fp32")
