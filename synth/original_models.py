"""The models as the original kept them: four, each loaded by itself, large or small, on its device.

What `synth.compat` works with. Follows the original's environment variables, read when a model is
loaded, and its habit of fetching what is not there. One lock: whoever comes second waits.

Source: suno-ai/bark@f4f32d4 bark/generation.py:155 (`_grab_best_device`) and :283 (`load_model`).
"""

import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

import torch

from synth.checkpoints import Checkpoint, is_here, open_checkpoint, open_suno_folder
from synth.coarse import CoarseStage
from synth.codec import Codec
from synth.fetch import fetch_model
from synth.fine import FineStage
from synth.layouts import SUNO_FILES, suno_file
from synth.model import check_config
from synth.precision import pick_precision
from synth.semantic import SemanticStage
from synth.tokenizer import Tokenizer
from synth.transformer import Transformer, build_transformer
from synth.vocab import ModelConfig

logger = logging.getLogger(__name__)

T = TypeVar("T")


def flag(name: str) -> bool:
    """One of the original's switches."""
    return os.environ.get(name, "").lower() in ("true", "1", "t")


def suno_cache() -> Path:
    """Where the original put its downloads."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "suno" / "bark_v0"


@dataclass
class _Loaded(Generic[T]):
    """A stage, or with SUNO_OFFLOAD_CPU the recipe for one: its files stay mapped either way."""

    config: ModelConfig
    device: torch.device
    build: Callable[[], T]
    kept: T | None = None


class OriginalModels:
    """The four models of a script; `use` gives one, loading it where nobody has yet."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._loaded: dict[str, _Loaded[Any]] = {}
        self._tokenizer: Tokenizer | None = None

    def load(
        self, stage: str, *, use_gpu: bool = True, use_small: bool = False, force: bool = False
    ) -> None:
        """Load "semantic", "coarse", "fine" or "codec"; nothing happens when it is there.

        Raises InvalidRequest when there is no such model and it cannot be fetched.
        """
        with self._lock:
            if stage in self._loaded and not force:
                return
            checkpoint = _checkpoint(stage, small=use_small or flag("SUNO_USE_SMALL_MODELS"))
            check_config(checkpoint.config)
            device = _device(use_gpu, stage)
            build = _builder(stage, checkpoint, device)
            self._loaded.pop(stage, None)  # a card need not hold the old one beside the new
            loaded = _Loaded(checkpoint.config, device, build)
            if not flag("SUNO_OFFLOAD_CPU") or device.type == "cpu":
                loaded.kept = build()
            self._loaded[stage] = loaded
            if stage == "semantic":
                self._tokenizer = Tokenizer(checkpoint.tokenizer_file, checkpoint.config.text)

    @property
    def tokenizer(self) -> Tokenizer:
        with self._lock:
            self.load("semantic")
            return cast(Tokenizer, self._tokenizer)

    def config(self, stage: str) -> ModelConfig:
        with self._lock:
            self.load(stage)
            return self._loaded[stage].config

    @contextmanager
    def use(self, stage: str) -> Iterator[tuple[Any, torch.device]]:
        """The stage for one generation, alone: (stage, its device)."""
        with self._lock:
            self.load(stage)
            loaded = self._loaded[stage]
            made = loaded.kept if loaded.kept is not None else loaded.build()
            try:
                with torch.inference_mode():
                    yield made, loaded.device
            finally:
                if loaded.kept is None:
                    del made
                    torch.cuda.empty_cache()  # offloaded: the next model needs the room

    def clear(self, stage: str | None = None) -> None:
        """Forget one model, or all."""
        with self._lock:
            for name in [stage] if stage else list(self._loaded):
                self._loaded.pop(name, None)


def _device(use_gpu: bool, stage: str) -> torch.device:
    if use_gpu and torch.cuda.is_available():
        return torch.device("cuda")
    mps = use_gpu and torch.backends.mps.is_available() and flag("SUNO_ENABLE_MPS")
    return torch.device("mps" if mps and stage != "codec" else "cpu")


def _checkpoint(stage: str, *, small: bool) -> Checkpoint:
    """The original's own downloads where they are, else the hub's, fetched when not there."""
    folder = suno_cache()
    stem = SUNO_FILES.get(stage)
    own = folder / f"{stem}{'' if small else '_2'}.pt"
    if (stem is None or own.is_file()) and all(suno_file(folder, s) for s in SUNO_FILES):
        return open_suno_folder(folder, small=(stage,) if small else ())
    name = "suno/bark-small" if small else "suno/bark"
    if not is_here(name):
        logger.info("%s is not on this machine and is downloaded now", name)
        fetch_model(name)
    return open_checkpoint(name)


def _builder(stage: str, checkpoint: Checkpoint, device: torch.device) -> Callable[[], Any]:
    config = checkpoint.config
    # Scripts written for the original expect its tokens: single precision where it had it.
    picked = pick_precision("auto" if device.type == "cuda" else "fp32", device)

    def transformer(codebooks: int = 0) -> Transformer:
        return build_transformer(
            stage,
            getattr(config, f"{stage}_shape"),
            checkpoint.tensors(stage),
            codebooks=codebooks,
            device=device,
            precision=getattr(picked, stage),
        )

    builders: dict[str, Callable[[], Any]] = {
        "semantic": lambda: SemanticStage(transformer(), config, slots=1),
        "coarse": lambda: CoarseStage(transformer(), config, slots=1),
        "fine": lambda: FineStage(transformer(config.fine.codebooks), config),
        "codec": lambda: Codec(config, checkpoint.tensors("codec"), device=device),
    }
    return builders[stage]
