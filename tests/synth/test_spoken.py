"""What may be heard of a clip by now, and never too early, too late or twice."""

import numpy as np
import pytest

from synth.longform import Utterance
from synth.protocol import Sampling, Submit
from synth.spoken import Part, Spoken, Take
from tests.synth.test_recital import RATE, events_of, sound


def submit(n: int) -> Submit:
    return Submit(job_id=f"{n}", text=f"Text {n}.", utterance=n, sampling=Sampling(seed=n))


def parts(count: int) -> list[Part]:
    return [Part(Utterance(f"Text {n}.", 0.25), 1.0, [Take(submit(n))]) for n in range(count)]


def spoken(of: list[Part], *, live: bool = False, most_s: float | None = None) -> Spoken:
    return Spoken("job", of, sample_rate=RATE, live=live, plain=True, most_s=most_s)


def come(part: Part, chunks: int = 3) -> None:
    """So many chunks of a part's sound; with all three it is done."""
    take = part.takes[0]
    assert take is not None
    events = events_of(take.submit)
    take.chunks[:] = np.array_split(sound(take.submit), 3)[:chunks]
    if chunks == 3:
        take.done = events[-1]  # type: ignore[assignment]
        part.best = take


def heard(of: Spoken) -> np.ndarray:
    return np.concatenate([np.zeros(0, np.float32), *(audio.samples for audio in of.hand_out())])


def test_nothing_is_heard_before_its_turn() -> None:
    first, second = both = parts(2)
    clip = spoken(both)
    come(second)
    assert len(heard(clip)) == 0
    come(first, 2)
    assert len(heard(clip)) == 0  # not live: a whole utterance at a time
    come(first)
    assert clip.sounding == (first, 0.0)
    samples = heard(clip)
    assert clip.whole and clip.sounding is None
    assert len(samples) / RATE == pytest.approx(clip.given_s)
    assert [made.text for made in clip.renditions] == ["Text 0.", "Text 1."]
    assert clip.renditions[1].start_s > clip.renditions[0].audio_s
    assert list(clip.notes) == ["Something to know."]
    assert len(heard(clip)) == 0


def test_live_sound_is_heard_as_it_comes() -> None:
    (part,) = one = parts(1)
    clip = spoken(one, live=True)
    lengths = []
    for chunks in (1, 2, 3):
        come(part, chunks)
        lengths.append(len(heard(clip)))
        assert clip.whole == (chunks == 3)
    assert all(lengths)
    assert sum(lengths) == len(sound(submit(0)))


def test_a_clip_is_cut_where_it_is_to_end() -> None:
    both = parts(2)
    clip = spoken(both, most_s=0.2)
    for part in both:
        come(part)
    assert len(heard(clip)) == round(0.2 * RATE)
    assert clip.whole
    assert any("cut at 0.2 s" in note for note in clip.notes)
