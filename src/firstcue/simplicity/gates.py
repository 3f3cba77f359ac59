"""Does a density measure simplicity, or only what it is used to? A short examination on pictures whose order is beyond doubt."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from firstcue.simplicity import _pictures as pictures
from firstcue.simplicity.density import Density, bits

NOISE_RANGE = (7.5, 13.0)
"""Bits per value of uniform noise: eight write it down, and a density over continuous values may need more."""
FEWEST_CORRELATION = 0.9
MOST_INVERTED = 0.15
MOST_SHIFTED = 0.05
CONTRASTS = 10
BLURS = (1.0, 2.0)
SIMPLE = 64
"""Constants, ramps and noises that are measured."""


@dataclass(frozen=True)
class Row:
    """One demand of the gate."""

    name: str
    """What is compared."""

    value: float
    """What was measured."""

    demand: str
    """What it has to be."""

    passed: bool


@dataclass(frozen=True)
class Gate:
    """What a density answered to every demand."""

    rows: tuple[Row, ...]

    bits_per_value: dict[str, float]
    """Mean bits per value of each kind of picture."""

    @property
    def passed(self) -> bool:
        """Whether every demand is met."""
        return all(row.passed for row in self.rows)

    def to_rows(self) -> list[dict[str, Any]]:
        """Plain values, one dictionary per demand."""
        return [vars(row) | {} for row in self.rows]

    def __str__(self) -> str:
        lines = [f"{name:<28} {value:7.3f} bits per value" for name, value in self.bits_per_value.items()]
        lines += [f"{'ok  ' if r.passed else 'FAIL'} {r.name:<48} {r.value:8.3f}  {r.demand}" for r in self.rows]
        return "\n".join(lines)


def release_gate(density: Density, *, objects: int = 300, seed: int = 0) -> Gate:
    """Examine whether a density orders pictures by how simple they are: what every shipped density has to pass.

    Pictures are constants, ramps, noise, the garments that firstcue ships, digits and patches of photographs; of the real
    ones, none that a shipped density has learnt from. In the mean over them:

    - constants need fewer bits than ramps, ramps fewer than garments, digits and patches, and those fewer than noise;
    - uniform noise needs 7.5 to 13 bits per value;
    - with ten contrasts towards the background (black for garments, their mean for patches), bits rise with contrast
      (Spearman's correlation above 0.9);
    - blurred garments and patches need fewer bits than sharp ones, and more blurred ones fewer still;
    - inverted patches need within 15 % of the bits of patches;
    - a shift by one pixel, down or to the right, changes the bits of garments, digits and patches by at most 5 %.

    Args:
        density: For grey images of any size, or of one size of at least 8 x 8.
        objects: How many of each real kind.
        seed: Of the draws.

    Returns:
        Every demand with its value; `print` shows them.

    Raises:
        ValueError: If the density is of vectors or of images with several channels, or of images below 8 x 8.

    Example:
        >>> from firstcue.simplicity.density import Uniform
        >>> release_gate(Uniform(), objects=4).passed
        False
    """
    size = _size(density)
    sets = _sets(size, objects, torch.Generator().manual_seed(seed))
    mean = _Mean(density)
    levels = {name: mean(x) for name, x in sets.items() if not name.startswith("moved")}
    real = ("garments", "digits", "patches")
    rows = [_below(levels, "constants", "ramps")]
    rows += [_below(levels, "ramps", name) for name in real]
    rows += [_below(levels, name, "noise") for name in real]
    rows.append(_within("noise, bits per value", levels["noise"], *NOISE_RANGE))
    rows += _contrast_rows(mean, sets)
    rows += _blur_rows(mean, sets, levels)
    rows.append(_change("patches, inverted", levels["patches"], mean(1 - sets["patches"]), MOST_INVERTED))
    rows += _shift_rows(mean, sets, levels)
    return Gate(tuple(rows), levels)


class _Mean:
    """Mean bits per value of a set of images, clamped to what an image may be."""

    def __init__(self, density: Density) -> None:
        self.density = density

    def __call__(self, x: Tensor) -> float:
        return float(bits(self.density, x.clamp(0, 1), n_dequant=2).double().mean()) / x[0].numel()


def _size(density: Density) -> tuple[int, int]:
    """Height and width of the pictures to show it."""
    if density.shape is None:
        return pictures.SIZE, pictures.SIZE
    if len(density.shape) != 3 or density.shape[0] != 1 or min(density.shape[1:]) < 8:
        raise ValueError(
            f"the gate shows grey images of at least 8 x 8, but this density knows {tuple(density.shape)} only. For colour, compare "
            f"`bits` of your own constants, ramps, objects and noise."
        )
    return density.shape[1], density.shape[2]


def _sets(size: tuple[int, int], objects: int, generator: torch.Generator) -> dict[str, Tensor]:
    constants = torch.linspace(0, 1, SIMPLE).view(-1, 1, 1, 1).expand(-1, 1, *size)
    ramps, noise = pictures.ramps(SIMPLE, generator, size), pictures.noise(SIMPLE, generator, size)
    larger = (size[0] + 1, size[1] + 1)
    patches = pictures.patches(objects, generator, "test", larger)
    garments = pictures.resized(pictures.held_out_garments(objects), size)
    digits = pictures.smooth_digits("test", size)[:objects]
    return {
        "constants": constants,
        "ramps": ramps,
        "garments": garments,
        "digits": digits,
        "patches": patches[..., :-1, :-1],
        "noise": noise,
        "moved patches, down": patches[..., 1:, :-1],
        "moved patches, right": patches[..., :-1, 1:],
        **{
            f"moved {name}, {way}": pictures.shifted(x, int(way == "down"), int(way == "right"))
            for name, x in (("garments", garments), ("digits", digits))
            for way in ("down", "right")
        },
    }


def _contrast_rows(mean: _Mean, sets: dict[str, Tensor]) -> Iterator[Row]:
    from scipy.stats import spearmanr

    factors = torch.linspace(0.1, 1, CONTRASTS).tolist()
    patches = sets["patches"]
    backgrounds = {"garments": torch.zeros(()), "patches": patches.mean((1, 2, 3), keepdim=True)}
    for name, background in backgrounds.items():
        found = [mean(pictures.contrasted(sets[name], factor, background)) for factor in factors]
        value = float(spearmanr(factors, found).statistic) if max(found) > min(found) else 0.0
        yield Row(
            f"{name}: bits rise with contrast, Spearman", value, f"> {FEWEST_CORRELATION}", value > FEWEST_CORRELATION
        )


def _blur_rows(mean: _Mean, sets: dict[str, Tensor], levels: dict[str, float]) -> Iterator[Row]:
    for name in ("garments", "patches"):
        sharper = levels[name]
        for sigma in BLURS:
            blurred = mean(pictures.blurred(sets[name], sigma))
            ratio = blurred / sharper if sharper else float("nan")
            yield Row(f"{name} blurred by {sigma:g}, of the sharper", ratio, "< 1", ratio < 1)
            sharper = blurred


def _shift_rows(mean: _Mean, sets: dict[str, Tensor], levels: dict[str, float]) -> Iterator[Row]:
    for name, x in sets.items():
        if name.startswith("moved"):
            kind, way = name.removeprefix("moved ").split(", ")
            yield _change(f"{kind}, a pixel {way}", levels[kind], mean(x), MOST_SHIFTED)


def _below(levels: dict[str, float], cheap: str, dear: str) -> Row:
    difference = levels[dear] - levels[cheap]
    return Row(f"{cheap} below {dear}, by", difference, "> 0", difference > 0)


def _within(name: str, value: float, low: float, high: float) -> Row:
    return Row(name, value, f"{low:g} to {high:g}", low <= value <= high)


def _change(name: str, before: float, after: float, most: float) -> Row:
    value = after / before - 1 if before else float("nan")
    return Row(f"{name}: relative change", value, f"within {most:.0%}", abs(value) <= most)
