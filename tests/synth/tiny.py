"""Tiny random models and voices that every test may use, each made once a run.

RANDOM (from `synth.random_model`) is the quickest. NARROW has Bark's own vocabularies, windows
and rates and differs in width and depth alone. ODD agrees with Bark in as few numbers as it can.
"""

from dataclasses import replace
from functools import cache

import numpy as np

from synth.model import Model, build_model
from synth.protocol import HistoryPrompt
from synth.random_model import RANDOM, RandomCheckpoint, random_checkpoint
from synth.vocab import (
    CoarseNumbers,
    CodecNumbers,
    FineNumbers,
    ModelConfig,
    SemanticNumbers,
    TextNumbers,
    TransformerShape,
)

__all__ = [
    "NARROW",
    "ODD",
    "ODD_64",
    "RANDOM",
    "history",
    "letters",
    "tiny_checkpoint",
    "tiny_model",
]


def _shape(
    input_vocab: int,
    output_vocab: int,
    *,
    context: int = 1024,
    n_layer: int = 2,
    n_head: int = 2,
    width: int = 32,
) -> TransformerShape:
    return TransformerShape(
        n_layer=n_layer,
        n_head=n_head,
        width=width,
        input_vocab=input_vocab,
        output_vocab=output_vocab,
        context=context,
    )


NARROW = ModelConfig(
    name="narrow",
    semantic_shape=_shape(129_600, 10_048),
    coarse_shape=_shape(12_096, 12_096),
    fine_shape=_shape(1_056, 1_056),
    codec=CodecNumbers(n_filters=4, dimension=16),
)

# Gaps between vocabularies and special ids; three layers here, one there; heads of odd size; a
# semantic rate of 50 Hz; 60 frames of 100 samples a second; five codebooks.
ODD = ModelConfig(
    name="odd",
    lineage="odd",
    semantic_shape=_shape(3_000, 420, context=400, n_layer=3, n_head=3, width=33),
    coarse_shape=_shape(700, 690, context=222, n_layer=1, n_head=5, width=35),
    fine_shape=_shape(111, 111, context=130, n_layer=2, n_head=1, width=24),
    text=TextNumbers(block=70, offset=431, pad=2_990, infer=2_998),
    semantic=SemanticNumbers(vocab=401, rate_hz=50.0, pad=413, max_steps=330),
    coarse=CoarseNumbers(semantic_block=75, semantic_pad=663, infer=667, history=118, window=22),
    fine=FineNumbers(codebooks=5, mask=101, window=120, hop=50),
    codec=CodecNumbers(
        sample_rate=6_000,
        frame_rate=60,
        codebook_size=101,
        dimension=12,
        n_filters=3,
        n_residual_layers=2,
        ratios=(5, 5, 4),
        lstm=1,
        kernel_size=5,
        last_kernel_size=3,
        compress=1,
        true_skip=True,
    ),
)

# ODD with the one number transformers' codec insists on: a power of two.
ODD_64 = replace(
    ODD,
    name="odd-64",
    fine=replace(ODD.fine, mask=64),
    codec=replace(ODD.codec, codebook_size=64),
)


@cache
def tiny_checkpoint(config: ModelConfig = RANDOM, seed: int = 0) -> RandomCheckpoint:
    """A random checkpoint; float32."""
    return random_checkpoint(config, seed)


@cache
def tiny_model(config: ModelConfig = RANDOM, precision: str = "fp32", seed: int = 0) -> Model:
    """A random model on the CPU; "fp64" where rounding must not matter at all."""
    return build_model(tiny_checkpoint(config, seed), device="cpu", precision=precision)


def history(config: ModelConfig, semantic_tokens: int, seed: int = 0) -> HistoryPrompt:
    """A random voice of that many semantic tokens and as much audio as goes with them."""
    rng = np.random.default_rng((seed, semantic_tokens))
    frames = round(semantic_tokens * config.codec.frame_rate / config.semantic.rate_hz)
    size = (config.fine.codebooks, frames)
    fine_codes = rng.integers(config.codec.codebook_size, size=size)
    return HistoryPrompt(
        semantic=rng.integers(config.semantic.vocab, size=semantic_tokens),
        coarse_codes=fine_codes[: config.coarse.codebooks],
        fine_codes=fine_codes,
        family=config.family,
    )


def letters(count: int, seed: int = 0) -> str:
    """A text of exactly `count` word pieces."""
    rng = np.random.default_rng((seed, count))
    return " ".join(rng.choice(list("abcdefghijklmnopqrstuvwxyz"), size=count))
