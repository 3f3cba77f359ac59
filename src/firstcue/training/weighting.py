"""Weights for examples by their group, their class or their loss; each names in `.needs` the labels that it uses."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from firstcue.batch import Batch


class GroupDro:
    """What `group_dro` returns; the groups' weights are its state."""

    needs = ("group",)

    def __init__(self, eta: float, adjustment: float, counts: Mapping[int, int]):
        self._eta = eta
        self._margin = {group: adjustment / math.sqrt(n) for group, n in counts.items() if n > 0}
        self._adjusted = adjustment > 0
        self._logs: dict[int, float] = {}

    @property
    def weights(self) -> dict[int, float]:
        """Weight of each group seen so far; they add up to 1."""
        top = max(self._logs.values(), default=0.0)
        raw = {group: math.exp(value - top) for group, value in self._logs.items()}
        total = sum(raw.values())
        return {group: value / total for group, value in raw.items()}

    def state_dict(self) -> dict[str, Any]:
        """What a training that goes on later needs."""
        return {"logs": dict(self._logs)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict()`."""
        self._logs = dict(state["logs"])

    def __call__(self, losses: Tensor, outputs: Any, batch: Batch) -> Tensor:
        """`(n,)` weights of the rows, after the groups' weights have moved."""
        members = group_of(batch, "group_dro")
        groups, member, counts = members.unique(return_inverse=True, return_counts=True)
        sums = torch.zeros(len(groups), dtype=torch.float64, device=losses.device)
        means = sums.index_add(0, member, losses.detach().double()) / counts
        centre = sum(self._logs.values()) / len(self._logs) if self._logs else 0.0
        for group, value in zip(groups.tolist(), means.tolist(), strict=True):
            self._logs[group] = self._logs.get(group, centre) + self._eta * (value + self._margin_of(group))
        now = self.weights
        share = torch.tensor([now[group] for group in groups.tolist()], device=losses.device)
        return (share.to(losses) * len(losses) / counts)[member]

    def _margin_of(self, group: int) -> float:
        if self._adjusted and group not in self._margin:
            raise ValueError(f"group {group} turns up in training but has no rows in `counts` of group_dro.")
        return self._margin.get(group, 0.0)


def group_dro(eta: float = 0.01, *, adjustment: float = 0.0, counts: Any = None) -> GroupDro:
    """Group distributionally robust optimisation: groups with high loss gain weight.

    After each batch q_g <- q_g exp(eta (loss_g + adjustment / sqrt(n_g))), scaled to add up to 1, and the objective is
    sum_g q_g loss_g, where loss_g is the mean over the group's rows in the batch. A group that turns up late starts with
    the (geometric) mean weight. Batches in which groups are balanced keep the steps small and even.

    Args:
        eta: Speed of the weights, at least 0; the authors use 0.01. With 0 all groups count alike for ever.
        adjustment: C of the margin for generalisation, at least 0: small groups, which are fitted too easily, count as
            worse than they look.
        counts: Training rows of each group, by id: `batch.group.bincount()`; needed for an adjustment.

    Returns:
        A weighting for `train(weighting=...)`, which keeps the weights (`.weights`); make a new one for every training.

    Raises:
        ValueError: If `eta` or `adjustment` is negative, or counts are missing; in training, if batches have no groups.

    Source:
        Sagawa et al., "Distributionally robust neural networks" (2019), https://arxiv.org/abs/1911.08731.

    Example:
        >>> weighting = group_dro(eta=1.0)
        >>> batch = Batch(torch.zeros(3, 1), torch.zeros(3).long(), group=torch.tensor([0, 0, 1]))
        >>> weights = weighting(torch.tensor([0.0, 0.0, 2.0]), torch.zeros(3), batch)
        >>> {group: round(weight, 2) for group, weight in weighting.weights.items()}
        {0: 0.12, 1: 0.88}
    """
    if not 0 <= eta < math.inf:
        raise ValueError(f"`eta` is a speed of at least 0; got {eta}.")
    if not 0 <= adjustment < math.inf:
        raise ValueError(f"`adjustment` is at least 0; got {adjustment}.")
    if adjustment > 0 and counts is None:
        raise ValueError("an adjustment needs the size of every group: counts=batch.group.bincount().")
    sizes = {} if counts is None else dict(enumerate(torch.as_tensor(counts).tolist()))
    return GroupDro(eta, adjustment, sizes)


class CvarDro:
    """What `cvar_dro` returns; needs no labels beyond the class."""

    needs: tuple[str, ...] = ()

    def __init__(self, alpha: float):
        self._alpha = alpha

    def __call__(self, losses: Tensor, outputs: Any, batch: Batch) -> Tensor:
        """`(n,)` weights: n / (alpha n) on the worst rows, a part of it on the last of them, 0 on the others."""
        kept = self._alpha * len(losses)
        rank = torch.empty(len(losses), dtype=torch.float64, device=losses.device)
        rank[losses.detach().argsort(descending=True, stable=True)] = torch.arange(len(losses)).to(rank)
        return ((kept - rank).clamp(0, 1) / self._alpha).to(losses)


def cvar_dro(alpha: float = 0.1) -> CvarDro:
    """Conditional value at risk: the mean of the worst share of the batch's losses.

    Args:
        alpha: The share, above 0 and at most 1, where it is the plain mean. Where it is not a whole number of rows, the
            last row counts in part.

    Raises:
        ValueError: If `alpha` is not such a share.

    Source:
        Levy et al., "Large-scale methods for distributionally robust optimization" (2020),
        https://arxiv.org/abs/2010.05893.

    Example:
        >>> batch = Batch(torch.zeros(4, 1), torch.zeros(4).long())
        >>> cvar_dro(0.5)(torch.tensor([1.0, 4.0, 2.0, 3.0]), torch.zeros(4), batch).tolist()
        [0.0, 2.0, 0.0, 2.0]
    """
    if not 0 < alpha <= 1:
        raise ValueError(f"`alpha` is a share of the rows, above 0 and at most 1; got {alpha}.")
    return CvarDro(alpha)


class Balance:
    """What `group_weights` and `class_weights` return: fixed weights by group or class."""

    def __init__(self, weights: Tensor, by: str):
        self._weights, self._by = weights, by
        self.needs: tuple[str, ...] = ("group",) if by == "group" else ()

    def __call__(self, losses: Tensor, outputs: Any, batch: Batch) -> Tensor:
        """`(n,)` weights."""
        ids = group_of(batch, "group_weights") if self._by == "group" else batch.y
        if int(ids.max()) >= len(self._weights) or bool((self._weights[ids.cpu()] == 0).any()):
            raise ValueError(
                f"a {self._by} turns up in training that has no rows in `counts`; count all training rows."
            )
        return self._weights[ids.cpu()].to(losses)


def group_weights(counts: Any, power: float = 1.0) -> Balance:
    """Weigh every row by 1 / n_g^power, the size of its group; the mean over the rows counted is 1.

    Args:
        counts: Training rows of each group, by id: `batch.group.bincount()`. Groups without rows are allowed.
        power: 1 lets groups count alike, 0.5 (the square root) halfway, 0 changes nothing.

    Raises:
        ValueError: If counts are not counts; in training, if a group turns up that was not counted.

    Example:
        >>> batch = Batch(torch.zeros(4, 1), torch.zeros(4).long(), group=torch.tensor([0, 0, 0, 1]))
        >>> group_weights(batch.group.bincount())(torch.zeros(4), torch.zeros(4), batch)
        tensor([0.6667, 0.6667, 0.6667, 2.0000])
    """
    return Balance(by_size(counts, power), "group")


def class_weights(counts: Any, power: float = 1.0) -> Balance:
    """Weigh every row by 1 / n_y^power, the size of its class; see `group_weights`.

    Example:
        >>> class_weights([1, 1]).needs
        ()
    """
    return Balance(by_size(counts, power), "class")


def effective_number_weights(counts: Any, beta: float = 0.9999) -> Balance:
    """The class-balanced loss: rows weighed by (1 - beta) / (1 - beta^n_y), the inverse of an effective number of rows.

    Args:
        counts: Training rows of each class, by id.
        beta: From 0 (no weights) towards 1 (inverse frequency).

    Raises:
        ValueError: If `beta` is not at least 0 and below 1, or counts are not counts.

    Source:
        Cui et al., "Class-balanced loss based on effective number of samples" (2019), https://arxiv.org/abs/1901.05555.

    Example:
        >>> batch = Batch(torch.zeros(2, 1), torch.tensor([0, 1]))
        >>> effective_number_weights([100, 100])(torch.zeros(2), torch.zeros(2), batch).tolist()
        [1.0, 1.0]
    """
    if not 0 <= beta < 1:
        raise ValueError(f"`beta` is at least 0 and below 1; got {beta}.")
    n = _counted(counts)
    raw = torch.where(n > 0, (1 - beta) / (1 - beta ** n.clamp(min=1)), 0.0)
    return Balance(raw * n.sum() / (raw * n).sum(), "class")


class Focal:
    """What `focal` returns; needs no labels beyond the class."""

    needs: tuple[str, ...] = ()

    def __init__(self, gamma: float):
        self._gamma = gamma

    def __call__(self, losses: Tensor, outputs: Tensor, batch: Batch) -> Tensor:
        """`(n,)` weights (1 - p_y)^gamma, through which gradients flow."""
        if outputs.ndim != 2 or outputs.shape[1] < 2:
            raise ValueError(f"focal needs logits of every class, (n, K); the model returns {tuple(outputs.shape)}.")
        p = outputs.softmax(dim=1).gather(1, batch.y[:, None])[:, 0]
        return (1 - p).clamp(min=torch.finfo(p.dtype).tiny) ** self._gamma  # the root of 0 has no gradient


def focal(gamma: float = 1.0) -> Focal:
    """The focal loss: every row's loss times (1 - p_y)^gamma, so that what is known already counts little.

    Args:
        gamma: At least 0, which is the plain loss.

    Raises:
        ValueError: If `gamma` is negative.

    Source:
        Lin et al., "Focal loss for dense object detection" (2017), https://arxiv.org/abs/1708.02002.

    Example:
        >>> batch = Batch(torch.zeros(1, 1), torch.tensor([0]))
        >>> focal(2.0)(torch.ones(1), torch.zeros(1, 2), batch).tolist()
        [0.25]
    """
    if not gamma >= 0:
        raise ValueError(f"`gamma` of focal is at least 0; got {gamma}.")
    return Focal(gamma)


def by_size(counts: Any, power: float) -> Float[Tensor, " g"]:
    """Weight of a row of each group: 1 / n^power, 0 for a group without rows; the mean over all rows is 1.

    Example:
        >>> by_size([1, 4, 0], 0.5).round(decimals=3).tolist()
        [1.667, 0.833, 0.0]
    """
    n = _counted(counts)
    raw = torch.where(n > 0, n.clamp(min=1) ** -power, 0.0)
    return raw * n.sum() / (raw * n).sum()


def group_of(batch: Batch, name: str) -> Int[Tensor, " n"]:
    """The rows' groups.

    Raises:
        ValueError: If there are none, or a row may be in several.
    """
    if batch.group is None:
        raise ValueError(f"{name} weighs groups, but the batch has none; yield (x, y, group) or a Batch with `group`.")
    if batch.group.ndim != 1:
        raise ValueError(
            f"{name} wants one group per row, but `group` has shape {tuple(batch.group.shape)}. Groups that overlap become "
            f"groups by giving each combination an id: group.unique(dim=0, return_inverse=True)[1]."
        )
    return batch.group


def _counted(counts: Any) -> Tensor:
    n = torch.as_tensor(counts).double()
    if n.ndim != 1 or not bool((n >= 0).all()) or float(n.sum()) == 0:
        raise ValueError("`counts` holds the number of rows of each group, by id, at least one of them above 0.")
    return n
