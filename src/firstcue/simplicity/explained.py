"""What an explanation by simplification holds: images before and after, what it kept, what it cost, and its controls."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Control:
    """The same optimisation with one thing taken away."""

    name: str
    """"no bits", "no task" or "random weights"."""

    images: Any
    """`(n, c, h, w)`."""

    bits: Any
    """`(n,)`."""

    kl: Any
    """`(n,)` nats, of the explained model."""

    same_decision: float
    """Share of images that the explained model decides as before."""

    correlation: float
    """Mean correlation of the pixels with those of the explanation."""

    removed_correlation: float
    """Mean correlation of what was taken away with what the explanation takes away; NaN where either took nothing."""

    meaning: str
    """What to expect of it, and what it would say against the explanation."""


@dataclass(frozen=True)
class SimplifyResult:
    """The simplest images found that a model answers as it answers the originals.

    Arrays are of the type of the images that were given.
    """

    original: Any
    """`(n, c, h, w)` in [0, 1]."""

    simplified: Any
    """`(n, c, h, w)` in [0, 1], on the lattice of grey levels."""

    bits_before: Any
    """`(n,)`."""

    bits_after: Any
    """`(n,)`."""

    bits_map: Any
    """`(n, h, w)` bits saved at each pixel; negative where the simplified image is dearer."""

    map_kind: str
    """"exact" if the map sums to the bits saved, "tiles" if it is measured by swapping in tiles one at a time."""

    kl: Any
    """`(n,)` KL(model(original) || model(simplified)) in nats."""

    decision_before: Any
    """`(n,)` class ids."""

    decision_after: Any
    """`(n,)` class ids."""

    layer_distance: Any
    """`(n,)` 1 - cosine of the evidence in the deep layers; NaN for a model without layers."""

    weight: Any
    """`(n,)` weight of the bits per value at which each image was found."""

    within_budget: Any
    """`(n,)` whether the divergence is at most `kl_budget` with the same decision."""

    kl_budget: float
    method: str
    start: str
    history: Mapping[str, list[float]] = field(default_factory=dict)
    """Means over images, one number per step: bits, kl, distance, weight, met."""

    controls: Mapping[str, Control] = field(default_factory=dict)
    """By name."""

    warnings: tuple[str, ...] = ()

    @property
    def bits_saved(self) -> Any:
        """`(n,)` bits."""
        return self.bits_before - self.bits_after

    @property
    def share_saved(self) -> Any:
        """`(n,)` of the bits; NaN for an image that cost none."""
        return self.bits_saved / self.bits_before

    @property
    def difference(self) -> Any:
        """`(n, c, h, w)` absolute change of each pixel."""
        return abs(self.original - self.simplified)

    def __len__(self) -> int:
        return len(self.simplified)
