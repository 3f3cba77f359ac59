"""An audit without an attribute: clusters in which errors concentrate. They are suspects, never convicted."""

from torch import Tensor

from firstcue.auditing.inferred import infer_clusters
from firstcue.auditing.splits import some_rows
from firstcue.auditing.subject import Subject
from firstcue.batch import Batch
from firstcue.finding import Finding

SIGNIFICANT = 0.05
MAX_ROWS = 5000
"""Held-out rows that are clustered."""


def inferred_findings(held: Batch, subject: Subject, early: Tensor | None, seed: int) -> list[Finding]:
    """The one finding about clusters found within classes.

    Args:
        held: Held-out rows.
        subject: The model's answers on them.
        early: `(n, K)` outputs of an early checkpoint, if there is one; penultimate features otherwise.
        seed: Of clustering and permutations.

    Returns:
        One finding with the status "inferred"; its severity is "none" unless errors concentrate beyond chance.
    """
    representation = early if early is not None else subject.features
    if representation is None:
        return []
    where = "the outputs of an early checkpoint" if early is not None else "the penultimate activations"
    rows = some_rows(len(held), MAX_ROWS, seed)
    found = infer_clusters(
        representation[rows],
        (subject.decisions == held.y)[rows],
        held.y[rows],
        outputs=subject.logits[rows],
        features=None if subject.features is None else subject.features[rows],
        seed=seed,
    )
    suspicious = found.p_value < SIGNIFICANT
    excess = found.error_high - found.error_low
    rates = f"{found.error_high:.0%} wrong against {found.error_low:.0%}"
    said = (
        f"Errors follow a split of {where} that hurts one class where it helps another: {rates} (p = {found.p_value:.3f}). "
        f"A cue may be behind it; look at the rows, name the attribute and audit again."
        if suspicious
        else f"Errors follow no split of {where} as they would follow a cue (p = {found.p_value:.2f})."
    )
    return [
        Finding(
            id=f"inferred/cluster/{'early outputs' if early is not None else 'penultimate'}/error excess",
            cue="inferred cluster",
            kind="inferred cluster",
            layer=None if early is not None else "penultimate",
            status="inferred",
            severity=("clear" if excess >= 0.10 else "slight") if suspicious else "none",
            value=excess,
            unit="error rate difference, a fraction",
            n=found.n,
            baseline=0.0,
            meaning=said,
            source="Two-means within classes on early outputs, after SPARE (Yang et al. 2023, arXiv 2305.18761); permutation null",
            details={
                "opposed": found.opposed,
                "readable": found.readable,
                "p_value": found.p_value,
                "error_high": found.error_high,
                "error_low": found.error_low,
                "note": found.note or None,
            },
        )
    ]
