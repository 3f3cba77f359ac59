"""How much an audit measures: three settings, each one frozen value; none of them touches the verdict's rule or its tests."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

LENSES = ("order of statistics", "richness", "agreement", "simplicity")
"""What describes a model beside the verdict, in the order of the page."""


@dataclass(frozen=True)
class Effort:
    """What is measured beside the verdict, on how many rows, with how many draws."""

    name: str
    lenses: tuple[str, ...]
    layers: int
    """Layers probed besides the penultimate one, spread evenly over depth; none at all, that one included, when 0."""
    probes: tuple[str, ...]
    """Kinds of probe of embeddings."""
    probed_rows: int
    """Held-out rows probed per layer."""
    draws: int
    """Shuffles of the erasure's control for one cue; its level is exact for any number."""
    draws_per_cue: int
    """Shuffles at the least for each of several cues, which Holm's correction needs."""
    remedies: tuple[str, ...] | None
    """Those tried when nobody names any; all that apply when None."""
    nameless_remedies: tuple[str, ...] | None
    """The same where there is no cue to group rows by."""
    train_rows: int
    """Training rows whose features a remedy may use."""
    described_rows: int
    """Held-out rows on which richness is measured."""
    gradient_rows: int
    """Rows of each group whose gradients are compared."""
    gradient_draws: int
    """Times that those rows are drawn again for intervals."""
    measured_images: int
    """Held-out images measured in bits."""
    explained: int
    """Decisions explained by simplification."""
    steps: int
    """Of each explanation."""

    def tries(self, wanted: Sequence[str] | None, cued: bool) -> Sequence[str] | None:
        """Names of the remedies to try; None for all that apply."""
        if wanted is not None:
            return wanted
        return self.remedies if cued else self.nameless_remedies


FAST = Effort(
    name="fast",
    lenses=(),
    layers=0,
    probes=("linear",),
    probed_rows=0,
    draws=199,
    draws_per_cue=40,
    remedies=("last-layer", "erase"),
    nameless_remedies=("last-layer, class-balanced",),
    train_rows=0,
    described_rows=0,
    gradient_rows=0,
    gradient_draws=0,
    measured_images=0,
    explained=0,
    steps=0,
)
DEFAULT = Effort(
    name="default",
    lenses=LENSES,
    layers=5,
    probes=("linear", "quadratic", "strong"),
    probed_rows=1000,
    draws=199,
    draws_per_cue=40,
    remedies=None,
    nameless_remedies=None,
    train_rows=10_000,
    described_rows=2000,
    gradient_rows=250,
    gradient_draws=6,
    measured_images=300,
    explained=8,
    steps=60,
)
THOROUGH = Effort(
    name="thorough",
    lenses=LENSES,
    layers=1000,
    probes=("linear", "quadratic", "strong"),
    probed_rows=3000,
    draws=999,
    draws_per_cue=200,
    remedies=None,
    nameless_remedies=None,
    train_rows=30_000,
    described_rows=5000,
    gradient_rows=500,
    gradient_draws=20,
    measured_images=1000,
    explained=24,
    steps=100,
)
EFFORTS: Mapping[str, Effort] = {effort.name: effort for effort in (FAST, DEFAULT, THOROUGH)}


def effort_of(name: str) -> Effort:
    """The settings of that name.

    Raises:
        ValueError: If there are none.

    Example:
        >>> effort_of("fast").lenses
        ()
    """
    if name not in EFFORTS:
        raise ValueError(f"`effort` is {', '.join(map(repr, EFFORTS))}; got {name!r}.")
    return EFFORTS[name]
