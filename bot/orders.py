"""From a checked request to the desk, the same way for commands and buttons."""

import secrets
from collections.abc import Mapping

from bot.access import Interaction
from bot.answer import Answer
from bot.delivery import Order, Player
from bot.services import Services
from bot.speech import SpeechRequest
from synth.audio import AudioFormat
from synth.protocol import Sampling

SEED_LIMIT = 2**31


def sampling_of(temperature: float | None, seed: int | None, max_seconds: float) -> Sampling:
    """`temperature` is for words and waveform; detail follows only at 0, which is greedy."""
    return Sampling(
        text_temperature=temperature,
        waveform_temperature=temperature,
        fine_temperature=0.0 if temperature == 0 else None,
        seed=secrets.randbelow(SEED_LIMIT) if seed is None else seed,
        max_seconds=max_seconds,
    )


async def place_order(
    interaction: Interaction,
    services: Services,
    answer: Answer,
    spoken: str,
    voice: str | None,
    *,
    sampling: Sampling,
    fmt: AudioFormat = AudioFormat.OGG,
    notes: tuple[str, ...] = (),
    player: Player | None = None,
    wants_file: bool = True,
    cast: Mapping[str, str] | None = None,
) -> None:
    """Hand the request to the desk, which gives the answer. cast: speakers' voices."""
    request = SpeechRequest(
        job_id=secrets.token_hex(8),
        user=str(interaction.user.id),
        text=spoken,
        voice=voice,
        sampling=sampling,
        cast=cast or {},
        live=player is not None or services.desk.overheard,
        most_s=services.settings.limits.clip_seconds,
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
            player=player,
            wants_file=wants_file,
        ),
        answer,
    )
