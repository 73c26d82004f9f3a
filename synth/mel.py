"""Mel filters, for whoever looks at sound as an ear does: the small model's codec, and benches."""

import functools

import numpy as np
import torch
from torch import Tensor


@functools.cache
def mel_filters(bands: int, n_fft: int, rate: int, top: float | None = None) -> Tensor:
    """(bands, n_fft // 2 + 1) triangles on the HTK mel scale, each summing to one."""
    top = rate / 2 if top is None else top

    def hertz(mel: np.ndarray) -> np.ndarray:
        return 700 * (10 ** (mel / 2595) - 1)

    edges = hertz(
        np.linspace(2595 * np.log10(1 + 30 / 700), 2595 * np.log10(1 + top / 700), bands + 2)
    )
    f = np.linspace(0, rate / 2, n_fft // 2 + 1)[None]
    low, mid, high = (edges[i : i + bands, None] for i in range(3))
    weight = np.maximum(np.minimum((f - low) / (mid - low), (high - f) / (high - mid)), 0)
    return torch.tensor(
        weight / np.maximum(weight.sum(1, keepdims=True), 1e-6), dtype=torch.float32
    )
