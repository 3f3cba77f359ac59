"""The largest curvature that a loss has through a network: above 2 over it, gradient descent diverges."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import grad

from firstcue.forward import left_as_found, unwrap
from firstcue.richness.functional import Parameters, differentiable, functional, probe_inputs, pulled, pushed


@dataclass(frozen=True)
class TopEigenvalue:
    """A largest eigenvalue found by power iteration."""

    value: float

    residual: float
    """||A v - value v|| / value at the end."""

    iterations: int

    converged: bool
    """Whether the value changed by less than the tolerance; without it, the true one is larger."""


def tangent_lambda_max(
    model: nn.Module,
    x: Tensor | np.ndarray,
    *,
    loss: Callable[[Tensor], Tensor] | None = None,
    iterations: int = 200,
    tolerance: float = 1e-4,
    seed: int = 0,
) -> TopEigenvalue:
    """Largest eigenvalue of the tangent kernel over n, or of the loss's curvature seen through it, by jvp and vjp.

    Without a loss: of J J^T / n, with J the `(n C, P)` Jacobian, the curvature of half the squared error summed over
    outputs and averaged over rows. With a loss: of J^T H J, with H the loss's second derivative in the outputs.
    Nothing larger than the parameters is stored. Gradient descent on the linearised model is stable below 2 / value.

    Args:
        model: Any module; run in evaluation mode and left as found.
        x: `(n, ...)` inputs; a few hundred suffice.
        loss: Maps outputs `(n, ...)` to the scalar that training minimises.
        iterations: At most.
        tolerance: Relative change of the value at which to stop.
        seed: Of the first direction.

    Raises:
        ValueError: If nothing requires gradients or values are not finite.

    Example:
        >>> x = torch.diag(torch.tensor([3.0, 1.0]))
        >>> round(tangent_lambda_max(nn.Linear(2, 1, bias=False), x).value, 3)  # 3^2 / 2
        4.5
    """
    inputs = probe_inputs(x)
    own = unwrap(model)
    with left_as_found(own), differentiable():
        function, parameters = functional(own)
        outputs, pull = pulled(lambda p: function(p, inputs), parameters)
        # a symmetric matrix, so that it may be applied from the left
        _, curve = pulled(_half_squares(len(inputs)) if loss is None else grad(loss), outputs.detach())

        def multiply(v: Parameters) -> Parameters:
            _, change = pushed(lambda p: function(p, inputs), (parameters,), (v,))
            (curved,) = curve(change)
            (back,) = pull(curved)
            return back

        return _power_iteration(multiply, parameters, iterations, tolerance, seed)


def _half_squares(n: int) -> Callable[[Tensor], Tensor]:
    return lambda f: f / n


def _power_iteration(
    multiply: Callable[[Parameters], Parameters], like: Parameters, iterations: int, tolerance: float, seed: int
) -> TopEigenvalue:
    generator = torch.Generator().manual_seed(seed)
    v = {name: torch.randn(p.shape, generator=generator).to(p) for name, p in like.items()}
    value, residual = math.nan, math.nan
    for number in range(1, iterations + 1):
        size = _inner(v, v) ** 0.5
        v = {name: t / size for name, t in v.items()}
        image = multiply(v)
        before, value = value, _inner(v, image)
        if not math.isfinite(value):
            raise ValueError("the curvature is not finite: the model's outputs overflow, or its weights are NaN.")
        if value <= 0:
            return TopEigenvalue(max(value, 0.0), math.nan, number, _inner(image, image) == 0)
        residual = _inner(image, image) / value**2 - 1
        if abs(value - before) <= tolerance * value:
            return TopEigenvalue(value, max(residual, 0.0) ** 0.5, number, True)
        v = image
    return TopEigenvalue(value, max(residual, 0.0) ** 0.5, iterations, False)


def _inner(a: Parameters, b: Parameters) -> float:
    return sum(float((a[name].double() * b[name].double()).sum()) for name in a)
