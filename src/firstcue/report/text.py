"""The report for a terminal: the verdict, then the tables behind it, in plain text or in colour."""

import io
from typing import TYPE_CHECKING, Any

from firstcue.finding import Interval, Report
from firstcue.report import words
from firstcue.report.cues import CueRow, cue_rows

if TYPE_CHECKING:
    from rich.console import Console

WIDTH = 100
MOST_ROWS = 12
COLOURS = {"red": "red", "amber": "yellow", "green": "green"}


def summary(report: Report) -> str:
    """The report as plain text, at most 100 columns wide.

    Example:
        >>> print(summary(Report(verdict="no shortcut found")).splitlines()[0])
        Green: No shortcut found
    """
    from rich.console import Console

    page = io.StringIO()
    render(report, Console(file=page, width=WIDTH, color_system=None, force_terminal=False, legacy_windows=False))
    return "\n".join(line.rstrip() for line in page.getvalue().splitlines()).strip() + "\n"


def render(report: Report, console: "Console") -> None:
    """Print the report to a rich console; labels are printed as they are, never as markup."""
    from rich.text import Text

    light = words.LIGHT[report.verdict]
    console.print(Text(f"{light}: {words.headline(report)}", style=f"bold {COLOURS[light.lower()]}"))
    console.print(Text(words.lead(report)))
    for table in (_groups(report), _cues(report), _order(report), _remedies(report), _predicted(report)):
        if table is not None:
            console.print()
            console.print(table)
    for title, lines in (("Notes", report.notes), ("Limits", report.limits)):
        if lines:
            console.print()
            console.print(Text(title, style="bold"))
        for line in lines:
            console.print(_item(line))


def _item(line: str) -> Any:
    from rich.padding import Padding
    from rich.text import Text

    return Padding(Text(f"- {words.shorten(line, 400)}"), (0, 0, 0, 2))


def _table(title: str, *columns: str) -> Any:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(
        title=Text(title, style="bold"), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False
    )
    for i, name in enumerate(columns):
        table.add_column(name, overflow="fold", ratio=None, max_width=30 if i == 0 else 24)
    return table


def _add(table: Any, *cells: str, style: str = "") -> None:
    from rich.text import Text

    table.add_row(*(Text(cell) for cell in cells), style=style)


def _groups(report: Report) -> Any:
    groups = report.groups
    if not groups.by_group:
        return None
    table = _table(
        f"Accuracy by group{', ' + words.shorten(groups.split, 50) if groups.split else ''}",
        "Group",
        "Accuracy",
        "Rows",
        "",
    )
    worst = groups.worst_group.group if groups.worst_group else None
    rows = sorted(groups.by_group, key=lambda g: (g.accuracy is None, g.accuracy, g.group))
    for row in rows[:MOST_ROWS]:
        mark = "worst" if row.group == worst else "few rows" if row.group in groups.too_small else ""
        name = words.group_name(row, words.cue_of(report))
        _add(table, name, words.accuracy(row), words.number(row.n), mark, style="red" if row.group == worst else "")
    if len(rows) > MOST_ROWS:
        _add(table, f"and {len(rows) - MOST_ROWS} more groups", "", "", "")
    _add(table, "all rows", words.accuracy(groups.overall), words.number(groups.overall.n), "")
    return table


def _cues(report: Report) -> Any:
    rows = cue_rows(report)
    if not rows:
        return None
    table = _table("Cues", "Cue", "Status", "Encoded", "Associated", "Relied on", "Gap closed")
    for row in rows[:MOST_ROWS]:
        _add(
            table, words.shorten(row.cue, 28), words.status(row.finding), _two_lines(row.encoded),
            _two_lines(row.associated), _relies(row), _two_lines(row.closed), style=COLOURS[words.light(row.finding)],
        )  # fmt: skip
    return table


def _two_lines(given: Interval | None, form: str = "percent") -> str:
    return words.interval(given, form).replace(" (", "\n", 1).rstrip(")")


def _relies(row: CueRow) -> str:
    return _two_lines(row.relies, "points") if row.relies is not None else "no intervention"


def _order(report: Report) -> Any:
    if not report.learning_order:
        return None
    table = _table("Learning order", "Cue", "Readable from", "Used from")
    for entry in report.learning_order[:MOST_ROWS]:
        _add(table, words.shorten(entry.cue, 28), words.step(entry.step_decodable), words.step(entry.step_used))
    return table


def _remedies(report: Report) -> Any:
    if not report.remedies:
        return None
    table = _table(
        "Repairs, on rows that neither fitted nor chose them",
        "Repair",
        "Worst group",
        "All rows",
        "Still hangs on cue",
        "Group labels",
        "Time",
        "",
    )
    for remedy in (r for r in report.remedies if r.basis == "measured"):
        _add(
            table, words.shorten(remedy.name, 30), words.measured(remedy.worst_group, remedy.ci_low, remedy.ci_high),
            words.percent(remedy.overall), words.interval(remedy.relies, "points"), words.group_labels(remedy), words.seconds(remedy.seconds),
            "chosen" if remedy.selected else "", style="green" if remedy.selected else "",
        )  # fmt: skip
    return table


def _predicted(report: Report) -> Any:
    """The best of those rehearsed on the last layer; the others are named beneath."""
    told = [r for r in report.remedies if r.basis == "predicted"]
    unknown = [r for r in report.remedies if r.basis not in ("measured", "predicted")]
    if not told and not unknown:
        return None
    table = _table(
        "More repairs, rehearsed on the last layer: a prediction, no promise",
        "Repair",
        "Worst group, predicted",
        "Gain over plain training",
        "Group labels",
    )
    for r in told[:MOST_ROWS]:
        _add(
            table, words.shorten(r.name, 30), words.measured(r.worst_group, r.ci_low, r.ci_high), words.interval(r.gain, "points"),
            words.group_labels(r), style="",
        )  # fmt: skip
    rest = [f"{len(told) - MOST_ROWS} more in report.json"] if len(told) > MOST_ROWS else []
    rest += [f"without a number: {', '.join(r.name for r in unknown)}"] if unknown else []
    table.caption = "; ".join(rest) or None
    return table
