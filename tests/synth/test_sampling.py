"""Noise against a plain-Python SplitMix64, filters against the original's own code."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from synth.linear import cpu_kernels
from synth.sampling import (
    NoiseStage,
    draw,
    exponential,
    fold,
    is_end,
    keep_top_k,
    keep_top_p,
    mix_,
    noise_key,
    noise_of,
)
from tests.synth.reference import original
from tests.synth.tiny import NARROW

MASK = (1 << 64) - 1


def splitmix64(state: int) -> int:
    """The published finalizer, on unsigned Python integers."""
    z = state & MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def test_mix_is_splitmix64() -> None:
    """The first outputs of the published generator for seed 1234567."""
    published = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    golden = 0x9E3779B97F4A7C15
    states = [(1234567 + golden * (n + 1)) & MASK for n in range(3)]
    signed = torch.tensor([s - (1 << 64) if s >> 63 else s for s in states])
    assert [value & MASK for value in mix_(signed).tolist()] == published
    assert [splitmix64(s) for s in states] == published


def test_an_address_is_hashed_alike_on_host_and_device() -> None:
    for seed in (0, 1, -1, 2**31, 2**63 - 1, 123456789):
        key = noise_key(seed, 7, NoiseStage.COARSE)
        folded = fold(torch.tensor([key, key]), torch.tensor([0, 99]))
        assert folded.tolist() == [noise_key(seed, 7, 2, 0), noise_key(seed, 7, 2, 99)]


def test_every_word_of_an_address_counts() -> None:
    keys = {
        noise_key(a, b, c, d) for a in range(6) for b in range(6) for c in (1, 2, 3) for d in (0, 1)
    }
    assert len(keys) == 6 * 6 * 3 * 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_noise_is_exponential(dtype: torch.dtype) -> None:
    keys = fold(torch.full((64,), noise_key(5, 0, 1)), torch.arange(64))
    noise = exponential(keys, 10_001, dtype)
    assert noise.shape == (64, 10_001) and noise.dtype == dtype
    assert bool((noise > 0).all()) and bool(noise.isfinite().all())
    assert abs(noise.mean().item() - 1) < 0.005
    assert abs(noise.var().item() - 1) < 0.02
    for quantile in (0.01, 0.5, 0.99):
        assert abs((noise < -math.log(1 - quantile)).double().mean().item() - quantile) < 0.002
    # Neighbouring rows and neighbouring tokens have nothing to do with each other.
    centred = (noise - 1).double()
    assert abs((centred[1:] * centred[:-1]).mean().item()) < 0.005
    assert abs((centred[:, 1:] * centred[:, :-1]).mean().item()) < 0.005


def test_noise_does_not_depend_on_the_batch() -> None:
    keys = fold(torch.full((5,), noise_key(1, 2, 3)), torch.arange(5))
    together = exponential(keys, 33, torch.float32)
    for row in range(5):
        assert torch.equal(exponential(keys[row : row + 1], 33, torch.float32)[0], together[row])


def test_draw_follows_the_distribution() -> None:
    logits = torch.tensor([[2.0, 1.0, 0.0, -1.0, -torch.inf]])
    count = 40_000
    keys = fold(torch.full((count,), noise_key(11, 0, 1)), torch.arange(count))
    temperature = torch.full((count,), 0.7)
    token, p = draw(logits.expand(count, -1), temperature, exponential(keys, 5, torch.float32))
    share = torch.bincount(token, minlength=5) / count
    expected = (logits[0] / 0.7).softmax(0)
    torch.testing.assert_close(p[0], expected)
    assert (share - expected).abs().max() < 0.01
    assert share[4] == 0


def test_temperature_0_is_the_limit_and_rows_may_differ() -> None:
    logits = torch.tensor([[1.0, 3.0, 2.0], [1.0, 3.0, 2.0]])
    noise = torch.tensor([[1e-9, 1.0, 1.0], [1e-9, 1.0, 1.0]])  # token 0 is nearly forced
    token, p = draw(logits, torch.tensor([0.0, 1.0]), noise)
    assert token.tolist() == [1, 0]
    assert p[0].tolist() == [0, 1, 0]
    torch.testing.assert_close(p[1], logits[1].softmax(0))


@pytest.mark.parametrize("temperature", [1e-3, 1e-30, 1e-38, 1e-45])
def test_next_to_no_temperature_is_greedy_too(temperature: float) -> None:
    """Dividing by it used to give infinities, their softmax no numbers, and always token 0."""
    logits = torch.tensor([[1.0, 30.0, 29.0, -torch.inf]])
    noise = torch.tensor([[1e-9, 1.0, 1.0, 1e-9]])
    token, p = draw(logits, torch.tensor([temperature]), noise)
    assert token.tolist() == [1] and p[0].tolist() == [0, 1, 0, 0]


def test_the_end_rule_is_inclusive_and_after_temperature() -> None:
    halves = torch.tensor([[0.5, 0.5]])
    first = torch.tensor([0])
    assert is_end(first, halves, 1, torch.tensor([0.5])).item()
    assert not is_end(first, halves, 1, torch.tensor([0.51])).item()
    assert is_end(torch.tensor([1]), halves, 1, torch.tensor([torch.inf])).item()
    assert not is_end(first, None, 1, torch.tensor([1e-9])).item()  # greedy: p is 0
    assert is_end(first, None, 1, torch.tensor([0.0])).item()
    # The same logits mean less when it is colder.
    logits = torch.tensor([[math.log(0.769), math.log(0.231)]])
    for temperature, p_end in ((1.0, 0.231), (0.7, 0.1522), (0.6, 0.1188)):
        _, p = draw(logits, torch.tensor([temperature]), torch.ones(1, 2))
        assert p[0, 1].item() == pytest.approx(p_end, abs=1e-4)
        assert is_end(first, p, 1, torch.tensor([0.2])).item() == (temperature == 1.0)


class _FixedLogits(torch.nn.Module):
    """Stands where the original's semantic model stands and gives one set of logits."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = torch.nn.Parameter(logits)

    def forward(self, *_: object, **__: object) -> tuple[Tensor, None]:
        return self.logits.detach().clone()[None, None], None


@pytest.fixture
def original_probabilities(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Tensor]:
    """logits -> the probabilities the original hands to torch.multinomial for them."""
    generation = original(NARROW).generation

    def run(logits: Tensor, *, top_k: int | None, top_p: float | None, temp: float) -> Tensor:
        seen: list[Tensor] = []

        def multinomial(probabilities: Tensor, num_samples: int) -> Tensor:
            seen.append(probabilities.clone())
            return probabilities.argmax().reshape(1)

        full = torch.cat([logits, torch.zeros(10_048 - len(logits))])
        text = {**generation.models["text"], "model": _FixedLogits(full)}
        monkeypatch.setitem(generation.models, "text", text)
        monkeypatch.setattr(torch, "multinomial", multinomial)
        generation.generate_text_semantic(
            "a b",
            top_k=top_k,
            top_p=top_p,
            temp=temp,
            silent=True,
            max_gen_duration_s=0,
            min_eos_p=None,
        )
        monkeypatch.undo()
        return seen[0]

    return run


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize(
    ("top_k", "top_p"),
    [
        (None, None),
        (1, None),
        (7, None),
        (50, 0.6),
        (None, 0.0),
        (None, 0.35),
        (None, 0.9),
        (3, 0.99),
        (20_000, 0.97),
    ],
)
def test_filters_equal_the_original(
    original_probabilities: Callable[..., Tensor],
    top_k: int | None,
    top_p: float | None,
    ties: bool,
) -> None:
    """Ties are kept by top_k; where top_p cuts through equal logits, as many of them are kept."""
    for seed in range(4):
        logits = (
            torch.from_numpy(np.random.default_rng(seed).standard_normal(10_001, np.float32)) * 3
        )
        if ties:
            logits = logits.round()
        logits[10_000] = -20.0  # the end, so that the original does not stop before it samples
        theirs = original_probabilities(logits, top_k=top_k, top_p=top_p, temp=0.7)
        ours = logits[None]
        if top_p is not None:
            ours = keep_top_p(ours, torch.tensor([top_p]))
        if top_k is not None:
            ours = keep_top_k(ours, torch.tensor([top_k]))
        _, p = draw(ours, torch.tensor([0.7]), torch.ones(1, 10_001))
        torch.testing.assert_close(p[0].sort().values, theirs.sort().values, rtol=1e-4, atol=1e-8)
        assert int((p > 0).sum()) == int((theirs > 0).sum())
        if not ties:
            assert torch.equal(p[0] > 0, theirs > 0)
        kept = ours[0].isfinite()
        if top_k == 7 and ties:
            assert int(kept.sum()) > 7


def test_filters_leave_rows_without_them_alone() -> None:
    logits = torch.randn(3, 50, generator=torch.Generator().manual_seed(0))
    filtered = keep_top_k(
        keep_top_p(logits, torch.tensor([torch.inf, 0.5, torch.inf])), torch.tensor([50, 50, 2])
    )
    assert torch.equal(filtered[0], logits[0])
    assert 0 < int(filtered[1].isfinite().sum()) < 50
    assert int(filtered[2].isfinite().sum()) == 2


def test_without_greedy_rows_less_work_draws_the_same_bits() -> None:
    logits = torch.randn(8, 500, generator=torch.Generator().manual_seed(0))
    logits[3, 7:] = -torch.inf
    noise = exponential(torch.arange(8), 500, torch.float32)
    temperature = torch.linspace(0.1, 2.0, 8)
    for made, wanted in zip(
        draw(logits, temperature, noise, greedy=False),
        draw(logits, temperature, noise),
        strict=True,
    ):
        assert torch.equal(made, wanted)


@pytest.mark.gpu
def test_noise_is_the_same_on_the_gpu() -> None:
    keys = fold(torch.full((9,), noise_key(3, 1, 2)), torch.arange(9))
    on_cpu = exponential(keys, 10_001, torch.float32)
    on_gpu = exponential(keys.cuda(), 10_001, torch.float32).cpu()
    torch.testing.assert_close(on_gpu, on_cpu, rtol=1e-6, atol=1e-12)


def test_compiled_noise_is_the_same_to_the_last_bit() -> None:
    """Keys and words of all sizes, and one token a row as well as many."""
    if cpu_kernels() is None:
        pytest.skip("nothing is compiled on this processor")
    key = torch.randint(-(2**63), 2**63 - 1, (40,), generator=torch.Generator().manual_seed(0))
    word = torch.arange(40) * 10**9
    compiled = noise_of(torch.float32, compiled=True)
    for vocab in (1, 7, 10_001):
        expected = exponential(fold(key, word), vocab, torch.float32)
        assert torch.equal(compiled(key, word, vocab), expected)
    assert compiled is not noise_of(torch.float32, compiled=False)
    in_double = noise_of(torch.float64, compiled=True)(key, word, 5)
    assert torch.equal(in_double, exponential(fold(key, word), 5, torch.float64))
