"""A text's utterances in any order of events: one job to its reader, in the order of the text."""

import random
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from synth.errors import InvalidRequest
from synth.joining import Joiner
from synth.level import loudness_lufs
from synth.longform import Utterance
from synth.protocol import (
    Audio,
    Done,
    HistoryPrompt,
    JobEvent,
    Progress,
    Rendition,
    Sampling,
    Stage,
    Submit,
    Timings,
)
from synth.recital import Manner, Recital
from synth.seeds import derived_seed

RATE = 24_000
Samples = npt.NDArray[np.float32]


def history_of(job_id: str) -> HistoryPrompt:
    return HistoryPrompt(
        np.zeros(0, np.int64), np.zeros((2, 0), np.int64), np.zeros((8, 0), np.int64), job_id
    )


def sound(submit: Submit) -> Samples:
    """A tone whose pitch, length and level are the utterance's own."""
    rng = np.random.default_rng([submit.utterance, submit.sampling.seed])
    times = np.arange(rng.integers(8_000, 16_000)) / RATE
    tone = np.sin(2 * np.pi * rng.uniform(150, 400) * times) * 10 ** rng.uniform(-1.2, -0.7)
    return tone.astype(np.float32)


def events_of(submit: Submit) -> list[JobEvent]:
    """What a worker says of it: sound in three chunks, progress before, Done at the end; of a
    draft only what is known of its semantic tokens, which are its seed.
    """
    samples, job_id = sound(submit), submit.job_id
    events: list[JobEvent] = [Progress(job_id, Stage.SEMANTIC, f) for f in (0.5, 1.0)]
    made = Rendition(text=submit.text, seed=submit.sampling.seed, audio_s=len(samples) / RATE)
    if submit.draft:
        history = replace(history_of(job_id), semantic=np.array([submit.sampling.seed]))
        timings = Timings(1.0, queued_s=0.5)
        notes = ("Something to know.",)
        return [
            *events,
            Done(
                job_id=job_id,
                audio_s=0.0,
                seed=made.seed,
                timings=timings,
                history=history,
                notes=notes,
                renditions=(made,),
            ),
        ]
    if submit.semantic_tokens is not None:
        events.clear()
    events += [Progress(job_id, Stage.COARSE, 1.0)]
    for chunk, part in enumerate(np.array_split(samples, 3)):
        events += [Audio(job_id, submit.utterance, chunk, part)]
    events.append(
        Done(
            job_id=job_id,
            audio_s=made.audio_s,
            seed=made.seed,
            timings=Timings(1.0, 2.0, 0.5, 0.1, queued_s=0.5),
            history=history_of(job_id),
            notes=("Something to know.",),
            renditions=(made,),
        )
    )
    return events


def recital_of(
    texts: list[str], manner: Manner | None = None, pause_s: float = 0.25, speakers: str = ""
) -> Recital:
    utterances = [Utterance(text, pause_s) for text in texts]
    if speakers:
        utterances = [replace(u, speaker=s) for u, s in zip(utterances, speakers, strict=True)]
    return Recital("job", utterances, manner or Manner(voice="v"), sample_rate=RATE)


class Stage_:
    """Plays the workers: all submits there are, their events mixed by `rng`."""

    def __init__(self, recital: Recital, slots: int = 3, rng: random.Random | None = None) -> None:
        self.recital, self.slots, self.rng = recital, slots, rng or random.Random(0)
        self.submits: list[Submit] = []
        self.told: list[Progress | Audio | Done] = []

    def run(self, fails: Callable[[Submit], bool] = lambda submit: False) -> None:
        running: list[tuple[Submit, list[JobEvent]]] = []
        while not self.recital.over:
            while len(running) < self.slots and (submit := self.recital.next_submit()):
                self.submits.append(submit)
                running.append((submit, events_of(submit)))
            assert running, "nothing left to do, and not over"
            submit, events = self.rng.choice(running)
            if fails(submit):
                running.remove((submit, events))
                self.recital.failed(submit.job_id, InvalidRequest("No such thing."))
                continue
            self.told += self.recital.happened(events.pop(0))
            if not events:
                running.remove((submit, events))

    @property
    def audio(self) -> list[Audio]:
        return [event for event in self.told if isinstance(event, Audio)]

    @property
    def samples(self) -> Samples:
        return np.concatenate([event.samples for event in self.audio])

    @property
    def done(self) -> Done:
        end = self.told[-1]
        assert isinstance(end, Done)
        return end


TEXTS = [f"This is sentence number {word}." for word in ("one", "two", "three", "four", "five")]


def joined(submits: list[Submit], gains: list[float], pause_s: float = 0.25) -> Samples:
    joiner, out = Joiner(RATE), []
    for number, (submit, gain) in enumerate(zip(submits, gains, strict=True)):
        joiner.begin(gain)
        out += [joiner.push(sound(submit)), joiner.end(pause_s, last=number == len(submits) - 1)]
    return np.concatenate(out)


@given(
    st.integers(1, 5),
    st.integers(1, 4),
    st.randoms(use_true_random=False),
    st.booleans(),
    st.sampled_from([None, "v"]),
    st.sampled_from([1, 1, 3]),
)
def test_whatever_the_order_of_events_the_reader_hears_the_text(
    count: int, slots: int, rng: random.Random, live: bool, voice: str | None, takes: int
) -> None:
    manner = Manner(voice=voice, live=live, takes=takes, sampling=Sampling(seed=9))
    stage = Stage_(recital_of(TEXTS[:count], manner), slots, rng)
    stage.run()
    # Sound in the order of the text, chunks numbered from 0 in each utterance.
    places = [(event.utterance, event.chunk) for event in stage.audio]
    assert places == sorted(places) and len(set(places)) == len(places)
    assert {utterance for utterance, _ in places} == set(range(count))
    # One end, the last of all; its numbers are the sums.
    assert sum(isinstance(event, Done) for event in stage.told) == 1
    done = stage.done
    assert done.audio_s == len(stage.samples) / RATE
    assert [made.text for made in done.renditions] == TEXTS[:count]
    starts = [made.start_s for made in done.renditions]
    assert starts[0] == 0.0 and starts == sorted(starts)
    assert done.timings.coarse_s == 2.0 * count  # drafts end before it
    assert done.notes == ("Something to know.",)
    whole = [event.whole for event in stage.told if isinstance(event, Progress)]
    assert whole == sorted(whole, key=lambda share: share or 0.0) and (whole[-1] or 0) <= 1.0
    assert all(event.job_id == "job" for event in stage.told)
    drafts = count * takes if takes > 1 else 0
    assert sum(submit.draft for submit in stage.submits) == drafts
    assert len(stage.submits) == count + drafts


@given(st.randoms(use_true_random=False), st.integers(1, 4))
def test_a_whole_clip_is_the_same_whatever_the_order_and_equally_loud(
    rng: random.Random, slots: int
) -> None:
    stage = Stage_(recital_of(TEXTS), slots, rng)
    stage.run()
    submits = sorted(stage.submits, key=lambda submit: submit.utterance)
    loud = [loudness_lufs(sound(submit), RATE) for submit in submits]
    gains = [10 ** ((loud[0] - one) / 20) for one in loud]
    np.testing.assert_allclose(stage.samples, joined(submits, gains), atol=1e-6)
    for made in stage.done.renditions:
        start = round(made.start_s * RATE)
        part = stage.samples[start : start + round(made.audio_s * RATE)]
        assert loudness_lufs(part, RATE) == pytest.approx(loud[0], abs=1.0)


def test_live_sound_comes_while_it_is_made_at_the_gain_the_voice_had() -> None:
    recital = recital_of(TEXTS[:2], Manner(voice="v", live=True))
    first, second = recital.next_submit(), recital.next_submit()
    assert first and second
    heard: list[int] = []
    for event in events_of(first):
        heard += [len(e.samples) for e in recital.happened(event) if isinstance(e, Audio)]
    assert len(heard) >= 3
    assert recital.sounding == (second.job_id, sum(heard) / RATE)  # next
    (event,) = [e for e in events_of(second) if isinstance(e, Audio) and e.chunk == 0]
    (audio,) = [e for e in recital.happened(event) if isinstance(e, Audio)]
    assert recital.sounding and recital.sounding[0] == second.job_id
    # Nothing is known of how loud it will be: the first one's gain goes on.
    np.testing.assert_allclose(audio.samples[500:], event.samples[500 : len(audio.samples)])


def test_without_a_voice_the_first_utterance_becomes_it_and_none_is_chained() -> None:
    recital = recital_of(TEXTS, Manner(sampling=Sampling(seed=4)))
    first = recital.next_submit()
    assert first and first.voice is None and recital.next_submit() is None
    for event in events_of(first):
        recital.happened(event)
    rest = [recital.next_submit() for _ in TEXTS[1:]]
    for submit in rest:
        assert submit and isinstance(submit.voice, HistoryPrompt)
        assert submit.voice.family == first.job_id
    assert recital.next_submit() is None
    for submit in rest[:-1]:
        assert submit
        for event in events_of(submit):
            recital.happened(event)
    assert rest[-1]
    *_, done = (told for event in events_of(rest[-1]) for told in recital.happened(event))
    assert isinstance(done, Done) and done.history.family == first.job_id and done.seed == 4


def test_with_a_voice_all_may_start_at_once_and_the_last_can_be_continued() -> None:
    stage = Stage_(recital_of(TEXTS, Manner(voice="v", sampling=Sampling(seed=4))), slots=5)
    stage.run()
    assert [submit.utterance for submit in stage.submits] == [0, 1, 2, 3, 4]
    assert {submit.voice for submit in stage.submits} == {"v"}
    assert {submit.sampling.seed for submit in stage.submits} == {4}
    assert [submit.job_id for submit in stage.submits] == [f"job.{n}" for n in range(1, 6)]
    assert stage.done.history.family == "job.5"


def test_a_short_text_is_the_one_piece_case() -> None:
    recital = recital_of(["Hello."], Manner(voice="v", sampling=Sampling(seed=4), rerolls=2))
    stage = Stage_(recital)
    stage.run()
    (submit,) = stage.submits
    assert (submit.job_id, submit.utterance, submit.rerolls) == ("job", 0, 2)
    np.testing.assert_array_equal(stage.samples, sound(submit))
    assert stage.done.seed == 4


def test_speakers_have_their_own_voices_made_or_named() -> None:
    manner = Manner(cast={"A": "a"})
    recital = recital_of(["One."] * 4, manner, speakers="ABAB")
    stage = Stage_(recital, slots=4)
    stage.run()
    by_number = sorted(stage.submits, key=lambda submit: submit.utterance)
    voices = [submit.voice for submit in by_number]
    assert voices[0] == voices[2] == "a" and voices[1] is None
    assert isinstance(voices[3], HistoryPrompt) and voices[3].family == by_number[1].job_id


def test_a_failed_utterance_is_tried_once_more_with_another_seed() -> None:
    stage = Stage_(recital_of(TEXTS, Manner(voice="v", sampling=Sampling(seed=4))))
    stage.run(fails=lambda submit: submit.job_id == "job.3")
    again = next(submit for submit in stage.submits if submit.job_id == "job.3.again1")
    assert again.text == TEXTS[2] and again.sampling.seed == derived_seed(4, 0, 0, 1) != 4
    assert stage.done.renditions[2].seed == again.sampling.seed


def test_an_utterance_that_fails_twice_ends_the_text_with_a_sentence() -> None:
    stage = Stage_(recital_of(TEXTS))
    with pytest.raises(InvalidRequest, match=r"^Part 2 of 5 could not be spoken: No such thing.$"):
        stage.run(fails=lambda submit: submit.text == TEXTS[1])
    alone = Stage_(recital_of(["Hello."]))
    with pytest.raises(InvalidRequest, match=r"^No such thing.$"):
        alone.run(fails=lambda submit: True)


def test_what_was_heard_cannot_be_tried_again() -> None:
    recital = recital_of(TEXTS[:2], Manner(voice="v", live=True))
    first = recital.next_submit()
    assert first
    for event in events_of(first)[:4]:
        recital.happened(event)
    with pytest.raises(InvalidRequest):
        recital.failed(first.job_id, InvalidRequest("Broken."))


def test_a_clip_ends_at_its_limit_and_says_so() -> None:
    stage = Stage_(recital_of(TEXTS, Manner(voice="v", most_s=1.0)), slots=5)
    stage.run()
    assert stage.done.audio_s == len(stage.samples) / RATE == 1.0
    assert "The clip was cut at 1 s." in stage.done.notes
    assert stage.recital.next_submit() is None


def test_bark_itself_is_neither_trimmed_nor_levelled_nor_begun_anew() -> None:
    manner = Manner(voice="v", plain=True, rerolls=2)
    stage = Stage_(recital_of(TEXTS[:1], manner))
    stage.run()
    assert stage.submits[0].rerolls == 0
    np.testing.assert_array_equal(stage.samples, sound(stage.submits[0]))


def drafted(recital: Recital, count: int, best: int) -> list[Submit]:
    """The drafts of a recital of one utterance, all done."""
    drafts: list[Submit] = []
    while submit := recital.next_submit():
        drafts.append(submit)
    assert len(drafts) == count
    for number, submit in enumerate(drafts):
        assert submit.draft and not recital.next_submit()
        *told, done = events_of(submit)
        assert isinstance(done, Done)
        opinion = replace(
            done.renditions[0], log_prob=-1.5 if number == best else -2.5, audio_s=1.0, rerolls=1
        )
        for event in [*told, replace(done, renditions=(opinion,), notes=("Cut.",))]:
            assert all(isinstance(one, Progress) for one in recital.happened(event))
    return drafts


@pytest.mark.parametrize("live", [False, True])
def test_the_best_of_several_drafts_alone_becomes_sound_and_is_named(live: bool) -> None:
    manner = Manner(voice="v", takes=4, live=live, sampling=Sampling(seed=4), rerolls=2)
    recital = recital_of(["Hello there."], manner)
    drafts = drafted(recital, 4, best=2)
    assert [draft.sampling.seed for draft in drafts] == [derived_seed(4, 0, n) for n in range(4)]
    final = recital.next_submit()
    assert final and not final.draft and recital.next_submit() is None
    assert final.job_id == "job.1" and final.rerolls == 0
    assert final.sampling.seed == drafts[2].sampling.seed
    assert final.semantic_tokens == (drafts[2].sampling.seed,)
    assert recital.sounding == ("job.1", 0.0)
    told: list[Progress | Audio | Done] = []
    for event in events_of(final):
        told += recital.happened(event)
        if isinstance(event, Audio):
            assert live == isinstance(told[-1], Audio)  # live: at once
    done = told[-1]
    assert isinstance(done, Done) and all(event.job_id == "job" for event in told)
    made = done.renditions[0]
    assert done.seed == made.seed == drafts[2].sampling.seed
    assert (made.takes, made.log_prob, made.rerolls) == (4, -1.5, 1)
    samples = np.concatenate([event.samples for event in told if isinstance(event, Audio)])
    assert made.audio_s == done.audio_s == len(samples) / RATE
    anew = f"The model lost its way and began anew once; seed {made.seed} is heard."
    assert done.notes == ("Cut.", "Something to know.", anew)
    assert done.timings.semantic_s == 4 * 1.0 + 1.0


def test_the_best_draft_is_spoken_once_more_where_that_failed() -> None:
    recital = recital_of(["Hello there."], Manner(voice="v", takes=2, sampling=Sampling(seed=4)))
    drafted(recital, 2, best=1)
    final = recital.next_submit()
    assert final
    recital.failed(final.job_id, InvalidRequest("Broken."))
    again = recital.next_submit()
    assert again and again == replace(final, job_id="job.1.again1")
    assert recital.next_submit() is None
    with pytest.raises(InvalidRequest, match="Broken"):
        recital.failed(again.job_id, InvalidRequest("Broken."))
