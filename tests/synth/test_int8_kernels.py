"""The products against the same numbers worked out in whole ones."""

from typing import Any

import numpy as np
import pytest

from synth.linear import int8_kernels, int8_limit

kernels: Any = int8_kernels()
if kernels is None or int8_limit() != 127:
    pytest.skip("no kernels for this processor", allow_module_level=True)


@pytest.mark.parametrize("rows", [1, 3, 4, 13])
@pytest.mark.parametrize(("size", "outputs"), [(24, 5), (768, 96)])
def test_products_are_exact_sums(rows: int, size: int, outputs: int) -> None:
    """Sizes that fill neither a vector nor a turn of the loop; rows for every tile."""
    rng = np.random.default_rng(rows)
    weight = rng.integers(-127, 128, (outputs, size)).astype(np.int8)
    x = np.full((rows, kernels.padded(size)), 128, np.uint8)
    x[:, :size] = rng.integers(1, 256, (rows, size))
    packed = kernels.pack(weight)
    scale = rng.random(outputs, np.float32)
    most = rng.random(rows, np.float32)
    before = rng.standard_normal((rows, outputs)).astype(np.float32)
    whole = (x[:, :size].astype(np.int64) - 128) @ weight.T.astype(np.int64)
    shift = (128 * weight.sum(1, dtype=np.int32)).astype(np.int32)
    for add in (False, True):
        out = before.copy()
        counter = kernels.pieces(1)
        kernels._multiply(x, most, packed.ctypes.data, scale, shift, out, add, counter.ctypes.data)
        expected = whole * scale * most[:, None] + (before if add else 0)
        np.testing.assert_allclose(out, expected, rtol=3e-7, atol=1e-6)
