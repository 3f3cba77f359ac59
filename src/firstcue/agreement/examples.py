"""Every example as its own environment: do single examples agree on where a parameter should go?

For a linear layer that sees one vector per example, an example's gradient is an outer product d a^T, so the sum of signs
over a batch is one matrix product of signs, sign(d)^T sign(a), and no example's gradient is ever made.
"""

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from firstcue.agreement._sinks import require_finite_gradients
from firstcue.agreement.gradients import Loss, as_it_is, collect, single_rows, wanted_parameters
from firstcue.agreement.sums import GradientSums
from firstcue.forward import unwrap


def example_agreement(
    model: nn.Module,
    loss: Loss,
    batch: Any,
    *,
    batch_norm: str = "pooled",
    parameters: Sequence[str] | None = None,
) -> dict[str, Tensor]:
    """How far the examples of a batch agree on the sign of each component: |mean sign| of their gradients.

    Args:
        model: Any module, in the mode in which it is; left as found.
        loss: `loss(outputs, y)`, the mean over its rows.
        batch: `Batch` or `(x, y)` with n rows.
        batch_norm: As in `environment_gradients`; "per_environment" has no meaning for single examples.
        parameters: Names of those wanted; all that require a gradient by default.

    Returns:
        For each parameter `(*shape)`, from 0 to 1; an exactly zero gradient agrees with nobody. Signs thrown at random
        give about 0.8 / sqrt(n), not 0.

    Raises:
        ValueError: As `environment_gradients`.

    Source:
        Parascandolo et al. (2020), https://arxiv.org/abs/2009.00329, who take every image as an environment.

    Example:
        >>> import torch
        >>> model = torch.nn.Linear(3, 2)
        >>> agreement = example_agreement(model, torch.nn.functional.mse_loss, (torch.ones(4, 3), torch.full((4, 2), 9.0)))
        >>> agreement["bias"]
        tensor([1., 1.])
    """
    sums = _sums(model, loss, batch, lambda like: GradientSums(like, ("signs",), total=False), batch_norm, parameters)
    return {name: _agreement_of(part) for name, part in sums.items()}


def example_sums(
    model: nn.Module,
    loss: Loss,
    batch: Any,
    needs: Sequence[str] = ("signs", "scatter"),
    *,
    batch_norm: str = "pooled",
    parameters: Sequence[str] | None = None,
) -> dict[str, GradientSums]:
    """Elementwise sums over the gradients of all examples: means, agreement, variance, squares.

    Args:
        model: Any module, in the mode in which it is; left as found.
        loss: `loss(outputs, y)`, the mean over its rows.
        batch: `Batch` or `(x, y)`.
        needs: Which sums beside the total: "signs" (for `.agreement`), "scatter" (for `.variance` and `.squares`),
            "nonzero", "logs".
        batch_norm: As in `environment_gradients`.
        parameters: Names of those wanted; all that require a gradient by default.

    Returns:
        For each parameter `GradientSums` of shape `(*shape)`; in memory a few times the model, whatever the batch.

    Raises:
        ValueError: As `environment_gradients`, or if a sum is unknown.

    Example:
        >>> import torch
        >>> sums = example_sums(torch.nn.Linear(3, 1), torch.nn.functional.mse_loss, (torch.randn(8, 3), torch.randn(8, 1)))
        >>> sums["weight"].count, sums["weight"].variance.shape
        (8, torch.Size([1, 3]))
    """
    unknown = set(needs) - {"signs", "scatter", "nonzero", "logs"}
    if unknown:
        raise ValueError(f'`needs` names "signs", "scatter", "nonzero" and "logs"; got {sorted(unknown)[0]!r}.')
    return _sums(model, loss, batch, lambda like: GradientSums(like, tuple(needs)), batch_norm, parameters)


def _agreement_of(sums: GradientSums) -> Tensor:
    """In the memory of the signs, which nobody needs any more."""
    assert sums.signs is not None
    return sums.signs.abs_().div_(sums.count)


def _sums(
    model: nn.Module,
    loss: Loss,
    batch: Any,
    empty: Callable[[Tensor], GradientSums],
    batch_norm: str,
    parameters: Sequence[str] | None,
) -> dict[str, GradientSums]:
    found: dict[str, Any] = {}

    def keep(name: str, sink: Any) -> None:
        require_finite_gradients(name, sink)
        found[name] = sink

    inner = unwrap(model)
    wanted = wanted_parameters(inner, parameters)
    rows = single_rows(batch, next(iter(wanted.values())).device)
    with as_it_is(inner, loss):
        collect(inner, loss, rows, wanted, lambda count, like: empty(like), keep, batch_norm=batch_norm)
    return {name: found[name] for name in wanted}
