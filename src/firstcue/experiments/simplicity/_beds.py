"""What the experiments on simplified training share: images with two tasks, small networks, densities, one fit."""

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, interpolate

from firstcue.batch import Batch
from firstcue.data import read
from firstcue.forward import seeded
from firstcue.simplicity._pictures import contrasted, patches
from firstcue.simplicity.dct import DCTLaplace
from firstcue.simplicity.density import Density
from firstcue.simplicity.distractors import Distracted, distract
from firstcue.simplicity.loading import load_density
from firstcue.simplicity.simplify import Simplified, Simplifier
from firstcue.sweeps import Trial

Setting = Mapping[str, Any]

TRAINED_DIGITS = 1257
"""The first 70 % of scikit-learn's digits are learnt from, the rest tested on."""


def by_task(experiment: str, settings: Setting, tasks: Iterable[str], seeds: int) -> list[Trial]:
    """One trial for every density that the settings list, every task and every seed."""
    shared = {name: value for name, value in settings.items() if name != "densities"}
    return [
        Trial(experiment, {**shared, "density": density, "task": task}, seed)
        for density in settings["densities"]
        for task in tasks
        for seed in range(seeds)
    ]


def source(name: str, part: str, count: int, size: int, seed: int) -> tuple[Tensor, Tensor | None]:
    """Images `(count, 1, size, size)` in [0, 1] and their classes.

    Args:
        name: "garments" (Fashion-MNIST), "digits" (scikit-learn's) or "patches" (of its photographs, stretched to full
            contrast; no classes).
        part: "train" or "test".
        count: Rows, drawn at random, with replacement where there are fewer.
        size: Side.
        seed: Of the draw.
    """
    generator = torch.Generator().manual_seed(2 * seed + (part == "test"))
    if name == "patches":
        return _stretched(patches(count, generator, part, size)), None
    if name == "garments":
        whole = read("builtin:fashion-mnist" if part == "train" else "builtin:fashion-mnist/test")
        pool = torch.arange(len(whole))
    else:
        whole = read("builtin:digits")
        pool = torch.arange(TRAINED_DIGITS) if part == "train" else torch.arange(TRAINED_DIGITS, len(whole))
    order = torch.randperm(len(pool), generator=generator)
    rows = pool[order[:count] if count <= len(pool) else torch.randint(len(pool), (count,), generator=generator)]
    return sized(unit(whole.x[rows]), size), whole.y[rows]


def unit(x: Tensor) -> Tensor:
    """Images `(n, 1, h, w)` in [0, 1]."""
    images = x.float() if x.ndim == 4 else x.float()[:, None]
    most = float(images.max())
    return images / (255 if most > 16 else 16 if most > 1 else 1)


def sized(x: Tensor, size: int) -> Tensor:
    """Pooled where that is whole, else smoothly resized."""
    if x.shape[-1] % size == 0:
        return avg_pool2d(x, x.shape[-1] // size) if x.shape[-1] > size else x
    return interpolate(x, size=(size, size), mode="bilinear", align_corners=False, antialias=True).clamp(0, 1)


def _stretched(x: Tensor) -> Tensor:
    low, high = x.amin(dim=(1, 2, 3), keepdim=True), x.amax(dim=(1, 2, 3), keepdim=True)
    return contrasted(x, 1 / (high - low).clamp_min(1e-3), low).sub(low).clamp(0, 1)


def bed(s: Setting, part: str, seed: int) -> Distracted:
    """Images of two things, labelled by the one that `task` names: "core" or "distractor"."""
    count = s["train_rows"] if part == "train" else s["test_rows"]
    core, labels = source(s["core"], part, count, s["size"], seed)
    given: dict[str, Any] = {}
    if s["kind"] in ("blend", "side"):
        given["distractor"], given["distractor_labels"] = source(s["distractor"], part, count, s["size"], seed + 1000)
    made = distract(core, s["kind"], labels=labels, strength=s.get("strength"), seed=seed, **given)
    return made if s["task"] == "core" else made.swapped()


def batch_of(made: Distracted) -> Batch:
    """Images and the labels of the task."""
    assert made.labels is not None
    return Batch(made.images, made.labels)


def plain(s: Setting, part: str, seed: int) -> Batch:
    """Images without any distraction."""
    x, y = source(s["core"], part, s["train_rows"] if part == "train" else s["test_rows"], s["size"], seed)
    assert y is not None
    return Batch(x, y)


def narrow(size: int, classes: int, width: int) -> nn.Module:
    """Two convolutions and a linear head; the network that simplifiers are trained beside."""
    side = size // 4
    return nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1), nn.ELU(), nn.AvgPool2d(2),
        nn.Conv2d(width, 2 * width, 3, padding=1), nn.ELU(), nn.AvgPool2d(2),
        nn.Flatten(), nn.Linear(2 * width * side * side, classes),
    )  # fmt: skip


def dense(size: int, classes: int, width: int) -> nn.Module:
    """Two hidden layers without convolutions; a network of another kind."""
    return nn.Sequential(
        nn.Flatten(), nn.Linear(size * size, 8 * width), nn.ELU(),
        nn.Linear(8 * width, 8 * width), nn.ELU(), nn.Linear(8 * width, classes),
    )  # fmt: skip


def makers(s: Setting, classes: int) -> dict[str, Any]:
    """Builders of classifiers by kind."""
    return {
        "convolutional": partial(narrow, s["size"], classes, s["channels"]),
        "dense": partial(dense, s["size"], classes, s["channels"]),
    }


def density_of(name: str, images: Tensor) -> Density:
    """A density by name: one that ships, or "dct-fitted", whose scales are those of these images."""
    density: Density = DCTLaplace.fit(images) if name == "dct-fitted" else load_density(name)
    return density


def fitted(s: Setting, density: Density, batch: Batch, classes: int, seed: int, **more: Any) -> Simplified:
    """A simplifier trained beside the convolutional network, with the settings of a trial."""
    with seeded(seed):
        classifier = makers(s, classes)["convolutional"]()
    names = ("lam", "share", "warmup", "steps", "strategy", "tau", "d_max", "rate", "classifier_rate", "batch_size")
    given = {name: s[name] for name in names if name in s} | more
    return Simplifier(s["head"], s["width"]).fit(classifier, density, batch, seed=seed, **given)
