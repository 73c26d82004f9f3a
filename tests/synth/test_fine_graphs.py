"""Recorded passes of the fine stage: what plain ones predict, for windows of any length."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from synth.fine import FineJob, FineStage
from synth.model import build_model
from synth.protocol import Sampling, Streaming
from synth.step_graphs import Body, Record, Recorded
from tests.synth.tape import Recorder
from tests.synth.tiny import ODD, history, tiny_checkpoint, tiny_model


def _codes(stage: FineStage, frames: int, streaming: Streaming, device: str = "cpu") -> np.ndarray:
    coarse = np.random.default_rng(frames).integers(101, size=(2, frames))
    job = FineJob(
        history(ODD, 58),
        Sampling(fine_temperature=0),
        0,
        ODD,
        torch.device(device),
        most_frames=frames,
        streaming=streaming,
    )
    job.extend(coarse)
    job.complete = True
    with torch.inference_mode():
        while not job.ended:
            stage.step(job)
    return job.codes()


def _pair(record: Record | None) -> tuple[FineStage, FineStage]:
    plain, recorded = (FineStage(tiny_model(ODD, "fp64").fine, ODD) for _ in range(2))
    recorded.record_passes(record)
    return plain, recorded


@pytest.mark.parametrize("streaming", Streaming)
def test_replayed_passes_predict_what_plain_ones_do(streaming: Streaming) -> None:
    recorder = Recorder()
    plain, recorded = _pair(recorder)
    for frames in (300, 40, 171):
        np.testing.assert_array_equal(
            _codes(recorded, frames, streaming), _codes(plain, frames, streaming)
        )
    books = ODD.fine.codebooks - ODD.coarse.codebooks
    # Every window is whole; or some are, and others are not.
    assert recorder.made == (books if streaming is Streaming.EXACT else 2 * books)


def test_where_recording_fails_the_pass_is_whole(caplog: pytest.LogCaptureFixture) -> None:
    def refuse(body: Body, state: Sequence[Tensor]) -> Recorded:
        raise RuntimeError("not permitted")

    plain, recorded = _pair(refuse)
    for streaming in Streaming:
        np.testing.assert_array_equal(
            _codes(recorded, 150, streaming), _codes(plain, 150, streaming)
        )
    assert len(caplog.records) == 1 and "fine passes cannot be recorded" in caplog.text


@pytest.mark.gpu
@pytest.mark.parametrize("streaming", Streaming)
def test_on_a_gpu(streaming: Streaming) -> None:
    model = build_model(tiny_checkpoint(ODD), device="cuda", precision="fp64")
    recorded, on_cpu = FineStage(model.fine, ODD), FineStage(tiny_model(ODD, "fp64").fine, ODD)
    recorded.record_passes()
    for frames in (300, 40):
        made = _codes(recorded, frames, streaming, "cuda")
        np.testing.assert_array_equal(made, _codes(on_cpu, frames, streaming))
    assert recorded._graphs is not None and recorded._graphs.fits(1)
