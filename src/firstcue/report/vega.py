"""Vega-Lite specifications of lines over an axis, as plain dictionaries: what they look like, not what they are about."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from firstcue.report import words
from firstcue.report.panels import BOTTOM, TOP, spread

STYLES = ("core", "cue0", "cue1", "cue2", "cue3", "worst", "overall")
DASHES = ([7, 4], [1, 0], [2, 4], [10, 3, 2, 3], [4, 3], [1, 0], [7, 4])
HEIGHT = BOTTOM - TOP
CHOSEN = "chosen === null || datum.subject === chosen"
Spec = dict[str, Any]
FAINT: Spec = {"condition": {"test": CHOSEN, "value": 1}, "value": 0.12}
COLOUR: Spec = {
    "field": "style",
    "type": "nominal",
    "legend": None,
    "scale": {"domain": list(STYLES), "range": "category"},
}
DASH: Spec = {
    "field": "style",
    "type": "nominal",
    "legend": None,
    "scale": {"domain": list(STYLES), "range": list(DASHES)},
}
TOLD: list[Spec] = [
    {"field": f, "title": t, "type": "nominal"} for f, t in (("name", "curve"), ("at", "at"), ("said", "value"))
]
ZOOM: Spec = {
    "name": "zoom",
    "select": {
        "type": "interval",
        "encodings": ["x"],
        "zoom": "wheel![event.ctrlKey || event.metaKey]",
        "clear": "dblclick",
    },
    "bind": "scales",
}
"""Of the steps: the wheel alone goes on scrolling the page."""


def lines(
    title: str,
    rows: Sequence[Mapping[str, Any]],
    passed: Iterable[Mapping[str, Any]],
    flat: Iterable[Mapping[str, Any]],
    x_scale: Spec,
    ticks: Sequence[int],
    x_title: str,
    *,
    zooms: bool = False,
    logarithmic: bool = False,
) -> Spec:
    """Lines with bands, steps passed as upright lines, levels as flat ones; a point near the pointer tells its numbers."""
    x = {"field": "x", "type": "quantitative", "scale": x_scale}
    x["axis"] = {"values": list(ticks), "title": x_title, "labelOverlap": "greedy", "grid": False, "format": ",d"}
    y = _upright_axis(rows, logarithmic=logarithmic)
    drawn: Spec = {"mark": {"type": "line", "clip": True, "strokeWidth": 2.25}}
    drawn["encoding"] = {
        "x": x,
        "y": y,
        "detail": {"field": "name"},
        "opacity": FAINT,
        "color": COLOUR,
        "strokeDash": DASH,
    }
    if zooms:
        drawn["params"] = [ZOOM]
    point = {"x": x, "y": y, "tooltip": TOLD, "opacity": FAINT, "color": COLOUR}
    layers = [drawn, {"mark": {"type": "point", "filled": True, "size": 26, "clip": True}, "encoding": point}]
    if any("low" in r for r in rows):
        layers.append(_band(x, y))
    layers += [_rule(list(marks), place) for marks, place in ((passed, {"x": x}), (flat, {"y": y})) if marks]
    if not logarithmic:
        layers.append(_labels(_ends(rows, y["scale"])))
    near = {"type": "point", "filled": True, "size": 220, "clip": True}
    return layered(title, rows, [*layers, {"mark": near, "encoding": {**point, "opacity": {"value": 0.001}}}])


def _upright_axis(rows: Sequence[Mapping[str, Any]], *, logarithmic: bool) -> Spec:
    axis: Spec = {"title": None, "tickCount": 5}
    if logarithmic:
        return {"field": "y", "type": "quantitative", "scale": {"type": "log"}, "axis": axis}
    ends = {"domainMin": min([0.0, *(r["y"] for r in rows)]), "domainMax": max([1.01, *(r["y"] for r in rows)])}
    return {"field": "y", "type": "quantitative", "scale": ends, "axis": {**axis, "format": ".0%"}}


def _band(x: Spec, y: Spec) -> Spec:
    faint = {"condition": {"test": CHOSEN, "value": 0.14}, "value": 0.03}
    bounds = {"x": x, "y": {**y, "field": "low"}, "y2": {"field": "high"}, "detail": {"field": "name"}}
    known = [{"filter": "isValid(datum.low)"}]
    return {
        "mark": {"type": "area", "clip": True},
        "transform": known,
        "encoding": {**bounds, "color": COLOUR, "opacity": faint},
    }


def _rule(marks: list[Mapping[str, Any]], place: Spec) -> Spec:
    encoding = {**place, "tooltip": TOLD, "opacity": FAINT, "color": COLOUR}
    return {
        "data": {"values": marks},
        "mark": {"type": "rule", "clip": True, "strokeDash": [3, 3]},
        "encoding": encoding,
    }


def _labels(ends: list[dict[str, Any]]) -> Spec:
    mark = {
        "type": "text",
        "clip": False,
        "align": "left",
        "dx": 8,
        "fontWeight": 600,
        "fontSize": 12.5,
        "baseline": "middle",
    }
    place = {"x": {"value": "width"}, "y": {"field": "place", "type": "quantitative", "scale": None, "axis": None}}
    text = {"text": {"field": "short"}, "tooltip": {"field": "name"}, "opacity": FAINT, "color": COLOUR}
    return {"data": {"values": ends}, "mark": mark, "encoding": {**place, **text}}


def _ends(rows: Sequence[Mapping[str, Any]], scale: Mapping[str, float]) -> list[dict[str, Any]]:
    """The name of each curve beside its end, kept apart from the others."""
    last = list({row["name"]: row for row in rows}.values())
    low, high = scale["domainMin"], scale["domainMax"]
    heights = spread([BOTTOM - HEIGHT * (row["y"] - low) / (high - low) for row in last])
    return [
        {
            "name": row["name"], "short": words.shorten(row["name"], 12), "subject": row["subject"], "style": row["style"],
            "place": height - TOP,
        }
        for row, height in zip(last, heights, strict=True)
    ]  # fmt: skip


def layered(title: str, rows: Sequence[Mapping[str, Any]], layers: list[Spec]) -> Spec:
    """A chart of several layers over the same rows, as wide as the page."""
    return {
        "description": title,
        "width": "container",
        "height": HEIGHT,
        "padding": {"left": 0, "right": 6, "top": 5, "bottom": 2},
        "autosize": {"type": "fit-x", "contains": "padding"},
        "data": {"values": list(rows)},
        "params": [{"name": "chosen", "value": None}],
        "layer": layers,
    }


def tips(fields: Sequence[tuple[str, str]]) -> list[Spec]:
    """What a tooltip shows: fields of a row and their names."""
    return [{"field": field, "title": title, "type": "nominal"} for field, title in fields]
