"""Run a model on data and leave it bit for bit as it was found."""

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from firstcue._checks import as_tensor, require_finite


class NotFinite(ValueError):
    """A loss, a parameter or an output is NaN or infinite: training has diverged."""


@contextmanager
def left_as_found(model: nn.Module, *, evaluating: bool = True, torch_alone: bool = False) -> Iterator[nn.Module]:
    """Evaluation mode and no gradients inside the block; afterwards the model is what it was, also after an exception.

    Restored: the train flag of every module, every buffer (BatchNorm statistics and counters, also those of a model
    that updates them while evaluating), the random states of torch, CUDA, numpy and `random`, and the gradient mode.
    Parameters are not copied; nothing here writes to them.

    Args:
        model: Any module; wrappers may stay on.
        evaluating: If False, the block runs in the model's own mode, with gradients.
        torch_alone: If True, nothing in the block draws from numpy or `random`, and their states are let alone.

    Raises:
        ValueError: If lazy layers were never run: their first run would create parameters.

    Example:
        >>> model = torch.nn.Sequential(torch.nn.BatchNorm1d(3), torch.nn.Dropout(0.5))
        >>> with left_as_found(model):
        ...     model.training
        False
        >>> model.training
        True
    """
    modules = list(model.modules())
    _refuse_lazy(model, modules)
    flags = [(module, module.training) for module in modules]
    buffers = [
        (module, name, tensor, None if tensor is None else (tensor.detach().clone(), tensor._version))
        for module in modules
        for name, tensor in module._buffers.items()
    ]
    states = _random_states(torch_alone)
    try:
        # flags are set one by one because `train` and `eval` may be overridden with side effects
        for module, flag in flags:
            if flag and evaluating:
                module.training = False
        with torch.set_grad_enabled(not evaluating):
            yield model
    finally:
        for module, flag in flags:
            if module.training != flag:
                module.training = flag
        for module, name, tensor, saved in buffers:
            _restore_buffer(module, name, tensor, saved)
        _set_random_states(states)


def _refuse_lazy(model: nn.Module, modules: list[nn.Module]) -> None:
    held = (
        value for module in modules for values in (module._parameters, module._buffers) for value in values.values()
    )
    if not any(value is not None and is_lazy(value) for value in held):
        return
    tensors = (*model.named_parameters(), *model.named_buffers())
    lazy = [name for name, value in tensors if is_lazy(value)]
    raise ValueError(
        f"the model has layers whose shapes are not known yet ({', '.join(lazy[:3])}); run one batch through "
        f"it first: model(x[:1])."
    )


def _restore_buffer(module: nn.Module, name: str, tensor: Tensor | None, saved: tuple[Tensor, int] | None) -> None:
    if module._buffers[name] is not tensor:
        module._buffers[name] = tensor
    if tensor is None or saved is None:
        return
    value, version = saved
    # an unneeded copy would break the backward pass of a graph that holds this buffer
    if tensor._version != version or not torch.equal(tensor, value):
        with torch.no_grad():
            tensor.copy_(value)


def _random_states(torch_alone: bool = False) -> tuple[Any, ...]:
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() and torch.cuda.is_initialized() else None
    others = None if torch_alone else (np.random.get_state(), random.getstate())  # noqa: NPY002
    return torch.get_rng_state(), cuda, others


def _set_random_states(states: tuple[Any, ...]) -> None:
    cpu, cuda, others = states
    torch.set_rng_state(cpu)
    if cuda is not None:
        torch.cuda.set_rng_state_all(cuda)
    if others is not None:
        np.random.set_state(others[0])  # noqa: NPY002
        random.setstate(others[1])


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Global random sources start from `seed` inside the block and are as they were after it.

    For code that cannot be given a generator, such as dropout.

    Example:
        >>> with seeded(0):
        ...     first = torch.rand(())
        >>> with seeded(0):
        ...     first == torch.rand(())
        tensor(True)
    """
    states = _random_states()
    try:
        torch.set_rng_state(torch.Generator().manual_seed(seed).get_state())
        if states[1] is not None:
            torch.cuda.manual_seed_all(seed)
        np.random.set_state(np.random.RandomState(seed % 2**32).get_state())  # noqa: NPY002
        random.setstate(random.Random(seed).getstate())
        yield
    finally:
        _set_random_states(states)


def unwrap(model: nn.Module) -> nn.Module:
    """The module inside data-parallel, compiled and averaging wrappers; other modules are returned as they are.

    Example:
        >>> inner = torch.nn.Linear(2, 2)
        >>> unwrap(torch.nn.DataParallel(inner)) is inner
        True
    """
    wrappers = (nn.DataParallel, nn.parallel.DistributedDataParallel, torch.optim.swa_utils.AveragedModel)
    while True:
        inner = getattr(model, "_orig_mod", None)  # torch.compile
        if inner is None and isinstance(model, wrappers):
            inner = model.module
        if not isinstance(inner, nn.Module):
            return model
        model = inner


class Refused(ValueError):
    """A complaint of firstcue from inside the model's call (a hook), which is not the model's fault."""


def run(model: nn.Module, x: Tensor) -> Tensor:
    """One call of the model: the one tensor it returns, `(len(x), ...)`, on its device and in its dtype.

    Floating inputs are cast to the dtype of the model's parameters (so that float64 arrays can be audited), and moved
    to its device. Must run inside `left_as_found`.

    Raises:
        ValueError: If the model raises, or returns no tensor with one row per input, or several.
    """
    first = next(model.parameters(), None)
    like = next(model.buffers(), x) if first is None else first
    floating = first is not None and first.is_floating_point()
    dtype = like.dtype if floating else next((p.dtype for p in model.parameters() if p.is_floating_point()), x.dtype)
    given = x.to(device=like.device, dtype=dtype if x.is_floating_point() else x.dtype)
    try:
        returned = model(given)
    except (MemoryError, Refused):
        raise
    except Exception as error:  # the user's code: anything may come out, and all of it is the user's to mend
        several = isinstance(error, TypeError) and "required positional argument" in str(error)
        raise ValueError(
            f"the model raised {type(error).__name__} on inputs of shape {tuple(given.shape)}, "
            f"dtype {given.dtype}: {error}\n"
            + (
                "A model of several inputs goes into a module of one input, which makes or holds the others."
                if several
                else "Check that the data has the shape, the order of axes and the dtype that the model was trained on."
            )
        ) from error
    return one_tensor(returned, len(x))


def one_tensor(returned: Any, n: int) -> Tensor:
    """The tensor that is meant by what a model returned: itself, its `logits`, or the only one."""
    logits = returned.get("logits") if isinstance(returned, Mapping) else getattr(returned, "logits", None)
    if isinstance(logits, Tensor):
        returned = logits
    if not isinstance(returned, Tensor):
        found = _tensors(returned)
        if len(found) != 1:
            listed = ", ".join(f"{name} {tuple(t.shape)}" for name, t in found.items()) or "none"
            raise ValueError(
                f"the model returns a {type(returned).__name__} with {len(found)} tensors ({listed}); which one holds "
                f"the logits is not clear. Name it `logits`, or wrap the model in a module that returns it alone."
            )
        returned = next(iter(found.values()))
    if returned.ndim == 0 or len(returned) != n:
        raise ValueError(
            f"the model returns a tensor of shape {tuple(returned.shape)} for {n} inputs; one row of logits per input "
            f"is needed. Does it average over the batch, or put the batch on another axis?"
        )
    return returned


def _tensors(returned: Any) -> dict[str, Tensor]:
    if isinstance(returned, Mapping):
        items = [(str(name), value) for name, value in returned.items()]
    elif isinstance(returned, tuple | list):
        items = [(f"[{i}]", value) for i, value in enumerate(returned)]
    else:
        items = []
    return {name: value for name, value in items if isinstance(value, Tensor)}


def as_logits(outputs: Tensor) -> Float[Tensor, "n k"]:
    """Outputs as float32 logits on the CPU; one output f per row stands for the two logits [0, f].

    Raises:
        ValueError: If there is not one vector per row.
    """
    flat = outputs.detach().flatten(start_dim=1) if outputs.ndim > 1 else outputs.detach()[:, None]
    if outputs.ndim > 2 and flat.shape[1] != outputs.shape[1]:
        raise ValueError(
            f"the model returns outputs of shape {tuple(outputs.shape)}; one vector of logits per input is needed: "
            f"(n, K), (n, 1) or (n,). For sequences or maps, wrap the model in a module that pools or picks one."
        )
    logits = flat.to("cpu", torch.float32, copy=True)
    return logits if logits.shape[1] > 1 else torch.cat([torch.zeros_like(logits), logits], dim=1)


def require_finite_outputs(logits: Tensor, start: int = 0) -> None:
    """Refuse NaN and infinite outputs, naming rows counted from `start`."""
    bad = (~torch.isfinite(logits).all(dim=1)).nonzero()[:, 0] + start
    if len(bad):
        rows = ", ".join(str(int(i)) for i in bad[:5])
        raise NotFinite(
            f"the model returns NaN or infinite outputs in {len(bad)} of {len(logits)} rows (rows {rows}"
            f"{', ...' if len(bad) > 5 else ''}) although the inputs are finite. Training may have diverged (check the "
            f"weights for NaN), or values overflow in half precision (try model.float())."
        )


def parts(x: Tensor, batch_size: int) -> Iterator[tuple[int, Tensor]]:
    """First row and rows of each part of `x`.

    Raises:
        ValueError: If `x` has no rows or `batch_size` is not positive.
    """
    if batch_size < 1:
        raise ValueError(f"`batch_size` is a number of rows, at least 1; got {batch_size}.")
    if x.ndim == 0 or len(x) == 0:
        raise ValueError("`x` has no rows; check that the data was not filtered away.")
    for start in range(0, len(x), batch_size):
        yield start, x[start : start + batch_size]


def predict(model: nn.Module, x: Tensor | np.ndarray, *, batch_size: int = 512) -> Float[Tensor, "n k"]:
    """Logits of the model on every row, in evaluation mode; the model is left as found.

    Args:
        model: A classifier. It may return a tensor, a dict or tuple with one tensor, or an object with `.logits`;
            shapes `(n,)` and `(n, 1)` are read as the logit of class 1 against a zero logit of class 0. Data-parallel and
            compiled wrappers are looked through.
        x: `(n, ...)` inputs; floating ones are cast to the dtype of the model's parameters.
        batch_size: Rows per call; it bounds memory and changes nothing else.

    Returns:
        `(n, K)` float32 logits on the CPU, K >= 2.

    Raises:
        ValueError: If the model raises, its outputs are ambiguous, not one vector per row, NaN or infinite; or `x` is
            empty or not finite.

    Example:
        >>> model = torch.nn.Linear(3, 1)
        >>> predict(model, torch.zeros(5, 3)).shape
        torch.Size([5, 2])
    """
    inputs = as_tensor(x)
    require_finite(inputs)
    collected = []
    inner = unwrap(model)
    with left_as_found(inner):
        for start, part in parts(inputs, batch_size):
            collected.append(as_logits(run(inner, part)))
            require_finite_outputs(collected[-1], start)
    return torch.cat(collected)
