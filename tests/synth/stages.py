"""One stage of the engine alone, greedy, over a tiny model."""

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch

from synth.fine import FineJob, FineStage
from synth.protocol import HistoryPrompt, Sampling
from synth.vocab import ModelConfig
from tests.synth.tiny import tiny_model

GREEDY = Sampling(text_temperature=0, waveform_temperature=0, fine_temperature=0)


def fine_codes(
    config: ModelConfig,
    coarse_codes: npt.NDArray[np.integer],
    history: HistoryPrompt | None,
    *,
    temperature: float = 0,
    precision: str = "fp32",
) -> npt.NDArray[np.int64]:
    """(2, F) -> (books, F)."""
    model = tiny_model(config, precision)
    sampling = replace(GREEDY, fine_temperature=temperature)
    job = FineJob.of(coarse_codes, history, sampling, 0, config, torch.device("cpu"))
    stage = FineStage(model.fine, config)
    with torch.inference_mode():
        while not job.ended:
            stage.step(job)
    return job.codes()
