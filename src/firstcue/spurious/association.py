"""How strongly an attribute goes with the label in training rows: a table of cells, and what can be said of it alone.

Being associated accuses nothing: whether a model relies on the attribute is asked in `firstcue.spurious.reliance`.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

ASSOCIATED = 0.02
"""Strength from which a cue counts as associated with the label."""

ZERO = 1e-9
"""Entries of a contrast below it are rounding errors."""


@dataclass(frozen=True)
class Association:
    """How an attribute goes with the label in training rows; needs no model."""

    r: Tensor
    """`(K, A)` float64, `p(a|y)` minus its mean over the classes present; rows and columns sum to 0."""
    strength: float
    """Half the summed `|r|` per class, a fraction: 0 independent, 1/2 for two classes and values that always agree."""
    mutual_information: float
    """Bits, corrected for its bias in finite samples, never below 0."""
    information_low: float
    """Lower end of its 95 % interval, bits."""
    information_high: float
    """Upper end, bits."""
    n: int
    """Rows."""
    counts: Tensor
    """`(K, A)` int64 rows per cell."""

    @property
    def associated(self) -> bool:
        """Whether the strength reaches .02."""
        return self.strength >= ASSOCIATED


def association(y: Any, attribute: Any, num_classes: int | None = None, num_values: int | None = None) -> Association:
    """How strongly `attribute` goes with `y`.

    `r(y, a) = p(a|y) - mean over y' of p(a|y')`, so that neither how common a class nor how common a value is counts.

    Args:
        y: `(n,)` class ids `0 .. K - 1`.
        attribute: `(n,)` value ids `0 .. A - 1`.
        num_classes: K, when the largest id need not occur; an absent class gets r = 0.
        num_values: A, likewise.

    Raises:
        ValueError: If ids are not integers in range, lengths differ, or there are no rows.

    Example:
        >>> found = association([0, 0, 0, 0, 1, 1, 1, 1], [0, 0, 0, 1, 1, 1, 1, 0])
        >>> found.r.tolist(), found.strength
        ([[0.25, -0.25], [-0.25, 0.25]], 0.25)
    """
    classes, values = ids(y, "y", num_classes), ids(attribute, "attribute", num_values)
    require_same_length(classes, values, "y", "attribute")
    if len(classes) == 0:
        raise ValueError("`y` has no rows; association needs training rows.")
    return association_of_counts(
        cell_counts(classes, values, num_classes or int(classes.max()) + 1, num_values or int(values.max()) + 1)
    )


def association_of_counts(counts: np.ndarray) -> Association:
    """The same from the number of rows in every cell, `(K, A)` integers, as a pass over many files leaves them.

    Example:
        >>> association_of_counts(np.array([[3, 1], [1, 3]])).strength
        0.25
    """
    rows = counts.sum(axis=1)
    present = rows > 0
    given_class = counts / np.maximum(rows, 1)[:, None]
    r = np.where(present[:, None], given_class - given_class[present].mean(axis=0), 0.0)
    strength = float(np.abs(r).sum() / 2 / present.sum())
    return Association(torch.from_numpy(r), strength, *_information(counts), int(rows.sum()), torch.from_numpy(counts))


def recentred(r: np.ndarray, support: np.ndarray) -> np.ndarray:
    """The array nearest to `r` that is zero outside `support` and whose rows and columns sum to 0.

    Any such array is a contrast in which additive difficulties of classes and of values cancel. It may be zero: of a
    2 x 2 table no cell can be missed.

    Args:
        r: `(K, A)`.
        support: `(K, A)` bool.

    Example:
        >>> recentred(np.array([[0.4, -0.4], [-0.4, 0.4]]), np.array([[True, False], [True, True]])).tolist()
        [[0.0, 0.0], [0.0, 0.0]]
    """
    inside = np.argwhere(support)
    result = np.zeros_like(r)
    if len(inside) == 0:
        return result
    sums = np.zeros((sum(r.shape), len(inside)))  # each row of `sums` adds up one row or column of the table
    sums[inside[:, 0], np.arange(len(inside))] = 1
    sums[r.shape[0] + inside[:, 1], np.arange(len(inside))] = 1
    values = r[support]
    if np.abs(sums @ values).max() < 1e-12:  # already centred: no rounding added
        result[support] = values
        return result
    values = values - sums.T @ np.linalg.lstsq(sums.T, values, rcond=None)[0]
    result[support] = np.where(np.abs(values) > ZERO, values, 0.0)
    return result


def unit_contrast(weight: np.ndarray) -> np.ndarray:
    """Scaled so that positive entries sum to 1; zero stays zero."""
    total = np.abs(weight).sum() / 2
    return weight / total if total > ZERO else np.zeros_like(weight)


def contrast_of(r: Association | Tensor | np.ndarray) -> np.ndarray:
    """The `(K, A)` table r(y, a), whose rows and columns sum to 0."""
    table = r.r if isinstance(r, Association) else r
    array = np.asarray(table.detach().cpu().double().numpy() if isinstance(table, Tensor) else table, dtype=float)
    if array.ndim != 2 or not np.isfinite(array).all():
        raise ValueError(f"`r` has shape {array.shape}; a finite (K, A) table is needed, as `association` returns it.")
    off = max(np.abs(array.sum(axis=0)).max(initial=0), np.abs(array.sum(axis=1)).max(initial=0))
    if off > 1e-6:
        raise ValueError(
            f"rows and columns of `r` have to sum to 0 (largest sum found: {off:.3g}); use `association(y, attribute)`."
        )
    return array


def cell_counts(classes: np.ndarray, values: np.ndarray, num_classes: int, num_values: int) -> np.ndarray:
    """`(K, A)` int64 rows per cell."""
    return np.bincount(classes * num_values + values, minlength=num_classes * num_values).reshape(
        num_classes, num_values
    )


def ids(values: Any, name: str, limit: int | None) -> np.ndarray:
    """`(n,)` int64 ids from 0, below `limit` if there is one."""
    array = np.asarray(values.detach().cpu().numpy() if isinstance(values, Tensor) else values)
    if array.ndim != 1 or (array.dtype.kind not in "biu" and len(array)):
        raise ValueError(
            f"`{name}` has shape {array.shape} and type {array.dtype}; integer ids (n,) are needed. "
            f"`Batch.of(x, y, attribute)` encodes labels of any kind."
        )
    array = array.astype(np.int64)
    if len(array) and (array.min() < 0 or (limit is not None and array.max() >= limit)):
        wanted = "ids from 0" if limit is None else f"0 .. {limit - 1}"
        raise ValueError(f"`{name}` has ids {array.min()} .. {array.max()}; {wanted} are needed.")
    return array


def bools(values: Any, name: str, axes: int) -> np.ndarray:
    """An array of bools with that many axes."""
    array = np.asarray(values.detach().cpu().numpy() if isinstance(values, Tensor) else values)
    if array.ndim != axes or not np.isin(array, (0, 1)).all():
        raise ValueError(
            f"`{name}` has shape {array.shape} and type {array.dtype}; bools with {axes} axes are needed: "
            f"prediction == label."
        )
    return array.astype(bool)


def require_same_length(a: np.ndarray, b: np.ndarray, a_name: str, b_name: str) -> None:
    """Refuse two columns of different lengths."""
    if len(a) != len(b):
        raise ValueError(f"`{a_name}` has {len(a)} rows but `{b_name}` has {len(b)}; one per row is needed.")


def _information(counts: np.ndarray) -> tuple[float, float, float]:
    """Mutual information in bits and its interval: Miller and Madow's bias; delta-method plus chi-square variance."""
    n = counts.sum()
    joint = counts / n
    expected = joint.sum(axis=1, keepdims=True) * joint.sum(axis=0, keepdims=True)
    ratio = np.log2(np.where(joint > 0, joint, 1.0) / np.where(joint > 0, expected, 1.0))
    information = float((joint * ratio).sum())
    free = max((joint.sum(axis=1) > 0).sum() - 1, 0) * max((joint.sum(axis=0) > 0).sum() - 1, 0)
    bit = 1 / np.log(2)
    centre = information - free * bit / (2 * n)
    # at independence the first term vanishes and 2 n I / bit is chi-square, of variance 2 free
    half = 1.96 * float(np.sqrt(max((joint * ratio**2).sum() - information**2, 0) / n + free * bit**2 / (2 * n**2)))
    return max(centre, 0.0), max(centre - half, 0.0), max(centre + half, 0.0)
