"""Turbo changes windows and nothing else."""

import numpy as np
import pytest

from synth import Bark
from synth.fine_windows import Window, plan_windows
from synth.model import check_config
from synth.protocol import RANDOM_MODEL, Sampling
from synth.turbo import hurried
from synth.vocab import BARK


def test_barks_coarse_windows_fill_the_context() -> None:
    config = hurried(BARK)
    check_config(config)
    assert config.coarse.window == 138
    assert config.family == BARK.family
    # What a window predicts has its semantic tokens in sight: 46 of them are 138 ids.
    sight = config.coarse.semantic_block - config.max_semantic_history
    assert config.coarse.window / config.ratio <= sight


@pytest.mark.parametrize(
    ("frames", "past", "size"), [(375, 0, 384), (375, 512, 896), (1, 0, 64), (1000, 0, 1024)]
)
def test_a_short_clip_is_not_padded(frames: int, past: int, size: int) -> None:
    assert plan_windows(frames, past, hurried(BARK)) == (Window(0, past, size),)


@pytest.mark.parametrize("frames", [1024, 1025, 1154])
def test_a_long_clip_has_barks_windows(frames: int) -> None:
    assert plan_windows(frames, 0, hurried(BARK)) == plan_windows(frames, 0, BARK)


def test_it_speaks_and_only_the_windows_differ() -> None:
    said = {
        turbo: Bark.load(RANDOM_MODEL, device="cpu", threads=1, turbo=turbo).say(
            "Hello there", seed=3, sampling=Sampling(max_seconds=2.0), plain=True
        )
        for turbo in (False, True)
    }
    plain, fast = said[False], said[True]
    assert len(plain.samples) == len(fast.samples)
    np.testing.assert_array_equal(plain.history.semantic, fast.history.semantic)
    assert (plain.history.fine_codes != fast.history.fine_codes).any()
