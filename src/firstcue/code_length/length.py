"""The length of a code and what is read off it: an interval over seeds, the learning curve, and comparisons."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float


@dataclass(frozen=True)
class Point:
    """One point of the learning curve."""

    rows: int
    """Rows the model was trained on."""

    bits: float
    """Cross-entropy on the chunk that follows, bits per row, mean over seeds."""

    ci_low: float
    ci_high: float

    held_out_bits: float
    """The same on one fixed block, the last chunk, which makes points comparable."""


@dataclass(frozen=True)
class PowerLaw:
    """held-out bits = scale * rows^(-exponent), by least squares in logarithms."""

    scale: float
    exponent: float
    """How fast loss falls; 0 is no learning."""

    error: float
    """Root mean squared residual, in natural logarithms."""


@dataclass(frozen=True)
class CodeLength:
    """Bits per row that it takes to send labels with a code that learns as it goes: low is fast learning.

    Intervals are Student t intervals over seeds, NaN with a single one.
    """

    bits_per_sample: float
    """The prequential code: a uniform one for the first chunk, then each chunk by a model trained on all before."""

    ci_low: float
    ci_high: float

    curve: tuple[Point, ...]
    reference: float
    """The published form: losses on the last chunk, weighted by cumulative sizes, over the number of rows. Its weights do
    not sum to one: guessing costs `reference_chance`."""

    reference_ci_low: float
    reference_ci_high: float

    chance: float
    """Bits per row of guessing: log2 of the number of classes."""

    reference_chance: float
    area: float
    """Mean height of the curve of held-out bits over the logarithm of rows."""

    power_law: PowerLaw
    sizes: tuple[int, ...]
    seeds: tuple[int, ...]
    by_seed: tuple[float, ...]
    """`bits_per_sample` of every seed, for paired comparisons."""

    reference_by_seed: tuple[float, ...]
    area_by_seed: tuple[float, ...]


@dataclass(frozen=True)
class Difference:
    """A mean over paired seeds, with its Student t interval."""

    value: float
    ci_low: float
    ci_high: float
    n: int
    """Seeds."""


def code_length(
    next_bits: Float[np.ndarray, "s m"],
    held_bits: Float[np.ndarray, "s m"],
    sizes: Sequence[int],
    num_classes: int,
    seeds: Sequence[int],
) -> CodeLength:
    """Everything that follows from the losses.

    Args:
        next_bits: Cross-entropy, in bits per row, of the model trained on the first i + 1 chunks on chunk i + 2; a row per
            seed, one column fewer than there are chunks.
        held_bits: The same models on the last chunk.
        sizes: Of the chunks.
        num_classes: Number of classes.
        seeds: One per row.

    Example:
        >>> two = code_length(np.array([[1.0]]), np.array([[1.0]]), (50, 150), 4, [0])
        >>> two.bits_per_sample  # 50 rows at 2 bits, 150 at 1
        1.25
    """
    parts, ends = np.asarray(sizes, dtype=float), np.cumsum(sizes)
    total, chance = float(ends[-1]), math.log2(num_classes)
    by_seed = (parts[0] * chance + next_bits @ parts[1:]) / total
    reference = held_bits @ ends[1:] / total
    areas = np.array([_area(ends[:-1], losses) for losses in held_bits])
    mean, low, high = t_interval(by_seed)
    reference_mean, reference_low, reference_high = t_interval(reference)
    points = tuple(
        Point(int(rows), *t_interval(next_bits[:, i]), held_out_bits=float(held_bits[:, i].mean()))
        for i, rows in enumerate(ends[:-1])
    )
    return CodeLength(
        bits_per_sample=mean,
        ci_low=low,
        ci_high=high,
        curve=points,
        reference=reference_mean,
        reference_ci_low=reference_low,
        reference_ci_high=reference_high,
        chance=chance,
        reference_chance=chance * float(ends[1:].sum()) / total,
        area=float(areas.mean()),
        power_law=power_law(ends[:-1], held_bits.mean(axis=0)),
        sizes=tuple(sizes),
        seeds=tuple(seeds),
        by_seed=tuple(by_seed.tolist()),
        reference_by_seed=tuple(reference.tolist()),
        area_by_seed=tuple(areas.tolist()),
    )


def difference(one: CodeLength, other: CodeLength, form: str = "by_seed") -> Difference:
    """How many bits per row `one` is longer than `other`, paired by seed: the same rows in the same order.

    Args:
        one: The code whose surplus is asked for.
        other: Of the same data, cut in the same way, with seeds in common.
        form: "by_seed" for the prequential code, "reference_by_seed" for the published form, "area_by_seed" for the area.

    Raises:
        ValueError: If there are no seeds in common, or the chunks differ.

    Example:
        >>> losses = np.array([[1.0], [1.2]])
        >>> slow, fast = (code_length(scale * losses, losses, (50, 150), 4, [0, 1]) for scale in (1.5, 1.0))
        >>> round(difference(slow, fast).value, 4)
        0.4125
    """
    if form not in ("by_seed", "reference_by_seed", "area_by_seed"):
        raise ValueError(f"`form` is 'by_seed', 'reference_by_seed' or 'area_by_seed'; got {form!r}.")
    if one.sizes != other.sizes:
        raise ValueError(f"chunks of {one.sizes} and of {other.sizes} rows cannot be compared; cut both alike.")
    first, second = (dict(zip(c.seeds, getattr(c, form), strict=True)) for c in (one, other))
    common = [seed for seed in first if seed in second]
    if not common:
        raise ValueError(
            f"seeds {one.seeds} and {other.seeds} have none in common; a paired comparison needs the same."
        )
    return Difference(*t_interval([first[seed] - second[seed] for seed in common]), n=len(common))


def power_law(rows: Sequence[int] | np.ndarray, bits: Sequence[float] | np.ndarray) -> PowerLaw:
    """The line through the logarithms; NaN where a loss is zero or not finite.

    Example:
        >>> fit = power_law([10, 100, 1000], [2.0, 0.2, 0.02])
        >>> round(fit.scale, 6), round(fit.exponent, 6)
        (20.0, 1.0)
    """
    height = np.asarray(bits, dtype=float)
    if len(height) < 2 or not (np.isfinite(height).all() and (height > 0).all()):
        return PowerLaw(math.nan, math.nan, math.nan)
    x, y = np.log(np.asarray(rows, dtype=float)), np.log(height)
    slope, start = np.polyfit(x, y, 1)
    return PowerLaw(float(np.exp(start)), float(-slope), float(np.sqrt(np.mean((start + slope * x - y) ** 2))))


def t_interval(values: Sequence[float] | np.ndarray) -> tuple[float, float, float]:
    """Mean and 95 % Student t interval of independent values; NaN for the ends where there is none."""
    from scipy import stats

    mean = float(np.mean(values))
    if len(values) < 2 or not math.isfinite(mean):
        return mean, math.nan, math.nan
    half = float(stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / math.sqrt(len(values)))
    return mean, mean - half, mean + half


def _area(rows: np.ndarray, bits: np.ndarray) -> float:
    if len(rows) < 2:
        return float(bits[0])
    at = np.log(rows)
    return float(np.trapezoid(bits, at) / (at[-1] - at[0]))
