"""The three transformers as stages of the training loop: their losses and their validation."""

import contextlib
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from synth.nano import windows
from synth.nano.gpt import CausalModel, FineModel, coarse_model, semantic_model
from synth.nano.recipe import COARSE, CODEC, FINE, NANO, RUNS, SEED, SEMANTIC, Paths
from synth.nano.shards import list_shards, load_tokens
from synth.nano.vocoder import VocoderStage
from synth.nano.windows import IGNORE, Corpus

_GUIDED_STEPS = 1500  # how long attention is shown where to look
_GUIDED_LAYER = 1


class _Tokens:
    """The corpus of a stage, read again when shards were added."""

    def __init__(self, paths: Paths, device: str) -> None:
        self.paths, self.device = paths, device
        self._shards = -1
        self.refresh()

    def refresh(self) -> None:
        shards = sum((f / "tokens.npz").exists() for f in list_shards(self.paths))
        if shards != self._shards:
            tokens = load_tokens(self.paths)
            self.corpus, self.held = Corpus(tokens), Corpus(tokens, validation=True)
            self._shards = shards

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

    def __init__(self, paths: Paths, device: str = "cpu") -> None:
        super().__init__(paths, device)
        self.model: CausalModel = semantic_model(NANO.semantic_shape).to(device)

    def loss(self, step: int, rng: np.random.Generator) -> tuple[Tensor, dict[str, float]]:
        guide = max(0.0, 1 - step / _GUIDED_STEPS)
        loss, off = self._losses(self.corpus, rng, RUNS["semantic"].batch, guide > 0)
        parts = {"loss": loss.item()}
        if guide:
            parts["off_diagonal"] = off.item()
        return loss + guide * off, parts

    def _losses(
        self, corpus: Corpus, rng: np.random.Generator, positions: int, guided: bool
    ) -> tuple[Tensor, Tensor]:
        ids, targets, texts, speeches = windows.semantic_batch(corpus, rng, positions)
        y = self.put(targets)
        with self.precision():
            n = (ids.shape[1] - targets.shape[1]) // 2
            watch = _GUIDED_LAYER if guided else None
            hidden, scores = self.model.prompted(self.put(ids), n, watch)
            logits = self.model.lm_head(hidden)
        loss = F.cross_entropy(logits.float().flatten(0, 1), y.flatten(), ignore_index=IGNORE)
        if scores is None:
            return loss, torch.zeros(())
        return loss, _off_diagonal(scores, self.put(texts), self.put(speeches))

    def validate(self) -> dict[str, float]:
        rng = np.random.default_rng(SEED)
        losses = [self._losses(self.held, rng, 4000, False)[0].item() for _ in range(12)]
        return {"loss": float(np.mean(losses))}


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

    def __init__(self, paths: Paths, device: str = "cpu") -> None:
        super().__init__(paths, device)
        self.model: CausalModel = coarse_model(NANO.coarse_shape).to(device)

    def loss(self, step: int, rng: np.random.Generator) -> tuple[Tensor, dict[str, float]]:
        return self._losses(self.corpus, rng)

    def _losses(self, corpus: Corpus, rng: np.random.Generator) -> tuple[Tensor, dict[str, float]]:
        batch = [windows.coarse_window(corpus, rng) for _ in range(RUNS["coarse"].batch)]
        ids = self.put(np.stack([b[0] for b in batch]))
        targets = self.put(np.stack([b[1] for b in batch]))
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
        return sum(books), {f"book{i}": x.item() for i, x in enumerate(books)}  # type: ignore[return-value]

    def validate(self) -> dict[str, float]:
        rng = np.random.default_rng(SEED)
        return _mean([self._losses(self.held, rng)[1] for _ in range(8)])


class FineStage(_Tokens):
    """The first two codebooks to all eight."""

    name = "fine"

    def __init__(self, paths: Paths, device: str = "cpu") -> None:
        super().__init__(paths, device)
        self.model = FineModel(NANO.fine_shape).to(device)

    def loss(self, step: int, rng: np.random.Generator) -> tuple[Tensor, dict[str, float]]:
        book = int(rng.integers(COARSE.codebooks, FINE.codebooks))
        loss, _ = self._losses(self.corpus, book, rng)
        return loss, {f"book{book}": loss.item()}

    def _losses(self, corpus: Corpus, book: int, rng: np.random.Generator) -> tuple[Tensor, float]:
        batch = [windows.fine_window(corpus, book, rng) for _ in range(RUNS["fine"].batch)]
        codes = self.put(np.stack([b[0] for b in batch]))
        targets = self.put(np.stack([b[1] for b in batch]))
        with self.precision():
            logits = self.model(codes, book)[..., : CODEC.codebook_size]
        mine = targets != IGNORE
        right = (logits.argmax(-1) == targets)[mine].float().mean()
        return F.cross_entropy(logits.float()[mine], targets[mine]), right.item()

    def validate(self) -> dict[str, float]:
        rng = np.random.default_rng(SEED)
        out: dict[str, float] = {}
        for book in range(COARSE.codebooks, FINE.codebooks):
            both = [self._losses(self.held, book, rng) for _ in range(2)]
            out[f"book{book}"] = float(np.mean([loss.item() for loss, _ in both]))
            out[f"right{book}"] = float(np.mean([right for _, right in both]))
        return out


def _mean(parts: list[dict[str, float]]) -> dict[str, float]:
    return {key: float(np.mean([p[key] for p in parts])) for key in parts[0]}


STAGES: dict[str, Callable[..., SemanticStage | CoarseStage | FineStage | VocoderStage]] = {
    "decoder": VocoderStage,
    "semantic": SemanticStage,
    "coarse": CoarseStage,
    "fine": FineStage,
}
