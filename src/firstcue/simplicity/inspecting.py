"""What a data set is made of, in bits: its simplest and most complex examples, and classes told apart by simplicity alone.

No classifier is needed. A class or a group of rows that is much simpler than the others may be recognised by that alone.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from firstcue._checks import as_tensor, encode_labels, require_finite, require_rows
from firstcue.simplicity.density import Density
from firstcue.simplicity.density import bits as measure


@dataclass(frozen=True)
class GroupBits:
    """Bits of the rows of one class or group."""

    name: str
    n: int
    mean: float
    """Total bits of an image, in the mean."""
    ci_low: float
    """Lower end of the 95 % interval of the mean (Student t); NaN for fewer than two rows."""
    ci_high: float
    median: float
    spread: float
    """Standard deviation over rows; NaN for fewer than two."""
    simplest: tuple[int, ...]
    """Rows of fewest bits, the fewest first."""
    most_complex: tuple[int, ...]
    """Rows of most bits, the most first."""


@dataclass(frozen=True, eq=False)
class InspectedBits:
    """Bits of a data set, whole, by class and by group.

    Example:
        >>> from firstcue.simplicity.dct import DCTLaplace
        >>> x = torch.cat([torch.zeros(5, 1, 8, 8), torch.rand(5, 1, 8, 8)])
        >>> found = inspect_bits(DCTLaplace(), x, ["page"] * 5 + ["noise"] * 5)
        >>> found.by_class[0].name, found.by_class[0].mean > 10 * found.by_class[1].mean, found.explained > 0.9
        ('noise', True, True)
    """

    bits: Tensor
    """`(n,)` float64 total bits of each row."""

    values: int
    """Values in a row (c h w): bits divided by it are bits per value."""

    overall: GroupBits
    by_class: tuple[GroupBits, ...]
    by_group: tuple[GroupBits, ...]

    explained: float
    """Share of the variance of bits between classes (eta squared); NaN without classes, or if all rows have equal bits."""

    explained_by_chance: float
    """What shuffled labels would explain, in expectation: `(k - 1) / (n - 1)`."""

    agreement_with_png: float
    """Rank correlation (Spearman) with PNG file sizes over the data: a sanity number, above 0.8 for a sound density on varied
    images; NaN for vectors and if either is constant."""

    def to_rows(self) -> list[dict[str, Any]]:
        """One plain dictionary for the whole, each class and each group."""
        named = [("all", self.overall), *(("class", g) for g in self.by_class), *(("group", g) for g in self.by_group)]
        return [{"of": kind, **asdict(g), "bits_per_value": g.mean / self.values} for kind, g in named]


def inspect_bits(
    density: Density,
    x: Any,
    y: Any = None,
    group: Any = None,
    *,
    examples: int = 4,
    n_dequant: int = 8,
    seed: int = 0,
    batch_size: int = 512,
) -> InspectedBits:
    """Measure a data set in bits.

    Args:
        density: As for `fc.bits`.
        x: Images `(n, c, h, w)` in [0, 1], or vectors `(n, d)` for a density over them.
        y: `(n,)` classes of any kind.
        group: `(n,)` groups of any kind.
        examples: Simplest and most complex rows to name for each class and group.
        n_dequant: As for `fc.bits`.
        seed: As for `fc.bits`.
        batch_size: As for `fc.bits`.

    Raises:
        ValueError: If there are no rows, lengths differ, or as for `fc.bits`.
    """
    rows = as_tensor(x)
    if len(rows) == 0:
        raise ValueError("`x` is empty; at least one row is needed.")
    wide = rows if rows.dtype == torch.float64 or not rows.is_floating_point() else rows.float()
    found = measure(density, wide, n_dequant=n_dequant, seed=seed, batch_size=batch_size).double().cpu()
    by_class, by_group = (
        () if labels is None else group_bits(found, labels, examples=examples, name=name)
        for labels, name in ((y, "y"), (group, "group"))
    )
    explained, chance = _explained(found, by_class)
    return InspectedBits(
        found, rows[0].numel(), group_bits(found, ["all"] * len(found), examples=examples)[0], by_class, by_group,
        explained, chance, _png_agreement(found, wide),
    )  # fmt: skip


def group_bits(bits: Any, labels: Any, *, examples: int = 4, name: str = "labels") -> tuple[GroupBits, ...]:
    """Bits of the rows of each label.

    Args:
        bits: `(n,)`.
        labels: `(n,)` of any kind.
        examples: Simplest and most complex rows to name.
        name: What to call the labels in an error.

    Raises:
        ValueError: If lengths differ, or bits are not finite.

    Example:
        >>> [(g.name, g.mean, g.simplest) for g in group_bits([1.0, 3.0, 5.0], ["a", "b", "b"], examples=1)]
        [('a', 1.0, (0,)), ('b', 4.0, (1,))]
    """
    found = as_tensor(bits, "bits").double()
    require_finite(found, "bits")
    ids, names = encode_labels(labels, name)
    require_rows(found, ids, "bits", name)
    return tuple(
        _group(names[i], found, (ids == i).nonzero().flatten(), examples)
        for i in range(len(names))
        if bool((ids == i).any())
    )


def _group(name: str, bits: Tensor, rows: Tensor, examples: int) -> GroupBits:
    mine = bits[rows]
    n, mean = len(mine), float(mine.mean())
    spread = float(mine.std()) if n > 1 else math.nan
    half = _t_quantile(n) * spread / math.sqrt(n)
    order = rows[torch.argsort(mine, stable=True)].tolist()
    return GroupBits(
        name, n, mean, mean - half, mean + half, float(mine.quantile(0.5)), spread,
        tuple(order[:examples]), tuple(order[::-1][:examples]),
    )  # fmt: skip


def _t_quantile(n: int) -> float:
    if n < 2:
        return math.nan
    from scipy import stats

    return float(stats.t.ppf(0.975, n - 1))


def _explained(bits: Tensor, classes: Sequence[GroupBits]) -> tuple[float, float]:
    n, total = len(bits), float((bits - bits.mean()).square().sum())
    if not classes or n < 2 or total == 0:
        return math.nan, math.nan
    between = sum(g.n * (g.mean - float(bits.mean())) ** 2 for g in classes)
    return between / total, (len(classes) - 1) / (n - 1)


def _png_agreement(bits: Tensor, x: Tensor) -> float:
    if x.ndim != 4:
        return math.nan
    from firstcue.simplicity.codecs import Codec

    return rank_correlation(bits, measure(Codec("png"), x))


def rank_correlation(a: Any, b: Any) -> float:
    """Spearman's rank correlation of two lists of numbers; NaN if either is constant or shorter than two.

    Example:
        >>> rank_correlation([1.0, 2.0, 3.0], [10.0, 100.0, 1000.0])
        1.0
    """
    from scipy import stats

    first, second = (stats.rankdata(np.asarray(as_tensor(v).double().cpu())) for v in (a, b))
    if len(first) < 2 or np.ptp(first) == 0 or np.ptp(second) == 0:
        return math.nan
    return float(np.corrcoef(first, second)[0, 1].round(12))
