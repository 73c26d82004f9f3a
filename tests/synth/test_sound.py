"""Which frames are decoded when, and the events that come of it."""

from copy import copy

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from synth.sound import FIRST_FRAMES, LEAST_FRAMES, MOST_FRAMES, Sound, chunk_frames
from tests.synth.tiny import NARROW, tiny_model


@pytest.mark.parametrize(
    ("decoded", "final", "complete", "frames"),
    [
        (0, 14, False, 0),
        (0, 15, False, 15),
        (0, 500, False, 15),
        (0, 3, True, 3),
        (15, 44, False, 0),
        (15, 45, False, 30),
        (15, 500, False, 120),
        (15, 16, True, 1),
        (500, 500, True, 0),
    ],
)
def test_chunk(decoded: int, final: int, complete: bool, frames: int) -> None:
    assert chunk_frames(decoded, final, complete=complete) == frames


def test_a_gpu_decodes_more_at_a_time_and_begins_as_soon() -> None:
    codec = copy(tiny_model(NARROW).codec)
    codec.device = torch.device("cuda")  # says so, and is asked to decode nothing
    sound = Sound(codec, "job", 0)
    runs: list[int] = []
    while frames := sound.next_frames(750, complete=True):
        sound.frames += frames
        runs.append(frames)
    assert runs == [15, 240, 240, 240, 15]


@given(st.lists(st.integers(0, 200), max_size=8))
def test_all_frames_are_decoded_once_and_none_before_it_is_final(growth: list[int]) -> None:
    decoded = final = 0
    for number, more in enumerate(growth, 1):
        final += more
        complete = number == len(growth)
        while frames := chunk_frames(decoded, final, complete=complete):
            assert frames <= MOST_FRAMES
            assert complete or frames >= (LEAST_FRAMES if decoded else FIRST_FRAMES)
            decoded += frames
            assert decoded <= final
    assert decoded == final


def test_events_are_numbered_and_a_chunk_without_sound_makes_none() -> None:
    codes = np.random.default_rng(0).integers(1024, size=(8, 20))
    codec = tiny_model(NARROW).codec
    sound = Sound(codec, "job", 2)
    assert sound.decode(codes[:, :6], last=False) is None  # the codec waits for the seventh
    first = sound.decode(codes[:, 6:15], last=False)
    last = sound.decode(codes[:, 15:], last=True)
    assert first is not None and last is not None
    assert (first.job_id, first.utterance, first.chunk, last.chunk) == ("job", 2, 0, 1)
    assert (sound.frames, sound.samples) == (20, 20 * 320)
    samples = np.concatenate([first.samples, last.samples])
    assert np.abs(samples - codec.decode(codes)).max() < 1e-5


def test_a_clip_too_short_for_the_codec_to_begin_still_sounds() -> None:
    codes = np.random.default_rng(0).integers(1024, size=(8, 2))
    audio = Sound(tiny_model(NARROW).codec, "job", 0).decode(codes, last=True)
    assert audio is not None and len(audio.samples) == 2 * 320
