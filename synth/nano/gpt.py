"""The three transformers as they are trained: no cache, parameters named as Suno's.

The engine's own modules load the same state dict; training needs nothing but a forward pass over
whole sequences, and hidden states rather than logits, so that each loss computes only the slice of
the vocabulary it is about.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from synth.nano.recipe import COARSE, FINE, SEMANTIC, TEXT
from synth.vocab import TransformerShape

# Semantic tokens a spelled character takes, in the teacher's speech. Only sets where the position
# embeddings start from.
_TOKENS_PER_PIECE = 4.0


class _Attention(nn.Module):
    def __init__(self, shape: TransformerShape, causal: bool) -> None:
        super().__init__()
        self.n_head, self.causal = shape.n_head, causal
        self.c_attn = nn.Linear(shape.width, 3 * shape.width, bias=False)
        self.c_proj = nn.Linear(shape.width, shape.width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.split(x)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        return self.c_proj(y.transpose(1, 2).flatten(2))

    def split(self, x: Tensor) -> Tensor:
        """(B, T, D) -> (3, B, heads, T, D / heads): queries, keys, values."""
        return self.c_attn(x).unflatten(-1, (3, self.n_head, -1)).permute(2, 0, 3, 1, 4)


class _MLP(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.c_fc = nn.Linear(width, 4 * width, bias=False)
        self.c_proj = nn.Linear(4 * width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.c_proj(F.gelu(self.c_fc(x)))


class _Block(nn.Module):
    def __init__(self, shape: TransformerShape, causal: bool) -> None:
        super().__init__()
        # Bark's causal stages have no bias in their norms, its fine stage has one.
        self.ln_1 = nn.LayerNorm(shape.width, bias=not causal)
        self.attn = _Attention(shape, causal)
        self.ln_2 = nn.LayerNorm(shape.width, bias=not causal)
        self.mlp = _MLP(shape.width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class CausalModel(nn.Module):
    """Semantic or coarse stage: token ids -> hidden states behind the final norm."""

    def __init__(self, shape: TransformerShape, times: Tensor) -> None:
        super().__init__()
        self.transformer = nn.ModuleDict(
            {
                "wte": nn.Embedding(shape.input_vocab, shape.width),
                "wpe": nn.Embedding(shape.context, shape.width),
                "h": nn.ModuleList(_Block(shape, causal=True) for _ in range(shape.n_layer)),
                "ln_f": nn.LayerNorm(shape.width, bias=False),
            }
        )
        self.lm_head = nn.Linear(shape.width, shape.output_vocab, bias=False)
        _initialise(self, shape.n_layer)
        self.transformer["wpe"].weight.data.copy_(_sinusoids(times, shape.width))

    def forward(self, ids: Tensor) -> Tensor:
        """(B, T) ids -> (B, T, D)."""
        x = self.transformer["wte"](ids) + self.transformer["wpe"].weight[: ids.shape[1]]
        for block in self.transformer["h"]:  # type: ignore[attr-defined]
            x = block(x)
        return self.transformer["ln_f"](x)

    def prompted(
        self, ids: Tensor, n: int, watch: int | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """(B, [text block | history block | rest]) ids -> (B, rest, D): the blocks are summed.

        `n`, the width of a block, may be less than the config's: what follows keeps its positions.
        With `watch`, also that layer's first head's scores from the rest to the text, (B, rest, n).
        """
        x = self.transformer["wte"](ids)
        x = torch.cat([x[:, :n] + x[:, n : 2 * n], x[:, 2 * n :]], 1)
        places = self.transformer["wpe"].weight
        rest = x.shape[1] - n
        x = x + torch.cat([places[:n], places[TEXT.block : TEXT.block + rest]])
        scores = None
        for i, layer in enumerate(self.transformer["h"]):  # type: ignore[arg-type]
            if i == watch:
                q, k, _ = layer.attn.split(layer.ln_1(x))
                q, k = q[:, 0, n:].float(), k[:, 0, :n].float()
                scores = q @ k.mT / math.sqrt(q.shape[-1])
            x = layer(x)
        return self.transformer["ln_f"](x[:, n:]), scores


class FineModel(nn.Module):
    """(B, T, 8) codes -> logits (B, T, vocab) of one book; lm_heads[i] is tied to wtes[i + 1]."""

    def __init__(self, shape: TransformerShape) -> None:
        super().__init__()
        self.transformer = nn.ModuleDict(
            {
                "wtes": nn.ModuleList(
                    nn.Embedding(shape.input_vocab, shape.width) for _ in range(FINE.codebooks)
                ),
                "wpe": nn.Embedding(shape.context, shape.width),
                "h": nn.ModuleList(_Block(shape, causal=False) for _ in range(shape.n_layer)),
                "ln_f": nn.LayerNorm(shape.width),
            }
        )
        self.lm_heads = nn.ModuleList(
            nn.Linear(shape.width, shape.output_vocab, bias=False)
            for _ in range(FINE.codebooks - 1)
        )
        _initialise(self, shape.n_layer)
        self.transformer["wpe"].weight.data.copy_(
            _sinusoids(torch.arange(shape.context), shape.width)
        )
        for head, table in zip(self.lm_heads, self.transformer["wtes"][1:], strict=True):  # type: ignore[index]
            head.weight = table.weight

    def forward(self, codes: Tensor, book: int) -> Tensor:
        tables = self.transformer["wtes"]
        x = sum(tables[b](codes[..., b]) for b in range(book + 1))  # type: ignore[index]
        x = x + self.transformer["wpe"].weight[: codes.shape[1]]
        for block in self.transformer["h"]:  # type: ignore[attr-defined]
            x = block(x)
        return self.lm_heads[book - 1](self.transformer["ln_f"](x))


def semantic_model(shape: TransformerShape) -> CausalModel:
    """Positions start as sinusoids of time, so that a character and its sound begin near."""
    steps = shape.context - TEXT.block - 1
    times = [torch.arange(TEXT.block), torch.zeros(1), torch.arange(steps) / _TOKENS_PER_PIECE]
    return CausalModel(shape, torch.cat([t.float() for t in times]))


def coarse_model(shape: TransformerShape) -> CausalModel:
    """The same for the coarse stage: two coarse ids stand beside one semantic token."""
    n = COARSE.semantic_block
    steps = shape.context - n - 1
    times = [torch.arange(n), torch.zeros(1) - 1, torch.arange(1, steps + 1) / COARSE.codebooks]
    return CausalModel(shape, torch.cat([t.float() for t in times]))


def _initialise(model: nn.Module, n_layer: int) -> None:
    for name, p in model.named_parameters():
        if p.dim() == 2:
            last = name.endswith("c_proj.weight")
            nn.init.normal_(p, std=0.02 / math.sqrt(2 * n_layer) if last else 0.04)


def _sinusoids(times: Tensor, width: int, size: float = 0.1) -> Tensor:
    rates = torch.exp(torch.arange(width // 2) / (width // 2) * -math.log(2000.0))
    angle = times[:, None] * rates
    return size * torch.cat([angle.sin(), angle.cos()], 1)


assert SEMANTIC.pad == SEMANTIC.vocab  # the end of a clip is the class behind the last token
