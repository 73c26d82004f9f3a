"""What a request hands in is refused by name where no model could work with it."""

from dataclasses import replace

import pytest

from synth.errors import InvalidRequest
from synth.protocol import Sampling
from synth.request_checks import check_history, check_sampling, check_semantic
from tests.synth.tiny import RANDOM, history


@pytest.mark.parametrize(
    "how",
    [
        {"text_temperature": -1.0},
        {"waveform_temperature": float("nan")},
        {"fine_temperature": float("inf")},
        {"top_k": 0},
        {"top_p": 1.5},
        {"min_eos_p": -0.1},
        {"max_seconds": 0.0},
    ],
)
def test_settings_that_cannot_work_are_named(how: dict[str, float]) -> None:
    name = next(iter(how)).replace("_temperature", " temperature")
    with pytest.raises(InvalidRequest, match=name):
        check_sampling(Sampling(**how))  # pyright: ignore[reportArgumentType]


def test_settings_at_the_edge_of_what_works_are_taken() -> None:
    check_sampling(Sampling(text_temperature=0.0, top_k=1, top_p=0.0, min_eos_p=0.0))
    check_sampling(Sampling(top_p=1.0, max_seconds=0.01))


@pytest.mark.parametrize("tokens", [(), (3,) * 301, (1, 2, 500), (-1, 2, 3)])
def test_semantic_tokens_that_cannot_be_spoken_are_refused(tokens: tuple[int, ...]) -> None:
    with pytest.raises(InvalidRequest, match="(?i)semantic tokens"):
        check_semantic(tokens, RANDOM)


def test_semantic_tokens_of_the_whole_range_are_taken() -> None:
    check_semantic((0, RANDOM.semantic.vocab - 1) * (RANDOM.semantic.max_steps // 2), RANDOM)


def test_a_voice_that_does_not_fit_is_refused() -> None:
    voice = history(RANDOM, 60)
    check_history(voice, RANDOM)
    check_history(None, RANDOM)
    wrong = {
        "another kind": replace(voice, family="0" * 16),
        "semantic part has values": replace(voice, semantic=voice.semantic + 500),
        "coarse part has the wrong shape": replace(voice, coarse_codes=voice.fine_codes),
        "fine part has values": replace(voice, fine_codes=voice.fine_codes - 1),
    }
    for what, broken in wrong.items():
        with pytest.raises(InvalidRequest, match=what):
            check_history(broken, RANDOM)
