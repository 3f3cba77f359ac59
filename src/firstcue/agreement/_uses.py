"""Gradients of one layer's parameters for any part of a batch, from the layer's input and the derivative by its output.

A layer that treats rows one by one gives sum_i g_i for the rows of an environment from these rows alone: for a linear layer
a matrix product, for a convolution the usual weight gradient of the slice. So the gradients of all environments cost what
the pooled gradient costs, plus writing them.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.grad import conv1d_weight, conv2d_weight, conv3d_weight

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


def together(use: Use, x: Tensor, d: Tensor) -> Gradients:
    """The sum over these rows of their gradients, `(*shape)` each.

    Args:
        use: The call.
        x: `(m, ...)` input rows.
        d: `(m, ...)` derivatives of the objective by the output rows.
    """
    if use.function is F.linear:
        rows = d.flatten(end_dim=-2)
        return _named(use, lambda: rows.mT @ x.flatten(end_dim=-2), lambda: rows.sum(dim=0))
    if use.function in _CONVOLUTIONS:
        return _named(use, lambda: _convolution(use, x, d), lambda: d.transpose(0, 1).flatten(start_dim=1).sum(dim=1))
    return _pulled_back(use, x, d)


def one_by_one(use: Use, x: Tensor, d: Tensor) -> Gradients:
    """The gradient of each of these rows, `(m, *shape)` each."""
    if use.function is F.linear:
        rows, inputs = (t.flatten(1, -2) if t.ndim > 2 else t[:, None] for t in (d, x))
        return _named(use, lambda: rows.mT @ inputs, lambda: rows.sum(dim=1))
    if use.function in _UNFOLDED:
        flat = d.flatten(start_dim=2)
        return _named(use, lambda: _unfolded(use, x, flat), lambda: flat.sum(dim=2))
    return torch.func.vmap(lambda row, out: _pulled_back(use, row[None], out[None]))(x, d)


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


def _convolution(use: Use, x: Tensor, d: Tensor) -> Tensor:
    stride, padding, dilation, groups = _geometry(use)
    weight = use.argument(1, "weight", None)
    if isinstance(padding, str):
        return _pulled_back(use, x, d)[use.names_of(1, "weight") or ""]
    return _CONVOLUTIONS[use.function](x, weight.shape, d, stride, padding, dilation, groups)


def _geometry(use: Use) -> tuple[Any, Any, Any, int]:
    return (
        use.argument(3, "stride", 1),
        use.argument(4, "padding", 0),
        use.argument(5, "dilation", 1),
        use.argument(6, "groups", 1),
    )


def _unfolded(use: Use, x: Tensor, d: Tensor) -> Tensor:
    """`(m, *shape)` from the patches that each output pixel sees; `d` is `(m, out, pixels)`."""
    weight = use.argument(1, "weight", None)
    stride, padding, dilation, groups = _geometry(use)
    if isinstance(padding, str):
        return torch.func.vmap(lambda row, out: _pulled_back(use, row[None], out[None]))(x, _folded(use, x, d))[
            use.names_of(1, "weight") or ""
        ]
    kernel: tuple[int, ...] = tuple(weight.shape[2:])
    if len(kernel) == 1:
        x, kernel = x[:, :, None], (1, *kernel)
        stride, padding, dilation = _flat(stride, 1), _flat(padding, 0), _flat(dilation, 1)
    patches = F.unfold(x, kernel, dilation, padding, stride)
    patches = patches.unflatten(1, (groups, -1))
    products = d.unflatten(1, (groups, -1)) @ patches.mT
    return products.reshape(len(x), *weight.shape)


def _folded(use: Use, x: Tensor, d: Tensor) -> Tensor:
    """With padding "same" or "valid" and stride 1, the output pixels as a grid again."""
    out = use.function(x[:1], *use.args[1:], **use.kwargs)
    return d.reshape(len(x), *out.shape[1:])


def _flat(value: Any, of_height: int) -> tuple[int, int]:
    """A one-dimensional setting for an image of height one."""
    return of_height, value if isinstance(value, int) else value[0]


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
_UNFOLDED = {F.conv1d, F.conv2d}
_KNOWN = {
    F.linear, *_CONVOLUTIONS, F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d, F.embedding,
    F.layer_norm, F.group_norm, F.batch_norm, F.instance_norm, F.rms_norm, F.prelu,
}  # fmt: skip


def elements(shape: torch.Size) -> int:
    """Number of components."""
    return math.prod(shape)
