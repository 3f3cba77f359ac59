"""Batches of mixed examples: any two (mixup), or two that agree in either class or attribute (LISA)."""

from collections.abc import Iterable, Iterator
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from firstcue.batch import Batch


def mixup(batches: Iterable[Batch], num_classes: int, *, alpha: float = 0.2, seed: int = 0) -> Iterator[Batch]:
    """Every row mixed with another of its batch, inputs and labels alike, by a share drawn from Beta(alpha, alpha).

    Args:
        batches: As from `minibatches`; inputs are floating numbers.
        num_classes: K.
        alpha: Positive; small values mix little.
        seed: Of pairs and shares.

    Yields:
        Batches whose labels are class probabilities `(n, K)`, as cross-entropy takes them.

    Source:
        Zhang et al., "mixup: beyond empirical risk minimization" (2017), https://arxiv.org/abs/1710.09412.

    Example:
        >>> (mixed,) = mixup([Batch(torch.eye(2), torch.tensor([0, 1]))], 2)
        >>> mixed.y.shape, bool(torch.allclose(mixed.y.sum(1), torch.ones(2)))
        (torch.Size([2, 2]), True)
    """
    generator = _source(alpha, seed)
    for batch in batches:
        partner = torch.randperm(len(batch), generator=generator)
        yield _mixed(batch, partner, num_classes, alpha, generator)


def lisa(
    batches: Iterable[Batch], num_classes: int, *, alpha: float = 2.0, select: float = 0.5, seed: int = 0
) -> Iterator[Batch]:
    """Rows mixed with partners of the same class and another attribute, or of the same attribute and another class.

    Which of the two is decided for each batch. A row without such a partner in its batch stays as it is.

    Args:
        batches: As from `minibatches`, with `attribute`.
        num_classes: K.
        alpha: Of the shares, from Beta(alpha, alpha).
        select: Probability that a batch is mixed within classes.
        seed: Of pairs and shares.

    Raises:
        ValueError: If a batch has no attribute, or a number is out of its range.

    Source:
        Yao et al., "Improving out-of-distribution robustness via selective augmentation" (2022),
        https://arxiv.org/abs/2201.00299.

    Example:
        >>> batch = Batch(torch.eye(4), torch.tensor([0, 0, 1, 1]), attribute=torch.tensor([0, 1, 0, 1]))
        >>> (mixed,) = lisa([batch], 2, select=1.0)
        >>> mixed.y.tolist()  # partners share the class
        [[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]]
    """
    if not 0 <= select <= 1:
        raise ValueError(f"`select` is a probability; got {select}.")
    generator = _source(alpha, seed)
    for batch in batches:
        if batch.attribute is None:
            raise ValueError("lisa mixes within values of the attribute, but the batch has none; give `attribute`.")
        within_class = float(torch.rand((), generator=generator)) < select
        same, other = (batch.y, batch.attribute) if within_class else (batch.attribute, batch.y)
        fits = (same[:, None] == same) & (other[:, None] != other)
        yield _mixed(batch, _partners(fits.cpu(), generator), num_classes, alpha, generator)


def _source(alpha: float, seed: int) -> torch.Generator:
    if not alpha > 0:
        raise ValueError(f"`alpha` is positive; got {alpha}.")
    return torch.Generator().manual_seed(seed)


def _partners(fits: Tensor, generator: torch.Generator) -> Tensor:
    """One of the rows that fit, each as likely; the row itself where none does."""
    chance = torch.rand(fits.shape, generator=generator).masked_fill(~fits, -1.0)
    best = chance.max(dim=1)
    return torch.where(best.values >= 0, best.indices, torch.arange(len(fits)))


def _mixed(batch: Batch, partner: Tensor, num_classes: int, alpha: float, generator: torch.Generator) -> Batch:
    if not batch.x.is_floating_point():
        raise ValueError(f"inputs of dtype {batch.x.dtype} cannot be mixed; floating numbers are needed.")
    seed = int(torch.randint(1 << 62, (), generator=generator))
    share = torch.from_numpy(np.random.default_rng(seed).beta(alpha, alpha, len(batch))).to(batch.x)
    partner = partner.to(batch.x.device)
    wide = share.reshape(-1, *[1] * (batch.x.ndim - 1))
    labels = one_hot(batch.y, num_classes).to(batch.x)
    return replace(
        batch,
        x=wide * batch.x + (1 - wide) * batch.x[partner],
        y=share[:, None] * labels + (1 - share[:, None]) * labels[partner],
    )
