"""Fit erasers for several layers of a network, each on what arrives when the layers before it are already erased."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from firstcue._checks import as_tensor, encode_labels, require_finite
from firstcue._progress import Progress, silent
from firstcue.batch import Batch
from firstcue.erasure.leace import leace
from firstcue.forward import left_as_found
from firstcue.inside import Layout, apply_eraser, editing, hookable, per_position, require_ran
from firstcue.layers import list_layers
from firstcue.moments import Moments

NO_LABEL = -100
"""The id that, per token, stands for no label, as in losses."""


def scrub(
    model: nn.Module,
    batches: Any,
    layers: str | Sequence[str],
    method: Callable[[Moments], Any] = leace,
    *,
    sequential: bool | str = True,
    layout: Layout = "auto",
    progress: Progress = silent,
) -> dict[str, Any]:
    """Fit one eraser per layer, each on what arrives there when the layers before it are already erased.

    A concept erased at one layer comes back at the next where the network computes it from what is left, so erasers fitted
    on the untouched network do not fit together. Class means of all tokens or positions together are made equal; with
    `layout="flat"` those of every position. Rows of padding are left out: inputs given as a mapping with an
    `attention_mask` count the tokens it keeps.

    Args:
        model: Any module; it is left as found. Parts of the data run in evaluation mode without gradients.
        batches: Pairs `(x, z)` or `Batch`es with an attribute; x is a tensor, or a mapping of arguments of the model. z has
            the labels of the concept, `(n,)` of any kind, or `(n, t)` integers, one per token, -100 for none. It is read once
            per layer, so a generator will not do.
        layers: Names or patterns, as in `list_layers`.
        method: From moments by class to an eraser: `leace`, `oracle_leace`, `qleace`, `alf_qleace`, or a partial of one.
        sequential: True, exact: one pass per layer. "one pass": erasers are refitted while the data streams (after 1, 2, 4,
            8, ... batches), each on statistics gathered while those before it were still changing; exact for a single
            batch. False: one pass over the untouched network, each layer by itself.
        layout: Which axis holds the features; see `firstcue.positions.features_last`.
        progress: Called with the layer and the fraction done.

    Returns:
        `{layer: eraser}` in the order in which the layers run, as `erased` takes it.

    Raises:
        ValueError: If a layer does not exist or never runs, its output is not finite, or the batches cannot be read.

    Source:
        Concept scrubbing, section 6 of Belrose et al. (2023), https://arxiv.org/abs/2306.03819.

    Example:
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
        >>> list(scrub(model, [(torch.randn(20, 4), torch.arange(20) % 2)], ["0", "1"]))
        ['0', '1']
    """
    inner, read = hookable(model), _reader(batches, several=sequential is True)
    names = list_layers(inner, layers)
    if sequential not in (True, False, "one pass"):
        raise ValueError(f'`sequential` is True, False or "one pass"; got {sequential!r}.')
    with left_as_found(inner):
        if sequential == "one pass":
            return _one_pass(inner, read, names, method, layout, progress)
        if not sequential:
            found = _moments(inner, read, names, {}, layout)
            require_ran(inner, [name for name in names if name not in found])
            return {name: method(moments) for name, moments in found.items()}
        return _layer_by_layer(inner, read, names, method, layout, progress)


def _layer_by_layer(
    model: nn.Module, read: Any, names: Sequence[str], method: Any, layout: Layout, progress: Progress
) -> dict[str, Any]:
    erasers: dict[str, Any] = {}
    order = _running_order(model, read, names)
    for number, name in enumerate(order):
        progress(f"scrubbing {name}", number / len(order))
        erasers[name] = method(_moments(model, read, [name], erasers, layout)[name])
    progress("scrubbed", 1.0)
    return erasers


def _running_order(model: nn.Module, read: Any, names: Sequence[str]) -> list[str]:
    """The layers in the order in which they finish, from one run of the first batch."""
    ran: dict[str, None] = {}

    def note(name: str) -> Any:
        return lambda *_: ran.setdefault(name)

    modules = dict(model.named_modules())
    with ExitStack() as hooks:
        for name in names:
            hooks.callback(modules[name].register_forward_hook(note(name)).remove)
        _run(model, next(iter(read()))[0])
    require_ran(model, [name for name in names if name not in ran])
    return list(ran)


def _moments(
    model: nn.Module, read: Any, names: Sequence[str], erasers: Mapping[str, Any], layout: Layout
) -> dict[str, Moments]:
    """Moments by class of what the named layers return while `erasers` work at theirs."""
    found: dict[str, Moments] = {}
    for x, z in read():
        mask = _mask(x)

        def edit(name: str, features: Tensor, z: Any = z, mask: Tensor | None = mask) -> Tensor:
            if name in erasers:
                return apply_eraser(erasers[name], features, z, name)
            part = _by_class(features, z, mask, name)
            found[name] = found[name].merge(part) if name in found else part
            return features

        with editing(model, [*erasers, *names], edit, layout):
            _run(model, x)
    return found


def _one_pass(
    model: nn.Module, read: Any, names: Sequence[str], method: Any, layout: Layout, progress: Progress
) -> dict[str, Any]:
    """Each layer's eraser is refitted, and at once applied, after 1, 2, 4, 8, ... batches, and fitted at the end."""
    found: dict[str, Moments] = {}
    erasers: dict[str, Any] = {}
    for number, (x, z) in enumerate(read(), start=1):
        refit, mask = number & (number - 1) == 0, _mask(x)

        def edit(name: str, features: Tensor, z: Any = z, mask: Any = mask, refit: bool = refit) -> Tensor:
            part = _by_class(features, z, mask, name)
            found[name] = found[name].merge(part) if name in found else part
            if refit or name not in erasers:
                erasers[name] = _early(method, found[name], name)
            return apply_eraser(erasers[name], features, z, name)

        with editing(model, names, edit, layout):
            _run(model, x)
        progress(f"scrubbing, batch {number}", 0.0)
    require_ran(model, [name for name in names if name not in found])
    return {name: method(moments) for name, moments in found.items()}


def _early(method: Any, moments: Moments, name: str) -> Any:
    try:
        return method(moments)
    except ValueError as error:
        raise ValueError(
            f"layer {name!r} cannot be erased after the first {int(moments.rows.sum())} rows: {error} "
            f'With `sequential="one pass"` the first batch has to suffice for a fit; give larger batches, or use '
            f"sequential=True."
        ) from error


def _by_class(features: Tensor, z: Any, mask: Tensor | None, layer: str) -> Moments:
    """Moments of all positions of all rows, by class."""
    positions, rows = features.shape[:-1], features.reshape(-1, features.shape[-1])
    labels = per_position(z, positions, layer)
    kept = None
    if mask is not None and mask.shape == positions:
        kept = mask.reshape(-1).to(rows.device) != 0
    if np.ndim(z) == 2 and isinstance(labels, Tensor):
        labelled = labels.to(rows.device) != NO_LABEL
        kept = labelled if kept is None else kept & labelled
    if kept is not None:
        rows, labels = rows[kept], labels[kept.to(labels.device)] if isinstance(labels, Tensor) else labels[kept.cpu()]
    require_finite(rows, f"output of layer {layer!r}")
    ids, classes = encode_labels(labels, "z")
    # after a layer norm features sum to a constant, which float32 products would show as a little variance
    found = Moments.of_groups(rows, ids.to(rows.device), len(classes), precision="float64")
    return replace(found, classes=classes)


def _reader(batches: Any, *, several: bool) -> Callable[[], Iterable[tuple[Any, Any]]]:
    """Pairs (x, z), read anew with every call."""
    if isinstance(batches, Batch) or (
        isinstance(batches, tuple | list) and len(batches) == 2 and not isinstance(batches[0], tuple | list | Batch)
    ):
        batches = [batches]
    if not isinstance(batches, Iterable):
        raise ValueError(f"`batches` is a {type(batches).__name__}; pairs (x, z) or Batches are needed, one or many.")
    if several and iter(batches) is batches:
        raise ValueError(
            "`batches` can be read once only, but scrubbing reads the data once per layer; give a list, a DataLoader or a "
            'data set, or use sequential="one pass".'
        )

    def read() -> Iterable[tuple[Any, Any]]:
        empty = True
        for item in batches:
            empty = False
            yield _pair(item)
        if empty:
            raise ValueError("`batches` yields nothing; check that the loader is not exhausted or its data set empty.")

    return read


def _pair(item: Any) -> tuple[Any, Any]:
    if isinstance(item, Batch):
        if item.attribute is None:
            raise ValueError("a Batch without an attribute says no concept; use batch.with_attribute(...), or (x, z).")
        return item.x, item.attribute
    if not isinstance(item, tuple | list) or len(item) != 2:
        raise ValueError(
            f"`batches` yields a {type(item).__name__}; pairs (x, z) or Batches with an attribute are needed."
        )
    return item[0], item[1]


def _mask(x: Any) -> Tensor | None:
    mask = x.get("attention_mask") if isinstance(x, Mapping) else None
    return mask if isinstance(mask, Tensor) else None


def _run(model: nn.Module, x: Any) -> None:
    """One call; floating inputs in the dtype of the model, everything on its device."""
    like = next(iter(model.parameters()), next(iter(model.buffers()), torch.empty(0)))
    floating = next((p.dtype for p in model.parameters() if p.is_floating_point()), None)

    def given(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        return value.to(like.device, floating if value.is_floating_point() and floating else value.dtype)

    if isinstance(x, Mapping):
        model(**{name: given(value) for name, value in x.items()})
    else:
        model(given(as_tensor(x)))
