"""Batch after batch of images in [0, 1], for as long as a fit asks."""

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from firstcue.batch import Batch
from firstcue.simplicity.density import Density, Uniform, require_inputs
from firstcue.training.loop import minibatches

Pair = tuple[Tensor, Tensor | None]
"""Images, and labels where there are any."""


def endless(
    batches: Any, density: Density | None, like: Tensor, needed: int, *, batch_size: int, seed: int
) -> Iterator[Pair]:
    """Images and labels on the device and in the dtype of `like`, over as many passes as it takes.

    Args:
        batches: A `Batch` or pair `(x, y)` or images `x`, shuffled anew in every pass, or an iterable of those.
        density: Says which images are possible.
        like: A parameter.
        needed: How many will be asked for, for the error.
        batch_size: Rows of a mini-batch, where `batches` are rows.
        seed: Of the shuffling.

    Raises:
        ValueError: If a pass yields nothing, something else, or images outside [0, 1].
    """
    given, number = 0, 0
    while True:
        before = given
        for item in one_pass(batches, batch_size, 1009 * seed + number):
            x, y = _pair(item)
            require_inputs(density if density is not None else Uniform(), x)
            yield x.to(like.device, like.dtype), None if y is None else y.to(like.device)
            given += 1
        if given == before:
            raise ValueError(
                f"`batches` yielded {given} batches but {needed} steps need one each; a generator can be read once only: "
                f"give a Batch, a DataLoader or a list."
            )
        number += 1


def one_pass(batches: Any, batch_size: int, seed: int) -> Iterable[Any]:
    """All rows once."""
    if isinstance(batches, Tensor):
        order = torch.randperm(len(batches), generator=torch.Generator().manual_seed(seed))
        return (batches[part] for part in order.split(batch_size))
    if _is_rows(batches):
        batches = Batch(*batches)
    return minibatches(batches, batch_size, seed=seed) if isinstance(batches, Batch) else batches


def first_images(batches: Any, most: int = 1) -> Tensor | None:
    """The first images, at most so many, where looking does not use them up."""
    if isinstance(batches, Iterator):
        return None
    if isinstance(batches, Tensor | Batch) or _is_rows(batches):
        return (batches if isinstance(batches, Tensor) else _pair(batches)[0])[:most]
    found: list[Tensor] = []
    for item in batches:
        found.append(_pair(item)[0])
        if sum(map(len, found)) >= most:
            break
    return torch.cat(found)[:most] if found else None


def _is_rows(batches: Any) -> bool:
    """Whether this is one pair of images and labels, and not two batches."""
    if not isinstance(batches, tuple | list) or len(batches) != 2:
        return False
    x, y = batches
    return isinstance(x, Tensor) and isinstance(y, Tensor) and y.ndim == 1 and len(x) == len(y)


def _pair(item: Any) -> Pair:
    if isinstance(item, Batch):
        return item.x, item.y
    if isinstance(item, Tensor):
        return item, None
    if isinstance(item, tuple | list) and len(item) > 1 and all(isinstance(part, Tensor) for part in item[:2]):
        return item[0], item[1]
    raise ValueError(
        f"`batches` yields a {type(item).__name__}; a Batch, (x, y) or, for a frozen classifier, x is needed."
    )
