"""What a worker is told, and what it loads: settings in, a warm engine out.

Importing this imports no torch; `load_engine` does, in the child.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass

from synth.cores import settle_threads
from synth.protocol import HistoryPrompt, Limits, Ready
from synth.scheduler import Pipeline

logger = logging.getLogger(__name__)

# More make more sound in a second, and the first of it later: four utterances of 5 s were heard
# from 6.4 s on and whole after 17.0 s with 2 slots, 8.2 and 12.5 s with 4 (small, two cores of a
# Zen 5).
_CPU_SLOTS = 2


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
    from synth.checkpoints import open_checkpoint
    from synth.model import build_model, place
    from synth.pipeline import Pipeline as BarkPipeline
    from synth.random_model import notice_of, voice_book

    settle_threads(settings.threads)
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
