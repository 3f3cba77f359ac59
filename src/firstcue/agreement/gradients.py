"""The gradient of every environment's mean loss, for every parameter, at little more than the cost of one training step."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from firstcue._checks import as_tensor, encode_labels, require_finite, require_rows
from firstcue.agreement._losses import environment_losses
from firstcue.agreement._sinks import Done, Make, Sinks, Stack, require_finite_gradients
from firstcue.agreement._ways import allows, mapped, pooled, separate, taped, uses_batch_statistics
from firstcue.batch import Batch
from firstcue.forward import left_as_found, run, unwrap

BATCH_NORM = ("pooled", "per_environment", "eval")
"""What BatchNorm layers that are in train mode do."""

Loss = Callable[..., Tensor]
"""`loss(outputs, y)`: a scalar, the mean over its rows."""


def environment_gradients(
    model: nn.Module,
    loss: Loss,
    batch: Any,
    environment: Any = None,
    *,
    batch_norm: str = "pooled",
    parameters: Sequence[str] | None = None,
) -> dict[str, Tensor]:
    """The gradient of each environment's mean loss, environments side by side. The model is left as found.

    The model runs in the mode it is in. Layers that treat rows one by one give the gradients of all environments in one
    forward and one backward pass; what else a model contains is noticed, and a slower way taken (`torch.func`, an
    environment at a time, or a backward pass for each environment), with the same result.

    Args:
        model: Any module; data-parallel and compiled wrappers are looked through.
        loss: `loss(outputs, y)`, the mean over its rows.
        batch: `Batch` or `(x, y)`.
        environment: `(n,)` labels, one per row, or None for `batch.group`; sizes may differ. An environment without rows
            in the batch has no row in the result.
        batch_norm: What BatchNorm layers in train mode do: normalise with the statistics of the whole batch, as training
            does ("pooled": rows then depend on each other, and there is one backward pass for each environment), with
            those of each environment alone ("per_environment"), or with their running statistics ("eval").
        parameters: Names of those wanted, as in `named_parameters()`; all that require a gradient by default.

    Returns:
        For each parameter `(e, *shape)`, environments in the sorted order of their labels; zero for an environment whose
        loss does not depend on the parameter. A parameter shared by several modules is listed once.

    Raises:
        ValueError: If shapes differ, there is no row, a name is unknown, or a gradient is not finite (it is named).

    Source:
        Parascandolo et al. (2020), https://arxiv.org/abs/2009.00329.

    Example:
        >>> model, x = torch.nn.Linear(3, 2), torch.randn(6, 3)
        >>> y, environment = torch.tensor([0, 1, 0, 1, 0, 1]), torch.tensor([0, 0, 0, 0, 1, 1])
        >>> gradients = environment_gradients(model, torch.nn.functional.cross_entropy, (x, y), environment)
        >>> {name: tuple(g.shape) for name, g in gradients.items()}
        {'weight': (2, 2, 3), 'bias': (2, 2)}
    """
    found: dict[str, Tensor] = {}

    def keep(name: str, sink: Any) -> None:
        require_finite_gradients(name, sink)
        found[name] = sink.values

    inner = unwrap(model)
    rows = sorted_rows(batch, environment, inner)
    wanted = wanted_parameters(inner, parameters)
    with as_it_is(inner, loss):
        collect(inner, loss, rows, wanted, Stack, keep, batch_norm=batch_norm)
    return {name: found[name] for name in wanted}


@dataclass(frozen=True)
class SortedRows:
    """A batch whose environments follow each other."""

    x: Tensor
    y: Tensor
    sizes: tuple[int, ...]
    """Rows of each environment."""


def sorted_rows(batch: Any, environment: Any, model: nn.Module) -> SortedRows:
    """Rows on the model's device, sorted by environment, each of which has at least one row.

    Raises:
        ValueError: If lengths differ, there are no rows or no environments, or `x` is not finite.
    """
    x, y, group = _read(batch)
    if environment is None:
        environment = group
    if environment is None:
        raise ValueError(
            "the batch has no environments; pass `environment`, one label per row, or a Batch with `group`."
        )
    require_rows(x, environment, y_name="environment")
    ids, _ = encode_labels(environment, "environment")
    device = next((p.device for p in model.parameters()), x.device)
    x, y, ids = x.to(device), y.to(device), ids.to(device)
    if bool((ids[1:] < ids[:-1]).any()):
        order = ids.argsort(stable=True)
        x, y, ids = x[order], y[order], ids[order]
    return SortedRows(x, y, tuple(ids.bincount().tolist()))


def single_rows(batch: Any, device: torch.device) -> SortedRows:
    """Every row an environment of its own."""
    x, y, _ = _read(batch)
    return SortedRows(x.to(device), y.to(device), (1,) * len(x))


def wanted_parameters(model: nn.Module, names: Sequence[str] | None = None) -> dict[str, Tensor]:
    """Parameters that require a gradient, or those named.

    Raises:
        ValueError: If a name is unknown or frozen, or nothing is left.
    """
    trained: dict[str, Tensor] = {name: p for name, p in model.named_parameters() if p.requires_grad}
    unknown = [name for name in names or () if name not in trained]
    if unknown:
        raise ValueError(f"no trained parameter is called {unknown[0]!r}; there are {', '.join(list(trained)[:12])}.")
    if not trained:
        raise ValueError("the model has no parameter that requires a gradient; model.requires_grad_(True) thaws it.")
    return trained if names is None else {name: trained[name] for name in names}


@contextmanager
def as_it_is(model: nn.Module, loss: Loss) -> Iterator[None]:
    """Gradients in the model's own mode; buffers and random state are restored afterwards."""
    with left_as_found(model, evaluating=False, torch_alone=_is_torchs(model, loss)):
        yield


def _is_torchs(model: nn.Module, loss: Loss) -> bool:
    """Whether all that runs is torch's own, which draws from no other generator than torch's."""
    if not getattr(loss, "__module__", "").startswith(("torch.nn.functional", "torch.nn.modules.loss")):
        return False
    return not any(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
        or "forward" in module.__dict__
        or not type(module).__module__.startswith("torch.nn.modules.")
        or isinstance(module, nn.TransformerEncoderLayer | nn.TransformerDecoderLayer)  # their activation is anybody's
        for module in model.modules()
    )


def collect(
    model: nn.Module,
    loss: Loss,
    rows: SortedRows,
    parameters: Mapping[str, Tensor],
    make: Make,
    done: Done,
    *,
    batch_norm: str = "pooled",
    weights: Tensor | None = None,
) -> Tensor:
    """Send every environment's gradients to sinks by the fastest way there is; the `(e,)` losses.

    Args:
        model: Without wrappers.
        loss: Mean over its rows.
        rows: Sorted by environment.
        parameters: By name.
        make: Makes a sink for a parameter.
        done: Takes each full sink; with a tape, while the backward pass goes on.
        batch_norm: As in `environment_gradients`.
        weights: `(e,)` factors of the environments' losses, or None.
    """
    if batch_norm not in BATCH_NORM:
        raise ValueError(f"`batch_norm` is one of {BATCH_NORM}; got {batch_norm!r}.")
    sizes = rows.sizes

    def losses_of(outputs: Tensor) -> Tensor:
        losses = environment_losses(loss, outputs, rows.y, sizes)
        return losses if weights is None else losses * weights.to(losses)

    with _batch_norm(model, batch_norm, sizes):
        by_tape = taped(model, rows.x, parameters, losses_of, Sinks(parameters, sizes, make, done))
        if by_tape is not None:
            return by_tape.detach()
        independent = allows(model, rows.x, parameters) == "rows" and weights is None
        if independent and max(sizes) * 8 < len(rows.x):
            by_map = mapped(model, rows.x, rows.y, sizes, parameters, loss, Sinks(parameters, sizes, make, done))
            if by_map is not None:
                return by_map
        if independent or (batch_norm == "per_environment" and weights is None):
            return separate(model, rows.x, rows.y, sizes, parameters, loss, Sinks(parameters, sizes, make, done))
        losses = losses_of(run(model, rows.x))
        pooled(losses, parameters, Sinks(parameters, sizes, make, done))
        return losses.detach()


@contextmanager
def _batch_norm(model: nn.Module, mode: str, sizes: Sequence[int]) -> Iterator[None]:
    if mode == "per_environment" and min(sizes) < 2 and uses_batch_statistics(model):
        raise ValueError(
            "BatchNorm in train mode needs two rows or more of each environment to take statistics of; an environment here "
            'has one. Use batch_norm="pooled" or "eval".'
        )
    modules = model.modules() if mode == "eval" else ()
    training = [m for m in modules if isinstance(m, _BatchNorm) and m.training]
    try:
        for module in training:
            module.training = False
        yield
    finally:
        for module in training:
            module.training = True


def _read(batch: Any) -> tuple[Tensor, Tensor, Tensor | None]:
    if isinstance(batch, Batch):
        x, y, group = batch.x, batch.y, batch.group
    elif isinstance(batch, tuple | list) and len(batch) == 2:
        x, y, group = as_tensor(batch[0]), as_tensor(batch[1], "y"), None
        y = y if y.is_floating_point() or isinstance(batch[1], Tensor) else y.long()
    else:
        raise ValueError(f"`batch` is a Batch or a pair (x, y); got {type(batch).__name__}.")
    require_rows(x, y)
    if len(x) == 0:
        raise ValueError("`batch` has no rows; check that the data was not filtered away.")
    require_finite(x)
    return x, y, group
