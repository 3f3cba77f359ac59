"""The same charts for a reader with a mouse: tooltips, one choice that all of them follow, and zoom over training steps.

The page stays one file that makes no request: Vega is inlined once, its expressions are interpreted instead of compiled, and
a content security policy lets these scripts run and no other.
"""

import json
import math
from collections.abc import Mapping
from functools import cache
from typing import Any

from firstcue._extras import require_extra
from firstcue.finding import Moment, Report
from firstcue.report import words
from firstcue.report.charts import reached
from firstcue.report.html import script
from firstcue.report.subjects import Subjects, subjects
from firstcue.report.timeline import LENSES, MOST_CURVES, capacity, styles_of
from firstcue.report.vega import Spec, layered, lines, tips


def scripts(report: Report) -> dict[str, Any]:
    """What a page needs to be interactive: its data and its scripts.

    Raises:
        MissingExtra: Without the extra `interactive`.
    """
    return {
        "charts": json.dumps(charts(report), ensure_ascii=False, allow_nan=False),
        "code": (vega_bundle(), script("live.js")),
    }


@cache
def vega_bundle() -> str:
    """Vega, Vega-Lite and Vega-Embed as one script, from the installed package.

    Raises:
        MissingExtra: Without the extra `interactive`.
    """
    converter = require_extra("vl_convert", "interactive", "an interactive page")
    return str(converter.javascript_bundle("window.vegaEmbed = vegaEmbed;")).replace("</script", "<\\/script")


def charts(report: Report) -> dict[str, Any]:
    """The names that can be chosen, and a Vega-Lite specification for each panel of the page by its name."""
    known = subjects(report)
    specs = {**_timeline(report, known), **_spectrum(report.richness, known), **_histogram(report.agreement)}
    return {"subjects": list(known.names), "charts": specs}


def _timeline(report: Report, known: Subjects) -> dict[str, Spec]:
    by_lens: dict[str, dict[str, list[Moment]]] = {}
    for moment in sorted(report.timeline, key=lambda m: m.step):
        lens, _, subject = moment.curve.partition("/")
        if moment.value is not None and math.isfinite(moment.value):
            by_lens.setdefault(lens, {}).setdefault(subject or lens, []).append(moment)
    styles = styles_of([s for curves in by_lens.values() for s in curves])
    last = max((m.step for m in report.timeline), default=1)
    levels = capacity(report)
    order = {o.cue: {"used": o.step_used, "decodable": o.step_decodable} for o in report.learning_order}
    return {
        f"timeline/{lens}": _over_steps(lens, curves, styles, order, levels if lens == "decodable" else {}, last, known)
        for lens, curves in by_lens.items()
    }


def _over_steps(
    lens: str,
    curves: Mapping[str, list[Moment]],
    styles: Mapping[str, str],
    order: Mapping[str, Mapping[str, int | None]],
    levels: Mapping[str, float],
    last: int,
    known: Subjects,
) -> Spec:
    shown = sorted(curves, key=lambda s: list(styles).index(s))[:MOST_CURVES]
    rows = [_moment(m, s, styles[s], known) for s in shown for m in curves[s]]
    passed = [
        _row(known, s, styles[s], x=at, said=f"from {words.step(at)}", at=words.step(at))
        for s in shown
        if (at := order.get(s, {}).get(lens)) is not None
    ]
    flat = [
        _row(known, s, styles[s], y=levels[s], said=f"{words.percent(levels[s])} before training", at="step 0")
        for s in shown
        if s in levels
    ]
    x = {"type": "symlog", "domain": [0, max(last, 1)], "nice": False}
    ticks = [0, *(m * 10**e for e in range(8) for m in (1, 2, 5) if m * 10**e <= last)]
    return lines(LENSES.get(lens, lens), rows, passed, flat, x, ticks, "training step", zooms=True)


def _moment(m: Moment, subject: str, style: str, known: Subjects) -> dict[str, Any]:
    bounds = {"low": m.ci_low, "high": m.ci_high} if m.ci_low is not None and m.ci_high is not None else {}
    said = words.measured(m.value, m.ci_low, m.ci_high)
    return _row(known, subject, style, x=m.step, y=m.value, said=said, at=words.step(m.step), **bounds)


def _row(known: Subjects, name: str, style: str, *, said: str, at: str, **more: Any) -> dict[str, Any]:
    found = known.find(name)
    short = words.shorten(name, 40)
    return {"name": short, "subject": -1 if found is None else found, "style": style, "said": said, "at": at, **more}


def _spectrum(richness: Mapping[str, Any] | None, known: Subjects) -> dict[str, Spec]:
    spectra = (richness or {}).get("spectra")
    if not isinstance(spectra, Mapping) or not spectra.get("directions"):
        return {}
    at = [int(k) for k in spectra["directions"]]
    held = {"class": "core"} | {c: f"cue{i}" for i, c in enumerate(c for c in spectra["targets"] if c != "class")}
    curves = {**dict(list(spectra["targets"].items())[:4]), "head reads": spectra.get("head") or []}
    rows = [
        _row(known, name, held.get(name, "overall"), x=k, y=v, said=words.percent(v), at=f"widest {k}")
        for name, values in curves.items()
        for k, v in zip(at, values, strict=False)
        if v is not None
    ]
    x = {"type": "log", "domain": [1, max(at[-1], 2)], "nice": False}
    size = [
        _row(known, "", "overall", x=k, y=max(v, 1e-6), said=f"{v:.2g} of the widest", at=f"direction {k}")
        for k, v in zip(at, spectra.get("size") or [], strict=False)
        if v is not None
    ]
    ticks = [m * 10**e for e in range(6) for m in (1, 2, 5)]
    half = [
        _row(known, name, held.get(name, "overall"), x=k, said="half of it", at=f"within the {k} widest")
        for name, values in list(spectra["targets"].items())[:4]
        if (k := reached(at, [v or 0.0 for v in values])) is not None
    ]
    widest = "widest directions of the features"
    return {
        "spectrum/held": lines("Held by the widest directions", rows, (), (), x, ticks, widest),
        "spectrum/size": lines(
            "Width of each direction", size, half, (), x, ticks, "direction, the widest first", logarithmic=True
        ),
    }


def _histogram(agreement: Mapping[str, Any] | None) -> dict[str, Spec]:
    counts = (agreement or {}).get("histogram")
    if not isinstance(counts, Mapping) or not counts.get("groups"):
        return {}
    rows = []
    for i, value in enumerate(counts["groups"]):
        beside = {k: counts[k][i] for k in ("random_groups", "random_signs") if len(counts.get(k) or ()) > i}
        said = {k: words.percent(v) for k, v in beside.items()}
        rows.append({"x": i, "y": value, "said": words.percent(value), "drawn": beside.get("random_groups"), **said})
    told = [
        ("x", "majority beyond minority"),
        ("said", "weights"),
        ("random_groups", "random groups"),
        ("random_signs", "random signs"),
    ]
    x = {
        "field": "x",
        "type": "ordinal",
        "axis": {"title": "groups in the majority beyond the minority", "labelAngle": 0},
    }
    y = {"type": "quantitative", "axis": {"format": ".0%", "title": None, "tickCount": 5}}
    return {
        "agreement/histogram": layered(
            "Agreement, weight by weight",
            rows,
            [
                {"mark": {"type": "bar", "tooltip": True}, "encoding": {"x": x, "y": {"field": "y", **y}, "tooltip": tips(told)}},
                {
                    "mark": {"type": "bar", "filled": False, "strokeDash": [3, 2], "tooltip": True},
                    "encoding": {"x": x, "y": {"field": "drawn", **y}, "tooltip": tips(told)},
                },
            ],
        )
    }  # fmt: skip
