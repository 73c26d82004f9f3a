"""From logits to a token: filters, temperature, and noise that is a function of its address.

The noise has no state: each number is a hash of (seed, utterance, stage, step or window and book,
row, token). So a job draws the same tokens in any slot, beside any neighbours, on any device, and
a captured graph carries no generator. Knows nothing of what the tokens mean.

Shape letters: R rows, V vocabulary.

Source of the filters: suno-ai/bark@f4f32d4 bark/generation.py:468-493. Differs: batched, on the
device; temperature 0 is the limit (argmax) in place of a crash.
"""

from collections.abc import Callable
from enum import IntEnum

import torch
from torch import Tensor

from synth.helpers import compiles

_MASK64 = (1 << 64) - 1
# SplitMix64's numbers: see `mix_`.
GOLDEN = 0x9E3779B97F4A7C15
MIX = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB))


class NoiseStage(IntEnum):
    """First word of a noise address; the values are part of what a seed means."""

    SEMANTIC = 1
    COARSE = 2
    FINE = 3


def _signed(value: int) -> int:
    """The int64 that has the same 64 bits as the unsigned `value`."""
    return value - (1 << 64) if value >> 63 else value


def _mix(value: int) -> int:
    for shift, factor in MIX:
        value = ((value ^ (value >> shift)) * factor) & _MASK64
    return value ^ (value >> 31)


def noise_key(*address: int) -> int:
    """Hash an address such as (seed, utterance, stage) into an int64; words count modulo 2**64."""
    key = 0
    for word in address:
        key = _mix(((key ^ GOLDEN) + (word + 1) * GOLDEN) & _MASK64)
    return _signed(key)


def mix_(x: Tensor) -> Tensor:
    """SplitMix64's finalizer on int64, in place; products wrap, shifts are logical.

    Source: Steele, Lea, Flood, "Fast splittable pseudorandom number generators" (2014).
    """
    for shift, factor in MIX:
        x ^= (x >> shift) & ((1 << (64 - shift)) - 1)
        x *= _signed(factor)
    x ^= (x >> 31) & ((1 << 33) - 1)
    return x


def fold(key: Tensor, word: Tensor | int) -> Tensor:
    """Extend keys (R,) by another word of the address: `noise_key`'s step, on int64 tensors."""
    return mix_((key ^ _signed(GOLDEN)) + (word + 1) * _signed(GOLDEN))


def exponential(key: Tensor, vocab: int, dtype: torch.dtype) -> Tensor:
    """Noise of unit exponential distribution, (R, vocab), from one key a row, (R,) int64."""
    index = torch.arange(1, vocab + 1, device=key.device) * _signed(GOLDEN)
    bits = mix_(key[:, None] + index)
    # E = -log(1 - u): small E, which decide the draw, come from small u, where floats are dense.
    # u stays off 0 and 1, so that E is neither 0 nor infinite.
    u = ((bits >> 32) & 0xFFFFFFFF).to(dtype).add_(0.5).mul_(2.0**-32).clamp_(max=1 - 2.0**-24)
    return u.neg_().log1p_().neg_()


def noise_of(dtype: torch.dtype, *, compiled: bool) -> Callable[[Tensor, Tensor, int], Tensor]:
    """`exponential` in a dtype of keys (R,) folded with words (R,), and a vocabulary.

    compiled: by `synth.compiled_noise`, for the CPU, if it can be had; the numbers are the same.
    """
    if compiled and dtype == torch.float32:
        from synth import compiled_noise  # which needs Numba

        one = torch.zeros(1, dtype=torch.int64)
        if compiles(lambda: compiled_noise.exponential(one, one, 1), "noise"):
            return compiled_noise.exponential
    return lambda key, word, vocab: exponential(fold(key, word), vocab, dtype)


def keep_top_p(logits: Tensor, p: Tensor) -> Tensor:
    """Mask with -inf all but the most likely tokens whose probabilities add up to past `p`.

    logits: (R, V); p: (R,), inf keeps all. The first token past p is kept. Probabilities are
    float32 and un-tempered; among equal logits the later token counts as more likely.
    """
    order = logits.float().argsort(dim=-1, stable=True).flip(-1)
    mass = logits.float().gather(-1, order).softmax(-1).cumsum(-1)
    drop = mass > p[:, None]
    drop = torch.cat([torch.zeros_like(drop[:, :1]), drop[:, :-1]], dim=-1)
    return logits.masked_fill(torch.zeros_like(drop).scatter(-1, order, drop), -torch.inf)


def keep_top_k(logits: Tensor, k: Tensor) -> Tensor:
    """Mask with -inf all below the k-th largest logit; ties are kept. logits (R, V), k (R,)."""
    k = k.clamp(1, logits.shape[-1])
    least = logits.sort(dim=-1, descending=True).values.gather(-1, k[:, None] - 1)
    return logits.masked_fill(logits < least, -torch.inf)


def draw(
    logits: Tensor, temperature: Tensor, noise: Tensor, *, greedy: bool = True
) -> tuple[Tensor, Tensor]:
    """Sample one token a row from softmax(logits / temperature).

    logits, noise: (R, V); temperature: (R,), 0 is greedy. greedy: whether any is, which takes more
    operations; the others' rows come out the same.
    Returns tokens (R,) int64 and the probabilities (R, V) they were drawn from; of a greedy row
    those are 1 at its token and 0 elsewhere, the limit.
    """
    zero = temperature <= 0 if greedy else None
    if zero is not None:
        temperature = torch.where(zero, torch.ones_like(temperature), temperature)
    # From the largest down, so that next to no temperature does not divide into infinity.
    below = logits - logits.amax(-1, keepdim=True)
    probabilities = (below / temperature[:, None]).softmax(-1)
    # argmax(p / E) is a draw from p: no cumulative sum, no synchronization with the host.
    token = (probabilities / noise).argmax(-1)
    if zero is None:
        return token, probabilities
    best = logits.argmax(-1)
    one_hot = torch.zeros_like(probabilities).scatter_(-1, best[:, None], 1)
    return torch.where(zero, best, token), torch.where(zero[:, None], one_hot, probabilities)


def is_end(token: Tensor, probabilities: Tensor | None, end: int, min_eos_p: Tensor) -> Tensor:
    """Whether a clip ends here: the end was sampled or is likely enough. All (R,) but `end`.

    The probability is the one sampled from, after filters and temperature, so the same logits and
    the same min_eos_p mean a later end at a lower temperature. None stands for greedy rows, where
    it is 1 or 0.
    """
    sampled = token == end
    p_end = sampled.to(min_eos_p) if probabilities is None else probabilities[:, end]
    return sampled | (p_end >= min_eos_p)
