"""Which statistics of a made data set agree with those of the real one, and by how much."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from firstcue.batch import Batch
from firstcue.erasure.marginal import kolmogorov_smirnov
from firstcue.erasure.surrogates._classes import generator, rows_by_class
from firstcue.erasure.surrogates.third import third_moment_gap
from firstcue.moments import Moments

ROWS_FOR_CUBES = 2000
"""Rows of a class whose third moments are compared; work grows with the square."""

STATISTICS = ("mean", "marginals", "covariance", "third")


@dataclass(frozen=True)
class Matched:
    """How far the statistics of two data sets are apart within classes, beside how far those of two halves of one are."""

    gap: Mapping[str, float]
    """Of the worst class. "mean": distance over the root mean variance of a feature; "marginals": mean
    Kolmogorov-Smirnov distance over features; "covariance" and "third": Frobenius distance over the real one's norm."""

    noise: Mapping[str, float]
    """The same between random halves of the real rows of that class, averaged over splits: what chance alone does."""

    agrees: Mapping[str, bool]
    """Whether in no class the gap exceeds the noise."""

    by_class: Mapping[str, Mapping[str, float]]
    """The gaps of every class, by its name."""


def matched(real: Batch, made: Batch, *, seed: int = 0, splits: int = 4) -> Matched:
    """Compare means, marginals, covariances and third moments of every class in two batches.

    Args:
        real: Real rows; at least four of each class.
        made: Rows to compare, such as a surrogate; classes that only one of the two has are left out.
        seed: Of the halves of the real rows.
        splits: How often they are halved.

    Raises:
        ValueError: If features differ in number, no class is in both, or a class has too few rows.

    Example:
        >>> from firstcue.erasure.surrogates import gaussian
        >>> x = torch.rand(400, 2, generator=torch.Generator().manual_seed(0)) ** 4
        >>> real = Batch.of(x, torch.arange(400) % 2)
        >>> matched(real, gaussian(real)).agrees
        {'mean': True, 'marginals': False, 'covariance': True, 'third': False}
    """
    one, two = rows_by_class(real, at_least=4), rows_by_class(made, at_least=2)
    common = sorted(set(one) & set(two))
    if not common or real.x[0].numel() != made.x[0].numel():
        raise ValueError(
            f"the batches have {real.x[0].numel()} and {made.x[0].numel()} features and {len(common)} classes in common; "
            f"they need the same features, and labels with the same meaning."
        )
    source = generator(seed)
    names = {c: real.classes[c] if c < len(real.classes) else str(c) for c in common}
    gaps = {c: _gaps(one[c], two[c], source) for c in common}
    noise = {c: _noise(one[c], source, splits) for c in common}
    worst = {s: max(common, key=lambda c: gaps[c][s] / max(noise[c][s], 1e-300)) for s in STATISTICS}
    return Matched(
        {s: gaps[worst[s]][s] for s in STATISTICS},
        {s: noise[worst[s]][s] for s in STATISTICS},
        {s: gaps[worst[s]][s] <= noise[worst[s]][s] for s in STATISTICS},
        {names[c]: gaps[c] for c in common},
    )


def _gaps(real: Tensor, made: Tensor, source: torch.Generator) -> dict[str, float]:
    a, b = Moments.of(real), Moments.of(made)
    unit = float(a.covariance.trace() / len(a.mean)) ** 0.5
    third, size = third_moment_gap(_some(real, source), _some(made, source))
    return {
        "mean": _ratio(float((a.mean - b.mean).norm()), unit),
        "marginals": float(kolmogorov_smirnov(real, made).mean()),
        "covariance": _ratio(float((a.covariance - b.covariance).norm()), float(a.covariance.norm())),
        "third": _ratio(third, size),
    }


def _noise(real: Tensor, source: torch.Generator, splits: int) -> dict[str, float]:
    found = []
    for _ in range(splits):
        order = torch.randperm(len(real), generator=source).to(real.device)
        found.append(_gaps(real[order[::2]], real[order[1::2]], source))
    return {s: sum(f[s] for f in found) / splits for s in STATISTICS}


def _some(rows: Tensor, source: torch.Generator) -> Tensor:
    if len(rows) <= ROWS_FOR_CUBES:
        return rows
    return rows[torch.randperm(len(rows), generator=source)[:ROWS_FOR_CUBES].to(rows.device)]


def _ratio(gap: float, unit: float) -> float:
    """`gap / unit`; where the real rows do not vary, any gap counts as infinite."""
    return gap / unit if unit > 0 else (0.0 if gap == 0 else float("inf"))
