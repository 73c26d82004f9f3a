"""The child dies with its parent, however the parent dies, and whatever the child is doing."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pytest

posix = pytest.mark.skipif(os.name != "posix", reason="signals as POSIX has them")

# Says "at work" with the child's process id once the child is doing what its job says, and waits.
PARENT = """
import asyncio, sys
from synth.client import ProcessBackend, SynthClient
from synth.protocol import Accepted, Audio
from tests.synth import scripted

async def main(model, text):
    backend = ProcessBackend(scripted.settings(model))
    async with SynthClient([backend]) as client:
        if model == "stuck":
            while backend.pid is None:
                await asyncio.sleep(0)
            print("at work", backend.pid, flush=True)
            await client.ready()
        await client.ready()
        async with client.submit("chunk " + text, user="a") as job:
            async for event in job:
                if isinstance(event, Audio):
                    print("at work", backend.pid, flush=True)

try:
    asyncio.run(main(*sys.argv[1:]))
except KeyboardInterrupt:
    print("goodbye", flush=True)
"""
STATES = [("ok", "hold"), ("ok", "hang"), ("stuck", "")]


@contextmanager
def parent(*args: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A parent in a process group of its own, its child at work; with the child's id."""
    started = subprocess.Popen(
        [sys.executable, "-c", PARENT, *args],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    with started:
        try:
            assert started.stdout
            words = started.stdout.readline().split()
            assert words[:2] == ["at", "work"], started.stderr and started.stderr.read()
            yield started, int(words[2])
        finally:
            started.kill()


def rest(stream: IO[str] | None) -> str:
    """Read to the end of a pipe that the parent and all its children hold open while they live."""
    assert stream
    return stream.read()


@posix
@pytest.mark.timeout(20)
@pytest.mark.parametrize(("model", "text"), STATES)
def test_a_killed_parent_leaves_no_child(model: str, text: str) -> None:
    with parent(model, text) as (started, child):
        os.kill(child, 0)  # it lives
        started.kill()
        # The timeout of this test is what says that the child did not end.
        assert (rest(started.stdout), rest(started.stderr)) == ("", "")


@posix
@pytest.mark.parametrize(("model", "text"), STATES)
def test_ctrl_c_ends_both_at_once_and_without_noise(model: str, text: str) -> None:
    with parent(model, text) as (started, _):
        os.killpg(started.pid, signal.SIGINT)
        out, err = started.communicate(timeout=5)  # the promise; in practice a tenth of a second
        assert (out, err) == ("goodbye\n", "")
        assert started.returncode == 0


@posix
def test_ctrl_c_does_not_reach_a_child_that_cannot_ignore_it_yet() -> None:
    """The first spawn of a process used to start its child with SIGINT unblocked."""
    code = """
import asyncio, os, signal
from synth.client import ProcessBackend
from tests.synth import scripted
async def main():
    backend = ProcessBackend(scripted.settings())
    starting = asyncio.create_task(backend.start())
    while not starting.done():
        if backend.pid:
            os.kill(backend.pid, signal.SIGINT)
        await asyncio.sleep(0)
    print((await starting).model)
    await backend.close()
asyncio.run(main())
"""
    assert run(code) == ("ok\n", "")


@posix
def test_a_parent_that_forgets_to_close_leaves_no_child() -> None:
    code = """
import asyncio
from synth.client import ProcessBackend
from tests.synth import scripted
async def main():
    print((await ProcessBackend(scripted.settings()).start()).model)
asyncio.run(main())
"""
    assert run(code) == ("ok\n", "")


def run(code: str) -> tuple[str, str]:
    """Run a parent to its end, and its child: both hold the pipes that are read here."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=20,
        check=True,
    )
    return done.stdout, done.stderr
