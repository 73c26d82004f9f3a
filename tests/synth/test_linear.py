"""8 bit products: as near as 8 bits allow, and every row by itself."""

import os
import subprocess
import sys

import pytest
import torch
from torch import Tensor

from synth.linear import Int8Linear, Linear, int8_limit

pytestmark = pytest.mark.skipif(not int8_limit(), reason="no 8 bit products on this machine")


def random(*size: int, seed: int = 0) -> Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("rows", [1, 3, 300])
@pytest.mark.parametrize("size", [(40, 24), (96, 4096)])
def test_int8_is_near_the_product(rows: int, size: tuple[int, int]) -> None:
    """Rows and outputs of very different sizes: each has a scale of its own."""
    weight = random(*size) * torch.logspace(-3, 2, size[0])[:, None]
    x = random(rows, size[1], seed=1) * torch.logspace(-2, 3, rows)[:, None]
    exact, y = Linear(weight)(x), Int8Linear(weight)(x)
    error = (y - exact) / (x.norm(dim=1)[:, None] * weight.norm(dim=1))
    assert y.dtype == torch.float32
    # Two roundings, each uniform within half a step of a 127th of the largest magnitude.
    step = (x.abs().amax(1) / x.norm(dim=1)).max() + (
        weight.abs().amax(1) / weight.norm(dim=1)
    ).max()
    assert error.abs().max() < 5 * step / (127 * 12**0.5)
    assert error.std() > 0


def test_a_row_does_not_depend_on_its_neighbours() -> None:
    """To the last bit: the kernels' usual single scale for a batch made a slot's tokens differ."""
    linear = Int8Linear(random(200, 96))
    x = random(400, 96, seed=1) * torch.logspace(-3, 3, 400)[:, None]
    alone = torch.cat([linear(row[None]) for row in x])
    for rows in (2, 7, 400):
        assert torch.equal(linear(x[:rows]), alone[:rows])


def test_add_to_adds_the_product() -> None:
    linear, x, out = Int8Linear(random(64, 32)), random(5, 32, seed=1), random(5, 64, seed=2)
    expected = out + linear(x)
    linear.add_to(out, x)
    torch.testing.assert_close(out, expected)


def test_zeros_stay_zeros() -> None:
    linear = Int8Linear(torch.zeros(4, 8))
    assert torch.equal(linear(torch.zeros(2, 8)), torch.zeros(2, 4))
    assert torch.equal(linear(torch.ones(2, 8)), torch.zeros(2, 4))
    assert torch.equal(Int8Linear(random(4, 8))(torch.zeros(2, 8)), torch.zeros(2, 4))


@pytest.mark.parametrize("isa", ["AVX512_CORE_VNNI", "AVX512_CORE", "AVX2"])
def test_sums_are_exact_on_older_processors(isa: str) -> None:
    """Without VNNI, pairs of products are added in 16 bits: smaller weights fit."""
    code = (
        "import torch; from synth.linear import Int8Linear, int8_limit\n"
        "w = torch.ones(64, 64); x = torch.ones(1, 64)\n"
        "y = Int8Linear(w)(x) if int8_limit() else w @ x[0]\n"
        "assert torch.allclose(y, torch.full((1, 64), 64.0)), y\n"
        "print(int8_limit())"
    )
    found = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"ONEDNN_MAX_CPU_ISA": isa},
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stderr
    assert found.stdout.strip() in ("0", "63", "127")
