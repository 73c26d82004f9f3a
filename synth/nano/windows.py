"""Training examples, cut exactly as inference will present them.

Every function takes tokens of the corpus and a numpy generator and returns int64 arrays; the rules
(what a window sees, how histories are trimmed) are Bark's, the numbers those of the config.
"""

from dataclasses import dataclass

import numpy as np

from synth.nano.recipe import COARSE, CODEC, FINE, NANO, SEMANTIC, TEXT
from synth.nano.shards import Tokens
from synth.nano.spelling import spell

IGNORE = -100
_HISTORY = 0.65  # share of examples that see a prompt of the same voice
_WHOLE_BLOCK = 0.25
_VALIDATION = 300  # the first utterances are never trained on


def prepare_text(text: str, rng: np.random.Generator) -> list[int]:
    """Text ids, with the spelling varied in ways that do not change the sound."""
    u = rng.random()
    if u < 0.05:
        text = text.upper()
    elif u < 0.15:
        text = text.lower()
    elif u < 0.25:
        words = text.split()
        i = int(rng.integers(len(words)))
        words[i] = words[i].upper()
        text = " ".join(words)
    if rng.random() < 0.12 and text[-1] in ".!":
        text = text[:-1]
    if rng.random() < 0.02:
        text = text.replace("e", "é", 1)
    return [TEXT.offset + i for i in spell(text)][: TEXT.block]


class Corpus:
    """Tokens with what sampling needs: who speaks, and the order of lengths."""

    def __init__(self, tokens: Tokens, validation: bool = False) -> None:
        part = range(_VALIDATION) if validation else range(_VALIDATION, len(tokens))
        self.tokens = tokens
        self.ids = np.array([i for i in part if len(tokens.semantic[i]) > 8])
        lengths = np.array([len(tokens.semantic[i]) for i in self.ids])
        self.by_length = self.ids[np.argsort(lengths, kind="stable")]
        self._ends = np.cumsum(lengths)
        self._same = {
            int(v): self.ids[tokens.voice[self.ids] == v] for v in np.unique(tokens.voice[self.ids])
        }

    def by_duration(self, rng: np.random.Generator) -> int:
        """An utterance, drawn in proportion to its length."""
        at = int(np.searchsorted(self._ends, rng.integers(self._ends[-1]), side="right"))
        return int(self.ids[at])

    def prompt(self, utterance: int, rng: np.random.Generator) -> int | None:
        """Another utterance of the same voice, or none."""
        if rng.random() > _HISTORY:
            return None
        return int(rng.choice(self._same[int(self.tokens.voice[utterance])]))


def semantic_batch(
    corpus: Corpus, rng: np.random.Generator, positions: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Utterances of like length: ids (B, 2 * n + T), targets (B, T), text and speech lengths.

    ids are [text | semantic history | infer, semantic]; target t is what follows position t behind
    the prompt, the end of the clip last. The blocks' width n is the config's in a quarter of the
    batches and just enough for the text in the others: a model soon knows that padding says
    nothing, and two thirds of the prompt is padding.
    """
    tokens = corpus.tokens
    order = corpus.by_length
    at = int(rng.integers(len(order)))
    longest = min(len(tokens.semantic[order[at]]), SEMANTIC.max_steps - 1)
    count = max(1, positions // (TEXT.block // 2 + longest + 2))
    chosen = order[max(0, at - count + 1) : at + 1]
    steps = longest + 1
    texts = [prepare_text(tokens.text[i], rng) for i in chosen]
    block = TEXT.block if rng.random() < _WHOLE_BLOCK else max(map(len, texts))
    ids = np.full((len(chosen), 2 * block + steps), SEMANTIC.pad)
    ids[:, :block] = TEXT.pad
    targets = np.full((len(chosen), steps), IGNORE)
    lengths = np.zeros((2, len(chosen)), np.int64)
    for row, (i, text) in enumerate(zip(chosen, texts, strict=True)):
        speech = tokens.semantic[i][:longest].astype(np.int64)
        ids[row, : len(text)] = text
        other = corpus.prompt(i, rng)
        if other is not None:
            history = tokens.semantic[other][-block:]
            ids[row, block : block + len(history)] = history
        start = 2 * block
        ids[row, start] = TEXT.infer
        ids[row, start + 1 : start + 1 + len(speech)] = speech
        targets[row, : len(speech)] = speech
        targets[row, len(speech)] = SEMANTIC.pad
        lengths[:, row] = len(text), len(speech) + 1
    return ids, targets, lengths[0], lengths[1]


@dataclass
class _Spoken:
    """An utterance behind its prompt, as the coarse stage's loop holds it."""

    semantic: np.ndarray
    semantic_history: int
    coarse: np.ndarray  # flattened ids
    coarse_history: int


def flatten(codes: np.ndarray) -> np.ndarray:
    """(2, T) codes -> (2 T,) coarse ids."""
    shift = SEMANTIC.vocab + np.arange(COARSE.codebooks)[:, None] * CODEC.codebook_size
    return (codes[: COARSE.codebooks].astype(np.int64) + shift).T.reshape(-1)


def _behind_prompt(corpus: Corpus, i: int, other: int | None) -> _Spoken:
    tokens, ratio = corpus.tokens, NANO.ratio
    semantic, coarse = tokens.semantic[i].astype(np.int64), flatten(tokens.codes[i])
    if other is None:
        return _Spoken(semantic, 0, coarse, 0)
    old, old_coarse = tokens.semantic[other].astype(np.int64), flatten(tokens.codes[other])
    n = min(NANO.max_semantic_history, len(old) - len(old) % 2, int(len(old_coarse) // ratio))
    old_coarse = old_coarse[-round(n * ratio) :][:-2]  # Bark drops the last frame of a history
    return _Spoken(
        np.concatenate([old[-n:], semantic]),
        n,
        np.concatenate([old_coarse, coarse]),
        len(old_coarse),
    )


def coarse_window(corpus: Corpus, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """One sliding window: ids (context,) and, for each coarse position, its target or IGNORE.

    ids are [semantic block | infer | coarse history and what is to be predicted]; targets have
    history + window entries, target j being the id at coarse position j.
    """
    i = corpus.by_duration(rng)
    spoken = _behind_prompt(corpus, i, corpus.prompt(i, rng))
    total = len(spoken.coarse) - spoken.coarse_history
    step = int(rng.integers(-(-total // COARSE.window))) * COARSE.window
    at = spoken.semantic_history + round(step / NANO.ratio)
    semantic = spoken.semantic[max(0, at - NANO.max_semantic_history) :][: COARSE.semantic_block]
    done = spoken.coarse_history + step
    seen = spoken.coarse[max(0, done - COARSE.history) : done + COARSE.window]
    n, room = COARSE.semantic_block, COARSE.history + COARSE.window
    ids = np.full(n + 1 + room, COARSE.semantic_pad)
    ids[: len(semantic)] = semantic
    ids[n] = COARSE.infer
    ids[n + 1 : n + 1 + len(seen)] = seen
    targets = np.full(room, IGNORE)
    targets[: len(seen)] = seen
    return ids, targets


def fine_window(
    corpus: Corpus, book: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """One window: codes (window, 8), masked where unknown, and targets (window,) of `book`."""
    i = corpus.by_duration(rng)
    codes = corpus.tokens.codes[i].astype(np.int64)
    other = corpus.prompt(i, rng)
    history = codes[:, :0] if other is None else corpus.tokens.codes[other][:, -FINE.hop :]
    line = np.concatenate([history.astype(np.int64), codes], 1)
    line = np.pad(
        line, ((0, 0), (0, max(0, FINE.window - line.shape[1]))), constant_values=FINE.mask
    )
    loops = max(0, -(-(codes.shape[1] - (FINE.window - history.shape[1])) // FINE.hop)) + 1
    n = int(rng.integers(loops))
    start = min(FINE.hop * n, line.shape[1] - FINE.window)
    fill = min(history.shape[1] + FINE.hop * n, line.shape[1] - FINE.hop) - start
    window = line[:, start : start + FINE.window].T.copy()
    targets = np.where(window[:, book] == FINE.mask, IGNORE, window[:, book])
    targets[:fill] = IGNORE
    # Later books are unknown here; earlier ones are known everywhere.
    window[fill:, book:] = FINE.mask
    window[:, book + 1 :] = FINE.mask
    return window, targets
