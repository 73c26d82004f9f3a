"""Triton's kernels of a decode step against torch's operations, on the card they are for."""

import pytest
import torch
import torch.nn.functional as F

from synth.slot_draws import Draw, SlotDraws, SlotState

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("rows", [1, 3, 16])
@pytest.mark.parametrize(
    ("size_in", "size_out"), [(64, 192), (768, 3072), (1024, 10_001), (4096, 1000)]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_product_with_what_stands_beside_it(
    rows: int, size_in: int, size_out: int, dtype: torch.dtype
) -> None:
    from synth.gpu_ops import FEW_ROWS, linear, most_rows, scratch_for

    random = torch.Generator("cuda").manual_seed(0)
    rows = min(rows, most_rows(dtype, torch.device("cuda")))

    def normal(*size: int) -> torch.Tensor:
        return torch.randn(size, generator=random, device="cuda").to(dtype)

    x, gain = normal(rows, size_in), 1 + 0.1 * normal(size_in)
    weight = normal(size_out, size_in) / size_in**0.5
    near = {torch.float32: 1e-4, torch.float16: 0.01, torch.bfloat16: 0.06}[dtype]
    exact = x.double() @ weight.double().T
    normed = F.layer_norm(x.double(), (size_in,), gain.double()) @ weight.double().T
    room = scratch_for(rows, 16, 1024, 64, x.device)
    before = normal(rows, size_out)
    out = before.clone()
    linear(x, weight, out, room, add=True)
    assert (out - before - exact).abs().max() < 2 * near
    assert not room.product_counts.any()
    if size_in > 1024:
        return  # no norm is as wide
    linear(x, weight, out, room, gain=gain)
    assert (out - normed).abs().max() < near
    linear(x, weight, out, room, gain=gain, gelu=True)
    assert (out - F.gelu(normed)).abs().max() < near
    logits = torch.empty(rows, size_out, device="cuda")
    linear(x, weight, logits, room, gain=gain)
    assert (logits - normed).abs().max() < near
    # A row does not depend on its neighbours, among as few or as many as there are kernels for.
    fewest = 1 if rows <= FEW_ROWS else FEW_ROWS + 1
    alone = torch.empty(fewest, size_out, device="cuda")
    linear(x[-fewest:].contiguous(), weight, alone, room, gain=gain)
    assert torch.equal(alone, logits[-fewest:])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_new_position_looks_back(dtype: torch.dtype) -> None:
    from synth.gpu_ops import attend, scratch_for

    random = torch.Generator("cuda").manual_seed(0)
    heads, context, size = 4, 640, 64
    position = torch.tensor([0, 5, 64, 128, 639], device="cuda")
    shape = (len(position) + 1, heads, context, size)
    keys, values = (torch.randn(shape, generator=random, device="cuda").to(dtype) for _ in range(2))
    qkv = torch.randn(len(position), 3 * heads * size, generator=random, device="cuda").to(dtype)
    before = keys.clone(), values.clone()
    out = torch.empty(len(position), heads * size, device="cuda", dtype=dtype)
    room = scratch_for(len(position) + 2, heads, context, size, qkv.device)
    for _ in range(2):  # what one call leaves is no trouble for the next
        attend(qkv, keys, values, position, out, room)
        assert not room.attention_counts.any()
    for row, at in enumerate(position.tolist()):
        q, k, v = qkv[row].view(3, heads, size)
        for cache, new in zip(before, (k, v), strict=True):
            cache[row, :, at] = new
        k, v = (cache[row, None, :, : at + 1].double() for cache in before)
        exact = F.scaled_dot_product_attention(q[None, :, None].double(), k, v).flatten()
        assert (out[row] - exact).abs().max() < (0.02 if dtype == torch.bfloat16 else 1e-5)
    # Written where it stands, and nowhere else.
    assert torch.equal(keys, before[0]) and torch.equal(values, before[1])


@pytest.mark.parametrize(("vocab", "end_row"), [(500, 499), (300, None), (1025, 7)])
def test_tokens_are_drawn_as_torch_draws_them(vocab: int, end_row: int | None) -> None:
    """Slots that may end and may not, that are sure to and are not, that advance and do not."""
    from synth.gpu_ops import draw

    slots, rows, device = 6, 5, torch.device("cuda")
    draws = SlotDraws(slots, dtype=torch.float32, device=device, end_row=end_row)
    for slot in range(slots):
        ends = float("inf") if slot % 2 else 1e-4
        how = Draw(slot, 0.5 + 0.2 * slot, min_eos_p=ends, may_end=slot != 3)
        draws.open(slot, how, vocab)
    random = torch.Generator(device).manual_seed(0)
    noise = torch.rand(4, slots, vocab, generator=random, device=device).log().neg()
    logits = 3 * torch.randn(rows, vocab, generator=random, device=device)
    if end_row is not None:
        logits[4, end_row] = 20  # sure to be drawn, or too likely an end to go on
    advance = torch.arange(slots, device=device) != 2
    before = [torch.arange(slots, device=device) * n + n for n in (1, 2, 3)]
    state = SlotState(
        draws.temperature,
        draws.may_end,
        draws.min_eos_p,
        advance,
        *(tensor.clone() for tensor in before),
    )
    noise_at = torch.tensor([2], device=device)
    expected = draws.sample(
        logits.clone(), slice(rows), noise[2, :rows], draws.rules(list(range(rows)))
    )
    torch.cuda.synchronize()
    row, ended = draw(logits, noise, noise_at, state, offset=11, end_row=end_row)
    assert torch.equal(row, expected.row) and torch.equal(ended, expected.ended)
    assert end_row is None or 0 < ended.sum() < rows
    moves = advance & (torch.arange(slots, device=device) < rows)
    fed = torch.cat([row + 11, before[0][rows:]])
    assert torch.equal(state.token, torch.where(moves, fed, before[0]))
    assert torch.equal(state.position, before[1] + moves)
    assert torch.equal(state.step, before[2] + moves)
