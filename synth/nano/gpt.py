"""The three transformers as they are trained: no cache, parameters named as Suno's.

The engine's own modules load the same state dict; training needs nothing but a forward pass over
whole sequences, and hidden states rather than logits, so that each loss computes only the slice of
the vocabulary it is about.
"""

import math
from collections.abc import Iterable, Iterator
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from synth.nano.recipe import COARSE, FINE, SEED, SEMANTIC, TEXT
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
    def __init__(self, shape: TransformerShape, causal: bool, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout
        # Bark's causal stages have no bias in their norms, its fine stage has one.
        self.ln_1 = nn.LayerNorm(shape.width, bias=not causal)
        self.attn = _Attention(shape, causal)
        self.ln_2 = nn.LayerNorm(shape.width, bias=not causal)
        self.mlp = _MLP(shape.width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self._drop(self.attn(self.ln_1(x)))
        return x + self._drop(self.mlp(self.ln_2(x)))

    def _drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training)


class _Trunk(nn.Module):
    """Embeddings, blocks and the last norm, under the names the checkpoints use."""

    def __init__(
        self, shape: TransformerShape, times: Tensor, *, tables: int = 0, dropout: float = 0.0
    ) -> None:
        super().__init__()
        causal = tables == 0

        def table() -> nn.Embedding:
            return nn.Embedding(shape.input_vocab, shape.width)

        if causal:
            self.wte = table()
        else:
            self.wtes = nn.ModuleList(table() for _ in range(tables))
        self.wpe = nn.Embedding(shape.context, shape.width)
        self.h = nn.ModuleList(_Block(shape, causal, dropout) for _ in range(shape.n_layer))
        self.ln_f = nn.LayerNorm(shape.width, bias=not causal)
        for name, p in self.named_parameters():
            if p.dim() == 2:
                last = name.endswith("c_proj.weight")
                nn.init.normal_(p, std=0.02 / math.sqrt(2 * shape.n_layer) if last else 0.04)
        self.wpe.weight.data.copy_(_sinusoids(times, shape.width))

    def blocks(self) -> Iterator[_Block]:
        yield from cast(Iterable[_Block], self.h)

    def tables(self) -> list[nn.Embedding]:
        return list(cast(Iterable[nn.Embedding], self.wtes))


class CausalModel(nn.Module):
    """Semantic or coarse stage: token ids -> hidden states behind the final norm."""

    def __init__(self, shape: TransformerShape, times: Tensor, dropout: float = 0.0) -> None:
        super().__init__()
        self.transformer = _Trunk(shape, times, dropout=dropout)
        self.lm_head = nn.Linear(shape.width, shape.output_vocab, bias=False)
        nn.init.normal_(self.lm_head.weight, std=0.04)

    def forward(self, ids: Tensor) -> Tensor:
        """(B, T) ids -> (B, T, D)."""
        trunk = self.transformer
        x = trunk.wte(ids) + trunk.wpe.weight[: ids.shape[1]]
        for block in trunk.blocks():
            x = block(x)
        return trunk.ln_f(x)

    def prompted(
        self, ids: Tensor, n: int, watch: int | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """(B, [text block | history block | rest]) ids -> (B, rest, D): the blocks are summed.

        `n`, the width of a block, may be less than the config's: what follows keeps its positions.
        With `watch`, also that layer's first head's scores from the rest to the text, (B, rest, n).
        """
        trunk = self.transformer
        x = trunk.wte(ids)
        x = torch.cat([x[:, :n] + x[:, n : 2 * n], x[:, 2 * n :]], 1)
        places = trunk.wpe.weight
        rest = x.shape[1] - n
        x = x + torch.cat([places[:n], places[TEXT.block : TEXT.block + rest]])
        scores = None
        for i, block in enumerate(trunk.blocks()):
            if i == watch:
                q, k, _ = block.attn.split(block.ln_1(x))
                q, k = q[:, 0, n:].float(), k[:, 0, :n].float()
                scores = q @ k.mT / math.sqrt(q.shape[-1])
            x = block(x)
        return trunk.ln_f(x[:, n:]), scores


class FineModel(nn.Module):
    """(B, T, 8) codes -> logits (B, T, vocab) of one book; lm_heads[i] is tied to wtes[i + 1]."""

    def __init__(self, shape: TransformerShape) -> None:
        super().__init__()
        self.transformer = _Trunk(shape, torch.arange(shape.context), tables=FINE.codebooks)
        self.lm_heads = nn.ModuleList(
            nn.Linear(shape.width, shape.output_vocab, bias=False)
            for _ in range(FINE.codebooks - 1)
        )
        for head, table in zip(self.lm_heads, self.transformer.tables()[1:], strict=True):
            head.weight = table.weight

    def forward(self, codes: Tensor, book: int) -> Tensor:
        trunk = self.transformer
        known = [table(codes[..., b]) for b, table in enumerate(trunk.tables()[: book + 1])]
        x = torch.stack(known).sum(0) + trunk.wpe.weight[: codes.shape[1]]
        for block in trunk.blocks():
            x = block(x)
        return self.lm_heads[book - 1](trunk.ln_f(x))


def semantic_model(shape: TransformerShape, dropout: float = 0.0) -> CausalModel:
    """Positions start as sinusoids of time, so that a character and its sound begin near."""
    steps = shape.context - TEXT.block - 1
    times = [torch.arange(TEXT.block), torch.zeros(1), torch.arange(steps) / _TOKENS_PER_PIECE]
    return CausalModel(shape, torch.cat([t.float() for t in times]), dropout)


def coarse_model(shape: TransformerShape) -> CausalModel:
    """The same for the coarse stage: two coarse ids stand beside one semantic token."""
    n = COARSE.semantic_block
    steps = shape.context - n - 1
    times = [torch.arange(n), torch.zeros(1) - 1, torch.arange(1, steps + 1) / COARSE.codebooks]
    return CausalModel(shape, torch.cat([t.float() for t in times]))


@torch.no_grad()
def start_semantic(model: CausalModel, centroids: Tensor) -> None:
    """Let tokens that mean nearly the same begin with nearly the same embedding and output row.

    centroids: (512, D), what the semantic tokens stand for.
    """
    table = _spread(centroids, model.lm_head.in_features)
    model.transformer.wte.weight[: SEMANTIC.vocab] = table
    model.lm_head.weight[: SEMANTIC.vocab] = table


@torch.no_grad()
def start_coarse(model: CausalModel, centroids: Tensor, rows: Tensor) -> None:
    """The same for the coarse stage. rows: (8, 1024, D) of the codebooks."""
    width = model.lm_head.in_features
    codes = _spread(rows[: COARSE.codebooks].flatten(0, 1), width)
    model.transformer.wte.weight[: SEMANTIC.vocab] = _spread(centroids, width)
    for table in (model.transformer.wte.weight, model.lm_head.weight):
        table[SEMANTIC.vocab : SEMANTIC.vocab + len(codes)] = codes


@torch.no_grad()
def start_fine(model: FineModel, rows: Tensor) -> None:
    """The same for the fine stage, whose rows of zeros stand for codes that do not exist.

    Those begin far away from where the final norm's bias points, and so with a small logit.
    """
    tables = model.transformer.tables()
    width = tables[0].embedding_dim
    first = _spread(rows[: COARSE.codebooks].flatten(0, 1), width)
    for table, start in zip(tables, first.split(rows.shape[1]), strict=False):
        table.weight[: len(start)] = start
    away = torch.zeros(width)
    away[0] = 1.0
    model.transformer.ln_f.bias.copy_(away)
    for table, points in zip(tables[COARSE.codebooks :], rows[COARSE.codebooks :], strict=True):
        used = points.abs().sum(1) > 0
        table.weight[: len(points)][used] = _spread(points[used], width)
        table.weight[: len(points)][~used] = -8.0 * away


def _spread(rows: Tensor, width: int, size: float = 0.04) -> Tensor:
    """(K, D) -> (K, width): turned into a wider space, distances kept but for one scale."""
    generator = torch.Generator().manual_seed(SEED)
    basis, _ = torch.linalg.qr(torch.randn(width, rows.shape[1], generator=generator))
    out = rows @ basis.T
    return out * (size / out.square().mean().sqrt())


def _sinusoids(times: Tensor, width: int, size: float = 0.1) -> Tensor:
    rates = torch.exp(torch.arange(width // 2) / (width // 2) * -math.log(2000.0))
    angle = times[:, None] * rates
    return size * torch.cat([angle.sin(), angle.cos()], 1)


assert SEMANTIC.pad == SEMANTIC.vocab  # the end of a clip is the class behind the last token
