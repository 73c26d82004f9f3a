"""Every way to attend gives what plain attention over the whole sequence gives."""

import pytest
import torch
from torch import Tensor

from synth.kv_cache import DecodeEach, DecodeMasked, KVCache, Prefill, PrefillMasked, span_for
from synth.vocab import TransformerShape

SHAPE = TransformerShape(n_layer=2, n_head=3, width=12, input_vocab=1, output_vocab=1, context=20)


def causal(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Textbook attention: (T, H, D) -> (T, C)."""
    scores = torch.einsum("qhd,khd->hqk", q, k) / q.shape[-1] ** 0.5
    future = torch.ones(q.shape[0], q.shape[0]).triu(1).bool()
    weights = scores.masked_fill(future, -torch.inf).softmax(-1)
    return torch.einsum("hqk,khd->qhd", weights, v).flatten(1)


def qkv(count: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(3, count, 3, 4, generator=generator, dtype=torch.float64)


def cache(slots: int = 3) -> KVCache:
    return KVCache(SHAPE, slots, device=torch.device("cpu"), dtype=torch.float64)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("cut", [0, 1, 7, 13])
def test_a_prefill_may_come_in_two_parts(cut: int, masked: bool) -> None:
    q, k, v = qkv(14)
    kv = cache()
    kv.k.fill_(9.0)
    kv.v.fill_(-9.0)
    parts: list[Tensor] = []
    for start, end in ((0, cut), (cut, 14)):
        if end == start:
            continue
        if masked:
            at = torch.arange(start, end)
            attend = PrefillMasked(kv, torch.tensor([1]), at, first=start == 0)
        else:
            attend = Prefill(kv, 1, start, end - start)
        parts.append(attend(0, q[start:end], k[start:end], v[start:end]))
    torch.testing.assert_close(torch.cat(parts), causal(q, k, v))


@pytest.mark.parametrize("masked", [False, True])
def test_decode_steps_continue_prefills_of_different_lengths(masked: bool) -> None:
    """Slot s holds 4 + 3s positions and stale values behind them; each goes on by itself."""
    kv = cache()
    kv.k.fill_(9.0)
    kv.v.fill_(-9.0)
    told = [qkv(12, seed) for seed in range(3)]
    lengths = [4, 7, 10]
    for slot, ((q, k, v), n) in enumerate(zip(told, lengths, strict=True)):
        Prefill(kv, slot, 0, n)(1, q[:n], k[:n], v[:n])
    for step in range(2):
        positions = [n + step for n in lengths]
        rows = torch.stack([x[:, p] for x, p in zip(told, positions, strict=True)], dim=1)
        if masked:
            attend = DecodeMasked(kv, torch.tensor(positions), span_for(max(positions) + 1, 20))
        else:
            attend = DecodeEach(kv, [0, 1, 2], positions)
        y = attend(1, *rows)
        for slot, ((q, k, v), p) in enumerate(zip(told, positions, strict=True)):
            expected = causal(q[: p + 1], k[: p + 1], v[: p + 1])[-1]
            torch.testing.assert_close(y[slot], expected)


@pytest.mark.parametrize("cached", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("active", [torch.float32, torch.bfloat16])
def test_activations_and_cache_may_differ_in_precision(
    active: torch.dtype, cached: torch.dtype
) -> None:
    kv = KVCache(SHAPE, 1, device=torch.device("cpu"), dtype=cached)
    assert kv.k.dtype == kv.v.dtype == cached
    q, k, v = qkv(6).to(active)
    expected = causal(*(x.float() for x in (q, k, v)))
    first = Prefill(kv, 0, 0, 5)(0, q[:5], k[:5], v[:5])
    last = DecodeEach(kv, [0], [5])(0, q[5:], k[5:], v[5:])
    assert first.dtype == last.dtype == active
    torch.testing.assert_close(torch.cat([first, last]).float(), expected, rtol=0.03, atol=0.03)


def test_spans_are_buckets_within_the_context() -> None:
    assert [span_for(n, 1000) for n in (1, 256, 257, 900)] == [256, 256, 512, 1000]
