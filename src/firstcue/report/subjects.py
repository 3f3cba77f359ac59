"""What a reader may choose to follow through all charts: the class, each cue, each group; every name of it leads to one id."""

from collections.abc import Iterator
from dataclasses import dataclass

from firstcue.finding import Report
from firstcue.report import words
from firstcue.report.cues import cue_rows

MOST = 24
CLASS = ("core", "class")
"""The class goes by both names."""


@dataclass(frozen=True)
class Subjects:
    """Names to choose from; an id is a place in `names`."""

    names: tuple[str, ...]
    known_as: dict[str, int]

    def find(self, name: str) -> int | None:
        """The id of what goes by that name, None for what is nobody's.

        Example:
            >>> from firstcue.finding import GroupRow, Groups, Report
            >>> groups = Groups(by_group=(GroupRow(group=0, y="coat", attribute="1", n=9),), cue="digit")
            >>> found = subjects(Report(verdict="inconclusive", groups=groups))
            >>> found.names, found.find("coat, 1"), found.find("shoe")
            (('coat with digit 1',), 0, None)
        """
        return self.known_as.get(name)


def subjects(report: Report) -> Subjects:
    """Everything in the report that can be followed, the class first, then cues, then groups."""
    names: list[str] = []
    known_as: dict[str, int] = {}
    for name, others in list(_named(report))[:MOST]:
        known_as |= {other: len(names) for other in others if other not in known_as}
        names.append(words.shorten(name, 40))
    return Subjects(tuple(names), known_as)


def _named(report: Report) -> Iterator[tuple[str, tuple[str, ...]]]:
    curves = [m.curve.partition("/")[2] for m in report.timeline]
    if "core" in curves:
        yield "core", CLASS
    cues = dict.fromkeys([*(row.cue for row in cue_rows(report)), *(o.cue for o in report.learning_order)])
    for cue in cues:
        if cue not in CLASS:
            yield cue, (cue,)
    worst = report.groups.worst_group
    for row in report.groups.by_group:
        name = words.group_name(row, words.cue_of(report))
        known = (f"group {row.group}", name, row.y if row.attribute is None else f"{row.y}, {row.attribute}")
        yield name, (*known, "worst") if worst is not None and worst.group == row.group else known
