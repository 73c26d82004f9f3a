"""Settings: defaults, precedence, and one plain sentence for each mistake."""

import tomllib
from pathlib import Path

import pytest

from bot.config import Settings, load_settings, read_token, setting_names
from bot.errors import StartError

EXAMPLE = Path(__file__).parents[2] / "config.example.toml"


def write(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "config.toml"
    file.write_text(text, "utf-8")
    return file


def test_example_documents_every_setting_with_its_default() -> None:
    assert load_settings(EXAMPLE, {}).model_dump() == Settings.model_construct().model_dump()
    example = tomllib.loads(EXAMPLE.read_text("utf-8"))
    documented: set[str] = set()
    for key, value in example.items():
        documented |= {f"{key}.{name}" for name in value} if isinstance(value, dict) else {key}
    assert documented == set(setting_names())


def test_each_setting_in_the_example_follows_a_comment() -> None:
    lines = EXAMPLE.read_text("utf-8").splitlines()
    for before, line in zip(lines, lines[1:], strict=False):
        if "=" in line and not line.startswith("#"):
            assert before.startswith("#"), line


def test_no_file_gives_the_defaults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_settings(environ={}).limits.text_length == 2000


def test_the_environment_wins_over_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write(tmp_path, "[limits]\ncooldown_s = 7\nper_user = 5\n")
    monkeypatch.setenv("BARK_LIMITS__COOLDOWN_S", "9")
    monkeypatch.setenv("DATA_DIR", str(tmp_path / "elsewhere"))
    settings = load_settings(file)
    assert (settings.limits.cooldown_s, settings.limits.per_user) == (9.0, 5)
    assert settings.database == tmp_path / "elsewhere" / "bot.sqlite3"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[limits]\ncooldwn_s = 3\n", ["limits.cooldwn_s", "did you mean 'limits.cooldown_s'"]),
        ("cooldown_s = 3\n", ["cooldown_s", "did you mean 'limits.cooldown_s'"]),
        ("[limit]\nper_user = 3\n", ["'limit'", "did you mean 'limits'?"]),
        ("[limits]\nper_user = 0\n", ["limits.per_user", "0", "greater than or equal to 1"]),
        ("[synth]\ndevice = 'tpu'\n", ["synth.device", "tpu", "cuda"]),
        ("[synth]\nstreaming = 'fast'\n", ["synth.streaming", "fast", "exact", "low_latency"]),
        ("[discord]\ntoken = 'x'\n", ["token", "DISCORD_TOKEN"]),
        ("limits = \n", ["not valid TOML"]),
    ],
)
def test_a_mistake_in_the_file_is_one_sentence(tmp_path: Path, text: str, words: list[str]) -> None:
    with pytest.raises(StartError) as caught:
        load_settings(write(tmp_path, text), {})
    for word in words:
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_typo_in_the_environment_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StartError, match="BARK_LIMITS__COOLDWN_S.*BARK_LIMITS__COOLDOWN_S"):
        load_settings(write(tmp_path, ""), {"BARK_LIMITS__COOLDWN_S": "1"})


def test_a_named_file_must_exist(tmp_path: Path) -> None:
    with pytest.raises(StartError, match="no configuration file"):
        load_settings(tmp_path / "absent.toml", {})


def test_the_token_comes_from_the_environment_or_a_file(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("from-file\n", "utf-8")
    assert read_token({"DISCORD_TOKEN": " abc "}) == "abc"
    assert read_token({"DISCORD_TOKEN_FILE": str(file)}) == "from-file"
    with pytest.raises(StartError, match="DISCORD_TOKEN"):
        read_token({})
    with pytest.raises(StartError, match="cannot be read"):
        read_token({"DISCORD_TOKEN_FILE": str(tmp_path / "absent")})
