"""The losses of environments as functions of one vector of parameters, on a model that is put back afterwards."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from firstcue.forward import left_as_found

EnvironmentLoss = Callable[[nn.Module], Tensor]
"""The loss of one environment, on a fixed set of rows, from the model."""


class Landscape:
    """Losses, gradients and curvature around the point where a model was found.

    Moves the model's parameters; use it inside `landscape`, which puts them back.
    """

    def __init__(
        self,
        model: nn.Module,
        losses: Sequence[EnvironmentLoss],
        names: Sequence[str],
        together: Callable[[nn.Module], Tensor] | None = None,
    ) -> None:
        self.model, self.losses, self.names, self.together = model, losses, names, together
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        if not self.parameters:
            raise ValueError("the model has no parameter that requires a gradient: there is nothing to vary.")
        self.sizes = [p.numel() for p in self.parameters]
        self.origin = torch.cat([p.detach().flatten() for p in self.parameters])
        self.scale = float(self.origin.norm()) or 1.0
        """Length of the parameter vector: the unit of steps."""

        self.base = self.values(self.origin)

    def values(self, point: Tensor) -> list[float]:
        """The loss of every environment at one point."""
        self._move(point)
        if self.together is not None:
            return self.together(self.model).tolist()
        return [float(loss(self.model)) for loss in self.losses]

    def value(self, point: Tensor, e: int) -> float:
        """The loss of environment `e` at one point."""
        self._move(point)
        return float(self.losses[e](self.model))

    def slope(self, point: Tensor, e: int) -> tuple[float, Float[Tensor, " p"]]:
        """Loss and gradient of environment `e` at one point."""
        self._move(point)
        with torch.enable_grad():
            value = self._scalar(e)
            gradients = torch.autograd.grad(value, self.parameters, allow_unused=True, materialize_grads=True)
        return float(value.detach()), torch.cat([g.flatten() for g in gradients])

    def curvature(self, e: int) -> Callable[[Tensor], Tensor]:
        """The product of environment `e`'s Hessian at the origin with a vector."""
        self._move(self.origin)
        with torch.enable_grad():
            gradients = torch.autograd.grad(
                self._scalar(e), self.parameters, create_graph=True, allow_unused=True, materialize_grads=True
            )
            slope = torch.cat([g.flatten() for g in gradients])

        def product(vector: Tensor) -> Tensor:
            if not slope.requires_grad:
                return torch.zeros_like(vector)
            rows = torch.autograd.grad(
                slope, self.parameters, vector, retain_graph=True, allow_unused=True, materialize_grads=True
            )
            return torch.cat([row.flatten() for row in rows])

        return product

    def normalised(self, direction: Tensor) -> Float[Tensor, " p"]:
        """The direction with every filter (row of a weight) and every other tensor as long as the model's own."""
        parts: list[Tensor] = []
        for own, part in zip(self.origin.split(self.sizes), direction.split(self.sizes), strict=True):
            parameter = self.parameters[len(parts)]
            rows = len(parameter) if parameter.ndim > 1 else 1
            wanted, given = own.reshape(rows, -1), part.reshape(rows, -1)
            length = wanted.norm(dim=1, keepdim=True) / given.norm(dim=1, keepdim=True).clamp(min=1e-30)
            parts.append((given * length).flatten())
        return torch.cat(parts)

    def _scalar(self, e: int) -> Tensor:
        value = self.losses[e](self.model)
        if not value.requires_grad:
            raise ValueError(
                f"the loss of environment {self.names[e]} does not depend on the model's parameters; compute it from the "
                f"model that it is given, with gradients (no detach, no .item())."
            )
        return value

    def _move(self, point: Tensor) -> None:
        # through .data: the user's own graphs keep the versions that they were built with
        for parameter, part in zip(self.parameters, point.split(self.sizes), strict=True):
            parameter.data.copy_(part.view_as(parameter))


@contextmanager
def landscape(
    model: nn.Module, losses: Mapping[Any, EnvironmentLoss] | Sequence[EnvironmentLoss]
) -> Iterator[Landscape]:
    """The landscape of a model in evaluation mode; afterwards its parameters are bit for bit what they were.

    Raises:
        ValueError: If there are fewer than two environments, or a loss is no number, not finite, or not repeatable.
    """
    named = dict(losses) if isinstance(losses, Mapping) else dict(enumerate(losses))
    if len(named) < 2:
        raise ValueError(f"`environment_losses` holds {len(named)}; inconsistency compares at least two environments.")
    saved = [(p, p.detach().clone()) for p in model.parameters()]
    with left_as_found(model):
        try:
            names = [str(name) for name in named]
            for name, loss in zip(names, named.values(), strict=True):
                _require_repeatable(model, name, loss)
            yield Landscape(model, list(named.values()), names, getattr(losses, "together", None))
        finally:
            for parameter, value in saved:
                parameter.data.copy_(value)


def _require_repeatable(model: nn.Module, name: str, loss: EnvironmentLoss) -> None:
    first, second = loss(model), loss(model)
    if not isinstance(first, Tensor) or first.numel() != 1 or first.ndim:
        shape = tuple(first.shape) if isinstance(first, Tensor) else type(first).__name__
        raise ValueError(f"the loss of environment {name} is {shape}; return a scalar tensor, the mean over its rows.")
    if not bool(torch.isfinite(first)):
        raise ValueError(f"the loss of environment {name} is {float(first)} at the model's own parameters.")
    if float(first) != float(second):
        raise ValueError(
            f"the loss of environment {name} changes from call to call ({float(first):.6g}, {float(second):.6g}); fix its "
            f"rows and switch off whatever is random in it."
        )
