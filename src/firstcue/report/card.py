"""A section for a model card, in Markdown."""

import re
from collections.abc import Sequence

from firstcue.finding import Report
from firstcue.report import words
from firstcue.report.cues import cue_rows

MOST_ROWS = 20


def model_card(report: Report) -> str:
    """A Markdown fragment: verdict, groups, cues, repairs, limits. Labels are escaped.

    Example:
        >>> print(model_card(Report(verdict="no shortcut found")).splitlines()[0])
        ## Shortcut audit
    """
    parts = [
        "## Shortcut audit",
        f"**{words.LIGHT[report.verdict]}: {escape(words.headline(report))}.** {escape(words.lead(report))}",
        _groups(report),
        _cues(report),
        _remedies(report),
        _limits(report),
        _origin(report),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def escape(text: str) -> str:
    """Text that Markdown prints as it is: no markup, no HTML, no line break.

    Example:
        >>> print(escape("<b>|a*"))
        &lt;b&gt;\\|a\\*
    """
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("\n", " ")
    text = re.sub(r"([\\`*_{}\[\]|~$])", r"\\\1", text)
    text = re.sub(r"(https?|ftp):(?=//)", r"\1&#58;", text)  # nor a link of its own
    text = re.sub(r"^(\s*\d+)([.)])(?=\s)", r"\1\\\2", text)  # a list item, a heading
    return re.sub(r"^(\s*)([-+#=])", r"\1\\\2", text)


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *[tuple(escape(c) for c in row) for row in rows]]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _groups(report: Report) -> str:
    groups = report.groups
    if not groups.by_group:
        return ""
    ordered = sorted(groups.by_group, key=lambda g: (g.accuracy is None, g.accuracy, g.group))
    worst = groups.worst_group.group if groups.worst_group else None
    cue = words.cue_of(report)
    rows = [
        (words.group_name(g, cue) + (" (worst)" if g.group == worst else ""), words.accuracy(g), words.number(g.n))
        for g in ordered[:MOST_ROWS]
    ]
    rows.append(("all rows", words.accuracy(groups.overall), words.number(groups.overall.n)))
    where = f" on {escape(words.shorten(groups.split, 80))}" if groups.split else ""
    return f"### Accuracy by group{where}\n\n" + _table(("Group", "Accuracy (95 % interval)", "Rows"), rows)


def _cues(report: Report) -> str:
    rows = [
        (
            words.shorten(row.cue), words.status(row.finding), words.interval(row.encoded), words.interval(row.associated),
            words.interval(row.relies, "points"),
        )
        for row in cue_rows(report)[:MOST_ROWS]
    ]  # fmt: skip
    head = ("Cue", "Verdict", "Encoded", "Associated in training", "Relied on")
    return "### Cues\n\n" + _table(head, rows) if rows else ""


def _remedies(report: Report) -> str:
    rows = [
        (
            words.shorten(r.name) + (" (chosen)" if r.selected else ""),
            words.measured(r.worst_group, r.ci_low, r.ci_high),
            words.percent(r.overall),
        )
        for r in report.remedies
        if r.basis == "measured"
    ]
    return "### Repairs tried\n\n" + _table(("Repair", "Worst group", "All rows"), rows) if rows else ""


def _limits(report: Report) -> str:
    lines = [f"- {escape(words.shorten(limit, 400))}" for limit in report.limits]
    return "### Limits of this audit\n\n" + "\n".join(lines) if lines else ""


def _origin(report: Report) -> str:
    known = report.environment.versions.get("firstcue", "")
    seed = "" if report.environment.seed is None else f", seed {report.environment.seed}"
    return f"Measured with firstcue {escape(words.shorten(known, 20))}{seed}.".replace(" .", ".").replace(" ,", ",")
