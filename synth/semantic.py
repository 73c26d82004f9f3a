"""Text tokens to semantic tokens: what is said, and how.

Builds the semantic prompt and runs the semantic transformer over slots. Knows nothing of audio.

Source: suno-ai/bark@f4f32d4 bark/generation.py:384 (generate_text_semantic). Differs: static KV
cache, slots, temperature 0 and an end at step 0 do not crash.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from synth.protocol import HistoryPrompt, Sampling
from synth.sampling import NoiseStage, noise_key
from synth.slot_draws import Draw
from synth.stepper import Chunk, Stepper
from synth.transformer import Transformer
from synth.vocab import ModelConfig


def history_block(history: HistoryPrompt | None, config: ModelConfig) -> npt.NDArray[np.int64]:
    """The last tokens of a history, padded on the RIGHT: (text.block,) int64."""
    block = np.full(config.text.block, config.semantic.pad, dtype=np.int64)
    if history is not None:
        kept = np.asarray(history.semantic[-config.text.block :], dtype=np.int64)
        block[: len(kept)] = kept
    return block


def max_tokens(sampling: Sampling, config: ModelConfig) -> int:
    """How many semantic tokens a clip may have: the model's limit or the duration cap."""
    limit = config.semantic.max_steps
    if sampling.max_seconds is None:
        return limit
    # The original appends, adds up in floating point, and tests after: 2.0 s give 100 tokens.
    tokens, seconds = 0, 0.0
    while tokens < limit:
        tokens += 1
        seconds += 1 / config.semantic.rate_hz
        if seconds > sampling.max_seconds:
            break
    return tokens


def semantic_head(transformer: Transformer, config: ModelConfig) -> Tensor:
    """The rows of the output projection that can be sampled: all tokens, then the end.

    (semantic.vocab + 1, C); a view where the end follows the tokens, as in Bark, and the head is in
    memory.
    """
    head, numbers = transformer.heads[0], config.semantic
    if numbers.pad == numbers.vocab:
        return head[: numbers.vocab + 1]
    return torch.cat([head[: numbers.vocab], head[numbers.pad : numbers.pad + 1]])


class SemanticStage:
    """The semantic transformer and its slots."""

    def __init__(self, transformer: Transformer, config: ModelConfig, *, slots: int) -> None:
        self._config = config
        self._stepper = Stepper(
            transformer,
            [semantic_head(transformer, config)],
            [0],
            slots=slots,
            end_row=config.semantic.vocab,
        )

    def record_steps(self) -> None:
        """Replay decode steps and prefills as CUDA graphs."""
        self._stepper.record_steps()

    def warm_up(self) -> None:
        """Record plain steps of every number of slots, while nothing is live."""
        self._stepper.warm_up()

    def start(
        self,
        slot: int,
        text_tokens: npt.NDArray[np.int64],
        history: HistoryPrompt | None,
        sampling: Sampling,
        utterance: int,
        *,
        scored: bool = False,
    ) -> None:
        """Prefill the slot with [text + history | infer]. text_tokens: (text.block,) int64.

        scored: its chunks tell how likely each token was in Bark's own distribution, before
        temperature and filters.
        """
        defaults = self._config.sampling
        min_eos_p = sampling.min_eos_p if sampling.min_eos_p is not None else defaults.min_eos_p
        temperature = sampling.text_temperature
        how = Draw(
            key=noise_key(sampling.seed, utterance, NoiseStage.SEMANTIC),
            temperature=defaults.text_temperature if temperature is None else temperature,
            top_k=sampling.top_k or 0,
            top_p=float("inf") if sampling.top_p is None else sampling.top_p,
            min_eos_p=float("inf") if min_eos_p is None else min_eos_p,
            may_end=sampling.early_stop,
            scored=scored,
        )
        self._stepper.open(slot, how)
        x = self._stepper.embed(text_tokens)
        x += self._stepper.embed(history_block(history, self._config))  # summed, not appended
        self._stepper.prefill(slot, x, self._config.text.infer)

    def run(self, k: int, slots: Sequence[int]) -> Chunk:
        """k steps of the given slots. Tokens in [0, semantic.vocab]; those at an end count not."""
        return self._stepper.run(k, slots)
