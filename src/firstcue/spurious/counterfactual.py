"""The check that alone may say "relies on": give rows a property of other rows, keep all else, and ask the model again."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from firstcue.spurious.association import Association
from firstcue.spurious.properties import take
from firstcue.spurious.reliance import Reliance, edit_reliance

Carry = Callable[[Any, Any], Any]
Edit = Callable[[Any, int], Any]
MOST_DONORS = 500
"""Rows of each value from which a property is carried over."""


@dataclass(frozen=True)
class Transplant:
    """Sets a property of any rows to a value, by carrying it over from rows that have it."""

    carry: Carry
    donors: tuple[Any, ...]
    """Rows of each value."""

    seed: int = 0

    @classmethod
    def of(cls, carry: Carry, x: Any, value: np.ndarray, num_values: int, seed: int = 0) -> "Transplant":
        """From rows and the value of each.

        Raises:
            ValueError: If a value has no row.
        """
        rng = np.random.default_rng(seed)
        rows = [np.flatnonzero(value == v) for v in range(num_values)]
        empty = [v for v, r in enumerate(rows) if len(r) == 0]
        if empty:
            raise ValueError(f"no row has the value {empty[0]}, so there is none to carry it over from.")
        return cls(carry, tuple(take(x, np.sort(rng.permutation(r)[:MOST_DONORS])) for r in rows), seed)

    def __call__(self, x: Any, value: int) -> Any:
        """The same rows with the property as a donor of that value has it; the same donors for the same number of rows."""
        pool = self.donors[int(value)]
        picked = np.random.default_rng([self.seed, int(value)]).integers(len(pool), size=len(x))
        return self.carry(x, take(pool, picked))


def carried_reliance(
    predict: Callable[[Any], Tensor],
    edits: Sequence[Edit],
    x: Any,
    y: np.ndarray,
    found: Association,
    *,
    num_values: int,
    seed: int = 0,
) -> tuple[Reliance, int]:
    """Reliance by the edit that moves decisions most: chosen on one half of the rows, measured on the other.

    Args:
        predict: Logits `(n, K)` of inputs.
        edits: Ways to set the property; with one, every row measures.
        x: Rows the model is asked about.
        y: `(n,)` class ids.
        found: How the value goes with the class.
        num_values: Values of the property.
        seed: Of the halves and of the resampling.

    Returns:
        Reliance, and which edit it was.
    """
    if len(edits) == 1:
        return _reliance(predict, edits[0], x, y, found, num_values, seed), 0
    half = _halves(y, seed)
    first, second = (np.flatnonzero(half == side) for side in (0, 1))
    tried = [_reliance(predict, e, take(x, first), y[first], found, num_values, seed).value for e in edits]
    best = int(np.argmax(tried))
    return _reliance(predict, edits[best], take(x, second), y[second], found, num_values, seed), best


def _reliance(
    predict: Callable[[Any], Tensor],
    edit: Edit,
    x: Any,
    y: np.ndarray,
    found: Association,
    num_values: int,
    seed: int,
) -> Reliance:
    target = torch.from_numpy(y)
    right = [predict(edit(x, v)).argmax(dim=1).cpu() == target for v in range(num_values)]
    return edit_reliance(found, torch.stack(right, dim=1), target, seed=seed)


def _halves(y: np.ndarray, seed: int) -> np.ndarray:
    order = np.random.default_rng(seed).permutation(len(y))
    half = np.empty(len(y), dtype=np.int64)
    half[order[np.argsort(y[order], kind="stable")]] = np.arange(len(y)) % 2
    return half
