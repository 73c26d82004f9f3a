"""The products against the same numbers worked out in whole ones."""

from typing import Any

import numpy as np
import pytest
import torch

from synth.linear import PackedHalfLinear, cpu_kernels, has_half_kernels

kernels: Any = cpu_kernels()
if kernels is None:
    pytest.skip("no kernels for this processor", allow_module_level=True)


@pytest.mark.parametrize("rows", [1, 3, 4, 13])
@pytest.mark.parametrize(("size", "outputs"), [(24, 5), (768, 96)])
@pytest.mark.parametrize("dtype", dict.fromkeys((kernels.NARROW, kernels.WIDE)))
def test_products_are_exact_sums(dtype: Any, rows: int, size: int, outputs: int) -> None:
    """Sizes that fill neither a vector nor a turn of the loop; rows for every tile."""
    rng = np.random.default_rng(rows)
    weight = rng.integers(-127, 128, (outputs, size)).astype(np.int8)
    x = kernels.zeros(rows, size, dtype)
    steps, zero = kernels.steps_of(x), kernels.zero_of(x)
    x[:, :size] = rng.integers(zero - steps, zero + steps + 1, (rows, size))
    packed = kernels.pack(weight, dtype)
    scale = rng.random(outputs, np.float32)
    most = rng.random(rows, np.float32)
    before = rng.standard_normal((rows, outputs)).astype(np.float32)
    whole = (x[:, :size].astype(np.int64) - zero) @ weight.T.astype(np.int64)
    shift = (zero * weight.sum(1, dtype=np.int32)).astype(np.int32)
    for add in (False, True):
        out = before.copy()
        counter = kernels.pieces(1)
        kernels._multiply(x, most, packed.ctypes.data, scale, shift, out, add, counter.ctypes.data)
        expected = whole * scale * most[:, None] + (before if add else 0)
        np.testing.assert_allclose(out, expected, rtol=3e-7, atol=1e-6 * steps)


@pytest.mark.skipif(not has_half_kernels(), reason="no products of bfloat16 here")
@pytest.mark.parametrize(("size", "outputs"), [(24, 5), (24, 37), (768, 96)])
def test_a_row_of_bfloat16_is_the_same_in_every_tile(size: int, outputs: int) -> None:
    """Its sums are floats, which come out otherwise in another order."""
    random = torch.Generator().manual_seed(0)
    weight, x = (torch.randn(n, size, generator=random) for n in (outputs, 13))
    linear = PackedHalfLinear(weight)
    exact = x.bfloat16().double() @ weight.bfloat16().double().T
    together = linear(x)
    torch.testing.assert_close(together.double(), exact, rtol=1e-5, atol=1e-4)
    for row in (0, 8, 12):  # of the tiles of 8, of 4 and of one
        assert torch.equal(linear(x[row : row + 1])[0], together[row])
    out = torch.ones(13, outputs)
    linear.add_to(out, x)
    assert torch.equal(out, together + 1)


@pytest.mark.parametrize("size", [16, 768, 3072, 4096])
def test_the_largest_sum_there_can_be_fits(size: int) -> None:
    """Rows in 16 bits use up what 32 have for their sum: one step more would turn it around."""
    x = kernels.zeros(1, size, kernels.WIDE)
    steps = kernels.steps_of(x)
    x[:] = steps
    weight = np.full((1, size), 127, np.int8)
    out, one = np.empty((1, 1), np.float32), np.ones(1, np.float32)
    packed = kernels.pack(weight, kernels.WIDE)
    counter = kernels.pieces(1)
    nothing = np.zeros(1, np.int32)
    kernels._multiply(x, one, packed.ctypes.data, one, nothing, out, False, counter.ctypes.data)
    assert out[0, 0] == np.float32(size * steps * 127)
    assert steps == 2**15 - 1 or (steps + 1) * size * 127 >= 2**31
