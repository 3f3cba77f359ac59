"""A comparison of two reports for a terminal."""

import io

from firstcue.finding import Interval
from firstcue.report import words
from firstcue.report.compare import Change, Comparison, headline

WIDTH = 100
PREFIX = {"worst group": "worst", "repair": "worst after"}


def summary(comparison: Comparison) -> str:
    """The comparison as plain text, at most 100 columns wide."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    page = io.StringIO()
    console = Console(file=page, width=WIDTH, color_system=None, force_terminal=False, legacy_windows=False)
    console.print(Text(headline(comparison)))
    console.print(Text(f"Verdict: {comparison.verdict_before} → {comparison.verdict_after} ({comparison.verdict})"))
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for name in ("", "Before", "After", "Change", ""):
        table.add_column(name, overflow="fold", max_width=40)
    for change in told(comparison):
        table.add_row(*(Text(cell) for cell in cells(change)))
    if table.row_count:
        console.print()
        console.print(table)
    for note in comparison.notes:
        console.print(Text(f"Note: {words.shorten(note, 300)}"))
    return "\n".join(line.rstrip() for line in page.getvalue().splitlines()).strip() + "\n"


def told(comparison: Comparison) -> list[Change]:
    """The changes worth a line: averages, groups, findings that judge a cue, and repairs."""
    return [c for c in comparison.changes if not c.describes]


def cells(change: Change) -> tuple[str, str, str, str, str]:
    """Name, before, after, difference and direction, in words."""
    form = "points" if change.what == "finding" else "percent"
    name = change.about or (f"{PREFIX[change.what]}: {change.name}" if change.what in PREFIX else change.name)
    difference = words.points(change.difference, sign=True)
    interval = words.between(change.ci_low, change.ci_high, "points")
    return (
        words.shorten(name, 80),
        _side(change.before, change.status_before, form),
        _side(change.after, change.status_after, form),
        f"{difference}\n{interval}" if interval else difference,
        change.direction,
    )


def _side(given: Interval | None, status: str | None, form: str) -> str:
    said = words.STATUS.get(status, status) if status else None
    value = words.points(given.value) if given and form == "points" else words.percent(given.value if given else None)
    return "\n".join(filter(None, [said, value])) if said is None or given is None or given.value is not None else said
