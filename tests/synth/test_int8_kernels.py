"""The kernels against the same numbers worked out in float64."""

from typing import Any

import numpy as np
import pytest
import torch

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
        counter = kernels.counters(1)
        kernels._multiply(x, most, packed.ctypes.data, scale, shift, out, add, counter.ctypes.data)
        expected = whole * scale * most[:, None] + (before if add else 0)
        np.testing.assert_allclose(out, expected, rtol=3e-7, atol=1e-6)


def test_gelu_is_the_exact_one() -> None:
    x = np.linspace(-12, 12, 4001, dtype=np.float32)
    expected = torch.nn.functional.gelu(torch.from_numpy(x).double()).numpy()
    out = np.empty_like(x)
    kernels._gelu_all(x, out)
    np.testing.assert_allclose(out, expected, atol=1e-6)


def test_exponentials_are_right_to_their_last_bits() -> None:
    for x in np.linspace(-60, 0, 997, dtype=np.float32):
        assert kernels._exp(x) == pytest.approx(np.exp(np.float64(x)), rel=3e-6)
    assert kernels._exp(np.float32(-1e30)) < 1e-29


@pytest.mark.parametrize("live", [1, 2, 37])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_head_looks_back_on_all_that_is_live(live: int, dtype: torch.dtype) -> None:
    rng = torch.Generator().manual_seed(live)
    keys, values = (torch.randn(40, 16, generator=rng).to(dtype) for _ in range(2))
    query, key, value = (torch.randn(16, generator=rng) for _ in range(3))
    held = [keys.clone(), values.clone()]
    held[0][live - 1], held[1][live - 1] = key.to(dtype), value.to(dtype)
    logits = (held[0][:live].double() @ query.double()) / 4
    expected = logits.softmax(0) @ held[1][:live].double()
    arrays = [
        x.view(torch.int16).numpy().view(np.uint16) if x.dtype == torch.bfloat16 else x.numpy()
        for x in (keys, values)
    ]
    out, scores = np.empty(16, np.float32), np.empty(live, np.float32)
    kernels._attend_head(
        query.numpy(),
        key.numpy(),
        value.numpy(),
        arrays[0][:live],
        arrays[1][:live],
        scores,
        np.float32(0.25),
        out,
    )
    np.testing.assert_allclose(out, expected, atol=2e-6)
    assert torch.equal(keys, held[0])  # written where it belongs, rounded as torch rounds
    assert torch.equal(values, held[1])
