"""A repair that goes on training a model on images which a simplifier takes bits from."""

import time
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from firstcue.auditing.anew import Asked, divided
from firstcue.batch import Batch
from firstcue.finding import Groups
from firstcue.simplicity.density import bits
from firstcue.simplicity.ranges import UnitImages, fitting_density, unit_images
from firstcue.simplicity.simplify import simplified_training

SHOWN = 200
"""Report rows whose bits are measured."""


@dataclass(frozen=True)
class Simplifying:
    """How a simplifier is trained beside the model."""

    density: str | None
    """Name or file of the density that counts bits; the shipped one that knows such images when None."""
    lam: int | float
    """Weight of the bits, to start from where there is a share."""
    share: int | float | None
    """Share of the bits to arrive at."""
    steps: int


@dataclass(frozen=True)
class TrainedSimply:
    """The model trained on, and the groups before and after on originals that report."""

    model: nn.Module
    before: Groups
    after: Groups
    cue: str | None
    rows: int
    note: str
    seconds: float
    density: str


def train_simply(asked: Asked, plan: Simplifying) -> TrainedSimply:
    """Train a copy of the model on simplified images, with a look ahead at the originals, and judge it on originals.

    Raises:
        ValueError: If inputs are no images, or the density cannot be optimised.
    """
    began = time.perf_counter()
    rows = divided(asked)
    unit = unit_images(rows.train.x)
    if unit is None:
        raise ValueError(
            f"simplifying takes bits from images (n, channels, height, width); the inputs have shape {tuple(rows.train.x.shape)}."
        )
    density, name = fitting_density(unit.images[:1], plan.density)
    fit = simplified_training(
        _Scaled(asked.model, unit), density, Batch(unit.images, rows.train.y), lam=plan.lam, share=plan.share, steps=plan.steps, warmup=0,
        seed=asked.seed, progress=asked.progress,
    )  # fmt: skip
    assert isinstance(fit.classifier, _Scaled)
    images = unit.from_inputs(rows.reports.x[:SHOWN])
    before, after = (float(bits(density, x, seed=asked.seed).mean()) for x in (images, fit(images)))
    note = f"simplified images have {after:.0f} bits instead of {before:.0f} under {name}"
    return TrainedSimply(
        fit.classifier.model,
        rows.told(asked.model, asked.batch_size),
        rows.told(fit.classifier.model, asked.batch_size),
        rows.cue,
        len(rows.train),
        "; ".join(filter(None, (note, unit.note.rstrip("."), *fit.warnings))),
        time.perf_counter() - began,
        name,
    )


class _Scaled(nn.Module):
    """The model behind the way from [0, 1] to its own range."""

    def __init__(self, model: nn.Module, unit: UnitImages) -> None:
        super().__init__()
        self.model = model
        self.to_inputs = unit.to_inputs

    def forward(self, x: Tensor) -> Any:
        return self.model(self.to_inputs(x))
