"""Training examples, cut exactly as inference will present them.

Every function takes tokens of the corpus and a numpy generator and returns int64 arrays; the rules
(what a window sees, how histories are trimmed) are the engine's own functions.
"""

import numpy as np

from synth.coarse import CoarseInput, flatten
from synth.errors import InvalidRequest
from synth.fine_windows import plan_windows
from synth.nano import recipe
from synth.nano.recipe import COARSE, FINE, NANO, SEMANTIC, TEXT
from synth.nano.shards import Tokens
from synth.nano.spelling import spell
from synth.protocol import HistoryPrompt

IGNORE = -100
_HISTORY = 0.65  # share of examples that see a prompt of the same voice
_WHOLE_BLOCK = 0.25


def prepare_text(text: str, rng: np.random.Generator) -> list[int]:
    """Text ids, with the spelling varied in ways that do not change the sound; none for none."""
    u = rng.random()
    if u < 0.05:
        text = text.upper()
    elif u < 0.15:
        text = text.lower()
    elif u < 0.25:
        words = text.split()
        i = int(rng.integers(max(1, len(words))))
        words[i : i + 1] = [word.upper() for word in words[i : i + 1]]
        text = " ".join(words)
    if rng.random() < 0.12 and text.endswith((".", "!")):
        text = text[:-1]
    if rng.random() < 0.02:
        text = text.replace("e", "é", 1)
    return [TEXT.offset + i for i in spell(text)][: TEXT.block]


class Corpus:
    """Tokens with what sampling needs: who speaks, and the order of lengths.

    Raises InvalidRequest when there are no more than those held out.
    """

    def __init__(self, tokens: Tokens, validation: bool = False) -> None:
        held = recipe.VALIDATION
        part = range(min(held, len(tokens))) if validation else range(held, len(tokens))
        self.tokens = tokens
        self.ids = np.array([i for i in part if len(tokens.semantic[i]) > 8], np.int64)
        if not len(self.ids):
            raise InvalidRequest(
                f"{len(tokens)} utterances are too few, {held} are held out: run `data` with a "
                "larger --size, then `tokens`."
            )
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


def _rounded(size: int) -> int:
    """Up to a multiple of 16: few shapes, for libraries that keep a plan for each."""
    return -(-size // 16) * 16


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
    steps = _rounded(longest + 1)
    texts = [prepare_text(tokens.text[i], rng) for i in chosen]
    block = TEXT.block if rng.random() < _WHOLE_BLOCK else _rounded(max(map(len, texts)))
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


def history_of(corpus: Corpus, utterance: int | None) -> HistoryPrompt | None:
    """An utterance as the history prompt it would be."""
    if utterance is None:
        return None
    codes = corpus.tokens.codes[utterance]
    return HistoryPrompt(
        corpus.tokens.semantic[utterance], codes[: COARSE.codebooks], codes, NANO.family
    )


def coarse_window(corpus: Corpus, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """One sliding window: ids (context,) and, for each coarse position, its target or IGNORE.

    ids are [semantic block | infer | coarse history and what is to be predicted], padded; targets
    have history + window entries, target j being the id at coarse position j.
    """
    i = corpus.by_duration(rng)
    history = history_of(corpus, corpus.prompt(i, rng))
    truth = flatten(corpus.tokens.codes[i][: COARSE.codebooks], NANO)
    step = int(rng.integers(-(-len(truth) // COARSE.window))) * COARSE.window
    job = CoarseInput(history, NANO)
    job.extend(corpus.tokens.semantic[i].tolist())
    job.append(truth[:step].tolist())
    seen = np.concatenate([job.window(), truth[step : step + COARSE.window]])
    ids = np.full(COARSE.semantic_block + 1 + COARSE.history + COARSE.window, COARSE.semantic_pad)
    ids[: len(seen)] = seen
    targets = ids[COARSE.semantic_block + 1 :].copy()
    targets[len(seen) - COARSE.semantic_block - 1 :] = IGNORE
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
    missing = max(0, FINE.window - line.shape[1])
    line = np.pad(line, ((0, 0), (0, missing)), constant_values=FINE.mask)
    windows = plan_windows(codes.shape[1], history.shape[1], NANO)
    place = windows[int(rng.integers(len(windows)))]
    window = line[:, place.start : place.start + FINE.window].T.copy()
    targets = np.where(window[:, book] == FINE.mask, IGNORE, window[:, book])
    targets[: place.fill] = IGNORE
    # The book itself is known only in front of the fill; later books are never looked at.
    window[place.fill :, book] = FINE.mask
    window[:, book + 1 :] = FINE.mask
    return window, targets
