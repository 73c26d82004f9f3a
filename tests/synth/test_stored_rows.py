"""Tables that stay in their file: the same numbers, and none of the memory."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from synth.checkpoints import STAGES, open_checkpoint, save_checkpoint
from synth.errors import EngineFailed
from synth.linear import has_half_kernels, int8_limit
from synth.model import build_model
from synth.pipeline import Pipeline
from synth.protocol import Sampling, Submit
from synth.semantic import semantic_head
from synth.stored_rows import PartlyStored, StoredRows, place_of
from synth.weights import read_safetensors, read_torch, write_safetensors
from tests.synth.tiny import RANDOM, tiny_checkpoint

MAPS = Path("/proc/self/maps")
pytestmark = pytest.mark.skipif(not MAPS.exists(), reason="the system tells no mappings")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    numbers = torch.Generator().manual_seed(0)
    tensors = {name: torch.randn(500, 24, generator=numbers) for name in ("before", "table")}
    write_safetensors(tmp_path / "a b.safetensors", tensors)
    return tmp_path / "a b.safetensors"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    checkpoint = tiny_checkpoint(RANDOM)
    stages = {stage: checkpoint.tensors(stage) for stage in STAGES}
    save_checkpoint(tmp_path / "m", RANDOM, stages, checkpoint.tokenizer_file)
    return tmp_path / "m"


def stored(table: Tensor, dtype: torch.dtype | None = None) -> StoredRows:
    found = StoredRows.of(table, dtype)
    assert found is not None
    return found


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rows_are_what_the_table_s_are(file: Path, dtype: torch.dtype) -> None:
    table = read_safetensors(file)["table"]
    rows, expected = stored(table, dtype), table.to(dtype)
    ids = torch.tensor([7, 499, 7, 0, 250, 0])
    assert torch.equal(rows[ids], expected[ids])
    assert torch.equal(rows[ids[:0]], expected[:0])
    assert torch.equal(rows[20:320], expected[20:320])
    assert rows.shape == (500, 24) and rows.dtype == dtype
    partly = PartlyStored(rows[:100], rows)
    assert torch.equal(partly[ids], expected[ids])
    assert torch.equal(partly[ids[3:4]], expected[ids[3:4]])


def test_a_torch_file_s_too(tmp_path: Path) -> None:
    torch.save({"table": torch.arange(600.0).view(50, 12)}, tmp_path / "a.pt")
    table = read_torch(tmp_path / "a.pt")["table"]
    assert torch.equal(stored(table)[torch.tensor([3, 49])], table[[3, 49]])


def test_what_was_never_a_file_stays_in_memory(file: Path) -> None:
    table = read_safetensors(file)["table"]
    assert StoredRows.of(table.clone()) is None
    assert StoredRows.of(table.T) is None


def test_a_file_of_the_same_name_that_is_not_the_mapped_one_is_not_taken(file: Path) -> None:
    table = read_safetensors(file)["table"]
    write_safetensors(file, {"before": torch.zeros(500, 24), "table": torch.zeros(500, 24)})
    assert StoredRows.of(table) is None


def test_a_file_that_is_replaced_later_does_no_harm(file: Path) -> None:
    """Ours are written beside and renamed: what is open stays what it was."""
    table = read_safetensors(file)["table"]
    rows, expected = stored(table), table.clone()
    write_safetensors(file, {"table": torch.zeros(3, 3)})
    assert torch.equal(rows[torch.tensor([5, 400])], expected[[5, 400]])
    file.unlink()
    assert torch.equal(rows[:500], expected)


def test_a_file_that_is_cut_short_is_an_error(file: Path) -> None:
    """Not the end of the process, as a mapping would have it."""
    rows = stored(read_safetensors(file)["table"])
    os.truncate(file, 20_000)
    with pytest.raises(EngineFailed, match=r"a b\.safetensors was written to .*: load the model"):
        rows[torch.tensor([499])]


def test_a_file_that_is_written_over_in_place_is_an_error(file: Path) -> None:
    """And not other numbers."""
    rows = stored(read_safetensors(file)["table"])
    file.write_bytes(bytes(file.stat().st_size))
    with pytest.raises(EngineFailed, match="was written to while its model was in use"):
        rows[torch.tensor([1])]


@pytest.fixture(params=["int8", "bf16"])
def precision(request: pytest.FixtureRequest) -> str:
    if request.param == "int8" and not int8_limit():
        pytest.skip("no 8 bit products on this machine")
    return request.param


def test_a_model_s_text_table_stays_in_its_file(folder: Path, precision: str) -> None:
    """It was the largest thing in memory: 199 MB of Bark small's in 8 bits."""
    model = build_model(open_checkpoint(folder), device="cpu", precision=precision)
    table = model.semantic.wtes[0]
    assert isinstance(table, PartlyStored)
    assert len(table.kept) == RANDOM.semantic_shape.output_vocab < len(table)
    assert isinstance(model.coarse.wtes[0], Tensor)  # all its rows are fed step by step
    packs = precision == "int8" or has_half_kernels()  # the rows that a product is of
    assert isinstance(model.semantic.heads[0], StoredRows) is packs
    assert isinstance(model.coarse.heads[0], StoredRows) is packs
    for stage in ("semantic", "coarse"):
        assert str(folder / f"{stage}.safetensors") not in MAPS.read_text()


def test_such_a_model_is_the_one_in_memory(folder: Path, precision: str) -> None:
    """To the last bit."""
    stays = build_model(open_checkpoint(folder), device="cpu", precision=precision)
    memory = build_model(tiny_checkpoint(RANDOM), device="cpu", precision=precision)
    assert isinstance(memory.semantic.wtes[0], Tensor)
    sampling = Sampling(seed=1, max_seconds=1.0, early_stop=False)
    submit = Submit(job_id="a", text="Hello there", sampling=sampling)
    clips = [Pipeline(model).run(submit, None) for model in (stays, memory)]
    assert len(clips[0][0]) and np.array_equal(clips[0][0], clips[1][0])
    assert np.array_equal(clips[0][1].history.semantic, clips[1][1].history.semantic)


def test_an_end_that_is_not_behind_the_tokens_is_found_in_the_file(folder: Path) -> None:
    if not int8_limit():
        pytest.skip("no 8 bit products on this machine")
    numbers = replace(RANDOM.semantic, vocab=RANDOM.semantic.vocab - 3)
    config = replace(RANDOM, semantic=numbers)
    stays = build_model(open_checkpoint(folder), device="cpu", precision="int8")
    memory = build_model(tiny_checkpoint(RANDOM), device="cpu", precision="int8")
    head = semantic_head(stays.semantic, config)
    assert len(head) == numbers.vocab + 1
    assert torch.equal(head, semantic_head(memory.semantic, config))


def test_single_precision_is_mapped_as_it_is(folder: Path) -> None:
    """There is no copy of any table that could be spared."""
    model = build_model(open_checkpoint(folder), device="cpu", precision="fp32")
    assert isinstance(model.semantic.wtes[0], Tensor)
    assert place_of(model.semantic.wtes[0]) is not None
