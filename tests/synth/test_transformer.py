"""Weights are checked by name and shape; blocks equal the original's."""

import pytest
import torch

from synth.errors import InvalidRequest
from synth.fine import FineStage
from synth.precision import StagePrecision
from synth.transformer import build_transformer, tensor_shapes
from tests.synth.reference import original
from tests.synth.tiny import NARROW, tiny_checkpoint, tiny_model

CPU = torch.device("cpu")
FP32 = StagePrecision(torch.float32, torch.float32)


def test_the_fine_stage_gives_the_original_s_logits() -> None:
    """All positions, all books, nearly all to the last bit: rounding decides between equals.

    In another order of summing, fewer than a tenth were equal, and a near tie in the padding
    changed a clip's codes.
    """
    stage = FineStage(tiny_model(NARROW).fine, NARROW)
    theirs = original(NARROW).generation.models["fine"]
    ids = torch.randint(1025, (1, 300, 8), generator=torch.Generator().manual_seed(0))
    for book in range(2, 8):
        with torch.inference_mode():
            expected = theirs(book, ids)[0, 20:, :1024]
            logits = stage.logits(ids[0], 20, book)
        assert expected.std() > 2
        torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)
        assert (logits == expected).float().mean() > 0.9


def test_a_missing_tensor_is_named_with_its_stage() -> None:
    tensors = dict(tiny_checkpoint(NARROW).tensors("coarse"))
    del tensors["transformer.h.1.mlp.c_fc.weight"]
    with pytest.raises(InvalidRequest, match=r"coarse stage lacks .*h\.1\.mlp\.c_fc.*\(128, 32\)"):
        build_transformer("coarse", NARROW.coarse_shape, tensors, device=CPU, precision=FP32)


def test_a_wrong_shape_says_expected_and_found() -> None:
    tensors = dict(tiny_checkpoint(NARROW).tensors("semantic"))
    tensors["transformer.wpe.weight"] = torch.zeros(7, 32)
    with pytest.raises(InvalidRequest, match=r"semantic stage has .*wpe.*\(7, 32\).*\(1024, 32\)"):
        build_transformer("semantic", NARROW.semantic_shape, tensors, device=CPU, precision=FP32)


def test_either_of_two_tied_tensors_is_enough() -> None:
    full = dict(tiny_checkpoint(NARROW).tensors("fine"))
    assert set(tensor_shapes(NARROW.fine_shape, codebooks=8)) == set(full)
    for absent in ("lm_heads.", "transformer.wtes."):
        some = {
            n: t for n, t in full.items() if not n.startswith(absent) or n.endswith("wtes.0.weight")
        }
        assert len(some) == len(full) - 7
        built = build_transformer(
            "fine", NARROW.fine_shape, some, codebooks=8, device=CPU, precision=FP32
        )
        for book in range(1, 8):
            assert torch.equal(built.heads[book - 1], full[f"lm_heads.{book - 1}.weight"])
            assert torch.equal(built.wtes[book], built.heads[book - 1])
