"""The small model inside the package, through the same doors as Bark."""

import numpy as np
import pytest

from synth import Bark, checkpoints
from synth.checkpoints import open_checkpoint
from synth.errors import InvalidRequest
from synth.nano.judges import Judges, word_errors
from synth.protocol import AUTO_MODEL, BUILT_IN_MODEL, Sampling
from synth.random_model import remedy_of


@pytest.fixture(scope="module")
def nano() -> Bark:
    return Bark.load(BUILT_IN_MODEL, device="cpu", threads=1, slots=1)


def test_it_speaks_where_no_model_is_named_and_none_of_barks_is_here(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(checkpoints, "_hub_folder", lambda name: None)
    monkeypatch.setattr(checkpoints, "_shared_small", lambda name: None)
    assert open_checkpoint(AUTO_MODEL).config.name == BUILT_IN_MODEL


def test_it_says_what_it_is_and_has_four_voices(nano: Bark) -> None:
    assert "small built-in English model" in nano.notice
    assert "python" not in nano.notice  # people on Discord read it
    assert remedy_of(nano.config).endswith(" -m synth fetch suno/bark-small")
    names = [info.name for info in nano.voices]
    assert names == ["nano/ada", "nano/bruno", "nano/clio", "nano/dario"]


def test_it_speaks_about_as_long_as_a_person_would(nano: Bark) -> None:
    clip = nano.say("Good morning, how are you today?", voice="nano/ada", seed=1)
    assert 1.0 < len(clip.samples) / clip.sample_rate < 4.5
    assert np.isfinite(clip.samples).all() and 0.01 < clip.samples.std() < 0.5


def test_a_voice_of_bark_names_the_remedy(nano: Bark) -> None:
    with pytest.raises(InvalidRequest, match="not for the model nano: get Bark with"):
        nano.voice("v2/en_speaker_6")


def test_what_it_has_no_letters_for_is_told(nano: Bark) -> None:
    """A text in Russian gave a short sound and no word of what had become of it."""
    clip = nano.say("Hello. Привет!", sampling=Sampling(max_seconds=0.3))
    assert "This model speaks English only: 6 characters" in clip.notes[0]
    assert clip.renditions[0].text == "Hello."
    with pytest.raises(InvalidRequest, match="English only"):
        nano.say("Привет, как дела?")


def test_its_words_are_understood(nano: Bark) -> None:
    """The bound is wide: it is for what is broken, not for a slurred word."""
    said = ["Thank you very much for your help.", "My brother bought a new bicycle last week."]
    judges = Judges()
    heard = [judges.whisper(nano.say(text, voice="nano/ada", seed=1).samples) for text in said]
    assert word_errors(said, heard) < 0.3, heard
