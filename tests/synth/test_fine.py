"""The fine stage's buffer and sampling; its codes are compared in test_parity.py."""

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from synth.fine import FineJob, FineStage
from synth.protocol import Sampling, Streaming
from synth.vocab import BARK, ModelConfig
from tests.synth.stages import fine_codes
from tests.synth.tiny import NARROW, ODD, RANDOM, history, tiny_model

CPU = torch.device("cpu")
Codes = npt.NDArray[np.int64]


def test_a_short_clip_is_padded_with_the_mask_and_keeps_its_history() -> None:
    voice = history(BARK, 700)
    coarse_codes = np.random.default_rng(0).integers(1024, size=(2, 50))
    job = FineJob.of(coarse_codes, voice, Sampling(), 0, BARK, CPU)
    _, window, book = job.begin()
    assert (window.start, window.fill, book) == (0, 512, 2)
    buffer = job.buffer.T.numpy()
    assert buffer.shape == (8, 1024)
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


class Arriving:
    """A clip whose coarse codes come in pieces; what is final is collected as soon as it is."""

    def __init__(
        self, config: ModelConfig, frames: int, past: int, streaming: Streaming, seed: int = 0
    ) -> None:
        rng = np.random.default_rng((seed, frames))
        self.coarse_codes = rng.integers(config.codec.codebook_size, size=(2, frames))
        self.voice = history(config, past) if past else None
        self.stage = FineStage(tiny_model(config, "fp64").fine, config)
        self.job = FineJob(
            self.voice, Sampling(seed=seed), 0, config, CPU, most_frames=400, streaming=streaming
        )
        self.handed_out: list[Codes] = []
        self.taken = 0
        self.fractions = [0.0]

    def extend(self, frames: int) -> None:
        end = min(self.job.frames + frames, self.coarse_codes.shape[1])
        self.job.extend(self.coarse_codes[:, self.job.frames : end])

    def work(self, passes: int = 10**6) -> None:
        """At most so many forward passes."""
        while passes and self.job.ready:
            self.stage.step(self.job)
            passes -= 1
            self.take()
        self.take()

    def take(self) -> None:
        final = self.job.final
        assert self.taken <= final <= self.job.frames
        self.handed_out.append(self.job.codes(self.taken, final))
        self.taken = final
        self.fractions.append(self.job.fraction)

    def finish(self) -> Codes:
        self.extend(10**6)
        self.job.complete = True
        self.work()
        assert self.job.ended and not self.job.ready and self.taken == self.coarse_codes.shape[1]
        assert self.fractions == sorted(self.fractions) and self.fractions[-1] == 1
        return np.concatenate(self.handed_out, axis=1)


arrivals = st.lists(st.tuples(st.integers(0, 150), st.integers(0, 20)), max_size=6)


@pytest.mark.parametrize("streaming", list(Streaming))
@settings(max_examples=12, deadline=None, derandomize=True)
@given(
    config=st.sampled_from([ODD, RANDOM]),
    frames=st.integers(1, 400),
    past=st.sampled_from([0, 20, 150]),
    arrivals=arrivals,
)
def test_what_is_final_stays_and_does_not_depend_on_when_codes_came(
    config: ModelConfig,
    frames: int,
    past: int,
    arrivals: list[tuple[int, int]],
    streaming: Streaming,
) -> None:
    clip = Arriving(config, frames, past, streaming)
    for more, passes in arrivals:
        clip.extend(more)
        with torch.inference_mode():
            clip.work(passes)
    with torch.inference_mode():
        codes = clip.finish()
    np.testing.assert_array_equal(codes, clip.job.codes())
    np.testing.assert_array_equal(codes[:2], clip.coarse_codes)
    if streaming is Streaming.EXACT:
        whole = FineJob.of(clip.coarse_codes, clip.voice, Sampling(seed=0), 0, config, CPU)
        with torch.inference_mode():
            while not whole.ended:
                clip.stage.step(whole)
        np.testing.assert_array_equal(codes, whole.codes())
    else:
        at_once = Arriving(config, frames, past, streaming)
        with torch.inference_mode():
            np.testing.assert_array_equal(codes, at_once.finish())


def test_exact_sound_begins_before_a_long_clip_has_ended() -> None:
    clip = Arriving(RANDOM, 390, 150, Streaming.EXACT)  # 128 frames of history, windows of 256
    clip.extend(128)
    assert clip.job.ready
    with torch.inference_mode():
        clip.work()
    assert clip.taken == 0  # were this the end, a later window could not begin before it
    clip.extend(50)
    clip.take()
    assert clip.taken == 50


def test_low_latency_begins_with_a_few_frames() -> None:
    clip = Arriving(RANDOM, 390, 0, Streaming.LOW_LATENCY)
    clip.extend(28)
    assert not clip.job.ready
    clip.extend(1)
    with torch.inference_mode():
        clip.work()
    assert clip.taken == 16
    assert clip.job.done == 2  # one forward a book
