"""The import arrows of the architecture, checked in fresh interpreters."""

import subprocess
import sys

import pytest

TORCH_FREE = [
    "synth",
    "synth.protocol",
    "synth.client",
    "synth.longform",
    "synth.audio",
    "synth.errors",
    "synth.vocab",
]


def _modules_after(code: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys\nprint(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    )
    return set(done.stdout.split())


@pytest.mark.parametrize("name", TORCH_FREE)
def test_the_bots_side_of_synth_imports_no_torch(name: str) -> None:
    loaded = _modules_after(f"import {name}")
    assert name in loaded
    assert not loaded & {"torch", "transformers", "discord"}


def _all_modules(package: str) -> str:
    return (
        f"import importlib, pkgutil, {package}\n"
        f"for m in pkgutil.walk_packages({package}.__path__, '{package}.'):\n"
        # Those need Triton, which comes with CUDA.
        "    left_out = ('__main__', 'gpu_kernels', 'gpu_ops')\n"
        "    if not m.name.endswith(left_out) and '.nano' not in m.name:\n"
        "        importlib.import_module(m.name)\n"
    )


def test_bot_never_imports_torch() -> None:
    loaded = _modules_after(_all_modules("bot"))
    assert "bot.client" in loaded
    assert not loaded & {"torch", "transformers"}


def test_synth_never_imports_discord_or_bot() -> None:
    loaded = _modules_after(_all_modules("synth"))
    assert "synth.pipeline" in loaded
    assert not loaded & {"discord", "bot"}
