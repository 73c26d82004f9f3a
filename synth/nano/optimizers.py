"""Muon for the matrices inside the blocks, AdamW for everything else.

Muon orthogonalizes the momentum of a hidden layer's matrix before it takes the step; its steps are
scaled to the size of AdamW's, so that one rate serves both.
"""

from typing import Any

import torch
from torch import nn


class Optimizers:
    """The two as one."""

    def __init__(
        self, model: nn.Module, decay: float, betas: tuple[float, float] = (0.9, 0.97)
    ) -> None:
        hidden, matrices, others = [], [], []
        for name, p in model.named_parameters():
            if p.dim() == 2 and ".h." in name:
                hidden.append(p)
            else:
                (matrices if p.dim() >= 2 and "wpe" not in name else others).append(p)
        groups = [
            {"params": matrices, "weight_decay": decay},
            {"params": others, "weight_decay": 0.0},
        ]
        self._all: list[torch.optim.Optimizer] = [torch.optim.AdamW(groups, betas=betas)]
        if hidden:
            self._all.append(
                torch.optim.Muon(hidden, weight_decay=decay, adjust_lr_fn="match_rms_adamw")
            )

    def set_rate(self, rate: float) -> None:
        for optimizer in self._all:
            for group in optimizer.param_groups:
                group["lr"] = rate

    def zero_grad(self) -> None:
        for optimizer in self._all:
            optimizer.zero_grad()

    def step(self) -> None:
        for optimizer in self._all:
            optimizer.step()

    def state_dict(self) -> list[dict[str, Any]]:
        return [optimizer.state_dict() for optimizer in self._all]

    def load_state_dict(self, state: list[dict[str, Any]]) -> None:
        for optimizer, held in zip(self._all, state, strict=True):
            optimizer.load_state_dict(held)
