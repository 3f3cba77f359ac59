"""The mean loss of every environment, from the outputs of all rows."""

import inspect
import math
from collections.abc import Callable, Sequence
from types import FunctionType
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

_PLAIN_MEANS = (F.binary_cross_entropy_with_logits, F.binary_cross_entropy, F.mse_loss, F.l1_loss, F.smooth_l1_loss)
"""Losses that average over everything, whatever the labels."""


def environment_losses(loss: Callable[..., Tensor], outputs: Tensor, y: Tensor, sizes: Sequence[int]) -> Tensor:
    """`(e,)` values of `loss(outputs, y)` on the rows of each environment.

    Where the loss is a plain mean of losses of rows (which is checked on all rows, unless it is known), it is called once;
    otherwise once for each environment.

    Args:
        loss: Mean over its rows.
        outputs: `(n, ...)`, environments following each other.
        y: `(n, ...)`.
        sizes: Rows of each environment.

    Raises:
        ValueError: If the loss is not one number.
    """
    rows = _reduced_by_none(loss, outputs, y) if _knows_reduction(loss) else None
    plain = any(loss is known for known in _PLAIN_MEANS)
    if rows is not None and rows.shape == (len(outputs),) and (plain or _is_mean_of(rows, loss, outputs, y)):
        return means(rows, sizes)
    equal = len(set(sizes)) == 1
    if equal and len(sizes) > 8:
        try:
            parts = (t.unflatten(0, (len(sizes), sizes[0])) for t in (outputs, y))
            return _numbers(list(torch.func.vmap(loss, randomness="different")(*parts)))
        except RuntimeError:
            pass  # it looks at values or writes to its arguments: one call for each environment
    pairs = zip(outputs.split(list(sizes)), y.split(list(sizes)), strict=True)
    return _numbers([loss(out, labels) for out, labels in pairs])


def row_losses(loss: Callable[..., Tensor], outputs: Tensor, y: Tensor) -> Tensor:
    """`(n,)` losses, from a loss that averages."""
    if _knows_reduction(loss):
        return _reduced_by_none(loss, outputs, y)
    return torch.func.vmap(lambda f, t: loss(f[None], t[None]), randomness="different")(outputs, y)


def means(rows: Tensor, sizes: Sequence[int]) -> Tensor:
    """`(e,)` means of parts of `(n,)` that follow each other."""
    if len(sizes) == len(rows):
        return rows
    if len(set(sizes)) == 1:
        return rows.unflatten(0, (len(sizes), sizes[0])).mean(dim=1)
    return torch.stack([part.mean() for part in rows.split(list(sizes))])


def _reduced_by_none(loss: Callable[..., Tensor], outputs: Tensor, y: Tensor) -> Tensor:
    losses = loss(outputs, y, reduction="none")
    return losses.flatten(start_dim=1).mean(dim=1) if losses.ndim > 1 else losses


def _knows_reduction(loss: Any) -> bool:
    if isinstance(loss, FunctionType) and not hasattr(loss, "__wrapped__"):  # the same, in a tenth of the time
        code = loss.__code__
        return "reduction" in code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    return "reduction" in inspect.signature(loss).parameters


def _is_mean_of(rows: Tensor, loss: Callable[..., Tensor], outputs: Tensor, y: Tensor) -> bool:
    """False with class weights or ignored labels, whose mean is a weighted one."""
    if rows.shape != (len(outputs),):
        return False
    with torch.no_grad():
        whole = loss(outputs, y)
        return whole.ndim == 0 and math.isclose(float(rows.mean()), float(whole), rel_tol=1e-4)


def _numbers(losses: list[Tensor]) -> Tensor:
    if losses[0].ndim:
        raise ValueError(
            f"the loss of an environment has shape {tuple(losses[0].shape)}; return its mean over rows, one number."
        )
    return torch.stack(losses)
