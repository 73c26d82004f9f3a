"""The codec's eight codebooks, fitted without training a codec.

Books 0 and 1 are a residual k-means of the features. What remains after them looks like noise to a
language model, so coding it would teach the fine stage nothing: a first attempt ended at the
unigram entropy. But a part of it follows from the coarse codes around a frame (their quantization
error is far larger than sound changes in 20 ms), and a small convolutional *refiner* that sees both
sides of a frame finds that part: a target that non-causal prediction from coarse codes can reach,
and that brings decoded sound nearer to the truth.

Each of books 2 to 7 holds four of that part's principal directions, as 256 points. A residual
k-means over all directions was tried: its centroids all lie far from zero, so a guess that is a
little wrong did more harm than none (4.4 dB of mel error against 3.9 without, where the true codes
give 3.2). In few directions points are dense, neighbours mean nearly the same, and a model in doubt
stays near the middle. The refiner labels training data; it is not part of the model.
"""

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from synth.nano.clusters import kmeans, nearest
from synth.nano.features import BANDS, Scaler, log_mel
from synth.nano.files import reading, whole
from synth.nano.recipe import COARSE, CODEC, FINE, SEED, Paths
from synth.nano.shards import Shard

log = logging.getLogger(__name__)

_DECIBEL = 8.686  # per neper
_FINE_POINTS = 256  # of a fine book's rows; the others stay zero and are never used
_FINE_DIRECTIONS = 4  # that a fine book holds


class Refiner(nn.Module):
    """(B, 82, T) coarse approximation -> (B, 82, T) expected error of it."""

    def __init__(self, width: int = 256) -> None:
        super().__init__()
        d = CODEC.dimension
        self.enter = nn.Conv1d(d, width, 5, padding=2)
        self.body = nn.ModuleList(nn.Conv1d(width, width, 5, padding=2) for _ in range(2))
        self.leave = nn.Conv1d(width, d, 1)
        nn.init.zeros_(self.leave.weight)

    def forward(self, coarse: Tensor) -> Tensor:
        x = F.gelu(self.enter(coarse))
        for conv in self.body:
            x = x + F.gelu(conv(x))
        return self.leave(x)


@dataclass
class Codebooks:
    """`rows` (8, 1024, 82); frame features in, codes out, and back."""

    rows: Tensor
    scaler: Scaler
    refiner: Refiner

    def features(self, audio: np.ndarray, f0: np.ndarray) -> Tensor:
        """Waveform and F0 per frame -> (T, 82) scaled features."""
        return self.scaler(log_mel(torch.from_numpy(audio)), torch.from_numpy(f0))

    @torch.no_grad()
    def encode(self, features: Tensor) -> Tensor:
        """(T, 82) -> (8, T) codes."""
        rest, codes = features, []
        for rows in self.rows[: COARSE.codebooks]:
            codes.append(nearest(rest, rows))
            rest = rest - rows[codes[-1]]
        return torch.cat([torch.stack(codes), self.refine(features - rest)])

    @torch.no_grad()
    def refine(self, coarse: Tensor) -> Tensor:
        """(T, 82) sum of the coarse books' rows -> (6, T) codes of the fine books."""
        found = self.refiner(coarse.T[None])[0].T
        # The books' directions are at right angles: each finds its own part.
        fine = self.rows[COARSE.codebooks :, :_FINE_POINTS]
        return torch.stack([nearest(found, rows) for rows in fine])

    def decode(self, codes: Tensor) -> Tensor:
        """(K, ..., T) codes of the first K books -> (..., T, 82): the sum of their rows."""
        return torch.stack([rows[c] for rows, c in zip(self.rows, codes, strict=False)]).sum(0)

    def save(self, path: Path) -> None:
        s = self.scaler
        refiner = {f"refiner.{k}": v.numpy() for k, v in self.refiner.state_dict().items()}
        with whole(path) as part:
            np.savez(
                part,
                rows=self.rows,
                mean=s.mean,
                numbers=np.array([s.spread, s.pitch_mean, s.pitch_spread, s.voiced]),
                **refiner,
            )

    @classmethod
    def load(cls, path: Path) -> "Codebooks":
        with reading(path, "`tokens` or `adopt`"):
            held = dict(np.load(path))
        refiner = Refiner()
        refiner.load_state_dict(
            {k[8:]: torch.from_numpy(held[k]) for k in held if k.startswith("refiner.")}
        )
        scaler = Scaler(torch.from_numpy(held["mean"]), *(float(x) for x in held["numbers"]))
        return cls(torch.from_numpy(held["rows"]), scaler, refiner.eval())


def fit_codebooks(
    paths: Paths, shard: Shard, utterances: int = 2400, refiner_steps: int = 700
) -> Codebooks:
    """Fit scaler, coarse books, refiner and fine books on a shard's first utterances, and write."""
    torch.manual_seed(SEED)
    ids = range(min(utterances, len(shard.text)))
    mels = [log_mel(torch.from_numpy(shard.waveform(i))) for i in ids]
    pitches = [torch.from_numpy(shard.pitch(i)) for i in ids]
    scaler = Scaler.fit(torch.cat(mels), torch.cat(pitches))
    features = torch.cat([scaler(m, p) for m, p in zip(mels, pitches, strict=True)])

    rows: list[Tensor] = []
    rest = features
    for book in range(COARSE.codebooks):
        rows.append(kmeans(rest, CODEC.codebook_size))
        rest = rest - rows[-1][nearest(rest, rows[-1])]
        _report(f"book {book}", rest, scaler)
    refiner = _fit_refiner(features - rest, rest, refiner_steps)
    with torch.no_grad():
        found = torch.cat([refiner(x.T[None])[0].T for x in (features - rest).split(512)])
    _report("refined, unquantized", rest - found, scaler)
    rows += fine_rows(found)
    left = rest
    for book, table in enumerate(rows[COARSE.codebooks :], COARSE.codebooks):
        left = left - table[nearest(found, table[:_FINE_POINTS])]
        _report(f"book {book}", left, scaler)
    books = Codebooks(torch.stack(rows), scaler, refiner)
    books.save(paths.codebooks)
    return books


def fine_rows(found: Tensor) -> list[Tensor]:
    """(N, 82) what the refiner finds -> rows of the fine books, strongest directions first."""
    _, directions = torch.linalg.eigh(found.T @ found)  # weakest first
    books: list[Tensor] = []
    for book in range(FINE.codebooks - COARSE.codebooks):
        last = len(directions) - book * _FINE_DIRECTIONS
        basis = directions[:, last - _FINE_DIRECTIONS : last]
        table = torch.zeros(CODEC.codebook_size, found.shape[1])
        table[:_FINE_POINTS] = kmeans(found @ basis, _FINE_POINTS) @ basis.T
        books.append(table)
    return books


def _fit_refiner(coarse: Tensor, error: Tensor, steps: int) -> Refiner:
    """Regress the coarse books' error on their values around it; the last tenth is held out."""
    refiner = Refiner()
    optimizer = torch.optim.AdamW(refiner.parameters(), 2e-3, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    span = min(128, len(coarse) // 10)
    known = len(coarse) - len(coarse) // 10
    for _ in range(steps):
        at = torch.randint(known - span + 1, (24,))[:, None] + torch.arange(span)
        loss = F.mse_loss(refiner(coarse[at].mT), error[at].mT)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        rest = error[known:] - refiner(coarse[known:].T[None])[0].T
    explained = 1 - float(rest.square().mean() / error[known:].square().mean())
    log.info("refiner: explains %.3f of the held-out error", explained)
    return refiner.eval()


def _report(name: str, rest: Tensor, scaler: Scaler) -> None:
    mel = float(rest[:, :BANDS].square().mean().sqrt()) * scaler.spread * _DECIBEL
    log.info("%s: mel error %.2f dB rms", name, mel)
