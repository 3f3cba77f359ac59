"""What a classifier returns, as logits that gradients flow through, and how it runs while images are simplified."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from firstcue.forward import one_tensor, seeded

Forward = Callable[[Tensor], Tensor]
"""From images to logits `(n, K)`."""

NORMS = (nn.modules.batchnorm._BatchNorm,)
"""Layers whose outputs depend on the other rows of the batch while they train."""


def class_logits(returned: Any, n: int) -> Float[Tensor, "n k"]:
    """Logits of `n` rows from whatever the model returned; one output f stands for the two logits [0, f].

    Raises:
        ValueError: If there is not one vector per row.
    """
    outputs = one_tensor(returned, n)
    if outputs.ndim > 2:
        raise ValueError(
            f"the classifier returns outputs of shape {tuple(outputs.shape)}; one vector of logits per image is needed: "
            f"(n, K), (n, 1) or (n,). Wrap it in a module that pools."
        )
    columns = outputs if outputs.ndim == 2 else outputs[:, None]
    return columns if columns.shape[1] > 1 else torch.cat([torch.zeros_like(columns), columns], dim=1)


@contextmanager
def training_without_batches(model: nn.Module) -> Iterator[nn.Module]:
    """Train mode with every batch normalisation in evaluation mode; afterwards flags are what they were.

    A step that looks ahead calls the model several times on different images: statistics of a batch would mix rows and be
    updated by steps that are never taken.
    """
    with _flagged(model, lambda module: not isinstance(module, NORMS)):
        yield model


@contextmanager
def evaluating(model: nn.Module) -> Iterator[nn.Module]:
    """Evaluation mode with gradients as they are; afterwards flags are what they were."""
    with _flagged(model, lambda module: False):
        yield model


@contextmanager
def _flagged(model: nn.Module, flag_of: Callable[[nn.Module], bool]) -> Iterator[None]:
    flags = [(module, module.training) for module in model.modules()]
    try:
        for module, _ in flags:
            module.training = flag_of(module)
        yield
    finally:
        for module, flag in flags:
            module.training = flag


def replaying(model: Forward, seed: int) -> Forward:
    """The model with random draws (dropout) that are the same in every call."""

    def call(x: Tensor) -> Tensor:
        with seeded(seed):
            return class_logits(model(x), len(x))

    return call
