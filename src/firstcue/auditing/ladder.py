"""Of what order is a cue? Erase nothing, then class means, then class covariances too, and see what probes still read.

What a linear eraser removes was carried by means; what ALF-QLEACE removes beyond that, by covariances; what a strong probe
still reads then, by something of higher order. Erasers are fitted on rows that no probe sees.
"""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from firstcue._checks import encode_labels
from firstcue._progress import Progress, silent, within
from firstcue._rows import in_parts
from firstcue.auditing.decodability import KINDS, as_told
from firstcue.auditing.splits import stratified_folds
from firstcue.batch import Batch
from firstcue.erasure.affine import AffineEraser
from firstcue.erasure.alf_qleace import alf_qleace
from firstcue.erasure.leace import leace, leace_map
from firstcue.finding import Finding
from firstcue.moments import Moments
from firstcue.probes import ProbeResult, held_out_accuracy

Rung = Literal["nothing", "means", "covariances"]
ORDERS: Mapping[str, str] = {
    "nothing": "not encoded",
    "means": "means",
    "covariances": "covariances",
    "more": "higher orders",
}
SOURCE = "LEACE (arXiv 2306.03819) and ALF-QLEACE (arXiv 2502.02820), fitted on rows that the probes do not see"

MAX_PROBED = 1000
MAX_FITTED = 10_000
MAX_DIRECTIONS = 64
"""Directions of the features that are looked at: those that tell the means apart, and the widest."""
ROWS_PER_DIRECTION = 50
"""With fewer rows an eraser misses so much of the difference of means that probes find it again on other rows."""
TARGET = 0.9
"""Share of the differences between covariances that is erased, unless less of them stands out from chance."""
CONSTANT = 1e-6
"""Variance, relative to the largest, below which a direction of the features is left out."""
ABOVE_CHANCE = 0.03
"""Accuracy by which a probe's interval has to clear chance for the cue to count as readable."""


@dataclass(frozen=True)
class Ladder:
    """What each probe reads of one cue after each erasure."""

    cue: str
    read: Mapping[tuple[str, str], ProbeResult]
    """By rung and kind of probe."""
    rank: Mapping[str, int]
    """Directions removed at each rung."""
    chance: float
    rows_fitted: int
    directions: int
    share: float
    """Variance of the features that lies in the directions looked at."""

    @property
    def order(self) -> str:
        """What carries the cue: "not encoded", "means", "covariances" or "higher orders"."""
        for rung in ("nothing", "means", "covariances"):
            if not any(self.readable(rung, kind) for kind in KINDS):
                return ORDERS[rung]
        return ORDERS["more"]

    def readable(self, rung: str, kind: str) -> bool:
        """Whether that probe still reads the cue after that erasure."""
        found = self.read[rung, kind]
        return found.ci_low > max(found.baseline, self.chance) + ABOVE_CHANCE


def ladder(x: Tensor, z: Tensor, cue: str, *, seed: int, progress: Progress = silent) -> Ladder | None:
    """Climb the ladder for one cue; None where a value has too few rows to be fitted and probed.

    Args:
        x: `(n, d)` features of held-out rows.
        z: `(n,)` the class, or a cue's values.
        cue: Its name.
        seed: Of the split into rows that fit and rows that are probed.
        progress: Told the fraction done.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> z = torch.arange(2000) % 2
        >>> x = torch.randn(2000, 4, generator=generator)
        >>> ladder(torch.cat([x[:, :1] + 2 * z[:, None], x[:, 1:]], dim=1), z, "offset", seed=0).order
        'means'
        >>> ladder(torch.cat([x[:, :1] * (1 + 2 * z[:, None]), x[:, 1:]], dim=1), z, "spread", seed=0).order
        'covariances'
    """
    ids = encode_labels(z)[0]
    fit, probe = _sides(ids, seed)
    if min(torch.bincount(ids[fit]).min(), torch.bincount(ids[probe]).min()) < 4:
        return None
    basis, share = _basis(x[fit], ids[fit])
    narrow = in_parts(x, lambda part: part.to(basis.dtype) @ basis, basis.shape[1], dtype=basis.dtype)
    erasers = {name: make(Moments.of_groups(narrow[fit], ids[fit])) for name, make in RUNGS.items()}
    read: dict[tuple[str, str], ProbeResult] = {}
    for rung, eraser in erasers.items():
        rows = narrow[probe] if eraser is None else eraser(narrow[probe])
        for kind in KINDS:
            read[rung, kind] = held_out_accuracy(kind, rows, ids[probe], seed=seed)
            progress(f"erasing {cue} step by step", len(read) / len(erasers) / len(KINDS))
    return Ladder(
        cue=cue,
        read=read,
        rank={name: 0 if eraser is None else eraser.rank for name, eraser in erasers.items()},
        chance=1 / int(ids.max() + 1),
        rows_fitted=len(fit),
        directions=basis.shape[1],
        share=share,
    )


def _nothing(by_value: Moments) -> None:
    return None


def _covariances(by_value: Moments) -> AffineEraser:
    """ALF-QLEACE as far as differences between covariances stand out from those that chance alone would make."""
    first = leace(by_value)
    within = by_value.scatter / by_value.count.clamp(min=1)[:, None, None]
    left = torch.eye(len(first.mean), dtype=torch.float64) - first.left @ first.right.mT
    within = left @ within @ left.mT
    apart = float((within - within.mean(dim=0)).flatten(1).norm(dim=1).max())
    shared = within.mean(dim=0)
    chance = float(((shared.trace() ** 2 + shared.square().sum()) / by_value.rows.min()).sqrt())
    target = min(TARGET, 1 - chance / apart) if apart > 0 else 0.0
    if target <= 0:
        return first
    with warnings.catch_warnings():  # that everything goes shows in the rank, and probes then read nothing
        warnings.simplefilter("ignore", UserWarning)
        return alf_qleace(by_value, target)


RUNGS: Mapping[str, Callable[[Moments], AffineEraser | None]] = {
    "nothing": _nothing,
    "means": leace,
    "covariances": _covariances,
}


def _sides(ids: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Rows that fit the erasers and rows that are probed."""
    parts = max(2, -(-len(ids) // MAX_PROBED))
    fold = stratified_folds(ids, parts, seed)
    return (fold != 0).nonzero()[:MAX_FITTED, 0], (fold == 0).nonzero()[:, 0]


def _basis(x: Tensor, ids: Tensor) -> tuple[Tensor, float]:
    """`(d, m)` with which features become coordinates of unit variance, and the share of the variance that they hold.

    Few features are only scaled, so that trees find them as they are. Of many, the directions that tell the means apart
    best are looked at, and the widest.
    """
    whole = Moments.of(x)
    covariance = whole.covariance
    most = min(MAX_DIRECTIONS, max(2, len(x) // ROWS_PER_DIRECTION))
    if len(covariance) <= most:
        spread = covariance.diagonal()
        kept = (
            spread > CONSTANT * spread.max()
        )  # a feature that is constant here may vary among the rows that are probed
        return spread.rsqrt().where(kept, 0.0).diag()[:, kept], 1.0
    telling = leace_map(_offsets(x, ids, whole.mean), covariance, whole.mean, rows=len(x)).right[:, : most // 2]
    _, wide = torch.linalg.eigh(covariance)
    basis, _ = torch.linalg.qr(torch.cat([telling, wide[:, -(most - telling.shape[1]) :]], dim=1))
    sizes, turn = torch.linalg.eigh(basis.mT @ covariance @ basis)
    kept = sizes > CONSTANT * sizes.max()
    return (basis @ turn[:, kept]) / sizes[kept].sqrt(), float(sizes[kept].sum() / covariance.trace())


def _offsets(x: Tensor, ids: Tensor, mean: Tensor) -> Tensor:
    """`(d, k)` columns sqrt(p_c) (mean_c - mean), without the scatter of each value, which wide features make large."""
    members = [ids == c for c in ids.unique()]
    columns = [
        (x[rows].mean(dim=0, dtype=torch.float64) - mean) * float(rows.double().mean()) ** 0.5 for rows in members
    ]
    return torch.stack(columns, dim=1)


def climb(x: Tensor, held: Batch, layer: str, seed: int, progress: Progress = silent) -> list[Finding]:
    """The findings of the class and of the batch's cue.

    Args:
        x: `(n, d)` features of the held-out rows.
        held: Those rows.
        layer: Where the features come from, in words.
        seed: Of the splits.
        progress: Told the fraction done.
    """
    targets = {"class": held.y} | ({} if held.attribute is None else {held.cue: held.attribute})
    said: list[Finding] = []
    for i, (cue, z) in enumerate(targets.items()):
        tell = within(progress, i / len(targets), (i + 1) / len(targets))
        found = ladder(x, z, cue, seed=seed, progress=tell)
        said += [] if found is None else ladder_findings(found, layer)
    return said


def ladder_findings(found: Ladder, layer: str) -> list[Finding]:
    """One finding per rung and probe, after the one that says the order."""
    return [_order_finding(found, layer), *(_rung_finding(found, layer, rung, kind) for rung, kind in found.read)]


def _order_finding(found: Ladder, layer: str) -> Finding:
    best = {rung: max((found.read[rung, kind] for kind in KINDS), key=lambda p: p.accuracy) for rung in RUNGS}
    last = best["covariances"]
    return Finding(
        id=f"order/{found.cue}/{layer}/carried-by",
        cue=found.cue,
        kind="order of statistics",
        layer=layer,
        status="no shortcut found",
        value=last.accuracy,
        unit="best probe after erasing means and covariances, balanced accuracy",
        ci_low=last.ci_low,
        ci_high=last.ci_high,
        n=last.n,
        baseline=last.baseline,
        meaning=_sentence(found, {rung: p.accuracy for rung, p in best.items()}),
        source=SOURCE,
        details={
            "carried_by": found.order,
            "chance": found.chance,
            "directions_looked_at": found.directions,
            "variance_looked_at": found.share,
            "rows_fitted": found.rows_fitted,
            **{f"directions_removed/{rung}": rank for rung, rank in found.rank.items() if rung != "nothing"},
            **{f"best_probe/{rung}": p.accuracy for rung, p in best.items()},
        },
    )


def _sentence(found: Ladder, best: Mapping[str, float]) -> str:
    what = "the class" if found.cue == "class" else found.cue
    climbed = (
        f"the best probe reads it with {best['nothing']:.0%}, with {best['means']:.0%} once means are equal, and with "
        f"{best['covariances']:.0%} once covariances nearly are (chance {found.chance:.0%})"
    )
    return {
        "not encoded": f"No probe reads {what} above chance: {climbed}.",
        "means": f"Means alone carry {what}: {climbed}.",
        "covariances": f"Means and covariances carry {what}, nothing beyond them: {climbed}.",
        "higher orders": f"Statistics beyond means and covariances carry {what} too: {climbed}.",
    }[found.order]


def _rung_finding(found: Ladder, layer: str, rung: str, kind: str) -> Finding:
    p = found.read[rung, kind]
    what = "the class" if found.cue == "class" else found.cue
    erased = {"nothing": "nothing", "means": "means", "covariances": "means and covariances"}[rung]
    return Finding(
        id=f"order/{found.cue}/{layer}/{rung}-{kind}",
        cue=found.cue,
        kind="order of statistics",
        layer=layer,
        **as_told(p),
        meaning=f"After erasing {erased}, a {kind} probe reads {what} from {layer} with {p.accuracy:.0%} ({p.baseline:.0%} with shuffled labels).",
        source=SOURCE,
        details={"chance": found.chance},
    )
