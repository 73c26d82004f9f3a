"""python -m bot demo: the same bot on a simulated Discord, in a page of the local browser.

Everything behind the page (commands, database, synthesis process) is what `run` has; there is no
token and there are no voice channels. Without a model of one's own the built-in one speaks.
"""

import asyncio
import importlib
import logging
import os
import signal
import socket
import sys
import tempfile
import webbrowser
from collections.abc import Callable, Coroutine, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bot.app import open_bot
from bot.config import Settings
from bot.delivery import Ear, Making, Order
from bot.demo_pace import PacedBackend
from bot.doctor import worker_settings
from bot.errors import StartError
from synth.client import Backend, ProcessBackend
from synth.protocol import BUILT_IN_MODEL, RANDOM_MODEL

if TYPE_CHECKING:
    from simcord import Env

RANDOM_JOB_S = 6.0  # three edits of the status: it moves, and Cancel can be reached


async def demo(
    settings: Settings,
    *,
    port: int = 0,
    model: str | None = None,
    browser: bool = True,
    tell: Callable[[str], None],
) -> int:
    """Serve the page until it is ended there, by Ctrl-C or by SIGTERM.

    port: 0 for any. model: a checkpoint to speak with, instead of the one inside the package.
    browser: open the page where there is a screen. tell: gets what the terminal is to show.
    The database is a temporary one. Raises StartError.
    """
    _require_packages()
    _require_port(port)
    with tempfile.TemporaryDirectory(prefix="bark-demo-", ignore_cleanup_errors=True) as folder:
        tell("Starting; the database is in a temporary folder and goes with the demo.")
        settings = demo_settings(settings, Path(folder), model or BUILT_IN_MODEL)
        await serve(settings, demo_backend(settings), port=port, browser=browser, tell=tell)
    tell("The demo has ended.")
    return 0


def demo_settings(settings: Settings, folder: Path, model: str) -> Settings:
    """The settings with another model, a database in `folder`, and no pause between clips."""
    synth: dict[str, Any] = {"model": model}
    if model == RANDOM_MODEL:
        # One slot, so that a queue can be seen; so small that threads only wait for each other.
        synth |= {"slots": 1, "threads": 1}
    return settings.model_copy(
        update={
            "data_folder": folder,
            "synth": settings.synth.model_copy(update=synth),
            "limits": settings.limits.model_copy(update={"cooldown_s": 0.0}),
        }
    )


def demo_backend(settings: Settings) -> Backend:
    backend = ProcessBackend(worker_settings(settings))
    if settings.synth.model == RANDOM_MODEL:
        return PacedBackend(backend, RANDOM_JOB_S)
    return backend


async def serve(
    settings: Settings,
    backend: Backend,
    *,
    port: int = 0,
    browser: bool = False,
    tell: Callable[[str], None],
) -> None:
    """The bot, the simulation around it, and the page; until the page is closed."""
    import simcord

    from bot.demo_page import LivePage, furnish
    from bot.demo_sound import PageSounds

    environment: list[Env] = []
    speaks = settings.synth.model != RANDOM_MODEL
    sounds: PageSounds | None = None

    def ear(order: Order, making: Making) -> Ear:
        assert sounds is not None
        return sounds.ear(order.request.voice, making.sample_rate)

    async def waiting(awaitable: Coroutine[Any, Any, Any]) -> Any:
        # simcord stands still until the bot has nothing to do; a job is not to hold it up.
        return await environment[0].external_wait(awaitable, reason="a job of the speech engine")

    async with open_bot(
        settings, backends=[backend], waiting=waiting, voice=False, ear=ear if speaks else None
    ) as client:
        if speaks:  # nobody is to have noise played at them unasked
            ffmpeg = client.services.transcoder.ffmpeg
            sounds = PageSounds(ffmpeg, target_lufs=settings.voice.loudness_lufs)
        async with simcord.run(client, check_errors=False) as env:
            environment.append(env)
            channel, person = await furnish(env, client, speaks=speaks)
            try:
                async with LivePage(env, channel, person, port, sounds) as page:
                    with _closed_by_sigterm(page.close):  # before anybody hears that it runs
                        tell(f"The demo is at {page.url}")
                        tell("Open it in a browser on this machine; Ctrl-C ends the demo.")
                        if browser and _has_screen():
                            await asyncio.to_thread(webbrowser.open, page.url)
                        await page.wait_closed()
            except simcord.SetupError as error:
                if isinstance(error.__cause__, OSError):  # somebody took it since we looked
                    raise StartError(_port_sentence(port, error.__cause__)) from error
                raise


def _require_packages() -> None:
    logger = logging.getLogger("discord.state")
    level = logger.level
    logger.setLevel(logging.ERROR)  # simcord tries a client without intents, which is warned of
    try:
        importlib.import_module("bot.demo_page")
    except ImportError as error:
        raise StartError(
            f"The demo needs packages that are not here ({error.name}): pip install '.[demo]'"
        ) from error
    finally:
        logger.setLevel(level)


def _require_port(port: int) -> None:
    """Looked at before the model is loaded, so that nobody waits for the news."""
    if not 0 <= port <= 65535:
        raise StartError(f"There is no port {port}; choose one from 1 to 65535 with --port.")
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError as error:
        raise StartError(_port_sentence(port, error)) from error


def _port_sentence(port: int, error: OSError) -> str:
    why = os.strerror(error.errno) if error.errno else str(error)
    return f"Port {port} cannot be used ({why}); choose another with --port, or leave it out."


def _has_screen() -> bool:
    """Elsewhere `webbrowser` may open one in the terminal, on top of what is told there."""
    return sys.platform in ("win32", "darwin") or any(
        name in os.environ for name in ("DISPLAY", "WAYLAND_DISPLAY")
    )


@contextmanager
def _closed_by_sigterm(close: Callable[[], Coroutine[Any, Any, None]]) -> Generator[None]:
    loop = asyncio.get_running_loop()
    closing: list[asyncio.Task[None]] = []
    try:
        loop.add_signal_handler(signal.SIGTERM, lambda: closing.append(loop.create_task(close())))
    except (NotImplementedError, RuntimeError):  # Windows, or not the main thread
        yield
        return
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGTERM)
