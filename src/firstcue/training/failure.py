"""Learning from failure: a second network takes every shortcut, and what it finds hard counts in the first."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from firstcue.batch import Batch
from firstcue.forward import NotFinite


class Lff:
    """What `lff` returns: the biased network, its optimiser and the moving averages of both networks' losses."""

    needs: tuple[str, ...] = ()

    def __init__(self, biased: nn.Module, optimizer: torch.optim.Optimizer, q: float, decay: float):
        self._biased, self._optimizer, self._q, self._decay = biased, optimizer, q, decay
        self._own, self._others = _Averages(decay), _Averages(decay)

    def state_dict(self) -> dict[str, Any]:
        """What a training that goes on later needs."""
        return {
            "biased": {name: value.clone() for name, value in self._biased.state_dict().items()},
            "optimizer": self._optimizer.state_dict(),
            "own": self._own.state_dict(),
            "others": self._others.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict()`."""
        self._biased.load_state_dict(state["biased"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._own.load_state_dict(state["own"])
        self._others.load_state_dict(state["others"])

    def __call__(self, losses: Tensor, outputs: Any, batch: Batch) -> Tensor:
        """`(n,)` weights between 0 and 1; the biased network has made a step."""
        if batch.index is None or batch.index.ndim != 1:
            raise ValueError(
                "lff follows the loss of every row and has to know which rows these are: give a Batch with index, "
                "index=torch.arange(n) to `minibatches`, or yield Batches with `index`."
            )
        with torch.enable_grad():
            self._optimizer.zero_grad(set_to_none=True)
            answers = self._biased(batch.x)
            of_biased = cross_entropy(answers, batch.y, reduction="none")
            objective = generalised_cross_entropy(answers, batch.y, self._q).mean()
            if not math.isfinite(float(objective.detach())):
                raise NotFinite("the loss of the biased network of lff is NaN or infinite; lower its learning rate.")
            objective.backward()
        self._optimizer.step()
        hard_to_bias = self._others.relative(of_biased.detach(), batch)
        hard = self._own.relative(losses.detach(), batch)
        return (hard_to_bias / (hard_to_bias + hard).clamp(min=1e-12)).to(losses)


def lff(biased: nn.Module, optimizer: torch.optim.Optimizer, *, q: float = 0.7, decay: float = 0.7) -> Lff:
    """Learning from failure: rows that a biased network finds harder than the trained one count more.

    The biased network is trained along, on the generalised cross-entropy (see `generalised_cross_entropy`), which dwells
    on what is easy. For every row the losses of both networks are averaged over the times it was seen,
    e <- decay e + (1 - decay) loss (the first average is the loss itself), and divided by the largest average of its
    class; the weight is e_biased / (e_biased + e_own).

    Args:
        biased: A fresh network of the same kind.
        optimizer: Of the biased network.
        q: How strongly the biased network keeps to easy rows, from 0 (plain) to 1.
        decay: Of the averages, at least 0 and below 1.

    Returns:
        A weighting; batches need `index`, the numbers of their rows.

    Raises:
        ValueError: If a number is out of its range.

    Source:
        Nam et al., "Learning from failure" (2020), https://arxiv.org/abs/2007.02561.

    Example:
        >>> biased = torch.nn.Linear(1, 2)
        >>> weighting = lff(biased, torch.optim.SGD(biased.parameters(), lr=0.1))
        >>> batch = Batch(torch.zeros(2, 1), torch.tensor([0, 1]), index=torch.arange(2))
        >>> weighting(torch.ones(2), torch.zeros(2, 2), batch).tolist()
        [0.5, 0.5]
    """
    if not 0 <= q <= 1 or not 0 <= decay < 1:
        raise ValueError(f"`q` is from 0 to 1 and `decay` at least 0 and below 1; got {q} and {decay}.")
    return Lff(biased, optimizer, q, decay)


def generalised_cross_entropy(outputs: Tensor, y: Tensor, q: float) -> Tensor:
    """`(n,)` losses whose gradient is q p_y^q times that of the cross-entropy, as in the released code of LfF.

    The generalised cross-entropy (1 - p_y^q) / q itself has p_y^q times that gradient, without the factor q: with the
    factor the biased network learns as if at q times its learning rate. With q = 0 this is the plain cross-entropy. The
    values are those of the cross-entropy times the factor; only gradients are meant to be used.

    Source:
        Zhang and Sabuncu (2018), https://arxiv.org/abs/1805.07836.

    Example:
        >>> generalised_cross_entropy(torch.zeros(1, 2), torch.tensor([0]), 1.0).round(decimals=4)
        tensor([0.3466])
    """
    p = outputs.detach().softmax(dim=1).gather(1, y[:, None])[:, 0]
    return cross_entropy(outputs, y, reduction="none") * (q * p**q if q > 0 else 1.0)


class _Averages:
    """Moving averages of losses by row, relative to the largest of the row's class."""

    def __init__(self, decay: float):
        self._decay = decay
        self._value = torch.zeros(0, dtype=torch.float64)
        self._class = torch.zeros(0, dtype=torch.int64)

    def state_dict(self) -> dict[str, Tensor]:
        return {"value": self._value.clone(), "class": self._class.clone()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self._value, self._class = state["value"].clone(), state["class"].clone()

    def relative(self, losses: Tensor, batch: Batch) -> Tensor:
        assert batch.index is not None
        index, y, new = batch.index.cpu(), batch.y.cpu(), losses.cpu().double()
        self._grow(int(index.max()) + 1)
        before = self._value[index]
        self._value[index] = torch.where(before.isnan(), new, self._decay * before + (1 - self._decay) * new)
        self._class[index] = y
        seen = ~self._value.isnan()
        largest = torch.zeros(int(self._class.max()) + 1, dtype=torch.float64)
        largest.scatter_reduce_(0, self._class[seen], self._value[seen], "amax")
        return (self._value[index] / largest[y].clamp(min=1e-12)).to(losses.device)

    def _grow(self, size: int) -> None:
        """Rows not seen yet have no average: NaN."""
        more = size - len(self._value)
        if more > 0:
            self._value = torch.cat([self._value, torch.full((more,), math.nan, dtype=torch.float64)])
            self._class = torch.cat([self._class, torch.zeros(more, dtype=torch.int64)])
