"""The report as one web page: self-contained, without scripts, readable in light, dark, on paper and on a phone."""

import base64
import hashlib
import math
import re
from collections.abc import Callable
from functools import cache
from typing import Any

from firstcue.finding import Finding, Remedy, Report
from firstcue.report import words
from firstcue.report.cues import LENSES, CueRow, cue_rows, judged, ladders, lens, readable
from firstcue.report.described import TITLES, section
from firstcue.report.figures import Scale, scale_of, strip
from firstcue.report.subjects import subjects
from firstcue.report.timeline import capacity, timeline

MOST_GROUPS = 8
MOST_PICTURES = 4


def page(report: Report, *, interactive: bool = False) -> str:
    """One HTML file that makes no request; the report's JSON is embedded in it.

    Args:
        report: What to show.
        interactive: Inline scripts for tooltips, a choice that all charts follow, and zoom; the page works without them too.

    Raises:
        MissingExtra: Interactive, without the extra `interactive`.

    Returns:
        The page. Labels are escaped and shortened for the eye; the embedded JSON holds them whole.

    Example:
        >>> page(Report(verdict="no shortcut found")).startswith("<!doctype html>")
        True
    """
    return render("page.html", **_facts(report), live=_live(report) if interactive else None)


def _live(report: Report) -> dict[str, Any]:
    from firstcue.report.interactive import scripts

    made = scripts(report)
    return inlined(*made["code"]) | {"charts": embedded(made["charts"])}


def script(name: str) -> str:
    """A script of this package as text."""
    return _environment().loader.get_source(_environment(), name)[0]


def inlined(*code: str) -> dict[str, Any]:
    """Scripts that a page carries, and the policy that lets only these run."""
    from markupsafe import Markup

    hashes = [base64.b64encode(hashlib.sha256(c.encode()).digest()).decode() for c in code]
    return {
        "code": [Markup(c) for c in code],
        "policy": Markup(" ".join(f"'sha256-{h}'" for h in hashes)),
        "charts": None,
    }


def render(template: str, **facts: Any) -> str:
    """Fill one template of this package; everything is escaped."""
    return (
        _environment()
        .get_template(template)
        .render(**{"css": _style_sheet(), "live": None, "subject": lambda name: None} | facts)
    )


def embedded(text: str) -> Any:
    """JSON text that is safe inside a script element and parses to the same value."""
    from markupsafe import Markup

    return Markup(text.translate({ord(c): f"\\u{ord(c):04x}" for c in "<>&\u2028\u2029"}))


def _facts(report: Report) -> dict[str, Any]:
    cues = cue_rows(report)
    known = {f.id for f in report.findings}
    reference = _as_it_came(report)
    loose = [p for p in report.pictures if not p.lead and p.finding not in known]
    beside = [p for p in loose if not p.finding][:MOST_PICTURES]
    return {
        "report": report,
        "subject": subjects(report).find,
        "light": words.LIGHT[report.verdict].lower(),
        "light_word": words.LIGHT[report.verdict],
        "headline": words.headline(report),
        "lead": words.lead(report),
        "figures": key_figures(report, cues),
        "cue": words.cue_of(report),
        "cues": cues,
        "groups": sorted(report.groups.by_group, key=lambda g: (g.accuracy is None, g.accuracy, g.group)),
        "most_groups": MOST_GROUPS,
        "worst_is_wider": _worst_is_wider(report),
        "panels": timeline(report.timeline, report.learning_order, capacity(report)),
        "order_sentence": order_sentence(report),
        "described": {name: told for name in TITLES if (told := section(report, name))},
        "remedy_reference": reference,
        "repairs_leave": any(r.relies is not None for r in report.remedies),
        "remedy_strips": [strip(r.worst_group, r.ci_low, r.ci_high, reference) for r in report.remedies],
        "worsened": [_worsened(r, report) for r in report.remedies],
        "findings": judged(report),
        "readable": readable(report),
        "ladders": ladders(report),
        "lenses": [(kind, title, lens(report, kind)) for kind, title in LENSES.items() if lens(report, kind)],
        "pictures": {i: [p for p in report.pictures if p.finding == i and not p.lead] for i in known},
        "lead_pictures": [p for p in report.pictures if p.lead],
        "group_pictures": beside,
        "loose_pictures": [p for p in loose if p not in beside],
        "data": embedded(report.to_json()),
    }  # fmt: skip


def _worst_is_wider(report: Report) -> bool:
    """Whether the worst group's interval, which allows for its having been chosen, differs from its row in the table."""
    worst = report.groups.worst_group
    rows = [g for g in report.groups.by_group if worst is not None and g.group == worst.group]
    ends = [words.between(g.ci_low, g.ci_high) for g in [*rows, *([worst] if worst is not None else [])]]
    return len(set(ends)) > 1


def key_figures(report: Report, cues: list[CueRow]) -> list[dict[str, Any]]:
    """The three to five numbers under the verdict: name, value, and what it is about."""
    worst, overall = report.groups.worst_group, report.groups.overall
    said: list[tuple[str, str, tuple[str, ...]]] = []
    if overall.accuracy is not None:
        interval = words.between(overall.ci_low, overall.ci_high)
        said.append(("Accuracy, all held-out rows", words.percent(overall.accuracy), (interval,)))
    if worst is not None and worst.accuracy is not None:
        interval = words.between(worst.ci_low, worst.ci_high)
        name = words.group_name(worst, words.cue_of(report))
        said.append(("Accuracy, worst group", words.percent(worst.accuracy), (interval, name)))
    effect = next((row for row in cues if row.relies is not None and row.relies.value is not None), None)
    if effect is not None and effect.relies is not None:
        interval = words.between(effect.relies.ci_low, effect.relies.ci_high, "points")
        name = f"Accuracy that hangs on {words.shorten(effect.cue, 24)}"
        said.append((name, words.points(effect.relies.value), (interval,)))
    chosen = words.selected(report)
    if chosen is not None and chosen.worst_group is not None and not words.is_unchanged(chosen):
        interval = words.between(chosen.ci_low, chosen.ci_high)
        name = words.shorten(chosen.name, 40)
        said.append(("Worst group after repair", words.percent(chosen.worst_group), (interval, name)))
    return [{"name": name, "value": value, "more": [m for m in more if m]} for name, value, more in said]


def order_sentence(report: Report) -> str:
    """Which cue was used before which, in words."""
    used = sorted((o for o in report.learning_order if o.step_used is not None), key=lambda o: o.step_used or 0)
    unused = [words.shorten(o.cue, 40) for o in report.learning_order if o.step_used is None]
    said = ", then ".join(f"{words.shorten(o.cue, 40)} from {words.step(o.step_used)}" for o in used[:6])
    first = f"Used by the decisions: {said}." if said else ""
    last = f" Use was not seen for {', '.join(unused[:6])}." if unused else ""
    core = " Core is what tells the class when the cue does not." if any(o.cue == "core" for o in used) else ""
    return f"{first}{last}{core}".strip()


def _as_it_came(report: Report) -> float | None:
    """Worst-group accuracy of the model before any repair, on the same rows if the report has them."""
    before = next((r for r in report.remedies if words.is_unchanged(r)), None)
    if before is not None:
        return before.worst_group
    return report.groups.worst_group.accuracy if report.groups.worst_group is not None else None


def _worsened(remedy: Remedy, report: Report) -> list[str]:
    if remedy.worse or words.is_unchanged(remedy):
        return [f"Worse: {text}" for text in remedy.worse]
    before = next((r.overall for r in report.remedies if words.is_unchanged(r)), report.groups.overall.accuracy)
    if before is None or remedy.overall is None or before - remedy.overall < 0.01:
        return []
    return [f"Worse: accuracy over all rows falls by {words.points(before - remedy.overall)}"]


def _finding_scale(finding: Finding) -> Scale:
    known = [finding.value, finding.ci_low, finding.ci_high, finding.baseline]
    unbounded = any(v is not None and abs(v) > 1 for v in known)
    return scale_of(
        known, high=1.0, step=10.0 ** math.floor(math.log10(max(abs(v or 0) for v in known))) if unbounded else 0.1
    )


def form_of(finding: Finding) -> Callable[..., str]:
    """How a finding's number is written, by its unit."""
    if "fraction" not in finding.unit:
        return words.number
    return words.points if "difference" in finding.unit else words.percent


def details(finding: Finding) -> list[tuple[str, str]]:
    """The further numbers of a finding: a number with its interval on one line, what was not measured left out."""
    charted = GAPS if gaps(finding) else {}
    given = {
        k: v
        for k, v in finding.details.items()
        if v is not None and k.removesuffix(_LOW).removesuffix(_HIGH) not in charted
    }
    bounds = {k.removesuffix(_LOW) for k in given if k.endswith(_LOW)} & {
        k.removesuffix(_HIGH) for k in given if k.endswith(_HIGH)
    }
    said = []
    for key, value in given.items():
        # "information_bits" has its interval in "information_ci_low" and "information_ci_high"
        stem = key if key in bounds else key.rpartition("_")[0]
        if stem in bounds and key not in (stem + _LOW, stem + _HIGH):
            said.append(
                (
                    key,
                    f"{words.number(value)} ({words.number(given[stem + _LOW])} to {words.number(given[stem + _HIGH])})",
                )
            )
        elif not (key.endswith((_LOW, _HIGH)) and any(key.startswith(stem) for stem in bounds)):
            said.append((key, words.number(value)))
    return [(words.shorten(key.replace("_", " "), 60), text) for key, text in said]


_LOW, _HIGH = "_ci_low", "_ci_high"
GAPS = {
    "gap": "as it is",
    "gap_after_erasure": "with the cue erased",
    "gap_with_all_cues_erased": "with every cue erased",
    "gap_with_the_other_cues_erased": "with all other cues erased",
}


def gaps(finding: Finding) -> list[tuple[str, float, float | None, float | None]]:
    """The accuracy gap before and after erasures, when there is something to compare: label, value, interval."""
    known = {k: v for k, v in finding.details.items() if isinstance(v, int | float)}
    rows = [
        (label, known[key], known.get(f"{key}_ci_low"), known.get(f"{key}_ci_high"))
        for key, label in GAPS.items()
        if key in known
    ]
    return rows if len(rows) > 1 else []


def _between(low: float | None, high: float | None, form: Callable[..., str] = words.percent) -> str:
    if form is words.number:
        return "" if low is None or high is None else f"{words.number(low)} to {words.number(high)}"
    return words.between(low, high, "points" if form is words.points else "percent")


def _is_link(source: str) -> bool:
    return re.fullmatch(r"https://[\w.\-/~%:()#?=&+,]{1,300}", source, flags=re.ASCII) is not None


def _keep_together(value: Any) -> Any:
    """Text in which no line breaks between a number and its unit; markup as it is."""
    plain_text = isinstance(value, str) and not hasattr(value, "__html__")
    return re.sub(r"(?<=\d) (?=%|points?\b|s\b|min\b)", "\N{NO-BREAK SPACE}", value) if plain_text else value


@cache
def _style_sheet() -> Any:
    from markupsafe import Markup

    return Markup(_environment().get_template("style.css").render())


@cache
def _environment() -> Any:
    import jinja2

    made = jinja2.Environment(
        loader=jinja2.PackageLoader("firstcue.report"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        finalize=_keep_together,
    )
    made.filters.update(
        short=words.shorten,
        prose=words.prose, percent=words.percent, points=words.points, number=words.number, seconds=words.seconds,
        step=words.step, between=_between, accuracy=words.accuracy, group_name=words.group_name, is_link=_is_link, group_labels=words.group_labels, guilty=words.guilty, verdict_light=lambda verdict: words.LIGHT[verdict].lower(),
        said=words.status, light=words.light,
    )  # fmt: skip
    made.globals.update(
        percent=words.percent, points=words.points, plain=words.number, measured=words.measured, strip=strip,
        scale_of=_finding_scale, form_of=form_of, details=details, gaps=gaps, wide_scale=scale_of, bare_points=words.bare_points, unit_scale=Scale(),
    )  # fmt: skip
    return made
