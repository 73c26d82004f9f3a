"""The other commands: voices, preferences, the channel, help."""

from pathlib import Path
from typing import Any

import discord

from bot import replies
from bot.app import open_bot
from bot.client import BarkClient
from bot.commands.bark import bark
from bot.store import Preference
from synth.protocol import Gender, VoiceInfo
from tests.bot.harness import ScriptedBackend, World, open_world, press, ready


async def run(world: World, name: str, actor: Any = None, **options: Any) -> Any:
    return await (actor or world.ada).slash(world.channel, name, **options)


def components(result: Any) -> list[dict[str, Any]]:
    return [item for row in result.response.components for item in row["components"]]


def custom_id(result: Any, part: str) -> str:
    (found,) = [c["custom_id"] for c in components(result) if part in c["custom_id"]]
    return found


async def test_voices_are_browsed_by_language_and_page(
    tmp_path: Path,
) -> None:
    voices = ready().voices
    many = tuple(
        type(voices[0])(f"v2/en_speaker_{n}", "en", "v2", voices[0].gender, 5.0) for n in range(45)
    )
    german = tuple(voice for voice in voices if voice.language == "de")
    async with open_world(tmp_path, worker=ScriptedBackend(ready(voices=many + german))) as world:
        result = await run(world, "voices")
        assert result.ephemeral
        assert "English" in result.response.content and "page 1 of 3" in result.response.content
        assert "v2/en_speaker_19" in result.response.content
        assert "v2/en_speaker_20" not in result.response.content
        await world.ada.click(result.response.message, label="Next")
        assert "page 2 of 3" in result.response.content
        await world.ada.click(result.response.message, label="Next")
        await world.ada.click(result.response.message, label="Back")
        assert "page 2 of 3" in result.response.content
        await world.ada.select(
            result.response.message, ["de"], custom_id=custom_id(result, "language")
        )
        assert "German" in result.response.content and "page 1 of 1" in result.response.content
        german_first = await run(world, "voices", language="de")
        assert "German" in german_first.response.content
        choices = await world.ada.autocomplete(world.channel, "voices", "language", "ger")
        assert [choice["value"] for choice in choices] == ["de"]


async def test_a_sample_is_spoken_on_demand_for_who_asked(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world:
        result = await run(world, "voices", language="German")
        sample: Any = await world.ada.select(
            result.response.message, ["v2/de_speaker_1"], custom_id=custom_id(result, "hear")
        )
        assert world.worker.last.voice == "v2/de_speaker_1"
        assert world.worker.last.text.startswith("Hallo!")
        world.worker.speak()
        await world.until(lambda: sample.response.attachments)
        assert sample.ephemeral and sample.response.id != result.response.id
        assert "page 1" in result.response.content  # the list stays


async def test_voices_of_a_model_that_has_none(tmp_path: Path) -> None:
    async with open_world(tmp_path, worker=ScriptedBackend(ready(voices=()))) as world:
        result = await run(world, "voices")
        assert result.response.content == replies.NO_VOICES
        refused = await run(world, "bark", text="Hello", preset="v2/en_speaker_6")
        assert "There is no voice called" in refused.response.content


async def test_a_user_chooses_sees_and_forgets_a_voice(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world:
        result = await run(world, "voice set", preset="v2/de_speaker_1")
        assert result.ephemeral and "Your voice is v2/de" in result.response.content
        await world.bark()
        assert world.worker.last.voice == "v2/de_speaker_1"
        assert "v2/de" in (await run(world, "voice show")).response.content
        await run(world, "voice reset")
        assert "Your voice: none." in (await run(world, "voice show")).response.content
        unknown = await run(world, "voice set", preset="nobody")
        assert unknown.ephemeral and "There is no voice called" in unknown.response.content
        found = await world.ada.autocomplete(world.channel, "voice set", "preset", "de 1")
        assert [choice["value"] for choice in found] == ["v2/de_speaker_1"]


async def test_a_preference_for_another_model_is_shown_as_kept(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world:
        store = world.client.services.store
        await store.set_user_voice(world.ada.id, Preference("v2/en_speaker_1", "other family"))
        shown = (await run(world, "voice show")).response.content
        assert "v2/en\\_speaker\\_1 (kept; the model that speaks now does not have it)" in shown
        assert "This server's: none." in shown


async def test_only_a_manager_chooses_the_servers_voice(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world:
        refused = await run(world, "voice set", preset="v2/fr_speaker_2", everyone=True)
        assert refused.response.content == replies.MANAGERS_ONLY
        await run(world, "voice set", world.manager, preset="v2/fr_speaker_2", everyone=True)
        await world.bark(actor=world.bob)
        assert world.worker.last.voice == "v2/fr_speaker_2"
        assert (await run(world, "voice reset", everyone=True)).response.content == (
            replies.MANAGERS_ONLY
        )
        await run(world, "voice reset", world.manager, everyone=True)
        store = world.client.services.store
        assert await store.guild_voice(world.guild.id) is None


async def test_the_queue_shows_what_is_in_the_works(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world:
        assert (await run(world, "queue")).response.content == replies.QUEUE_EMPTY
        await world.bark("First words")
        await world.bark("Second **words**", actor=world.bob)
        shown = (await run(world, "queue")).response.content
        assert "First words · being made" in shown
        assert "Second words · number 1 in line" in shown


async def test_channel_commands_where_there_are_no_channels(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world:
        for name in ("join", "leave", "skip", "stop"):
            result = await run(world, name)
            assert result.ephemeral
            assert result.response.content == replies.NO_VOICE_COMMANDS_HERE


async def test_channel_commands_without_a_channel(tmp_path: Path) -> None:
    async with open_world(tmp_path, voice=True) as world:
        assert (await run(world, "join")).response.content == replies.JOIN_FIRST
        assert (await run(world, "leave")).response.content == replies.BOT_NOT_IN_CHANNEL
        refused = await world.bark(to="voice")
        assert refused.response.content == replies.NOT_IN_CHANNEL


async def test_a_channel_that_does_not_let_the_bot_speak(tmp_path: Path) -> None:
    """Asked for, the missing permission is named; by default the clip becomes a file."""
    async with open_world(tmp_path, voice=True) as world:
        room = world.guild.create_voice_channel("Lounge")
        await world.ada.join_voice(room)
        lounge, me = world.client.get_channel(room.id), world.guild.me
        assert isinstance(lounge, discord.VoiceChannel) and me is not None
        await lounge.set_permissions(me, speak=False)
        await world.env.settle()
        refused = await world.bark(to="voice")
        assert refused.ephemeral and "Speak permission" in refused.response.content
        assert (await world.spoken(await world.bark())).attachments


async def test_help_and_invite(tmp_path: Path) -> None:
    worker = ScriptedBackend(ready(notice="It makes noise."))
    async with open_world(tmp_path, worker=worker) as world:
        text = (await run(world, "help")).response.content
        assert "2,000 characters" in text and "It makes noise." in text
        invite = (await run(world, "invite")).response.content
        assert "permissions=274881170432" in invite and "applications.commands" in invite


async def test_commands_are_synced_only_when_they_changed(tmp_path: Path) -> None:
    def syncs(world: World) -> int:
        return sum(
            entry.method == "PUT" and entry.path.endswith("/commands")
            for entry in world.env.http_requests
        )

    async with open_world(tmp_path) as world:
        assert syncs(world) == 1
        assert await world.client.sync_commands() is False
        assert syncs(world) == 1
        world.client.tree.remove_command("invite")
        assert await world.client.sync_commands() is True
        assert syncs(world) == 2
        names = [command.name for command in world.client.tree.get_commands()]
        assert names == [name.lower() for name in names]


async def test_an_outage_is_not_a_removal(tmp_path: Path) -> None:
    """A server removed during an outage was kept for ever: its `unavailable` stays set."""
    async with open_world(tmp_path) as world:
        store = world.client.services.store
        preference = Preference("v2/de_speaker_1", "bark")
        await store.set_guild_voice(world.guild.id, preference)
        gone = {"id": str(world.guild.id), "unavailable": True}
        world.env.backend.emit("GUILD_DELETE", gone)
        await world.env.settle()
        assert await store.guild_voice(world.guild.id) == preference
        world.env.backend.emit("GUILD_DELETE", {"id": str(world.guild.id)})
        await world.env.settle()
        assert await store.guild_voice(world.guild.id) is None


async def test_after_a_restart_who_waited_is_told_and_the_button_answers(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world:
        result = await world.bark()
        custom_id = f"bark:cancel:{world.worker.last.job_id}"
        again = open_bot(world.client.services.settings, backends=[ScriptedBackend(ready())])
        async with again as client:
            assert [row.message_id for row in client.interrupted] == [result.response.id]
            await world.env.restart_bot(client)
            assert result.response.content == replies.INTERRUPTED
            assert not result.response.components
            pressed = await press(world, world.ada, result, custom_id)
            assert pressed.response.content == replies.JOB_GONE


async def test_the_list_of_voices_answers_after_a_restart(tmp_path: Path) -> None:
    voices = tuple(VoiceInfo(f"v2/en_{n}", "en", "v2", Gender.UNKNOWN, 5.0) for n in range(45))
    async with open_world(tmp_path, worker=ScriptedBackend(ready(voices=voices))) as world:
        result = await run(world, "voices")
        worker = ScriptedBackend(ready(voices=voices))
        async with open_bot(world.client.services.settings, backends=[worker]) as client:
            await world.env.restart_bot(client)
            await world.ada.click(result.response.message, label="Next")
            assert "page 2 of 3" in result.response.content


async def test_bark_in_a_direct_message_gives_a_file(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world:
        result: Any = await world.ada.user.slash("bark", text="Hello")
        assert (await world.spoken(result)).attachments
        refused: Any = await world.ada.user.slash(
            "voice set", preset="v2/en_speaker_1", everyone=True
        )
        assert refused.response.content == replies.MANAGERS_ONLY


async def test_bark_in_a_thread_gives_a_file_there(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world:
        channel = world.client.get_channel(world.channel.id)
        assert isinstance(channel, discord.TextChannel)
        thread = await channel.create_thread(name="Aside", type=discord.ChannelType.public_thread)
        await world.env.settle()
        (aside,) = world.channel.threads
        result: Any = await world.ada.slash(aside, "bark", text="Hello")
        assert (await world.spoken(result)).attachments
        assert result.response.channel_id == thread.id


def test_the_options_take_what_the_model_takes() -> None:
    options = {option["name"]: option for option in bark.to_dict(BarkClient().tree)["options"]}
    assert (options["temperature"]["min_value"], options["temperature"]["max_value"]) == (0, 2)
    assert (options["seed"]["min_value"], options["seed"]["max_value"]) == (0, 2**31)
    choices = [choice["value"] for choice in options["format"]["choices"]]
    assert choices == ["ogg", "mp3", "flac", "wav"]
    assert [c["value"] for c in options["to"]["choices"]] == ["voice", "file", "both"]
    assert {name for name, option in options.items() if option.get("autocomplete")} == {
        "text",
        "preset",
    }
    assert [name for name, option in options.items() if option.get("required")] == ["text"]
