"""Which ids a coarse window sees, when it can start, and what the cache saves."""

import numpy as np
import pytest
import torch

from synth.coarse import CoarseInput, CoarseStage, flatten, total_steps, trim_history, unflatten
from synth.protocol import Sampling
from synth.vocab import BARK, ModelConfig
from tests.synth.tiny import NARROW, ODD, history, tiny_model


@pytest.mark.parametrize(
    ("tokens", "frames"), [(1, 1), (2, 3), (3, 4), (10, 15), (300, 450), (768, 1154)]
)
def test_frames_of_a_run_of_semantic_tokens(tokens: int, frames: int) -> None:
    assert total_steps(tokens, BARK) == 2 * frames


@pytest.mark.parametrize(
    ("given", "semantic", "coarse", "book"),
    [
        (158, 157, 470, 0),
        (192, 192, 575, 1),
        (256, 209, 626, 0),
        (341, 209, 626, 0),
        (700, 209, 626, 0),
    ],
)
def test_what_of_a_history_is_used(given: int, semantic: int, coarse: int, book: int) -> None:
    voice = history(BARK, given)
    kept_semantic, kept_coarse = trim_history(voice, BARK)
    np.testing.assert_array_equal(kept_semantic, voice.semantic[-semantic:])
    assert len(kept_coarse) == coarse
    assert (int(kept_coarse[0]) - 10_000) // 1024 == book
    np.testing.assert_array_equal(kept_coarse, flatten(voice.coarse_codes, BARK)[-coarse - 2 : -2])


def test_a_history_of_nothing_usable_is_none() -> None:
    for voice in (None, history(BARK, 1)):
        semantic, coarse = trim_history(voice, BARK)
        assert len(semantic) == len(coarse) == 0


def test_flattening_is_undone() -> None:
    codes = np.random.default_rng(0).integers(1024, size=(2, 9))
    flat = flatten(codes, BARK)
    assert flat[:4].tolist() == [
        10_000 + codes[0, 0], 11_024 + codes[1, 0], 10_000 + codes[0, 1], 11_024 + codes[1, 1]
    ]  # fmt: skip
    np.testing.assert_array_equal(unflatten(flat, BARK), codes)


def _windows(config: ModelConfig, given: int | None, generated: int) -> list[tuple[int, int]]:
    """(input length, semantic tokens that must exist) of each window; needs found by trying."""
    voice = None if given is None else history(config, given)
    source = CoarseInput(voice, config)
    tokens = iter(np.random.default_rng(1).integers(config.semantic.vocab, size=generated).tolist())
    made = 0
    out: list[tuple[int, int]] = []
    while True:
        while not source.window_exists(source.generated):
            token = next(tokens, None)
            if token is None:
                return out
            source.extend([token])
            made += 1
        out.append((len(source.window()), made))
        source.append([config.semantic.vocab] * config.coarse.window)


def test_prefill_lengths_without_a_history() -> None:
    lengths = [length for length, _ in _windows(BARK, None, 500)]
    assert lengths[:13] == [257, 317, 377, 437, 497, 557, 617, 677, 737, 797, 857, 887, 887]


@pytest.mark.parametrize(
    ("given", "first"),
    [
        (None, [256] * 11 + [267, 287]),
        (158, [99, 99, 99, 107]),
        (192, [64, 67, 87]),
        (256, [47, 67, 87, 107]),
        (700, [47, 67, 87, 107]),
    ],
)
def test_a_window_starts_as_soon_as_its_look_ahead_exists(
    given: int | None, first: list[int]
) -> None:
    assert [made for _, made in _windows(BARK, given, 400)][: len(first)] == first


@pytest.mark.parametrize("config", [BARK, NARROW, ODD], ids=["bark", "narrow", "odd"])
@pytest.mark.parametrize("given", [None, 31, 192, 700])
def test_a_window_that_may_start_early_sees_what_it_would_see_late(
    config: ModelConfig, given: int | None
) -> None:
    """More tokens, or the end of them, do not change a window that was allowed to start."""
    voice = None if given is None else history(config, given)
    tokens = np.random.default_rng(2).integers(config.semantic.vocab, size=300).tolist()
    early, late = CoarseInput(voice, config), CoarseInput(voice, config)
    late.extend(tokens)
    late.complete = True
    fed = 0
    while late.window_exists(late.generated):
        while not early.window_exists(early.generated):
            if fed == len(tokens):
                early.complete = True
                continue
            early.extend(tokens[fed : fed + 1])
            fed += 1
        np.testing.assert_array_equal(early.window(), late.window())
        step = late.generated
        assert early.window_end(step) == late.window_end(step)
        ids = [config.semantic.vocab + step] * (late.window_end(step) - step)
        early.append(ids)
        late.append(ids)
    assert late.generated == late.total == early.total


def _greedy_ids(
    stage: CoarseStage, config: ModelConfig, seconds: float, *, forget: bool
) -> list[int]:
    source = CoarseInput(None, config)
    count = int(seconds * config.semantic.rate_hz)
    source.extend(np.random.default_rng(3).integers(config.semantic.vocab, size=count).tolist())
    source.complete = True
    greedy = Sampling(waveform_temperature=0)
    ids: list[int] = []
    with torch.inference_mode():
        stage.open(0, greedy, 0)
        while source.window_exists(source.generated):
            if forget:
                stage.open(0, greedy, 0)
            stage.start_window(0, source.window())
            steps = source.window_end(source.generated) - source.generated
            made = stage.run(steps, [0])[:, 0].tolist()
            source.append(made)
            ids += made
    return ids


def test_a_four_second_clip_prefills_256_positions_in_place_of_5260() -> None:
    """Without a history the first windows only extend their input; the cache is kept, exactly."""
    kept = CoarseStage(tiny_model(NARROW).coarse, NARROW, slots=1)
    rebuilt = CoarseStage(tiny_model(NARROW).coarse, NARROW, slots=1)
    assert _greedy_ids(kept, NARROW, 4.0, forget=False) == _greedy_ids(
        rebuilt, NARROW, 4.0, forget=True
    )
    assert kept.prefilled == 256  # the 257th is fed by the first step
    assert rebuilt.prefilled == sum(range(256, 256 + 60 * 10, 60))


def test_a_common_beginning_is_kept_where_only_the_end_differs() -> None:
    """In double precision, so that only the ids can make a difference."""
    model = tiny_model(ODD, "fp64")
    window = np.random.default_rng(4).integers(401, size=60)
    other = window.copy()
    other[40:] = window[39:-1]
    greedy = Sampling(waveform_temperature=0)
    stage = CoarseStage(model.coarse, ODD, slots=2)
    with torch.inference_mode():
        stage.open(0, greedy, 0)
        stage.start_window(0, window)
        before = stage.prefilled
        stage.start_window(0, other)
        assert stage.prefilled - before <= 59 - 40
        stage.open(1, greedy, 0)
        stage.start_window(1, other)
        made = stage.run(10, [0, 1])
    np.testing.assert_array_equal(made[:, 0], made[:, 1])
