"""Training by several processes that torchrun started: each has its rows, all have the same model after every step.

    torchrun --nproc_per_node 2 my_training.py

Gradients are added up over processes, weighed by rows, so that a step is that of one process with all the rows, up to
rounding. Only what depends on the rows seen together differs: batch normalisation, and random numbers drawn for rows.
"""

import json
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import reduce
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from firstcue.agreement._sinks import Sink, Sinks, Stack
from firstcue.agreement._ways import pooled, taped
from firstcue.agreement.apply import Combined
from firstcue.agreement.rules import Rule
from firstcue.batch import Batch, as_batch
from firstcue.forward import unwrap
from firstcue.moments import Moments


def processes() -> int:
    """How many processes train together; 1 outside of `joined`.

    Example:
        >>> processes()
        1
    """
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Which of them this is, from 0; let number 0 alone print and write files.

    Example:
        >>> rank()
        0
    """
    return dist.get_rank() if processes() > 1 else 0


@contextmanager
def joined() -> Iterator[int]:
    """Join the processes that torchrun started with this one; yields how many they are.

    Without torchrun the block runs alone, so that one script serves both. Processes talk through NCCL where each has a
    GPU of its own, else through gloo.

    Example:
        >>> with joined() as count:
        ...     count
        1
    """
    if dist.is_initialized() or int(os.environ.get("WORLD_SIZE", "1")) < 2:
        yield processes()
        return
    own_gpu = torch.cuda.is_available() and torch.cuda.device_count() >= int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if own_gpu:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if own_gpu else "gloo")
    try:
        yield processes()
    finally:
        dist.destroy_process_group()


def shared(batches: Iterable[Any]) -> Iterator[Batch]:
    """This process's rows of every batch: every process reads the same batches and takes each its part.

    A loader that gives each process rows of its own (`DistributedSampler`) does not need it.

    Args:
        batches: The same in all processes: `minibatches(...)` with one seed, or a list.

    Example:
        >>> [len(part) for part in shared([Batch(torch.zeros(5, 2), torch.zeros(5).long())])]
        [5]
    """
    for item in batches:
        batch = item if isinstance(item, Batch) else as_batch(item)
        yield batch if processes() == 1 else batch.rows(torch.arange(rank(), len(batch), processes()))


def merged(moments: Moments) -> Moments:
    """Moments of the rows of all processes, the same in each; groups are matched by name.

    Example:
        >>> merged(Moments.of(torch.eye(2))).count
        tensor(2., dtype=torch.float64)
    """
    if processes() == 1:
        return moments
    where = _device(moments.count)
    names = [json.loads(bytes(t.tolist())) for t in _gathered(_bytes(moments.classes, where))]
    parts = [_gathered(t.reshape(-1).to(where)) for t in (moments.count, moments.mean, moments.scatter, moments.rows)]
    d = moments.mean.shape[-1]
    found = []
    for classes, count, mean, scatter, rows in zip(names, *parts, strict=True):
        lead = moments.count.shape if len(count) == moments.count.numel() else (len(count),)
        shaped = count.view(lead), mean.view(*lead, d), scatter.view(*lead, d, d), rows.view(lead)
        found.append(Moments(*shaped, None if classes is None else tuple(classes)).to(moments.count.device))
    return reduce(Moments.merge, found)


def begin(model: nn.Module) -> None:
    """Give every process the first one's parameters and buffers.

    Raises:
        ValueError: If the model is wrapped for data-parallel training, which would add up gradients twice.
    """
    if processes() == 1:
        return
    if isinstance(model, nn.parallel.DistributedDataParallel):
        raise ValueError("`train` adds up the gradients of all processes itself; pass the module inside, model.module.")
    if any(isinstance(module, _BatchNorm) and module.training for module in model.modules()):
        warnings.warn(
            "batch normalisation sees the rows of its own process only, so results differ from those of one process; use "
            "torch.nn.SyncBatchNorm on GPUs, or another normalisation.",
            stacklevel=3,
        )
    finish(model)


def finish(model: nn.Module) -> None:
    """Make parameters and buffers those of the first process."""
    if processes() > 1:
        with torch.no_grad():
            for tensor in (*model.parameters(), *model.buffers()):
                dist.broadcast(tensor.data, src=0)


def in_step(items: Iterable[Any]) -> Iterator[Any]:
    """The items, as long as every process has one.

    Raises:
        ValueError: If one process has more than another, which would otherwise wait for ever.
    """
    if processes() == 1:
        yield from items
        return
    waiting, end = iter(items), object()
    while True:
        item = next(waiting, end)
        having = int(_total(torch.tensor([int(item is not end)], device=_device(None))))
        if having == 0:
            return
        if having < processes():
            raise ValueError(
                f"{having} of {processes()} processes have another batch, the others none; give every process the same number, "
                f"for example by shared(batches)."
            )
        yield item


def mean_backward(objective: Callable[[], Tensor], rows: int, parameters: Mapping[str, Tensor]) -> Tensor:
    """`.grad` of the mean over the rows of all processes, and that mean, detached.

    Args:
        objective: The mean over the rows of this process.
        rows: How many these are; with none, `objective` is not called.
        parameters: Those trained, the same in all processes.
    """
    where = next(iter(parameters.values()))
    total = float(_total(torch.tensor([float(rows)], dtype=torch.float64, device=_device(where))))
    value = torch.zeros(1, dtype=torch.float64, device=_device(where))
    if rows:
        mine = objective() * (rows / total)
        if mine.ndim:
            raise ValueError(f"the loss has shape {tuple(mine.shape)}; return its mean over rows, one number.")
        value += float(mine.detach())
        mine.backward()
    for kind in {p.dtype for p in parameters.values()}:
        _add_up([p for p in parameters.values() if p.dtype == kind])
    return _total(value)[0]


def rule_backward(
    model: nn.Module,
    x: Tensor,
    environment: Tensor,
    losses_of: Callable[[Tensor], Tensor],
    parameters: Mapping[str, Tensor],
    rule: Rule,
    check: Callable[[Tensor], None],
) -> None:
    """`.grad` by a rule from the gradients of environments over all processes.

    Args:
        model: Called as it is.
        x: `(n, ...)` rows of this process, environments following each other; may be none.
        environment: `(n,)` ids, sorted.
        losses_of: From outputs: `(e,)` mean losses of the environments present here.
        parameters: Those trained, the same in all processes.
        rule: `(e, p) -> (p,)`.
        check: Told the mean of all environments' losses before anything is written; may raise.
    """
    where = _device(next(iter(parameters.values())))
    ids, counts = environment.to(where).unique_consecutive(return_counts=True)
    every, counted = torch.cat(_gathered(ids)), torch.cat(_gathered(counts))
    names, places = every.unique(return_inverse=True)
    sizes = torch.zeros(len(names), dtype=torch.float64, device=where).index_add_(0, places, counted.double())
    place = torch.searchsorted(names, ids)
    share = counts.double() / sizes[place]
    stacks, losses = _gradients(model, x, counts.tolist(), losses_of, parameters)
    whole = torch.zeros(len(names), dtype=torch.float64, device=where)
    whole[place] = losses.to(where).double() * share
    check(_total(whole).mean())
    combined = Combined(rule, parameters)
    for name, parameter in parameters.items():
        full = torch.zeros(len(names), *parameter.shape, dtype=parameter.dtype, device=parameter.device)
        if name in stacks:
            factor = share.to(full).view(-1, *[1] * parameter.ndim)
            full[place.to(full.device)] = stacks[name].to(full) * factor
        sink = combined.make(len(names), parameter)
        sink.add(_total(full))
        combined.done(name, sink)
    combined.write()


def _gradients(
    model: nn.Module,
    x: Tensor,
    sizes: list[int],
    losses_of: Callable[[Tensor], Tensor],
    parameters: Mapping[str, Tensor],
) -> tuple[dict[str, Tensor], Tensor]:
    """`(e, *shape)` by parameter and `(e,)` losses of the environments of this process."""
    if len(x) == 0:
        return {}, torch.zeros(0)
    found: dict[str, Tensor] = {}
    seen: list[Tensor] = []

    def kept(outputs: Tensor) -> Tensor:
        losses = losses_of(outputs)
        seen[:] = [losses.detach()]
        return losses

    def keep(name: str, sink: Sink) -> None:
        assert isinstance(sink, Stack)
        found[name] = sink.values

    def sinks() -> Sinks:
        return Sinks(parameters, sizes, Stack, keep)

    def forward(module: nn.Module, rows: Tensor) -> Any:
        return module(rows)

    if taped(unwrap(model), x, parameters, kept, sinks(), forward) is None:
        pooled(kept(model(x)), parameters, sinks())
    return found, seen[0]


def _add_up(parameters: list[Tensor]) -> None:
    """`.grad` summed over processes in one message; a parameter that no process has used keeps none."""
    used = torch.tensor([float(p.grad is not None) for p in parameters], device=_device(parameters[0]))
    parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    flat = _total(torch.cat([part.reshape(-1).to(used.device) for part in parts]))
    for p, part, count in zip(
        parameters, flat.split([p.numel() for p in parameters]), _total(used).tolist(), strict=True
    ):
        p.grad = part.view_as(p).to(p) if count else None


def _total(t: Tensor) -> Tensor:
    """Summed over processes, in place."""
    dist.all_reduce(t)
    return t


def _gathered(t: Tensor) -> list[Tensor]:
    """One-dimensional tensors of all processes, of any lengths."""
    lengths = [torch.zeros(1, dtype=torch.int64, device=t.device) for _ in range(processes())]
    dist.all_gather(lengths, torch.tensor([len(t)], device=t.device))
    most = max(int(length) for length in lengths)
    parts = [t.new_empty(most) for _ in lengths]
    dist.all_gather(parts, torch.cat([t, t.new_zeros(most - len(t))]))
    return [part[: int(length)] for part, length in zip(parts, lengths, strict=True)]


def _bytes(value: Any, device: torch.device) -> Tensor:
    return torch.tensor(list(json.dumps(value).encode()), dtype=torch.uint8, device=device)


def _device(like: Tensor | None) -> torch.device:
    """Where tensors have to be to be sent."""
    if dist.is_initialized() and dist.get_backend() == "nccl":
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu") if like is None or like.device.type != "cpu" else like.device
