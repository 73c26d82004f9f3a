"""What every test shares: one compute thread, no timed examples, and why plain pytest leaves out
what it does.
"""

import os
import shutil
import signal
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: tests share the machine with a bot

import pytest
from hypothesis import settings

# A busy machine is no failure: hypothesis would fail an example that takes 0.2 s.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # Started in the background by a shell without job control: what the tests start would inherit
    # it, and Ctrl-C is among the things they try.
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Taken out: a bot that a test starts refuses variables that look like its settings and are none.
_ASKED = {name: os.environ.pop(name, "") for name in ("BARK_BROWSER_TESTS", "BARK_SLOW_TESTS")}


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Hand what was asked for to a process that runs tests: it starts without the variables."""
    node.workerinput["asked"] = _ASKED


def pytest_configure(config: pytest.Config) -> None:
    _ASKED.update(getattr(config, "workerinput", {}).get("asked", {}))


def _missing(marker: str) -> str | None:
    """Why tests with `marker` cannot run here, or None."""
    if marker == "gpu":
        import torch

        return None if torch.cuda.is_available() else "no CUDA device"
    if marker == "browser":
        if not _ASKED["BARK_BROWSER_TESTS"]:
            return "set BARK_BROWSER_TESTS=1 to drive a browser"
        return None if shutil.which("chromium") else "no chromium on the PATH"
    if marker == "weights":
        return None if os.environ.get("BARK_WEIGHTS") else "set BARK_WEIGHTS to a checkpoint folder"
    if marker == "slow":
        return None if _ASKED["BARK_SLOW_TESTS"] else "set BARK_SLOW_TESTS=1 for long sweeps"
    return None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    reasons: dict[str, str | None] = {}
    for item in items:
        for marker in ("gpu", "browser", "weights", "slow"):
            if item.get_closest_marker(marker):
                if marker not in reasons:
                    reasons[marker] = _missing(marker)
                if reason := reasons[marker]:
                    item.add_marker(pytest.mark.skip(reason=reason))
