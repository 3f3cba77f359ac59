"""The rule that turns measurements into a verdict: encoded is not used, and associated is not relied on.

A cue is a shortcut only when changing what the model sees of it changes its decisions towards the label that the cue goes
with. The rule is applied top to bottom; the first line that holds decides.
"""

from dataclasses import dataclass

from firstcue.auditing.erased import Erasure
from firstcue.finding import Finding, Severity, Status, Verdict
from firstcue.spurious.reliance import Gap, Reliance, rows_needed

ASSOCIATED = 0.02
"""Half the summed |r(y,a)| over K below which a cue counts as not associated with the label in training."""

MATTERS = 0.05
"""Accuracy difference (a fraction) below which reliance is of no practical interest."""

WIDEST = 0.10
"""Half-width of the gap's interval above which nothing is concluded."""


@dataclass(frozen=True)
class Evidence:
    """Everything the rule looks at, for one cue."""

    cue: str
    num_classes: int
    strength: float
    """Association in the training rows."""
    conflicting_rows: int
    """Held-out rows in cells that are rarer in training than independence would make them."""
    gap: Gap | None = None
    reliance: Reliance | None = None
    """By editing the cue in the input, where the data can say how."""
    erasure: Erasure | None = None
    """By erasing the cue at the penultimate layer, where the head is linear."""
    p_value: float | None = None
    """Of the erasure against its permutation control, after Holm's correction over cues."""


@dataclass(frozen=True)
class Judgement:
    """What is said of one cue."""

    status: Status
    severity: Severity
    meaning: str


def judge(e: Evidence) -> Judgement:
    """Apply the rule to one cue.

    Args:
        e: The measurements.

    Returns:
        Status, severity and one plain sentence.

    Example:
        >>> judge(Evidence("background", num_classes=2, strength=0.0, conflicting_rows=10)).status
        'no shortcut found'
    """
    if e.strength >= ASSOCIATED and e.conflicting_rows == 0:
        return _said(
            "not identifiable",
            f"{e.cue} cannot be told apart from the label: no held-out row breaks their pairing. Held-out rows that show each "
            f"class with another value of {e.cue} would decide (from about 100 of them).",
        )
    if e.strength < ASSOCIATED:
        return _said(
            "no shortcut found",
            f"{e.cue} does not go with the label in the training rows, so it cannot serve as a shortcut.",
        )
    if e.gap is None:
        return _said(
            "inconclusive",
            f"{e.cue} goes with the label in the training rows; no model outputs were given, so reliance was not measured.",
        )
    return _measurable(e, e.gap) or (_by_edit(e, e.gap, e.reliance) if e.reliance else _without_edit(e, e.gap))


def _said(status: Status, meaning: str, severity: Severity = "none") -> Judgement:
    return Judgement(status, severity, meaning)


def _measurable(e: Evidence, gap: Gap) -> Judgement | None:
    if gap.undroppable:
        cells = ", ".join(f"class {y} with value {a}" for y, a in gap.dropped)
        return _said(
            "inconclusive", f"too few held-out rows to judge {e.cue}: fewer than 10 in {cells}. Add rows there."
        )
    if gap.half_width > WIDEST:
        return _said(
            "inconclusive",
            f"the accuracy gap over {e.cue} is known only to within {gap.half_width:.2f}; about {rows_needed(gap)} held-out rows in each "
            f"combination of class and {e.cue} would suffice.",
        )
    return None


def _by_edit(e: Evidence, gap: Gap, reliance: Reliance) -> Judgement:
    size = f"{reliance.value:.2f} ({reliance.ci_low:.2f} to {reliance.ci_high:.2f})"
    if reliance.ci_low > MATTERS:
        severity = severity_of(reliance.value)
        return _said(
            "relies",
            f"setting {e.cue} in the input and keeping the rest moves accuracy by {size}: {severity} reliance.",
            severity,
        )
    if reliance.ci_low > -MATTERS and reliance.ci_high < MATTERS:
        harder = (
            " The rows on which it disagrees with the label are harder, or another cue is at work."
            if gap.ci_low > MATTERS
            else ""
        )
        return _said("no shortcut found", f"setting {e.cue} in the input hardly moves accuracy: {size}.{harder}")
    return _said(
        "inconclusive",
        f"setting {e.cue} in the input moves accuracy by {size}, which includes both nothing and something that matters.",
    )


def severity_of(value: float) -> Severity:
    """In words, how much accuracy hangs on a cue."""
    return "slight" if value < 0.10 else "clear" if value < 0.25 else "severe"


def _without_edit(e: Evidence, gap: Gap) -> Judgement:
    size = f"{gap.value:.2f} ({gap.ci_low:.2f} to {gap.ci_high:.2f})"
    if gap.ci_high < MATTERS and gap.ci_low > -MATTERS:
        return _said(
            "no shortcut found",
            f"accuracy hardly differs between rows where {e.cue} agrees and disagrees with the label: {size}.",
        )
    if gap.ci_high < -MATTERS:
        return _said(
            "no shortcut found",
            f"rows where {e.cue} disagrees with the label are served better ({size}): over-corrected, no shortcut.",
        )
    if gap.ci_low > MATTERS and e.erasure is not None:
        return _by_erasure(e, gap, e.erasure, size)
    if gap.ci_low > MATTERS:
        return _said(
            "inconclusive",
            f"accuracy differs by {size} over {e.cue}: reliance or harder rows; an edit of the input would decide.",
        )
    return _said(
        "inconclusive", f"the accuracy gap over {e.cue}, {size}, includes both nothing and something that matters."
    )


def _by_erasure(e: Evidence, gap: Gap, erasure: Erasure, size: str) -> Judgement:
    significant = e.p_value is not None and e.p_value < 0.05
    harmless = (
        erasure.gap_after.value >= -MATTERS and erasure.group_average_after >= erasure.group_average_before - 0.02
    )
    closes = significant and erasure.closed >= 0.75 and harmless
    inverted = (
        significant and gap.conflicting.accuracy < 1 / e.num_classes and gap.conflicting.ci_high < 1 / e.num_classes
    )
    share = (
        f"erasing {e.cue} from the last layer closes {erasure.closed:.0%} of it (p = {e.p_value:.3f})"
        if e.p_value is not None
        else ""
    )
    if closes or inverted:
        severity = severity_of(gap.value - max(erasure.gap_after.value, 0.0))
        return _said("relies", f"accuracy differs by {size} over {e.cue}, and {share}: {severity} reliance.", severity)
    if erasure.closed < 0.25:
        return _said("no shortcut found", f"accuracy differs by {size} over {e.cue}, but not through it: {share}.")
    return _said(
        "inconclusive",
        f"accuracy differs by {size} over {e.cue} and {share}: reliance or harder rows; an edit of the input would decide.",
    )


def overall_verdict(findings: list[Finding] | tuple[Finding, ...]) -> Verdict:
    """The report's verdict; cues that were only inferred never decide it."""
    given = [f.status for f in findings if f.status != "inferred"]
    if "relies" in given:
        return "shortcut"
    return "inconclusive" if {"inconclusive", "not identifiable"} & set(given) else "no shortcut found"
