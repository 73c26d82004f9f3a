"""A small stand-in for Discord on loopback: REST, gateway, voice gateway and voice over UDP.

    async with DiscordServer() as discord:
        ...start a bot at discord.environment()...
        await discord.command(alice, "bark", text="Hello")

What a bot does is written into one journal, which tests wait on; what it does wrong (a late
acknowledgement, a privileged intent, an oversize file) is refused as Discord refuses it and kept as
a failure. Knows nothing of the bot under test.

    server.py       the composition root, and what a test does with it
    journal.py      what happened, in order; waiting for it
    world.py        users, a guild, channels, permissions, voice states
    gateway.py      the main gateway: identify, resume, dispatch
    rest.py         the HTTP API; faults.py: rate limits and errors on demand
    interactions.py commands, buttons and what was answered to them
    voice_gateway.py, voice_connection.py, udp.py, dave.py, mls.py    voice and its two encryptions
    recording.py    what a listener heard: packets -> sound, gaps, bursts
    fixtures.py     the real bot as a process of its own beside it: run_bot.py, bot_process.py
"""

from tests.discord_server.server import DiscordServer

__all__ = ["DiscordServer"]
