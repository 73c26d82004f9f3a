"""What options mean for a clip."""

import pytest

from synth.arguments import parser, sampling_of
from synth.protocol import Sampling


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("", Sampling()),
        ("--temperature .6", Sampling(text_temperature=0.6, waveform_temperature=0.6)),
        (
            "--temperature 0",
            Sampling(text_temperature=0, waveform_temperature=0, fine_temperature=0),
        ),
        (
            "--temperature 0 --fine-temperature .3 --text-temperature .9",
            Sampling(text_temperature=0.9, waveform_temperature=0, fine_temperature=0.3),
        ),
        (
            "--waveform-temperature .8 --top-k 50 --top-p .9 --min-eos-p .05 --max-seconds 4",
            Sampling(
                waveform_temperature=0.8, top_k=50, top_p=0.9, min_eos_p=0.05, max_seconds=4.0
            ),
        ),
    ],
)
def test_temperature_is_for_two_stages_and_for_all_at_zero(given: str, expected: Sampling) -> None:
    options = parser().parse_args(["say", "x", *given.split()])
    assert sampling_of(options) == expected
