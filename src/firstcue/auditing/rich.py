"""How far did training transform the features? D_LR of the trained network beside its own start and its lazy twin.

Low is rich, high is lazy; neither is better. The spectrum says among how many directions the class and the cue are found.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from firstcue.auditing.charted import spectra
from firstcue.auditing.splits import some_rows
from firstcue.auditing.subject import Subject
from firstcue.auditing.untrained import Untrained
from firstcue.batch import Batch
from firstcue.finding import Finding
from firstcue.richness.low_rank import Richness, low_rank_measure
from firstcue.richness.recipes import lazy_twin
from firstcue.richness.spectrum import Spectrum, feature_spectrum

REFERENCE = "softmax"
"""Cross-entropy never trains the mean output, which the raw reference would count as learned."""
FITTED = 2000
"""Training rows that the head of the lazy twin is fitted on."""
BLOCKS = 10
CHANGED = 0.05
"""Difference of D_LR below which nothing is said to have changed."""
SOURCE = "Decoupling Dynamical Richness from Representation Learning (Nam et al. 2024, arXiv 2410.04264)"


@dataclass(frozen=True)
class Rich:
    """D_LR of the trained network and of its two references, and where class and cue sit among its features."""

    layer: str
    cue: str | None
    trained: Richness
    untrained: Richness | None
    lazy: Richness | None
    lazy_accuracy: float | None
    by_class: Spectrum
    by_cue: Spectrum | None


def measure_richness(
    fresh: Untrained | None,
    subject: Subject,
    train: Batch | None,
    held: Batch,
    layer: str,
    rows: Tensor,
    *,
    seed: int,
    batch_size: int,
) -> Rich | None:
    """Richness on held-out rows; None where no head is known.

    Args:
        fresh: The network with fresh weights, run over those rows; None for embeddings, which know no beginning.
        subject: The trained network's features and outputs on the held-out rows.
        train: Rows that the head of the lazy twin is fitted on.
        held: The held-out rows.
        layer: Where the features are, in words.
        rows: Ids of the held-out rows that are measured, ascending.
        seed: Of the choice of training rows.
        batch_size: Rows per call.
    """
    if subject.features is None or subject.head is None:
        return None
    features, outputs = subject.features[rows], subject.logits[rows]
    start, twin, accuracy = _references(fresh, train, held, rows, seed, batch_size)
    named = held.attribute is not None
    return Rich(
        layer,
        held.cue if named else None,
        low_rank_measure(features, outputs, REFERENCE, debias="auto", blocks=BLOCKS),
        start,
        twin,
        accuracy,
        feature_spectrum(features, outputs, held.y[rows]),
        feature_spectrum(features, outputs, held.attribute[rows]) if held.attribute is not None else None,
    )


def _references(
    fresh: Untrained | None, train: Batch | None, held: Batch, rows: Tensor, seed: int, batch_size: int
) -> tuple[Richness | None, Richness | None, float | None]:
    """D_LR of the network's start and of its lazy twin, and the twin's accuracy."""
    begun = None if fresh is None else fresh.features_at(rows)
    if fresh is None or begun is None or train is None:
        return None, None, None
    start = low_rank_measure(begun, fresh.logits_at(rows), REFERENCE, debias="auto")
    some = some_rows(len(train), FITTED, seed)
    answers = lazy_twin(fresh.model, train.x[some], train.y[some], batch_size=batch_size).head(begun)
    twin = low_rank_measure(begun, answers, REFERENCE, debias="auto")
    return start, twin, float((answers.argmax(dim=1) == held.y[rows]).double().mean())


def directions_for(curve: Any, share: float = 0.5) -> int | None:
    """Among how many of the widest directions that share of a curve's last value is reached."""
    reached = np.flatnonzero(np.asarray(curve) >= share * np.asarray(curve)[-1])
    return int(reached[0]) + 1 if len(reached) else None


def richness_findings(found: Rich) -> list[Finding]:
    """One sentence on the transformation, one on where class and cue are found."""
    return [_transformed(found), _placed(found)]


def _transformed(found: Rich) -> Finding:
    r, start, lazy = found.trained, found.untrained, found.lazy
    return Finding(
        id=f"richness/model/{found.layer}/low-rank",
        cue="model",
        kind="richness",
        layer=found.layer,
        status="no shortcut found",
        value=r.dlr,
        unit="D_LR (softmax reference), 0 rich to 1 lazy",
        ci_low=r.ci_low,
        ci_high=r.ci_high,
        n=r.n,
        baseline=None if lazy is None else lazy.dlr,
        meaning=_sentence(found),
        source=SOURCE,
        details={
            "used_variance": r.used,
            "participation_ratio": r.participation_ratio,
            "rank": r.rank,
            "dlr_centered": r.dlr_centered,
            "dlr_raw": r.dlr_raw,
            "debiased": r.debiased or None,
            "dlr_untrained": None if start is None else start.dlr,
            "used_variance_untrained": None if start is None else start.used,
            "dlr_lazy_twin": None if lazy is None else lazy.dlr,
            "used_variance_lazy_twin": None if lazy is None else lazy.used,
            "accuracy_lazy_twin": found.lazy_accuracy,
            "reason": r.reason or None,
        },
    )


def _sentence(found: Rich) -> str:
    r, start, lazy = found.trained, found.untrained, found.lazy
    if r.reason:
        return f"Richness could not be measured: {r.reason}."
    here = (
        f"D_LR of the last features is {r.dlr:.2f} (0 rich, 1 lazy), and the head reads {r.used:.0%} of their variance"
    )
    if start is None or lazy is None:
        return f"{here}."
    beside = f"the same network untrained has {start.dlr:.2f}, with its head alone trained {lazy.dlr:.2f}"
    change = lazy.dlr - r.dlr
    told = (
        "training transformed the features"
        if change > CHANGED
        else "training left them less aligned with what is learned than a trained head alone would"
        if change < -CHANGED
        else "by this measure training hardly transformed the features"
    )
    return f"{here}; {beside}: {told}. This says nothing of how good they are."


def _placed(found: Rich) -> Finding:
    spectrum = found.by_class
    rank, use = directions_for(spectrum.quality), directions_for(spectrum.use)
    cue = None if found.by_cue is None else directions_for(found.by_cue.quality)
    parts = [f"half of the class lies within {_widest(rank)}"]
    parts += [] if cue is None else [f"half of {found.cue} within {_widest(cue)}"]
    parts += [f"half of what the head reads within {_widest(use)}"]
    return Finding(
        id=f"richness/{found.cue or 'model'}/{found.layer}/spectrum",
        cue=found.cue or "model",
        kind="richness",
        layer=found.layer,
        status="no shortcut found",
        value=None if cue is None and rank is None else float(cue if cue is not None else rank or 0),
        unit="widest directions that hold half of what can be read linearly",
        n=found.trained.n,
        baseline=None if rank is None else float(rank),
        meaning=f"Of what a linear map can read from the {len(spectrum.size)} directions of the features, {', '.join(parts)}.",
        source=SOURCE,
        details={
            "directions": len(spectrum.size),
            "class_half": rank,
            "head_half": use,
            "cue_half": cue,
            "class_quality": float(np.asarray(spectrum.quality)[-1]),
            "cue_quality": None if found.by_cue is None else float(np.asarray(found.by_cue.quality)[-1]),
        },
    )


def _widest(count: int | None) -> str:
    return "none" if count is None else "the widest" if count == 1 else f"the {count} widest"


def richness_summary(found: Rich) -> dict[str, Any]:
    """What the report keeps under `richness`."""
    r = found.trained
    return {
        "dlr": {"value": r.dlr, "ci_low": r.ci_low, "ci_high": r.ci_high, "n": r.n},
        "used_variance": r.used,
        "participation_ratio": r.participation_ratio,
        "rank": r.rank,
        "dlr_untrained": None if found.untrained is None else found.untrained.dlr,
        "dlr_lazy_twin": None if found.lazy is None else found.lazy.dlr,
        "half_of_the_class_within": directions_for(found.by_class.quality),
        "half_of_the_cue_within": None if found.by_cue is None else directions_for(found.by_cue.quality),
        "half_of_the_head_within": directions_for(found.by_class.use),
        "n": r.n,
        "spectra": spectra(found.by_class, found.by_cue, found.cue),
    }
