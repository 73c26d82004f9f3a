"""How far a precision's distributions are from single precision's, teacher forced, stage by stage.

The single precision model makes a clip; then both are given its tokens, position by position and
window by window as the clip was made, and what each would have drawn the next token from is
compared (see `synth.bound`). Part of `python -m synth bench --quality`; runs on any checkpoint.
"""

from collections.abc import Iterator, Mapping

import numpy as np
import torch
from torch import Tensor

from synth.bound import BOUND, Fidelity, admits
from synth.coarse import CoarseInput, flatten
from synth.fine import FineJob, FineStage
from synth.fused_forward import FusedForward
from synth.kv_cache import KVCache, Prefill
from synth.model import Model
from synth.pipeline import Pipeline
from synth.protocol import HistoryPrompt, Sampling, Stage, Submit
from synth.semantic import history_block, semantic_head
from synth.transformer import Transformer

_SEED = 1
_ROWS = 128  # compared at a time; the logits of a long clip are large


class _Tally:
    """Sums over positions of one stage."""

    def __init__(self, temperature: float) -> None:
        self._temperature = temperature if temperature > 0 else 1.0
        self._divergence, self._same, self._count = 0.0, 0, 0

    def add(self, exact: Tensor, other: Tensor) -> None:
        """Logits of both models, (positions, vocabulary)."""
        for mine, theirs in zip(exact.split(_ROWS), other.split(_ROWS), strict=True):
            p, q = ((x.double() / self._temperature).log_softmax(-1) for x in (mine, theirs))
            self._divergence += float((p.exp() * (p - q)).sum())
            self._same += int((mine.argmax(-1) == theirs.argmax(-1)).sum())
            self._count += len(mine)

    @property
    def fidelity(self) -> Fidelity:
        return Fidelity(self._divergence / self._count, self._same / self._count)


@torch.inference_mode()
def measure(
    exact: Model,
    other: Model,
    text: str,
    history: HistoryPrompt | None = None,
    *,
    seconds: float | None = None,
) -> dict[Stage, Fidelity]:
    """Compare `other` with `exact`, one checkpoint in two precisions, on a clip that `exact` makes.

    seconds: the clip's length, for a model that does not end by itself; None leaves it to it.
    Raises InvalidRequest for a text that cannot be spoken.
    """
    sampling = Sampling(seed=_SEED, max_seconds=seconds, early_stop=seconds is None)
    _, done = Pipeline(exact).run(Submit(job_id="measure", text=text, sampling=sampling), history)
    clip, defaults = done.history, exact.config.sampling
    models = (exact, other)
    semantic = _Tally(defaults.text_temperature)
    semantic.add(*(_semantic_logits(model, text, history, clip) for model in models))
    coarse = _Tally(defaults.waveform_temperature)
    for mine, theirs in zip(
        *(_coarse_logits(model, history, clip) for model in models), strict=True
    ):
        coarse.add(mine, theirs)
    fine = _Tally(defaults.fine_temperature)
    _compare_fine(models, history, clip, fine)
    return {
        Stage.SEMANTIC: semantic.fidelity,
        Stage.COARSE: coarse.fidelity,
        Stage.FINE: fine.fidelity,
    }


def _next_logits(transformer: Transformer, x: Tensor, heads: list[Tensor], count: int) -> Tensor:
    """What follows each of the last `count` positions of x (T, C), the heads taken in turn."""
    dtype = transformer.precision.cache_dtype
    cache = KVCache(transformer.shape, 1, device=x.device, dtype=dtype)
    x = x + transformer.wpe[: len(x)]
    forward = FusedForward.of(transformer, cache)
    x = forward(x) if forward else transformer(x, Prefill(cache, 0, 0, len(x)))
    x = x[-count:]
    logits = torch.empty(count, len(heads[0]), device=x.device)
    for turn, head in enumerate(heads):
        rows = slice(turn, None, len(heads))
        logits[rows] = transformer.precision.linear(head)(x[rows].contiguous()).float()
    return logits


def _semantic_logits(
    model: Model, text: str, history: HistoryPrompt | None, clip: HistoryPrompt
) -> Tensor:
    wte = model.semantic.wtes[0]
    fed = np.concatenate([[model.config.text.infer], clip.semantic[:-1]]).astype(np.int64)

    def embed(ids: np.ndarray) -> Tensor:
        found = wte[torch.from_numpy(ids).to(wte.device)]
        return found.to(model.semantic.precision.dtype)

    x = embed(model.tokenizer.encode(text).text_tokens)
    x = torch.cat([x + embed(history_block(history, model.config)), embed(fed)])
    return _next_logits(model.semantic, x, [semantic_head(model.semantic, model.config)], len(fed))


def _coarse_logits(
    model: Model, history: HistoryPrompt | None, clip: HistoryPrompt
) -> Iterator[Tensor]:
    """A window's at a time."""
    config, wte = model.config, model.coarse.wtes[0]
    size = config.codec.codebook_size
    firsts = [config.semantic.vocab + book * size for book in range(config.coarse.codebooks)]
    heads = [model.coarse.heads[0][first : first + size] for first in firsts]
    windows = CoarseInput(history, config)
    windows.extend(clip.semantic.tolist())
    windows.complete = True
    ids = flatten(clip.coarse_codes, config)
    while windows.generated < len(ids):
        begin, end = windows.generated, windows.window_end(windows.generated)
        fed = np.concatenate([windows.window(), ids[begin : end - 1]])
        x = wte[torch.from_numpy(fed).to(wte.device)]
        yield _next_logits(model.coarse, x, heads, end - begin)
        windows.append(ids[begin:end].tolist())


def _compare_fine(
    models: tuple[Model, Model], history: HistoryPrompt | None, clip: HistoryPrompt, tally: _Tally
) -> None:
    """Every pass over every window; what `exact` finds likeliest stands in the codes' place."""
    exact, config = models[0], models[0].config
    stages = [FineStage(model.fine, config) for model in models]
    coarse = np.asarray(clip.coarse_codes)
    past = 0 if history is None else min(history.fine_codes.shape[1], config.fine.hop)
    job = FineJob.of(coarse, history, Sampling(seed=_SEED), 0, config, exact.device)
    while not job.ended:
        _, window, book = job.begin()
        seen = job.buffer[window.start : window.start + window.size]
        mine, theirs = (stage.logits(seen, window.fill, book) for stage in stages)
        # Padding behind the clip is predicted too, and is never heard.
        real = min(len(mine), past + job.frames - window.start - window.fill)
        tally.add(mine[:real], theirs[:real])
        seen[window.fill :, book] = mine.argmax(-1)
        job.end()


def table(found: Mapping[str, Mapping[Stage, Fidelity]]) -> str:
    """A Markdown table, a line a precision and stage, and what the bound makes of it."""
    lines = [["precision", "stage", "KL, nats", "same top token", ""], ["---"] * 2 + ["---:"] * 3]
    for name, stages in found.items():
        for stage, figure in stages.items():
            verdict = "within" if figure.is_within else "out"
            cells = f"{figure.divergence:.4f}", f"{figure.agreement:.1%}", verdict
            lines.append([name, str(stage), *cells])
    rows = ["| " + " | ".join(line) + " |" for line in lines]
    allowed = [name for name, stages in found.items() if admits(stages)]
    rows.append(
        f"Bound: KL at most {BOUND.divergence} nats and the same top token at {BOUND.agreement:.0%}"
        f" of positions at least. In every stage within it: {', '.join(['fp32', *allowed])}; `auto`"
        " goes stage by stage, by what is recorded of Bark's sizes."
    )
    return "\n".join(rows)
