"""The transformer blocks all three stages share: shapes and weights, no token ids.

Knows how to turn (N, C) activations into (N, C) activations. What a position may look at is the
caller's business: it hands in an `attend` function (see kv_cache.py). In what precision a weight is
held is precision.py's, what multiplies it linear.py's.

Shape letters: N positions or slots, T positions of one slot, H heads, D head size, C width.

Source: suno-ai/bark@f4f32d4 bark/model.py and bark/model_fine.py. Differs: no dropout, residuals
added in place, no concatenation of past keys.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from synth.errors import InvalidRequest
from synth.linear import Linear, MakeLinear
from synth.precision import StagePrecision
from synth.stored_rows import PartlyStored, StoredRows, Table
from synth.vocab import TransformerShape

# (layer, q, k, v) -> y, with q, k, v (N, H, D) and y (N, C)
Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]

_EPS = 1e-5  # of every LayerNorm


@dataclass(frozen=True)
class Norm:
    """LayerNorm over C; the fine stage's have a bias, the others' have none."""

    weight: Tensor
    bias: Tensor | None

    def __call__(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias, _EPS)


@dataclass(frozen=True)
class Block:
    ln_1: Norm
    c_attn: Linear  # (C, 3C): queries, keys, values
    attn_proj: Linear
    ln_2: Norm
    c_fc: Linear  # (C, 4C)
    mlp_proj: Linear


@dataclass(frozen=True)
class Transformer:
    """One stage's weights. `wtes` and `heads` hold one entry, or one a codebook (fine)."""

    shape: TransformerShape
    wtes: tuple[Table, ...]  # (input_vocab, C) each
    wpe: Tensor  # (context, C)
    blocks: tuple[Block, ...]
    ln_f: Norm
    heads: tuple[Table, ...]  # (output_vocab, C) each; stages slice the rows they need
    precision: StagePrecision  # how stages make products of those rows, and caches

    def __call__(self, x: Tensor, attend: Attend) -> Tensor:
        """Run all blocks and the last norm. x: (N, C), overwritten. Returns (N, C)."""
        heads = (x.shape[0], self.shape.n_head, self.shape.head_size)
        for layer, block in enumerate(self.blocks):
            q, k, v = block.c_attn(block.ln_1(x)).chunk(3, dim=-1)
            y = attend(layer, q.view(heads), k.view(heads), v.view(heads))
            block.attn_proj.add_to(x, y)
            block.mlp_proj.add_to(x, F.gelu(block.c_fc(block.ln_2(x))))  # exact (erf) GELU
        return self.ln_f(x)


def attend_all(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Every position sees every other (the fine stage). q, k, v: (T, H, D) -> (T, C)."""
    y = F.scaled_dot_product_attention(
        q.transpose(0, 1)[None], k.transpose(0, 1)[None], v.transpose(0, 1)[None]
    )
    return y[0].transpose(0, 1).reshape(q.shape[0], -1)


def tensor_shapes(shape: TransformerShape, *, codebooks: int = 0) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor of a stage, as checkpoints spell them.

    `codebooks` > 0 asks for the fine stage's layout: an embedding a codebook, a head for each but
    the first, and biases in the norms.
    """
    c = shape.width
    shapes: dict[str, tuple[int, ...]] = {"transformer.wpe.weight": (shape.context, c)}
    if codebooks:
        for book in range(codebooks):
            shapes[f"transformer.wtes.{book}.weight"] = (shape.input_vocab, c)
        for book in range(codebooks - 1):
            shapes[f"lm_heads.{book}.weight"] = (shape.output_vocab, c)
    else:
        shapes["transformer.wte.weight"] = (shape.input_vocab, c)
        shapes["lm_head.weight"] = (shape.output_vocab, c)
    norms = ["transformer.ln_f"]
    for layer in range(shape.n_layer):
        prefix = f"transformer.h.{layer}"
        norms += [f"{prefix}.ln_1", f"{prefix}.ln_2"]
        shapes[f"{prefix}.attn.c_attn.weight"] = (3 * c, c)
        shapes[f"{prefix}.attn.c_proj.weight"] = (c, c)
        shapes[f"{prefix}.mlp.c_fc.weight"] = (4 * c, c)
        shapes[f"{prefix}.mlp.c_proj.weight"] = (c, 4 * c)
    for norm in norms:
        shapes[f"{norm}.weight"] = (c,)
        if codebooks:
            shapes[f"{norm}.bias"] = (c,)
    return shapes


def check_tensors(
    stage: str, expected: Mapping[str, tuple[int, ...]], tensors: Mapping[str, Tensor]
) -> None:
    """Raise InvalidRequest naming the first tensor that is missing or of another shape."""
    for name, shape in expected.items():
        if name not in tensors:
            raise InvalidRequest(
                f"The checkpoint's {stage} stage lacks the tensor {name} of shape {shape}; "
                "fetch or convert it again."
            )
        found = tuple(tensors[name].shape)
        if found != shape:
            raise InvalidRequest(
                f"The checkpoint's {stage} stage has {name} of shape {found} where its config "
                f"expects {shape}; the weights and the config belong to different models."
            )


def build_transformer(
    stage: str,
    shape: TransformerShape,
    tensors: Mapping[str, Tensor],
    *,
    codebooks: int = 0,
    device: torch.device,
    precision: StagePrecision,
    put: Callable[[Tensor], Tensor] | None = None,
) -> Transformer:
    """Check every tensor and put the weights in place; `codebooks` as in `tensor_shapes`.

    put: gives a weight its place, where that is not the device's memory for as long as it lives.

    Raises InvalidRequest that names stage and tensor, expected and found.
    """
    tensors = dict(tensors)
    for book in range(codebooks - 1):  # heads are tied to the next book's embedding
        head, wte = f"lm_heads.{book}.weight", f"transformer.wtes.{book + 1}.weight"
        if head in tensors and wte not in tensors:
            tensors[wte] = tensors[head]
        elif wte in tensors and head not in tensors:
            tensors[head] = tensors[wte]
    check_tensors(stage, tensor_shapes(shape, codebooks=codebooks), tensors)

    def placed(name: str, dtype: torch.dtype | None = None) -> Tensor:
        if put is not None:
            return put(tensors[name].to(dtype=dtype or precision.dtype).contiguous())
        return tensors[name].to(device=device, dtype=dtype or precision.dtype).contiguous()

    def get(name: str, dtype: torch.dtype | None = None) -> Tensor:
        held, found = tensors[name], placed(name, dtype)
        # Where most weights are held in another form, a view would keep the whole file in memory.
        kept = precision.linear is Linear or found.data_ptr() != held.data_ptr()
        return found if kept else found.clone()

    def table(name: str) -> StoredRows | None:
        """A table of tokens that would not be held as it is stored is left in its file."""
        held, dtype = tensors[name], precision.table_dtype or precision.dtype
        if device.type != "cpu" or (precision.linear is Linear and held.dtype == dtype):
            return None
        return StoredRows.of(held, dtype)

    def embedding(name: str) -> Table:
        """Its rows that are drawn, and then fed one a step, are kept in memory all the same."""
        stored = table(name)
        if stored is None or shape.output_vocab >= len(stored):
            return get(name, precision.table_dtype)
        return PartlyStored(stored[: shape.output_vocab], stored)

    def projection(name: str) -> Table:
        """What stages make products of, once, unless the products hold it as it is."""
        stored = None if precision.linear is Linear else table(name)
        return get(name, precision.table_dtype) if stored is None else stored

    def linear(name: str, make: MakeLinear | None = None) -> Linear:
        return (make or precision.linear)(placed(name))

    def norm(name: str) -> Norm:
        return Norm(get(f"{name}.weight"), get(f"{name}.bias") if codebooks else None)

    def block(prefix: str) -> Block:
        return Block(
            ln_1=norm(f"{prefix}.ln_1"),
            c_attn=linear(f"{prefix}.attn.c_attn.weight"),
            attn_proj=linear(f"{prefix}.attn.c_proj.weight", precision.attn_proj),
            ln_2=norm(f"{prefix}.ln_2"),
            c_fc=linear(f"{prefix}.mlp.c_fc.weight"),
            mlp_proj=linear(f"{prefix}.mlp.c_proj.weight"),
        )

    if codebooks:
        wtes = tuple(get(f"transformer.wtes.{book}.weight") for book in range(codebooks))
        heads = tuple(
            wtes[book + 1]
            if tensors[f"lm_heads.{book}.weight"] is tensors[f"transformer.wtes.{book + 1}.weight"]
            else get(f"lm_heads.{book}.weight")
            for book in range(codebooks - 1)
        )
    else:
        wtes = (embedding("transformer.wte.weight"),)
        heads = (projection("lm_head.weight"),)
    return Transformer(
        shape=shape,
        wtes=wtes,
        wpe=get("transformer.wpe.weight"),
        blocks=tuple(block(f"transformer.h.{layer}") for layer in range(shape.n_layer)),
        ln_f=norm("transformer.ln_f"),
        heads=heads,
        precision=precision,
    )
