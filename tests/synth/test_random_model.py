"""The random model is repeatable, lively and quick."""

import numpy as np
import torch

from synth.model import build_model
from synth.pipeline import Pipeline
from synth.protocol import Sampling, Submit
from synth.random_model import RANDOM, random_checkpoint
from tests.synth.tiny import tiny_model


def test_a_seed_names_the_weights() -> None:
    one, same, other = (
        random_checkpoint(seed=1),
        random_checkpoint(seed=1),
        random_checkpoint(seed=2),
    )
    for stage in ("semantic", "coarse", "fine", "codec"):
        for name, tensor in one.tensors(stage).items():
            assert tensor.dtype == torch.float32
            assert torch.equal(tensor, same.tensors(stage)[name])
    wpe = "transformer.wpe.weight"
    assert not torch.equal(one.tensors("fine")[wpe], other.tensors("fine")[wpe])


def test_clips_end_by_themselves_within_1_to_6_seconds_and_are_not_silent() -> None:
    pipeline = Pipeline(tiny_model())
    lengths: list[float] = []
    for seed in range(5):
        job = Submit(job_id="noise", text=f"Clip number {seed}", sampling=Sampling(seed=seed))
        samples, done = pipeline.run(job, None)
        lengths.append(done.audio_s)
        assert 0.02 < samples.std() < 0.3 and np.abs(samples).max() < 1.5
        assert len(set(done.history.semantic.tolist())) > 20
    assert all(1 < length < 6 for length in lengths) and len(set(lengths)) > 2
    assert max(lengths) < RANDOM.max_utterance_s


def test_another_seed_is_another_model() -> None:
    other = build_model(random_checkpoint(seed=3), device="cpu", precision="fp32")
    job = Submit(job_id="noise", text="Hello")
    ours, theirs = (Pipeline(m).run(job, None)[1].history.semantic for m in (tiny_model(), other))
    assert not np.array_equal(ours[:20], theirs[:20])
