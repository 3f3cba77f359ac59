"""A small chart of lines or bars as plain positions, and the geometry that all of them share."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from firstcue.report.figures import Scale

WIDTH, HEIGHT = 300, 214
LEFT, RIGHT, TOP, BOTTOM = 44.0, 218.0, 10.0, 176.0


@dataclass(frozen=True)
class Curve:
    """One line of a panel, ready to draw."""

    name: str
    style: str
    path: str
    band: str
    dots: tuple[tuple[float, float], ...]
    end: tuple[float, float]
    label_y: float
    mark: tuple[float, str] | None = None
    """Where the threshold was passed: position and step."""
    level: float | None = None
    """Height of a dotted line that the curve is to be seen beside."""


@dataclass(frozen=True)
class Bar:
    """One bar, and the outline of what chance would give there."""

    x: float
    width: float
    y: float
    chance_y: float | None
    label: str


@dataclass(frozen=True)
class Panel:
    """One small chart."""

    title: str
    description: str
    x_title: str
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]
    curves: tuple[Curve, ...] = ()
    bars: tuple[Bar, ...] = ()
    hidden: int = 0
    note: str = ""
    """A caption."""
    name: str = ""
    """By which the data of an interactive chart finds its place."""
    width: int = WIDTH
    height: int = HEIGHT
    left: float = LEFT
    right: float = RIGHT
    top: float = TOP
    bottom: float = BOTTOM


def across(value: int | float, last: int | float, first: int = 0) -> float:
    """Position of `value` on a logarithmic horizontal axis from `first` to `last`."""
    length = math.log1p(max(last, first + 1)) - math.log1p(first)
    return round(LEFT + (RIGHT - LEFT) * (math.log1p(value) - math.log1p(first)) / length, 1)


def upward(value: float, axis: Scale) -> float:
    """Height of `value` on a vertical axis."""
    return round(BOTTOM - (BOTTOM - TOP) * (axis(value) or 0.0) / 100, 1)


def powers(last: int, first: int = 0) -> list[int]:
    """Ticks of a logarithmic axis: `first`, powers of ten, and the last value unless it would touch the one before."""
    ticks = sorted({first, *(10**i for i in range(12) if first <= 10**i <= last)})
    return ticks if last < 2 * ticks[-1] and last != ticks[-1] else sorted({*ticks, last})


def line(points: Sequence[tuple[float, float]]) -> str:
    """An SVG path through `points`."""
    return "M" + "L".join(f"{x:g} {y:g}" for x, y in points)


def runs(points: list[tuple[float, float] | None]) -> list[list[tuple[float, float]]]:
    """Stretches without a gap."""
    found: list[list[tuple[float, float]]] = [[]]
    for point in points:
        if point is None:
            found.append([])
        else:
            found[-1].append(point)
    return [run for run in found if run]


def spread(wanted: list[float], apart: float = 14.0) -> list[float]:
    """Heights near the wanted ones, no two closer than `apart`, all inside the panel where they fit."""
    places = sorted(range(len(wanted)), key=lambda i: wanted[i])
    heights: list[float] = []
    for i in places:
        heights.append(max(wanted[i], heights[-1] + apart) if heights else max(wanted[i], TOP))
    over = max(0.0, heights[-1] - BOTTOM) if heights else 0.0
    for at in range(len(heights) - 1, -1, -1):
        ceiling = heights[at + 1] - apart if at + 1 < len(heights) else BOTTOM
        heights[at] = min(heights[at], ceiling) if over else heights[at]
    return [round(h, 1) for _, h in sorted(zip(places, heights, strict=True))]
