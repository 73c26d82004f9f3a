"""What is compiled is kept on disk, as long as its text is the same."""

from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from synth.linear import cpu_kernels

if cpu_kernels() is None:
    pytest.skip("no kernels for this processor", allow_module_level=True)

from synth.compiled import kept


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
        outer = kept(other)(own.outer)
        found.append((outer(1), sum(outer.stats.cache_hits.values())))
    assert found == [(2, 0), (30, 0), (30, 1)]


def test_what_cannot_be_kept_is_compiled_all_the_same(caplog: pytest.LogCaptureFixture) -> None:
    """Numba refused to, so a machine without a writable place for it made steps of torch's
    operations. A function without a file has no such place.
    """
    made: dict[str, Any] = {}
    exec("def double(x):\n    return 2 * x\n", made)
    with caplog.at_level("INFO"):
        assert kept()(made["double"])(4) == 8
    assert "no locator" in caplog.text
