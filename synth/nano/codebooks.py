"""The codec's eight codebooks, fitted without training a codec.

Books 0 and 1 are a residual k-means of the features. What remains after them looks like noise to a
language model, so coding it would teach the fine stage nothing: a first attempt ended at the
unigram entropy. But a part of it follows from the coarse codes around a frame (their quantization
error is far larger than sound changes in 20 ms), and a small convolutional *refiner* that sees both
sides of a frame finds that part. Books 2 to 7 are a residual k-means of what the refiner finds: a
target that non-causal prediction from coarse codes can reach, and that brings decoded sound nearer
to the truth. The refiner labels training data; it is not part of the model.
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
from synth.nano.recipe import COARSE, CODEC, FINE, SEED, Paths
from synth.nano.shards import Shard

log = logging.getLogger(__name__)

_DECIBEL = 8.686  # per neper


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
        rest = self.refiner((features - rest).T[None])[0].T
        for rows in self.rows[COARSE.codebooks :]:
            codes.append(nearest(rest, rows))
            rest = rest - rows[codes[-1]]
        return torch.stack(codes)

    def decode(self, codes: Tensor) -> Tensor:
        """(K, ..., T) codes of the first K books -> (..., T, 82): the sum of their rows."""
        return torch.stack([rows[c] for rows, c in zip(self.rows, codes, strict=False)]).sum(0)

    def save(self, path: Path) -> None:
        s = self.scaler
        np.savez(
            path,
            rows=self.rows,
            mean=s.mean,
            numbers=np.array([s.spread, s.pitch_mean, s.pitch_spread, s.voiced]),
            **{f"refiner.{k}": v.numpy() for k, v in self.refiner.state_dict().items()},
        )

    @classmethod
    def load(cls, path: Path) -> "Codebooks":
        held = np.load(path)
        refiner = Refiner()
        refiner.load_state_dict(
            {k[8:]: torch.from_numpy(held[k]) for k in held.files if k.startswith("refiner.")}
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
    left = found
    for book in range(COARSE.codebooks, FINE.codebooks):
        rows.append(kmeans(left, CODEC.codebook_size))
        left = left - rows[-1][nearest(left, rows[-1])]
        _report(f"book {book}", rest - (found - left), scaler)
    books = Codebooks(torch.stack(rows), scaler, refiner)
    books.save(paths.codebooks)
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
