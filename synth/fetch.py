"""Download a published model into the hub's cache: space looked at first, resumed, hashed.

huggingface_hub finds, transfers and links the files. What it lacks is going on with a download that
an earlier run left behind, refusing to start when the disk is too small, and comparing what came
with the hash the hub promised; that is here. HF_HOME, HF_ENDPOINT and HF_HUB_OFFLINE count.
"""

import hashlib
import logging
import shutil
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from huggingface_hub import constants, get_hf_file_metadata, hf_hub_download, hf_hub_url
from huggingface_hub.errors import (
    EntryNotFoundError,
    FileMetadataError,
    HTTPError,  # pyright: ignore[reportPrivateImportUsage]  # of the HTTP library it was built on
)
from huggingface_hub.file_download import http_get, repo_folder_name
from huggingface_hub.utils import WeakFileLock, build_hf_headers
from tqdm import tqdm

from synth.checkpoints import open_checkpoint
from synth.errors import InvalidRequest
from synth.layouts import cached_hub_file

logger = logging.getLogger(__name__)

# Suno's own files, as many people have them; there is no other record of their hashes.
MD5 = {
    "text.pt": "b3e42bcbab23b688355cd44128c4cdd3",
    "coarse.pt": "5fe964825e3b0321f9d5f3857b89194d",
    "fine.pt": "5428d1befe05be2ba32195496e58dc90",
    "text_2.pt": "54afa89d65e318d4f5f80e8e8799026a",
    "coarse_2.pt": "8a98094e5e3a255a5c9c0ab7efe8fd28",
    "fine_2.pt": "59d184ed44e3650774a2f0503a48a97b",
}
_SPARE_BYTES = 200 * 2**20  # what a disk should still have when all is there
_CHUNK_BYTES = 4 * 2**20
# A file the hub may lack and a model can do without.
_OPTIONAL = {"generation_config.json", "tokenizer_config.json", "tokenizer.json"}


@dataclass(frozen=True)
class RemoteFile:
    """A file on the hub. etag: SHA-256 of a large file, git's SHA-1 of a small one."""

    repo: str
    name: str
    url: str
    etag: str
    size: int

    @property
    def blob(self) -> Path:
        """Where the hub's cache keeps the content."""
        folder = repo_folder_name(repo_id=self.repo, repo_type="model")
        return Path(constants.HF_HUB_CACHE) / folder / "blobs" / self.etag

    @property
    def partial(self) -> Path:
        return self.blob.with_name(f"{self.etag}.partial")


def wanted_files(model: str, *, original: bool) -> list[tuple[str, str]]:
    """(repository, file) of all that makes up a model, the large ones last."""
    if original:
        end = "" if model.endswith("-small") else "_2"
        weights = [("suno/bark", f"{stem}{end}.pt") for stem in ("text", "coarse", "fine")]
        codec = ("facebook/encodec_24khz", "model.safetensors")
        return [("suno/bark", "vocab.txt"), codec, *weights]
    names = ("config.json", "vocab.txt", *sorted(_OPTIONAL), "pytorch_model.bin")
    return [(model, name) for name in names]


def fetch_model(model: str, *, original: bool = False, endpoint: str | None = None) -> Path:
    """Bring "suno/bark" or "suno/bark-small" into the hub's cache; returns its folder there.

    original: Suno's .pt files in place of transformers' single one, the codec beside them.
    Raises InvalidRequest when the hub cannot be reached, the disk is too small or what came is not
    what was promised. What was downloaded until then is kept, and the next call goes on from it.
    """
    wanted = wanted_files(model, original=original)
    if constants.is_offline_mode():
        _require_cached(wanted)
    else:
        try:
            remote = [file for repo, name in wanted if (file := _ask(repo, name, endpoint))]
            _check_space(remote)
            for file in remote:
                _bring(file, endpoint)
        except (HTTPError, FileMetadataError) as error:
            raise InvalidRequest(_why_unreachable(error, endpoint)) from None
        except OSError as error:
            raise InvalidRequest(
                f"The download stopped ({error.strerror or error}): make it right and run the same "
                "command again; it goes on where it was."
            ) from None
    open_checkpoint(model)  # says what is wrong with it now and not at the first sentence
    here = cached_hub_file(*wanted[-1])
    assert here is not None, "linked above"
    return here.parent


def _require_cached(wanted: list[tuple[str, str]]) -> None:
    missing = [
        f"{repo}/{name}"
        for repo, name in wanted
        if name not in _OPTIONAL and cached_hub_file(repo, name) is None
    ]
    if missing:
        raise InvalidRequest(
            f"HF_HUB_OFFLINE is set and {constants.HF_HUB_CACHE} lacks {', '.join(missing)}: "
            "unset it to download, or copy the cache of another machine."
        )


def _ask(repo: str, name: str, endpoint: str | None) -> RemoteFile | None:
    """What the hub says about a file; None for one it lacks and we can do without."""
    try:
        told = get_hf_file_metadata(hf_hub_url(repo, name, endpoint=endpoint), endpoint=endpoint)
    except EntryNotFoundError:
        if name in _OPTIONAL:
            return None
        raise
    if told.etag is None or told.size is None:
        raise InvalidRequest(f"The hub does not say how large {repo}/{name} is: try again later.")
    return RemoteFile(repo, name, told.location, told.etag, told.size)


def _check_space(files: list[RemoteFile]) -> None:
    cache = Path(constants.HF_HUB_CACHE)
    cache.mkdir(parents=True, exist_ok=True)
    needed = sum(file.size - _size(file.partial) for file in files if not file.blob.exists())
    free = shutil.disk_usage(cache).free
    if needed and free < needed + _SPARE_BYTES:
        raise InvalidRequest(
            f"The download needs {(needed + _SPARE_BYTES) / 1e9:.1f} GB and {cache} has "
            f"{free / 1e9:.1f} GB free: make room, or set HF_HOME to a folder on a larger disk."
        )


def _bring(file: RemoteFile, endpoint: str | None) -> None:
    """Download what is missing of a file, compare its hash, and link it as the hub's cache does."""
    file.blob.parent.mkdir(parents=True, exist_ok=True)
    with WeakFileLock(file.blob.with_name(f"{file.etag}.lock")):
        if file.blob.exists():
            try:
                _check(file, file.blob)
            except InvalidRequest:
                logger.warning("%s in the cache is damaged and comes anew", file.name)
        if not file.blob.exists():
            _download(file, endpoint)
            _check(file, file.partial)
            file.partial.replace(file.blob)
    hf_hub_download(file.repo, file.name, endpoint=endpoint)


def _download(file: RemoteFile, endpoint: str | None) -> None:
    if _size(file.partial) > file.size:
        file.partial.unlink()
    headers = build_hf_headers()
    ours = urlsplit(endpoint or constants.ENDPOINT).netloc
    if urlsplit(file.url).netloc != ours:
        headers.pop("authorization", None)  # a signed address elsewhere: the token is not for it
    with file.partial.open("ab") as sink:
        http_get(
            file.url,
            sink,
            resume_size=_size(file.partial),
            headers=headers,
            expected_size=file.size,
            displayed_filename=file.name,
        )


def _check(file: RemoteFile, path: Path) -> None:
    """Compare size and hash; a file that differs is removed, for no resuming can mend it."""
    git_head = f"blob {file.size}\0".encode()
    hashes = {64: hashlib.sha256(), 40: hashlib.sha1(git_head, usedforsecurity=False)}
    expected = {file.etag: hashes[len(file.etag)]} if len(file.etag) in hashes else {}
    if file.repo == "suno/bark" and file.name in MD5:
        expected[MD5[file.name]] = hashlib.md5(usedforsecurity=False)
    with (
        path.open("rb") as content,
        tqdm(
            total=file.size,
            desc=f"checking {file.name}",
            unit="B",
            unit_scale=True,
            leave=False,
            disable=None if file.size > 50 * _CHUNK_BYTES else True,
        ) as bar,
    ):
        while chunk := content.read(_CHUNK_BYTES):
            for running in expected.values():
                running.update(chunk)
            bar.update(len(chunk))
    differs = any(running.hexdigest() != told for told, running in expected.items())
    if _size(path) != file.size or differs:
        path.unlink()
        raise InvalidRequest(
            f"{file.name} came damaged, its size or hash is not what was promised; it was removed: "
            "run the same command again."
        )


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _why_unreachable(error: Exception, endpoint: str | None) -> str:
    host = endpoint or constants.ENDPOINT
    response = getattr(error, "response", None)
    if response is not None:
        return (
            f"{host} answered {response.status_code} for {response.url.path}: check HF_ENDPOINT, "
            "HF_TOKEN and the proxy, or try again later."
        )
    return (
        f"{host} cannot be reached ({type(error).__name__}): check the connection, the proxy and "
        "HF_ENDPOINT, then run the same command again; it goes on where it was."
    )
