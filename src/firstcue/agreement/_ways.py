"""Ways to the gradients of environments, from the fastest that a model allows to the one that always works.

    taped      one forward and one backward pass; every layer gives the gradients of all environments (`Tape`)
    mapped     `torch.func.vmap` over environments of equal size, in chunks
    separate   one forward and backward pass for each environment
    pooled     one forward pass, then one backward pass through all of it for each environment

The last is the only one where rows may depend on each other (BatchNorm in train mode); it costs as many backward passes as
there are environments. Which way a model allows is found out once, on five rows, and checked against the slow way.
"""

import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from firstcue.agreement._sinks import Sinks, Stack
from firstcue.agreement._tape import Tape
from firstcue.agreement._uses import Use
from firstcue.forward import left_as_found, run

Allows = Literal["tape", "rows", "nothing"]
"""What a model allows: the tape; only that its rows are independent; or not even that."""

_PROBE_ROWS = 5
_MAP_ELEMENTS = 1 << 24
_found: "weakref.WeakKeyDictionary[nn.Module, dict[Any, Any]]" = weakref.WeakKeyDictionary()


def taped(
    model: nn.Module,
    x: Tensor,
    parameters: Mapping[str, Tensor],
    losses_of: Callable[[Tensor], Tensor],
    sinks: Sinks,
    forward: Callable[[nn.Module, Tensor], Tensor] = run,
) -> Tensor | None:
    """`(e,)` losses, with the gradients in `sinks`; None if the model does not allow it, with `sinks` untouched."""
    if allows(model, x, parameters) != "tape":
        return None
    with Tape(parameters, len(x)) as tape:
        outputs = forward(model, x)
    known, key = _found[model], _key(model, parameters)
    if tape.signature != known[key]:
        known[key] = "nothing"  # takes another path than in evaluation: no shortcuts
        return None
    losses = losses_of(outputs)
    objective = losses.sum()
    if not tape.complete(objective):
        known[key] = "nothing"  # parameters were used unseen, or the loss has trained ones of its own
        return None
    tape.backward(objective, sinks.receive)
    sinks.close()
    return losses


def pooled(losses: Tensor, parameters: Mapping[str, Tensor], sinks: Sinks) -> None:
    """One backward pass for each of the `(e,)` losses, through the graph that they share."""
    for i in range(len(losses)):
        gradients = _backward(losses[i], parameters, retain_graph=i < len(losses) - 1)
        sinks.add({name: g[None] for name, g in gradients.items()})
    sinks.close()


def separate(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    sizes: Sequence[int],
    parameters: Mapping[str, Tensor],
    loss: Callable[..., Tensor],
    sinks: Sinks,
) -> Tensor:
    """`(e,)` losses, from a forward pass of each environment alone."""
    losses = []
    for rows, labels in zip(x.split(list(sizes)), y.split(list(sizes)), strict=True):
        losses.append(loss(run(model, rows), labels))
        sinks.add({name: g[None] for name, g in _backward(losses[-1], parameters).items()})
    sinks.close()
    return torch.stack(losses).detach()


def mapped(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    sizes: Sequence[int],
    parameters: Mapping[str, Tensor],
    loss: Callable[..., Tensor],
    sinks: Sinks,
) -> Tensor | None:
    """`(e,)` losses by `torch.func`; None if some operation cannot be mapped, before anything is in `sinks`."""
    names = {id(value): name for name, value in model.named_parameters()}
    if not all(id(value) in names for value in parameters.values()):
        return None
    own = {names[id(value)]: name for name, value in parameters.items()}
    frozen = {n: v.detach() for n, v in (*model.named_parameters(), *model.named_buffers()) if n not in own}

    def value(trained: dict[str, Tensor], rows: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        outputs = torch.func.functional_call(model, {**frozen, **trained}, (rows,))
        found = loss(outputs, labels)
        return found, found.detach()

    each = torch.func.vmap(torch.func.grad(value, has_aux=True), in_dims=(None, 0, 0), randomness="different")
    trained = {name: parameters[own[name]].detach() for name in own}
    losses: list[Tensor] = []
    for rows, labels in _chunks(x, y, sizes, sum(p.numel() for p in parameters.values())):
        try:
            gradients, found = each(trained, rows, labels)
        except (RuntimeError, TypeError, AttributeError):
            if losses:
                raise
            return None  # an operation without a batched form, or data-dependent control: the slower way will do
        losses.append(found)
        sinks.add({own[name]: g for name, g in gradients.items()})
    sinks.close()
    return torch.cat(losses)


def allows(model: nn.Module, x: Tensor, parameters: Mapping[str, Tensor]) -> Allows:
    """The fastest way, found by comparing gradients on a few rows; remembered for as long as the model lives."""
    if len(x) < 2 or uses_batch_statistics(model):
        return "nothing"
    known = _found.setdefault(model, {})
    key = _key(model, parameters)
    if key not in known:
        known[key] = _probed(model, x[:_PROBE_ROWS], parameters)
    return "tape" if isinstance(known[key], tuple) else known[key]


def uses_batch_statistics(model: nn.Module) -> bool:
    """Whether a BatchNorm layer makes every row's output depend on the others."""
    return any(isinstance(m, _BatchNorm) and (m.training or m.running_mean is None) for m in model.modules())


def _key(model: nn.Module, parameters: Mapping[str, Tensor]) -> tuple[int, ...]:
    return (model.training, *(id(value) for value in parameters.values()))


def _probed(model: nn.Module, x: Tensor, parameters: Mapping[str, Tensor]) -> Any:
    """The tape's signature if its gradients are right, else what the model allows."""
    sizes = [len(x) // 2, len(x) - len(x) // 2]
    with left_as_found(model), torch.enable_grad():
        try:
            with Tape(parameters, len(x)) as tape:
                outputs = run(model, x)
            parts = [run(model, rows) for rows in x.split(sizes)]
        except (ValueError, RuntimeError):
            return "nothing"  # it wants whole batches, or returns more than one tensor; its real call will tell
        if not _alike(outputs, torch.cat(parts)):
            return "nothing"
        pull = torch.cos(torch.arange(outputs.numel(), device=outputs.device)).reshape(outputs.shape).to(outputs)
        objectives = [(part * p).sum() for part, p in zip(parts, pull.split(sizes), strict=True)]
        slow = [_backward(value, parameters) for value in objectives]
        pairs, singles = _read_from(tape, (outputs * pull).sum(), parameters, sizes)
    if not pairs:
        return "rows"
    right = all(
        _alike(pairs[name].values, torch.stack([g[name] for g in slow]))
        and _alike(torch.stack([part.sum(dim=0) for part in singles[name].values.split(sizes)]), pairs[name].values)
        for name in parameters
    )
    return tape.signature if right else "rows"


def _read_from(
    tape: Tape, objective: Tensor, parameters: Mapping[str, Tensor], sizes: Sequence[int]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Stacks of gradients by parameter, of environments of these sizes and of single rows; empty if it cannot be done."""
    if not objective.requires_grad or not tape.complete(objective):
        return {}, {}
    found: tuple[dict[str, Any], dict[str, Any]] = {}, {}
    ways = [
        Sinks(parameters, s, Stack, seen.__setitem__) for s, seen in zip((sizes, [1] * sum(sizes)), found, strict=True)
    ]

    def receive(use: Use, x: Tensor, d: Tensor) -> None:
        for sinks in ways:
            sinks.receive(use, x, d)

    try:
        tape.backward(objective, receive)
    except RuntimeError:
        return {}, {}  # activation checkpoints run the forward pass again, unseen
    for sinks in ways:
        sinks.close()
    return found


def _alike(a: Tensor, b: Tensor) -> bool:
    """Equal up to rounding; a wrong assignment of rows is an error of order one."""
    if a.shape != b.shape:
        return False
    tolerance = 5e-2 if torch.finfo(a.dtype).bits < 32 else 1e-3
    a, b = a.detach().double(), b.detach().double()
    return bool((a - b).abs().max() <= tolerance * b.abs().max() + 1e-12) if a.numel() else True


def _backward(loss: Tensor, parameters: Mapping[str, Tensor], *, retain_graph: bool = False) -> dict[str, Tensor]:
    """Gradients of one loss; of parameters that it does not depend on, zero."""
    values = list(parameters.values())
    if not loss.requires_grad:
        return {name: torch.zeros_like(value) for name, value in parameters.items()}
    gradients = torch.autograd.grad(loss, values, retain_graph=retain_graph, allow_unused=True, materialize_grads=True)
    return dict(zip(parameters, gradients, strict=True))


def _chunks(x: Tensor, y: Tensor, sizes: Sequence[int], elements: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Runs of environments of equal size, as `(m, size, ...)`, as many at a time as memory allows."""
    most = max(1, min(64, _MAP_ELEMENTS // max(1, elements)))
    start = 0
    for size, run_of in groupby(sizes):
        count = len(list(run_of))
        for first in range(0, count, most):
            m = min(most, count - first)
            stop = start + m * size
            yield x[start:stop].unflatten(0, (m, size)), y[start:stop].unflatten(0, (m, size))
            start = stop
