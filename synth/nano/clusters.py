"""Seeded k-means and nearest rows, in plain torch."""

import torch
from torch import Tensor


def nearest(x: Tensor, rows: Tensor) -> Tensor:
    """(N, D), (K, D) -> (N,) index of the nearest row."""
    half = rows.pow(2).sum(1) / 2
    return torch.cat([(half - part @ rows.T).argmin(1) for part in x.split(8192)])


def kmeans(x: Tensor, k: int, rounds: int = 12) -> Tensor:
    """(N, D) -> (k, D) centroids. Draws from torch's global generator; empty ones are redrawn."""
    rows = x[torch.randperm(len(x))[:k]].clone()
    if len(rows) < k:
        rows = torch.cat([rows, rows[torch.randint(len(rows), (k - len(rows),))]])
    for _ in range(rounds):
        token = nearest(x, rows)
        count = torch.bincount(token, minlength=k).float()[:, None]
        mean = torch.zeros_like(rows).index_add_(0, token, x) / count.clamp(min=1)
        rows = torch.where(count > 0, mean, x[torch.randint(len(x), (k,))])
    return rows
