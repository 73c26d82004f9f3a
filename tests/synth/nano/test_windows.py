"""Training examples against the rules written out a second time."""

import numpy as np
import pytest

from synth.errors import InvalidRequest
from synth.nano import windows
from synth.nano.recipe import COARSE, FINE, NANO, SEMANTIC, TEXT
from synth.nano.shards import Tokens
from synth.nano.windows import IGNORE, Corpus


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    rng = np.random.default_rng(3)
    lengths = rng.integers(20, 330, 420)
    return Corpus(
        Tokens(
            text=[f"Sentence number {i}, please." for i in range(len(lengths))],
            voice=np.arange(len(lengths)) % 4,
            semantic=[rng.integers(0, SEMANTIC.vocab, n).astype(np.int16) for n in lengths],
            codes=[rng.integers(0, 1024, (8, n)).astype(np.int16) for n in lengths],
        )
    )


def test_first_utterances_are_not_trained_on(corpus: Corpus):
    held = Corpus(corpus.tokens, validation=True)
    assert not set(held.ids) & set(corpus.ids)
    assert len(held.ids) == 300


def test_too_few_utterances_are_named(corpus: Corpus):
    """An empty choice of numpy's was all that was said."""
    some = corpus.tokens
    few = Tokens(some.text[:300], some.voice[:300], some.semantic[:300], some.codes[:300])
    with pytest.raises(InvalidRequest, match="300 utterances are too few"):
        Corpus(few)


@pytest.mark.parametrize("text", ["", " "])
def test_no_text_has_no_ids(text: str):
    """Some draws looked for a word to shout and for a full stop."""
    for seed in range(60):
        assert windows.prepare_text(text, np.random.default_rng(seed)) == []


def test_prompts_are_of_the_same_voice(corpus: Corpus):
    rng = np.random.default_rng(0)
    voice = corpus.tokens.voice
    drawn = [(i, corpus.prompt(int(i), rng)) for i in rng.choice(corpus.ids, 300)]
    assert all(j is None or voice[i] == voice[j] for i, j in drawn)
    share = sum(j is not None for _, j in drawn) / len(drawn)
    assert 0.5 < share < 0.8  # some without, so that no prompt gives some voice


def test_semantic_batch_is_bark_s_prompt(corpus: Corpus):
    for seed in range(20):
        rng = np.random.default_rng(seed)
        ids, targets, texts, speeches = windows.semantic_batch(corpus, rng, 3000)
        n = (ids.shape[1] - targets.shape[1]) // 2
        assert n <= TEXT.block
        for row in range(len(ids)):
            text, history, rest = ids[row, :n], ids[row, n : 2 * n], ids[row, 2 * n :]
            assert (text[: texts[row]] >= TEXT.offset).all()
            assert (text[texts[row] :] == TEXT.pad).all()
            filled = int((history != SEMANTIC.pad).sum())
            assert (history[filled:] == SEMANTIC.pad).all()  # padded on the right
            assert rest[0] == TEXT.infer
            spoken = speeches[row] - 1
            np.testing.assert_array_equal(rest[1 : 1 + spoken], targets[row, :spoken])
            assert targets[row, spoken] == SEMANTIC.pad  # the end of the clip is learned
            assert (targets[row, spoken + 1 :] == IGNORE).all()


def _coarse_by_hand(corpus: Corpus, i: int, other: int | None, step: int) -> list[int]:
    """Bark's window in plain arithmetic for a ratio of two."""
    tokens = corpus.tokens

    def flat(j: int) -> list[int]:
        a, b = tokens.codes[j][:2].astype(int)
        return [x for p, q in zip(a, b, strict=True) for x in (512 + p, 1536 + q)]

    semantic, coarse, n = list(map(int, tokens.semantic[i])), flat(i), 0
    past: list[int] = []
    if other is not None:
        old = list(map(int, tokens.semantic[other]))
        n = min(80, len(old) - len(old) % 2)
        semantic = old[-n:] + semantic
        past = flat(other)[-2 * n : -2]
    seen = semantic[max(0, n + step // 2 - 80) :][:144]
    seen = seen + [COARSE.semantic_pad] * (144 - len(seen))
    line = past + coarse
    at = len(past) + step
    return [*seen, COARSE.infer, *line[max(0, at - 160) : at + 80]]


def test_coarse_window_is_bark_s(corpus: Corpus):
    """The generator is replayed: utterance, prompt and step are drawn in this order."""
    with_history = 0
    for seed in range(200):
        ids, targets = windows.coarse_window(corpus, np.random.default_rng(seed))
        rng = np.random.default_rng(seed)
        i = corpus.by_duration(rng)
        other = corpus.prompt(i, rng)
        total = 2 * len(corpus.tokens.semantic[i])
        step = int(rng.integers(-(-total // 80))) * 80
        expected = _coarse_by_hand(corpus, i, other, step)
        np.testing.assert_array_equal(ids[: len(expected)], expected)
        np.testing.assert_array_equal(targets[: len(expected) - 145], expected[145:])
        assert (targets[len(expected) - 145 :] == IGNORE).all()
        with_history += other is not None
    assert with_history > 80


def test_fine_window_hides_what_is_to_be_predicted(corpus: Corpus):
    for seed in range(100):
        book = 2 + seed % 6
        window, targets = windows.fine_window(corpus, book, np.random.default_rng(seed))
        assert window.shape == (FINE.window, FINE.codebooks)
        learned = targets != IGNORE
        assert learned.any()
        assert (window[learned, book] == FINE.mask).all()
        assert (window[learned, :book] < FINE.mask).all()  # earlier books are known
        assert NANO.fine_shape.input_vocab > window.max()
