"""The three transformers as stages of the training loop: their losses and their validation."""

import contextlib
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from synth.nano import windows
from synth.nano.ahead import Batch
from synth.nano.codebooks import Codebooks
from synth.nano.gpt import (
    CausalModel,
    FineModel,
    coarse_model,
    semantic_model,
    start_coarse,
    start_fine,
    start_semantic,
)
from synth.nano.recipe import COARSE, CODEC, FINE, NANO, RUNS, SEED, SEMANTIC, Paths
from synth.nano.shards import list_shards, load_tokens
from synth.nano.units import Units
from synth.nano.vocoder import VocoderStage
from synth.nano.windows import IGNORE, Corpus

_GUIDED_STEPS = 1500  # how long attention is shown where to look
_GUIDED_LAYER = 1


class _Tokens:
    """The corpus of a stage, read again when shards were added."""

    def __init__(self, paths: Paths, batch: int, device: str) -> None:
        self.paths, self.batch, self.device = paths, batch, device
        self._shards = -1
        self.refresh()

    def refresh(self) -> bool:
        shards = sum((f / "tokens.npz").exists() for f in list_shards(self.paths))
        if shards == self._shards:
            return False
        tokens = load_tokens(self.paths)
        self.corpus, self.held = Corpus(tokens), Corpus(tokens, validation=True)
        self._shards = shards
        return True

    def extra_state(self) -> dict[str, Any]:
        return {}

    def load_extra(self, state: dict[str, Any]) -> None:
        del state

    def put(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(array).to(self.device)

    def precision(self) -> contextlib.AbstractContextManager[object]:
        return torch.autocast(self.device.split(":")[0], torch.bfloat16)


class SemanticStage(_Tokens):
    """Text to semantic tokens."""

    name = "semantic"

    def __init__(self, paths: Paths, batch: int, device: str = "cpu") -> None:
        super().__init__(paths, batch, device)
        self.model: CausalModel = semantic_model(NANO.semantic_shape, RUNS["semantic"].dropout)
        start_semantic(self.model, Units.load(paths.units).centroids)
        self.model.to(device)

    def prepare(self, step: int, rng: np.random.Generator) -> Batch:
        return windows.semantic_batch(self.corpus, rng, self.batch)

    def loss(self, step: int, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        guide = max(0.0, 1 - step / _GUIDED_STEPS)
        loss, off = self._losses(batch, guide > 0)
        parts = {"loss": loss.detach()}
        if guide:
            parts["off_diagonal"] = off.detach()
        return loss + guide * off, parts

    def _losses(self, batch: Batch, guided: bool) -> tuple[Tensor, Tensor]:
        ids, targets, texts, speeches = batch
        y = self.put(targets)
        with self.precision():
            n = (ids.shape[1] - targets.shape[1]) // 2
            watch = _GUIDED_LAYER if guided else None
            hidden, scores = self.model.prompted(self.put(ids), n, watch)
            logits = self.model.lm_head(hidden)
        loss = F.cross_entropy(logits.float().flatten(0, 1), y.flatten(), ignore_index=IGNORE)
        if scores is None:
            return loss, loss.new_zeros(())
        return loss, _off_diagonal(scores, self.put(texts), self.put(speeches))

    def validate(self) -> dict[str, float]:
        rng = np.random.default_rng(SEED)
        batches = [windows.semantic_batch(self.held, rng, 4000) for _ in range(12)]
        return {"loss": float(np.mean([self._losses(b, False)[0].item() for b in batches]))}


def _off_diagonal(scores: Tensor, texts: Tensor, speeches: Tensor) -> Tensor:
    """How much one head looks away from the place in the text that the time suggests."""
    _, t, n = scores.shape
    at = torch.arange(n, device=scores.device) / texts[:, None]
    when = torch.arange(t, device=scores.device) / speeches[:, None]
    look = scores.masked_fill((at >= 1)[:, None], -1e4).softmax(-1)
    away = 1 - torch.exp(-((at[:, None] - when[:, :, None]) ** 2) / (2 * 0.12**2))
    counts = (when <= 1)[..., None].float()
    return (look * away * counts).sum() / counts.sum()


class CoarseStage(_Tokens):
    """Semantic tokens to the first two codebooks."""

    name = "coarse"

    def __init__(self, paths: Paths, batch: int, device: str = "cpu") -> None:
        super().__init__(paths, batch, device)
        self.model: CausalModel = coarse_model(NANO.coarse_shape)
        rows = Codebooks.load(paths.codebooks).rows
        start_coarse(self.model, Units.load(paths.units).centroids, rows)
        self.model.to(device)

    def prepare(self, step: int, rng: np.random.Generator) -> Batch:
        return _stacked([windows.coarse_window(self.corpus, rng) for _ in range(self.batch)])

    def loss(self, step: int, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        ids, targets = (self.put(array) for array in batch)
        with self.precision():
            hidden = self.model(ids[:, :-1])[:, COARSE.semantic_block :]
        books = []
        for book in range(COARSE.codebooks):
            low = SEMANTIC.vocab + book * CODEC.codebook_size
            # A history may begin with either book: take positions by what stands there.
            mine = (targets >= low) & (targets < low + CODEC.codebook_size)
            with self.precision():
                logits = F.linear(
                    hidden[mine], self.model.lm_head.weight[low : low + CODEC.codebook_size]
                )
            books.append(F.cross_entropy(logits.float(), targets[mine] - low))
        return torch.stack(books).sum(), {f"book{i}": x.detach() for i, x in enumerate(books)}

    def validate(self) -> dict[str, float]:
        rng = np.random.default_rng(SEED)
        batches = [
            _stacked([windows.coarse_window(self.held, rng) for _ in range(16)]) for _ in range(8)
        ]
        return _mean([self.loss(0, batch)[1] for batch in batches])


class FineStage(_Tokens):
    """The first two codebooks to all eight."""

    name = "fine"

    def __init__(self, paths: Paths, batch: int, device: str = "cpu") -> None:
        super().__init__(paths, batch, device)
        self.model = FineModel(NANO.fine_shape)
        start_fine(self.model, Codebooks.load(paths.codebooks).rows)
        self.model.to(device)

    @staticmethod
    def _book(step: int) -> int:
        """Each step is about one book, in turn."""
        return COARSE.codebooks + step % (FINE.codebooks - COARSE.codebooks)

    def prepare(self, step: int, rng: np.random.Generator) -> Batch:
        book = self._book(step)
        return _stacked([windows.fine_window(self.corpus, book, rng) for _ in range(self.batch)])

    def loss(self, step: int, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        book = self._book(step)
        loss, _ = self._losses(batch, book)
        return loss, {f"book{book}": loss.detach()}

    def _losses(self, batch: Batch, book: int) -> tuple[Tensor, float]:
        codes, targets = (self.put(array) for array in batch)
        with self.precision():
            logits = self.model(codes, book)[..., : CODEC.codebook_size]
        mine = targets != IGNORE
        right = (logits.argmax(-1) == targets)[mine].float().mean()
        return F.cross_entropy(logits.float()[mine], targets[mine]), right.item()

    def validate(self) -> dict[str, float]:
        rng = np.random.default_rng(SEED)
        out: dict[str, float] = {}
        for book in range(COARSE.codebooks, FINE.codebooks):
            batch = _stacked([windows.fine_window(self.held, book, rng) for _ in range(24)])
            loss, out[f"right{book}"] = self._losses(batch, book)
            out[f"book{book}"] = loss.item()
        return out


def _stacked(examples: list[tuple[np.ndarray, np.ndarray]]) -> Batch:
    return np.stack([e[0] for e in examples]), np.stack([e[1] for e in examples])


def _mean(parts: list[dict[str, Tensor]]) -> dict[str, float]:
    return {key: float(torch.stack([p[key] for p in parts]).mean()) for key in parts[0]}


STAGES: dict[str, Callable[..., SemanticStage | CoarseStage | FineStage | VocoderStage]] = {
    "decoder": VocoderStage,
    "semantic": SemanticStage,
    "coarse": CoarseStage,
    "fine": FineStage,
}
