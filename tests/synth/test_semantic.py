"""The semantic stage's prompt, limits and head."""

import numpy as np
import pytest
import torch

from synth.protocol import Sampling
from synth.semantic import history_block, max_tokens, semantic_head
from synth.vocab import BARK
from tests.synth.tiny import NARROW, ODD, history, tiny_model


@pytest.mark.parametrize("given", [1, 158, 256, 700])
def test_history_is_the_last_block_padded_on_the_right(given: int) -> None:
    voice = history(BARK, given)
    block = history_block(voice, BARK)
    kept = min(given, 256)
    assert block.shape == (256,)
    np.testing.assert_array_equal(block[:kept], voice.semantic[-kept:])
    assert (block[kept:] == 10_000).all()


def test_no_history_is_all_padding() -> None:
    assert set(history_block(None, BARK).tolist()) == {10_000}


@pytest.mark.parametrize(
    ("seconds", "tokens"),
    [(None, 768), (2.0, 100), (0.001, 1), (1 / 49.9, 2), (14, 699), (99, 768)],
)
def test_the_duration_cap_appends_first_and_tests_after(seconds: float | None, tokens: int) -> None:
    assert max_tokens(Sampling(max_seconds=seconds), BARK) == tokens


def test_the_head_is_a_view_of_the_rows_that_can_be_sampled() -> None:
    transformer = tiny_model(NARROW).semantic
    head = semantic_head(transformer, NARROW)
    assert head.shape == (10_001, 32)
    assert head.data_ptr() == transformer.heads[0].data_ptr()


def test_an_end_apart_from_the_tokens_becomes_the_last_row() -> None:
    transformer = tiny_model(ODD).semantic
    head = semantic_head(transformer, ODD)
    assert torch.equal(head[:401], transformer.heads[0][:401])
    assert torch.equal(head[401], transformer.heads[0][413])
