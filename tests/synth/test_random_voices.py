"""The random model's voices: Bark's names, histories of its own kind."""

import numpy as np
import pytest

from synth.errors import InvalidRequest
from synth.random_model import RANDOM, RandomVoices
from synth.vocab import BARK
from synth.voices import VoiceBook, validate


def test_every_name_of_barks_gives_a_history_the_model_takes() -> None:
    voices = RandomVoices(RANDOM)
    assert voices.infos == VoiceBook(BARK).infos
    for info in voices.infos[::40]:
        history = voices.get(info.name)
        validate(history, RANDOM)  # in range, and of this model's family
        again = RandomVoices(RANDOM).get(info.name.upper())
        assert np.array_equal(history.semantic, again.semantic)
        assert np.array_equal(history.fine_codes, again.fine_codes)


def test_voices_differ_and_unknown_ones_are_refused() -> None:
    voices = RandomVoices(RANDOM)
    one, other = (voices.get(f"v2/en_speaker_{number}") for number in (6, 7))
    assert not np.array_equal(one.semantic, other.semantic)
    with pytest.raises(InvalidRequest, match="en_speaker_6"):
        voices.get("v2/en_speaker_66")
