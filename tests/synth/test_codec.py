"""EnCodec's decoder with folded weights against the package's own with weight norm."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from synth.codec import Codec, exactly, fold_weight_norm
from synth.errors import InvalidRequest
from synth.vocab import ModelConfig
from tests.synth.reference import original
from tests.synth.tiny import NARROW, ODD, tiny_checkpoint, tiny_model

CPU = torch.device("cpu")


@pytest.mark.parametrize("config", [NARROW, ODD], ids=["narrow", "odd"])
@pytest.mark.parametrize("frames", [1, 2, 5, 75])
def test_samples_equal_the_package_s(config: ModelConfig, frames: int) -> None:
    size = (config.fine.codebooks, frames)
    codes = np.random.default_rng(frames).integers(config.codec.codebook_size, size=size)
    samples = tiny_model(config).codec.decode(codes)
    assert samples.shape == (frames * config.codec.hop,) and samples.dtype == np.float32
    assert np.abs(samples - original(config).waveform(codes)).max() < 1e-5
    assert samples.std() > 0.02


def test_folded_weights_are_taken_as_they_are() -> None:
    tensors = tiny_checkpoint(NARROW).tensors("codec")
    folded = fold_weight_norm(tensors)
    assert not [name for name in folded if name.endswith(("_g", "_v"))]
    codes = np.random.default_rng(0).integers(1024, size=(8, 20))
    np.testing.assert_array_equal(
        Codec(NARROW, folded, device=CPU).decode(codes), tiny_model(NARROW).codec.decode(codes)
    )


def test_a_missing_or_misshapen_tensor_is_named() -> None:
    tensors = dict(tiny_checkpoint(NARROW).tensors("codec"))
    embed = "quantizer.vq.layers.7._codebook.embed"
    with pytest.raises(InvalidRequest, match="codec stage lacks .*layers.7._codebook"):
        Codec(NARROW, {n: t for n, t in tensors.items() if n != embed}, device=CPU)
    with pytest.raises(InvalidRequest, match=r"codec stage has .*layers.7.*\(3, 3\)"):
        Codec(NARROW, tensors | {embed: torch.zeros(3, 3)}, device=CPU)
    gain = "decoder.model.0.conv.conv.weight_g"
    with pytest.raises(InvalidRequest, match="weight_v but no"):
        Codec(NARROW, {n: t for n, t in tensors.items() if n != gain}, device=CPU)


def test_importing_encodec_leaves_no_stand_in_behind() -> None:
    """In a fresh interpreter: others must not take an empty torchaudio for the real one."""
    program = (
        "import sys\n"
        "from synth.codec import import_encodec\n"
        "assert hasattr(import_encodec(), 'EncodecModel')\n"
        "module = sys.modules.get('torchaudio')\n"
        "assert module is None or module.__file__, module\n"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", program], check=True, timeout=50)


def test_what_is_exact_is_cudnn_s_and_in_full_single_precision() -> None:
    with exactly():
        assert torch.backends.cudnn.enabled and not torch.backends.cudnn.allow_tf32
