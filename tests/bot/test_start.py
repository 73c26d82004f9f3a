"""Before login: what is missing is said in one sentence, with the remedy and status 78."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path
from unittest.mock import create_autospec

import discord
import pytest

from bot import app
from bot.access import CORE_PERMISSIONS
from bot.app import open_bot
from bot.client import BarkClient
from bot.config import Settings, SynthSection
from bot.doctor import alive, application_id_of, checks
from bot.errors import StartError
from bot.heartbeat import heartbeat, heartbeat_file, is_fresh
from synth.protocol import RANDOM_MODEL
from tests.bot.harness import ScriptedBackend, ready

ROOT = Path(__file__).parents[2]
TOKEN = "MTIzNDU2Nzg5.a.b"


def python_m_bot(
    folder: Path, *arguments: str, **environment: str
) -> subprocess.CompletedProcess[str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("DISCORD_")}
    return subprocess.run(
        [sys.executable, "-m", "bot", *arguments],
        cwd=folder,
        env=kept | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )


def test_a_bad_setting_ends_with_78_and_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("[limits]\ncooldwn_s = 1\n")
    result = python_m_bot(tmp_path, "run", DISCORD_TOKEN=TOKEN)
    assert result.returncode == 78
    assert result.stderr.strip().splitlines() == [
        "config.toml has an unknown setting 'limits.cooldwn_s'; did you mean 'limits.cooldown_s'?"
    ]
    assert not (tmp_path / "data").exists()


def test_no_token_ends_with_78(tmp_path: Path) -> None:
    result = python_m_bot(tmp_path)
    assert result.returncode == 78
    assert "DISCORD_TOKEN" in result.stderr and "Traceback" not in result.stderr


def test_no_model_ends_with_78_and_names_the_command(tmp_path: Path) -> None:
    result = python_m_bot(
        tmp_path,
        DISCORD_TOKEN=TOKEN,
        HF_HOME=str(tmp_path / "empty"),
        BARK_SYNTH__MODEL="suno/bark",
    )
    assert result.returncode == 78
    assert " -m synth fetch suno/bark" in result.stderr.splitlines()[-1]
    assert result.stderr.count("is not on this machine") == 1  # the log said it, too
    assert "Traceback" not in result.stderr


def test_the_random_model_is_for_the_demo_only(tmp_path: Path) -> None:
    result = python_m_bot(tmp_path, DISCORD_TOKEN=TOKEN, BARK_SYNTH__MODEL=RANDOM_MODEL)
    assert result.returncode == 78
    assert "noise" in result.stderr and "synth fetch" in result.stderr


async def test_no_ffmpeg_is_told_before_anything_starts(tmp_path: Path) -> None:
    settings = Settings.model_construct(ffmpeg="/no/such/ffmpeg", data_folder=tmp_path / "data")
    with pytest.raises(StartError, match="FFmpeg|ffmpeg"):
        async with open_bot(settings, backends=[ScriptedBackend(ready())]):
            pass
    assert not (tmp_path / "data").exists()


async def test_no_voice_library_is_told_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "nacl", None)
    settings = Settings.model_construct(data_folder=tmp_path / "data")
    with pytest.raises(StartError, match=r"nacl.*pip install 'discord.py\[voice\]'"):
        async with open_bot(settings, backends=[ScriptedBackend(ready())]):
            pass
    assert not (tmp_path / "data").exists()


async def test_the_doctor_checks_everything_and_names_remedies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real model of the demo is loaded, in a process of its own."""
    monkeypatch.setenv("DISCORD_TOKEN", TOKEN)
    settings = Settings.model_construct(
        data_folder=tmp_path, synth=SynthSection(model=RANDOM_MODEL, threads=1, device="cpu")
    )
    report = {check.name: check async for check in checks(settings)}
    assert all(check.ok for check in report.values()), report
    assert "random loads on cpu" in report["model"].text
    assert "client_id=123456789" in report["invite"].text
    assert str(CORE_PERMISSIONS.value) in report["permissions"].text

    monkeypatch.delenv("DISCORD_TOKEN")
    monkeypatch.setitem(sys.modules, "davey", None)
    (tmp_path / "file").write_text("")
    bad = Settings.model_construct(
        ffmpeg="/no/such/ffmpeg",
        data_folder=tmp_path / "file",
        synth=SynthSection(model=str(tmp_path / "nowhere")),
    )
    report = {check.name: check async for check in checks(bad)}
    failed = {name for name, check in report.items() if not check.ok}
    assert failed == {"token", "voice libraries", "FFmpeg", "database", "model", "invite"}
    assert "discord.py[voice]" in report["voice libraries"].text
    assert "data_folder" in report["database"].text


async def test_a_health_check_sees_whether_the_bot_is_well(tmp_path: Path) -> None:
    settings = Settings.model_construct(data_folder=tmp_path)
    file = heartbeat_file(tmp_path)
    well, said = asyncio.Event(), list[str]()
    assert await alive(settings, said.append) == 1
    async with heartbeat(file, well.is_set, period_s=0.001):
        assert not file.exists()
        well.set()
        async with asyncio.timeout(10):
            while not file.exists():  # noqa: ASYNC110 (a file has no event)
                await asyncio.sleep(0)
        assert await alive(settings, said.append) == 0
        assert not is_fresh(file, file.stat().st_mtime + 61)
    assert await alive(settings, said.append) == 1
    assert "connected" in said[1] and "see its log" in said[2]


async def test_a_full_disk_does_not_stop_the_heart_for_good(tmp_path: Path) -> None:
    folder = tmp_path / "not yet there"
    file = folder / "alive"
    asked, go_on = 0, asyncio.Event()

    def well() -> bool:
        nonlocal asked
        asked += 1
        if asked == 3:
            folder.mkdir()
            go_on.set()
        return True

    async with heartbeat(file, well, period_s=0.001):
        await go_on.wait()
        async with asyncio.timeout(10):
            while not file.exists():  # noqa: ASYNC110 (a file has no event)
                await asyncio.sleep(0)


def test_the_health_check_is_a_command(tmp_path: Path) -> None:
    result = python_m_bot(tmp_path, "doctor", "--alive")
    assert (result.returncode, result.stderr) == (1, "")


def test_the_permissions_are_the_documented_ones() -> None:
    assert CORE_PERMISSIONS.value == 274881170432


@pytest.mark.parametrize(("token", "expected"), [(TOKEN, 123456789), ("", None), ("!!.a", None)])
def test_the_application_is_read_from_the_token(token: str, expected: int | None) -> None:
    assert application_id_of(token) == expected


async def test_the_bot_closes_in_order_when_the_start_fails_late(tmp_path: Path) -> None:
    settings = Settings.model_construct(data_folder=tmp_path)
    opened: list[BarkClient] = []
    with pytest.raises(RuntimeError, match="late"):
        async with open_bot(settings, backends=[ScriptedBackend(ready())]) as client:
            opened.append(client)
            raise RuntimeError("late")
    assert opened[0].is_closed()
    assert [t for t in asyncio.all_tasks() if t is not asyncio.current_task()] == []


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError("no route"), "check the network or discord.proxy"),
        (discord.GatewayNotFound(), "does not let the bot in at the moment"),
    ],
)
async def test_discord_out_of_reach_is_one_line_and_worth_another_try(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    error: Exception,
    words: str,
) -> None:
    """Some of the ways in which Discord can be unwell ended in a traceback."""
    settings = Settings.model_construct(data_folder=tmp_path)
    monkeypatch.setattr(app, "ProcessBackend", lambda _: ScriptedBackend(ready()))
    login = create_autospec(BarkClient.start, side_effect=error)
    monkeypatch.setattr(BarkClient, "start", login)
    assert await app.run(settings, TOKEN, print) == 1
    (record,) = [record for record in caplog.records if record.levelname == "ERROR"]
    assert words in record.getMessage() and record.exc_info is None


async def test_a_refused_token_ends_with_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings.model_construct(data_folder=tmp_path)
    monkeypatch.setattr(app, "ProcessBackend", lambda _: ScriptedBackend(ready()))
    login = create_autospec(BarkClient.start, side_effect=discord.LoginFailure("no"))
    monkeypatch.setattr(BarkClient, "start", login)
    with pytest.raises(StartError, match="does not take the token; reset it"):
        await app.run(settings, TOKEN, print)
