"""The products against the same numbers worked out in whole ones, and what is kept on disk."""

from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
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
        counter = kernels.counters(1)
        kernels._multiply(x, most, packed.ctypes.data, scale, shift, out, add, counter.ctypes.data)
        expected = whole * scale * most[:, None] + (before if add else 0)
        np.testing.assert_allclose(out, expected, rtol=3e-7, atol=1e-6)


def loaded(path: Path, text: str) -> ModuleType:
    """A module of that text, which `path` then holds."""
    path.write_text(text)
    spec = spec_from_file_location(path.stem, path)
    assert spec and spec.loader
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_what_is_kept_is_made_anew_where_what_it_calls_has_changed(tmp_path: Path) -> None:
    """Numba looks at the function's own file alone, and went on with the other's old text."""
    found = []
    for factor in (2, 30, 30):
        text = f"import numba\n\n\n@numba.njit\ndef inner(x):\n    return {factor} * x\n"
        other = loaded(tmp_path / "other.py", text)
        own = loaded(tmp_path / "own.py", "def outer(x):\n    return inner(x)\n")
        own.__dict__["inner"] = other.inner
        outer = kernels._kept(other)(own.outer)
        found.append((outer(1), sum(outer.stats.cache_hits.values())))
    assert found == [(2, 0), (30, 0), (30, 1)]


def test_what_cannot_be_kept_is_compiled_all_the_same(caplog: pytest.LogCaptureFixture) -> None:
    """Numba refused to, so a machine without a writable place for it made steps of torch's
    operations. A function without a file has no such place.
    """
    made: dict[str, Any] = {}
    exec("def double(x):\n    return 2 * x\n", made)
    with caplog.at_level("INFO"):
        assert kernels._kept()(made["double"])(4) == 8
    assert "no locator" in caplog.text
