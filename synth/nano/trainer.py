"""The loop every stage shares: warm up, hold the rate, keep a moving average, save, resume.

The rate is held constant and the exported weights are an exponential moving average, so a run can
stop at any step and go on later, and still give a usable model now; `--cooldown` ends a run by
taking the rate to zero. Batches and dropout are drawn from generators seeded by the step: a resumed
run sees what an unbroken one would have seen.
"""

import logging
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from synth.nano.ahead import Ahead, Stage
from synth.nano.files import reading, whole
from synth.nano.optimizers import Optimizers
from synth.nano.recipe import SEED, Run

log = logging.getLogger(__name__)

_AVERAGE = 0.998


@dataclass
class Limits:
    """When a run ends: at a step, after some minutes, with or without a cooldown."""

    steps: int | None = None
    minutes: float | None = None
    cooldown: int = 0  # last steps of `steps`, rate to zero
    cooldown_minutes: float = 0.0  # the same of `minutes`


@dataclass
class State:
    """Everything a checkpoint holds."""

    model: nn.Module
    optimizer: Optimizers
    average: dict[str, Tensor]
    step: int = 0
    cpu_s: float = 0.0
    since: int = 0  # the step at which the optimizer knew nothing: warmup counts from it
    curve: list[dict[str, float]] = field(default_factory=list)


def save(stage: Stage, state: State, path: Path) -> None:
    """Write a checkpoint whole or not at all."""
    held = {
        "model": state.model.state_dict(),
        "optimizer": state.optimizer.state_dict(),
        "average": state.average,
        "step": state.step,
        "cpu_s": state.cpu_s,
        "since": state.since,
        "curve": state.curve,
        "extra": stage.extra_state(),
    }
    with whole(path) as part:
        torch.save(held, part)


def read_checkpoint(path: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """What `save` wrote to STAGE.pt, its tensors on `device`.

    Raises InvalidRequest when the file is missing or damaged.
    """
    with reading(path, f"`train {path.stem}`"):
        return torch.load(path, weights_only=True, map_location=device)


def load(stage: Stage, state: State, path: Path) -> None:
    """Go on from a checkpoint; one without an optimizer's state warms up again."""
    held = read_checkpoint(path, _device(state.model))
    state.model.load_state_dict(held["model"])
    state.average = held["average"]
    state.step, state.cpu_s, state.curve = held["step"], held["cpu_s"], held["curve"]
    if held["optimizer"] is None:
        state.since = state.step
    else:
        state.optimizer.load_state_dict(held["optimizer"])
        state.since = held["since"]
    if held.get("extra"):
        stage.load_extra(held["extra"])


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device


def rate(run: Run, step: int, limits: Limits, since: int = 0, minutes: float = 0.0) -> float:
    """Learning rate: linear warmup, constant, perhaps a linear cooldown.

    `minutes` is how long this run has gone on.
    """
    factor = min(1.0, (step - since + 1) / run.warmup)
    if limits.cooldown and limits.steps:
        factor *= min(1.0, max(0.0, (limits.steps - step) / limits.cooldown))
    if limits.cooldown_minutes and limits.minutes:
        left = (limits.minutes - minutes) / limits.cooldown_minutes
        factor *= min(1.0, max(0.0, left))
    return run.learning_rate * factor


def train(stage: Stage, run: Run, path: Path, limits: Limits, workers: int = 0) -> State:
    """Train until a limit, from `path` if it exists; returns the last state, saved."""
    model = stage.model
    optimizer = Optimizers(model, run.weight_decay, run.betas)
    state = State(model, optimizer, {k: v.detach().clone() for k, v in model.state_dict().items()})
    if path.exists():
        load(stage, state, path)
    started, cpu_before = time.monotonic(), time.process_time() - state.cpu_s
    recent: dict[str, list[Tensor]] = {}
    ahead = Ahead(stage, state.step, workers)
    model.train()
    while True:
        minutes = (time.monotonic() - started) / 60
        if limits.steps is not None and state.step >= limits.steps:
            break
        if limits.minutes is not None and minutes >= limits.minutes:
            break
        optimizer.set_rate(rate(run, state.step, limits, state.since, minutes))
        batch = ahead.get()
        torch.manual_seed(SEED + state.step)
        loss, parts = stage.loss(state.step, batch)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        state.step += 1
        _follow(state, model)
        for key, value in parts.items():
            recent.setdefault(key, []).append(value)
        state.cpu_s = time.process_time() - cpu_before
        if state.step % 50 == 0:
            # Only now are the losses read: to read one earlier would wait for the device.
            means = {k: float(torch.stack(v).mean()) for k, v in recent.items()}
            _tell(stage.name, state, means)
            recent.clear()
        if state.step % run.save_every == 0:
            if state.step % (2 * run.save_every) == 0:
                _measure(stage, state)
            save(stage, state, path)
            if stage.refresh():
                ahead.close()
    ahead.close()
    save(stage, state, path)
    return state


def _follow(state: State, model: nn.Module) -> None:
    keep = min(_AVERAGE, (1 + state.step) / (10 + state.step))
    now = {k: v.detach() for k, v in model.state_dict().items()}
    floats = [k for k, v in now.items() if v.is_floating_point()]
    torch._foreach_lerp_(  # pyright: ignore[reportPrivateImportUsage]
        [state.average[k] for k in floats], [now[k] for k in floats], 1 - keep
    )
    for key in now.keys() - set(floats):
        state.average[key].copy_(now[key])


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
