"""A step made of the GPU's kernels: in the right order anywhere, and on a GPU with the kernels."""

from collections.abc import Callable, Sequence
from types import ModuleType

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from synth.gpu_decode import GpuDecode
from synth.kv_cache import DecodeEach, DecodeMasked, KVCache
from synth.linear import Linear
from synth.model import build_model
from synth.random_model import RANDOM
from synth.sampling import draw, is_end, noise_key
from synth.slot_draws import Draw, SlotState
from synth.step_graphs import Body, Recorded
from synth.stepper import Stepper
from tests.synth.test_stepper import play_back
from tests.synth.tiny import tiny_checkpoint, tiny_model


def _linear(
    x: Tensor,
    weight: Tensor,
    out: Tensor,
    _: object,
    *,
    gain: Tensor | None = None,
    gelu: bool = False,
    add: bool = False,
) -> None:
    if gain is not None:
        x = F.layer_norm(x, x.shape[1:], gain)
    y = F.linear(x, weight)
    y = F.gelu(y) if gelu else y
    out.copy_(out + y if add else y)


def _attend(
    qkv: Tensor, keys: Tensor, values: Tensor, position: Tensor, out: Tensor, _: object
) -> None:
    _, heads, _, size = keys.shape
    for row, at in enumerate(position.tolist()):
        q, k, v = qkv[row].view(3, heads, size)
        keys[row, :, at], values[row, :, at] = k, v
        live = keys[row, None, :, : at + 1], values[row, None, :, : at + 1]
        out[row] = F.scaled_dot_product_attention(q[None, :, None], *live).flatten()


def _draw(
    logits: Tensor,
    noise: Tensor,
    noise_at: Tensor,
    slots: SlotState,
    *,
    offset: int,
    end_row: int | None,
) -> tuple[Tensor, Tensor]:
    rows = slice(len(logits))
    may_end, advance = slots.may_end[rows], slots.advance[rows]
    if end_row is not None:
        logits[:, end_row].masked_fill_(~may_end, -torch.inf)
    row, likely = draw(logits, slots.temperature[rows], noise[noise_at[0], rows])
    ended = torch.zeros_like(may_end)
    if end_row is not None:
        ended = may_end & is_end(row, likely, end_row, slots.min_eos_p[rows])
    slots.token[rows] = torch.where(advance, row + offset, slots.token[rows])
    slots.position[rows] += advance
    slots.step[rows] += advance
    return row, ended


def _in_torch(attend: Callable[..., None] = _attend) -> ModuleType:
    """What each kernel is to do, written in torch."""
    kernels = ModuleType("in_torch")
    kernels.linear, kernels.attend = _linear, attend  # type: ignore[attr-defined]
    kernels.fits = lambda *_: True  # type: ignore[attr-defined]
    kernels.most_rows = lambda *_: 16  # type: ignore[attr-defined]
    kernels.draw = _draw  # type: ignore[attr-defined]
    kernels.scratch_for = lambda *_: None  # type: ignore[attr-defined]
    kernels.FEW_ROWS = 3  # type: ignore[attr-defined]
    return kernels


def test_the_kernels_are_put_together_as_the_transformer_is() -> None:
    """What each is to do, written in torch, stands in for Triton."""
    transformer = tiny_model(RANDOM, "fp32").semantic
    head = Linear(transformer.heads[0])
    caches = [
        KVCache(transformer.shape, 3, device=torch.device("cpu"), dtype=torch.float32)
        for _ in range(2)
    ]
    step = GpuDecode.of(transformer, [head], caches[0], _in_torch())
    assert step is not None and step.most_rows == 3
    for turn in range(4):
        x = torch.from_numpy(np.random.default_rng(turn).standard_normal((2, 64), np.float32))
        attend = DecodeEach(caches[1], [0, 1], [turn, turn])
        expected = head(transformer(x.clone(), attend))
        made = step(x, torch.tensor([turn, turn]), 0)
        torch.testing.assert_close(made, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(caches[0].k, caches[1].k, rtol=1e-4, atol=1e-4)
    assert caches[0].v[:, :2, :, :4].abs().min() > 0


def _of(attend: Callable[..., None]) -> GpuDecode | None:
    transformer = tiny_model(RANDOM, "fp32").semantic
    cache = KVCache(transformer.shape, 1, device=torch.device("cpu"), dtype=torch.float32)
    return GpuDecode.of(transformer, [Linear(transformer.heads[0])], cache, _in_torch(attend))


def test_kernels_that_a_compiler_got_wrong_are_not_used(caplog: pytest.LogCaptureFixture) -> None:
    def off_by_one(
        qkv: Tensor, keys: Tensor, values: Tensor, position: Tensor, out: Tensor, _: object
    ) -> None:
        _attend(qkv, keys, values, position - 1, out, _)

    def fails(*_: Tensor) -> None:
        raise RuntimeError("out of shared memory")

    assert _of(_attend) is not None and not caplog.records
    assert _of(off_by_one) is None and "are wrong on this card" in caplog.text
    assert _of(fails) is None and "out of shared memory" in caplog.text


@pytest.mark.parametrize("error", [RuntimeError("not captured"), Exception("out of registers")])
def test_where_recording_fails_the_step_is_whole(error: Exception) -> None:
    """The first step without its graph looked at no position, and made a token of nothing; what a
    compiler raised ended the job.
    """
    transformer = tiny_model(RANDOM, "fp32").semantic

    def fails(body: Body, state: Sequence[Tensor]) -> Recorded:
        raise error

    def tokens(recorded: bool) -> list[int]:
        stepper = Stepper(transformer, [transformer.heads[0]], [0], slots=1, masked=True)
        if recorded:
            stepper.record_steps(fails)
            heads = [Linear(transformer.heads[0])]
            stepper._kernels = GpuDecode.of(transformer, heads, stepper.cache, _in_torch())
        stepper.open(0, Draw(noise_key(0), 0.0))
        ids = np.random.default_rng(0).integers(500, size=9)
        stepper.prefill(0, stepper.embed(ids[:-1]), int(ids[-1]))
        return stepper.run(8, [0]).tokens[:, 0].tolist()

    with torch.inference_mode():
        assert tokens(recorded=True) == tokens(recorded=False)


def test_tokens_drawn_by_the_kernel_are_those_drawn_by_torch() -> None:
    """Where it is asked for no more than it does, and where it is not used."""
    transformer = tiny_model(RANDOM, "fp32").semantic
    kernels = _in_torch()
    drawn = 0

    def counted(*args: Tensor, **how: int | None) -> tuple[Tensor, Tensor]:
        nonlocal drawn
        drawn += 1
        return _draw(*args, **how)  # type: ignore[arg-type]

    kernels.draw = counted  # type: ignore[attr-defined]

    def tokens(recorded: bool, draws: Sequence[Draw]) -> list[np.ndarray]:
        stepper = Stepper(
            transformer, [transformer.heads[0]], [0], slots=3, end_row=500, masked=True
        )
        if recorded:
            stepper.record_steps(play_back)
            heads = [Linear(transformer.heads[0])]
            stepper._kernels = GpuDecode.of(transformer, heads, stepper.cache, kernels)
        for slot, how in enumerate(draws):
            stepper.open(slot, how)
            ids = np.random.default_rng(slot).integers(500, size=5 + slot)
            stepper.prefill(slot, stepper.embed(ids[:-1]), int(ids[-1]))
        chunks = [stepper.run(20, slots) for slots in ([0, 2], [1], [0, 1, 2])]
        return [made for chunk in chunks for made in (chunk.tokens, chunk.ended)]

    warm = [Draw(noise_key(n), 0.5 + 0.2 * n, min_eos_p=0.01, may_end=n > 0) for n in range(3)]
    for draws, used in (
        (warm, True),
        ([Draw(noise_key(n), 0.8, top_k=5) for n in range(3)], False),
        ([Draw(noise_key(n), 0.8, top_p=0.5) for n in range(3)], False),
        ([Draw(noise_key(n), 0.8, scored=True) for n in range(3)], False),
        ([Draw(noise_key(n), 0.0) for n in range(3)], False),
        ([Draw(noise_key(n), float(n > 1)) for n in range(3)], None),
    ):
        drawn = 0
        with torch.inference_mode():
            for made, expected in zip(tokens(True, draws), tokens(False, draws), strict=True):
                np.testing.assert_array_equal(made, expected)
        if used is not None:  # where one of three is not plain, some runs are
            assert (drawn > 1) == used  # one is the check when it is made


@pytest.mark.gpu
@pytest.mark.parametrize("slots", [1, 2, 3])
def test_a_recorded_stepper_makes_the_tokens_of_torch_s_operations(slots: int) -> None:
    model = build_model(tiny_checkpoint(RANDOM), device="cuda", precision="fp32")
    plain, recorded = (
        Stepper(model.semantic, [model.semantic.heads[0]], [0], slots=slots, end_row=500)
        for _ in range(2)
    )
    recorded.record_steps()
    assert recorded._kernels is not None and slots <= recorded._kernels.most_rows
    with torch.inference_mode():
        for stepper in (plain, recorded):
            for slot in range(slots):
                stepper.open(slot, Draw(noise_key(slot), 0.8))
                ids = np.random.default_rng(slot).integers(500, size=5 + slot)
                stepper.prefill(slot, stepper.embed(ids[:-1]), int(ids[-1]))
        for active in ([slots - 1], list(range(slots))):
            made, expected = (stepper.run(24, active).tokens for stepper in (recorded, plain))
            np.testing.assert_array_equal(made, expected)
    assert recorded.graphs is not None and recorded.graphs.records


@pytest.mark.gpu
@pytest.mark.parametrize("rows", [1, 3, 4, 5, 16])
def test_a_step_in_half_precision_is_near_torch_s(rows: int) -> None:
    transformer = build_model(tiny_checkpoint(RANDOM), device="cuda", precision="bf16").semantic
    head = transformer.precision.linear(transformer.heads[0])
    device, dtype = transformer.wpe.device, transformer.wpe.dtype
    caches = [KVCache(transformer.shape, 16, device=device, dtype=dtype) for _ in range(2)]
    step = GpuDecode.of(transformer, [head], caches[0])
    assert step is not None and step.most_rows == 16
    random = torch.Generator(device).manual_seed(0)
    for turn in range(70):  # past the first part of the positions
        x = torch.randn(rows, transformer.shape.width, generator=random, device=device).to(dtype)
        position = torch.full((rows,), turn, device=device)
        expected = head(transformer(x.clone(), DecodeMasked(caches[1], position, 256))).float()
        made = step(x, position, 0)
        assert (made - expected).abs().max() < 0.05 * expected.abs().max()
