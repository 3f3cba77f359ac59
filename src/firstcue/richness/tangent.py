"""The tangent kernel: how the network would move under gradient descent, and how much that changed during training.

A network whose tangent kernel stays what it was at the start trains like a linear model of its gradients (lazy); how far
it moves, and how wrong that linear model is, are the classic measures of richness. They need the initial network, and
cost a backward pass per input and output: keep the probe set small (64 to 256 inputs).
"""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor, nn
from torch.func import grad, vmap

from firstcue.forward import left_as_found, unwrap
from firstcue.richness.functional import Function, Parameters, differentiable, functional, probe_inputs, pushed

Kind = Literal["trace", "sum"]

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
    inputs = probe_inputs(x)
    own = unwrap(model)
    with left_as_found(own), differentiable():
        function, parameters = functional(own)
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
    inputs = probe_inputs(x)
    own, first = unwrap(model), unwrap(initial)
    with left_as_found(own), left_as_found(first), differentiable():
        now, theta = functional(own)
        before, theta_0 = functional(first)
        if {n: p.shape for n, p in theta.items()} != {n: p.shape for n, p in theta_0.items()}:
            raise ValueError("`initial` has other parameters than `model`; give it as it was before training.")
        change = {name: theta[name] - theta_0[name] for name in theta}
        with torch.no_grad():
            end = now(theta, inputs)
        start, step = pushed(lambda p: before(p, inputs), (theta_0,), (change,))
    moved = (end - start).double()
    size = float(moved.norm())
    return float((moved - step.double()).norm()) / size if size > 0 else math.nan


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
