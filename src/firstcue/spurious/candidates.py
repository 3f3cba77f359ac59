"""From what goes with the class to candidates for a cue: each named once, with all that only follows it set aside.

A patch in a corner moves the brightness of the corner, of the half around it and of the whole picture. The property that
tells the class best is taken, what varies with it *within* a class is taken out of all others, and they are scanned again.
Within a class, because cue and core go with the class both, and would otherwise explain each other away.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from firstcue.spurious.image_properties import Cell, carried, carry_mask, mask_of, place_name
from firstcue.spurious.intervals import holm
from firstcue.spurious.properties import Property
from firstcue.spurious.scan import Scanned, folds_of, property_scan, scanned

LEVEL = 0.01
"""Adjusted p-value that a candidate needs."""

FLOOR = 0.1
"""Strength that a candidate needs: share of the way from chance to certainty on held-out rows."""

EQUAL = 0.99
"""Strength from which a property is taken to be the label under another name."""

TOGETHER = 0.22
"""Correlation within classes, over that of the part that varies most, from which a neighbour belongs to the same cue."""

TELLING = 0.25
"""Strength of a cell, over that of the part that varies most, that it needs to belong to the same cue."""

LOCAL = 0.8
"""Share of a property's strength that the best part of a place has to have for the place to be named instead."""

SAME = 0.6
"""Correlation within classes from which two properties say the same of the rows."""

MOST = 5


@dataclass(frozen=True)
class Chosen:
    """A property that tells the class, and what else told the class only by way of it."""

    property: Property
    scanned: Scanned
    follows: tuple[str, ...] = ()


def choose(
    properties: Sequence[Property],
    y: np.ndarray,
    *,
    shape: tuple[int, int] | None = None,
    most: int = MOST,
    level: float = LEVEL,
    floor: float = FLOOR,
    seed: int = 0,
) -> tuple[tuple[Chosen, ...], tuple[Scanned, ...]]:
    """Candidates, the strongest first, and the scan of every property as it stands.

    Args:
        properties: From `properties_of`.
        y: `(n,)` class ids.
        shape: Height and width of the images, to grow a cell into the region that varies with it.
        most: Candidates at the most.
        level: Adjusted p-value that a candidate needs, and
        floor: strength that it needs.
        seed: Of the folds.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> y = np.arange(600) % 2
        >>> light = y + 0.3 * rng.normal(size=600)
        >>> seen = [Property("light", light), Property("light of a part", light + 0.1 * rng.normal(size=600))]
        >>> [(c.property.name, c.follows) for c in choose(seen, y)[0]]
        [('light', ('light of a part',))]
    """
    y = np.asarray(y, dtype=np.int64)
    scan = property_scan(properties, y, seed=seed)
    fold = folds_of(y, seed)
    current = list(scan)
    left = {i for i, s in enumerate(scan) if _passes(s, level, floor)}
    values = [p.values for p in properties]
    found: list[Chosen] = []
    while left and len(found) < most:
        i = _simplest(properties, current, left, len(y))
        lead, places = i, [c.property.cell for c in found if c.property.cell is not None]
        i, grown = _located(properties, lead, scan, y, shape, places)
        left -= {lead, i}
        again = next((n for n, c in enumerate(found) if c.property.name == grown.name), None)
        if again is not None:
            found[again] = replace(found[again], follows=(*found[again].follows, properties[lead].name))
            continue
        same = {
            j
            for j in left
            if _inside(properties[j].cell, grown.cell)
            or _says_the_same(properties[i], scan[i], properties[j], scan[j], y)
        }
        left -= same
        after = {j: _without(values[j], properties[j], i, properties, scan[i], y) for j in left}
        values = [after.get(j, v) for j, v in enumerate(values)]
        current, still = _again(properties, values, current, left, y, fold, level, floor)
        follows = tuple(properties[j].name for j in sorted(same | (left - still)))
        found.append(Chosen(grown, scan[i], follows))
        left = still
    return tuple(found), scan


def _passes(s: Scanned, level: float, floor: float) -> bool:
    return s.p_adjusted < level and s.strength >= floor


def _simplest(properties: Sequence[Property], scan: Sequence[Scanned], left: set[int], n: int) -> int:
    """The best one, or the first in order of simplicity that is as good within its error."""
    value = {j: scan[j].balanced_accuracy - properties[j].handicap for j in left}
    best = max(value.values())
    slack = 1.5 * (best * (1 - best) / n) ** 0.5
    return min(j for j in left if value[j] >= best - slack)


def _again(
    properties: Sequence[Property],
    values: list[np.ndarray],
    current: list[Scanned],
    left: set[int],
    y: np.ndarray,
    fold: np.ndarray,
    level: float,
    floor: float,
) -> tuple[list[Scanned], set[int]]:
    """Scan what is left of the others; p-values stay corrected for all properties looked at."""
    now, order = list(current), sorted(left)
    raw = {j: scanned(values[j], properties[j].levels, y, fold) for j in order}
    p_values = [raw[j].p_value if j in raw else 1.0 for j in range(len(now))]
    adjusted = holm(p_values)
    for j in order:
        r = raw[j]
        now[j] = Scanned(properties[j].name, r.accuracy, r.score, r.bits, r.p_value, adjusted[j], r.rule)
    return now, {j for j in order if _passes(now[j], level, floor)}


def _without(
    values: np.ndarray, target: Property, i: int, properties: Sequence[Property], s: Scanned, y: np.ndarray
) -> np.ndarray:
    """The property with what follows property `i` within classes taken out; of categories, nothing or everything."""
    cue = properties[i]
    said = s.rule(cue.values)
    regressors = [(said == k).astype(np.float64) for k in range(int(y.max()) + 1)]
    if not cue.levels:
        regressors.append(cue.values)
    design = _within(np.stack(regressors, axis=1), y)
    if target.levels:
        dummies = np.stack([values == v for v in np.unique(values)], axis=1).astype(np.float64)
        own = _within(dummies, y)
        return np.zeros_like(values) if _explained(design, own) > 0.5 else values
    own = _within(values[:, None], y)
    slope = np.linalg.lstsq(design, own, rcond=None)[0]
    return np.asarray(values - (np.stack(regressors, axis=1) @ slope)[:, 0])


def _says_the_same(a: Property, of_a: Scanned, b: Property, of_b: Scanned, y: np.ndarray) -> bool:
    """Whether both put the same rows on the side of another class than their own."""
    k = int(y.max()) + 1
    first, second = (_within(np.eye(k)[s.rule(p.values)], y) for p, s in ((a, of_a), (b, of_b)))
    size = np.sqrt((first**2).sum() * (second**2).sum())
    return bool(size > 0 and (first * second).sum() > SAME * size)


def _within(columns: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Columns with the mean of their class taken out."""
    out = columns.astype(np.float64).copy()
    for k in np.unique(y):
        out[y == k] -= out[y == k].mean(axis=0)
    return out


def _explained(design: np.ndarray, own: np.ndarray) -> float:
    """Share of the variance of `own` that `design` explains."""
    total = float((own**2).sum())
    if total == 0:
        return 1.0
    rest = own - design @ np.linalg.lstsq(design, own, rcond=None)[0]
    return 1 - float((rest**2).sum()) / total


def _located(
    properties: Sequence[Property],
    i: int,
    scan: Sequence[Scanned],
    y: np.ndarray,
    shape: tuple[int, int] | None,
    named: Sequence[Cell],
) -> tuple[int, Property]:
    """The part of the picture that varies with a property within classes, if there is one, and what tells it best there.

    A patch in a corner is read from the border and from the frequencies too; a place says what it is. What varies over
    most of the picture is the picture's: carrying it over as a place would carry the core too.
    """
    if shape is None or properties[i].measure is None:
        return i, properties[i]
    free = {
        j for j, p in enumerate(properties) if p.cell is not None and not any(_inside(p.cell, place) for place in named)
    }
    extent = _extent(properties, i, free, scan, y)
    if not extent:
        return i, properties[i]
    inside = {j for j in free if properties[j].cell in extent}
    best = _simplest(properties, scan, inside, len(y))
    box = _box(_extent(properties, best, free, scan, y) or extent)
    if _area(box) > shape[0] * shape[1] / 2:
        return i, _whole_picture(properties[i], properties)
    if properties[i].cell is None and scan[best].strength < LOCAL * scan[i].strength:
        return i, properties[i]
    what = properties[best].name.split(" of ")[0]
    carry = partial(carried, carry=carry_mask(mask_of([box], *shape)))
    return best, replace(properties[best], name=f"{what} of {place_name(box, *shape)}", carry=carry, cell=box)


def _extent(
    properties: Sequence[Property], i: int, free: set[int], scan: Sequence[Scanned], y: np.ndarray
) -> list[Cell]:
    """The connected cells that tell the class and vary with a property within classes, around the one that does most."""
    told = _within(np.eye(int(y.max()) + 1)[scan[i].rule(properties[i].values)], y)
    varies: dict[Cell, float] = {}
    tells: dict[Cell, float] = {}
    for j in sorted(free):
        cell = properties[j].cell
        assert cell is not None
        own = _within(properties[j].values[:, None], y)[:, 0]
        size = np.sqrt((own**2).sum() * (told**2).sum(axis=0))
        share = float((np.abs(own @ told) / np.maximum(size, 1e-12)).max())
        varies[cell] = max(varies.get(cell, 0.0), share)
        tells[cell] = max(tells.get(cell, 0.0), scan[j].strength)
    chance = 4 / len(y) ** 0.5
    if not varies or max(varies.values()) < chance:
        return []
    most = max(varies, key=lambda cell: varies[cell])
    least, enough = max(TOGETHER * varies[most], chance), TELLING * tells[most]
    # the patch is misread where the core is bright, so cells of the core vary with it a little; they tell much less
    return _connected(most, {cell for cell in varies if varies[cell] >= least and tells[cell] >= enough})


def _box(cells: Sequence[Cell]) -> Cell:
    return min(c[0] for c in cells), max(c[1] for c in cells), min(c[2] for c in cells), max(c[3] for c in cells)


def _whole_picture(seed: Property, properties: Sequence[Property]) -> Property:
    """The same of the whole picture; what is not of a part stays as it is."""
    what, _, where = seed.name.partition(" of ")
    if not where or what not in ("brightness", "contrast", "edges"):
        return seed
    whole = next((p for p in properties if p.name == what), None)
    return replace(seed, name=f"{what} of the picture", carry=whole.carry if whole else None, cell=None)


def _area(cell: Cell) -> int:
    return (cell[1] - cell[0]) * (cell[3] - cell[2])


def _inside(cell: Cell | None, region: Cell | None) -> bool:
    if cell is None or region is None:
        return False
    return cell[0] >= region[0] and cell[1] <= region[1] and cell[2] >= region[2] and cell[3] <= region[3]


def _connected(seed: Cell, cells: set[Cell]) -> list[Cell]:
    """Cells that can be reached from the seed through sides in common."""
    reached, waiting = {seed}, [seed]
    while waiting:
        a = waiting.pop()
        for b in cells - reached:
            if _touch(a, b):
                reached.add(b)
                waiting.append(b)
    return sorted(reached)


def _touch(a: Cell, b: Cell) -> bool:
    rows = min(a[1], b[1]) - max(a[0], b[0])
    columns = min(a[3], b[3]) - max(a[2], b[2])
    return (rows > 0 and columns == 0) or (columns > 0 and rows == 0)
