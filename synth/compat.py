"""The original's functions, for scripts written for it: change `bark` to `synth.compat`.

    from synth.compat import SAMPLE_RATE, generate_audio, preload_models

Signatures, shapes and the meaning of every argument are the original's, and so are its environment
variables SUNO_USE_SMALL_MODELS, SUNO_OFFLOAD_CPU, SUNO_ENABLE_MPS and XDG_CACHE_HOME, read when a
model is loaded. Randomness follows torch.manual_seed, though not draw by draw: the same seed gives
the same clip here, and another one there. Temperature 0 is greedy and does not crash.

Source: suno-ai/bark@f4f32d4 bark/api.py and bark/generation.py.
"""

import logging
import math
import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from tqdm import tqdm

from synth.coarse import CoarseInput
from synth.errors import InvalidRequest
from synth.fine import FineJob
from synth.original_models import OriginalModels
from synth.protocol import HistoryPrompt, Sampling
from synth.request_checks import check_sampling
from synth.semantic import max_tokens
from synth.vocab import BARK, ModelConfig
from synth.voices import VoiceBook, is_npz, load_npz, save_npz, validate

logger = logging.getLogger(__name__)

SAMPLE_RATE = BARK.codec.sample_rate
CONTEXT_WINDOW_SIZE = BARK.semantic_shape.context
SEMANTIC_RATE_HZ = BARK.semantic.rate_hz
SEMANTIC_VOCAB_SIZE = BARK.semantic.vocab
CODEBOOK_SIZE = BARK.codec.codebook_size
N_COARSE_CODEBOOKS = BARK.coarse.codebooks
N_FINE_CODEBOOKS = BARK.fine.codebooks
COARSE_RATE_HZ = BARK.codec.frame_rate

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]
History = Mapping[str, Any] | str | os.PathLike[str] | None

_STEPS = 8  # decode steps between two looks at the progress bar
_models = OriginalModels()  # the original's `models`: its functions take no model


def preload_models(
    text_use_gpu: bool = True,
    text_use_small: bool = False,
    coarse_use_gpu: bool = True,
    coarse_use_small: bool = False,
    fine_use_gpu: bool = True,
    fine_use_small: bool = False,
    codec_use_gpu: bool = True,
    force_reload: bool = False,
) -> None:
    """Load all the models, each large or small and on its device; fetch what is not there."""
    for stage, use_gpu, use_small in (
        ("semantic", text_use_gpu, text_use_small),
        ("coarse", coarse_use_gpu, coarse_use_small),
        ("fine", fine_use_gpu, fine_use_small),
        ("codec", codec_use_gpu, text_use_small and coarse_use_small and fine_use_small),
    ):
        _models.load(stage, use_gpu=use_gpu, use_small=use_small, force=force_reload)


def clean_models(model_key: str | None = None) -> None:
    """Forget a model ("text", "coarse", "fine" or "codec"), or all of them."""
    _models.clear("semantic" if model_key == "text" else model_key)


def generate_audio(
    text: str,
    history_prompt: History = None,
    text_temp: float = 0.7,
    waveform_temp: float = 0.7,
    silent: bool = False,
    output_full: bool = False,
) -> Any:
    """Text to (N,) float32 samples at SAMPLE_RATE; with output_full (generation, samples)."""
    semantic_tokens = text_to_semantic(text, history_prompt, text_temp, silent)
    return semantic_to_waveform(semantic_tokens, history_prompt, waveform_temp, silent, output_full)


def text_to_semantic(
    text: str, history_prompt: History = None, temp: float = 0.7, silent: bool = False
) -> Ints:
    """Text to (n,) int64 semantic tokens."""
    return generate_text_semantic(text, history_prompt, temp, silent=silent, use_kv_caching=True)


def semantic_to_waveform(
    semantic_tokens: npt.NDArray[Any],
    history_prompt: History = None,
    temp: float = 0.7,
    silent: bool = False,
    output_full: bool = False,
) -> Any:
    """Semantic tokens to samples; with output_full (generation, samples)."""
    coarse_tokens = generate_coarse(semantic_tokens, history_prompt, temp, silent=silent)
    fine_tokens = generate_fine(coarse_tokens, history_prompt, 0.5)
    audio_arr = codec_decode(fine_tokens)
    if not output_full:
        return audio_arr
    full_generation = {
        "semantic_prompt": semantic_tokens,
        "coarse_prompt": coarse_tokens,
        "fine_prompt": fine_tokens,
    }
    return full_generation, audio_arr


def save_as_prompt(filepath: str, full_generation: Mapping[str, Any]) -> None:
    """Keep a full generation as an .npz voice; raises InvalidRequest when it is none."""
    save_npz(filepath, _from_dict(full_generation, BARK))


def generate_text_semantic(
    text: str,
    history_prompt: History = None,
    temp: float = 0.7,
    top_k: int | None = None,
    top_p: float | None = None,
    silent: bool = False,
    min_eos_p: float | None = 0.2,
    max_gen_duration_s: float | None = None,
    allow_early_stop: bool = True,
    use_kv_caching: bool = False,
) -> Ints:
    """Text to (n,) int64 semantic tokens. `use_kv_caching` is always true here."""
    config = _models.config("semantic")
    history = _history(history_prompt, config)
    sampling = Sampling(
        text_temperature=temp,
        top_k=top_k,
        top_p=top_p,
        min_eos_p=math.inf if min_eos_p is None else min_eos_p,
        max_seconds=max_gen_duration_s,
        early_stop=allow_early_stop,
        seed=_seed(),
    )
    check_sampling(sampling)
    encoded = _models.tokenizer.encode(text)
    for note in encoded.notes:
        logger.warning("%s", note)
    tokens: list[int] = []
    limit = max_tokens(sampling, config)
    with _models.use("semantic") as (stage, _), tqdm(disable=silent, total=limit) as bar:
        stage.start(0, encoded.text_tokens, history, sampling, 0)
        while len(tokens) < limit:
            made = stage.run(min(_STEPS, limit - len(tokens)), [0])
            ends = np.flatnonzero(made.ended[:, 0])
            kept = made.tokens[: ends[0] if len(ends) else None, 0].tolist()
            tokens += kept
            bar.update(len(kept))
            if len(ends):
                break
    return np.asarray(tokens, dtype=np.int64)


def generate_coarse(
    x_semantic: npt.NDArray[Any],
    history_prompt: History = None,
    temp: float = 0.7,
    top_k: int | None = None,
    top_p: float | None = None,
    silent: bool = False,
    max_coarse_history: int = 630,
    sliding_window_len: int = 60,
    use_kv_caching: bool = False,
) -> Ints:
    """(n,) semantic tokens to (2, F) int64 codes. `use_kv_caching` is always true here."""
    config = _models.config("coarse")
    books = config.coarse.codebooks
    longest = config.coarse_shape.context - config.coarse.semantic_block
    if not (60 <= max_coarse_history <= 630 and sliding_window_len >= books):
        raise InvalidRequest("max_coarse_history must be between 60 and 630, a window at least 2.")
    if max_coarse_history + sliding_window_len > longest or sliding_window_len % books:
        raise InvalidRequest(
            f"sliding_window_len must be even and at most {longest - max_coarse_history}."
        )
    numbers = replace(config.coarse, history=max_coarse_history, window=sliding_window_len)
    windowed = replace(config, coarse=numbers)
    semantic = _codes(x_semantic, "semantic tokens", 1, config.semantic.vocab)
    sampling = Sampling(waveform_temperature=temp, top_k=top_k, top_p=top_p, seed=_seed())
    check_sampling(sampling)
    work = CoarseInput(_history(history_prompt, config), windowed)
    work.extend(semantic.tolist())
    work.complete = True
    with _models.use("coarse") as (stage, _), tqdm(disable=silent, total=work.total) as bar:
        stage.open(0, sampling, 0)
        while work.generated < work.total:
            end = work.window_end(work.generated)
            stage.start_window(0, work.window())
            while work.generated < end:
                steps = min(_STEPS, end - work.generated)
                work.append(stage.run(steps, [0])[:, 0].tolist())
                bar.update(steps)
    return work.codes


def generate_fine(
    x_coarse_gen: npt.NDArray[Any],
    history_prompt: History = None,
    temp: float | None = 0.5,
    silent: bool = True,
) -> Ints:
    """(1 to 7, F) codes to (8, F) int64 codes. temp None is greedy."""
    config = _models.config("fine")
    given = _codes(x_coarse_gen, "coarse codes", 2, config.codec.codebook_size)
    if not 1 <= given.shape[0] < config.fine.codebooks:
        raise InvalidRequest(f"The coarse codes have {given.shape[0]} rows; 1 to 7 can be used.")
    sampling = Sampling(fine_temperature=0.0 if temp is None else temp, seed=_seed())
    check_sampling(sampling)
    history = _history(history_prompt, config)
    rows = replace(config, coarse=replace(config.coarse, codebooks=given.shape[0]))
    with _models.use("fine") as (stage, device):
        work = FineJob.of(given, history, sampling, 0, rows, device)
        with tqdm(total=1.0, disable=silent) as bar:
            while not work.ended:
                stage.step(work)
                bar.update(work.fraction - bar.n)
        return work.codes()


def codec_decode(fine_tokens: npt.NDArray[Any]) -> Floats:
    """(8, F) codes to (320 F,) float32 samples at SAMPLE_RATE."""
    config = _models.config("codec")
    codes = _codes(fine_tokens, "fine codes", 2, config.codec.codebook_size)
    with _models.use("codec") as (codec, _):
        return codec.decode(codes)


def _seed() -> int:
    """Drawn from torch's generator, which scripts seed to get the same clip again."""
    return int(torch.randint(2**31, ()))


def _history(history_prompt: History, config: ModelConfig) -> HistoryPrompt | None:
    """A preset's name, the path of an .npz file, or the three arrays."""
    if history_prompt is None:
        return None
    if isinstance(history_prompt, Mapping):
        return validate(_from_dict(history_prompt, config), config)
    name = os.fspath(history_prompt)
    return load_npz(name, config) if is_npz(name) else VoiceBook(config).get(name)


def _from_dict(arrays: Mapping[str, Any], config: ModelConfig) -> HistoryPrompt:
    names = ("semantic_prompt", "coarse_prompt", "fine_prompt")
    if not isinstance(arrays, Mapping) or any(name not in arrays for name in names):
        raise InvalidRequest(f"A history prompt is a dict with {', '.join(names)}.")
    semantic, coarse, fine = (_whole(arrays[name]) for name in names)
    return HistoryPrompt(semantic, coarse, fine, config.family)


def _whole(array: Any) -> npt.NDArray[Any]:
    """The original takes floats too, which numpy makes of whole numbers joined with np.zeros."""
    values = np.asarray(array)
    if values.dtype.kind == "f" and np.isfinite(values).all() and (values % 1 == 0).all():
        return values.astype(np.int64)
    return values


def _codes(array: Any, what: str, dimensions: int, limit: int) -> Ints:
    values = _whole(array)
    if values.ndim != dimensions or values.size == 0 or values.dtype.kind not in "iu":
        raise InvalidRequest(
            f"The {what} should be a {dimensions}-dimensional array of whole numbers, not empty."
        )
    if values.min() < 0 or values.max() >= limit:
        raise InvalidRequest(f"The {what} should be from 0 to {limit - 1}.")
    return values.astype(np.int64)
