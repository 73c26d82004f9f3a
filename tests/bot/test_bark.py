"""/bark from the command to the clip, through discord.py's real machinery."""

import logging
from pathlib import Path
from typing import Any
from unittest.mock import create_autospec

import discord
import pytest

from bot import replies
from bot.answer import Answer
from bot.config import DiscordSection, Settings
from bot.store import Outcome, Preference
from synth.protocol import Reason, Stage
from tests.bot.harness import ScriptedBackend, open_world, press, ready


def content(result: Any) -> str:
    return result.response.content


async def test_bark_answers_with_a_clip(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world:
        result = await world.bark("Hello [laughs] *world*", seed=7, preset="V2/en_speaker_6")
        assert result.acknowledged
        assert world.worker.last.text == "Hello [laughs] world"
        assert world.worker.last.voice == "v2/en_speaker_6"
        assert world.worker.last.sampling.seed == 7
        response = await world.spoken(result, seconds=1.5)
        (file,) = response.attachments
        assert file.filename.endswith(".ogg")
        assert "v2/en\\_speaker\\_6 · seed 7 · 1.5 s" in response.content
        assert not response.components
        (row,) = await world.client.services.store.history(world.ada.id)
        assert (row.outcome, row.audio_s, row.seed) == (Outcome.DONE, 1.5, 7)
        assert row.started_at is not None and row.message_id == result.response.id


@pytest.mark.parametrize("kind", ["ogg", "mp3", "flac", "wav"])
async def test_every_format_is_what_it_says(tmp_path: Path, kind: str) -> None:
    async with open_world(tmp_path) as world:
        response = await world.spoken(await world.bark(format=kind))
        (attachment,) = response.attachments
        data = await attachment.read()
    assert attachment.filename.endswith("." + kind)
    start = {"ogg": b"OggS", "mp3": (b"ID3", b"\xff"), "flac": b"fLaC", "wav": b"RIFF"}[kind]
    assert data.startswith(start)


async def test_the_temperature_reaches_the_model(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world:
        await world.bark(temperature=0.0)
        sampling = world.worker.last.sampling
        assert (sampling.text_temperature, sampling.waveform_temperature) == (0, 0)
        assert sampling.fine_temperature == 0
        world.worker.speak()
        await world.env.settle()
        await world.bark(temperature=0.6)
        assert world.worker.last.sampling.fine_temperature is None


async def test_the_status_moves_and_is_edited_once_in_two_seconds(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world:
        first = await world.bark("First")
        assert "starting" in content(first)
        second = await world.bark("Second", actor=world.bob)
        assert "next in line" in content(second)
        third = await world.bark("Third")
        assert "number 2 in line" in content(third)

        def edits() -> int:
            log = world.env.http_requests
            return sum(entry.method == "PATCH" and "@original" in entry.path for entry in log)

        before = edits()
        for fraction in (0.2, 0.4, 0.6):  # within two seconds of the first status
            world.worker.progress(Stage.SEMANTIC, fraction)
            await world.env.settle()
        assert edits() == before
        world.clock.now += 2.0
        world.worker.progress(Stage.COARSE, 0.5)
        await world.until(lambda: "shaping the voice" in content(first))
        assert edits() == before + 1
        assert "▰" in content(first) and "57%" in content(first)
        world.clock.now += 2.0
        await world.spoken(first)
        await world.until(lambda: "starting" in content(second))
        assert "next in line" in content(third)
        world.clock.now += 2.0
        world.worker.speak()
        await world.until(lambda: second.response.attachments)
        # The time the first one took is known now.
        world.clock.now += 2.0
        world.worker.progress(Stage.FINE, 0.0)
        await world.until(lambda: "adding detail" in content(third))


async def test_what_the_throttle_held_back_is_shown_later(tmp_path: Path) -> None:
    """A place in line that changes while nothing else happens must not stay wrong."""
    async with open_world(tmp_path) as world:
        await world.bark("First")
        await world.bark("Second", actor=world.bob)
        third = await world.bark("Third", actor=world.manager)
        assert "number 2 in line" in content(third)
        world.worker.speak(submit=world.worker.submits[0])
        await world.env.settle()
        assert "number 2 in line" in content(third)
        await world.env.advance_time(2.1)
        await world.until(lambda: "next in line" in content(third))


async def test_cancel_frees_the_slot_and_says_so(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world:
        result = await world.bark()
        pressed = await world.ada.click(result.response.message, label="Cancel")
        assert pressed.ephemeral and content(pressed) == replies.CANCELLING
        await world.until(lambda: content(result) == replies.CANCELLED)
        assert world.worker.cancelled == [world.worker.last.job_id]
        assert not result.response.components
        (row,) = await world.client.services.store.history(world.ada.id)
        assert row.outcome is Outcome.CANCELLED


async def test_cancelling_twice_is_answered_plainly(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world:
        result = await world.bark()
        message = result.response.message  # as it still stands on a slow phone
        custom_id = f"bark:cancel:{world.worker.last.job_id}"
        await world.ada.click(message, label="Cancel")
        await world.until(lambda: content(result) == replies.CANCELLED)
        again = await press(world, world.ada, result, custom_id)
        assert content(again) == replies.ALREADY_CANCELLED


async def test_only_the_requester_or_a_manager_may_cancel(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world:
        result = await world.bark()
        refused = await world.bob.click(result.response.message, label="Cancel")
        assert content(refused) == replies.NOT_YOURS
        assert not world.worker.cancelled
        await world.manager.click(result.response.message, label="Cancel")
        await world.until(lambda: content(result) == replies.CANCELLED)


async def test_cancel_after_the_end_and_after_a_restart(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world:
        result = await world.bark()
        custom_id = f"bark:cancel:{world.worker.last.job_id}"
        await world.spoken(result)
        assert content(await press(world, world.ada, result, custom_id)) == replies.ALREADY_DONE
        unknown = await press(world, world.ada, result, "bark:cancel:0123456789abcdef")
        assert content(unknown) == replies.JOB_GONE


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("   ", "text is empty"),
        ("😀😂🎉", "nothing to speak"),
        ("<:wave:123456>", "nothing to speak"),
        ("\x00\x07\u202e", "nothing to speak"),
        ("x" * 5_900, "5,900 characters, and 2,000 is the most"),
        ("x" * 10_000, "10,000 characters"),
    ],
)
async def test_text_that_cannot_be_spoken(tmp_path: Path, text: str, words: str) -> None:
    async with open_world(tmp_path) as world:
        result = await world.bark(text)
        assert result.ephemeral and words in content(result)
        assert not world.worker.submits


async def test_what_the_model_has_no_letters_for_is_told(tmp_path: Path) -> None:
    """The clip came without these words, as if nothing were missing."""
    english = frozenset("abcdefghijklmnopqrstuvwxyzH.,?!")
    worker = ScriptedBackend(ready(characters=english, languages=("en",)))
    async with open_world(tmp_path, worker=worker) as world:
        result = await world.bark("Hello there. Привет!")
        assert worker.last.text == "Hello there."
        response = await world.spoken(result)
        assert "-# This model speaks English only: 6 characters" in response.content
        result = await world.bark("Привет, как дела?")
        assert "write the text in English letters" in result.response.content
        assert len(worker.submits) == 1


async def test_mentions_are_spoken_as_names_and_ping_nobody(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world:
        text = f"Hi {world.bob.mention} in {world.channel.mention}, @everyone \u202eשלום"
        result = await world.bark(text)
        assert world.worker.last.text == "Hi bob in general, everyone שלום"
        response = await world.spoken(result)
        assert not response.message.mentions and not response.message.mention_everyone


async def test_a_name_that_cannot_be_looked_up_is_no_reason_to_fail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cut line while the bot asked for one member's name ended the whole request."""
    lookup = create_autospec(discord.Guild.fetch_member, side_effect=ConnectionResetError)
    monkeypatch.setattr(discord.Guild, "fetch_member", lookup)
    async with open_world(tmp_path) as world:
        await world.bark("Hi <@123456789012345678>")
        assert world.worker.last.text == "Hi someone" and lookup.await_count == 1


async def test_an_unknown_preset_offers_the_nearest(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world:
        result = await world.bark(preset="v2/en_speker_6")
        assert result.ephemeral
        assert "v2/en\\_speaker\\_6" in content(result) and "Did you mean" in content(result)


async def test_a_preferred_voice_of_another_model_is_kept_and_replaced(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world:
        store = world.client.services.store
        await store.set_user_voice(world.ada.id, Preference("v2/en_speaker_1", "other family"))
        await store.set_guild_voice(world.guild.id, Preference("v2/de_speaker_2", "bark"))
        result = await world.bark()
        assert world.worker.last.voice == "v2/de_speaker_2"
        response = await world.spoken(result)
        assert "belongs to another model; it is kept" in response.content
        await store.set_guild_voice(world.guild.id, None)
        await store.set_user_voice(world.ada.id, Preference("nano/ada", "nano-1"))
        result = await world.bark()
        assert world.worker.last.voice == "v2/en_speaker_1"  # the first English woman
        note = (await world.spoken(result)).content
        assert "nano/ada belongs to another model; it is kept" in note
        assert await store.user_voice(world.ada.id) == Preference("nano/ada", "nano-1")
        refused = await world.bark(preset="nano/bruno")
        assert refused.ephemeral
        assert "belongs to another model" in content(refused)
        assert "v2/en\\_speaker\\_0" in content(refused)
        await store.set_user_voice(world.ada.id, Preference("gone", "bark"))
        await store.set_guild_voice(world.guild.id, None)
        result = await world.bark()
        assert world.worker.last.voice is None
        assert "not known to this model" in (await world.spoken(result)).content
        assert await store.user_voice(world.ada.id) == Preference("gone", "bark")


async def test_autocomplete_finds_voices_and_cues(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world:

        async def presets(query: str) -> list[str]:
            choices = await world.ada.autocomplete(world.channel, "bark", "preset", query)
            return [choice["value"] for choice in choices]

        assert len(await presets("")) == 25
        assert set(await presets("german female")) == {f"v2/de_speaker_{n}" for n in (1, 4, 7)}
        assert set(await presets("de male")) == {f"v2/de_speaker_{n}" for n in (0, 3, 6)}
        assert await presets("fr 3") == ["v2/fr_speaker_3"]
        assert "v2/de_speaker_0" in await presets("germn")
        assert await presets("zzzzqqq") == []
        cues = await world.ada.autocomplete(world.channel, "bark", "text", "Ha [la")
        assert [cue["value"] for cue in cues] == ["Ha [laughs]", "Ha [laughter]"]
        assert await world.ada.autocomplete(world.channel, "bark", "text", "x" * 99) == []


async def test_caps_are_told_with_their_numbers(tmp_path: Path) -> None:
    async with open_world(tmp_path, per_user=1, per_guild=2, queue_length=50) as world:
        await world.bark()
        mine = await world.bark()
        assert mine.ephemeral and "You have one clip waiting or being made" in content(mine)
        await world.bark(actor=world.bob)
        ours = await world.bark(actor=world.manager)
        assert "This server has 2 clips waiting or being made" in content(ours)


async def test_a_cooldown_and_a_full_queue_are_told(tmp_path: Path) -> None:
    async with open_world(tmp_path, cooldown_s=60.0, queue_length=1) as world:
        await world.bark()
        assert "Wait another 60 s" in content(await world.bark())
        await world.bark(actor=world.bob)
        full = await world.bark(actor=world.manager)
        assert full.ephemeral and "queue is full (1 waiting)" in content(full)
        again = await world.bark(actor=world.manager)  # and what was refused costs no cooldown
        assert "queue is full" in content(again)
        row, _ = await world.client.services.store.history(world.manager.id)
        assert (row.outcome, row.reason) == (Outcome.FAILED, "Busy")


async def test_a_channel_rule(tmp_path: Path) -> None:
    settings = Settings.model_construct(
        discord=DiscordSection(allowed_roles=(1,), blocked_role=2, allowed_channels=(3,))
    )
    async with open_world(tmp_path, settings=settings) as world:
        assert content(await world.bark()) == replies.NOT_HERE


async def test_a_required_role(tmp_path: Path) -> None:
    settings = Settings.model_construct(discord=DiscordSection(allowed_roles=(1,)))
    async with open_world(tmp_path, settings=settings) as world:
        assert content(await world.bark()) == replies.ROLE_MISSING


async def test_a_blocked_role_wins(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world:
        role = world.guild.create_role("quiet")
        cleo = world.guild.add_member(world.env.create_user("cleo"), roles=[role])
        rules = DiscordSection(blocked_role=role.id, allowed_roles=(role.id,))
        settings = world.client.services.settings.model_copy(update={"discord": rules})
        object.__setattr__(world.client.services, "settings", settings)
        assert content(await world.bark(actor=cleo)) == replies.ROLE_BLOCKED


@pytest.mark.parametrize("token_is_spent", [False, True])
async def test_a_result_after_14_minutes_goes_to_the_channel(
    tmp_path: Path, token_is_spent: bool
) -> None:
    async with open_world(tmp_path) as world:
        result = await world.bark()
        world.clock.now += 14 * 60
        if token_is_spent:
            await world.env.advance_time(16 * 60)
        before = len(world.channel.history())
        world.worker.speak()
        await world.until(lambda: len(world.channel.history()) > before)
        posted = world.channel.last_message
        assert posted is not None and posted.attachments and "seed" in posted.content
        await world.until(lambda: content(result) == "The answer is below.")
        assert not result.response.components


async def test_a_deleted_status_does_not_lose_the_clip(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world:
        result = await world.bark()
        world.env.backend.delete_message(world.channel.id, result.response.id)
        world.worker.speak()
        await world.until(lambda: world.channel.history())
        posted = world.channel.last_message
        assert posted is not None and posted.attachments


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        (Reason.TIMEOUT, "The job took too long."),
        (Reason.OUT_OF_MEMORY, "Your clip is lost; try again in a minute."),
        (Reason.INVALID, "The job took too long."),
    ],
)
async def test_a_failed_job_is_told(tmp_path: Path, reason: Reason, words: str) -> None:
    async with open_world(tmp_path) as world:
        result = await world.bark()
        world.worker.fail(reason, "The job took too long.")
        await world.until(lambda: words in content(result))
        assert not result.response.components
        (row,) = await world.client.services.store.history(world.ada.id)
        assert row.outcome is Outcome.FAILED
        await world.spoken(await world.bark())


async def test_an_unexpected_error_is_logged_and_told_with_the_job_id(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_world(tmp_path) as world:
        transcoder = world.client.services.transcoder

        async def broken(*_: object, **__: object) -> None:
            raise ZeroDivisionError("a secret detail")

        monkeypatch.setattr(transcoder, "encode_clip", broken)
        result = await world.bark("my secret text")
        job_id = world.worker.last.job_id
        world.worker.speak()
        await world.until(lambda: "went wrong" in content(result))
        assert job_id in content(result) and "secret" not in content(result)
    record = next(r for r in caplog.records if "unexpected error in job" in r.message)
    assert job_id in record.message and record.exc_info is not None
    assert not any(
        "my secret text" in r.getMessage() for r in caplog.records if r.levelno >= logging.INFO
    )


async def test_a_clip_without_sound_is_told(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world:
        result = await world.bark()
        world.worker.speak(0.0)
        await world.until(lambda: content(result) == replies.NO_CLIP)


async def test_a_file_fits_the_limit_of_the_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_world(tmp_path) as world:
        seen = world.client.services.desk
        take = seen.take

        async def small(order: Any, answer: Answer) -> None:
            object.__setattr__(order, "limit_bytes", 20_000)
            await take(order, answer)

        monkeypatch.setattr(seen, "take", small)
        response = await world.spoken(await world.bark(format="wav"), seconds=3.0)
        (file,) = response.attachments
        assert file.size <= 20_000 and file.filename.endswith(".ogg")
        assert "too big to post here" in response.content


async def test_without_the_permission_to_post_files_nothing_is_started(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world:
        me = world.guild.me
        assert me is not None
        quiet = world.guild.create_text_channel(
            "quiet", overwrites={me: discord.PermissionOverwrite(attach_files=False)}
        )
        result = await world.ada.slash(quiet, "bark", text="Hello")
        assert result.ephemeral and "Attach Files" in content(result)
        assert not world.worker.submits


async def test_a_model_that_is_not_bark_says_so_once_a_server(tmp_path: Path) -> None:
    worker = ScriptedBackend(ready(notice="This model makes noise."))
    async with open_world(tmp_path, worker=worker) as world:
        first = await world.spoken(await world.bark())
        assert "This model makes noise." in first.content
        second = await world.spoken(await world.bark())
        assert "noise" not in second.content


async def test_voice_where_there_is_none_gives_the_file_and_says_so(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world:
        response = await world.spoken(await world.bark(to="voice"))
        assert response.attachments and replies.NO_VOICE_HERE in response.content


async def test_what_a_caption_quotes_is_no_markup(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world:
        response = await world.spoken(await world.bark("2 * 3 * 4 is twenty_four_x `"))
        assert response.content.startswith("> 2 \\* 3 \\* 4 is twenty\\_four\\_x \\`\n")


async def test_a_text_of_several_lines_is_quoted_whole(tmp_path: Path) -> None:
    """Only its first line used to stand in the quote."""
    async with open_world(tmp_path) as world:
        response = await world.spoken(await world.bark("One line.\nAnother line."))
        assert response.content.startswith("> One line. Another line.\n")


async def test_a_long_caption_is_cut(tmp_path: Path) -> None:
    async with open_world(tmp_path, text_length=6000) as world:
        response = await world.spoken(await world.bark("*_`" * 10 + "word " * 1000))
        assert len(response.content) <= 2000


LONG = " ".join(["The birds begin to sing before anybody is awake, and nobody minds."] * 12)


async def test_a_long_text_is_one_clip(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world:
        result = await world.bark(LONG, preset="v2/en_speaker_6", seed=3)
        response = await world.spoken(result, seconds=2.0)
        submits = world.worker.submits
        assert len(submits) > 3 and {submit.voice for submit in submits} == {"v2/en_speaker_6"}
        assert " ".join(submit.text for submit in submits) == LONG
        assert {submit.rerolls for submit in submits} == {2}
        pauses = 0.25 * (len(submits) - 1)
        assert f"seed 3 · {2 * len(submits) + pauses:.1f} s" in response.content
        (row,) = await world.client.services.store.history(world.ada.id)
        assert row.outcome is Outcome.DONE


async def test_a_long_text_counts_as_one_and_can_be_cancelled(tmp_path: Path) -> None:
    async with open_world(tmp_path, per_user=1) as world:
        result = await world.bark(LONG)
        assert "already" in content(await world.bark("Hello"))
        world.worker.speak()
        await world.env.settle()
        pressed = await world.ada.click(result.response.message, label="Cancel")
        assert content(pressed) == replies.CANCELLING
        await world.until(lambda: content(result) == replies.CANCELLED)
        assert world.worker.cancelled == [world.worker.last.job_id]
        await world.bark("Hello")
        assert world.worker.last.text == "Hello"


async def test_the_longest_clip_is_a_setting(tmp_path: Path) -> None:
    async with open_world(tmp_path, clip_seconds=3.0) as world:
        response = await world.spoken(await world.bark(LONG), seconds=2.0)
        assert "3.0 s" in response.content and "The clip was cut at 3 s." in response.content


async def test_a_dialogue_has_a_voice_for_each_name(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world:
        text = "**Ann:** Did you hear that?\nBob: I did.\nAnn: Run!"
        told = await world.spoken(await world.bark(text, cast="Bob = V2/en_speaker_6"))
        spoken = [(submit.text, submit.voice) for submit in world.worker.submits]
        assert spoken == [
            ("Did you hear that?", "v2/en_speaker_1"),
            ("I did.", "v2/en_speaker_6"),
            ("Run!", "v2/en_speaker_1"),
        ]
        # It named the voice of who is in no dialogue, which nobody had heard.
        cast = replies.escape("🔊 Ann: v2/en_speaker_1, Bob: v2/en_speaker_6 · seed")
        assert cast in told.content

        told = await world.spoken(await world.bark("So.\nBob: Hi.", cast="Bob=v2/de_speaker_1"))
        assert replies.escape("the rest: a random voice, Bob: v2/de_speaker_1 ·") in told.content


@pytest.mark.parametrize(
    ("cast", "words"), [("Bob", "NAME=VOICE"), ("Bob=v2/en_speaker_99", "no voice called")]
)
async def test_a_cast_that_cannot_be_is_refused(tmp_path: Path, cast: str, words: str) -> None:
    async with open_world(tmp_path) as world:
        result = await world.bark("Bob: Hello.", cast=cast)
        assert words in content(result) and not world.worker.submits


async def test_stopping_the_bot_tells_those_who_wait(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world:
        result = await world.bark()
        await world.client.services.desk.close()
        assert content(result) == replies.STOPPING
        (row,) = await world.client.services.store.history(world.ada.id)
        assert row.outcome is Outcome.INTERRUPTED
        assert "being restarted" in content(await world.bark())
