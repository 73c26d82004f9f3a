"""Start the real bot, `python -m bot ...`, with the stand-in in Discord's place.

Only where Discord is gets changed, and only in this process. The stand-in's certificate is trusted
through SSL_CERT_FILE, which the environment sets.
"""

import os
import runpy

import yarl
from discord.gateway import DiscordWebSocket
from discord.http import Route

# A spawned worker imports this file under another name and must not start a second bot.
if __name__ == "__main__":
    Route.BASE = os.environ["STAND_IN_API"]
    DiscordWebSocket.DEFAULT_GATEWAY = yarl.URL(os.environ["STAND_IN_GATEWAY"])
    runpy.run_module("bot", run_name="__main__")
