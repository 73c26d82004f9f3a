"""The composition root: opens the store, the speech engine and the Discord client, in this order,
and closes them in the other. Everything is checked before login.
"""

import asyncio
import logging
import signal
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager

import aiohttp
import discord

from bot.buttons import controls
from bot.catalogue import Catalogue
from bot.client import BarkClient
from bot.config import Settings
from bot.delivery import Delivery, Ear, Making, Order
from bot.desk import Clock, Desk
from bot.doctor import check_voice_libraries, worker_settings
from bot.errors import StartError
from bot.heartbeat import heartbeat, heartbeat_file
from bot.live_clip import LiveSounds
from bot.playback import VoiceLimits, VoiceSessions
from bot.services import Services
from bot.speech import Speech, Waiting, plainly
from bot.store import open_store
from bot.transcode import Transcoder
from synth.audio import open_ffmpeg
from synth.client import Backend, ProcessBackend, SynthClient
from synth.errors import SynthError
from synth.interpreter import python
from synth.protocol import RANDOM_MODEL, Streaming

logger = logging.getLogger(__name__)


@asynccontextmanager
async def open_bot(
    settings: Settings,
    *,
    backends: Sequence[Backend] | None = None,
    clock: Clock = time.perf_counter,
    wall_clock: Callable[[], float] = time.time,
    waiting: Waiting = plainly,
    voice: bool = True,
    ear: Callable[[Order, Making], Ear] | None = None,
    tell: Callable[[str], None] = logger.info,
) -> AsyncGenerator[BarkClient]:
    """Everything the bot needs, open and checked, and a client that is ready to log in.

    backends: where synthesis runs; default: a process of its own, as the settings say.
    waiting: how events from outside are awaited. voice: whether there are voice channels. ear: who
    hears clips that go to none. tell: gets what the owner is to read whatever the log level, such
    as the invite.
    Raises StartError with one sentence that names the remedy.
    """
    if voice:
        check_voice_libraries()
    transcoder = _transcoder(settings)
    async with open_store(settings.database, wall_clock) as store:
        async with SynthClient(
            backends or [ProcessBackend(worker_settings(settings))],
            queue_limit=settings.limits.queue_length,
            deadline_s=settings.synth.deadline_s,
            streaming=Streaming(settings.synth.streaming),
            rerolls=settings.synth.rerolls,
        ) as synth:
            try:
                ready = await synth.ready()
            except SynthError as error:
                raise StartError(str(error)) from error
            sessions = VoiceSessions(voice_limits(settings), clock=clock) if voice else None
            client = BarkClient(proxy=settings.discord.proxy or None, tell=tell)
            client.interrupted = await store.interrupt_open_jobs()
            desk = Desk(
                store,
                Speech(synth, waiting=waiting, clock=clock),
                Delivery(store, transcoder, notice=ready.notice),
                settings.limits,
                controls=controls,
                fail=client.fail_job,
                clock=clock,
                ear=ear,
            )
            client.services = Services(
                settings=settings,
                store=store,
                synth=synth,
                ready=ready,
                catalogue=Catalogue(ready.voices),
                desk=desk,
                transcoder=transcoder,
                sounds=LiveSounds(transcoder.ffmpeg, target_lufs=settings.voice.loudness_lufs),
                sessions=sessions,
                clock=clock,
            )
            logger.info("%s is ready on %s (%s)", ready.model, ready.device, ready.precision)
            try:
                yield client
            finally:
                await client.close()


def voice_limits(settings: Settings) -> VoiceLimits:
    voice = settings.voice
    return VoiceLimits(
        join_s=voice.connect_timeout_s,
        alone_s=voice.alone_leave_s,
        idle_s=voice.idle_leave_s,
        queue=voice.queue_length,
    )


def _transcoder(settings: Settings) -> Transcoder:
    try:
        ffmpeg = open_ffmpeg(settings.ffmpeg or None)
        return Transcoder(ffmpeg, target_lufs=settings.voice.loudness_lufs)
    except SynthError as error:
        raise StartError(str(error)) from error


async def run(settings: Settings, token: str, tell: Callable[[str], None]) -> int:
    """Log in and stay until Ctrl-C or SIGTERM. Raises StartError."""
    if settings.synth.model == RANDOM_MODEL:
        raise StartError(
            "The random model makes noise and is for tests only: set synth.model to nano, or run "
            f"`{python()} -m synth fetch suno/bark-small` and set it to suno/bark-small."
        )
    async with (
        open_bot(settings, tell=tell) as client,
        _until_told(client),
        heartbeat(heartbeat_file(settings.data_folder), client.is_well),
    ):
        try:
            await client.start(token)
        except discord.LoginFailure as error:
            raise StartError(
                "Discord does not take the token; reset it at "
                "https://discord.com/developers/applications and set DISCORD_TOKEN anew."
            ) from error
        except (OSError, aiohttp.ClientError) as error:  # no bad setting: trying again may help
            logger.error(
                "Discord cannot be reached (%s); check the network or discord.proxy", error
            )
            return 1
        except (discord.HTTPException, discord.GatewayNotFound, discord.ConnectionClosed) as error:
            logger.error("Discord does not let the bot in at the moment (%s); try again", error)
            return 1
    return 0


@asynccontextmanager
async def _until_told(client: BarkClient) -> AsyncGenerator[None]:
    """SIGTERM, as from a service manager or a container, and Ctrl-C close the client in order.

    Ctrl-C left to asyncio cancels the connection first, and then nobody can be told any more.
    """
    loop = asyncio.get_running_loop()
    closing: set[asyncio.Task[None]] = set()

    def close() -> None:
        task = asyncio.create_task(client.close())
        closing.add(task)

    signals = (signal.SIGTERM, signal.SIGINT)
    try:
        for number in signals:
            loop.add_signal_handler(number, close)
    except NotImplementedError:  # Windows: there Ctrl-C is all there is
        yield
        return
    try:
        yield
    finally:
        for number in signals:
            loop.remove_signal_handler(number)
        await asyncio.gather(*closing, return_exceptions=True)
