"""The training modules compute what the engine and the original compute from the same weights."""

from typing import Any

import numpy as np
import torch

from synth.nano.gpt import FineModel, coarse_model, semantic_model
from synth.nano.recipe import COARSE, FINE, NANO, SEMANTIC, TEXT
from synth.peers import import_suno
from synth.transformer import tensor_shapes
from synth.vocab import TransformerShape

SUNO = import_suno()


def _original(shape: TransformerShape) -> Any:
    return SUNO.GPT(
        SUNO.GPTConfig(
            block_size=shape.context,
            input_vocab_size=shape.input_vocab,
            output_vocab_size=shape.output_vocab,
            n_layer=shape.n_layer,
            n_head=shape.n_head,
            n_embd=shape.width,
            bias=False,
        )
    ).eval()


def test_coarse_matches_the_original():
    torch.manual_seed(0)
    ours, theirs = coarse_model(NANO.coarse_shape), _original(NANO.coarse_shape)
    theirs.load_state_dict(ours.state_dict(), strict=False)
    ids = torch.randint(NANO.coarse_shape.input_vocab, (1, 200))
    with torch.no_grad():
        expected = theirs(ids)[0][0, -1]
        found = ours.lm_head(ours(ids))[0, -1]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_semantic_with_whole_blocks_matches_the_original():
    """The original sums blocks of 256 by name; here the sum is made by hand."""
    torch.manual_seed(0)
    ours, theirs = semantic_model(NANO.semantic_shape), _original(NANO.semantic_shape)
    theirs.load_state_dict(ours.state_dict(), strict=False)
    n = TEXT.block
    ids = torch.randint(SEMANTIC.vocab, (1, 2 * n + 40))
    table = theirs.transformer.wte.weight
    merged = torch.cat([table[ids[:, :n]] + table[ids[:, n : 2 * n]], table[ids[:, 2 * n :]]], 1)
    with torch.no_grad():
        x = merged + theirs.transformer.wpe.weight[: merged.shape[1]]
        for block in theirs.transformer.h:
            x, _ = block(x)
        expected = theirs.lm_head(theirs.transformer.ln_f(x))[:, n:]
        hidden, _ = ours.prompted(ids, n)
        found = ours.lm_head(hidden)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_narrow_blocks_keep_the_positions_behind_them():
    """A narrow block leaves out padding, and moves nothing: without attention nothing changes."""
    torch.manual_seed(0)
    model = semantic_model(NANO.semantic_shape)
    for block in model.transformer.blocks():
        block.attn.c_proj.weight.data.zero_()
    ids = torch.full((1, 2 * TEXT.block + 9), SEMANTIC.pad)
    ids[:, : TEXT.block] = TEXT.pad
    ids[0, 2 * TEXT.block :] = torch.arange(9)
    narrow = torch.cat([ids[:, :10], ids[:, TEXT.block : TEXT.block + 10], ids[:, -9:]], 1)
    with torch.no_grad():
        torch.testing.assert_close(
            model.prompted(narrow, 10)[0], model.prompted(ids, TEXT.block)[0]
        )


def test_fine_matches_the_original():
    torch.manual_seed(0)
    shape = NANO.fine_shape
    ours = FineModel(shape).eval()
    theirs = SUNO.FineGPT(
        SUNO.FineGPTConfig(
            block_size=shape.context,
            input_vocab_size=shape.input_vocab,
            output_vocab_size=shape.output_vocab,
            n_layer=shape.n_layer,
            n_head=shape.n_head,
            n_embd=shape.width,
            bias=False,
        )
    ).eval()
    theirs.load_state_dict(ours.state_dict(), strict=False)
    codes = torch.from_numpy(
        np.random.default_rng(0).integers(0, FINE.mask + 1, (1, FINE.window, FINE.codebooks))
    )
    for book in (COARSE.codebooks, FINE.codebooks - 1):
        with torch.no_grad():
            torch.testing.assert_close(ours(codes, book), theirs(book, codes), rtol=1e-4, atol=1e-5)


def test_tensors_are_those_the_engine_asks_for():
    models = {
        "semantic": (semantic_model(NANO.semantic_shape), 0),
        "coarse": (coarse_model(NANO.coarse_shape), 0),
        "fine": (FineModel(NANO.fine_shape), FINE.codebooks),
    }
    for stage, (model, books) in models.items():
        asked = tensor_shapes(getattr(NANO, f"{stage}_shape"), codebooks=books)
        assert {k: tuple(v.shape) for k, v in model.state_dict().items()} == asked
