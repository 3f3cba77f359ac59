"""Intervals for accuracies that stay honest in small groups, near 1, and for the smallest of several.

Nothing here resamples where a cell is small: a bootstrap of ten rows that are all right claims certainty.
"""

from statistics import NormalDist
from typing import NamedTuple, SupportsFloat

import numpy as np


class Rate(NamedTuple):
    """A share of correct rows, its 95 % interval, and the number of rows; NaN without rows."""

    accuracy: float
    ci_low: float
    ci_high: float
    n: int


def wilson(successes: SupportsFloat, n: SupportsFloat, level: float = 0.95) -> tuple[float, float]:
    """Wilson's interval of a proportion, which stays honest near 0 and 1 and in small groups.

    Args:
        successes: Number of successes, `0 .. n`.
        n: Number of trials; 0 gives (0, 1).
        level: Wanted coverage.

    Returns:
        Lower and upper end, fractions.

    Raises:
        ValueError: If `successes` is not in `0 .. n`.

    Source:
        E. B. Wilson, Probable inference, the law of succession, and statistical inference (1927), JASA 22.

    Example:
        >>> [round(end, 3) for end in wilson(9, 10)]
        [0.596, 0.982]
    """
    k, total = float(successes), float(n)
    if not 0 <= k <= total:
        raise ValueError(f"`successes` is {k:g} of n = {total:g}; it has to be in 0 .. n.")
    if total == 0:
        return 0.0, 1.0
    z2 = NormalDist().inv_cdf(0.5 + level / 2) ** 2
    rate, width = k / total, 1 + z2 / total
    centre = (rate + z2 / (2 * total)) / width
    half = (z2 * rate * (1 - rate) / total + z2**2 / (4 * total**2)) ** 0.5 / width
    return max(0.0, centre - half), min(1.0, centre + half)


def rate(correct: np.ndarray) -> Rate:
    """Share of true entries of `correct`, `(n,)` bool, with Wilson's interval."""
    n, k = len(correct), int(correct.sum())
    return Rate(k / n if n else float("nan"), *wilson(k, n), n)


def contrast_interval(
    weight: np.ndarray, right: np.ndarray, rows: np.ndarray, level: float = 0.95
) -> tuple[float, float, float]:
    """Interval of `sum of weight times accuracy` over independent cells; centred on smoothed accuracies.

    One success and one failure are added to each cell, for the centre and for the width: with the raw accuracies at the
    centre, coverage falls to .91 when a cell of ten rows is all right or all wrong (smoothed: .946 to .99).

    Returns:
        Lower end, upper end, half-width.
    """
    smooth = (right + 1) / (rows + 2)
    half = NormalDist().inv_cdf(0.5 + level / 2) * float(
        np.sqrt((weight**2 * smooth * (1 - smooth) / (rows + 2)).sum())
    )
    centre = float((weight * smooth).sum())
    return centre - half, centre + half, half


def minimum_interval(right: np.ndarray, rows: np.ndarray) -> tuple[float, float]:
    """The minimum is below every upper end; it is missed from below only if its own group's lower end is."""
    upper_level = 1 - 0.05 / len(rows)
    lows = [wilson(k, n)[0] for k, n in zip(right, rows, strict=True)]
    highs = [wilson(k, n, upper_level)[1] for k, n in zip(right, rows, strict=True)]
    return min(lows), min(highs)


def bootstrap_minimum(right: np.ndarray, rows: np.ndarray, draws: int = 2000) -> tuple[float, float]:
    """Stratified and reflected: resampled minima err downwards as the minimum itself does; that is subtracted."""
    drawn = np.random.default_rng(0).binomial(rows, right / rows, size=(draws, len(rows)))
    worst = (right / rows).min()
    low, high = np.quantile((drawn / rows).min(axis=1), [0.025, 0.975])
    return max(0.0, float(2 * worst - high)), min(1.0, float(2 * worst - low))


def holm(p_values: list[float]) -> list[float]:
    """Holm's adjusted p-values, in the order given.

    Example:
        >>> holm([0.01, 0.04, 0.03])
        [0.03, 0.06, 0.06]
    """
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = largest
    return adjusted
