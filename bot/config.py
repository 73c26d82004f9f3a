"""Every setting of the bot: `config.toml`, then the environment, which wins. Checked at start.

Knows names, ranges and defaults. Opens nothing but the file and the token; does not know what the
settings do. `config.example.toml` documents each of them.

The environment says `BARK_<SECTION>__<KEY>` (`BARK_LIMITS__COOLDOWN_S=10`), `BARK_<KEY>` for a key
outside a section, `DATA_DIR` for the data folder. The token is never in the file: `DISCORD_TOKEN`,
or `DISCORD_TOKEN_FILE` with the path of a file that holds it.
"""

import difflib
import os
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from bot.errors import StartError
from synth.protocol import AUTO_MODEL

ENV_PREFIX = "BARK_"
ENV_DELIMITER = "__"


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class DiscordSection(Section):
    """Who may use the bot, and how it reaches Discord. An id of 0 or an empty list: no rule."""

    proxy: str = ""
    allowed_roles: tuple[int, ...] = ()
    blocked_role: int = Field(default=0, ge=0)
    allowed_channels: tuple[int, ...] = ()


class SynthSection(Section):
    """Which model speaks, and on what. 0 slots or threads means: choose for the machine."""

    model: str = Field(default=AUTO_MODEL, min_length=1)
    device: Literal["auto", "cuda", "cpu", "mps"] = "auto"
    precision: Literal["auto", "fp32", "bf16", "fp16", "int8"] = "auto"
    turbo: bool = False
    graphs: bool = True
    slots: int = Field(default=0, ge=0, le=256)
    threads: int = Field(default=0, ge=0, le=1024)
    rerolls: int = Field(default=2, ge=0, le=10)
    deadline_s: float = Field(default=300.0, gt=0)
    streaming: Literal["exact", "low_latency"] = "exact"


class LimitsSection(Section):
    """How much one request, one user, one server and all of them may ask for."""

    text_length: int = Field(default=2000, ge=1, le=6000)
    queue_length: int = Field(default=50, ge=1)
    per_user: int = Field(default=3, ge=1)
    per_guild: int = Field(default=10, ge=1)
    cooldown_s: float = Field(default=3.0, ge=0)
    clip_seconds: float = Field(default=300.0, gt=0)


class VoiceSection(Section):
    """How the bot behaves in voice channels, and how loud its clips are."""

    queue_length: int = Field(default=20, ge=1)
    idle_leave_s: float = Field(default=300.0, gt=0)
    alone_leave_s: float = Field(default=60.0, gt=0)
    connect_timeout_s: float = Field(default=20.0, gt=0)
    loudness_lufs: float = Field(default=-16.0, ge=-40, le=-10)


class Settings(BaseSettings):
    """All settings, frozen. Built by `load_settings`."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX,
        env_nested_delimiter=ENV_DELIMITER,
        extra="forbid",
        frozen=True,
    )

    data_folder: Path = Path("data")
    ffmpeg: str = ""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    discord: DiscordSection = DiscordSection()
    synth: SynthSection = SynthSection()
    limits: LimitsSection = LimitsSection()
    voice: VoiceSection = VoiceSection()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls)

    @property
    def database(self) -> Path:
        return self.data_folder / "bot.sqlite3"


def load_settings(file: Path | None = None, environ: Mapping[str, str] | None = None) -> Settings:
    """Read `file` (default: config.toml, which may be missing) and the environment.

    Raises StartError with one sentence that names the key, its value and the nearest known name.
    """
    environ = os.environ if environ is None else environ
    if file is not None and not file.is_file():
        raise StartError(f"There is no configuration file at {file}; check the path.")
    path = file or Path("config.toml")
    _refuse_unknown_environment(environ)

    class FromFile(Settings):
        model_config = SettingsConfigDict(toml_file=path)

    folder: dict[str, Any] = {"data_folder": environ["DATA_DIR"]} if "DATA_DIR" in environ else {}
    try:
        values = FromFile(**folder)
    except ValidationError as error:
        raise StartError(_sentence(error, path)) from None
    except tomllib.TOMLDecodeError as error:
        raise StartError(f"{path} is not valid TOML: {error}.") from None
    except OSError as error:
        raise StartError(f"{path} cannot be read: {error.strerror}.") from None
    return Settings.model_construct(
        **{name: getattr(values, name) for name in Settings.model_fields}
    )


def read_token(environ: Mapping[str, str] | None = None) -> str:
    """The bot's token from DISCORD_TOKEN or the file DISCORD_TOKEN_FILE names.

    Raises StartError when neither is there or the file cannot be read.
    """
    environ = os.environ if environ is None else environ
    token = environ.get("DISCORD_TOKEN", "").strip()
    if not token and (file := environ.get("DISCORD_TOKEN_FILE")):
        try:
            token = Path(file).read_text("utf-8").strip()
        except (OSError, UnicodeDecodeError):
            raise StartError(
                f"DISCORD_TOKEN_FILE points at {file}, which cannot be read as text."
            ) from None
    if not token:
        raise StartError(
            "There is no bot token: put it in the environment as DISCORD_TOKEN, or its file's path "
            "as DISCORD_TOKEN_FILE (you get one at https://discord.com/developers/applications)."
        )
    return token


def setting_names() -> Iterator[str]:
    """Every setting as `key` or `section.key`."""
    for name, field in Settings.model_fields.items():
        if isinstance(field.default, Section):
            yield from (f"{name}.{key}" for key in type(field.default).model_fields)
        else:
            yield name


def _refuse_unknown_environment(environ: Mapping[str, str]) -> None:
    # pydantic-settings ignores an unknown variable outside a section; a typo must not pass.
    known = {_variable(name) for name in setting_names()}
    sections = {variable.split(ENV_DELIMITER)[0] for variable in known if ENV_DELIMITER in variable}
    for variable in environ:
        upper = variable.upper()
        if upper.startswith(ENV_PREFIX) and upper not in known and upper not in sections:
            raise StartError(
                f"The environment sets {variable}, which is no setting{_nearest(upper, known)}"
            )


def _variable(name: str) -> str:
    return ENV_PREFIX + name.replace(".", ENV_DELIMITER).upper()


def _sentence(error: ValidationError, path: Path) -> str:
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        if key.rpartition(".")[2] in ("token", "discord_token"):
            return f"{path} holds a token: take it out and set DISCORD_TOKEN in the environment."
        names = set(setting_names())
        if isinstance(first["input"], dict):
            names = {name.partition(".")[0] for name in names if "." in name}
        return f"{path} has an unknown setting {key!r}{_nearest(key, names)}"
    message = first["msg"][0].lower() + first["msg"][1:]
    return f"The setting {key} is {first['input']!r}, which does not work: {message}."


def _nearest(name: str, known: set[str]) -> str:
    match = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    if not match:  # the right key in the wrong section, or in none
        tail = name.rpartition(".")[2]
        match = [item for item in sorted(known) if item.rpartition(".")[2] == tail]
    return f"; did you mean {match[0]!r}?" if match else "; config.example.toml lists them all."
