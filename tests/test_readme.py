"""The README's promises: its commands parse, its file map names every module, its links exist."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from synth.voices import shipped_voices

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def _code_blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.S | re.M)


def _commands() -> list[str]:
    lines = "\n".join(_code_blocks("sh")).replace("\\\n", " ").splitlines()
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


def test_the_first_command_comes_by_line_25() -> None:
    line = README[: README.index("python -m bot demo")].count("\n") + 1
    assert line <= 25


def test_setup_commands_install_extras_that_exist() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = set(project["optional-dependencies"])
    named = re.findall(r"pip install (?:-e )?'?\.\[([a-z,]+)\]", README)
    assert named
    assert {extra for group in named for extra in group.split(",")} <= extras


@pytest.mark.parametrize("command", _commands())
def test_each_command_names_a_module_and_options_that_exist(command: str) -> None:
    """A renamed option or subcommand must not live on in the README."""
    for module, rest in re.findall(r"python -m (synth|bot)\b([^|&;]*)", command):
        words = rest.split()
        subcommand = [word for word in words[:1] if not word.startswith("-")]
        shown = subprocess.run(
            [sys.executable, "-m", module, *subcommand, "--help"],
            capture_output=True,
            text=True,
            cwd=ROOT,
        )
        assert shown.returncode == 0, shown.stderr
        for option in re.findall(r"(?<!\S)--[a-z-]+", rest):
            assert option in shown.stdout, f"{module} {subcommand} has no {option}"


def test_the_command_lines_voices_are_there_on_a_fresh_install() -> None:
    """A dialogue with voices of Bark ended with an error where nothing had been fetched."""
    shipped = [info.name for info in shipped_voices() if info.name.startswith("nano/")]
    for command in _commands():
        for option, value in re.findall(r"--(voice|cast) (\S+)", command):
            assert value.rpartition("=")[2] in shipped, (option, value)


def test_the_files_that_commands_read_are_shown() -> None:
    shown = "\n".join(_code_blocks("text"))
    for name in re.findall(r"--file (\S+)", "\n".join(_commands())):
        before = README[: README.index(f"--file {name}")]
        assert f"`{name}`" in before and "Alice: " in shown


def _mapped_files() -> set[str]:
    """The file map: a line a file, two spaces deeper than its folder."""
    block = next(block for block in _code_blocks("text") if block.startswith("bot/"))
    found: set[str] = set()
    folder = ""
    for line in block.splitlines():
        if match := re.match(r"^(\w+/)\s", line):
            folder = match[1]
        elif match := re.match(r"^  ([\w/.]+)\s", line):
            found.add(folder + match[1])
    return found


def _covers(entry: str, file: str) -> bool:
    return file == entry or (entry.endswith("/") and file.startswith(entry))


def test_the_file_map_is_the_tree() -> None:
    entries = _mapped_files()
    files = {
        path.relative_to(ROOT).as_posix()
        for package in ("bot", "synth")
        for path in (ROOT / package).rglob("*.py")
        if path.name != "__init__.py" or path.parent.name in {"nano"}
    }
    unmapped = {file for file in files if not any(_covers(entry, file) for entry in entries)}
    assert not unmapped
    gone = {entry for entry in entries if not (ROOT / entry).exists()}
    assert not gone


def test_every_relative_link_leads_somewhere() -> None:
    links = re.findall(r"\]\((?!https?://|#)([^)#]+)", README)
    assert all((ROOT / link).exists() for link in links)


def test_every_dependency_has_its_reason() -> None:
    """The README says why each dependency is there."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = [re.split(r"[\[=<>]", requirement)[0] for requirement in project["dependencies"]]
    for extra in ("demo", "test"):
        names += [
            re.split(r"[\[=<>]", requirement)[0]
            for requirement in project["optional-dependencies"][extra]
        ]
    missing = [name for name in names if f"`{name}`" not in README]
    assert not missing
