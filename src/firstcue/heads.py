"""The head of a classifier: its last linear layer, found by watching one call and verified, never guessed by name."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from firstcue._checks import as_tensor, require_finite
from firstcue.forward import as_logits, left_as_found, parts, require_finite_outputs, run, unwrap

_POINTWISE = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_PROBE_ROWS = 256


@dataclass(frozen=True)
class Head:
    """The affine map from penultimate features to logits: features @ weight.T + bias."""

    name: str
    """Name of the module within the model, as in `named_modules()`."""

    weight: Tensor
    """`(K, d)` float32 on the CPU; a model with one output has the rows [0, w]."""

    bias: Tensor
    """`(K,)` float32, zero for a layer without bias."""

    def __call__(self, features: Tensor | np.ndarray) -> Any:
        """Logits `(..., K)` of features `(..., d)`, in their dtype and type."""
        if isinstance(features, np.ndarray):
            return self(as_tensor(features, "features")).numpy()
        wide = features if features.dtype == torch.float64 else features.float()
        weight, bias = self.weight.to(wide), self.bias.to(wide)
        return (wide @ weight.mT + bias).to(features.dtype)


@dataclass
class _Call:
    """The last call of a linear layer: what went in, flattened, and what came out (a reference)."""

    name: str
    module: nn.Module
    features: Tensor
    output: Tensor


def find_head(model: nn.Module, x: Tensor | np.ndarray) -> Head:
    """The last linear layer whose output is the model's output, verified on rows of `x`.

    Every `nn.Linear`, and every 1 x 1 convolution on a map of one pixel, is watched during one call; the last one
    executed whose output is what the model returns is the head, and logits = features W^T + b must hold to
    1e-4 of the largest logit (in half precision, to eight roundings). The model is left as found.

    Args:
        model: A classifier that returns logits; wrappers (DataParallel, compiled) are looked through.
        x: `(n, ...)` inputs, of which at most 256 are used.

    Raises:
        ValueError: If the outputs are not those of a linear layer (for example after a softmax), the model raises, or
            its outputs are NaN; the message lists the linear layers that ran.

    Example:
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
        >>> find_head(model, torch.randn(5, 4)).name
        '2'
    """
    inputs = as_tensor(x)
    _, probe = next(parts(inputs, _PROBE_ROWS))
    require_finite(probe)
    inner = unwrap(model)
    with left_as_found(inner), _watched(inner, None) as calls:
        outputs = run(inner, probe)
        require_finite_outputs(as_logits(outputs))
        call = _last_that_is(outputs, calls)
        if call is None:
            raise ValueError(_no_head(inner, outputs, calls))
        head = _head_of(call)
        _verify(head, call.features, outputs, _tolerance(call))
    return head


def features_and_outputs(
    model: nn.Module, x: Tensor | np.ndarray, *, batch_size: int = 512, head: Head | None = None
) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n k"]]:
    """Penultimate features and logits of every row; outputs = head(features) is verified on all of them.

    Args:
        model: A classifier with a linear head.
        x: `(n, ...)` inputs.
        batch_size: Rows per call.
        head: From `find_head`, to save looking for it again.

    Returns:
        `(n, d)` what goes into the head, and `(n, K)` logits as from `predict`; float32 on the CPU.

    Raises:
        ValueError: As `find_head` and `predict`.

    Example:
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 1))
        >>> features, outputs = features_and_outputs(model, torch.randn(5, 4))
        >>> features.shape, outputs.shape
        (torch.Size([5, 8]), torch.Size([5, 2]))
    """
    inputs = as_tensor(x)
    require_finite(inputs)
    head = find_head(model, inputs) if head is None else head
    inner = unwrap(model)
    features, logits = [], []
    with left_as_found(inner), _watched(inner, head.name) as calls:
        for start, part in parts(inputs, batch_size):
            calls.clear()
            outputs = run(inner, part)
            logits.append(as_logits(outputs))
            require_finite_outputs(logits[-1], start)
            if not calls:
                raise ValueError(f"the head {head.name!r} was not called on rows {start} to {start + len(part) - 1}.")
            _verify(head, calls[-1].features, outputs, _tolerance(calls[-1]))
            features.append(calls[-1].features.to("cpu", torch.float32))
    return torch.cat(features), torch.cat(logits)


@contextmanager
def _watched(model: nn.Module, name: str | None) -> Iterator[list[_Call]]:
    """The calls, in order, of all linear layers with one vector per row, or of the one called `name`."""
    calls: list[_Call] = []

    def watch(layer: str) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            features = args[0] if args else kwargs.get("input")
            if isinstance(features, Tensor) and isinstance(output, Tensor) and _one_vector_per_row(output):
                # cloned: a later layer may work in place on what this one was given
                calls.append(_Call(layer, module, features.detach().flatten(1).clone(), output))

        return hook

    with ExitStack() as hooks:
        for layer, module in model.named_modules():
            if (name is None and _is_linear(module)) or layer == name:
                hooks.callback(module.register_forward_hook(watch(layer), with_kwargs=True).remove)
        yield calls


def _is_linear(module: nn.Module) -> bool:
    if isinstance(module, _POINTWISE):
        return set(module.kernel_size) == {1} and module.groups == 1
    return isinstance(module, nn.Linear)


def _one_vector_per_row(output: Tensor) -> bool:
    return output.ndim >= 2 and output.shape[1] == output[0].numel()


def _last_that_is(outputs: Tensor, calls: list[_Call]) -> _Call | None:
    for call in reversed(calls):
        if call.output.numel() == outputs.numel() and _same(call.output, outputs):
            return call
    return None


def _same(a: Tensor, b: Tensor) -> bool:
    if a.untyped_storage().data_ptr() == b.untyped_storage().data_ptr():
        return True
    return torch.equal(a.flatten().to(b), b.flatten())


def _head_of(call: _Call) -> Head:
    weight: Tensor = call.module.weight  # type: ignore[assignment]
    rows = weight.detach().flatten(1).to("cpu", torch.float32, copy=True)
    shift = call.module.bias
    bias = (
        shift.detach().to("cpu", torch.float32, copy=True) if isinstance(shift, Tensor) else rows.new_zeros(len(rows))
    )
    if len(rows) == 1:
        rows, bias = torch.cat([torch.zeros_like(rows), rows]), torch.cat([torch.zeros_like(bias), bias])
    return Head(call.name, rows, bias)


def _tolerance(call: _Call) -> float:
    return max(1e-4, 8 * torch.finfo(call.output.dtype).eps)


def _verify(head: Head, features: Tensor, outputs: Tensor, tolerance: float) -> None:
    expected, found = head(features.to("cpu", torch.float32)), as_logits(outputs)
    if expected.shape == found.shape:
        error = float((expected - found).abs().max() / found.abs().max().clamp(min=1e-12))
        if error <= tolerance:
            return
        difference = f"differ by up to {error:.1e} of the largest output"
    else:
        difference = f"have shape {tuple(found.shape)} where the layer gives {tuple(expected.shape)}"
    raise ValueError(
        f"the model's outputs and its last linear layer {head.name!r} {difference}, so it is not the head: something "
        f"acts on its outputs (an activation, a scale, a second use of the layer). Let the model return this layer's "
        f"output, or audit embeddings and outputs directly with `audit_embeddings`."
    )


def _no_head(model: nn.Module, outputs: Tensor, calls: list[_Call]) -> str:
    way_out = getattr(model, "way_out", None) or (  # models that stand for others know better
        "Let the model return the output of its last nn.Linear, or audit the embeddings directly with "
        "`audit_embeddings(x, y, attribute)`."
    )
    shape = tuple(outputs.shape)
    if not calls:
        unused = [n for n, m in model.named_modules() if isinstance(m, nn.Linear)]
        ran = (
            f"linear layers exist ({', '.join(unused[:5])}) but none gave one vector per input"
            if unused
            else "it has none"
        )
        return f"no linear layer produces the model's outputs {shape}: {ran}. {way_out}"
    for call in reversed(calls):
        for label, function in _SQUASHED.items():
            if call.output.numel() == outputs.numel() and _close(function(call.output.float()), outputs):
                return (
                    f"the model's outputs are the {label} of its linear layer {call.name!r}, not logits. Return the logits: "
                    f"remove the final {label} (train on logits, and apply it only where probabilities are shown)."
                )
    listed = ", ".join(f"{c.name!r} -> {tuple(c.output.shape)}" for c in calls[-5:])
    return (
        f"no linear layer's output is the model's output {shape}; linear layers that ran, last ones: {listed}. "
        f"Something acts after the last of them. {way_out}"
    )


_SQUASHED = {
    "log_softmax": lambda t: t.log_softmax(dim=1),
    "softmax": lambda t: t.softmax(dim=1),
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
}


def _close(a: Tensor, b: Tensor) -> bool:
    return torch.allclose(a.flatten(), b.flatten().float(), rtol=1e-3, atol=1e-5)
