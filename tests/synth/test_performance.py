"""Texts of any length through the queue: one job to its reader, one turn among the others."""

import asyncio

import numpy as np
import pytest

from synth.client import Job, Manner
from synth.errors import Busy, EngineFailed, InvalidRequest, JobCancelled, SynthError
from synth.protocol import Accepted, Audio, Done, HistoryPrompt, Progress, Sampling, Stage
from tests.synth import scripted
from tests.synth.puppet import running, settle
from tests.synth.test_client import outcome
from tests.synth.test_client import running as running_process

SENTENCE = "The birds begin to sing before anybody is awake, and nobody minds at all, not even me."
LONG = " ".join([SENTENCE] * 12)  # six utterances
NAMED = Manner(voice="v2/en_speaker_0", sampling=Sampling(seed=3))


async def collect(job: Job) -> list[object]:
    return await outcome(job)


async def test_a_long_text_is_one_job_in_a_real_process() -> None:
    async with running_process(slots=2) as client:
        job = client.speak("chunk " * 90, user="a", job_id="j", manner=Manner(voice="known"))
        events = await outcome(job)
        assert (job.position, job.eta_s) == (None, None)
    assert events[0] == Accepted("j", 0)
    audio = [event for event in events if isinstance(event, Audio)]
    assert [event.utterance for event in audio] == [0, 1, 2, 3]
    done = events[-1]
    assert isinstance(done, Done) and done.job_id == "j"
    assert sum(len(event.samples) for event in audio) == round(done.audio_s * scripted.RATE)
    assert len(done.renditions) == 4 and done.timings.ttfa_s > 0


async def test_utterances_share_the_slots_that_nobody_else_waits_for() -> None:
    async with running(slots=3) as (client, puppet):
        job = client.speak(LONG, user="a", manner=NAMED, job_id="j")
        assert [submit.job_id for submit in puppet.submits] == ["j.1", "j.2", "j.3"]
        assert client.waiting == 0 and job.position == 0
        other = client.speak("Hello.", user="b", job_id="k")
        assert (client.waiting, other.position) == (1, 1)
        puppet.finish(puppet.running[0])
        await settle()
        assert puppet.submits[-1].job_id == "k"  # though the long text was there before
        puppet.finish(puppet.running[0])
        await settle()
        assert puppet.submits[-1].job_id == "j.4"
        events = asyncio.create_task(collect(job))
        while puppet.running:
            puppet.finish(puppet.running[0])
            await settle()
        done = (await events)[-1]
        assert isinstance(done, Done) and len(done.renditions) == 6
        assert isinstance((await collect(other))[-1], Done)


async def test_two_long_texts_and_a_short_one_take_turns() -> None:
    """Twenty utterances of one person starve nobody: whoever has fewer slots is next."""
    async with running(slots=4) as (client, puppet):
        jobs = [
            client.speak(" ".join([LONG] * 3), user="a", manner=NAMED, job_id="a"),
            client.speak(LONG, user="b", manner=NAMED, job_id="b"),
        ]
        assert [submit.job_id[0] for submit in puppet.running] == ["a"] * 4
        for _ in range(3):
            puppet.finish(puppet.running[0])
            await settle()
        assert sorted(submit.job_id[0] for submit in puppet.running) == ["a", "a", "b", "b"]
        jobs.append(client.speak("Hello.", user="c", job_id="c"))
        assert jobs[-1].position == 1
        puppet.finish(puppet.running[0])
        await settle()
        assert puppet.submits[-1].job_id == "c"
        for job in jobs:
            job.cancel()


async def test_a_waiting_text_is_one_job_in_the_queue() -> None:
    async with running(slots=1, queue_limit=2) as (client, puppet):
        blocker = client.speak("Hello.", user="z")
        first = client.speak(LONG, user="a", manner=NAMED)
        second = client.speak(LONG, user="b", manner=NAMED)
        assert (client.waiting, first.position, second.position) == (2, 1, 2)
        with pytest.raises(Busy, match="2 waiting"):
            client.speak("Hello.", user="c")
        assert await anext(first) == Accepted(first.job_id, 1)
        first.cancel()
        assert await anext(second) == Accepted(second.job_id, 1)
        with pytest.raises(JobCancelled):
            await anext(first)
        puppet.finish(puppet.running[0])
        await settle()
        assert await anext(second) == Accepted(second.job_id, 0)
        del blocker


async def test_the_users_next_text_waits_for_the_first_one() -> None:
    async with running(slots=1) as (client, puppet):
        long = client.speak(LONG, user="a", manner=NAMED, job_id="j")
        short = client.speak("Hello.", user="a", job_id="k")
        for _ in range(5):
            puppet.finish(puppet.running[0])
            await settle()
        assert [submit.job_id for submit in puppet.submits] == [f"j.{n}" for n in range(1, 7)]
        assert short.position == 1
        puppet.finish(puppet.running[0])
        await settle()
        assert puppet.submits[-1].job_id == "k" and short.position == 0
        assert isinstance((await collect(long))[-1], Done)


async def test_cancelling_or_leaving_ends_all_its_utterances() -> None:
    async with running(slots=2) as (client, puppet):
        async with client.speak(LONG, user="a", manner=NAMED, job_id="j") as job:
            assert await anext(job) == Accepted("j", 0)
        assert sorted(puppet.cancelled) == ["j.1", "j.2"] and job.position is None
        await settle()
        dropped = client.speak(LONG, user="a", manner=NAMED, job_id="k")
        assert len(puppet.running) == 2
        del dropped
        await settle()
        assert sorted(puppet.cancelled[2:]) == ["k.1", "k.2"] and not puppet.running
        # The slots are free, and the ids too.
        again = client.speak("Hello.", user="b", job_id="j")
        assert again.position == 0
        with pytest.raises(InvalidRequest, match="already"):
            client.speak(LONG, user="b", job_id="j")


async def test_progress_is_of_the_whole_text_and_the_estimate_counts_what_is_left() -> None:
    async with running(slots=1) as (client, puppet):
        clock = client._clock
        job = client.speak(LONG, user="a", manner=NAMED, job_id="j")
        assert job.eta_s is None  # nothing was measured yet
        clock.now += 10.0  # type: ignore[attr-defined]
        puppet.finish(puppet.running[0])
        await settle()
        puppet.say(Progress(puppet.running[0].job_id, Stage.SEMANTIC, 1.0))
        await settle()
        seen: list[object] = []
        while not seen or not isinstance(seen[-1], Progress):
            seen.append(await anext(job))
        progress = seen[-1]
        assert isinstance(progress, Progress) and progress.job_id == "j"
        assert progress.whole == pytest.approx((1 + 0.32) / 6, abs=0.05)
        assert job.eta_s == pytest.approx(50.0, rel=0.1)
        clock.now += 10.0  # type: ignore[attr-defined]
        puppet.finish(puppet.running[0])
        await settle()
        clock.now += 4.0  # type: ignore[attr-defined]
        assert job.eta_s == pytest.approx(36.0, rel=0.1)


async def test_a_failed_utterance_is_tried_once_more_and_then_all_is_over() -> None:
    async with running(slots=2) as (client, puppet):
        job = client.speak(LONG, user="a", manner=NAMED, job_id="j")
        puppet.fail(puppet.running[1])
        await settle()
        assert puppet.submits[-1].job_id == "j.3"  # stood in line already
        puppet.finish(puppet.running[1])
        await settle()
        assert puppet.submits[-1].job_id == "j.2.again1"
        assert puppet.submits[-1].sampling.seed != 3
        puppet.fail(puppet.running[1])
        await settle()
        assert not puppet.running and puppet.cancelled == ["j.1"]
        (error,) = [event for event in await collect(job) if isinstance(event, SynthError)]
        assert str(error) == "Part 2 of 6 could not be spoken: No such thing."
        short = client.speak("Hello.", user="a")
        puppet.fail(puppet.running[0])
        (error,) = [event for event in await collect(short) if isinstance(event, SynthError)]
        assert str(error) == "No such thing."
        assert client.waiting == 0


async def test_a_client_that_closes_ends_long_texts_without_trying_again() -> None:
    async with running(slots=2) as (client, _):
        job = client.speak(LONG, user="a", manner=NAMED)
        waiting = client.speak(LONG, user="b", manner=NAMED)
    for each in (job, waiting):
        assert isinstance((await collect(each))[-1], EngineFailed)


async def test_a_worker_that_dies_costs_a_long_text_nothing() -> None:
    """Its utterances run again, alone, one after the other."""
    async with running_process(slots=2) as client:
        text = "company " * 20 + "chunk " * 40
        job = client.speak(text, user="a", manner=Manner(voice="known"))
        crash = client.submit("company crash", user="b")
        assert isinstance((await outcome(crash))[-1], EngineFailed)
        done = (await outcome(job))[-1]
        assert isinstance(done, Done) and len(done.renditions) == 3


async def test_what_was_heard_is_told_of_the_utterance_that_sounds() -> None:
    async with running(slots=2) as (client, puppet):
        job = client.speak(LONG, user="a", manner=Manner(voice="v2/en_speaker_0", live=True))
        first, second = puppet.running
        puppet.finish(first, seconds=2.0)
        await settle()
        job.played(0.75)  # of the first, which is wholly there: the next is that far away
        puppet.sound(second)
        await settle()
        job.played(2.75)
        assert [played.job_id for played in puppet.played] == [second.job_id] * 2
        assert puppet.played[0].seconds == pytest.approx(-1.5, abs=0.01)
        assert puppet.played[1].seconds == pytest.approx(0.5, abs=0.01)
        job.cancel()
        job.played(3.0)


async def test_without_a_voice_the_first_utterance_goes_alone() -> None:
    async with running(slots=3) as (client, puppet):
        job = client.speak(LONG, user="a")
        assert len(puppet.running) == 1
        puppet.finish(puppet.running[0])
        await settle()
        assert len(puppet.running) == 3
        assert all(isinstance(submit.voice, HistoryPrompt) for submit in puppet.running)
        job.cancel()


async def test_a_dialogue_has_a_voice_for_each_speaker() -> None:
    async with running(slots=4) as (client, puppet):
        job = client.speak(
            "Anna: Guten Tag!\nBernd: Hallo.\nAnna: Wie geht es?",
            user="a",
            manner=Manner(voice="v2/de_speaker_0"),
            cast={"anna": "v2/en_speaker_3"},
        )
        voices = [(submit.text, submit.voice) for submit in puppet.running]
        assert voices == [
            ("Guten Tag!", "v2/en_speaker_3"),
            ("Hallo.", "v2/de_speaker_1"),
            ("Wie geht es?", "v2/en_speaker_3"),
        ]
        events = asyncio.create_task(collect(job))
        for submit in list(puppet.running):
            puppet.finish(submit)
        samples = np.concatenate([e.samples for e in await events if isinstance(e, Audio)])
        assert len(samples) == 24_000 * 5 // 2


async def test_takes_share_the_slots_and_the_best_is_heard() -> None:
    async with running(slots=4) as (client, puppet):
        job = client.speak("Hello there.", user="a", manner=Manner(takes=4), job_id="j")
        assert [submit.job_id for submit in puppet.running] == [f"j.1.{n}" for n in range(1, 5)]
        third = puppet.running[2]
        for submit in list(puppet.running):  # only one is as long as the text takes
            puppet.finish(submit, seconds=1.0 if submit is third else 0.1)
        await settle()
        (final,) = puppet.running  # the others never get to sound
        assert final.job_id == "j.1" and final.semantic_tokens is not None
        assert job.eta_s is None  # drafts do not tell how long a clip takes
        puppet.finish(final, seconds=1.0)
        done = (await collect(job))[-1]
        assert isinstance(done, Done) and done.seed == third.sampling.seed
        assert done.renditions[0].takes == 4
        job = client.speak("Hello there.", user="a", manner=Manner(takes=2), job_id="k")
        assert job.eta_s is not None


async def test_nothing_to_say_is_refused() -> None:
    async with running() as (client, _):
        with pytest.raises(InvalidRequest, match="nothing to say"):
            client.speak(" \n", user="a")
