"""What can be said of a text without understanding it: its length, its signs, and which frequent words it holds."""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from firstcue.spurious.properties import Property

MOST_TOKENS = 500
"""Frequent words that are looked at."""

_WORD = re.compile(r"\w+")


def text_properties(x: Sequence[Any]) -> tuple[Property, ...]:
    """The presence of each frequent word, length, punctuation, digits and capitals.

    A word can be dropped or put in front; nothing else of a text can be changed without touching its meaning.

    Args:
        x: `(n,)` texts.

    Raises:
        ValueError: If an item is not a str.

    Example:
        >>> found = text_properties(["Oh no.", "oh yes, oh"] * 10)
        >>> [p.name for p in found][:3]
        ["word 'no'", "word 'yes'", 'number of words']
        >>> found[1].carry(["Oh no."], ["oh yes"])
        ['yes Oh no.']
    """
    odd = next((i for i, text in enumerate(x) if not isinstance(text, str)), None)
    if odd is not None:
        raise ValueError(f"text {odd} is a {type(x[odd]).__name__}; every row has to be a str.")
    whole = tuple(Property(name, measure(x), measure=measure) for name, measure in _MEASURES.items())
    return (*(_word(token, x) for token in frequent(x)), *whole)


def frequent(x: Sequence[str], most: int = MOST_TOKENS) -> list[str]:
    """Words that at least a hundredth of the texts (and ten of them) hold, and a hundredth (and ten) do not, by frequency."""
    rows = Counter(token for text in x for token in set(_words(text)))
    least = max(10, len(x) / 100)
    kept = [(count, token) for token, count in rows.items() if least <= count <= len(x) - least]
    return [token for _, token in sorted(kept, key=lambda pair: (-pair[0], pair[1]))[:most]]


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


def _word(token: str, x: Sequence[str]) -> Property:
    holds = partial(_holds, token=token)
    return Property(f"word {token!r}", holds(x), measure=holds, carry=partial(_carry_word, token=token))


def _holds(x: Sequence[str], token: str) -> np.ndarray:
    return np.array([token in _words(text) for text in x], dtype=np.float64)


def _carry_word(x: Sequence[str], donors: Sequence[str], token: str) -> list[str]:
    return [_with_word(text, token in _words(donor), token) for text, donor in zip(x, donors, strict=True)]


def _with_word(text: str, wanted: bool, token: str) -> str:
    present = token in _words(text)
    if present == wanted:
        return text
    if wanted:
        return f"{token} {text}"
    dropped = re.sub(rf"\b{re.escape(token)}\b", "", text, flags=re.IGNORECASE)
    return " ".join(dropped.split())


def _length(x: Sequence[str]) -> np.ndarray:
    return np.array([len(_words(text)) for text in x], dtype=np.float64)


def _share(x: Sequence[str], pattern: str) -> np.ndarray:
    return np.array([len(re.findall(pattern, text)) / max(len(text), 1) for text in x], dtype=np.float64)


_MEASURES: dict[str, Callable[[Sequence[str]], np.ndarray]] = {
    "number of words": _length,
    "share of punctuation": partial(_share, pattern=r"[^\w\s]"),
    "share of digits": partial(_share, pattern=r"\d"),
    "share of capitals": partial(_share, pattern=r"[A-Z]"),
}
