"""What is done to a row, against the same numbers worked out in float64."""

import numpy as np
import pytest
import torch

arithmetic = pytest.importorskip("synth.cpu_arithmetic")


def test_gelu_is_the_exact_one() -> None:
    x = np.linspace(-12, 12, 4001, dtype=np.float32)
    expected = torch.nn.functional.gelu(torch.from_numpy(x).double()).numpy()
    out = np.empty_like(x)
    arithmetic.gelu_all(x, out)
    np.testing.assert_allclose(out, expected, atol=1e-6)


def test_exponentials_are_right_to_their_last_bits() -> None:
    for x in np.linspace(-60, 0, 997, dtype=np.float32):
        assert arithmetic.exp(x) == pytest.approx(np.exp(np.float64(x)), rel=3e-6)
    assert arithmetic.exp(np.float32(-1e30)) < 1e-29


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
    arithmetic.attend_head(
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
