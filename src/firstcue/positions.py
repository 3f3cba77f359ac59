"""Where the features lie in what a layer returned: tokens, maps and vectors as rows of features, and back again."""

import copy
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

LAYOUTS = ("auto", "channels first", "channels last", "flat")
"""How the axes of `(n, ...)` are read; see `features_last`."""


def features_last(tensor: Tensor, layout: str = "auto", layer: str = "?") -> Tensor:
    """A view `(n, ..., d)` of a layer's output, so that every position of every row has one vector of features.

    Args:
        tensor: What the layer returned, the rows of the batch first.
        layout: "auto" takes the last axis of `(n, d)` and of tokens `(n, t, d)`, and the second of maps `(n, c, h, w)` and
            anything longer. "channels first" takes the second axis, as one-dimensional convolutions `(n, c, t)` need,
            "channels last" the last, as `(n, h, w, d)` does. "flat" makes all numbers of a row one vector.
        layer: What to call the layer in an error.

    Raises:
        ValueError: If the layout is unknown, or the tensor is a single number.

    Example:
        >>> import torch
        >>> features_last(torch.ones(2, 3, 4, 5)).shape, features_last(torch.ones(2, 7, 3)).shape
        (torch.Size([2, 4, 5, 3]), torch.Size([2, 7, 3]))
    """
    if layout not in LAYOUTS:
        raise ValueError(f"`layout` is one of {', '.join(map(repr, LAYOUTS))}; got {layout!r}.")
    if tensor.ndim == 0:
        raise ValueError(f"layer {layer!r} returns a single number, not one vector per row; name a layer before it.")
    if tensor.ndim == 1:
        return tensor[:, None]
    if layout == "flat":
        return tensor.flatten(start_dim=1)
    return tensor.movedim(1, -1) if _second_axis(tensor, layout) else tensor


def put_back(edited: Tensor, tensor: Tensor, layout: str = "auto") -> Tensor:
    """What `features_last(tensor, layout)` gave, edited, with the axes of `tensor`."""
    if tensor.ndim == 1 or layout == "flat":
        return edited.reshape(tensor.shape)
    back = edited.movedim(-1, 1) if _second_axis(tensor, layout) else edited
    # the layers that follow may ask for a view, which the strides of a moved axis do not allow
    return back.contiguous() if tensor.is_contiguous() else back


def _second_axis(tensor: Tensor, layout: str) -> bool:
    return layout == "channels first" or (layout == "auto" and tensor.ndim > 3)


def with_first_tensor(output: Any, change: Callable[[Tensor], Tensor], layer: str = "?") -> Any:
    """A layer's output with its first tensor changed: a tensor, or a tuple, list or mapping that holds one.

    Example:
        >>> import torch
        >>> with_first_tensor((torch.ones(1), "cache"), lambda t: 2 * t)
        (tensor([2.]), 'cache')
    """
    if isinstance(output, Tensor):
        return change(output)
    if isinstance(output, Mapping):
        for key, value in output.items():
            if isinstance(value, Tensor):
                changed: Any = copy.copy(output)
                changed[key] = change(value)
                return changed
    if isinstance(output, tuple | list):
        for place, value in enumerate(output):
            if isinstance(value, Tensor):
                items = [*output[:place], change(value), *output[place + 1 :]]
                return type(output)(*items) if hasattr(output, "_fields") else type(output)(items)
    raise ValueError(f"layer {layer!r} returns {type(output).__name__} without a tensor in it; name a layer inside it.")
