"""The fine stage's windows and sampling; its codes are compared in test_parity.py."""

import numpy as np
import pytest
import torch

from synth.fine import FineJob, Window, plan_windows
from synth.protocol import Sampling
from synth.vocab import BARK
from tests.synth.stages import fine_codes
from tests.synth.tiny import NARROW, ODD, history


@pytest.mark.parametrize(
    ("frames", "past", "windows"),
    [
        (1, 0, [(0, 0)]),
        (1024, 0, [(0, 0)]),
        (1025, 0, [(0, 0), (1, 511)]),
        (1154, 0, [(0, 0), (130, 382)]),
        (300, 512, [(0, 512)]),
        (1154, 512, [(0, 512), (512, 512), (642, 512)]),
        (1154, 100, [(0, 100), (230, 382)]),
    ],
)
def test_windows(frames: int, past: int, windows: list[tuple[int, int]]) -> None:
    assert plan_windows(frames, past, BARK) == tuple(Window(*w) for w in windows)


def test_a_short_clip_is_padded_with_the_mask_and_keeps_its_history() -> None:
    voice = history(BARK, 700)
    coarse_codes = np.random.default_rng(0).integers(1024, size=(2, 50))
    job = FineJob(coarse_codes, voice, Sampling(), 0, BARK, torch.device("cpu"))
    buffer = job.buffer.T.numpy()
    assert buffer.shape == (8, 1024) and job.total == 6
    np.testing.assert_array_equal(buffer[:, :512], voice.fine_codes[:, -512:])
    np.testing.assert_array_equal(buffer[:2, 512:562], coarse_codes)
    assert (buffer[2:, 512:562] == 1024).all() and (buffer[:, 562:] == 1024).all()


def test_given_books_stay_and_sampling_is_repeatable() -> None:
    coarse_codes = np.random.default_rng(0).integers(101, size=(2, 300))
    voice = history(ODD, 58)
    cold, warm, again = (fine_codes(ODD, coarse_codes, voice, temperature=t) for t in (0, 0.9, 0.9))
    np.testing.assert_array_equal(warm, again)
    np.testing.assert_array_equal(warm[:2], coarse_codes)
    assert warm.shape == (5, 300)
    assert (warm[2:] != cold[2:]).mean() > 0.2


def test_a_very_low_temperature_is_nearly_greedy() -> None:
    coarse_codes = np.random.default_rng(1).integers(1024, size=(2, 100))
    cold = fine_codes(NARROW, coarse_codes, None, precision="fp64")
    cool = fine_codes(NARROW, coarse_codes, None, temperature=1e-4, precision="fp64")
    np.testing.assert_array_equal(cold, cool)
