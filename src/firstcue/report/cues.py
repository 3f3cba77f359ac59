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
    cues = dict.fromkeys(f.cue for f in judged(report))
    found = [_row(cue, [f for f in report.findings if f.cue == cue], order.get(cue)) for cue in cues]
    return sorted(found, key=lambda row: (RANK[row.finding.status], -_size(row)))


def judged(report: Report) -> list[Finding]:
    """The findings that say something of a cue's use, the most pressing first; being readable is not one of them."""
    return sorted((f for f in report.findings if f.judges), key=lambda f: RANK[f.status])


@dataclass(frozen=True)
class Readable:
    """What the probes read of one cue from one layer."""

    layer: str
    cue: str
    by_probe: tuple[Finding | None, ...]


def readable(report: Report) -> tuple[list[str], list[Readable]]:
    """The kinds of probe, and one row per cue and layer with what each of them read."""
    found = [f for f in report.findings if f.kind == "decodability"]
    kinds = list(dict.fromkeys(f.id.rpartition("/")[2] for f in found))
    at = {(f.cue, f.layer or "", f.id.rpartition("/")[2]): f for f in found}
    places = dict.fromkeys((cue, layer) for cue, layer, _ in at)
    ordered = sorted(places, key=lambda place: list(dict.fromkeys(cue for cue, _ in places)).index(place[0]))
    return kinds, [Readable(layer, cue, tuple(at.get((cue, layer, k)) for k in kinds)) for cue, layer in ordered]


@dataclass(frozen=True)
class Rung:
    """What the probes read of one cue after one erasure."""

    cue: str
    erased: str
    by_probe: tuple[Finding | None, ...]


def ladders(report: Report) -> tuple[list[str], list[Rung]]:
    """The kinds of probe, and one row per cue and step of erasure with what each of them still read."""
    found = [f for f in report.findings if f.kind == "order of statistics" and "-" in f.id.rpartition("/")[2]]
    at = {(f.cue, *f.id.rpartition("/")[2].split("-", 1)): f for f in found if f.encoded is not None}
    kinds = list(dict.fromkeys(kind for _, _, kind in at))
    steps = dict.fromkeys((cue, rung) for cue, rung, _ in at)
    return kinds, [Rung(cue, rung, tuple(at.get((cue, rung, k)) for k in kinds)) for cue, rung in steps]


LENSES = {
    "order of statistics": "Which statistics carry the class and the cue",
    "richness": "How far training transformed the features",
    "agreement": "Whether the groups agree on what to learn",
    "simplicity": "How simple inputs are, and what decisions need of them",
}
"""Kinds of finding that describe the model, with the title of their part of the page."""


def lens(report: Report, kind: str) -> list[Finding]:
    """What a lens says in sentences; the probes behind the order of statistics have a table of their own."""
    return [f for f in report.findings if f.kind == kind and f.encoded is None]


def _row(cue: str, findings: list[Finding], order: Order | None) -> CueRow:
    # an intervention speaks before anything weaker, and "readable" comes last
    leading = sorted(
        findings,
        key=lambda f: (f.status != "relies", not f.judges, f.relies is None, RANK[f.status]),
    )

    def first(name: str) -> Interval | None:
        return next((i for f in leading if (i := getattr(f, name)) is not None and i.value is not None), None)

    return CueRow(cue, leading[0], first("encoded"), first("associated"), first("relies"), first("closed"), order)


def _size(row: CueRow) -> float:
    return abs(row.relies.value) if row.relies is not None and row.relies.value is not None else 0.0
