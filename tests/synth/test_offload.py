"""One stage's weights at a time: the same clips, in the memory of the largest stage."""

import numpy as np
import pytest
import torch

from synth.model import build_model
from synth.offload import Offload, room_for
from synth.pipeline import Pipeline
from synth.protocol import Sampling, Streaming, Submit
from tests.synth.tiny import tiny_checkpoint


@pytest.mark.parametrize("streaming", Streaming)
def test_clips_are_the_same(monkeypatch: pytest.MonkeyPatch, streaming: Streaming) -> None:
    brought: list[str] = []
    bring = Offload.bring

    def counted(self: Offload, stage: str) -> None:
        if self.present != stage:
            brought.append(stage)
        bring(self, stage)

    monkeypatch.setattr(Offload, "bring", counted)
    sampling = Sampling(seed=3, max_seconds=2.0, early_stop=False)
    submit = Submit(job_id="a", text="Hello there", sampling=sampling, streaming=streaming)
    clips: list[np.ndarray] = []
    for offload in (False, True):
        model = build_model(tiny_checkpoint(), device="cpu", precision="fp32", offload=offload)
        pipeline = Pipeline(model)
        brought.clear()
        clips += [pipeline.run(submit, None)[0] for _ in range(2)]
    for clip in clips[1:]:
        np.testing.assert_array_equal(clip, clips[0])
    if streaming is Streaming.EXACT:
        assert brought == ["semantic", "coarse", "fine"] * 2
    else:  # who wants sound soon has them changed for each window, but not for each step
        assert brought[:3] == ["semantic", "coarse", "fine"] and len(brought) < 40


def test_stages_share_the_memory_of_the_largest() -> None:
    model = build_model(tiny_checkpoint(), device="cpu", precision="fp32", offload=True)
    assert model.offload is not None
    memory = model.offload._memory
    first, last = memory.data_ptr(), memory.data_ptr() + len(memory)
    for transformer in (model.semantic, model.coarse, model.fine):
        weights = [transformer.wpe, *transformer.wtes, *transformer.heads]
        weights += [block.c_attn.weight for block in transformer.blocks]
        for weight in weights:
            assert isinstance(weight, torch.Tensor)
            assert first <= weight.data_ptr() and weight.data_ptr() + weight.nbytes <= last
    model.offload.bring("coarse")
    other = build_model(tiny_checkpoint(), device="cpu", precision="fp32")
    assert torch.equal(model.coarse.wpe, other.coarse.wpe)
    assert not torch.equal(model.fine.wpe, other.fine.wpe)


def test_weights_lie_where_a_gpu_reads_them_at_once() -> None:
    assert room_for([(1,), (64, 2)], torch.float32) == 256 + 512
    put = Offload(torch.device("cpu"), 768).keeper("a")
    one, two = put(torch.ones(1)), put(torch.ones(64, 2))
    assert two.data_ptr() - one.data_ptr() == 256
    with pytest.raises(AssertionError, match="larger"):
        put(torch.ones(1))


@pytest.mark.gpu
@pytest.mark.parametrize("streaming", Streaming)
def test_on_a_gpu(streaming: Streaming) -> None:
    """What is recorded reads a stage's weights where they were when it was recorded."""
    sampling = Sampling(seed=3, max_seconds=2.0, early_stop=False)
    submit = Submit(job_id="a", text="Hello there", sampling=sampling, streaming=streaming)
    clips: list[np.ndarray] = []
    for offload in (False, True):
        model = build_model(tiny_checkpoint(), device="cuda", precision="fp64", offload=offload)
        pipeline = Pipeline(model)
        clips += [pipeline.run(submit, None)[0] for _ in range(2)]
    for clip in clips[1:]:
        assert np.abs(clip - clips[0]).max() < 1e-6
