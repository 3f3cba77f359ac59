"""How the report writes numbers, labels and verdicts, the same in every format."""

import re
import unicodedata
from functools import cache

from firstcue.finding import Finding, GroupRow, Groups, Interval, Overall, Remedy, Report

MISSING = "–"

LIGHT = {"shortcut": "Red", "no shortcut found": "Green", "inconclusive": "Amber"}
"""The traffic light in words."""

STATUS = {
    "relies": "relied on",
    "no shortcut found": "not relied on",
    "not identifiable": "cannot be told",
    "inconclusive": "inconclusive",
    "inferred": "suspected",
}
"""What each status is called where a cue is spoken of."""

RANK = {"relies": 0, "not identifiable": 1, "inconclusive": 2, "inferred": 3, "no shortcut found": 4}
"""Statuses, the most pressing first."""


STATUS_LIGHT = {
    "relies": "red",
    "no shortcut found": "green",
    "not identifiable": "amber",
    "inconclusive": "amber",
    "inferred": "amber",
}
"""Which light each status is shown in, always beside its words."""


def status(finding: Finding) -> str:
    """The status of a finding in words, with how severe it is."""
    if finding.status == "inferred" and finding.severity == "none":
        return "used; yours to judge" if finding.yours_to_judge else "nothing suspicious"
    return STATUS[finding.status] + (f", {finding.severity}" if finding.severity != "none" else "")


def light(finding: Finding) -> str:
    """The colour that goes with `status`."""
    return "green" if status(finding) == "nothing suspicious" else STATUS_LIGHT[finding.status]


def shorten(label: object, limit: int = 60) -> str:
    """A label on one line, cut in its middle; control and direction-changing characters become visible.

    Example:
        >>> shorten("a" * 100, 9)
        'aaaa…aaaa'
        >>> shorten("two\\nlines")
        'two lines'
    """
    text = str(label)
    if len(text) > 6 * limit:  # what lies between cannot be shown
        text = text[: 3 * limit] + text[-3 * limit :]
    text = " ".join(text.split())
    text = "".join(c if _harmless(c) else "\N{REPLACEMENT CHARACTER}" for c in text)
    if len(text) <= limit:
        return text
    half = (limit - 1) // 2
    return f"{text[: limit - 1 - half].rstrip()}…{text[len(text) - half :].lstrip()}"


def prose(text: str, limit: int = 600) -> str:
    """A sentence as it was written, with percentages set as everywhere else.

    Example:
        >>> prose("right 15% of the time")
        'right 15 % of the time'
    """
    return re.sub(r"(?<=\d)%", " %", shorten(text, limit))


@cache
def _harmless(character: str) -> bool:
    # joiners are letters of several scripts; all other format characters hide or reorder text
    return character in "\u200c\u200d" or unicodedata.category(character) not in {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}


def percent(fraction: float | None) -> str:
    """A fraction as percent, whole, with a decimal only where rounding would say none or all.

    Example:
        >>> percent(0.314), percent(0.997), percent(1.0), percent(None)
        ('31 %', '99.7 %', '100 %', '–')
    """
    if fraction is None:
        return MISSING
    return f"{_whole(100 * fraction)} %".replace("-", "−")


def _whole(value: float) -> str:
    close = abs(value) < 1 or 99 <= abs(value) < 100
    return f"{value:.1f}" if close and f"{value:.1f}" not in {"0.0", "-0.0", "100.0"} else f"{value + 0.0:.0f}"


def points(fraction: float | None, sign: bool = False) -> str:
    """A difference of fractions in percentage points.

    Example:
        >>> points(0.483), points(-0.042, sign=True)
        ('48 points', '−4.2 points')
    """
    if fraction is None:
        return MISSING
    return f"{_points(fraction, sign)} {'point' if _points(abs(fraction)) == '1.0' else 'points'}"


def bare_points(fraction: float) -> str:
    """A tick of an axis in percentage points, without the unit.

    Example:
        >>> bare_points(-0.5), bare_points(0.0)
        ('−50', '0')
    """
    return f"{100 * fraction + 0.0:.0f}".replace("-", "−")


def _points(fraction: float, sign: bool = False) -> str:
    value = 100 * fraction
    text = f"{value:+.{int(abs(value) < 9.95)}f}"
    text = "0" if text in ("-0.0", "+0.0") else text
    return (text if sign else text.lstrip("+")).replace("-", "−")


def between(low: float | None, high: float | None, form: str = "percent") -> str:
    """An interval in words, empty when there is none.

    Example:
        >>> between(0.26, 0.37), between(-0.01, 0.02, "points")
        ('26 to 37 %', '−1.0 to 2.0')
    """
    if low is None or high is None:
        return ""
    if form == "points":
        return f"{_points(low)} to {_points(high)}"
    return f"{percent(low).removesuffix(' %')} to {percent(high)}"


def measured(value: float | None, low: float | None, high: float | None, form: str = "percent") -> str:
    """A number with its interval in brackets."""
    text = points(value) if form == "points" else percent(value)
    return f"{text} ({between(low, high, form)})" if value is not None and between(low, high) else text


def interval(given: Interval | None, form: str = "percent") -> str:
    """An `Interval` in words."""
    return MISSING if given is None else measured(given.value, given.ci_low, given.ci_high, form)


def accuracy(row: GroupRow | Overall) -> str:
    """The accuracy of one row of the group table, in words."""
    return measured(row.accuracy, row.ci_low, row.ci_high)


def number(value: object) -> str:
    """Any further value of a finding: a few digits, yes or no, a short text.

    Example:
        >>> number(0.123456), number(True), number(12000), number(None)
        ('0.1235', 'yes', '12,000', '–')
    """
    if value is None:
        return MISSING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}".replace("-", "−")
    if isinstance(value, float):
        return f"{value:.4g}".replace("-", "−")
    return shorten(value, 200)


def seconds(value: float | None) -> str:
    """A duration.

    Example:
        >>> seconds(0.004), seconds(12.3), seconds(600.0)
        ('< 0.1 s', '12 s', '10 min')
    """
    if value is None:
        return MISSING
    if value < 0.1:
        return "< 0.1 s"
    if value < 10:
        return f"{value:.1f} s"
    return f"{value:.0f} s" if value < 120 else f"{value / 60:.0f} min"


def group_name(row: GroupRow, cue: str = "") -> str:
    """A group in words: its class and the value of its attribute.

    Example:
        >>> group_name(GroupRow(group=1, y="coat", attribute="0", n=5), "digit")
        'coat with digit 0'
    """
    if row.attribute is None:
        return shorten(row.y, 40)
    return f"{shorten(row.y, 40)} with {shorten(cue, 30) + ' ' if cue else ''}{shorten(row.attribute, 40)}"


def step(value: int | None) -> str:
    """A training step."""
    return MISSING if value is None else f"step {value:,}"


def guilty(report: Report) -> list[str]:
    """The cues that the model relies on, each once."""
    return list(dict.fromkeys(f.cue for f in report.findings if f.status == "relies"))


def headline(report: Report) -> str:
    """The verdict in a few words.

    Example:
        >>> headline(Report(verdict="no shortcut found"))
        'No shortcut found'
    """
    cues = [shorten(c, 40) for c in guilty(report)]
    if report.verdict == "shortcut":
        if not cues:
            return "The model relies on a shortcut"
        if len(cues) == 1:
            return f"The model relies on a shortcut: {cues[0]}"
        return f"The model relies on {len(cues)} shortcuts: {', '.join(cues[:3])}{' …' if len(cues) > 3 else ''}"
    if report.verdict == "no shortcut found":
        return "No shortcut found"
    return "Inconclusive: these data cannot decide"


def lead(report: Report) -> str:
    """The verdict as plain sentences for a reader who does not know the method."""
    if report.summary_line:
        return prose(report.summary_line)
    return " ".join(filter(None, [_reason(report), _service(report.groups, cue_of(report)), _way_out(report)]))


def cue_of(report: Report) -> str:
    """The cue that the group table is about, empty when the report does not tell."""
    if report.groups.cue:
        return report.groups.cue
    named = {f.cue for f in report.findings if f.status != "inferred" and f.judges}
    return named.pop() if len(named) == 1 else ""


def _reason(report: Report) -> str:
    relied = [f for f in report.findings if f.status == "relies"]
    if relied:
        first = min(relied, key=lambda f: f.id)
        return prose(first.meaning, 300)
    if report.verdict == "no shortcut found":
        clear = [f for f in report.findings if f.status == "no shortcut found" and f.judges]
        cues = list(dict.fromkeys(f.cue for f in clear))
        if not cues:
            return "No cue was found that changes the model's decisions."
        tested = ", ".join(shorten(c, 40) for c in cues[:3])
        return f"The model does not lean on {tested}{' or the others tested' if len(cues) > 3 else ''}."
    unsure = [f for f in report.findings if f.status in ("inconclusive", "not identifiable")]
    return prose(unsure[0].meaning, 300) if unsure else "Too little was measured for a verdict."


def _service(groups: Groups, cue: str) -> str:
    worst, overall = groups.worst_group, groups.overall
    if worst is None or worst.accuracy is None:
        return ""
    rest = f", against {percent(overall.accuracy)} over all held-out rows" if overall.accuracy is not None else ""
    return f"In the group served worst, {group_name(worst, cue)}, it is right for {accuracy(worst)}{rest}."


def _way_out(report: Report) -> str:
    chosen = selected(report)
    if report.verdict != "shortcut" or chosen is None or chosen.worst_group is None or is_unchanged(chosen):
        return ""
    promised = measured(chosen.worst_group, chosen.ci_low, chosen.ci_high)
    return f"Of the repairs tried, {shorten(chosen.name, 60)} brings the worst group to {promised}."


def selected(report: Report) -> Remedy | None:
    """The remedy that the audit chose."""
    return next((r for r in report.remedies if r.selected), None)


def is_unchanged(remedy: Remedy) -> bool:
    """Whether this row of the remedies is the model as it came."""
    return remedy.unchanged or remedy.name == "as it is"


def group_labels(remedy: Remedy) -> str:
    """Whose groups have to be known for a remedy.

    Example:
        >>> group_labels(Remedy(name="jtt", needs_group_labels=False))
        'not needed'
        >>> group_labels(Remedy(name="lisa", needs_group_labels=True, needs=("groups of the training rows",)))
        'of training rows'
    """
    if is_unchanged(remedy):
        return MISSING
    if not remedy.needs_group_labels:
        return "not needed"
    whose = [name for name in ("training", "held-out") if any(name in label for label in remedy.needs)]
    return f"of {' and '.join(whose)} rows" if whose else "needed"
