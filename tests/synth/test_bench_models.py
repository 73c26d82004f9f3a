"""The benchmark's models."""

from pathlib import Path

import pytest
import torch

from synth import bench_models
from synth.bench_models import in_a_folder, open_model
from tests.synth.tiny import NARROW


def test_random_weights_come_from_files_as_others_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a model leaves in its file was counted as memory, for it had none."""
    monkeypatch.setattr(bench_models, "SIZES", {"small": NARROW})
    made = open_model("small")
    with in_a_folder("small") as folder:
        stored = open_model(folder)
        assert stored.config == NARROW
        for name, tensor in stored.tensors("coarse").items():
            assert torch.equal(tensor, made.tensors("coarse")[name])
    assert not Path(folder).parent.exists()
    with in_a_folder("somebody/model") as name:
        assert name == "somebody/model"
