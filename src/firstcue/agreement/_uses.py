"""Gradients of one layer's parameters for any part of a batch, from the layer's input and the derivative by its output.

A layer that treats rows one by one gives sum_i g_i for the rows of an environment from these rows alone: for a linear layer
a matrix product, for a convolution the usual weight gradient of the slice. So the gradients of all environments cost what
the pooled gradient costs, plus writing them.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.grad import conv1d_weight, conv2d_weight, conv3d_weight

from firstcue.agreement._patches import weight_gradients

ACTIVATIONS = 1 << 19
"""Numbers of a layer's output that are worked on at one time, so that they stay near the processor."""

Gradients = dict[str, Tensor]
"""By name of the parameter."""


@dataclass(frozen=True)
class Use:
    """One call of a function with parameters: `function(x, *args, **kwargs)`."""

    function: Callable[..., Tensor]
    args: tuple[Any, ...]
    """Positional arguments, the input among them at 0, which is not kept here."""
    kwargs: Mapping[str, Any]
    names: Mapping[int | str, str]
    """Which of them are parameters: their place, and their name in the model."""

    def argument(self, place: int, key: str, default: Any) -> Any:
        """An argument given by position or by keyword."""
        return self.args[place] if len(self.args) > place else self.kwargs.get(key, default)

    def names_of(self, place: int, key: str) -> str | None:
        """The name of the parameter at this place."""
        return self.names.get(place) or self.names.get(key)


def together(use: Use, x: Tensor, d: Tensor, slot: Callable[[str], Tensor]) -> Gradients:
    """The sum over these rows of their gradients, `(*shape)` each.

    Args:
        use: The call.
        x: `(m, ...)` input rows.
        d: `(m, ...)` derivatives of the objective by the output rows.
        slot: Gives memory for the gradient of a parameter, which need not be used.
    """
    if use.function is F.linear:
        rows, inputs = d.flatten(end_dim=-2), x.flatten(end_dim=-2)
        return _named(use, lambda: _product(use, rows, inputs, slot), lambda: rows.sum(dim=0))
    if use.function in _CONVOLUTIONS:
        return _named(use, lambda: _convolution(use, x, d), lambda: d.transpose(0, 1).flatten(start_dim=1).sum(dim=1))
    if use.function in _NORMS:
        return {name: rows.sum(dim=0) for name, rows in _of_norm(use, x, d).items()}
    return _pulled_back(use, x, d)


def one_by_one(use: Use, x: Tensor, d: Tensor, step: int) -> Iterator[Gradients]:
    """The gradient of each of these rows, `(m, *shape)` each, at most `step` large ones at a time.

    What is yielded may be overwritten, and is overwritten when the next part is made.
    """
    weight, bias = use.names_of(1, "weight"), use.names_of(2, "bias")
    if use.function is F.linear or use.function in _UNFOLDED:
        tokens = (t.flatten(1, -2) if t.ndim > 2 else t[:, None] for t in (d, x))
        rows, inputs = tokens if use.function is F.linear else (d.flatten(start_dim=2).mT, None)
        if weight is not None:
            parts = _products(rows, inputs, step) if inputs is not None else _of_convolution(use, x, rows, step)
            yield from ({weight: part} for part in parts)
        if bias is not None:
            yield {bias: rows.sum(dim=1)}
    elif use.function in _NORMS:
        few = max(1, ACTIVATIONS // max(1, d[0].numel()))
        yield from (_of_norm(use, rows, outs) for rows, outs in zip(x.split(few), d.split(few), strict=True))
    else:
        each = torch.func.vmap(lambda row, out: _pulled_back(use, row[None], out[None]))
        yield from (each(rows, outs) for rows, outs in zip(x.split(step), d.split(step), strict=True))


def is_vector_linear(use: Use, x: Tensor) -> bool:
    """Whether the gradient of a row is the outer product of two vectors."""
    return use.function is F.linear and x.ndim == 2


def captures(function: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    """Whether this call treats rows one by one and can be run again without side effects."""
    if function not in _KNOWN or not args or not isinstance(args[0], Tensor):
        return False
    if function is F.batch_norm:
        return kwargs.get("training", args[5] if len(args) > 5 else False) is False
    if function is F.embedding:
        # max_norm writes to the weight; frequencies and sparse gradients are not sums over rows
        plain = {"max_norm": None, "scale_grad_by_freq": False, "sparse": False}
        given = dict(
            zip(("padding_idx", "max_norm", "norm_type", "scale_grad_by_freq", "sparse"), args[2:], strict=False)
        )
        return all((given | dict(kwargs)).get(name, default) == default for name, default in plain.items())
    if function is F.instance_norm:
        running = [*args[1:3], kwargs.get("running_mean"), kwargs.get("running_var")]
        return all(value is None for value in running)
    return True


def _named(use: Use, weight: Callable[[], Tensor], bias: Callable[[], Tensor]) -> Gradients:
    """Only what is trained is computed."""
    places = {use.names_of(1, "weight"): weight, use.names_of(2, "bias"): bias}
    return {name: compute() for name, compute in places.items() if name is not None}


def _product(use: Use, rows: Tensor, inputs: Tensor, slot: Callable[[str], Tensor]) -> Tensor:
    out = slot(use.names_of(1, "weight") or "")
    return torch.mm(rows.mT, inputs, out=out) if out.dtype == rows.dtype else rows.mT @ inputs


def _of_convolution(use: Use, x: Tensor, d: Tensor, step: int) -> Iterator[Tensor]:
    stride, padding, dilation, groups = (use.argument(3 + i, *setting) for i, setting in enumerate(_SETTINGS))
    shape = use.argument(1, "weight", None).shape
    return weight_gradients(x, d, shape, stride, padding, dilation, groups, step)


def _convolution(use: Use, x: Tensor, d: Tensor) -> Tensor:
    weight = use.argument(1, "weight", None)
    stride, padding, dilation, groups = (use.argument(3 + i, *setting) for i, setting in enumerate(_SETTINGS))
    if isinstance(padding, str):
        return _pulled_back(use, x, d)[use.names_of(1, "weight") or ""]
    return _CONVOLUTIONS[use.function](x, weight.shape, d, stride, padding, dilation, groups)


def _products(d: Tensor, a: Tensor, step: int) -> Iterator[Tensor]:
    """`(m, out, in)` from `(n, t, out)` and `(n, t, in)`, in memory that is used again."""
    out = d.new_empty(min(step, len(d)), d.shape[2], a.shape[2])
    for rows, inputs in zip(d.split(step), a.split(step), strict=True):
        yield torch.bmm(rows.mT, inputs, out=out[: len(rows)])


def _of_norm(use: Use, x: Tensor, d: Tensor) -> Gradients:
    """`(m, *shape)` of scales and shifts: products with the normalised input, summed over positions."""
    at_weight, at_bias = _NORMS[use.function]
    args = [x, *(None if place in (at_weight, at_bias) else v for place, v in enumerate(use.args) if place)]
    normal = use.function(*args, **{key: None if key in ("weight", "bias") else v for key, v in use.kwargs.items()})

    def over_positions(t: Tensor) -> Tensor:
        if use.function is F.layer_norm:
            inner = len(use.argument(1, "normalized_shape", ()))
            t = t.flatten(1, -inner - 1) if t.ndim > inner + 1 else t[:, None]
            return t.sum(dim=1)
        return t.flatten(start_dim=2).sum(dim=2) if t.ndim > 2 else t.clone()  # what is returned may be overwritten

    shift = {name: over_positions(d) for name in [use.names_of(at_bias, "bias")] if name is not None}
    scale = {name: over_positions(normal.mul_(d)) for name in [use.names_of(at_weight, "weight")] if name is not None}
    return shift | scale


def _pulled_back(use: Use, x: Tensor, d: Tensor) -> Gradients:
    """By running the call again on these rows."""
    places = list(use.names)
    values = [use.args[p] if isinstance(p, int) else use.kwargs[p] for p in places]

    def again(*parameters: Tensor) -> Tensor:
        args, kwargs = [x, *use.args[1:]], dict(use.kwargs)
        for place, parameter in zip(places, parameters, strict=True):
            if isinstance(place, int):
                args[place] = parameter
            else:
                kwargs[place] = parameter
        return use.function(*args, **kwargs)

    pull = torch.func.vjp(again, *values)[1]
    return dict(zip((use.names[p] for p in places), pull(d), strict=True))


_CONVOLUTIONS = {
    F.conv1d: conv1d_weight,
    F.conv2d: conv2d_weight,
    F.conv3d: conv3d_weight,
}
_SETTINGS = (("stride", 1), ("padding", 0), ("dilation", 1), ("groups", 1))
_NORMS = {F.layer_norm: (2, 3), F.group_norm: (2, 3), F.batch_norm: (3, 4), F.instance_norm: (3, 4)}
"""The places of scale and shift."""
_UNFOLDED = {F.conv1d, F.conv2d}
_KNOWN = {
    F.linear, *_CONVOLUTIONS, F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d, F.embedding,
    F.layer_norm, F.group_norm, F.batch_norm, F.instance_norm, F.rms_norm, F.prelu,
}  # fmt: skip
