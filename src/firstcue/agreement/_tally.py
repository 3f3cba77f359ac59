"""Count how many environments agree on each component, and how many would if their signs were thrown at random."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from firstcue.agreement.sums import GradientSums


@dataclass(frozen=True)
class LayerAgreement:
    """One parameter tensor: agreement between environments, beside what random signs would give."""

    name: str
    size: int
    histogram: tuple[int, ...]
    """Components by |positive - negative signs|: 0, 1, ..., number of environments."""

    null_histogram: tuple[float, ...]
    """The same, expected of random signs where gradients are not zero."""

    kept: float
    """Share of components that the AND-mask keeps."""

    expected: float
    """The share that it would keep of random signs."""

    mean: float
    """Mean agreement, from 0 to 1."""

    null_mean: float
    zeros: float
    """Share of gradient entries, over environments and components, that are exactly zero."""

    alignment: float
    """Squared length of the mean gradient over the mean squared length: 1 if all are equal; NaN if all are zero."""

    @property
    def scale(self) -> float:
        """The factor by which `scale="tensor"` would multiply what is kept."""
        return 1 / self.kept if self.kept else math.inf


def layer_agreement(name: str, sums: GradientSums, least: int) -> LayerAgreement:
    """From sums with signs, nonzero and scatter; `least` is the smallest |sum of signs| that is kept."""
    assert sums.signs is not None and sums.nonzero is not None
    count = sums.count
    signs, nonzero = sums.signs.flatten().abs().long(), sums.nonzero.flatten().long()
    seen = torch.bincount(signs, minlength=count + 1)
    null = torch.bincount(nonzero, minlength=count + 1).double() @ null_table(count)
    bins, size = torch.arange(count + 1, dtype=torch.float64), len(signs)
    squares = float(sums.squares.double().sum())
    return LayerAgreement(
        name=name,
        size=size,
        histogram=tuple(seen.tolist()),
        null_histogram=tuple(null.tolist()),
        kept=int(seen[least:].sum()) / size,
        expected=float(null[least:].sum()) / size,
        mean=float(bins @ seen.double()) / size / count,
        null_mean=float(bins @ null) / size / count,
        zeros=1 - int(nonzero.sum()) / (size * count),
        alignment=float(sums.mean.double().square().sum()) * count / squares if squares else math.nan,
    )


def least_sum(threshold: float, environments: int) -> int:
    """The smallest |sum of signs| that the AND-mask keeps.

    Raises:
        ValueError: If the threshold is outside [0, 1].

    Example:
        >>> least_sum(0.2, 80), least_sum(1.0, 5)
        (16, 5)
    """
    if not 0 <= threshold <= 1:
        raise ValueError(f"`threshold` is between 0 (keep all) and 1 (all environments agree); got {threshold}.")
    return math.ceil(threshold * environments - 1e-9)


def null_table(count: int) -> Float[Tensor, "m m"]:
    """Row n: probabilities that n random signs differ by 0, 1, ..., `count`.

    Example:
        >>> null_table(2)[2].tolist()
        [0.5, 0.0, 0.5]
    """
    n = torch.arange(count + 1, dtype=torch.float64)[:, None]
    s = torch.arange(count + 1, dtype=torch.float64)[None, :]
    possible = (s <= n) & ((n - s) % 2 == 0)
    k = torch.where(possible, (n + s) / 2, 0.0)
    logs = torch.lgamma(n + 1) - torch.lgamma(k + 1) - torch.lgamma(n - k + 1) - n * math.log(2)
    return torch.where(possible, torch.where(s > 0, 2.0, 1.0) * logs.exp(), 0.0)


def random_kept(least: int, environments: int) -> float:
    """Probability that random signs of so many environments differ by `least` or more.

    Example:
        >>> round(random_kept(4, 4), 4), round(random_kept(8, 16), 4)
        (0.125, 0.0768)
    """
    return min(1.0, float(null_table(environments)[environments, least:].sum()))


def together(layers: list[LayerAgreement]) -> LayerAgreement:
    """All layers as one; its alignment is not a mean of theirs and is left NaN."""
    size = sum(layer.size for layer in layers)

    def mean(attribute: str) -> float:
        return sum(getattr(layer, attribute) * layer.size for layer in layers) / size

    return LayerAgreement(
        name="all",
        size=size,
        histogram=tuple(map(sum, zip(*(layer.histogram for layer in layers), strict=True))),
        null_histogram=tuple(map(sum, zip(*(layer.null_histogram for layer in layers), strict=True))),
        kept=mean("kept"),
        expected=mean("expected"),
        mean=mean("mean"),
        null_mean=mean("null_mean"),
        zeros=mean("zeros"),
        alignment=math.nan,
    )
