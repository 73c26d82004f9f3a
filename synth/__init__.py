"""Bark, anew: text to speech in its own process. `Bark` and torch are loaded on first use."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from synth.api import Bark as Bark
    from synth.api import Clip as Clip

__all__ = ["Bark", "Clip"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from synth import api

        return getattr(api, name)
    raise AttributeError(f"module 'synth' has no attribute {name!r}")
