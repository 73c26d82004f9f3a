"""python -m bot demo: the same bot on a simulated Discord, in a page of the local browser.

Knows simcord. Everything behind it (commands, database, synthesis process) is what `run` has; the
model is a random one that makes noise, there are no voice channels, and no token is needed.
"""

import asyncio
import tempfile
import webbrowser
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any

import discord

from bot import replies
from bot.app import open_bot
from bot.client import BarkClient
from bot.config import Settings
from bot.errors import StartError
from synth.protocol import RANDOM_MODEL

if TYPE_CHECKING:
    from simcord.env import Env


async def demo(
    settings: Settings, *, port: int = 0, tell: Callable[[str], None], browser: bool = True
) -> int:
    """Serve the page until it is ended there or by Ctrl-C. `tell` gets its address.

    Raises StartError when the demo's packages are not installed.
    """
    try:
        import simcord
        from simcord import preview as _  # noqa: F401
    except ImportError as error:
        raise StartError(
            f"The demo needs packages that are not here ({error.name}): pip install '.[demo]'"
        ) from error
    environment: list[Env] = []

    async def waiting(awaitable: Coroutine[Any, Any, Any]) -> Any:
        # simcord stands still until the bot has nothing to do; a job is not to hold it up.
        return await environment[0].external_wait(awaitable, reason="a job of the speech engine")

    with tempfile.TemporaryDirectory(prefix="bark-demo-") as folder:
        async with open_bot(
            demo_settings(settings, Path(folder)), waiting=waiting, voice=False
        ) as client:
            async with simcord.run(client, check_errors=False) as env:
                environment.append(env)
                await _serve(env, client, port, tell, browser)
    return 0


def demo_settings(settings: Settings, folder: Path) -> Settings:
    """The settings with the random model and a database that is thrown away."""
    synth = settings.synth.model_copy(update={"model": RANDOM_MODEL})
    return settings.model_copy(update={"data_folder": folder, "synth": synth})


async def _serve(
    env: "Env", client: BarkClient, port: int, tell: Callable[[str], None], browser: bool
) -> None:
    guild = env.create_guild("Bark")
    channel = guild.create_text_channel("try-it-here")
    viewer = guild.add_member(env.create_user("you"))
    await env.settle()
    room = client.get_channel(channel.id)
    assert isinstance(room, discord.TextChannel)
    await room.send(replies.demo_welcome(client.services.ready.notice))
    async with env.preview(
        channel, viewers=[viewer], layout="channel", port=port or None
    ) as preview:
        tell(f"The demo is at {preview.url}")
        if browser:
            await asyncio.to_thread(webbrowser.open, preview.url)
        await preview.wait_closed()
