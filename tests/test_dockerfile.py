"""The Dockerfile, read as text: what a build here cannot show must at least be consistent."""

import re
import shlex
from pathlib import Path

ROOT = Path(__file__).parents[1]
DOCKERFILE = (ROOT / "Dockerfile").read_text()


def _instructions() -> list[tuple[str, str]]:
    joined = re.sub(r"\\\n\s*", " ", re.sub(r"^#.*\n", "", DOCKERFILE, flags=re.M))
    return [
        (word, rest)
        for line in joined.splitlines()
        if line.strip()
        for word, _, rest in [line.partition(" ")]
    ]


def test_everything_copied_exists_and_is_let_through() -> None:
    ignore = (ROOT / ".dockerignore").read_text().splitlines()
    for word, rest in _instructions():
        if word == "COPY":
            for source in shlex.split(rest)[:-1]:
                assert (ROOT / source).exists()
                assert f"!{source.split('/')[0]}" in ignore


def test_it_runs_without_root_and_says_whether_it_lives() -> None:
    words = [word for word, _ in _instructions()]
    user = next(rest for word, rest in _instructions() if word == "USER")
    assert user not in {"root", "0"}
    assert words.index("USER") < words.index("CMD")
    assert "HEALTHCHECK" in words


def test_nothing_is_installed_at_start() -> None:
    started = [rest for word, rest in _instructions() if word in {"CMD", "ENTRYPOINT"}]
    assert started
    assert not any("pip" in rest for rest in started)


def test_two_volumes_hold_all_that_outlives_a_container() -> None:
    volumes = next(rest for word, rest in _instructions() if word == "VOLUME")
    assert volumes == '["/data", "/models"]'
    environment = next(rest for word, rest in _instructions() if word == "ENV")
    values = dict(item.split("=", 1) for item in shlex.split(environment))
    assert values["DATA_DIR"] == "/data"
    assert values["HF_HOME"].startswith("/models/")
    assert values["XDG_CACHE_HOME"].startswith("/models/")
