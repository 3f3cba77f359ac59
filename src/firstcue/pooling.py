"""Pooling: what a layer returned, whatever its shape, as one vector per row."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

Pool = str | Callable[[Tensor], Tensor]
"""How an output `(n, ...)` becomes `(n, d)`: "mean", "flatten", "last", or a function."""


def pooled(output: Any, pool: Pool = "mean", layer: str = "?") -> Tensor:
    """What a layer returned as one vector per row, `(n, d)`, sharing memory with nothing.

    Args:
        output: A tensor, or a tuple, list or mapping, of which the first tensor counts.
        pool: "mean" averages the positions: `(n, c, h, w)` and other maps, channels first, over all axes after the
            second; `(n, t, d)`, sequences of tokens, over t. "flatten" keeps every number. "last" keeps the last
            token of `(n, t, d)`. A function gets the tensor and returns `(n, d)`; needed where the axes are in
            another order, for example `(n, c, t)` from a one-dimensional convolution.
        layer: What to call the layer in an error.

    Raises:
        ValueError: If there is no tensor, or `pool` does not fit its shape.

    Example:
        >>> import torch
        >>> pooled(torch.ones(2, 3, 4, 4)).shape, pooled(torch.ones(2, 3, 4, 4), "flatten").shape
        (torch.Size([2, 3]), torch.Size([2, 48]))
    """
    tensor = _first_tensor(output, layer).detach()
    if callable(pool):
        vectors = pool(tensor)
        if not isinstance(vectors, Tensor) or vectors.ndim != 2:
            shape = tuple(vectors.shape) if isinstance(vectors, Tensor) else type(vectors).__name__
            raise ValueError(
                f"`pool` made {shape} of layer {layer!r}'s {tuple(tensor.shape)}; it has to return (n, d)."
            )
    else:
        vectors = _pooled_by_name(tensor, pool, layer)
    return vectors.detach().clone()


def _pooled_by_name(tensor: Tensor, pool: str, layer: str) -> Tensor:
    if pool not in ("mean", "flatten", "last"):
        raise ValueError(f'`pool` is "mean", "flatten", "last" or a function from (n, ...) to (n, d); got {pool!r}.')
    if tensor.ndim == 0:
        raise ValueError(f"layer {layer!r} returns a single number, not one vector per row.")
    if pool == "last" and tensor.ndim != 3:
        raise ValueError(
            f'`pool="last"` picks the last token of (n, t, d), but layer {layer!r} gives {tuple(tensor.shape)}.'
        )
    if tensor.ndim == 1:
        return tensor[:, None]
    if tensor.ndim == 2:
        return tensor
    if pool == "last":
        return tensor[:, -1]
    if pool == "flatten":
        return tensor.flatten(start_dim=1)
    wide = tensor if tensor.is_floating_point() else tensor.float()
    return wide.mean(dim=1) if tensor.ndim == 3 else wide.flatten(start_dim=2).mean(dim=2)


def _first_tensor(output: Any, layer: str) -> Tensor:
    if isinstance(output, Tensor):
        return output
    items = list(output.values()) if isinstance(output, Mapping) else output if isinstance(output, tuple | list) else []
    found = next((item for item in items if isinstance(item, Tensor)), None)
    if found is None:
        raise ValueError(
            f"layer {layer!r} returns {type(output).__name__} without a tensor in it; name a layer inside it."
        )
    return found
