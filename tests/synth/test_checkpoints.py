import errno
import json
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from synth import checkpoints, layouts, weights
from synth.checkpoints import from_int8_rows, int8_rows, open_checkpoint, save_checkpoint
from synth.errors import InvalidRequest
from synth.vocab import BARK, ModelConfig, TransformerShape
from tests.synth import forged


@pytest.fixture(autouse=True)
def own_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No test sees the caches of whoever runs it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def suno(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return forged.suno_folder(tmp_path_factory.mktemp("models") / "suno")


def copy_links(source: Path, target: Path) -> Path:
    target.mkdir()
    for file in source.iterdir():
        os.link(file, target / file.name)
    return target


def replace_file(file: Path, data: bytes) -> None:
    file.unlink()  # the link, not what it shares with other tests
    file.write_bytes(data)


def test_sunos_files_open_with_their_numbers_and_names(suno: Path) -> None:
    """Old numpy names, `_orig_mod.`, saved masks and `vocab_size` are all in the forged files."""
    checkpoint = open_checkpoint(suno)
    assert checkpoint.config.name == "suno"
    assert checkpoint.config.semantic_shape == TransformerShape(
        n_layer=1, n_head=2, width=16, input_vocab=129_600, output_vocab=10_048
    )
    assert checkpoint.config.coarse_shape.input_vocab == 12_096
    assert checkpoint.config.family == BARK.family
    assert checkpoint.tokenizer_file == suno / "vocab.txt"
    for stage, stem in layouts.SUNO_FILES.items():
        tensors = checkpoint.tensors(stage)
        expected = {
            name: tensor
            for name, tensor in forged.suno_state(stem).items()
            if not name.endswith(".attn.bias")
        }
        assert tensors.keys() == expected.keys()
        assert all(torch.equal(tensors[name], expected[name]) for name in expected)
    codec = checkpoint.tensors("codec")
    assert sum(name.startswith("quantizer.") for name in codec) == 8
    assert not any(name.startswith("encoder.") for name in codec)
    assert torch.equal(
        codec["quantizer.vq.layers.7._codebook.embed"],
        forged.codec_state()["quantizer.vq.layers.7._codebook.embed"],
    )


def test_sunos_files_are_converted_once_and_mapped_afterwards(
    suno: Path, own_caches: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = open_checkpoint(suno).tensors("coarse")
    copies = sorted((own_caches / "bark-for-discord" / "converted").iterdir())
    assert [file.name.split("-")[0] for file in copies] == ["coarse_2", "fine_2", "text_2"]

    def unreadable(path: Path) -> None:
        raise AssertionError(f"{path} was read again")

    monkeypatch.setattr(weights, "read_torch", unreadable)
    again = open_checkpoint(suno).tensors("coarse")
    assert all(torch.equal(first[name], again[name]) for name in first)
    if Path("/proc/self/maps").exists():
        assert str(copies[0]) in Path("/proc/self/maps").read_text()


def test_a_copy_that_was_cut_short_is_made_again(suno: Path, own_caches: Path) -> None:
    open_checkpoint(suno)
    for copy in (own_caches / "bark-for-discord" / "converted").iterdir():
        copy.write_bytes(copy.read_bytes()[:1000])
    assert open_checkpoint(suno).tensors("fine")["lm_heads.6.weight"].shape == (1056, 16)


def test_a_full_disk_leaves_no_half_copy_and_the_model_still_opens(
    suno: Path, own_caches: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(tensors: object, path: Path, metadata: object = None) -> None:
        Path(path).write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(weights, "save_file", full)
    checkpoint = open_checkpoint(suno)
    assert checkpoint.tensors("coarse")["lm_head.weight"].shape == (12_096, 16)
    assert "No space left on device" in caplog.text
    assert list((own_caches / "bark-for-discord" / "converted").iterdir()) == []


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_that_runs_something_is_refused_unrun(
    suno: Path, tmp_path: Path, zipped: bool
) -> None:
    folder = copy_links(suno, tmp_path / "m")
    (folder / "coarse_2.pt").unlink()
    forged.write_malicious(folder / "coarse_2.pt", f"touch {tmp_path}/owned", zipped=zipped)
    with pytest.raises(
        InvalidRequest, match=r"coarse_2\.pt was refused: it asks to run `\w+\.system`"
    ):
        open_checkpoint(folder)
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda data: data[: len(data) // 2], "cut short"),
        (lambda data: b"", "cut short"),
        (lambda data: b"<!DOCTYPE html><html>", "web page"),
        (lambda data: b"version https://git-lfs.github.com/spec/v1\noid", "git lfs pull"),
        (lambda data: b"nothing of the kind", "cannot be read"),
    ],
)
def test_a_damaged_file_is_named(suno: Path, tmp_path: Path, damage, says: str) -> None:
    folder = copy_links(suno, tmp_path / "m")
    replace_file(folder / "fine_2.pt", damage((suno / "fine_2.pt").read_bytes()))
    with pytest.raises(InvalidRequest, match=rf"fine_2\.pt .*{says}"):
        open_checkpoint(folder)


def test_a_file_that_is_no_checkpoint_of_sunos_says_so(suno: Path, tmp_path: Path) -> None:
    folder = copy_links(suno, tmp_path / "m")
    (folder / "text_2.pt").unlink()
    torch.save({"weights": torch.ones(2)}, folder / "text_2.pt")
    with pytest.raises(InvalidRequest, match="text_2.pt holds no `model`"):
        open_checkpoint(folder)
    (folder / "text_2.pt").unlink()
    torch.save({"model": {}, "model_args": {"n_layer": "many"}}, folder / "text_2.pt")
    with pytest.raises(
        InvalidRequest, match="semantic checkpoint's model_args says n_layer = None"
    ):
        open_checkpoint(folder)


def test_everything_that_is_missing_is_named(suno: Path, tmp_path: Path) -> None:
    folder = copy_links(suno, tmp_path / "m")
    for name in ("coarse_2.pt", "encodec_24khz-d7cc33bc.th", "vocab.txt"):
        (folder / name).unlink()
    with pytest.raises(InvalidRequest) as error:
        open_checkpoint(folder)
    assert str(error.value) == (
        f"{folder} lacks coarse_2.pt, encodec_24khz-d7cc33bc.th, vocab.txt or tokenizer.json: "
        "put it there, or name another model."
    )


def test_of_a_small_model_the_small_file_is_named_as_missing(suno: Path, tmp_path: Path) -> None:
    """It asked for fine_2.pt, the large model's, beside two small files."""
    folder = copy_links(suno, tmp_path / "m")
    for stem in layouts.SUNO_FILES.values():
        (folder / f"{stem}_2.pt").rename(folder / f"{stem}.pt")
    (folder / "fine.pt").unlink()
    with pytest.raises(InvalidRequest, match=r"lacks fine\.pt: "):
        open_checkpoint(folder)


@pytest.mark.parametrize("name", ["coarse_2.pt", "encodec_24khz-d7cc33bc.th"])
def test_a_file_that_may_not_be_read_is_named(
    suno: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """A file of another user gave a traceback."""
    real = Path.open

    def forbidden(self: Path, *arguments: Any, **options: Any) -> Any:
        if self.name == name:
            raise PermissionError(errno.EACCES, "Permission denied")
        return real(self, *arguments, **options)

    monkeypatch.setattr(Path, "open", forbidden)  # root may read everything
    with pytest.raises(InvalidRequest, match=rf"{name} cannot be read \(Permission denied\)"):
        open_checkpoint(suno).tensors("codec")


def test_a_cache_that_may_not_be_looked_into_is_done_without(
    suno: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A service whose HOME is root's gave a traceback."""
    real = Path.is_file

    def forbidden(self: Path) -> bool:
        if "converted" in self.parts:
            raise PermissionError(errno.EACCES, "Permission denied")
        return real(self)

    def refuse(tensors: object, path: Path, metadata: object = None) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "is_file", forbidden)
    monkeypatch.setattr(weights, "save_file", refuse)
    assert open_checkpoint(suno).tensors("fine")
    assert "Permission denied" in caplog.text


def test_what_a_killed_conversion_left_is_swept_up(suno: Path, own_caches: Path) -> None:
    """Gigabytes stayed under a name with the number of a process that was gone."""
    open_checkpoint(suno)
    folder = own_caches / "bark-for-discord" / "converted"
    (copy,) = folder.glob("text_2-*")
    copy.unlink()
    left, fresh = (folder / f".{copy.name}.{number}.partial" for number in (1, 2))
    for file in (left, fresh):
        file.write_bytes(b"half")
    os.utime(left, (0, 0))
    open_checkpoint(suno)
    assert copy.is_file() and fresh.is_file() and not left.exists()


def test_small_files_are_taken_where_asked_for(suno: Path, tmp_path: Path) -> None:
    folder = copy_links(suno, tmp_path / "m")
    forged.write_suno_pt(folder / "text.pt", "text")
    with pytest.raises(InvalidRequest, match=r"lacks coarse\.pt: put it there"):
        checkpoints.open_suno_folder(folder, small=("semantic", "coarse"))
    (folder / "text_2.pt").unlink()
    assert open_checkpoint(folder).tensors("semantic")  # a mixture is fine


def test_codec_and_vocabulary_are_found_where_the_original_left_them(
    suno: Path, tmp_path: Path
) -> None:
    folder = copy_links(suno, tmp_path / "m")
    torch_hub = tmp_path / "torch" / "hub" / "checkpoints"
    torch_hub.mkdir(parents=True)
    (folder / "encodec_24khz-d7cc33bc.th").rename(torch_hub / "encodec_24khz-d7cc33bc.th")
    # The original asks for it without its owner; "google-bert/" found nothing of the original's.
    snapshot = hub_snapshot(tmp_path / "hub", "bert-base-multilingual-cased")
    (folder / "vocab.txt").rename(snapshot / "vocab.txt")
    checkpoint = open_checkpoint(folder)
    assert checkpoint.tokenizer_file == snapshot / "vocab.txt"
    assert len(checkpoint.tensors("codec")) > 50


def test_a_folder_that_holds_no_model_says_what_it_expected(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="holds no model: expected Suno's text_2.pt"):
        open_checkpoint(tmp_path)
    with pytest.raises(InvalidRequest, match="no model folder .*nowhere: .*suno/bark"):
        open_checkpoint(tmp_path / "nowhere")
    (tmp_path / "text_2.pt").touch()
    with pytest.raises(InvalidRequest, match="is a file: name the folder"):
        open_checkpoint(tmp_path / "text_2.pt")


# -- The hub's cache ------------------------------------------------------------------------------


def hub_snapshot(hub: Path, repo: str) -> Path:
    """An empty snapshot in a cache laid out as huggingface_hub does."""
    base = hub / f"models--{repo.replace('/', '--')}"
    commit = "0123456789" * 4
    (base / "refs").mkdir(parents=True)
    (base / "refs" / "main").write_text(commit)
    (base / "snapshots" / commit).mkdir(parents=True)
    return base / "snapshots" / commit


def test_a_hub_model_that_is_not_here_names_the_command(tmp_path: Path) -> None:
    assert checkpoints.default_model() == "nano"
    with pytest.raises(InvalidRequest, match=" -m synth fetch suno/bark-small"):
        open_checkpoint("suno/bark-small")


def test_both_sizes_are_found_in_the_hubs_cache(suno: Path, tmp_path: Path) -> None:
    """Suno's small files opened by name and were yet not seen as a model that is here."""
    snapshot = hub_snapshot(tmp_path / "hub", "suno/bark")
    for file in suno.iterdir():
        os.link(file, snapshot / file.name)
    assert checkpoints.default_model() == "suno/bark"
    assert open_checkpoint("suno/bark").config.semantic_shape.width == 16
    for stem in layouts.SUNO_FILES.values():
        (snapshot / f"{stem}_2.pt").rename(snapshot / f"{stem}.pt")
        assert checkpoints.default_model() == ("suno/bark-small" if stem == "fine" else "nano")
    assert open_checkpoint("suno/bark-small").config.semantic_shape.width == 16


# -- Our own layout -------------------------------------------------------------------------------

TINY = replace(
    BARK,
    name="tiny",
    semantic_shape=replace(BARK.semantic_shape, n_layer=1, n_head=2, width=16),
    coarse_shape=replace(BARK.coarse_shape, n_layer=1, n_head=2, width=16),
    fine_shape=replace(BARK.fine_shape, n_layer=1, n_head=2, width=16),
)


def own_stages() -> dict[str, Mapping[str, torch.Tensor]]:
    return {
        "semantic": forged.suno_state("text"),
        "coarse": forged.suno_state("coarse"),
        "fine": forged.suno_state("fine"),
        "codec": forged.codec_state(),
    }


@pytest.fixture
def own(tmp_path: Path) -> Path:
    forged.write_vocab(tmp_path / "words.txt")
    save_checkpoint(tmp_path / "own", TINY, own_stages(), tmp_path / "words.txt")
    return tmp_path / "own"


def test_our_own_layout_comes_back_as_it_was_saved(own: Path) -> None:
    checkpoint = open_checkpoint(own)
    assert checkpoint.config == TINY
    for stage, tensors in own_stages().items():
        found = checkpoint.tensors(stage)
        assert found.keys() == tensors.keys()
        assert all(torch.equal(found[name], tensors[name]) for name in tensors)


def test_rows_stored_as_int8_come_back_within_half_a_step(tmp_path: Path) -> None:
    stages = own_stages()
    weight = stages["coarse"]["lm_head.weight"]
    stored, scale = int8_rows(weight)
    packed = {"lm_head.weight": stored, "lm_head.weight.scale": scale}
    stages["coarse"] = {**stages["coarse"], **packed}
    forged.write_vocab(tmp_path / "vocab.txt")
    save_checkpoint(tmp_path / "own", TINY, stages, tmp_path / "vocab.txt")
    found = open_checkpoint(tmp_path / "own").tensors("coarse")
    assert found.keys() == own_stages()["coarse"].keys()
    error = (found["lm_head.weight"] - weight).abs().amax(dim=1)
    assert found["lm_head.weight"].dtype == torch.float32
    assert bool((error <= weight.abs().amax(dim=1) / 254 * 1.001).all())


def test_saving_replaces_our_own_folder_and_no_other(own: Path, tmp_path: Path) -> None:
    save_checkpoint(own, replace(TINY, name="second"), own_stages(), tmp_path / "words.txt")
    assert open_checkpoint(own).config.name == "second"
    other = tmp_path / "letters"
    other.mkdir()
    (other / "dear.txt").write_text("keep me")
    with pytest.raises(InvalidRequest, match="letters exists and is no model of ours"):
        save_checkpoint(other, TINY, own_stages(), tmp_path / "words.txt")
    assert [file.name for file in other.iterdir()] == ["dear.txt"]


def test_a_full_disk_while_saving_keeps_the_old_model_and_leaves_nothing(
    own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = weights.save_file

    def full(tensors: dict, path: Path, metadata: object = None) -> None:
        if "codec" in Path(path).name:
            Path(path).write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")
        real(tensors, path)

    monkeypatch.setattr(weights, "save_file", full)
    before = sorted(file.name for file in tmp_path.iterdir())
    with pytest.raises(InvalidRequest, match="could not be written .*No space left on device"):
        save_checkpoint(own, replace(TINY, name="x"), own_stages(), tmp_path / "words.txt")
    assert open_checkpoint(own).config == TINY
    assert sorted(file.name for file in tmp_path.iterdir()) == before


def test_faults_of_our_own_layout_are_named(own: Path) -> None:
    values = json.loads((own / "config.json").read_text())
    codec = (own / "codec.safetensors").read_bytes()
    (own / "codec.safetensors").write_bytes(codec[:-100])
    with pytest.raises(InvalidRequest, match=r"codec\.safetensors is cut short"):
        open_checkpoint(own).tensors("codec")
    (own / "codec.safetensors").unlink()
    with pytest.raises(InvalidRequest, match=r"own lacks codec\.safetensors: put"):
        open_checkpoint(own)
    (own / "config.json").write_text(json.dumps(values | {"semantics": 3}))
    with pytest.raises(InvalidRequest, match=r"config\.json: semantics: "):
        open_checkpoint(own)
    (own / "config.json").write_text(json.dumps(values | {"format": "bark-for-discord 9"}))
    with pytest.raises(InvalidRequest, match="of format 'bark-for-discord 9'"):
        open_checkpoint(own)
    (own / "config.json").write_text("{")
    with pytest.raises(InvalidRequest, match=r"config\.json is no JSON file"):
        open_checkpoint(own)


def test_a_stage_without_tensors_is_named(own: Path) -> None:
    save_file({}, own / "fine.safetensors")
    with pytest.raises(InvalidRequest, match="has no tensors for the fine stage"):
        open_checkpoint(own).tensors("fine")


def test_every_number_of_a_model_survives_saving(tmp_path: Path) -> None:
    odd = replace(
        TINY,
        text=replace(TINY.text, block=64, offset=11, pad=9, infer=12, lower_case=True),
        codec=replace(TINY.codec, ratios=(4, 4), sample_rate=16_000, frame_rate=1000),
        languages=("en",),
        lineage="other",
    )
    forged.write_vocab(tmp_path / "vocab.txt")
    save_checkpoint(tmp_path / "own", odd, own_stages(), tmp_path / "vocab.txt")
    opened: ModelConfig = open_checkpoint(tmp_path / "own").config
    assert opened == odd
    assert opened.family != BARK.family


def test_a_filter_s_rows_have_a_scale_each_too() -> None:
    weight = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(0))
    weight *= torch.tensor([0.01, 1.0, 100.0])[:, None, None]
    stored, scale = int8_rows(weight)
    assert stored.dtype == torch.int8 and stored.shape == weight.shape and scale.shape == (3,)
    error = (from_int8_rows(stored, scale) - weight).abs().amax(dim=(1, 2))
    assert bool((error <= weight.abs().amax(dim=(1, 2)) / 254 * 1.001).all())
