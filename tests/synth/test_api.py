"""Bark.say over a tiny model: texts of any length, by themselves and as they come out of slots."""

from typing import Any

import numpy as np
import pytest

from synth.api import Bark
from synth.errors import InvalidRequest
from synth.pipeline import Pipeline
from synth.protocol import Audio, Done, JobEvent, Progress, Sampling, Submit
from synth.seeds import derived_seed
from tests.synth.clock import FakeClock
from tests.synth.tiny import tiny_model

SHORT = Sampling(max_seconds=0.4)
TEXT = "One two three four. Five six seven eight. " * 5


def bark(slots: int = 3) -> Bark:
    return Bark(Pipeline(tiny_model(), slots=slots))


def quick(max_seconds: float = 4.0) -> Sampling:
    return Sampling(max_seconds=max_seconds, early_stop=False)


def test_a_long_text_is_one_clip_of_several_utterances() -> None:
    events: list[JobEvent] = []
    clip = bark().say(TEXT, seed=3, sampling=Sampling(), rerolls=0, on_event=events.append)
    spoken = [made.text for made in clip.renditions]
    assert len(spoken) > 2 and " ".join(spoken) == TEXT.strip()
    heard = [event.samples for event in events if isinstance(event, Audio)]
    np.testing.assert_array_equal(np.concatenate(heard), clip.samples)
    assert clip.seed == 3 and isinstance(events[-1], Done)
    whole = [event.whole or 0 for event in events if isinstance(event, Progress)]
    assert whole == sorted(whole)
    last = clip.renditions[-1]
    assert last.start_s + last.audio_s == pytest.approx(clip.duration_s, abs=0.001)


def test_the_clip_does_not_depend_on_the_slots() -> None:
    clips = [bark(slots).say(TEXT, seed=3, rerolls=0) for slots in (1, 4)]
    np.testing.assert_allclose(clips[0].samples, clips[1].samples, atol=1e-5)


def test_a_plain_short_text_is_barks_own_sound() -> None:
    pipeline = Pipeline(tiny_model())
    wanted, done = pipeline.run(Submit(job_id="x", text="Hello", sampling=Sampling(seed=3)), None)
    options: list[dict[str, Any]] = [{"plain": True}, {"single": True}]
    for how in options:
        clip = Bark(pipeline).say("Hello", seed=3, **how)
        np.testing.assert_array_equal(clip.samples, wanted)
        np.testing.assert_array_equal(clip.history.fine_codes, done.history.fine_codes)


def test_single_cuts_what_is_too_long_and_notes_it() -> None:
    clip = bark().say("a b c d " * 64, seed=3, sampling=SHORT, single=True)
    assert len(clip.renditions) == 1 and "too long" in clip.notes[0]


def test_the_longest_clip_holds_for_the_whole_text() -> None:
    clip = bark().say(TEXT, seed=3, sampling=quick(0.5))
    assert clip.duration_s == 0.5 and clip.notes == ("The clip was cut at 0.5 s.",)


def test_the_best_take_is_kept_and_its_seed_makes_it_again() -> None:
    speaker = bark(4)
    clip = speaker.say("Hello there.", seed=3, takes=4, rerolls=0)
    assert clip.seed in [derived_seed(3, 0, number) for number in range(4)]
    assert clip.renditions[0].takes == 4
    again = speaker.say("Hello there.", seed=clip.seed, rerolls=0)
    np.testing.assert_array_equal(again.samples, clip.samples)


@pytest.mark.parametrize("takes", [1, 3])
def test_the_time_to_the_first_sound_is_that_of_the_whole_request(takes: int) -> None:
    """Only the winner's own way to sound was counted, not the drafts before it."""
    clock, events = FakeClock(), list[JobEvent]()
    speaker = Bark(Pipeline(tiny_model(), slots=4), clock=clock)

    def heard(event: JobEvent) -> None:
        events.append(event)
        clock.advance(1.0)

    clip = speaker.say("Hello there.", seed=3, takes=takes, rerolls=0, on_event=heard)
    kinds = [type(event) for event in events]
    assert clip.timings.ttfa_s == kinds.index(Audio) > 0
    assert isinstance(events[-1], Done) and events[-1].timings == clip.timings


def test_a_dialogue_has_its_voices() -> None:
    name = bark().voices[0].name
    clip = bark().say(
        "Ann: Hi there.\nBob: Hello!", seed=3, sampling=Sampling(), cast={"Ann": name}
    )
    assert [made.text for made in clip.renditions] == ["Hi there.", "Hello!"]
    with pytest.raises(InvalidRequest):
        bark().say("Ann: Hi.", cast={"Ann": "nobody"})


def test_what_cannot_be_said_leaves_all_slots_free() -> None:
    speaker = bark(2)
    options: list[dict[str, Any]] = [{"text": ""}, {"text": "A", "takes": 0}]
    for how in [*options, {"text": "A", "rerolls": -1}]:
        with pytest.raises(InvalidRequest):
            speaker.say(**how)

    def stop(event: JobEvent) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        speaker.say(TEXT, voice=speaker.voices[0].name, on_event=stop)
    assert speaker._pipeline.free == 2
    assert speaker.say("Hello", sampling=SHORT).duration_s > 0
