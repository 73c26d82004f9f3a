"""Fifty clips heard while they are made, by the bot in a process of its own: when the first packet
comes, and how evenly all of them do.

The engine makes its sound unevenly, at 0.35 to 0.85 s of work a second. `busy`: beside as many
loops as the machine has cores.
"""

from __future__ import annotations

import logging
import os
import random
import re
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.discord_server import DiscordServer, recording
from tests.discord_server.bot_process import SETTINGS, BotProcess
from tests.discord_server.hearing import Hearing
from tests.synth.scripted import CHUNK, RATE, SPEECH

pytestmark = [pytest.mark.slow, pytest.mark.timeout(500)]

CLIPS = 50
PIECES = 10  # of 0.2 s
WORK_S = 0.05


def script(rng: random.Random) -> tuple[str, float]:
    """What a clip's engine does, in so few letters that it is one utterance, and how much work that
    is, in seconds.
    """
    rtf = rng.uniform(0.35, 0.85)
    owed, words, works = 0.0, [], 0
    for _ in range(PIECES):
        owed += 0.2 * rtf / WORK_S
        count = min(round(owed), rng.choice([0, 2, 4, 8])) if rng.random() < 0.5 else int(owed)
        owed -= count
        works += count
        words += ["um"] * count + ["ah"]
    return " ".join(words), works * WORK_S


@pytest.fixture(params=["calm", "busy"])
def host(request: pytest.FixtureRequest) -> Iterator[str]:
    loops = os.cpu_count() or 1 if request.param == "busy" else 0
    begun = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(loops)]
    yield request.param
    for loop in begun:
        loop.kill()
        loop.wait()


async def test_fifty_clips_come_evenly_and_early(host: str, tmp_path: Path) -> None:
    settings = SETTINGS | {
        "BARK_SYNTH__MODEL": "ok",
        "BARK_LIMITS__CLIP_SECONDS": "16",
        "BARK_VOICE__ALONE_LEAVE_S": "60",
        "STAND_IN_ENGINE": "tests.synth.scripted:load",
    }
    rng = random.Random(4)
    first_s, works_s, gaps_s, bursts, silent, lost = [], [], [], [], 0, 0
    alike: list[float] = []
    speech = SPEECH[: 2 * PIECES * CHUNK]
    wanted = np.interp(np.arange(len(speech) * 2) / 2, np.arange(len(speech)), speech)
    assert RATE * 2 == recording.RATE
    async with (
        DiscordServer(heartbeat_s=1) as server,
        BotProcess(server, tmp_path, **settings) as bot,
    ):
        await server.join_voice(server.world.alice, server.world.lounge)
        for _ in range(CLIPS):
            text, work_s = script(rng)
            hearing = Hearing(server)
            asked = await server.command(server.world.alice, "bark", text=text, to="voice")
            packets = await hearing.end()
            first_s.append(packets[0].arrived_s - asked.sent_s)
            works_s.append(work_s)
            gaps_s.append(recording.longest_gap_s(packets))
            bursts.append(recording.largest_burst(packets))
            silent += sum(packet.silent for packet in packets)
            lost += recording.missing(packets)
            alike.append(recording.similarity(recording.decode(packets), wanted)[0])
        underruns = sum(int(each) for each in re.findall(r"(\d+) underruns", bot.log))
        live = bot.log.count("while it is being made")
        assert not server.failures
    logging.getLogger(__name__).warning(
        "%s: %d clips of %.1f s, %d heard while made; first packet after %.2f s (median; %.2f to "
        "%.2f), work %.2f s (median); underruns %d, silent packets inside %d, lost %d; longest gap "
        "%.0f ms (median of the longest %.0f), largest burst %d; likeness %.3f at least",
        *(host, CLIPS, PIECES * 0.2, live),
        *(statistics.median(first_s), min(first_s), max(first_s), statistics.median(works_s)),
        *(underruns, silent, lost, max(gaps_s) * 1000, statistics.median(gaps_s) * 1000),
        *(max(bursts), min(alike)),
    )
    assert live >= CLIPS - 2  # the first tells how quick the engine is
    assert underruns == silent == lost == 0
    assert max(gaps_s) <= 0.25 and max(bursts) <= 12
    assert statistics.median(gaps_s) <= 0.1
    assert min(alike) > 0.95
