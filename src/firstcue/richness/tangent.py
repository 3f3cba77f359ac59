"""The tangent kernel: how the network would move under gradient descent, and how much that changed during training.

A network whose tangent kernel stays what it was at the start trains like a linear model of its gradients (lazy); how far
it moves, and how wrong that linear model is, are the classic measures of richness. They need the initial network, and
cost a backward pass per input and output: keep the probe set small (64 to 256 inputs).
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor, nn
from torch.func import functional_call, grad, jvp, vjp, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from firstcue._checks import as_tensor, require_finite
from firstcue.forward import left_as_found, unwrap

Kind = Literal["trace", "sum"]
Parameters = dict[str, Tensor]
Function = Callable[[Parameters, Tensor], Tensor]

BLOCK_BYTES = 256 * 2**20
"""Memory that one block of per-input gradients may take; gradients of more inputs are computed again where needed."""


def tangent_kernel(
    model: nn.Module, x: Tensor | np.ndarray, *, kind: Kind = "trace", max_bytes: int = BLOCK_BYTES
) -> Float64[Tensor, "m m"]:
    """Empirical tangent kernel on a few inputs, summed over outputs.

    The model runs in evaluation mode, so BatchNorm uses its running statistics. Parameters that do not require gradients
    are left out.

    Args:
        model: Any module that treats rows independently; left as found.
        x: `(m, ...)` inputs; time and memory grow with m times the number of parameters.
        kind: "trace" averages <grad f_c(x), grad f_c(x')> over outputs c; "sum" takes the gradient of the sum of outputs
            over root C, C times cheaper.
        max_bytes: Of a block of gradients.

    Raises:
        ValueError: If the model cannot be differentiated row by row, or nothing requires gradients.

    Source:
        Jacot et al. (2018), https://arxiv.org/abs/1806.07572; sum of outputs: Mohamadi et al. (2023),
        https://arxiv.org/abs/2206.12543.

    Example:
        >>> x = torch.randn(6, 3)
        >>> kernel = tangent_kernel(nn.Linear(3, 2, bias=False), x)
        >>> torch.allclose(kernel.float(), x @ x.T, atol=1e-5)
        True
    """
    if kind not in ("trace", "sum"):
        raise ValueError(f'`kind` is "trace" or "sum"; got {kind!r}.')
    inputs = _inputs(x)
    own = unwrap(model)
    with left_as_found(own), _differentiable():
        function, parameters = _functional(own)
        heads = _outputs_of(function, parameters, inputs[:1], kind)
        rows = _rows_per_block(parameters, len(inputs), max_bytes)
        kernel = torch.zeros(len(inputs), len(inputs), dtype=torch.float64)
        for head in heads:
            _add_gram(kernel, lambda p, row, head=head: head(function(p, row[None])), parameters, inputs, rows)  # type: ignore[misc]
    return kernel / len(heads)


def kernel_distance(a: Any, b: Any) -> float:
    """1 - cosine of two kernel matrices: 0 where they are proportional, at most 1 for kernels; NaN if one is zero.

    Args:
        a: `(m, m)`.
        b: `(m, m)`, on the same inputs.

    Source:
        Fort et al. (2020), https://arxiv.org/abs/2010.15110.

    Example:
        >>> kernel_distance(torch.eye(3), 2 * torch.eye(3))
        0.0
    """
    one, two = (torch.as_tensor(k).detach().cpu().double() for k in (a, b))
    if one.shape != two.shape:
        raise ValueError(f"kernels of shape {tuple(one.shape)} and {tuple(two.shape)} are not on the same inputs.")
    scale = float(one.norm() * two.norm())
    return max(0.0, 1 - float((one * two).sum()) / scale) if scale > 0 else math.nan


def kernel_velocity(kernels: Sequence[Any], steps: Sequence[int]) -> list[float]:
    """Kernel distance between consecutive kernels, per step of training.

    Args:
        kernels: Kernels on the same inputs, one per entry of `steps`.
        steps: Increasing.

    Returns:
        One number per interval.

    Raises:
        ValueError: If lengths differ or steps do not increase.

    Source:
        Fort et al. (2020), https://arxiv.org/abs/2010.15110.

    Example:
        >>> kernel_velocity([torch.eye(2), torch.ones(2, 2)], [0, 10])
        [0.0292...]
    """
    if len(kernels) != len(steps) or any(b <= a for a, b in pairwise(steps)):
        raise ValueError(
            f"one kernel per step is needed, and steps that increase; got {len(kernels)} and {list(steps)}."
        )
    return [
        kernel_distance(kernels[i], kernels[i + 1]) / (steps[i + 1] - steps[i]) for i in range(len(steps) - 1)
    ]  # fmt: skip


def tangent_change(model: nn.Module, initial: nn.Module, x: Tensor | np.ndarray, *, kind: Kind = "trace") -> float:
    """1 - cosine of the tangent kernels now and at the start: 0 in the lazy limit.

    Args:
        model: After training.
        initial: Before training.
        x: `(m, ...)` probe inputs.
        kind: As in `tangent_kernel`.

    Example:
        >>> model = nn.Linear(3, 2)
        >>> tangent_change(model, model, torch.randn(5, 3)) < 1e-9
        True
    """
    return kernel_distance(tangent_kernel(model, x, kind=kind), tangent_kernel(initial, x, kind=kind))


def linearisation_error(model: nn.Module, initial: nn.Module, x: Tensor | np.ndarray) -> float:
    """How wrong the linear model of the initial gradients is about the function that was learned, by one jvp.

    ||f - f_lin|| / ||f - f_0|| over the rows of x, with f_lin = f_0 + J_0 (theta - theta_0); no Jacobian is formed.

    Args:
        model: After training.
        initial: Before training, of the same architecture.
        x: `(m, ...)` inputs.

    Returns:
        0 in the lazy limit, about 1 or more where the tangent at the start says nothing; NaN if outputs did not move.

    Raises:
        ValueError: If the models differ in architecture.

    Source:
        Chizat, Oyallon and Bach (2019), https://arxiv.org/abs/1812.07956.

    Example:
        >>> start, end = nn.Linear(3, 2), nn.Linear(3, 2)
        >>> linearisation_error(end, start, torch.randn(5, 3)) < 1e-5
        True
    """
    inputs = _inputs(x)
    own, first = unwrap(model), unwrap(initial)
    with left_as_found(own), left_as_found(first), _differentiable():
        now, theta = _functional(own)
        before, theta_0 = _functional(first)
        if {n: p.shape for n, p in theta.items()} != {n: p.shape for n, p in theta_0.items()}:
            raise ValueError("`initial` has other parameters than `model`; give it as it was before training.")
        change = {name: theta[name] - theta_0[name] for name in theta}
        with torch.no_grad():
            end = now(theta, inputs)
        start, step = _pushed(lambda p: before(p, inputs), (theta_0,), (change,))
    moved = (end - start).double()
    size = float(moved.norm())
    return float((moved - step.double()).norm()) / size if size > 0 else math.nan


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
    inputs = _inputs(x)
    own = unwrap(model)
    with left_as_found(own), _differentiable():
        function, parameters = _functional(own)
        outputs, pull = _pulled(lambda p: function(p, inputs), parameters)
        # a symmetric matrix, so that it may be applied from the left
        _, curve = _pulled(_half_squares(len(inputs)) if loss is None else grad(loss), outputs.detach())

        def multiply(v: Parameters) -> Parameters:
            _, pushed = _pushed(lambda p: function(p, inputs), (parameters,), (v,))
            (curved,) = curve(pushed)
            (back,) = pull(curved)
            return back

        return _power_iteration(multiply, parameters, iterations, tolerance, seed)


def _pushed(function: Any, primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> tuple[Tensor, Tensor]:
    """Value and directional derivative."""
    return jvp(function, primals, tangents)  # type: ignore[return-value]


def _pulled(function: Any, primal: Any) -> tuple[Tensor, Any]:
    """Value, and the map from a change of the value to its gradient."""
    return vjp(function, primal)  # type: ignore[return-value]


@contextmanager
def _differentiable() -> Iterator[None]:
    """Gradients on, and attention in the form that has forward derivatives."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


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


def _functional(model: nn.Module) -> tuple[Function, Parameters]:
    """The model as a function of its trainable parameters, `f(parameters, x) -> (n, C)`."""
    parameters = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}
    if not parameters:
        raise ValueError("no parameter of the model requires gradients; its tangent kernel is empty.")
    dtype, device = next((p.dtype, p.device) for p in parameters.values())

    def function(values: Parameters, x: Tensor) -> Tensor:
        given = x.to(device, dtype) if x.is_floating_point() else x.to(device)
        outputs = functional_call(model, values, (given,))
        logits = getattr(outputs, "logits", outputs)
        if not isinstance(logits, Tensor):
            raise ValueError(
                f"the model returns a {type(outputs).__name__}; wrap it in a module that returns its logits."
            )
        return logits.reshape(len(logits), -1)

    return function, parameters


def _outputs_of(
    function: Function, parameters: Parameters, one: Tensor, kind: Kind
) -> list[Callable[[Tensor], Tensor]]:
    """The scalar functions of outputs `(1, C)` whose gradients make the kernel."""
    with torch.no_grad():
        count = function(parameters, one).shape[1]
    if kind == "sum":
        return [lambda f: f.sum() / count**0.5]
    return [lambda f, c=c: f[0, c] for c in range(count)]  # type: ignore[misc]


def _rows_per_block(parameters: Parameters, m: int, max_bytes: int) -> int:
    size = sum(p.numel() * p.element_size() for p in parameters.values())
    return max(1, min(m, max_bytes // (2 * size)))


def _add_gram(
    kernel: Float[Tensor, "m m"],
    scalar: Callable[[Parameters, Tensor], Tensor],
    parameters: Parameters,
    inputs: Tensor,
    rows: int,
) -> None:
    """Add the inner products of per-input gradients, block by block."""
    gradients = vmap(grad(scalar), in_dims=(None, 0))
    starts = range(0, len(inputs), rows)
    for i in starts:
        left = gradients(parameters, inputs[i : i + rows])
        for j in starts[: i // rows + 1]:
            right = left if i == j else gradients(parameters, inputs[j : j + rows])
            block = sum((left[n].flatten(1) @ right[n].flatten(1).mT).cpu().double() for n in left)
            kernel[i : i + rows, j : j + rows] += block
            if i != j:
                kernel[j : j + rows, i : i + rows] += block.mT


def _inputs(x: Any) -> Tensor:
    inputs = as_tensor(x)
    require_finite(inputs)
    if inputs.ndim == 0 or len(inputs) == 0:
        raise ValueError("`x` has no rows; a few dozen probe inputs are needed.")
    return inputs
