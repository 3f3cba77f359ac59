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


def frame(report: Report, library: str = "pandas") -> Any:
    """The findings as a `DataFrame` of pandas or Polars.

    Raises:
        MissingExtra: If the library is not installed; the message has the line that installs it.
        ValueError: If it is another library.
    """
    from firstcue._extras import require_extra

    if library not in ("pandas", "polars"):
        raise ValueError(f"a table is one of pandas or polars; got {library!r}.")
    found = require_extra(library, "frames" if library == "pandas" else "polars", "a table of findings")
    made = rows(report)
    names = list(dict.fromkeys([*_row(_NOTHING), *(name for row in made for name in row)]))
    if library == "polars":
        return found.DataFrame({name: [row.get(name) for row in made] for name in names}, strict=False)
    return found.DataFrame(made, columns=names)


_NOTHING = Finding(id="", cue="", kind="", status="inconclusive", meaning="")
