"""Penalties on how much environments differ, each added to the mean of the environments' losses; for `train(weighting=...)`.

Each returns a function of (losses of rows, outputs, batch) that gives the objective; environments are `batch.group`, and
`.needs` names the labels used. Make a new one for every training: those that anneal or average count their calls.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from firstcue.batch import Batch

Penalty = Callable[[Tensor, Tensor, Tensor], Tensor]
"""From losses `(n,)`, outputs `(n, ...)` and environments `(n,)`: a number."""


class Penalized:
    """The mean over environments of their mean losses, plus strength times a penalty.

    Args:
        penalty: What is added.
        strength: Its factor, at least 0.
        anneal: Number of first updates for which the factor is at most 1, so that training finds a direction first. The
            optimiser's moments are best forgotten at the switch: train twice.
        name: For errors.
    """

    needs = ("group",)

    def __init__(self, penalty: Penalty, strength: float, anneal: int, name: str):
        if not strength >= 0 or anneal < 0:
            raise ValueError(f"`strength` and `anneal` of {name} are at least 0; got {strength} and {anneal}.")
        self._penalty, self._strength, self._anneal, self._name = penalty, strength, anneal, name
        self._calls = 0

    def state_dict(self) -> dict[str, Any]:
        """What a training that goes on later needs."""
        return {"calls": self._calls}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict()`."""
        self._calls = int(state["calls"])

    def __call__(self, losses: Tensor, outputs: Tensor, batch: Batch) -> Tensor:
        """The objective."""
        if batch.group is None:
            raise ValueError(
                f"{self._name} compares environments, but the batch has none; yield (x, y, environment) or a Batch with `group`."
            )
        strength = self._strength if self._calls >= self._anneal else min(self._strength, 1.0)
        self._calls += 1
        return _means(losses, batch.group).mean() + strength * self._penalty(losses, outputs, batch.group)


def irm(strength: float, *, anneal: int = 0) -> Penalized:
    """Invariant risk minimisation: the best rescaling of the outputs should be 1 in every environment.

    The penalty is the squared derivative of an environment's loss by a factor of the outputs, estimated without bias as
    the product of the derivatives on its even and odd rows, and averaged over environments. An environment with one row
    in the batch adds its loss alone.

    Args:
        strength: Factor of the penalty; from 1 to 1e4 in the literature.
        anneal: Number of first updates with a factor of at most 1.

    Source:
        Arjovsky et al. (2019), https://arxiv.org/abs/1907.02893.

    Example:
        >>> irm(100.0, anneal=500).needs
        ('group',)
    """

    def penalty(losses: Tensor, outputs: Tensor, group: Tensor) -> Tensor:
        slopes = (_derivative(losses, outputs) * outputs).flatten(start_dim=1 if outputs.ndim > 1 else 0)
        slopes = slopes.sum(dim=1) if slopes.ndim > 1 else slopes
        rows = [slopes[group == e] for e in group.unique()]
        products = [row[::2].mean() * row[1::2].mean() for row in rows if len(row) > 1]
        return torch.stack(products).sum() / len(rows) if products else losses.new_zeros(())

    return Penalized(penalty, strength, anneal, "irm")


def vrex(strength: float, *, anneal: int = 0) -> Penalized:
    """Risk extrapolation: the variance of the environments' losses.

    Args:
        strength: Factor of the variance.
        anneal: Number of first updates with a factor of at most 1.

    Source:
        Krueger et al. (2020), https://arxiv.org/abs/2003.00688.

    Example:
        >>> batch = Batch(torch.zeros(2, 1), torch.zeros(2).long(), group=torch.tensor([0, 1]))
        >>> vrex(10.0)(torch.tensor([1.0, 3.0]), torch.zeros(2), batch)
        tensor(12.)
    """
    return Penalized(lambda losses, outputs, group: _means(losses, group).var(correction=0), strength, anneal, "vrex")


def iga(parameters: Iterable[Tensor], strength: float, *, anneal: int = 0) -> Penalized:
    """Inter-environmental gradient alignment: the sum over environments of |g_e - mean g|^2.

    Needs second derivatives and a backward pass for each environment.

    Args:
        parameters: Whose gradients are to be aligned: `model.parameters()`.
        strength: Factor of the penalty.
        anneal: Number of first updates with a factor of at most 1.

    Source:
        Koyama and Yamaguchi (2020), https://arxiv.org/abs/2008.01883.

    Example:
        >>> iga(torch.nn.Linear(2, 2).parameters(), 1000.0).needs
        ('group',)
    """
    trained = [p for p in parameters if p.requires_grad]

    def penalty(losses: Tensor, outputs: Tensor, group: Tensor) -> Tensor:
        rows = [_flat(torch.autograd.grad(v, trained, create_graph=True, materialize_grads=True, allow_unused=True))
                for v in _means(losses, group)]  # fmt: skip
        return (torch.stack(rows) - torch.stack(rows).mean(dim=0).detach()).square().sum()

    return Penalized(penalty, strength, anneal, "iga")


def spectral_decoupling(strength: float) -> "SpectralDecoupling":
    """The mean squared output, added to the mean loss: no feature is learned so far that it starves the others.

    Args:
        strength: Factor of the penalty, at least 0; 0.1 or less.

    Source:
        Pezeshki et al., "Gradient starvation" (2020), https://arxiv.org/abs/2011.09468.

    Example:
        >>> batch = Batch(torch.zeros(2, 1), torch.zeros(2).long())
        >>> spectral_decoupling(0.5)(torch.tensor([1.0, 3.0]), torch.tensor([[2.0], [0.0]]), batch)
        tensor(3.)
    """
    if not strength >= 0:
        raise ValueError(f"`strength` of spectral_decoupling is at least 0; got {strength}.")
    return SpectralDecoupling(strength)


class SpectralDecoupling:
    """What `spectral_decoupling` returns; needs no labels."""

    needs: tuple[str, ...] = ()

    def __init__(self, strength: float):
        self._strength = strength

    def __call__(self, losses: Tensor, outputs: Tensor, batch: Batch) -> Tensor:
        """The objective."""
        return losses.mean() + self._strength * outputs.square().mean()


def fishr(head: nn.Linear, strength: float, *, decay: float = 0.95, anneal: int = 0) -> "Fishr":
    """Fishr: the variance of single examples' gradients of the head should be the same in every environment.

    The penalty is the mean over environments of the mean squared difference of these variances to their mean, with
    variances averaged over updates, divided by 1 - decay as the authors do. A hook on the head sees its inputs: call
    `.remove()` when training is over.

    Args:
        head: The last linear layer, `(n, d)` to `(n, k)`, called once per forward pass.
        strength: Factor of the penalty; about 1000 in the paper.
        decay: Of the moving average over updates, at least 0 and below 1.
        anneal: Number of first updates with a factor of at most 1.

    Source:
        Ramé et al. (2021), https://arxiv.org/abs/2109.02934.

    Example:
        >>> weighting = fishr(torch.nn.Linear(4, 2), 1000.0)
        >>> weighting.remove()
    """
    if not 0 <= decay < 1:
        raise ValueError(f"`decay` of fishr is at least 0 and below 1; got {decay}.")
    return Fishr(head, strength, decay, anneal)


class Fishr(Penalized):
    """What `fishr` returns."""

    def __init__(self, head: nn.Linear, strength: float, decay: float, anneal: int):
        super().__init__(self._variances_apart, strength, anneal, "fishr")
        self._decay = decay
        self._averages: dict[int, Tensor] = {}
        self._features: Tensor | None = None
        self._hook = head.register_forward_pre_hook(self._see)

    def state_dict(self) -> dict[str, Any]:
        """What a training that goes on later needs."""
        return super().state_dict() | {"averages": {e: value.clone() for e, value in self._averages.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict()`."""
        super().load_state_dict(state)
        self._averages = {e: value.clone() for e, value in state["averages"].items()}

    def remove(self) -> None:
        """Take the hook off the head."""
        self._hook.remove()

    def _see(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        self._features = args[0]

    def _variances_apart(self, losses: Tensor, outputs: Tensor, group: Tensor) -> Tensor:
        if self._features is None:
            raise ValueError(
                "the head given to fishr was not called in the forward pass; hand over the model's own head."
            )
        inputs, self._features = self._features, None
        d = _derivative(losses, outputs).reshape(len(losses), -1)
        if inputs.ndim != 2 or len(inputs) != len(d):
            raise ValueError(f"fishr needs one vector per row before the head; it saw {tuple(inputs.shape)}.")
        a = torch.cat([inputs, torch.ones_like(inputs[:, :1])], dim=1)  # the bias is a weight of 1
        found = {int(e): _variance_of_products(d[group == e], a[group == e]) for e in group.unique()}
        smooth = torch.stack([self._averaged(e, value) for e, value in found.items()])
        return (smooth - smooth.mean(dim=0)).square().mean()

    def _averaged(self, environment: int, variance: Tensor) -> Tensor:
        before = self._averages.get(environment, torch.zeros_like(variance))
        after = self._decay * before + (1 - self._decay) * variance
        self._averages[environment] = after.detach()
        return after / (1 - self._decay)


def _variance_of_products(d: Tensor, a: Tensor) -> Tensor:
    """Of the components of d_i a_i^T over rows i, without making one."""
    return d.square().mT @ a.square() / len(d) - (d.mT @ a / len(d)).square()


def _means(losses: Tensor, group: Tensor) -> Tensor:
    return torch.stack([losses[group == e].mean() for e in group.unique()])


def _derivative(losses: Tensor, outputs: Tensor) -> Tensor:
    return torch.autograd.grad(losses.sum(), outputs, create_graph=True)[0]


def _flat(gradients: tuple[Tensor, ...]) -> Tensor:
    return torch.cat([g.flatten() for g in gradients])
