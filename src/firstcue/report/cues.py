"""One row per cue: what is encoded, associated, relied on, learned when, and what removing it does."""

from dataclasses import dataclass

from firstcue.finding import Finding, Interval, Order, Report
from firstcue.report.words import RANK


@dataclass(frozen=True)
class CueRow:
    """Everything the report found about one cue."""

    cue: str
    finding: Finding
    """The finding that decides: the most pressing status, an intervention before anything weaker."""

    encoded: Interval | None
    associated: Interval | None
    relies: Interval | None
    closed: Interval | None
    order: Order | None


def cue_rows(report: Report) -> list[CueRow]:
    """The cue table, the cues that matter most first.

    Example:
        >>> from firstcue.finding import Finding, Report
        >>> finding = Finding(id="use/digit", cue="digit", kind="edit", status="relies", meaning="It leans.")
        >>> [row.cue for row in cue_rows(Report(verdict="shortcut", findings=(finding,)))]
        ['digit']
    """
    order = {o.cue: o for o in report.learning_order}
    found = [_row(cue, [f for f in report.findings if f.cue == cue], order.get(cue)) for cue in _cues(report)]
    return sorted(found, key=lambda row: (RANK[row.finding.status], -_size(row)))


def _cues(report: Report) -> list[str]:
    return list(dict.fromkeys(f.cue for f in report.findings))


def _row(cue: str, findings: list[Finding], order: Order | None) -> CueRow:
    leading = sorted(findings, key=lambda f: (f.status != "relies", f.relies is None, RANK[f.status]))

    def first(name: str) -> Interval | None:
        return next((i for f in leading if (i := getattr(f, name)) is not None and i.value is not None), None)

    return CueRow(cue, leading[0], first("encoded"), first("associated"), first("relies"), first("closed"), order)


def _size(row: CueRow) -> float:
    return abs(row.relies.value) if row.relies is not None and row.relies.value is not None else 0.0
