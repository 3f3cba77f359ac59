"""The findings as a table: one flat dictionary per finding, or a pandas frame."""

from typing import Any

from firstcue.finding import Finding, Report

PLAIN = (
    "id", "cue", "kind", "layer", "status", "severity", "value", "unit", "ci_low", "ci_high", "n", "baseline", "meaning",
    "source",
)  # fmt: skip
INTERVALS = ("encoded", "associated", "relies", "closed")
PARTS = ("ci_low", "ci_high", "n", "baseline")


def rows(report: Report) -> list[dict[str, Any]]:
    """One dictionary per finding; every one has the same leading keys, and `details/...` for the rest.

    Example:
        >>> finding = Finding(id="a", cue="sky", kind="reliance", status="relies", meaning="It leans.", details={"gap": 0.4})
        >>> row = rows(Report(verdict="shortcut", findings=(finding,)))[0]
        >>> row["cue"], row["encoded"], row["details/gap"]
        ('sky', None, 0.4)
    """
    return [_row(finding) for finding in report.findings]


def _row(finding: Finding) -> dict[str, Any]:
    row = {name: getattr(finding, name) for name in PLAIN}
    for name in INTERVALS:
        given = getattr(finding, name)
        row[name] = None if given is None else given.value
        row |= {f"{name}_{part}": None if given is None else getattr(given, part) for part in PARTS}
    return row | {f"details/{key}": value for key, value in finding.details.items()}


def frame(report: Report) -> Any:
    """The findings as a `pandas.DataFrame`.

    Raises:
        MissingExtra: If pandas is not installed; the message has the line that installs it.
    """
    from firstcue._extras import require_extra

    pandas = require_extra("pandas", "frames", "a table of findings")
    made = rows(report)
    names = list(dict.fromkeys([*_row(_NOTHING), *(name for row in made for name in row)]))
    return pandas.DataFrame(made, columns=names)


_NOTHING = Finding(id="", cue="", kind="", status="inconclusive", meaning="")
