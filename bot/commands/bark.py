"""/bark: text in, speech out."""

from typing import Literal

import discord
from discord import app_commands

from bot import replies, text
from bot.access import Interaction, check_access, require_file_permission
from bot.answer import Answer
from bot.catalogue import label
from bot.errors import UserError
from bot.mentions import names_in
from bot.orders import SEED_LIMIT, place_order, sampling_of
from bot.playback import problem_with_joining
from bot.preferences import known_voice, resolve_voice
from bot.services import Services, services_of
from bot.voice_player import ChannelPlayer
from synth.audio import AudioFormat
from synth.dialogue import parse_cast

CHOICE_LIMIT = 25
VALUE_LIMIT = 100  # characters an autocompleted value may have

Formats = Literal["ogg", "mp3", "flac", "wav"]
Destinations = Literal["voice", "file", "both"]


@app_commands.command(name="bark", description="Speak a text, in your voice channel or as a file.")
@app_commands.describe(
    text="What to say; cues such as [laughs] and ♪ work",
    preset="The voice to say it with",
    to="Where it is heard: your voice channel, a file, or both",
    format="The kind of file",
    temperature="How freely it is spoken: 0 always the same, 0.7 as usual, 1 lively",
    seed="The same seed, text and voice give the same clip",
    cast="Who speaks a dialogue with which voice of /voices: Alice=VOICE, Bob=VOICE",
)
async def bark(
    interaction: Interaction,
    text: str,
    preset: str | None = None,
    to: Destinations | None = None,
    format: Formats = "ogg",
    temperature: app_commands.Range[float, 0.0, 2.0] | None = None,
    seed: app_commands.Range[int, 0, SEED_LIMIT] | None = None,
    cast: str | None = None,
) -> None:
    services = services_of(interaction)
    answer = Answer(interaction, services.clock)
    check_access(interaction, services.settings.discord)
    spoken = await speakable(interaction, text, services.settings.limits.text_length)
    voice, notes = await answer.in_time(
        resolve_voice(services, preset, user_id=interaction.user.id, guild_id=interaction.guild_id)
    )
    voices = {
        name: known_voice(services, named) for name, named in parse_cast([cast or ""]).items()
    }
    player, wants_file, told = destination(interaction, services, to)
    if wants_file:
        require_file_permission(interaction)
    await place_order(
        interaction,
        services,
        answer,
        spoken,
        voice,
        sampling=sampling_of(temperature, seed, services.settings.limits.clip_seconds),
        fmt=AudioFormat[format.upper()],
        notes=(*notes, *told),
        player=player,
        wants_file=wants_file,
        cast=voices,
    )


async def complete_preset(interaction: Interaction, current: str) -> list[app_commands.Choice[str]]:
    found = services_of(interaction).catalogue.search(
        current, CHOICE_LIMIT, locale=str(interaction.locale)
    )
    return [app_commands.Choice(name=label(voice), value=voice.name) for voice in found]


async def complete_text(interaction: Interaction, current: str) -> list[app_commands.Choice[str]]:
    texts = [each for each in text.cue_completions(current) if len(each) <= VALUE_LIMIT]
    return [app_commands.Choice(name=each, value=each) for each in texts[:CHOICE_LIMIT]]


bark.autocomplete("preset")(complete_preset)
bark.autocomplete("text")(complete_text)


async def speakable(interaction: Interaction, written: str, limit: int) -> str:
    """The text as it is to be spoken. Raises UserError when there is nothing, or too much."""
    if len(written) > 6000:  # Discord's own limit; whoever passes it is no Discord client
        raise UserError(replies.text_too_long(len(written), limit))
    spoken = text.speakable(written, await names_in(interaction, written))
    if not spoken:
        raise UserError(replies.nothing_to_speak(written))
    if len(spoken) > limit:
        raise UserError(replies.text_too_long(len(spoken), limit))
    return spoken


def destination(
    interaction: Interaction, services: Services, to: Destinations | None
) -> tuple[ChannelPlayer | None, bool, tuple[str, ...]]:
    """Where the clip goes: a channel's player or None, whether a file is posted, and notes.

    By default it is spoken where the user is, if the bot may speak there, else it is a file.
    Raises UserError when it was to be spoken and cannot be.
    """
    if to == "file":
        return None, True, ()
    member = interaction.user
    if services.sessions is None or not isinstance(member, discord.Member):
        return None, True, (replies.NO_VOICE_HERE,) if to else ()
    channel = member.voice.channel if member.voice else None
    if channel is None:
        if to is None:
            return None, True, ()
        raise UserError(replies.NOT_IN_CHANNEL)
    if problem := problem_with_joining(channel, member):
        if to is None:
            return None, True, ()
        raise problem
    player = ChannelPlayer(
        services.sessions, services.transcoder, services.sounds, channel, member, services.clock
    )
    return player, to == "both", ()
