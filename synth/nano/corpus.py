"""The text the teacher reads: WordNet's example sentences and definitions, and phrases made here.

WordNet 3.0 may be used, copied and redistributed for any purpose with its notice. Held-out
sentences are chosen before anything else and never enter the corpus.
"""

import json
import os
import random
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from synth.nano import numerals
from synth.nano.phrases import CUES, EASY, WORDS, phrase, short_phrase
from synth.nano.recipe import SEED, TEXT, Paths
from synth.nano.spelling import spell

_N_RARE = 80
DIGITS = 0.12  # share of lines with numbers in figures
_PARTS = ("noun", "verb", "adj", "adv")


def _clean(text: str) -> str:
    text = re.sub(r"\([^)]*\)", " ", text).replace("`", "'").replace("--", ", ")
    text = re.sub(r"\s+", " ", text).strip(" ,;:-")
    return re.sub(r"\s+([,.?!;:])", r"\1", text)


def _sentence(text: str) -> str:
    text = _clean(text)
    if not text:
        return ""
    text = text[0].upper() + text[1:]
    return text if text[-1] in ".?!" else text + "."


def wordnet(folder: Path) -> tuple[list[str], list[str]]:
    """(example sentences, definitions) of a WordNet 3.0 `dict` folder, cleaned."""
    examples: list[str] = []
    glosses: list[str] = []
    for part in _PARTS:
        for line in (folder / f"data.{part}").read_text(errors="replace").splitlines():
            if line.startswith("  ") or "|" not in line:
                continue
            gloss = line.split("|", 1)[1]
            examples += [_sentence(e) for e in re.findall(r'"([^"]+)"', gloss)]
            glosses.append(_sentence(re.sub(r'"[^"]*"', "", gloss).split(";")[0]))
    return examples, glosses


def speakable(text: str) -> bool:
    """True for ordinary sentences a reader would not stumble over."""
    words = text.split()
    return (
        1 <= len(words) <= 24
        and 6 <= len(spell(text)) <= TEXT.block - 4
        and not re.search(r"[@#$*=<>{}\[\]|\\~^_/\"&%]", text)
        and not re.search(r"\b[B-DF-HJ-NP-TV-Z]{2,}\b|\b[b-df-hj-np-tvxz]{2,}\b", text)
        and text.isascii()
        and sum(c.isdigit() for c in text) <= 4
    )


def _key(text: str) -> str:
    """What makes two lines the same: letters and figures, not case or punctuation."""
    return re.sub(r"[^a-z0-9 ]", "", text.lower())


def choose_rare(examples: list[str], rng: random.Random) -> list[str]:
    """Example sentences of 6 to 13 words, each with a word that few other examples use."""
    counts = Counter(w for e in examples for w in set(_key(e).split()))
    pool = [
        e
        for e in examples
        if 6 <= len(e.split()) <= 13
        and not re.search(r"\d|['-]", e)
        and min(counts[w] for w in _key(e).split()) <= 3
        and e[1:] == e[1:].lower()  # no proper names: a recogniser spells those as it likes
    ]
    return rng.sample(sorted(set(pool)), _N_RARE)


def _mixture(
    examples: list[str], glosses: list[str], digits: float, rng: random.Random
) -> Iterator[str]:
    """Endless, shuffled: `digits` of it sentences with figures, the rest in the shares below.

    What is left of 104,000 lines when those that were there before are dropped is 45 % examples,
    16 % definitions and 39 % sentences of our own, and alike from its beginning to its end. WordNet
    has too few examples for more: without sentences with figures they run out in the last quarter,
    and definitions take their place.
    """
    rng.shuffle(examples)
    rng.shuffle(glosses)
    lemmas = sorted({w for e in examples for w in re.findall(r"\b[a-z]{3,12}\b", e)})
    while True:
        if rng.random() < digits:
            yield numerals.sentence(rng)
            continue
        u = rng.random()
        if u < 0.47 and examples:
            yield examples.pop()
        elif u < 0.64 and glosses:
            yield glosses.pop()
        elif u < 0.90:
            yield _sentence(phrase(rng))
        elif u < 0.94:
            yield short_phrase(rng)
        elif u < 0.96:
            yield rng.choice(lemmas if rng.random() < 0.7 else WORDS)
        elif u < 0.975 and examples:
            yield " ".join(_sentence(phrase(rng)) for _ in range(2))
        else:
            cue = rng.choice(CUES)
            yield rng.choice(
                [f"{cue} {_sentence(phrase(rng))}", f"{_sentence(phrase(rng))} {cue}", cue]
            )


def write_corpus(paths: Paths, wordnet_folder: Path, size: int, digits: float = DIGITS) -> int:
    """Write the held-out sentences and `size` others to train on; returns how many were written.

    A share of `digits` of those drawn has numbers in figures.
    """
    rng = random.Random(SEED)
    examples, glosses = wordnet(wordnet_folder)
    examples = [e for e in dict.fromkeys(examples) if speakable(e)]
    glosses = [g for g in dict.fromkeys(glosses) if speakable(g) and len(g.split()) >= 3]
    rare = choose_rare(examples, rng)
    held = {_key(t) for t in (*EASY, *rare, *numerals.HELD_OUT)}
    paths.root.mkdir(parents=True, exist_ok=True)
    paths.heldout.write_text(json.dumps({"easy": EASY, "rare": rare}, indent=1))

    seen = set(held)
    lines: list[str] = []
    for text in _mixture(examples, glosses, digits, rng):
        key = _key(text)
        is_cue = "[" in text or "♪" in text
        if (not is_cue and key in seen) or len(spell(text)) > TEXT.block:
            continue
        seen.add(key)
        lines.append(text)
        if len(lines) == size:
            break
    part = paths.corpus.with_suffix(".part")
    part.write_text("\n".join(lines) + "\n")
    os.replace(part, paths.corpus)
    return len(lines)
