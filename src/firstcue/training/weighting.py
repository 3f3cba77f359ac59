"""Weights for examples that change while training goes on."""

import math
from typing import Any

import torch
from torch import Tensor

from firstcue.batch import Batch


class GroupDro:
    """What `group_dro` returns; the groups' weights are its state."""

    needs = ("group",)

    def __init__(self, eta: float):
        self._eta = eta
        self._logs: dict[int, float] = {}

    @property
    def weights(self) -> dict[int, float]:
        """Weight of each group seen so far; they add up to 1."""
        top = max(self._logs.values(), default=0.0)
        raw = {group: math.exp(value - top) for group, value in self._logs.items()}
        return {group: value / sum(raw.values()) for group, value in raw.items()}

    def __call__(self, losses: Tensor, outputs: Any, batch: Batch) -> Tensor:
        """`(n,)` weights of the rows, after the groups' weights have moved."""
        if batch.group is None:
            raise ValueError(
                "group_dro weighs groups, but the batch has none; yield (x, y, group) or a Batch with `group`."
            )
        groups, member, counts = batch.group.unique(return_inverse=True, return_counts=True)
        sums = torch.zeros(len(groups), dtype=torch.float64, device=losses.device)
        means = sums.index_add(0, member, losses.detach().double()) / counts
        centre = sum(self._logs.values()) / len(self._logs) if self._logs else 0.0
        for group, value in zip(groups.tolist(), means.tolist(), strict=True):
            self._logs[group] = self._logs.get(group, centre) + self._eta * value
        share = torch.tensor([self.weights[group] for group in groups.tolist()], device=losses.device)
        return (share.to(losses) * len(losses) / counts)[member]


def group_dro(eta: float = 0.01) -> GroupDro:
    """Group distributionally robust optimisation: groups with high loss gain weight.

    After each batch q_g <- q_g exp(eta loss_g), scaled to add up to 1, and the objective is sum_g q_g loss_g, where loss_g
    is the mean over the group's rows in the batch. A group that turns up late starts with the (geometric) mean weight.

    Args:
        eta: Speed of the weights, positive; the authors use 0.01.

    Returns:
        A weighting for `train(weighting=...)`, which keeps the weights (`.weights`); make a new one for every training.

    Raises:
        ValueError: If `eta` is not positive; in training, if batches have no groups.

    Source:
        Sagawa et al., "Distributionally robust neural networks" (2019), https://arxiv.org/abs/1911.08731.

    Example:
        >>> weighting = group_dro(eta=1.0)
        >>> batch = Batch(torch.zeros(3, 1), torch.zeros(3).long(), group=torch.tensor([0, 0, 1]))
        >>> weights = weighting(torch.tensor([0.0, 0.0, 2.0]), torch.zeros(3), batch)
        >>> {group: round(weight, 2) for group, weight in weighting.weights.items()}
        {0: 0.12, 1: 0.88}
    """
    if not eta > 0:
        raise ValueError(f"`eta` is a positive speed; got {eta}.")
    return GroupDro(eta)
