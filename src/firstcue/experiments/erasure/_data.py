"""Images with their class erased: a pool of rows on which each method is fitted, and from which trials draw."""

import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from firstcue.batch import Batch
from firstcue.data import read
from firstcue.erasure.affine import AffineEraser
from firstcue.erasure.alf_qleace import alf_qleace
from firstcue.erasure.gradient import gradient_erasure
from firstcue.erasure.leace import leace
from firstcue.erasure.qleace import qleace
from firstcue.erasure.report import edit_report
from firstcue.experiments.erasure._augment import augmented
from firstcue.experiments.erasure._nets import Shape
from firstcue.moments import Moments
from firstcue.shrinkage import random_matrix_shrinkage

ERASERS = ("control", "leace", "qleace", "alf-qleace", "gradient", "gradient-close", "random")
GRADIENT: dict[str, Any] = {
    "gradient": {"preset": "cifar10", "target": "global"},
    "gradient-close": {"preset": "close", "target": "barycenter"},
}
POOL_SEED = 12345


@dataclass(frozen=True)
class Pool:
    """Rows with pixels in [0, 1], their labels, and what erases them."""

    x: Tensor
    """`(n, d)` float32; already erased where `eraser` is None."""

    y: Tensor
    shape: Shape
    mean: Tensor
    """`(d,)` of the untouched rows; all methods are centred and scaled alike."""

    scale: float
    """Root mean variance of the untouched pixels."""

    eraser: Callable[..., Any] | None
    """Applied in the training loop, after augmentation; None when the rows are erased already."""

    facts: dict[str, float]
    """What erasing did to the pool."""


@lru_cache(maxsize=3)
def pool(source: str, side: int, rows: int, method: str, augment: str) -> Pool:
    """The data set, drawn, shrunk and erased; the same for every trial that asks for it.

    Args:
        source: What `firstcue.data.read` takes, or "svhn"; a relative path is looked for in the folder that the environment
            variable FIRSTCUE_DATA names.
        side: Pixels per side; images are averaged down to it.
        rows: How many to draw.
        method: One of `ERASERS`. "gradient" is the recipe published for images; its weights, made for 3,072 pixels, hardly move
            smaller ones. "gradient-close" reaches the target. "random" leaves data as it is: its directions belong to the trial.
        augment: As in `augmented`. Without augmentation rows are erased here, once.
    """
    batch = images(source, side)
    chosen = torch.randperm(len(batch), generator=torch.Generator().manual_seed(POOL_SEED))[:rows]
    maps, y = batch.x[chosen], batch.y[chosen]
    x, shape = maps.flatten(1), (maps.shape[1], maps.shape[2], maps.shape[3])
    generator = torch.Generator().manual_seed(POOL_SEED)
    seen = augmented(maps, augment, generator).flatten(1)
    mean, scale = seen.mean(dim=0), float(seen.var(dim=0, unbiased=False).mean().sqrt())
    if method in ("control", "random"):
        return Pool(x, y, shape, mean, scale, None, {})
    if method in GRADIENT:
        edited = gradient_erasure(x, y, box=(0.0, 1.0), **GRADIENT[method])
        return Pool(edited, y, shape, mean, scale, None, _facts(x, edited, y))
    eraser = fitted(method, seen, y)
    facts = _facts(seen, eraser(seen, y), y) | {"rank": float(eraser.rank)}
    return Pool(
        eraser(x, y) if augment == "none" else x, y, shape, mean, scale, None if augment == "none" else eraser, facts
    )


def fitted(method: str, x: Tensor, y: Tensor) -> Any:
    """The eraser of a closed form, as published: the quadratic one with shrinkage, since classes have constant pixels."""
    moments = Moments.of_groups(x, y)
    if method == "leace":
        return leace(moments)
    if method == "alf-qleace":
        return alf_qleace(moments, 0.9)
    if method != "qleace":
        raise ValueError(f"there is no method {method!r}; choose one of {', '.join(ERASERS)}.")
    with warnings.catch_warnings(record=True):  # that shrinkage leaves a gap is kept as a number, `covariance_gap`
        return qleace(moments, shrinkage=random_matrix_shrinkage)


def random_projection(rank: int, mean: Tensor, seed: int) -> AffineEraser:
    """Removes `rank` directions drawn at random: what erasing as many without aim costs."""
    generator = torch.Generator().manual_seed(seed)
    directions = torch.linalg.qr(torch.randn(len(mean), rank, generator=generator, dtype=torch.float64)).Q
    return AffineEraser(directions, directions, mean.double())


@lru_cache(maxsize=4)
def images(source: str, side: int) -> Batch:
    """All images of a source, averaged down to `side` pixels."""
    batch = _read(source)
    return Batch(adaptive_avg_pool2d(batch.x, side) if batch.x.shape[-1] > side else batch.x, batch.y)


def _read(source: str) -> Batch:
    if source.startswith("builtin:"):
        return read(source)
    folder = Path(os.environ.get("FIRSTCUE_DATA", "."))
    if source == "svhn":
        return _svhn(folder / "svhn" / "train_32x32.mat")
    if not (folder / source).exists():
        raise ValueError(
            f"{source} is not in {str(folder)!r}; put it there, or name the folder that holds it: FIRSTCUE_DATA=/path/to/data."
        )
    return read(folder / source)


def _svhn(path: Path) -> Batch:
    from scipy.io import loadmat

    if not path.is_file():
        raise ValueError(
            f"{str(path)!r} is missing: the cropped digits of SVHN, format 2. Name the folder above: FIRSTCUE_DATA=/path/to/data."
        )
    content = loadmat(path)
    x = torch.from_numpy(np.ascontiguousarray(content["X"].transpose(3, 2, 0, 1))).float() / 255
    return Batch(x, torch.from_numpy(content["y"][:, 0].astype(np.int64) % 10))


def _facts(x: Tensor, edited: Tensor, y: Tensor) -> dict[str, float]:
    found = edit_report(x, edited, y, rank=0, optimum=lambda _: None)
    kept = (
        "distortion",
        "variance_removed",
        "mean_gap_before",
        "mean_gap_after",
        "covariance_gap_before",
        "covariance_gap_after",
    )
    return {name: float(found[name] or 0.0) for name in kept}
