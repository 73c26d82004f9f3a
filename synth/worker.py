"""What a worker is told, and what it loads: settings in, a warm engine out.

Importing this imports no torch; `load_engine` does, in the child.
"""

import logging
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from synth.protocol import HistoryPrompt, Limits, Ready
from synth.scheduler import Pipeline

logger = logging.getLogger(__name__)

_CPU_SLOTS = 2  # the next job starts while one is at its end; memory is the host's own


@dataclass(frozen=True, kw_only=True)
class WorkerSettings:
    """What a child needs to know before it can load a model."""

    model: str  # what `synth.checkpoints.open_checkpoint` takes
    device: str = "auto"
    precision: str = "auto"
    turbo: bool = False
    graphs: bool = True  # on CUDA, replay decode steps and prefills as graphs
    slots: int | None = None  # None: by device
    threads: int | None = None  # None: one for each physical core this process may use
    log_level: int = logging.INFO
    start_timeout_s: float = 600.0  # loading and warming up; a first conversion takes minutes
    # "module:function", called with these settings in the child, gives the Engine. For another
    # engine behind the same process, and for tests that need one that crashes on demand.
    factory: str = "synth.worker:load_engine"


@dataclass(frozen=True, kw_only=True)
class Engine:
    """A loaded and warmed up model, ready to be given jobs."""

    ready: Ready
    pipeline: Pipeline
    voice: Callable[[str], HistoryPrompt]


def load_engine(settings: WorkerSettings) -> Engine:
    """Open the checkpoint, build the model on its device, run it once.

    Raises InvalidRequest when the settings can never work.
    """
    import torch

    from synth.checkpoints import open_checkpoint
    from synth.model import build_model, place
    from synth.pipeline import Pipeline as BarkPipeline
    from synth.random_model import notice_of, voice_book

    if settings.threads or "OMP_NUM_THREADS" not in os.environ:  # torch has followed that one
        torch.set_num_threads(settings.threads or usable_cores())
    checkpoint = open_checkpoint(settings.model)
    device, plan = place(checkpoint.config, settings.device, settings.precision)
    model = build_model(
        checkpoint,
        device=device,
        precision=settings.precision,
        turbo=settings.turbo,
        offload=bool(plan and plan.offload),
    )
    config = model.config
    slots = settings.slots or (plan.slots if plan else _CPU_SLOTS)
    if plan and slots > plan.slots:
        logger.warning("There is no room for %d clips at once: %s.", slots, plan)
        slots = plan.slots
    pipeline = BarkPipeline(model, slots=slots, graphs=settings.graphs)
    voices = voice_book(config)
    pipeline.warm_up()
    ready = Ready(
        model=config.name,
        family=config.family,
        languages=config.languages,
        voices=voices.infos,
        sample_rate=config.codec.sample_rate,
        limits=Limits(
            slots=slots,
            text_tokens=config.text.block,
            utterance_s=config.max_utterance_s,
            figures=config.text.figures,
        ),
        device=str(model.device),
        precision=model.precision.name,
        notice=notice_of(config),
        memory=str(plan or ""),
        characters=model.tokenizer.characters,
    )
    return Engine(ready=ready, pipeline=pipeline, voice=voices.get)


def usable_cores() -> int:
    """Physical cores this process may keep busy, by affinity and container quota; at least 1.

    More compute threads than that only wait for each other: two hyperthreads share one core's
    multipliers, and a thread without its share of the quota stops all the others at a barrier.
    """
    if not hasattr(os, "sched_getaffinity"):
        return max(1, os.cpu_count() or 1)
    allowed = os.sched_getaffinity(0)
    try:
        cores = len(
            {
                _read(f"/sys/devices/system/cpu/cpu{n}/topology/thread_siblings_list")
                for n in allowed
            }
        )
    except OSError:
        cores = len(allowed)
    try:
        quota, period = _read("/sys/fs/cgroup/cpu.max").split()
        cores = min(cores, math.ceil(int(quota) / int(period)))
    except (OSError, ValueError):
        pass  # another kind of container, or "max": no quota
    return max(1, cores)


def _read(file: str) -> str:
    return Path(file).read_text(encoding="ascii")
