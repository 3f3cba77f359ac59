"""Everything measured about one cue, and the finding that says it."""

from dataclasses import dataclass, replace

from torch import Tensor

from firstcue.auditing.decodability import as_interval
from firstcue.auditing.edited import MAX_ROWS, sources
from firstcue.auditing.erased import FOLDS, Erasure, erase_across_folds, erasure_effect
from firstcue.auditing.splits import some_rows, stratified_folds
from firstcue.auditing.subject import Subject
from firstcue.auditing.verdict import Evidence, judge
from firstcue.batch import Batch
from firstcue.finding import Finding, Interval
from firstcue.probes import ProbeResult
from firstcue.spurious.association import Association, association
from firstcue.spurious.intervals import holm
from firstcue.spurious.reliance import Gap, Reliance, accuracy_gap, edit_reliance

SOURCE = "Verdict by intervention; LEACE (Belrose et al. 2023, arXiv 2306.03819) with group-balanced moments"


@dataclass(frozen=True)
class Measured:
    """The measurements of one cue before they are judged."""

    cue: str
    held: Batch
    association: Association
    gap: Gap
    reliance: Reliance | None
    erasure: Erasure | None
    share: float | None = None
    """Reliance by edit over the gap."""
    gap_all_erased: float | None = None
    gap_others_erased: float | None = None


def widest(m: Measured) -> float:
    """The size of the cue's gap, to find the cue that the group table should be about."""
    return -2.0 if m.gap.undroppable else m.gap.value


def measure_cue(train: Batch, held: Batch, subject: Subject, *, seed: int, draws: int) -> Measured:
    """Association in training rows, accuracy gap on held-out rows, and both interventions where they are possible.

    Args:
        train: Rows of the training distribution with the cue as attribute.
        held: Held-out rows, coded alike.
        subject: The model's answers on the held-out rows.
        seed: Of folds, shuffles and resampling.
        draws: Shuffles of the permutation control.
    """
    assert train.attribute is not None and held.attribute is not None
    found = association(train.y, train.attribute, train.num_classes, train.num_values)
    gap = accuracy_gap(found, subject.decisions == held.y, held.y, held.attribute)
    reliance = _reliance(found, held, subject, seed) if found.associated else None
    erasure = None
    if found.associated and not gap.undroppable and subject.head is not None and subject.features is not None:
        erasure = erasure_effect(
            subject.features, held.y, held.attribute, subject.head, found.r, draws=draws, seed=seed
        )
    share = reliance.value / gap.value if reliance and not gap.undroppable and abs(gap.value) > 0.01 else None
    return Measured(held.cue, held, found, gap, reliance, erasure, share)


def _reliance(found: Association, held: Batch, subject: Subject, seed: int) -> Reliance | None:
    rows = some_rows(len(held), MAX_ROWS, seed)
    right = subject.right_by_value(held, rows)
    return (
        None if right is None else edit_reliance(found.r, right, held.y[rows], clusters=sources(held, rows), seed=seed)
    )


def measure_jointly(measured: list[Measured], subject: Subject, seed: int) -> list[Measured]:
    """With several cues: the gap over each when all are erased together, and when all but it are."""
    associated = [m for m in measured if m.erasure is not None]
    if len(associated) < 2 or subject.features is None or subject.head is None:
        return measured
    y = associated[0].held.y
    attributes = [_values(m) for m in associated]
    cells = y
    for a in attributes:
        cells = cells * (int(a.max()) + 1) + a
    fold = stratified_folds(cells, FOLDS, seed)

    def gap_over(m: Measured, erased: list[int]) -> float:
        assert subject.features is not None and subject.head is not None
        logits, _ = erase_across_folds(subject.features, y, attributes, subject.head, fold, erased)
        return accuracy_gap(m.association, logits.argmax(dim=1) == y, y, _values(m)).value

    every = list(range(len(associated)))
    joint = {
        m.cue: replace(
            m, gap_all_erased=gap_over(m, every), gap_others_erased=gap_over(m, [j for j in every if j != i])
        )
        for i, m in enumerate(associated)
    }
    return [joint.get(m.cue, m) for m in measured]


def _values(m: Measured) -> Tensor:
    assert m.held.attribute is not None
    return m.held.attribute


def findings(
    measured: list[Measured], encoded: dict[str, ProbeResult], subject: Subject, layer: str | None
) -> list[Finding]:
    """Judge every cue, with Holm's correction over those that were put to the erasure test."""
    tested = [m.cue for m in measured if m.erasure is not None]
    corrected = dict(zip(tested, holm([m.erasure.p_value for m in measured if m.erasure is not None]), strict=True))
    return [_finding(m, encoded.get(m.cue), corrected.get(m.cue), subject, layer) for m in measured]


def _finding(
    m: Measured, probe: ProbeResult | None, p_value: float | None, subject: Subject, layer: str | None
) -> Finding:
    evidence = Evidence(
        cue=m.cue,
        num_classes=m.held.num_classes,
        strength=m.association.strength,
        conflicting_rows=m.gap.conflicting.n,
        gap=m.gap,
        reliance=m.reliance,
        erasure=m.erasure,
        p_value=p_value,
    )
    judged = judge(evidence)
    status, severity, meaning = judged.status, judged.severity, judged.meaning
    if not subject.own and status in ("relies", "inconclusive"):
        status, severity = "inconclusive", "none"
        meaning = (
            f"{m.cue} goes with the label, and for a linear head fitted to these embeddings {meaning} "
            f"No model outputs were given, so nothing is said of your model."
        )
    headline = _headline(m) if subject.own else _gap_interval(m.gap)
    return Finding(
        id=f"reliance/{m.cue}/{layer or 'outputs'}/{'edit' if m.reliance else 'erasure' if m.erasure else 'gap'}",
        cue=m.cue,
        kind="reliance",
        layer=layer,
        status=status,
        severity=severity,
        encoded=None if probe is None else as_interval(probe),
        associated=_associated(m.association),
        relies=headline if subject.own and (m.reliance or m.erasure) else None,
        closed=None
        if m.erasure is None
        else Interval(value=m.erasure.closed, n=m.gap.n, baseline=0.0, baseline_kind="direction of the shuffled cue"),
        value=headline.value,
        ci_low=headline.ci_low,
        ci_high=headline.ci_high,
        n=headline.n,
        baseline=0.0,
        meaning=meaning,
        source=SOURCE,
        details=_details(m, p_value),
    )


def _headline(m: Measured) -> Interval:
    """Reliance by edit where it was measured, else the part of the gap that erasure closes, else the gap."""
    if m.reliance is not None:
        r = m.reliance
        return Interval(
            value=r.value,
            ci_low=r.ci_low,
            ci_high=r.ci_high,
            n=r.n,
            baseline=0.0,
            baseline_kind="cue unrelated to decisions",
        )
    if m.erasure is not None:
        e = m.erasure
        return Interval(
            value=e.change,
            ci_low=e.change_low,
            ci_high=e.change_high,
            n=m.gap.n,
            baseline=0.0,
            baseline_kind="cue unrelated to decisions",
        )
    return _gap_interval(m.gap)


def _gap_interval(gap: Gap) -> Interval:
    if gap.undroppable:
        return Interval(n=gap.n)
    return Interval(
        value=gap.value,
        ci_low=gap.ci_low,
        ci_high=gap.ci_high,
        n=gap.n,
        baseline=0.0,
        baseline_kind="equal accuracy in every cell",
    )


def _associated(a: Association) -> Interval:
    return Interval(value=a.strength, n=a.n, baseline=0.0, baseline_kind="independent of the label")


def _details(m: Measured, p_value: float | None) -> dict[str, float | int | str | bool | None]:
    gap, found = m.gap, m.association
    details: dict[str, float | int | str | bool | None] = {
        "mutual_information_bits": found.mutual_information,
        "mutual_information_ci_low": found.information_low,
        "mutual_information_ci_high": found.information_high,
        "gap": None if gap.undroppable else gap.value,
        "gap_ci_low": None if gap.undroppable else gap.ci_low,
        "gap_ci_high": None if gap.undroppable else gap.ci_high,
        "accuracy_on_conflicting_rows": gap.conflicting.accuracy if gap.conflicting.n else None,
        "conflicting_rows": gap.conflicting.n,
        "cells_dropped": ", ".join(f"{m.held.classes[y]} with {m.held.values[a]}" for y, a in gap.dropped) or None,
        "share_of_gap_by_edit": m.share,
    }
    if m.erasure is not None:
        details |= {
            "gap_after_erasure": m.erasure.gap_after.value,
            "closed": m.erasure.closed,
            "control_p": m.erasure.p_value,
            "control_p_holm": p_value,
            "control_draws": m.erasure.draws,
            "group_average_before_erasure": m.erasure.group_average_before,
            "group_average_after_erasure": m.erasure.group_average_after,
            "covariance_shrunk": m.erasure.shrunk,
        }
    if m.gap_all_erased is not None:
        details |= {"gap_with_all_cues_erased": m.gap_all_erased, "gap_with_the_other_cues_erased": m.gap_others_erased}
    return details
