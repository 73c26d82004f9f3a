"""Bark, anew: text to speech in its own process. `Bark` and torch are loaded on first use."""

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from synth.api import Bark as Bark
    from synth.api import Clip as Clip

__all__ = ["Bark", "Clip"]

# Compute threads are to sleep, not spin, while they wait for each other: on a machine that does
# other work too, a spinning thread keeps the one it waits for off the core, and a clip that takes
# 0.5 s took 20. The OpenMP runtime reads this once, when torch is imported, so it stands here.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def __getattr__(name: str) -> Any:
    if name in __all__:
        from synth import api

        return getattr(api, name)
    raise AttributeError(f"module 'synth' has no attribute {name!r}")
