"""python -m bot doctor: everything the bot needs, checked one by one, each failure with its remedy.

`run` makes the same checks before login; here they are told one a line, and all of them.
"""

import base64
import binascii
import importlib
import logging
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from bot.access import CORE_PERMISSIONS, invite_url
from bot.config import Settings, read_token
from bot.errors import StartError
from bot.heartbeat import heartbeat_file, is_fresh
from bot.store import open_store
from synth.audio import open_ffmpeg
from synth.client import ProcessBackend, SynthClient, WorkerSettings
from synth.errors import SynthError
from synth.interpreter import python
from synth.protocol import BUILT_IN_MODEL

_VOICE_LIBRARIES = {"davey": "end-to-end encryption", "nacl": "encryption (PyNaCl)"}


@dataclass(frozen=True)
class Check:
    """One line of the report. A failed check's `text` names the remedy."""

    name: str
    ok: bool
    text: str


async def doctor(settings: Settings, tell: Callable[[str], None]) -> int:
    """Check everything and tell each result; 0 when all is well, else 78."""
    worst = 0
    async for check in checks(settings):
        tell(f"{'ok    ' if check.ok else 'FAILED'}  {check.name}: {check.text}")
        worst = worst or (0 if check.ok else 78)
    return worst


async def alive(settings: Settings, tell: Callable[[str], None]) -> int:
    """Whether a bot with these settings runs and is well: 0, else 1. For health checks."""
    if is_fresh(heartbeat_file(settings.data_folder), time.time()):
        tell("the bot is running and connected")
        return 0
    tell("no bot is running with these settings, or it has lost Discord; see its log")
    return 1


async def checks(settings: Settings) -> AsyncIterator[Check]:
    yield Check("configuration", True, "every setting is known and in range")
    token = ""
    try:
        token = read_token()
        yield Check("token", True, "there is one; Discord is asked only at login")
    except StartError as error:
        yield Check("token", False, str(error))
    try:
        check_voice_libraries()
        yield Check("voice libraries", True, "davey and PyNaCl are installed")
    except StartError as error:
        yield Check("voice libraries", False, str(error))
    try:
        yield Check("FFmpeg", True, open_ffmpeg(settings.ffmpeg or None).path)
    except SynthError as error:
        yield Check("FFmpeg", False, str(error))
    try:
        async with open_store(settings.database):
            yield Check("database", True, str(settings.database))
    except StartError as error:
        yield Check("database", False, str(error))
    yield await _model(settings)
    yield Check("permissions", True, f"the bot asks for {CORE_PERMISSIONS.value}")
    yield _invite(token)


def check_voice_libraries() -> None:
    """Raises StartError when discord.py could not speak in a voice channel."""
    for module, purpose in _VOICE_LIBRARIES.items():
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise StartError(
                f"Voice channels need {module} for {purpose}, and it cannot be loaded ({error}); "
                "install it with: pip install 'discord.py[voice]'"
            ) from error


def worker_settings(settings: Settings) -> WorkerSettings:
    """The settings as the synthesis process takes them."""
    return WorkerSettings(
        model=settings.synth.model,
        device=settings.synth.device,
        precision=settings.synth.precision,
        turbo=settings.synth.turbo,
        graphs=settings.synth.graphs,
        slots=settings.synth.slots or None,
        threads=settings.synth.threads or None,
        log_level=logging.getLevelNamesMapping()[settings.log_level.upper()],
    )


async def _model(settings: Settings) -> Check:
    async with SynthClient([ProcessBackend(worker_settings(settings))]) as synth:
        try:
            ready = await synth.ready()
        except SynthError as error:
            return Check("model", False, str(error))
    voices = len(ready.voices)
    found = f"{ready.model} loads on {ready.device} ({ready.precision}) and has {voices} voices"
    if ready.model == BUILT_IN_MODEL:
        found += f" (Bark itself: {python()} -m synth fetch suno/bark-small)"
    return Check("model", True, f"{found}; {ready.memory}" if ready.memory else found)


def _invite(token: str) -> Check:
    application_id = application_id_of(token)
    if application_id is None:
        return Check("invite", False, "the address is in the token: set DISCORD_TOKEN first")
    return Check("invite", True, invite_url(application_id))


def application_id_of(token: str) -> int | None:
    """The id that a bot token begins with, or None."""
    first = token.partition(".")[0]
    try:
        return int(base64.urlsafe_b64decode(first + "=" * (-len(first) % 4)))
    except (ValueError, binascii.Error):
        return None
