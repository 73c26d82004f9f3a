"""Recorded prefills: what plain ones leave in a slot, and nothing of it anywhere else."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from synth.model import build_model
from synth.pipeline import Pipeline
from synth.prefill_graphs import PROMPT_BUCKET
from synth.sampling import noise_key
from synth.slot_draws import Draw
from synth.step_graphs import Body, Recorded
from synth.stepper import Stepper
from tests.synth.jobs import finish, submit
from tests.synth.tape import Recorder, Tape
from tests.synth.test_stepper import play_back
from tests.synth.tiny import ODD, history, tiny_checkpoint, tiny_model

CONTEXT = ODD.semantic_shape.context  # 400: the last bucket is a short one


def pair(slots: int = 3) -> tuple[Stepper, Stepper, Recorder]:
    """A stepper without and one with recorded prefills, of nothing but stale rows."""
    transformer = tiny_model(ODD, "fp64").semantic
    plain, recorded = (
        Stepper(transformer, [transformer.heads[0]], [0], slots=slots, end_row=413, masked=True)
        for _ in range(2)
    )
    recorder = Recorder()
    recorded.record_steps(recorder)
    stale = torch.randn(plain.cache.k.shape, generator=torch.Generator().manual_seed(1))
    for stepper in (plain, recorded):
        stepper.cache.k.copy_(9 * stale)
        stepper.cache.v.copy_(-9 * stale)
    return plain, recorded, recorder


def take_in(stepper: Stepper, slot: int, seed: int, count: int, start: int = 0) -> None:
    """A prompt of `count` positions, and the token that is fed next."""
    prompt = np.random.default_rng(seed).integers(400, size=count + 1)
    if not start:
        stepper.open(slot, Draw(noise_key(seed), 0.8))
    stepper.prefill(slot, stepper.embed(prompt[:-1]), int(prompt[-1]), start=start)


def assert_same(plain: Stepper, recorded: Stepper) -> None:
    """What is live, in every slot."""
    assert recorded.live == plain.live
    assert torch.equal(recorded.position, plain.position)
    assert torch.equal(recorded.token, plain.token)
    for slot, live in enumerate(plain.live):
        for name in ("k", "v"):
            made, expected = (
                getattr(stepper.cache, name)[:, slot, :, :live] for stepper in (recorded, plain)
            )
            torch.testing.assert_close(made, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("count", [1, 127, 128, 129, 390, CONTEXT])
def test_a_recorded_prefill_leaves_what_a_plain_one_does(count: int) -> None:
    plain, recorded, recorder = pair()
    with torch.inference_mode():
        for stepper in (plain, recorded):
            take_in(stepper, 1, count, count)
        assert_same(plain, recorded)
        if count < CONTEXT:
            made, expected = (stepper.run(8, [1]).tokens for stepper in (recorded, plain))
            np.testing.assert_array_equal(made, expected)
    assert recorder.prefills == 1


def test_one_graph_serves_every_slot_and_length_while_others_decode() -> None:
    """A shorter prompt after a longer one too, whose end is still where prompts are copied to."""
    plain, recorded, recorder = pair()
    with torch.inference_mode():
        for slot, count in ((2, 120), (0, 7), (1, 60), (2, 5), (1, 128)):
            tokens: list[np.ndarray] = []
            for stepper in (plain, recorded):
                take_in(stepper, slot, slot + count, count)
                decoding = [other for other in range(3) if stepper.live[other]]
                tokens.append(stepper.run(9, decoding).tokens)
            np.testing.assert_array_equal(tokens[1], tokens[0])
            assert_same(plain, recorded)
    assert recorder.prefills == 1
    assert recorded.graphs is not None and recorded.graphs.records


def test_a_prompt_goes_on_from_what_the_slot_holds() -> None:
    plain, recorded, recorder = pair()
    with torch.inference_mode():
        for stepper in (plain, recorded):
            take_in(stepper, 0, 3, 70)
            take_in(stepper, 1, 4, 150)
        for slot, start, count in ((0, 70, 30), (1, 33, 101), (0, 1, 90), (1, 134, 0)):
            for stepper in (plain, recorded):
                take_in(stepper, slot, start, count, start)
            assert_same(plain, recorded)
        made, expected = (stepper.run(8, [0, 1]).tokens for stepper in (recorded, plain))
        np.testing.assert_array_equal(made, expected)
    assert recorder.prefills == 3  # two lengths from the beginning, one from later on


@pytest.mark.parametrize(("start", "graphs"), [(0, 1), (272, 2), (273, 1), (399, 1)])
def test_a_prompt_may_end_where_the_context_ends(start: int, graphs: int) -> None:
    """What would fill it up has no place there: it is taken in without a graph."""
    plain, recorded, recorder = pair()
    with torch.inference_mode():
        for stepper in (plain, recorded):
            if start:
                take_in(stepper, 1, 5, start)
            take_in(stepper, 1, 6, CONTEXT - start, start)
        assert_same(plain, recorded)
    assert recorder.prefills == graphs


@pytest.mark.parametrize("start", [0, 60, 201])
def test_nothing_else_is_written(start: int) -> None:
    """Other slots, and what is before and beyond the bucket, are as they were, bit by bit."""
    _, recorded, _ = pair()
    with torch.inference_mode():
        for slot in range(3):
            take_in(recorded, slot, slot, 210)
        before = recorded.cache.k.clone(), recorded.cache.v.clone()
        take_in(recorded, 1, 8, 100, start)
        for held, now in zip(before, (recorded.cache.k, recorded.cache.v), strict=True):
            written = (held != now).any(0).any(1).any(-1)  # (B, T)
            assert not written[[0, 2]].any()
            assert written[1, start : start + 100].all()
            assert not written[1, :start].any()
            assert not written[1, start + PROMPT_BUCKET :].any()


def test_the_host_has_no_part_in_what_is_recorded(caplog: pytest.LogCaptureFixture) -> None:
    _, recorded, _ = pair()
    for told in (recorded.position.tolist, lambda: torch.tensor(1), recorded.position.any):
        with pytest.raises(AssertionError, match="in what is recorded"), Tape():
            bool(told())
    with torch.inference_mode():
        take_in(recorded, 0, 1, 20)
        take_in(recorded, 0, 1, 20, start=20)
    assert recorded.prefills is not None and recorded.prefills.fits(0, 1)
    assert not caplog.records


def test_where_prefills_cannot_be_recorded_steps_still_are(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def only_steps(body: Body, state: Sequence[Tensor]) -> Recorded:
        recorded = play_back(body, state)
        if not recorded.outputs:
            raise RuntimeError("out of memory")
        return recorded

    plain, recorded, _ = pair()
    recorded.record_steps(only_steps)
    with torch.inference_mode():
        for stepper in (plain, recorded):
            for slot in range(3):
                take_in(stepper, slot, slot, 40 + slot)
        assert_same(plain, recorded)
        made, expected = (stepper.run(8, [0, 2]).tokens for stepper in (recorded, plain))
        np.testing.assert_array_equal(made, expected)
    assert [record.message for record in caplog.records] == [
        "prefills cannot be recorded (out of memory): made without CUDA graphs"
    ]
    assert recorded.graphs is not None and recorded.graphs.records
    assert recorded.prefills is not None and not recorded.prefills.fits(0, 1)


def test_jobs_make_what_they_do_without_graphs() -> None:
    """Whole ones, together, with a voice and without, over windows that slide."""
    made: list[dict[str, Any]] = []
    for recorder in (None, Recorder()):
        pipeline = Pipeline(tiny_model(ODD, "fp64"), slots=2)
        if recorder is not None:
            for stage in (pipeline._semantic, pipeline._coarse):
                stage._stepper._masked = True
                stage._stepper.record_steps(recorder)
        for seed, voice in ((1, None), (2, history(ODD, 58))):
            pipeline.admit(submit(f"j{seed}", seed=seed, max_seconds=1.0, early_stop=False), voice)
        made.append(finish(pipeline, 2))
        # Both texts; a first window of the one without a voice; all others.
        assert recorder is None or recorder.prefills == 3
    for job, (samples, _) in made[0].items():
        np.testing.assert_array_equal(made[1][job][0], samples)


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp64", "fp32", "auto"])
def test_graphs_of_prefills_leave_what_single_kernels_do(precision: str) -> None:
    model = build_model(tiny_checkpoint(ODD), device="cuda", precision=precision)
    plain, recorded = (
        Stepper(model.semantic, [model.semantic.heads[0]], [0], slots=4, end_row=413)
        for _ in range(2)
    )
    recorded.record_steps()
    near = {"fp64": 1e-9, "fp32": 1e-3, "auto": 0.1}[precision]
    prompts = [(3, 0, 200), (0, 0, 9), (3, 50, 60), (1, 0, 129), (2, 0, 384), (0, 9, 100)]
    with torch.inference_mode():
        for slot, start, count in prompts:
            tokens: list[np.ndarray] = []
            for stepper in (plain, recorded):
                take_in(stepper, slot, slot + count, count, start)
                if precision == "fp64":
                    tokens.append(stepper.run(4, [slot]).tokens)
            if tokens:
                np.testing.assert_array_equal(tokens[1], tokens[0])
            live = plain.live[slot]
            for made, expected in (
                (recorded.cache.k, plain.cache.k),
                (recorded.cache.v, plain.cache.v),
            ):
                torch.testing.assert_close(
                    made[:, slot, :, :live], expected[:, slot, :, :live], rtol=near, atol=near
                )
    assert recorded.prefills is not None and recorded.prefills.fits(0, 1)
    assert recorded.graphs is not None and recorded.graphs.records
