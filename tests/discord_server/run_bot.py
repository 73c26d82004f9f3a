"""Start the real bot, `python -m bot ...`, with the stand-in in Discord's place.

Only where Discord is gets changed, and only in this process; and the engine, where STAND_IN_ENGINE
names the function that loads another. With STAND_IN_NEEDED_S clips are heard when so many seconds
are made, however quick the machine is. The stand-in's certificate is trusted through SSL_CERT_FILE,
which the environment sets.
"""

import os
import runpy
from dataclasses import replace

import yarl
from discord.gateway import DiscordWebSocket
from discord.http import Route

from bot import app
from synth.audio import Paces

# A spawned worker imports this file under another name and must not start a second bot.
if __name__ == "__main__":
    Route.BASE = os.environ["STAND_IN_API"]
    DiscordWebSocket.DEFAULT_GATEWAY = yarl.URL(os.environ["STAND_IN_GATEWAY"])
    if factory := os.environ.get("STAND_IN_ENGINE"):
        settings_of = app.worker_settings
        app.worker_settings = lambda settings: replace(settings_of(settings), factory=factory)
    if "STAND_IN_NEEDED_S" in os.environ:
        needed_s = float(os.environ["STAND_IN_NEEDED_S"])
        setattr(Paces, "needed_s", lambda *_: needed_s)  # noqa: B010 - a type checker's rule
    runpy.run_module("bot", run_name="__main__")
