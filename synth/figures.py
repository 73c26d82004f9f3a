"""Numbers in figures as English words, for a model that reads letters better than figures.

"$3.50 at 7:30" -> "three dollars and fifty cents at seven thirty". What surrounds them stays.
"""

import re
from collections.abc import Callable

_ONES = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen "
    "sixteen seventeen eighteen nineteen"
).split()
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()
_LARGE = ((10**9, "billion"), (10**6, "million"), (1000, "thousand"), (100, "hundred"))
_ORDINALS = {
    **{"one": "first", "two": "second", "three": "third", "five": "fifth", "eight": "eighth"},
    **{"nine": "ninth", "twelve": "twelfth"},
}
# The sign, one of them and several; of the hundredths as well.
_MONEY = {
    "$": ("dollar", "dollars", "cent", "cents"),
    "€": ("euro", "euros", "cent", "cents"),
    "£": ("pound", "pounds", "penny", "pence"),
}


def number_words(n: int) -> str:
    """0 <= n < 10^12 in words, without "and" or hyphens."""
    if n < 20:
        return _ONES[n]
    if n < 100:
        return _TENS[n // 10 - 2] + ("" if n % 10 == 0 else " " + _ONES[n % 10])
    unit, name = next((unit, name) for unit, name in _LARGE if n >= unit)
    rest = "" if n % unit == 0 else " " + number_words(n % unit)
    return f"{number_words(n // unit)} {name}{rest}"


def digit_words(figures: str) -> str:
    """One by one: "07" -> "zero seven"."""
    return " ".join(_ONES[int(char)] for char in figures if char.isdecimal())


def ordinal_words(n: int) -> str:
    """21 -> "twenty first"."""
    rest, _, last = f" {number_words(n)}".rpartition(" ")
    return f"{rest} {_ORDINALS.get(last) or re.sub('y$', 'ie', last) + 'th'}".strip()


def _whole(m: re.Match[str]) -> str:
    figures = m.group().replace(",", "")
    n = int(figures)
    if "," not in m.group():
        if len(figures) > 6 or (len(figures) > 1 and figures[0] == "0"):
            return digit_words(figures)
        if len(figures) == 4 and 11 <= n // 100 <= 20 and n // 10 != 200:  # as years are read
            century, rest = divmod(n, 100)
            if rest == 0:
                return "two thousand" if n == 2000 else f"{number_words(century)} hundred"
            return f"{number_words(century)} {'oh ' if rest < 10 else ''}{number_words(rest)}"
    return number_words(n) if n < 10**12 else digit_words(figures)


def _money(m: re.Match[str]) -> str:
    sign, whole, part, scale = m.groups()
    one, several, hundredth, hundredths = _MONEY[sign]
    n = int(whole.replace(",", ""))
    if scale or (part and len(part) != 2):
        return f"{whole}{'.' + part if part else ''} {scale + ' ' if scale else ''}{several}"
    words = f"{whole} {one if n == 1 else several}"
    return (
        f"{words} and {int(part)} {hundredth if int(part) == 1 else hundredths}" if part else words
    )


def _time(m: re.Match[str]) -> str:
    hour, minute = m.groups()
    if minute == "00":
        return hour
    return f"{hour} {'oh ' if minute[0] == '0' else ''}{int(minute)}"


_GROUPS = r"\d{1,3}(?:,\d{3})+(?!\d)"
# In this order: what has signs in it becomes numbers without, and these become words.
_READINGS: tuple[tuple[str, str | Callable[[re.Match[str]], str]], ...] = (
    (rf"([$€£])\s?({_GROUPS}|\d+)(?:\.(\d+))?(?:\s(thousand|million|billion)\b)?", _money),
    (r"\b(\d{1,2}):(\d\d)(?!\d)", _time),
    (r"(?:\b\d{3}-)?\b\d{3}-\d{4}\b", lambda m: digit_words(m.group())),
    (r"(?<=\d)\s?%", " percent"),
    (r"(?<=\d)\.(\d+)", lambda m: f" point {digit_words(m.group(1))}"),
    (r"#(?=\d)", "number "),
    (r"\b(\d{1,9})(?:st|nd|rd|th)\b", lambda m: ordinal_words(int(m.group(1)))),
    (r"(?<=[A-Za-z])(?=\d)|(?<=\d)(?=[A-Za-z])", " "),
    (rf"{_GROUPS}|\d+", _whole),
)


def in_words(text: str) -> str:
    """The text with its numbers in words; cues in brackets as they are."""
    if not re.search(r"\d", text):
        return text
    parts = re.split(r"(\[[^\]]*\])", text)
    return "".join(part if number % 2 else _read(part) for number, part in enumerate(parts))


def _read(text: str) -> str:
    for pattern, reading in _READINGS:
        text = re.sub(pattern, reading, text)
    return text
