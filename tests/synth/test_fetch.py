"""Downloads from a hub of our own on loopback: real HTTP, real huggingface_hub, forged weights."""

import hashlib
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, BinaryIO, cast

import pytest

from synth import checkpoints, fetch
from synth.errors import InvalidRequest
from tests.synth import forged

COMMIT = "c0ffee" * 6 + "c0ff"


class Hub:
    """Files by "repo/name", served as the hub does; large ones from another path, as its CDN."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.cut_after: int | None = None  # break off a body after so many bytes
        self.flip = False  # change a byte of each large body on its way
        self.ranges: list[str] = []  # of each GET of a large file, "" for the whole
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_HEAD(self) -> None:
                self.answer(body=False)

            def do_GET(self) -> None:
                self.answer(body=True)

            def answer(self, *, body: bool) -> None:
                name = self.path.strip("/").replace("/resolve/main/", "/").removeprefix("cdn/")
                data = hub.files.get(name)
                if data is None:
                    return self.reply(404, {"X-Error-Code": "EntryNotFound"}, b"")
                large = name.endswith((".bin", ".pt", ".safetensors"))
                etag = hashlib.sha256(data).hexdigest()
                if not large:
                    etag = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
                headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{etag}"'}
                if large and not self.path.startswith("/cdn/"):
                    headers |= {
                        "X-Linked-Etag": f'"{etag}"',
                        "X-Linked-Size": str(len(data)),
                        "Location": f"{hub.url}/cdn/{name}",
                    }
                    return self.reply(302, headers, b"")
                status, wanted = 200, self.headers.get("Range", "")
                if body and large:
                    hub.ranges.append(wanted)
                if hub.flip and large:
                    data = data[:100] + bytes([data[100] ^ 1]) + data[101:]
                if wanted:
                    first = int(wanted.removeprefix("bytes=").split("-")[0])
                    headers["Content-Range"] = f"bytes {first}-{len(data) - 1}/{len(data)}"
                    status, data = 206, data[first:]
                self.reply(status, headers, data, send=body)

            def reply(
                self, status: int, headers: dict[str, str], data: bytes, *, send: bool = True
            ) -> None:
                self.send_response(status)
                for key, value in (headers | {"Content-Length": str(len(data))}).items():
                    self.send_header(key, value)
                self.end_headers()
                if not send:
                    return
                cut = hub.cut_after if len(data) > 1_000_000 else None
                self.wfile.write(data[:cut])
                self.close_connection = cut is not None

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def offer(self, repo: str, folder: Path) -> None:
        for file in folder.iterdir():
            self.files[f"{repo}/{file.name}"] = file.read_bytes()


@pytest.fixture
def hub() -> Iterator[Hub]:
    hub = Hub()
    thread = threading.Thread(target=hub.server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield hub
    hub.server.shutdown()
    thread.join()
    hub.server.server_close()


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hf" / "hub"))
    return tmp_path


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What suno/bark-small holds: one .bin, config and vocabulary."""
    return forged.hub_folder(tmp_path_factory.mktemp("single") / "model")


def partials(home: Path) -> list[Path]:
    return list(home.rglob("*.partial"))


def test_a_model_comes_whole_and_opens(hub: Hub, single: Path, home: Path) -> None:
    hub.offer("suno/bark-small", single)
    folder = fetch.fetch_model("suno/bark-small", endpoint=hub.url)
    assert (folder / "pytorch_model.bin").read_bytes() == (
        single / "pytorch_model.bin"
    ).read_bytes()
    assert folder.is_relative_to(home / "hf" / "hub") and folder.name == COMMIT
    assert checkpoints.default_model() == "suno/bark-small"
    assert checkpoints.open_checkpoint("suno/bark-small").config.semantic_shape.width == 16
    assert partials(home) == []
    fetch.fetch_model("suno/bark-small", endpoint=hub.url)
    assert hub.ranges == [""]  # nothing came twice


def test_a_download_goes_on_where_ctrl_c_ended_it(
    hub: Hub, single: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.offer("suno/bark-small", single)
    real = fetch.http_get

    def interrupted(url: str, sink: BinaryIO, **options: Any) -> None:
        class Sink:
            written = 0

            def write(self, data: bytes) -> None:
                if options["displayed_filename"].endswith(".bin") and self.written >= 1_000_000:
                    raise KeyboardInterrupt
                sink.write(data)
                self.written += len(data)

        real(url, cast(BinaryIO, Sink()), **options)

    with monkeypatch.context() as patched:
        patched.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 100_000)
        patched.setattr(fetch, "http_get", interrupted)
        with pytest.raises(KeyboardInterrupt):
            fetch.fetch_model("suno/bark-small", endpoint=hub.url)
    (left,) = partials(home)
    assert left.stat().st_size == 1_000_000
    with pytest.raises(InvalidRequest, match=" -m synth fetch suno/bark-small"):
        checkpoints.open_checkpoint("suno/bark-small")
    folder = fetch.fetch_model("suno/bark-small", endpoint=hub.url)
    assert hub.ranges == ["", "bytes=1000000-"]
    assert (folder / "pytorch_model.bin").read_bytes() == (
        single / "pytorch_model.bin"
    ).read_bytes()
    assert partials(home) == []


def test_a_connection_that_breaks_is_taken_up_again(
    hub: Hub, single: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda seconds: None)
    hub.offer("suno/bark-small", single)
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 1_000_000)
    hub.cut_after = 6_500_000
    fetch.fetch_model("suno/bark-small", endpoint=hub.url)
    assert hub.ranges == ["", "bytes=6000000-", "bytes=12000000-"]  # whole chunks count


def test_what_comes_damaged_is_removed(hub: Hub, single: Path, home: Path) -> None:
    hub.offer("suno/bark-small", single)
    hub.flip = True
    with pytest.raises(InvalidRequest, match=r"pytorch_model\.bin came damaged"):
        fetch.fetch_model("suno/bark-small", endpoint=hub.url)
    assert partials(home) == []
    with pytest.raises(InvalidRequest, match=" -m synth fetch suno/bark-small"):
        checkpoints.open_checkpoint("suno/bark-small")
    hub.flip = False
    fetch.fetch_model("suno/bark-small", endpoint=hub.url)


def test_a_file_that_went_bad_on_the_disk_comes_anew(hub: Hub, single: Path) -> None:
    hub.offer("suno/bark-small", single)
    folder = fetch.fetch_model("suno/bark-small", endpoint=hub.url)
    blob = (folder / "pytorch_model.bin").resolve()
    blob.write_bytes(blob.read_bytes()[:-5])
    fetch.fetch_model("suno/bark-small", endpoint=hub.url)
    assert blob.read_bytes() == (single / "pytorch_model.bin").read_bytes()


def test_a_small_disk_is_seen_before_anything_comes(
    hub: Hub, single: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.offer("suno/bark-small", single)
    usage = type("Usage", (), {"free": 1_000_000})
    monkeypatch.setattr(fetch.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(InvalidRequest, match=r"needs 0\.2 GB and .* has 0\.0 GB free: make room"):
        fetch.fetch_model("suno/bark-small", endpoint=hub.url)
    assert hub.ranges == []


def test_an_unreachable_hub_and_a_missing_file_say_so(hub: Hub, single: Path) -> None:
    hub.offer("suno/bark-small", single)
    del hub.files["suno/bark-small/pytorch_model.bin"]
    with pytest.raises(InvalidRequest, match=r"answered 404 for .*pytorch_model\.bin"):
        fetch.fetch_model("suno/bark-small", endpoint=hub.url)


def test_nobody_listening_says_so() -> None:
    with pytest.raises(InvalidRequest, match="http://127.0.0.1:9 cannot be reached"):
        fetch.fetch_model("suno/bark", endpoint="http://127.0.0.1:9")


def test_offline_asks_nobody(hub: Hub, single: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.offer("suno/bark-small", single)
    monkeypatch.setattr("huggingface_hub.constants.is_offline_mode", lambda: True)
    with pytest.raises(
        InvalidRequest, match="HF_HUB_OFFLINE is set and .* lacks suno/bark-small/config"
    ):
        fetch.fetch_model("suno/bark-small", endpoint=hub.url)
    monkeypatch.setattr("huggingface_hub.constants.is_offline_mode", lambda: False)
    folder = fetch.fetch_model("suno/bark-small", endpoint=hub.url)
    monkeypatch.setattr("huggingface_hub.constants.is_offline_mode", lambda: True)
    assert fetch.fetch_model("suno/bark-small", endpoint="http://127.0.0.1:9") == folder


def test_sunos_own_files_are_held_against_their_known_hashes(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.offer("suno/bark", forged.suno_folder(tmp_path / "suno"))
    hub.files["facebook/encodec_24khz/model.safetensors"] = forged.codec_safetensors(tmp_path)
    with pytest.raises(InvalidRequest, match=r"text_2\.pt came damaged"):
        fetch.fetch_model("suno/bark", original=True, endpoint=hub.url)
    real = {
        name: hashlib.md5(hub.files[f"suno/bark/{name}"]).hexdigest()
        for name in ("text_2.pt", "coarse_2.pt", "fine_2.pt")
    }
    monkeypatch.setattr(fetch, "MD5", real)
    fetch.fetch_model("suno/bark", original=True, endpoint=hub.url)
    checkpoint = checkpoints.open_checkpoint("suno/bark")
    assert "decoder.model.3.convtr.convtr.weight_v" in checkpoint.tensors("codec")


def test_the_command_honours_the_hubs_variables(hub: Hub, single: Path, tmp_path: Path) -> None:
    hub.offer("suno/bark-small", single)
    environment = os.environ | {
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(tmp_path / "elsewhere"),
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        [sys.executable, "-m", "synth", "fetch", "suno/bark-small"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert done.returncode == 0, done.stderr
    assert f"suno/bark-small is in {tmp_path / 'elsewhere'}" in done.stdout
