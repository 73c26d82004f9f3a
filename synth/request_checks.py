"""What a request hands in, checked against what a model can work with: each refusal says what is
wrong and what is allowed. Knows numbers and shapes, no stage and no slot.
"""

import math
from collections.abc import Sequence

import numpy as np

from synth.coarse import total_steps
from synth.errors import InvalidRequest
from synth.protocol import HistoryPrompt, Sampling
from synth.vocab import ModelConfig


def check_sampling(sampling: Sampling) -> None:
    """Raise InvalidRequest that names the setting, its value and what is allowed."""
    temperatures = {
        "text temperature": sampling.text_temperature,
        "waveform temperature": sampling.waveform_temperature,
        "fine temperature": sampling.fine_temperature,
    }
    for name, value in temperatures.items():
        if value is not None and not (math.isfinite(value) and value >= 0):
            raise InvalidRequest(f"The {name} is {value}; it must be 0 (greedy) or more.")
    if sampling.top_k is not None and sampling.top_k < 1:
        raise InvalidRequest(f"top_k is {sampling.top_k}; it must be 1 or more.")
    if sampling.top_p is not None and not 0 <= sampling.top_p <= 1:
        raise InvalidRequest(f"top_p is {sampling.top_p}; it must be between 0 and 1.")
    if sampling.min_eos_p is not None and not sampling.min_eos_p >= 0:
        raise InvalidRequest(f"min_eos_p is {sampling.min_eos_p}; it must be 0 or more.")
    if sampling.max_seconds is not None and not sampling.max_seconds > 0:
        raise InvalidRequest(f"max_seconds is {sampling.max_seconds}; it must be more than 0.")


def check_semantic(tokens: Sequence[int], config: ModelConfig) -> None:
    """Raise InvalidRequest where semantic tokens that were handed in cannot be spoken."""
    numbers = config.semantic
    if not total_steps(len(tokens), config) or len(tokens) > numbers.max_steps:
        raise InvalidRequest(
            f"{len(tokens)} semantic tokens make no utterance; at most {numbers.max_steps} do, and "
            "at least so many that there is sound."
        )
    if not all(0 <= token < numbers.vocab for token in tokens):
        raise InvalidRequest(f"Semantic tokens must be from 0 to {numbers.vocab - 1}.")


def check_history(history: HistoryPrompt | None, config: ModelConfig) -> None:
    """Raise InvalidRequest when a history would index outside the model's tables."""
    if history is None:
        return
    if history.family != config.family:
        raise InvalidRequest(
            "The voice was made with another kind of model; choose one of this model's voices."
        )
    size = config.codec.codebook_size
    arrays = {
        "semantic": (np.atleast_2d(history.semantic), 1, config.semantic.vocab),
        "coarse": (np.atleast_2d(history.coarse_codes), config.coarse.codebooks, size),
        "fine": (np.atleast_2d(history.fine_codes), config.fine.codebooks, size),
    }
    for name, (array, rows, end) in arrays.items():
        if array.ndim != 2 or array.shape[0] != rows:
            raise InvalidRequest(f"The voice's {name} part has the wrong shape {array.shape}.")
        if array.size and not (array.min() >= 0 and array.max() < end):
            raise InvalidRequest(f"The voice's {name} part has values outside 0 to {end - 1}.")
