"""One run of discord.py's player thread, as something to be awaited."""

import asyncio
import contextlib
from typing import Any

import discord

from bot.opus_source import OpusSource
from bot.voice_link import VoiceLink


async def play_packets(
    link: VoiceLink, source: OpusSource, until: "asyncio.Future[Any]"
) -> Exception | None:
    """Play `source` until it ends, the connection goes, or `until` is done.

    Returns the player's error. There is none when the connection was lost: only what the source
    has left tells.
    """
    loop = asyncio.get_running_loop()
    over: asyncio.Future[Exception | None] = loop.create_future()

    def after(error: Exception | None) -> None:  # in the player thread
        with contextlib.suppress(RuntimeError):  # the loop has closed: nobody listens
            loop.call_soon_threadsafe(settle, over, error)

    try:
        link.play(source, after=after)
    except discord.ClientException as error:
        return error if link.is_connected() else None
    try:
        await asyncio.wait({over, until}, return_when=asyncio.FIRST_COMPLETED)
        if over.done():
            return over.result()
    finally:
        link.stop()
    # The thread ends with its next packet; until then it must not share the source's place in the
    # timeline with the next player.
    await asyncio.wait({over}, timeout=1)
    return None


def settle(future: "asyncio.Future[Any]", value: object) -> None:
    """Give a future its result, unless it has one."""
    if not future.done():
        future.set_result(value)
