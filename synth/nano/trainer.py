"""The loop every stage shares: warm up, hold the rate, keep a moving average, save, resume.

The rate is held constant and the exported weights are an exponential moving average, so a run can
stop at any step and go on later, and still give a usable model now; `--cooldown` ends a run by
taking the rate to zero. Batches are drawn from a generator seeded by the step: a resumed run sees
what an unbroken one would have seen.
"""

import logging
import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from synth.nano.recipe import SEED, Run

log = logging.getLogger(__name__)

_AVERAGE = 0.998


class Stage(Protocol):
    """What a stage brings to the loop."""

    @property
    def name(self) -> str: ...

    @property
    def model(self) -> nn.Module: ...

    def loss(self, step: int, rng: np.random.Generator) -> tuple[Tensor, dict[str, float]]: ...

    def validate(self) -> dict[str, float]: ...

    def refresh(self) -> None:
        """Pick up data that appeared since."""
        ...

    def extra_state(self) -> dict[str, Any]:
        """What a checkpoint has to hold besides the model."""
        ...

    def load_extra(self, state: dict[str, Any]) -> None: ...


@dataclass
class Limits:
    """When a run ends: at a step, after some minutes, with or without a cooldown."""

    steps: int | None = None
    minutes: float | None = None
    cooldown: int = 0


@dataclass
class State:
    """Everything a checkpoint holds."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    average: dict[str, Tensor]
    step: int = 0
    cpu_s: float = 0.0
    curve: list[dict[str, float]] = field(default_factory=list)


def parameter_groups(model: nn.Module, decay: float) -> list[dict]:
    """Matrices decay; norms, biases and positions do not."""
    matrices, others = [], []
    for name, p in model.named_parameters():
        (matrices if p.dim() >= 2 and "wpe" not in name else others).append(p)
    return [{"params": matrices, "weight_decay": decay}, {"params": others, "weight_decay": 0.0}]


def save(stage: Stage, state: State, path: Path) -> None:
    """Write a checkpoint whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    torch.save(
        {
            "model": state.model.state_dict(),
            "optimizer": state.optimizer.state_dict(),
            "average": state.average,
            "step": state.step,
            "cpu_s": state.cpu_s,
            "curve": state.curve,
            "extra": stage.extra_state(),
        },
        part,
    )
    os.replace(part, path)


def load(stage: Stage, state: State, path: Path) -> None:
    """Go on from a checkpoint."""
    held = torch.load(path, weights_only=True)
    state.model.load_state_dict(held["model"])
    state.optimizer.load_state_dict(held["optimizer"])
    state.average = held["average"]
    state.step, state.cpu_s, state.curve = held["step"], held["cpu_s"], held["curve"]
    if held.get("extra"):
        stage.load_extra(held["extra"])


def rate(run: Run, step: int, limits: Limits) -> float:
    """Learning rate: linear warmup, constant, and a linear cooldown if one is asked for."""
    factor = min(1.0, (step + 1) / run.warmup)
    if limits.cooldown and limits.steps:
        factor *= min(1.0, max(0.0, (limits.steps - step) / limits.cooldown))
    return run.learning_rate * factor


def train(stage: Stage, run: Run, path: Path, limits: Limits) -> State:
    """Train until a limit, from `path` if it exists; returns the last state, saved."""
    model = stage.model
    optimizer = torch.optim.AdamW(
        parameter_groups(model, run.weight_decay), run.learning_rate, betas=(0.9, 0.97)
    )
    state = State(model, optimizer, {k: v.detach().clone() for k, v in model.state_dict().items()})
    if path.exists():
        load(stage, state, path)
    started, cpu_before = time.monotonic(), time.process_time() - state.cpu_s
    recent: dict[str, float] = {}
    model.train()
    while True:
        minutes = (time.monotonic() - started) / 60
        if limits.steps is not None and state.step >= limits.steps:
            break
        if limits.minutes is not None and minutes >= limits.minutes:
            break
        for group in optimizer.param_groups:
            group["lr"] = rate(run, state.step, limits)
        loss, parts = stage.loss(state.step, np.random.default_rng([SEED, state.step]))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        state.step += 1
        _follow(state, model)
        for key, value in parts.items():
            recent[key] = 0.97 * recent.get(key, value) + 0.03 * value
        state.cpu_s = time.process_time() - cpu_before
        if state.step % 50 == 0:
            _tell(stage.name, state, recent)
        if state.step % run.save_every == 0:
            if state.step % (2 * run.save_every) == 0:
                _measure(stage, state)
            save(stage, state, path)
            stage.refresh()
    save(stage, state, path)
    return state


def _follow(state: State, model: nn.Module) -> None:
    keep = min(_AVERAGE, (1 + state.step) / (10 + state.step))
    for key, value in model.state_dict().items():
        if value.is_floating_point():
            state.average[key].lerp_(value.detach(), 1 - keep)
        else:
            state.average[key].copy_(value)


def _measure(stage: Stage, state: State) -> None:
    """Validation loss of the averaged weights, into the curve and the log."""
    now = {k: v.detach().clone() for k, v in state.model.state_dict().items()}
    state.model.load_state_dict(state.average)
    state.model.eval()
    with torch.no_grad():
        values = stage.validate()
    state.model.train()
    state.model.load_state_dict(now)
    state.curve.append({"step": state.step, "cpu_s": round(state.cpu_s), **values})
    _tell(stage.name + " VALIDATION", state, values)


def _tell(name: str, state: State, values: dict[str, float]) -> None:
    shown = " ".join(f"{k} {v:.4f}" for k, v in values.items())
    log.info("%s %d: %s, %.0f CPU-s", name, state.step, shown, state.cpu_s)
