"""Every part of the recipe in a minute's work: speech on disk to a checkpoint that the engine runs.

The teacher and the encoder behind the semantic tokens are large and optional; their output stands
here as made-up signals and tokens. What comes out is noise, but comes out of the product's engine.
"""

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from synth.checkpoints import open_checkpoint
from synth.errors import InvalidRequest
from synth.model import build_model
from synth.nano import handover
from synth.nano.codebooks import Codebooks, fit_codebooks
from synth.nano.export import export
from synth.nano.handover import adopt
from synth.nano.recipe import ADVERSARIAL_CROPS, CODEC, NANO, RUNS, SEMANTIC, VOICES, Paths
from synth.nano.shards import load_tokens, open_shard
from synth.nano.stages import STAGES
from synth.nano.trainer import Limits, train
from synth.nano.units import Units
from synth.nano.vocoder import VocoderStage
from synth.pipeline import Pipeline
from synth.protocol import Sampling, Submit
from synth.voices import VoiceBook
from tests.synth.nano.signals import write_aligned, write_shard

HELD_OUT, COUNT = 12, 32


@pytest.fixture(scope="module", autouse=True)
def few_held_out() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("synth.nano.recipe.VALIDATION", HELD_OUT)
        yield


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two steps a stage, exported."""
    root = tmp_path_factory.mktemp("nano")
    paths = Paths(root / "run")
    torch.manual_seed(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("synth.nano.export._PROMPT_FRAMES", (60, 90))
        patch.setattr("synth.nano.recipe.ADVERSARIAL_CROPS", 2)  # both phases
        small = {"semantic": 900, "coarse": 2, "fine": 2, "decoder": 2}
        for name, batch in small.items():
            patch.setitem(RUNS, name, dataclasses.replace(RUNS[name], batch=batch, save_every=2))
        _tokens(paths)
        for name in STAGES:
            stage = STAGES[name](paths, RUNS[name].batch)
            state = train(stage, RUNS[name], paths.checkpoint(name), Limits(steps=2))
            assert state.step == 2
        export(paths, root / "out")
    return root / "out"


def _tokens(paths: Paths) -> None:
    folder = write_shard(paths, COUNT)
    shard = open_shard(folder)
    fit_codebooks(paths, shard, utterances=40, refiner_steps=10)
    books = Codebooks.load(paths.codebooks)
    Units(torch.zeros(1, 1), torch.zeros(1, 1), torch.randn(SEMANTIC.vocab, 64)).save(paths.units)
    rng = np.random.default_rng(0)
    codes = [
        books.encode(books.features(shard.waveform(i), shard.pitch(i))).numpy().astype(np.int16)
        for i in range(COUNT)
    ]
    tokens = [rng.integers(0, SEMANTIC.vocab, c.shape[1]).astype(np.int16) for c in codes]
    np.savez(
        folder / "tokens.npz",
        semantic=np.concatenate(tokens),
        codes=np.concatenate(codes, 1),
        ends=np.cumsum([len(t) for t in tokens]),
        voice=shard.voice,
    )
    assert len(load_tokens(paths)) == COUNT
    write_aligned(paths, folder, books)


def test_the_engine_speaks_with_it(exported: Path):
    model = build_model(open_checkpoint(exported / "checkpoint"), device="cpu", precision="fp32")
    assert model.config == NANO
    book = VoiceBook(model.config, [exported])
    assert [info.name for info in book.infos] == [voice.name for voice in VOICES]
    submit = Submit(job_id="1", text="Hello there.", sampling=Sampling(max_seconds=0.6, seed=4))
    audio, done = Pipeline(model).run(submit, book.get("nano/bruno"))
    assert len(audio) == done.history.fine_codes.shape[1] * CODEC.hop
    assert np.isfinite(audio).all()
    assert audio.std() > 0


def test_what_ships_is_small():
    """An export of this file's own says nothing of what was committed."""
    shipped = Path(handover.__file__).parent
    size = sum(f.stat().st_size for f in shipped.rglob("*") if "__pycache__" not in f.parts)
    assert 10_000_000 < size < 20_000_000


def test_the_shipped_curves_are_not_taken_for_validation():
    """The decoder's were of its training losses, under names that a validation might have."""
    told = json.loads((Path(handover.__file__).parent / handover.CURVE_FILE).read_text())
    names = {key for point in told["decoder"]["curve"] for key in point} - {"step", "cpu_s"}
    assert names == {"running_spectral", "running_aligned", "running_apart"}
    assert told["decoder"]["crops"] == 32 * told["decoder"]["step"] > ADVERSARIAL_CROPS


def test_discriminators_come_in_by_crops_and_not_by_steps(
    exported: Path, monkeypatch: pytest.MonkeyPatch
):
    """With the fewer crops a step that a CPU takes they began too early, at a step of a GPU's."""
    monkeypatch.setattr("synth.nano.recipe.ADVERSARIAL_CROPS", 1)
    paths = Paths(exported.parent / "run")
    assert torch.load(paths.checkpoint("decoder"), weights_only=True)["extra"]["crops"] == 4
    stage = VocoderStage(paths, batch=1)
    heard = [stage.loss(9, stage.prepare(i, np.random.default_rng(i)))[1] for i in range(2)]
    assert ["jury" in parts for parts in heard] == [False, True]


def test_an_export_that_cannot_be_finished_leaves_the_last_one(exported: Path, tmp_path: Path):
    """The checkpoint was replaced before its voices were looked for: a bare StopIteration."""
    paths, out = Paths(exported.parent / "run"), tmp_path / "out"
    out.mkdir()
    with pytest.raises(InvalidRequest, match="No utterance of nano/ada is 180 to 260 frames long"):
        export(paths, out)
    broken = Paths(tmp_path / "run")
    broken.root.mkdir()
    for name in ("shards", "checkpoints", "codebooks.npz"):
        (broken.root / name).symlink_to(paths.root / name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("synth.nano.export._PROMPT_FRAMES", (60, 90))
        with pytest.raises(InvalidRequest, match=r"There is no .*units.npz: run `tokens` first"):
            export(broken, out)
    assert list(out.iterdir()) == []


def test_int8_keeps_the_weights(exported: Path):
    """Each row of a matrix is off by at most a 254th of its largest value."""
    paths = Paths(exported.parent / "run")
    trained = torch.load(paths.checkpoint("semantic"), weights_only=True)["average"]
    stored = open_checkpoint(exported / "checkpoint").tensors("semantic")
    for name, weight in trained.items():
        if weight.dim() == 2:
            off = (stored[name].float() - weight).abs().amax(1)
            assert (off <= weight.abs().amax(1) / 253 + 1e-7).all(), name


def test_training_goes_on_elsewhere(exported: Path, tmp_path: Path):
    """An export alone makes a run: the same weights but for their int8, tokens, steps and jury."""
    before, after = Paths(exported.parent / "run"), Paths(tmp_path / "run")
    assert adopt(after, exported) == ["semantic", "coarse", "fine", "decoder"]
    assert torch.load(after.checkpoint("decoder"), weights_only=True)["extra"]["crops"] == 4
    for name in STAGES:
        old = torch.load(before.checkpoint(name), weights_only=True)
        new = torch.load(after.checkpoint(name), weights_only=True)
        assert (new["step"], new["curve"]) == (old["step"], old["curve"])
        assert new["model"].keys() == old["model"].keys()
    old_rows, new_rows = (Codebooks.load(p.codebooks).rows for p in (before, after))
    torch.testing.assert_close(new_rows, old_rows, rtol=1e-3, atol=1e-3)
    jury = torch.load(after.checkpoint("decoder"), weights_only=True)["extra"]["jury"]
    assert (
        jury.keys()
        == torch.load(before.checkpoint("decoder"), weights_only=True)["extra"]["jury"].keys()
    )
    # What the decoder says is what the exported one says, but for what rounding turned its phase.
    again = tmp_path / "again"
    (after.shards).mkdir()
    (after.shards / "000").symlink_to(before.shards / "000")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("synth.nano.export._PROMPT_FRAMES", (60, 90))
        export(after, again)
    codes = np.random.default_rng(1).integers(0, 200, (8, 30))
    one, two = (
        build_model(open_checkpoint(f / "checkpoint"), device="cpu", precision="fp32").codec
        for f in (exported, again)
    )
    first, second = one.decode(codes), two.decode(codes)
    assert np.linalg.norm(second - first) < 0.1 * np.linalg.norm(first - first.mean())
    # And it trains: a fresh optimizer warms up from the step it was handed.
    small = dataclasses.replace(RUNS["fine"], batch=2, save_every=2)
    state = train(STAGES["fine"](after, 2), small, after.checkpoint("fine"), Limits(steps=3))
    assert (state.step, state.since) == (3, 2)
    assert adopt(after, exported) == []  # what a run has is left alone


def test_a_stage_of_another_shape_begins_anew(
    exported: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
):
    wider = dataclasses.replace(NANO.codec, n_filters=40)
    monkeypatch.setattr(handover, "NANO", dataclasses.replace(NANO, codec=wider))
    paths = Paths(tmp_path / "run")
    assert adopt(paths, exported) == ["semantic", "coarse", "fine"]
    assert "decoder: the recipe has another shape" in caplog.text
    assert not paths.checkpoint("decoder").exists()


def test_an_adoption_that_is_stopped_leaves_no_half_checkpoint(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """What a full disk left half written stood for a whole file the next time."""
    paths = Paths(tmp_path / "run")

    def full(state: object, file: Path) -> None:
        file.write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="No space"):
        adopt(paths, exported)
    assert not list(paths.root.rglob("*.pt"))


def test_a_folder_without_a_handover_is_refused(tmp_path: Path):
    with pytest.raises(InvalidRequest, match="no training.npz"):
        adopt(Paths(tmp_path / "run"), tmp_path)
