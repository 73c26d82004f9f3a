"""A small random model whose sound a voice channel can carry.

The bot's own random model makes hiss, and Opus keeps the loudness of hiss but not its shape: what
arrives could not be told from anything else. The same model with smooth kernels in the last half of
its decoder rumbles below 2 kHz, where Opus is faithful. Knows nothing of Discord.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from synth.checkpoints import save_checkpoint
from synth.codec import Codec
from synth.random_model import random_checkpoint

_SMOOTH_FROM = 6  # the decoder's layer from which a kernel's fine structure is heard
_LEVEL = 0.1


def write_model(folder: Path) -> None:
    """Write the model to `folder` in the project's own layout; the same each time."""
    checkpoint = random_checkpoint()
    codec = dict(checkpoint.stages["codec"])
    layers = {name: int(name.split(".")[2]) for name in codec if name.startswith("decoder.")}
    for name, layer in layers.items():
        size = codec[name].shape[-1]
        if name.endswith("weight_v") and size > 1 and layer >= _SMOOTH_FROM:
            at = torch.arange(size) - (size - 1) / 2
            triangle = 1 - at.abs() / (size / 2 + 0.5)
            codec[name] = codec[name].sum(-1, keepdim=True) * triangle
    last = f"decoder.model.{max(layers.values())}.conv.conv"
    codes = np.random.default_rng(0).integers(
        checkpoint.config.codec.codebook_size, size=(checkpoint.config.fine.codebooks, 60)
    )
    samples = Codec(checkpoint.config, codec, device=torch.device("cpu")).decode(codes)
    gain = _LEVEL / float(samples.std())
    codec[f"{last}.weight_g"] = codec[f"{last}.weight_g"] * gain
    codec[f"{last}.bias"] = (codec[f"{last}.bias"] - float(samples.mean())) * gain
    stages = {**checkpoint.stages, "codec": codec}
    save_checkpoint(folder, checkpoint.config, stages, checkpoint.tokenizer_file)
