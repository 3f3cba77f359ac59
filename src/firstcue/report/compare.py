"""What changed between two reports: verdict, worst group, all rows, every group and every finding, with intervals."""

import math
from collections.abc import Iterator
from typing import Any, Literal

from pydantic import Field, computed_field

from firstcue._values import Value
from firstcue.finding import Finding, GroupRow, Interval, Overall, Report, Verdict
from firstcue.report import words

Direction = Literal["better", "worse", "same", "new", "gone"]

VERDICTS: tuple[Verdict, ...] = ("no shortcut found", "inconclusive", "shortcut")
"""From best to worst."""

ACCUSES = {"relies": 2, "inconclusive": 1, "not identifiable": 1, "inferred": 0, "no shortcut found": 0}
"""How much each status says against the model."""


class Change(Value):
    """One number before and after."""

    what: Literal["worst group", "all rows", "group", "finding", "repair"]
    name: str
    about: str = Field(default="", description="a finding in words: the cue and what was measured")
    describes: bool = Field(default=False, description="whether the finding describes the model and accuses nothing")
    before: Interval | None = None
    after: Interval | None = None
    difference: float | None = Field(default=None, description="after - before, a fraction")
    ci_low: float | None = Field(default=None, description="of the difference")
    ci_high: float | None = None
    direction: Direction
    status_before: str | None = Field(default=None, description="of a finding")
    status_after: str | None = None
    accuses: bool = Field(default=False, description="whether it is new and says that the model relies on a cue")


class Comparison(Value):
    """Two reports side by side; `worse` is what a check in continuous integration asks for."""

    title_before: str
    title_after: str
    verdict_before: Verdict
    verdict_after: Verdict
    verdict: Direction
    changes: tuple[Change, ...] = ()
    notes: tuple[str, ...] = ()

    @computed_field  # type: ignore[prop-decorator]
    @property
    def worse(self) -> bool:
        """Whether the verdict, the worst group, all rows or a finding got worse beyond chance.

        A single group may fall while the worst one rises (a repair often costs the best-served group); that is listed only.
        """
        return self.verdict == "worse" or any(c.accuses or c.direction == "worse" for c in self._deciding)

    @property
    def better(self) -> bool:
        """Whether something got better and nothing worse."""
        return not self.worse and (self.verdict == "better" or any(c.direction == "better" for c in self._deciding))

    @property
    def _deciding(self) -> list[Change]:
        return [c for c in self.changes if c.what not in ("group", "repair")]

    def to_json(self) -> str:
        """The comparison as JSON text."""
        return self.model_dump_json(indent=2)

    def summary(self) -> str:
        """The comparison as plain text, at most 100 columns wide."""
        from firstcue.report.compare_text import summary

        return summary(self)

    def html(self) -> str:
        """The comparison as one self-contained page."""
        from firstcue.report.compare_text import cells, told
        from firstcue.report.figures import scale_of
        from firstcue.report.html import embedded, render

        shown = [(change, cells(change)) for change in told(self)]
        scale = scale_of([v for c, _ in shown for v in (c.difference, c.ci_low, c.ci_high)], -0.1, 0.1)
        return render(
            "compare.html",
            comparison=self,
            headline=headline(self),
            shown=shown,
            change_scale=scale,
            data=embedded(self.to_json()),
        )


def compare(before: Report, after: Report) -> Comparison:
    """What changed from one report to another.

    A number changed for the better or the worse when the 95 % interval of its difference excludes 0. The interval treats
    the two reports as independent; on the same held-out rows it is therefore too wide rather than too narrow.

    Args:
        before: The report to compare with.
        after: The newer report.

    Source:
        Interval of a difference from two intervals: Newcombe (1998), Statistics in Medicine 17, 873-890.

    Example:
        >>> compare(Report(verdict="no shortcut found"), Report(verdict="shortcut")).worse
        True
    """
    rank = VERDICTS.index(after.verdict) - VERDICTS.index(before.verdict)
    return Comparison(
        title_before=before.title,
        title_after=after.title,
        verdict_before=before.verdict,
        verdict_after=after.verdict,
        verdict=_sign(-rank),
        changes=(
            *_averages(before, after),
            *_groups(before, after),
            *_findings(before, after),
            *_repairs(before, after),
        ),
        notes=_notes(before, after),
    )


def headline(comparison: Comparison) -> str:
    """The comparison in a few words."""
    if comparison.worse:
        improved = any(c.direction == "better" for c in comparison.changes) or comparison.verdict == "better"
        return "Better in some respects, worse in others" if improved else "Worse than before"
    return "Better than before" if comparison.better else "No change beyond chance"


def difference(before: Interval, after: Interval) -> tuple[float | None, float | None, float | None]:
    """After - before with its interval, from the intervals of both.

    Example:
        >>> difference(Interval(value=0.5, ci_low=0.46, ci_high=0.54), Interval(value=0.8, ci_low=0.77, ci_high=0.83))
        (0.3, 0.25, 0.35)
    """
    if before.value is None or after.value is None:
        return None, None, None
    change = after.value - before.value
    if before.ci_low is None or before.ci_high is None or after.ci_low is None or after.ci_high is None:
        return round(change, 12), None, None
    below = math.hypot(after.value - after.ci_low, before.ci_high - before.value)
    above = math.hypot(after.ci_high - after.value, before.value - before.ci_low)
    return round(change, 12), round(change - below, 12), round(change + above, 12)


def _sign(good: int) -> Direction:
    return "same" if good == 0 else "better" if good > 0 else "worse"


def _judged(change: float | None, low: float | None, high: float | None) -> Direction:
    """Higher is better; without an interval nothing is called a change."""
    if change is None or low is None or high is None:
        return "same"
    return "better" if low > 0 else "worse" if high < 0 else "same"


def _averages(before: Report, after: Report) -> Iterator[Change]:
    a, b = before.groups, after.groups
    if a.worst_group is not None and b.worst_group is not None:
        names = [
            words.group_name(r.worst_group, words.cue_of(o)) for r, o in ((a, before), (b, after)) if r.worst_group
        ]
        yield _accuracy("worst group", " → ".join(dict.fromkeys(names)), a.worst_group, b.worst_group)
    if a.overall.accuracy is not None and b.overall.accuracy is not None:
        yield _accuracy("all rows", "all rows", a.overall, b.overall)


def _groups(before: Report, after: Report) -> Iterator[Change]:
    old, new = ({(g.y, g.attribute): g for g in r.groups.by_group} for r in (before, after))
    for key in dict.fromkeys([*old, *new]):
        row = new.get(key) or old[key]
        yield _accuracy("group", words.group_name(row, words.cue_of(after)), old.get(key), new.get(key))


def _accuracy(
    what: Literal["worst group", "all rows", "group", "repair"],
    name: str,
    before: GroupRow | Overall | None,
    after: GroupRow | Overall | None,
) -> Change:
    a, b = _interval(before), _interval(after)
    if a is None or b is None:
        return Change(what=what, name=name, before=a, after=b, direction="new" if a is None else "gone")
    change, low, high = difference(a, b)
    direction = _judged(change, low, high)
    return Change(
        what=what, name=name, before=a, after=b, difference=change, ci_low=low, ci_high=high, direction=direction
    )


def _interval(row: GroupRow | Overall | None) -> Interval | None:
    return None if row is None else Interval(value=row.accuracy, ci_low=row.ci_low, ci_high=row.ci_high, n=row.n)


def _findings(before: Report, after: Report) -> Iterator[Change]:
    old, new = ({f.id: f for f in r.findings} for r in (before, after))
    for key in dict.fromkeys([*old, *new]):
        yield _finding(key, old.get(key), new.get(key))


def _finding(key: str, before: Finding | None, after: Finding | None) -> Change:
    a, b = _amount(before), _amount(after)
    statuses = (before.status if before else None, after.status if after else None)
    if before is None or after is None:
        accuses = before is None and statuses[1] == "relies"
        direction: Direction = "new" if before is None else "gone"
        return Change(
            what="finding", name=key, **_named(before, after), before=a, after=b, direction=direction, accuses=accuses,
            status_before=statuses[0], status_after=statuses[1],
        )  # fmt: skip
    change, low, high = difference(a, b) if a is not None and b is not None else (None, None, None)
    direction = _sign(ACCUSES[before.status] - ACCUSES[after.status])
    if (
        direction == "same"
        and ACCUSES[after.status] > 0
        and change is not None
        and low is not None
        and high is not None
    ):
        direction = _judged(-change, -high, -low)  # the less hangs on the cue, the better
    return Change(
        what="finding", name=key, **_named(before, after), before=a, after=b, difference=change, ci_low=low, ci_high=high, direction=direction,
        status_before=statuses[0], status_after=statuses[1],
    )  # fmt: skip


def _named(before: Finding | None, after: Finding | None) -> dict[str, Any]:
    finding = after or before
    assert finding is not None
    return {
        "about": f"{words.shorten(finding.cue, 40)}: {words.shorten(finding.kind, 40)}",
        "describes": not finding.judges,
    }


def _repairs(before: Report, after: Report) -> Iterator[Change]:
    """What the same repair promises for the worst group; repairs that only one of the reports tried are left out."""
    old, new = ({r.name: r for r in report.remedies if not words.is_unchanged(r)} for report in (before, after))
    for name in old:
        if name in new and old[name].worst_group is not None and new[name].worst_group is not None:
            a, b = (
                Overall(accuracy=r.worst_group, ci_low=r.ci_low, ci_high=r.ci_high, n=r.n or 0)
                for r in (old[name], new[name])
            )
            yield _accuracy("repair", name, a, b)


def _amount(finding: Finding | None) -> Interval | None:
    if finding is None:
        return None
    if finding.relies is not None and finding.relies.value is not None:
        return finding.relies
    return Interval(value=finding.value, ci_low=finding.ci_low, ci_high=finding.ci_high, n=finding.n)


def _learned(before: Report, after: Report) -> Iterator[str]:
    """Cues that were used earlier or later than before."""
    old, new = ({o.cue: o.step_used for o in r.learning_order} for r in (before, after))
    for cue in old:
        if cue in new and old[cue] != new[cue]:
            steps = [f"from {words.step(s)}" if s is not None else "at no step seen" for s in (old[cue], new[cue])]
            yield f"{words.shorten(cue, 40)} was used {steps[0]}, now {steps[1]}."


def _notes(before: Report, after: Report) -> tuple[str, ...]:
    notes = []
    if (before.groups.overall.n, before.groups.split) != (after.groups.overall.n, after.groups.split):
        notes.append(
            f"The reports were measured on different rows: {before.groups.overall.n} ({before.groups.split or 'not said'}) "
            f"and {after.groups.overall.n} ({after.groups.split or 'not said'})."
        )
    notes += list(_learned(before, after))
    old, new = before.environment.versions.get("firstcue"), after.environment.versions.get("firstcue")
    if old != new:
        notes.append(f"The reports were written by different versions of firstcue: {old} and {new}.")
    return tuple(notes)
