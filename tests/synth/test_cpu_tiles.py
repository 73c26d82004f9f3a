"""The innermost loops against numpy's products."""

from typing import Any

import numpy as np
import pytest
import torch

from synth.linear import cpu_kernels

if cpu_kernels() is None:
    pytest.skip("no kernels for this processor", allow_module_level=True)

from numba import njit

from synth.cpu_tiles import HAS_BF16, HAS_VNNI, LANES, Kind, tile

ROWS, WORDS = 4, 12


def multiplied(kind: Kind, a: np.ndarray, b: np.ndarray, vectors: int) -> np.ndarray:
    """a (ROWS, 4 * WORDS bytes) and b (WORDS, vectors * LANES, numbers in 4 bytes)."""
    function: Any = tile(kind, ROWS, vectors, turns=2)
    columns = vectors * LANES

    @njit
    def run(a, b, out):
        function(a, 4 * WORDS, b, word, word // vectors, WORDS, out, 4 * columns)

    word = b[0].nbytes
    out = np.zeros((ROWS, columns), np.int32 if kind.is_whole else np.float32)
    run(a.ctypes.data, b.ctypes.data, out.ctypes.data)
    return out


@pytest.mark.parametrize("vectors", [1, 2])
@pytest.mark.parametrize("kind", Kind)
def test_a_tile_is_a_product(kind: Kind, vectors: int) -> None:
    if kind is Kind.BF16 and not HAS_BF16:
        pytest.skip("this processor multiplies no bfloat16")
    if kind is Kind.INT8 and not HAS_VNNI:
        pytest.skip("this processor adds up no products of 8 bits in 32")
    rng = np.random.default_rng(vectors)
    numbers = kind.numbers
    shape = (WORDS, vectors * LANES, numbers)
    if kind is Kind.INT8:
        a = rng.integers(0, 256, (ROWS, WORDS * 4)).astype(np.uint8)
        b = rng.integers(-128, 128, shape).astype(np.int8)
        exact_a, exact_b = a.astype(np.int64), b.astype(np.int64)
    elif kind is Kind.WIDE:
        a = rng.integers(-(2**15), 2**15, (ROWS, WORDS * 2)).astype(np.int16)
        b = rng.integers(-128, 128, shape).astype(np.int8)
        exact_a, exact_b = a.astype(np.int64), b.astype(np.int64)
    elif kind is Kind.BF16:
        made = torch.randn(ROWS, WORDS * 2, generator=torch.Generator().manual_seed(0)).bfloat16()
        other = torch.randn(shape, generator=torch.Generator().manual_seed(1)).bfloat16()
        exact_a, exact_b = made.double().numpy(), other.double().numpy()
        a, b = made.view(torch.int16).numpy(), other.view(torch.int16).numpy()
    else:
        a = rng.standard_normal((ROWS, WORDS)).astype(np.float32)
        b = rng.standard_normal(shape).astype(np.float32)
        exact_a, exact_b = a.astype(np.float64), b.astype(np.float64)
    flat = exact_b.transpose(0, 2, 1).reshape(WORDS * numbers, -1)
    found = multiplied(kind, a, b, vectors)
    np.testing.assert_allclose(found, exact_a @ flat, rtol=1e-5, atol=1e-4)
