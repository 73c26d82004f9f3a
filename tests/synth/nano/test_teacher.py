"""The parts of the teacher that need no voice."""

import numpy as np
import pytest

from synth.nano import teacher
from synth.nano.recipe import CODEC, VOICES
from synth.nano.teacher import Speech


def test_stretching_moves_a_resonance():
    """A peak at bin 100 comes to lie at bin 100 * factor."""
    bins = np.arange(601)
    envelope = -(((bins - 100) / 15.0) ** 2)[:, None].repeat(3, 1).astype(np.float32)
    for factor in (0.86, 1.0, 1.09):
        moved = teacher._stretch(envelope, factor)
        assert moved.shape == envelope.shape
        assert abs(int(moved[:, 0].argmax()) - 100 * factor) <= 1


def test_shouting_is_read_as_words():
    assert teacher._as_read("GO HOME now, I said. DON'T!") == "go home now, I said. don't!"
    assert teacher._as_read("Wait — who?") == "Wait, who?"


def test_a_full_stop_is_no_part_of_a_number():
    """ "555-0123." was "five hundred fifty five, one twenty three" to the teacher."""
    assert teacher._as_read("Call 555-0123. Now, 3.5.") == "Call 555-0123 . Now, 3.5 ."


def test_parts_join_in_whole_frames_and_are_trimmed():
    hop = CODEC.hop
    silence = np.zeros(20 * hop, np.float32)
    tone = (0.3 * np.sin(np.arange(10 * hop + 7) * 0.05)).astype(np.float32)
    parts = [
        Speech(silence, silence, np.zeros(20, np.float32)),
        Speech(tone, tone, np.full(11, 190.0, np.float32)),
        Speech(silence, silence, np.zeros(20, np.float32)),
    ]
    whole = teacher._join(parts)
    assert len(whole.audio) == 51 * hop
    cut = teacher._trim(whole)
    assert cut is not None
    assert len(cut.audio) == len(cut.f0) * hop == (3 + 11 + 6) * hop
    assert float(np.sqrt(np.mean(cut.audio**2))) == pytest.approx(0.075, rel=1e-3)


def test_nothing_audible_is_nothing():
    silence = np.zeros(4800, np.float32)
    assert teacher._trim(Speech(silence, silence, np.zeros(10, np.float32))) is None


def test_a_melody_has_notes_and_no_voice():
    melody = teacher._melody(np.random.default_rng(0))
    assert not melody.f0.any()
    assert 0.9 < len(melody.audio) / CODEC.sample_rate < 1.6
    assert np.abs(melody.audio).max() < 1


def test_voices_are_clearly_different():
    pitches = sorted(voice.pitch for voice in VOICES)
    assert min(12 * np.log2(b / a) for a, b in zip(pitches, pitches[1:], strict=False)) > 3
    assert len({voice.formant for voice in VOICES}) == len({v.speed for v in VOICES}) == 4


def test_the_voice_itself_speaks():
    pytest.importorskip("hibari", reason="the nano extra is not installed")
    speech = teacher.Teacher().speak("Hello [laughs] there.", VOICES[1], 3)
    assert speech is not None
    assert len(speech.audio) == len(speech.base) == len(speech.f0) * CODEC.hop
    assert 90 < np.median(speech.f0[speech.f0 > 0]) < 130
