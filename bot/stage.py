"""Becoming a speaker on a stage channel, where everyone arrives in the audience."""

import asyncio
import logging

import discord

from bot.voice_problems import VoiceProblem, VoiceReason

log = logging.getLogger(__name__)


async def take_the_floor(
    channel: discord.StageChannel, on_floor: asyncio.Event, *, within_s: float = 5
) -> None:
    """Become a speaker, or ask to. Raises VoiceProblem while the bot is in the audience.

    `on_floor` is set by whoever hears of the bot's voice state once it may speak.
    """
    me = channel.guild.me
    if me.voice is None or not me.voice.suppress:
        return
    on_floor.clear()
    try:
        async with asyncio.timeout(within_s):
            if channel.permissions_for(me).mute_members:
                await me.edit(suppress=False)
                await on_floor.wait()
                return
            await me.request_to_speak()
    except (TimeoutError, discord.HTTPException) as error:
        log.info("not a speaker on stage %s: %s", channel.id, error)
    raise VoiceProblem(VoiceReason.STAGE_AUDIENCE, channel)
