"""What a measure of richness says: the number, the two numbers it is made of, and what to keep in mind when reading it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from firstcue.richness.alignment import REFERENCES, Numbers, Statistics, debiased, overlap

Debias = bool | str
"""False, True (exact for Gaussian features), "auto" (True where n is below 20 participation ratios), or "hsic"."""

ENOUGH_ROWS = 20
"""Participation ratios that n has to reach before "auto" leaves the bias of a finite sample alone."""

CONSTANT = 1e-10
"""Standard deviation over distance from zero below which features are constant but for rounding."""


@dataclass(frozen=True)
class Richness:
    """D_LR with the two numbers it is made of: `dlr = 1 - used * sqrt(participation_ratio / rank)`.

    The same `dlr` has several stories, so read all of them: little `used` means many directions the head ignores
    (lazy); much `used` with a participation ratio near `rank` means collapsed, equally strong functions (rich); much
    `used` with a participation ratio far below `rank` means that a few learned functions dominate, which is not lazy.
    """

    dlr: float
    """In [0, 1]; NaN with a `reason`."""

    used: float
    """Share of the features' variance inside the span of the outputs."""

    participation_ratio: float
    """tr(S)^2 / ||S||_F^2 of the features' covariance S: how many equally strong directions would spread like them."""

    rank: float
    """Dimension of the learned functions; not whole where a constant lies partly among them."""

    dlr_raw: float
    dlr_centered: float
    dlr_softmax: float
    """The same under each reference."""

    n: int
    """Rows."""

    num_features: int
    num_outputs: int
    reference: str
    debiased: str
    """"" as computed, "gaussian" or "hsic"."""

    method: str
    unclipped: float
    """`dlr` before it was cut to [0, 1]: a correction for bias can overshoot."""

    ci_low: float = math.nan
    ci_high: float = math.nan
    """95 % interval by the jackknife, where asked for."""

    probe_error: float = 0.0
    """Standard error of `dlr` from random probes alone."""

    reason: str = ""
    """Why there is no number."""

    notes: tuple[str, ...] = ()
    """What to keep in mind when reading this one."""

    @property
    def unused(self) -> float:
        """Share of the features' variance that the outputs cannot see: D_LR without its demand for equal strength."""
        return 1 - self.used

    @property
    def isotropy(self) -> float:
        """Participation ratio over rank: 1 where all learned functions are equally strong and nothing else is there."""
        return self.participation_ratio / self.rank if self.rank > 0 else math.nan


def undefined(reason: str, n: int, p: int, c: int, reference: str, method: str) -> Richness:
    """No number, and why."""
    nan = math.nan
    return Richness(nan, nan, nan, nan, nan, nan, nan, n, p, c, reference, "", method, nan, reason=reason)


def measured(
    stats: Statistics,
    reference: str,
    debias: Debias,
    method: str,
    by_rows: Mapping[str, Numbers | None] | None = None,
) -> Richness:
    """The numbers of one sample under every reference.

    Args:
        stats: Moments of the sample.
        reference: Which of the references is meant.
        debias: False, True, "auto", or "hsic", for which `by_rows` is needed.
        method: Only reported.
        by_rows: Unbiased numbers by reference.
    """
    p, c = stats.cross.shape[0], stats.num_outputs
    found = {name: overlap(stats, name) for name in REFERENCES}
    plain = {name: numbers for name, (numbers, _) in found.items()}
    reason = _degenerate(stats, plain[reference])
    if reason:
        return undefined(reason, stats.rows, p, c, reference, method)
    if debias is False or (debias == "auto" and stats.rows * stats.square >= ENOUGH_ROWS * stats.trace**2):
        return _told(stats, plain, reference, method, "")
    corrected = by_rows or {name: debiased(numbers, stats, caught) for name, (numbers, caught) in found.items()}
    if corrected[reference] is not None:
        return _told(stats, corrected, reference, method, "hsic" if by_rows else "gaussian")
    too_few = f"{stats.rows} rows are too few, or their weights too unknown, to correct the bias of a finite sample"
    if debias == "auto":
        return _told(stats, plain, reference, method, "", (f"not debiased: {too_few}.",))
    return undefined(f"{too_few}; use more rows, or debias=False.", stats.rows, p, c, reference, method)


def _degenerate(stats: Statistics, numbers: Numbers) -> str:
    if stats.trace <= CONSTANT**2 * stats.size or stats.square <= 0:
        return "the features are constant: every row has the same."
    if numbers.rank < 1e-12:
        return "the outputs are constant: the network computes the same function value for every row."
    return ""


def _told(
    stats: Statistics,
    numbers: Mapping[str, Numbers | None],
    reference: str,
    method: str,
    kind: str,
    notes: tuple[str, ...] = (),
) -> Richness:
    mine = numbers[reference]
    assert mine is not None
    distance = {name: math.nan if found is None else found.distance for name, found in numbers.items()}
    clipped = {name: min(max(value, 0.0), 1.0) for name, value in distance.items()}
    used, ratio = min(max(mine.inside / mine.trace, 0.0), 1.0), mine.trace**2 / mine.square
    apart = max(clipped.values()) - min(clipped.values())
    return Richness(
        dlr=clipped[reference],
        used=used,
        participation_ratio=ratio,
        rank=mine.rank,
        dlr_raw=clipped["raw"],
        dlr_centered=clipped["centered"],
        dlr_softmax=clipped["softmax"],
        n=stats.rows,
        num_features=stats.cross.shape[0],
        num_outputs=stats.num_outputs,
        reference=reference,
        debiased=kind,
        method=method,
        unclipped=distance[reference],
        probe_error=(1 - distance[reference]) * stats.square_error / (2 * stats.square),
        notes=(*notes, *_notes(stats, used, ratio, mine.rank, kind, apart)),
    )


def _notes(stats: Statistics, used: float, ratio: float, rank: float, kind: str, apart: float) -> tuple[str, ...]:
    """What a reader of this number has to know."""
    notes = []
    if not kind and stats.rows < 10 * ratio:
        notes.append(
            f"{stats.rows} rows for a participation ratio of {ratio:.0f}: the number is too small; use ten rows for each "
            f'of it, or debias="auto".'
        )
    if stats.rows <= stats.cross.shape[0]:
        notes.append(f"no more rows ({stats.rows}) than features ({stats.cross.shape[0]}): use five for each feature.")
    if stats.num_outputs >= stats.cross.shape[0] and rank > 0.9 * min(stats.cross.shape[0], stats.rows - 1):
        notes.append(
            f"{stats.num_outputs} outputs can read all {stats.cross.shape[0]} features, so all variance counts as used and "
            f"the number says only how unevenly it is spread; look at the spectrum."
        )
    if used > 0.9 and ratio < 0.5 * rank:
        notes.append(
            f"{used:.0%} of the features' variance is used, but a few of the {rank:.0f} learned directions hold most of it "
            f"(participation ratio {ratio:.1f}): a large number does not mean lazy here."
        )
    if apart > 0.02:
        notes.append(
            "the references differ by more than 0.02, so say which is meant; after training with cross-entropy prefer softmax."
        )
    return tuple(notes)
