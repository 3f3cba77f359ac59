"""Erase a concept inside a network: at any layers of any model, by hooks that are gone afterwards."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from firstcue._checks import as_tensor
from firstcue.erasure.oracle import GroupEraser
from firstcue.forward import unwrap
from firstcue.layers import list_layers
from firstcue.positions import features_last, put_back, with_first_tensor

Layout = str | Mapping[str, str]
"""How the axes of a layer's output are read, for all layers or by name; see `firstcue.positions.features_last`."""


class Erasing:
    """What runs inside `with erased(...)`: it knows which rows of `group` the model is being called on."""

    def __init__(self, group: Any = None) -> None:
        self.group = group

    @property
    def group(self) -> Any:
        """Labels of the rows the next calls of the model will run, in their order; set it anew before any call."""
        return self._group

    @group.setter
    def group(self, labels: Any) -> None:
        self._group = labels if labels is None or isinstance(labels, Tensor) else np.asarray(labels)
        self._start = self._end = 0

    def _count(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        """A forward pre-hook of the whole model."""
        inputs = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
        if inputs:
            self._start, self._end = self._end, self._end + len(inputs[0])

    def labels(self, n: int, layer: str) -> Any:
        """Labels of the `n` rows that are running, or None.

        Raises:
            ValueError: If `group` has not one label for each.
        """
        if self._group is None:
            return None
        labels = self._group[self._start : self._end] if self._end else self._group
        if len(labels) != n:
            raise ValueError(
                f"layer {layer!r} returned {n} rows for rows {self._start} to {self._end - 1}, of which `group` has "
                f"{len(labels)}. Give one label per row that the block runs, in their order, or set `.group` on what "
                f"`erased` yields before each call; a layer that cuts rows into windows has no label per row."
            )
        return labels


@contextmanager
def erased(
    model: nn.Module, erasers: Mapping[str, Any], *, group: Any = None, layout: Layout = "auto"
) -> Iterator[Erasing]:
    """Inside the block the named layers return erased features, and everything after them works on those.

    Every token of `(n, t, d)` and every position of a map `(n, c, h, w)` is edited on its own. Modes, parameters and buffers
    are not touched, gradients pass through, and the hooks are gone afterwards, also after an exception. A layer used
    several times in one pass is erased each time.

    Args:
        model: Any module; data-parallel wrappers are looked through.
        erasers: Eraser of each layer, by names or patterns as in `list_layers`.
        group: `(n,)` labels of all rows in the order in which the block runs them, or `(n, t)`, one per token. Needed by
            erasers that look at the class. Instead, `.group` of what the block gets may be set before each call.
        layout: Which axis holds the features; see `firstcue.positions.features_last`.

    Raises:
        ValueError: If a layer does not exist, an eraser has another width than its layer, labels are missing or are not one
            per row, or, when the block ends, if a layer never ran.

    Example:
        >>> from firstcue import Moments, leace
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
        >>> x, z = torch.randn(20, 4), torch.arange(20) % 2
        >>> eraser = leace(Moments.of_groups(model[:2](x), z))
        >>> with erased(model, {"1": eraser}):
        ...     outputs = model(x)
        >>> bool((outputs[::2].mean(dim=0) - outputs[1::2].mean(dim=0)).abs().max() < 1e-5)
        True
    """
    inner = hookable(model)
    by_layer = {name: eraser for pattern, eraser in erasers.items() for name in list_layers(inner, pattern)}
    if not by_layer:
        raise ValueError("`erasers` is empty; give at least one layer and its eraser: {'layer3': leace(moments)}.")
    erasing, ran = Erasing(group), set()

    def edit(name: str, features: Tensor) -> Tensor:
        ran.add(name)
        return apply_eraser(by_layer[name], features, erasing.labels(len(features), name), name)

    with ExitStack() as stack:
        stack.callback(inner.register_forward_pre_hook(erasing._count, with_kwargs=True).remove)
        stack.enter_context(editing(inner, list(by_layer), edit, layout))
        yield erasing
    require_ran(inner, [name for name in by_layer if name not in ran])


def apply_eraser(eraser: Any, features: Tensor, labels: Any, layer: str) -> Tensor:
    """The features as the eraser leaves them; an error names the layer whose features do not fit it."""
    fitted = getattr(eraser, "target", getattr(eraser, "mean", None))
    if isinstance(fitted, Tensor) and len(fitted) != features.shape[-1]:
        raise ValueError(
            f"layer {layer!r} gives {features.shape[-1]} features (found {tuple(features.shape)} with features last) but its "
            f"eraser was fitted on {len(fitted)}. Fit it on this layer with the same `layout`, or say where the features lie: "
            f'layout="channels first", "channels last" or "flat".'
        )
    if labels is None:
        if isinstance(eraser, GroupEraser):
            raise ValueError(
                f"the eraser at layer {layer!r} needs the class of every row: erased(model, erasers, group=labels), or set "
                f"`.group` on what `erased` yields before each call. `leace` and `alf_qleace` need none."
            )
        return eraser(features)
    if isinstance(eraser, GroupEraser) and np.ndim(labels) == 2:
        flat = features.reshape(-1, features.shape[-1])
        return eraser(flat, per_position(labels, features.shape[:-1], layer)).reshape(features.shape)
    return eraser(features, labels)


@contextmanager
def editing(
    model: nn.Module, names: Sequence[str], edit: Callable[[str, Tensor], Tensor], layout: Layout
) -> Iterator[None]:
    """Named layers return `edit(name, (n, ..., d))` in place of what they computed."""

    def watch(name: str) -> Any:
        axes = layout if isinstance(layout, str) else layout.get(name, "auto")

        def change(tensor: Tensor) -> Tensor:
            features = features_last(tensor, axes, name)
            edited = edit(name, features)
            return tensor if edited is features else put_back(edited, tensor, axes)

        return lambda module, args, output: with_first_tensor(output, change, name)

    modules = dict(model.named_modules())
    with ExitStack() as hooks:
        for name in names:
            hooks.callback(modules[name].register_forward_hook(watch(name)).remove)
        yield


def hookable(model: nn.Module) -> nn.Module:
    """The module whose forward hooks run: a wrapper for parallel training is taken off."""
    inner = unwrap(model)
    if inner is not model and hasattr(model, "_orig_mod"):
        raise ValueError("compiled code skips hooks; give, and run, the module inside: firstcue.layers.unwrap(model).")
    return inner


def require_ran(model: nn.Module, idle: Sequence[str]) -> None:
    """Refuse layers that no forward pass reached: nothing was erased there."""
    if idle:
        ran = [name for name, _ in model.named_children()]
        raise ValueError(
            f"layers {', '.join(map(repr, idle))} never ran, so nothing was erased there; leave them out, or name layers "
            f"that run (the model's parts: {', '.join(map(repr, ran[:10])) or 'none'}; `list_layers(model, '*')` lists all)."
        )


def per_position(z: Any, positions: torch.Size, layer: str) -> Any:
    """Labels `(n * positions,)` from one per row, or from one per token."""
    labels = z if isinstance(z, Tensor) else np.asarray(z)
    if len(labels) != positions[0]:
        raise ValueError(
            f"layer {layer!r} returned {positions[0]} rows but the concept has {len(labels)} labels; one per row is needed, "
            f"and a layer with the batch on its first axis."
        )
    if labels.ndim == 1:
        times = positions[1:].numel()
        return labels.repeat_interleave(times) if isinstance(labels, Tensor) else np.repeat(labels, times)
    if tuple(labels.shape) != tuple(positions):
        raise ValueError(
            f"labels of shape {tuple(labels.shape)} fit neither the {positions[0]} rows nor the positions "
            f"{tuple(positions)} of layer {layer!r}; give (n,), or (n, t) with one integer per token. One-hot labels: "
            f"z.argmax(1)."
        )
    return as_tensor(labels, "z").reshape(-1)
