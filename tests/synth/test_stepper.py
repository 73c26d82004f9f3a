"""Slots: cached equals uncached, and what is in one slot is nobody else's business."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from synth.kv_cache import KVCache, Prefill
from synth.sampling import noise_key
from synth.slot_draws import Draw
from synth.step_graphs import Body, Recorded
from synth.stepper import Stepper
from synth.transformer import Transformer
from tests.synth.tiny import NARROW, ODD, RANDOM, tiny_model

PROMPT = 20


def stepper(slots: int = 3, *, masked: bool = False) -> Stepper:
    """In double precision, so that rounding makes no difference."""
    transformer = tiny_model(ODD, "fp64").semantic
    return Stepper(
        transformer, [transformer.heads[0]], [0], slots=slots, end_row=413, masked=masked
    )


def ids(seed: int, count: int = PROMPT) -> np.ndarray:
    return np.random.default_rng(seed).integers(400, size=count)


def begin(s: Stepper, slot: int, seed: int, how: Draw | None = None) -> None:
    s.open(slot, how or Draw(noise_key(seed), 0.8))
    prompt = ids(seed)
    s.prefill(slot, s.embed(prompt[:-1]), int(prompt[-1]))


def logits_at_once(transformer: Transformer, tokens: np.ndarray) -> Tensor:
    """All positions in one causal pass, without any cache: (T, V)."""
    cache = KVCache(transformer.shape, 1, device=torch.device("cpu"), dtype=torch.float64)
    x = transformer.wtes[0][torch.from_numpy(tokens)] + transformer.wpe[: len(tokens)]
    return transformer(x, Prefill(cache, 0, 0, len(tokens))) @ transformer.heads[0].T


@pytest.mark.parametrize("config", [RANDOM, NARROW, ODD], ids=["random", "narrow", "odd"])
def test_cached_steps_equal_one_pass_over_the_whole_sequence(config: object) -> None:
    """Each greedy token is the argmax of a pass that computes everything from the start."""
    assert config in (RANDOM, NARROW, ODD)
    transformer = tiny_model(config, "fp64").coarse  # pyright: ignore[reportArgumentType]
    s = Stepper(transformer, [transformer.heads[0]], [0], slots=2)
    with torch.inference_mode():
        begin(s, 1, 5, Draw(0, 0.0))
        made = s.run(40, [1]).tokens[:, 0]
        whole = np.concatenate([ids(5), made])
        expected = logits_at_once(transformer, whole).argmax(-1).numpy()
    np.testing.assert_array_equal(made, expected[PROMPT - 1 : -1])
    assert len(set(made.tolist())) > 5


def test_a_slot_s_tokens_are_the_same_alone_together_and_elsewhere() -> None:
    with torch.inference_mode():
        alone = {}
        for seed in (1, 2, 3):
            s = stepper(1)
            begin(s, 0, seed)
            alone[seed] = s.run(30, [0]).tokens[:, 0]
        s = stepper(3)
        places = {1: 2, 2: 0, 3: 1}
        begin(s, places[1], 1)
        first = s.run(7, [places[1]]).tokens[:, 0]  # goes ahead by itself
        begin(s, places[2], 2)
        begin(s, places[3], 3)
        made = s.run(23, [places[1], places[2], places[3]]).tokens
    np.testing.assert_array_equal(np.concatenate([first, made[:, 0]]), alone[1])
    np.testing.assert_array_equal(made[:, 1], alone[2][:23])
    np.testing.assert_array_equal(made[:, 2], alone[3][:23])


def test_idle_slots_stand_still() -> None:
    s = stepper(3)
    with torch.inference_mode():
        for slot in range(3):
            begin(s, slot, slot)
        before = (s.token.clone(), s.position.clone(), s.step.clone(), s.cache.k[:, 1].clone())
        s.run(5, [0, 2])
        assert s.position.tolist() == [PROMPT - 1 + 5, PROMPT - 1, PROMPT - 1 + 5]
        assert s.step.tolist() == [5, 0, 5] and s.live == s.position.tolist()
        assert s.token[1] == before[0][1]
        assert torch.equal(s.cache.k[:, 1], before[3])
        assert s.exec_mask.tolist() == [True, False, True]


def test_a_reset_clears_one_slot_and_leaves_no_trace() -> None:
    with torch.inference_mode():
        fresh = stepper(2)
        begin(fresh, 1, 9)
        used = stepper(2)
        begin(used, 1, 4, Draw(noise_key(4), 2.0, top_k=3, top_p=0.5))
        begin(used, 0, 8)
        used.run(50, [0, 1])
        begin(used, 1, 9)
        assert used.position.tolist()[0] == PROMPT - 1 + 50
        np.testing.assert_array_equal(used.run(30, [1]).tokens, fresh.run(30, [1]).tokens)


def test_each_row_samples_by_its_own_rules() -> None:
    """A neighbour's filters, greed or leave to end do not touch a row."""
    hows = [
        Draw(noise_key(1), 0.0),
        Draw(noise_key(1), 1.5),
        Draw(noise_key(1), 1.5, top_k=2),
        Draw(noise_key(1), 1.5, top_p=0.95, may_end=True, min_eos_p=0.01),
    ]
    with torch.inference_mode():
        together = stepper(4)
        for slot, how in enumerate(hows):
            begin(together, slot, 6, how)
        made = together.run(25, [0, 1, 2, 3])
        for slot, how in enumerate(hows):
            alone = stepper(1)
            begin(alone, 0, 6, how)
            chunk = alone.run(25, [0])
            np.testing.assert_array_equal(chunk.tokens[:, 0], made.tokens[:, slot])
            np.testing.assert_array_equal(chunk.ended[:, 0], made.ended[:, slot])
    assert len({tuple(column) for column in made.tokens.T.tolist()}) == 4
    assert not made.ended[:, :3].any() and (made.tokens[:, :3] != 413).all()


def test_the_number_of_steps_at_a_time_changes_nothing() -> None:
    with torch.inference_mode():
        one, many = stepper(1), stepper(1)
        begin(one, 0, 3)
        begin(many, 0, 3)
        single = np.concatenate([one.run(1, [0]).tokens for _ in range(24)])
        chunks = np.concatenate([many.run(k, [0]).tokens for k in (2, 5, 17)])
    np.testing.assert_array_equal(single, chunks)


def play_back(body: Body, state: Sequence[Tensor]) -> Recorded:
    """As a CUDA graph does: whatever the host decided when it was recorded is repeated."""
    before = [tensor.clone() for tensor in state]
    outputs = body()
    for tensor, held in zip(state, before, strict=True):
        tensor.copy_(held)

    def replay() -> None:
        for place, made in zip(outputs, body(), strict=True):
            place.copy_(made)

    return Recorded(replay, outputs)


def test_a_warm_up_records_steps_of_any_number_of_slots_and_leaves_nothing() -> None:
    bodies: list[Body] = []

    def counted(body: Body, state: Sequence[Tensor]) -> Recorded:
        bodies.append(body)
        return play_back(body, state)

    warm, cold = stepper(5, masked=True), stepper(5, masked=True)
    warm.record_steps(counted)
    with torch.inference_mode():
        warm.warm_up()
        for s in (warm, cold):
            for slot in range(5):
                begin(s, slot, slot)
        recorded = len(bodies)
        for slots in ([0], [1], [2, 0], [4], [0, 1, 2, 3, 4]):
            np.testing.assert_array_equal(warm.run(6, slots).tokens, cold.run(6, slots).tokens)
    assert recorded == len(bodies) > 8  # of 1, 2, 4 and 5 slots: a step and its noise; prompts


@pytest.mark.parametrize("recorded", [False, True])
def test_the_same_work_for_all_slots_gives_the_same_tokens(recorded: bool) -> None:
    """What a recorded graph does: idle slots take part and stand still, even a full one."""
    each, masked = stepper(4), stepper(4, masked=True)
    if recorded:
        masked.record_steps(play_back)
    context = ODD.semantic_shape.context
    with torch.inference_mode():
        for s in (each, masked):
            for slot in range(3):
                begin(s, slot, slot, Draw(noise_key(slot), 0.9, top_k=slot * 10))
            s.open(3, Draw(0, 0.0))
            full = ids(9, context)
            s.prefill(3, s.embed(full), 1)
        for slots, k in (([1], 11), ([0, 2], 40), ([0, 1, 2], 11), ([2], 7), ([0], 11), ([1], 11)):
            one, other = each.run(k, slots), masked.run(k, slots)
            np.testing.assert_array_equal(one.tokens, other.tokens)
            np.testing.assert_array_equal(one.ended, other.ended)
        assert masked.position.tolist() == each.position.tolist()
        assert masked.position[3] == context and masked.live == each.live


def test_what_was_recorded_serves_whoever_comes_next() -> None:
    """Whether a clip may end was part of what steps are recorded for, and so were the filters of
    slots that nobody uses: what a warm-up had recorded was of no use to the first clip.
    """
    bodies: list[Body] = []

    def counted(body: Body, state: Sequence[Tensor]) -> Recorded:
        recorded = play_back(body, state)
        if len(recorded.outputs) > 1:  # a step: neither a prefill nor noise
            bodies.append(body)
        return recorded

    s = stepper(2, masked=True)
    s.record_steps(counted)
    with torch.inference_mode():
        begin(s, 0, 1, Draw(noise_key(1), 0.7))
        s.run(4, [0])
        begin(s, 0, 2, Draw(noise_key(2), 0.8, may_end=True, min_eos_p=0.2))
        s.run(4, [0])
        assert len(bodies) == 1
        begin(s, 0, 2, Draw(noise_key(2), 0.0, top_k=3))
        begin(s, 1, 3)
        s.run(4, [1])
        assert len(bodies) == 2
        begin(s, 0, 3)
        s.run(4, [0, 1])
        assert len(bodies) == 2


@pytest.mark.parametrize("recorded", [False, True])
def test_how_likely_tokens_were_is_told_where_it_is_asked_for(recorded: bool) -> None:
    """In Bark's own distribution: neither a filter, nor that there may be no end, changes it."""
    how = Draw(noise_key(2), 0.8, top_k=3, scored=True)
    each, masked = stepper(3), stepper(3, masked=True)
    if recorded:
        masked.record_steps(play_back)
    with torch.inference_mode():
        for s in (each, masked):
            begin(s, 0, 1)
            begin(s, 2, 2, how)
            assert s.run(4, [0]).log_probs is None
        one, other = each.run(6, [0, 2]), masked.run(6, [0, 2])
        assert one.log_probs is not None and other.log_probs is not None
        np.testing.assert_allclose(one.log_probs, other.log_probs, rtol=1e-9)
        whole = np.concatenate([ids(2), one.tokens[:, 1]])
        odds = logits_at_once(tiny_model(ODD, "fp64").semantic, whole).log_softmax(-1)
    wanted = odds[np.arange(PROMPT - 1, PROMPT + 5), one.tokens[:, 1]]
    np.testing.assert_allclose(one.log_probs[:, 1], wanted, rtol=1e-9)


@pytest.mark.parametrize("recorded", [False, True])
def test_two_heads_take_turns_in_graphs_too(recorded: bool) -> None:
    transformer = tiny_model(ODD, "fp64").coarse
    heads = [transformer.heads[0][at : at + 64] for at in (0, 64)]
    each = Stepper(transformer, heads, [0, 64], slots=3)
    masked = Stepper(transformer, heads, [0, 64], slots=3, masked=True)
    if recorded:
        masked.record_steps(play_back)
    with torch.inference_mode():
        for s in (each, masked):
            for slot in range(3):
                begin(s, slot, slot)
        for slots in ([0], [0, 1, 2], [1]):
            np.testing.assert_array_equal(masked.run(12, slots).tokens, each.run(12, slots).tokens)


def test_where_nothing_can_be_recorded_steps_are_made_all_the_same(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def refuse(body: Body, state: Sequence[Tensor]) -> Recorded:
        raise RuntimeError("operation not permitted when stream is capturing")

    each, masked = stepper(2), stepper(2, masked=True)
    masked.record_steps(refuse)
    with torch.inference_mode():
        for s in (each, masked):
            begin(s, 0, 5)
        np.testing.assert_array_equal(masked.run(9, [0]).tokens, each.run(9, [0]).tokens)
    assert [record.message for record in caplog.records] == [
        f"{what} cannot be recorded (operation not permitted when stream is capturing): "
        "made without CUDA graphs"
        for what in ("prefills", "steps")
    ]


@pytest.mark.gpu
@pytest.mark.parametrize("slots", [1, 2, 4, 8, 16])
def test_graphs_of_every_width_give_the_tokens_of_single_kernels(slots: int) -> None:
    from synth.model import build_model
    from tests.synth.tiny import tiny_checkpoint

    model = build_model(tiny_checkpoint(ODD), device="cuda", precision="fp64")
    plain, graphed = (
        Stepper(model.semantic, [model.semantic.heads[0]], [0], slots=slots, end_row=413)
        for _ in range(2)
    )
    graphed.record_steps()
    with torch.inference_mode():
        for s in (plain, graphed):
            for slot in range(slots):
                begin(s, slot, slot, Draw(noise_key(slot), 0.9, top_k=slot % 3 * 10))
        for active in (range(slots), [slots - 1], range(0, slots, 2)):
            np.testing.assert_array_equal(
                graphed.run(40, list(active)).tokens, plain.run(40, list(active)).tokens
            )
    assert graphed.graphs is not None and graphed.graphs.records


@pytest.mark.gpu
def test_the_masked_path_of_a_gpu_gives_the_cpu_s_tokens() -> None:
    from synth.model import build_model
    from tests.synth.tiny import tiny_checkpoint

    model = build_model(tiny_checkpoint(ODD), device="cuda", precision="fp64")
    on_gpu = Stepper(model.semantic, [model.semantic.heads[0]], [0], slots=3, end_row=413)
    on_cpu = stepper(3)
    with torch.inference_mode():
        for s in (on_cpu, on_gpu):
            for slot in range(3):
                begin(s, slot, slot)
        for slots in ([1], [0, 2], [0, 1, 2]):
            np.testing.assert_array_equal(
                on_gpu.run(20, slots).tokens, on_cpu.run(20, slots).tokens
            )
