"""/bark: text in, speech out."""

import secrets
from typing import Literal

from discord import app_commands

from bot import replies, text
from bot.access import Interaction, check_access, require_file_permission
from bot.answer import Answer
from bot.catalogue import label
from bot.desk import Order
from bot.errors import UserError
from bot.preferences import resolve_voice
from bot.services import Services, services_of
from bot.speech import SpeechRequest
from synth.audio import AudioFormat
from synth.protocol import Sampling

CHOICE_LIMIT = 25
VALUE_LIMIT = 100  # characters an autocompleted value may have
SEED_LIMIT = 2**31

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
)
async def bark(
    interaction: Interaction,
    text: str,
    preset: str | None = None,
    to: Destinations | None = None,
    format: Formats = "ogg",
    temperature: app_commands.Range[float, 0.0, 2.0] | None = None,
    seed: app_commands.Range[int, 0, SEED_LIMIT] | None = None,
) -> None:
    services = services_of(interaction)
    check_access(interaction, services.settings.discord)
    spoken = speakable(interaction, text, services.settings.limits.text_length)
    voice, notes = await resolve_voice(
        services, preset, user_id=interaction.user.id, guild_id=interaction.guild_id
    )
    require_file_permission(interaction)
    await order(
        interaction,
        services,
        spoken,
        voice,
        sampling=sampling_of(temperature, seed, services.settings.limits.clip_seconds),
        fmt=AudioFormat[format.upper()],
        notes=notes,
    )


@bark.autocomplete("preset")
async def complete_preset(interaction: Interaction, current: str) -> list[app_commands.Choice[str]]:
    found = services_of(interaction).catalogue.search(
        current, CHOICE_LIMIT, locale=str(interaction.locale)
    )
    return [app_commands.Choice(name=label(voice), value=voice.name) for voice in found]


@bark.autocomplete("text")
async def complete_text(interaction: Interaction, current: str) -> list[app_commands.Choice[str]]:
    texts = [each for each in text.cue_completions(current) if len(each) <= VALUE_LIMIT]
    return [app_commands.Choice(name=each, value=each) for each in texts[:CHOICE_LIMIT]]


def speakable(interaction: Interaction, written: str, limit: int) -> str:
    """The text as it is to be spoken. Raises UserError when there is nothing, or too much."""
    if len(written) > 6000:  # Discord's own limit; whoever passes it is no Discord client
        raise UserError(replies.text_too_long(len(written), limit))
    spoken = text.speakable(written, names_of(interaction))
    if not spoken:
        raise UserError(replies.nothing_to_speak(written))
    if len(spoken) > limit:
        raise UserError(replies.text_too_long(len(spoken), limit))
    return spoken


def names_of(interaction: Interaction) -> text.Names:
    """Names the bot knows anyway; nothing is fetched."""
    guild = interaction.guild
    if guild is None:
        return text.Names()

    def user(user_id: int) -> str | None:
        member = guild.get_member(user_id)
        return member.display_name if member else None

    def role(role_id: int) -> str | None:
        found = guild.get_role(role_id)
        return found.name if found else None

    def channel(channel_id: int) -> str | None:
        found = guild.get_channel_or_thread(channel_id)
        return found.name if found else None

    return text.Names(user, role, channel)


def sampling_of(temperature: float | None, seed: int | None, max_seconds: float) -> Sampling:
    """`temperature` is for words and waveform; detail follows only at 0, which is greedy."""
    return Sampling(
        text_temperature=temperature,
        waveform_temperature=temperature,
        fine_temperature=0.0 if temperature == 0 else None,
        seed=secrets.randbelow(SEED_LIMIT) if seed is None else seed,
        max_seconds=max_seconds,
    )


async def order(
    interaction: Interaction,
    services: Services,
    spoken: str,
    voice: str | None,
    *,
    sampling: Sampling,
    fmt: AudioFormat = AudioFormat.OGG,
    notes: tuple[str, ...] = (),
    ephemeral: bool = False,
) -> None:
    """Hand the request to the desk, which answers the interaction."""
    request = SpeechRequest(
        job_id=secrets.token_hex(8),
        user=str(interaction.user.id),
        text=spoken,
        voice=voice,
        sampling=sampling,
    )
    await services.desk.take(
        Order(
            request=request,
            user_id=interaction.user.id,
            guild_id=interaction.guild_id,
            channel_id=interaction.channel_id,
            fmt=fmt,
            limit_bytes=interaction.filesize_limit,
            notes=notes,
        ),
        Answer(interaction, services.clock, ephemeral=ephemeral),
    )
