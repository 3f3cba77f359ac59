"""Look inside a model: activations and moments of named layers while it runs, and nothing left behind.

What a hook sees is pooled and copied at once, so a later layer that works in place (`ReLU(inplace=True)`) cannot
change it.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from firstcue._checks import as_tensor, encode_labels, require_finite, require_rows
from firstcue.forward import Refused, left_as_found, parts, predict, run, unwrap
from firstcue.heads import Head, features_and_outputs, find_head
from firstcue.moments import Moments
from firstcue.pooling import Pool, pooled
from firstcue.replacing import with_head

__all__ = [
    "Head",
    "Pool",
    "activations",
    "features_and_outputs",
    "find_head",
    "layer_moments",
    "layer_moments_of",
    "left_as_found",
    "list_layers",
    "pooled",
    "predict",
    "unwrap",
    "with_head",
]


def list_layers(model: nn.Module, names: str | Sequence[str]) -> list[str]:
    """Names of the modules that match, in the order of the model.

    Args:
        model: Any module; names are those of `named_modules()` inside data-parallel and compiled wrappers.
        names: Names or patterns such as "layer4.*"; `*` stands for anything, dots included.

    Raises:
        ValueError: If a name matches no module; near matches are named.

    Example:
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
        >>> list_layers(model, ["0", "[12]"])
        ['0', '1', '2']
    """
    wanted = [names] if isinstance(names, str) else list(names)
    known = [name for name, _ in unwrap(model).named_modules() if name]
    for pattern in wanted:
        if not any(pattern == name or fnmatchcase(name, pattern) for name in known):
            near = get_close_matches(pattern, known, n=3, cutoff=0.4)
            hint = (
                f"did you mean {', '.join(map(repr, near))}?"
                if near
                else f"its layers: {', '.join(known[:10]) or 'none'}."
            )
            raise ValueError(
                f"the model has no layer {pattern!r}; {hint} `named_modules()` lists all; patterns may use *."
            )
    return [name for name in known if any(name == p or fnmatchcase(name, p) for p in wanted)]


@contextmanager
def activations(
    model: nn.Module, layers: str | Sequence[str], pool: Pool = "mean"
) -> Iterator[dict[str, list[Tensor]]]:
    """Keep what named layers return while the block runs the model: one tensor `(n, d)` per call.

    A module used twice in one pass appears with two tensors. The block runs in evaluation mode without gradients, and
    the model is left as found, also after an exception. Run compiled models by `unwrap(model)`: compiled code skips
    hooks.

    Args:
        model: Any module.
        layers: Names or patterns, as in `list_layers`.
        pool: As in `pooled`: by default maps are averaged over space, sequences over tokens.

    Raises:
        ValueError: If a layer does not exist, or its output cannot be pooled.

    Example:
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(inplace=True), torch.nn.Linear(8, 2))
        >>> with activations(model, "0") as seen:
        ...     _ = model(torch.randn(5, 4))
        >>> [tensor.shape for tensor in seen["0"]]
        [torch.Size([5, 8])]
    """
    seen: dict[str, list[Tensor]] = {name: [] for name in list_layers(model, layers)}
    with left_as_found(model), _hooked(model, seen, lambda name, vectors: seen[name].append(vectors), pool):
        yield seen


@contextmanager
def layer_moments(
    model: nn.Module,
    layers: str | Sequence[str],
    *,
    group: Any = None,
    num_groups: int | None = None,
    pool: Pool = "mean",
) -> Iterator[dict[str, Moments]]:
    """Moments of what named layers return while the block runs the model; nothing else is kept.

    Memory is d x d per layer and group, whatever the amount of data. The block runs in evaluation mode without
    gradients, and the model is left as found. Calls of a module used twice are merged.

    Args:
        model: Any module.
        layers: Names or patterns, as in `list_layers`.
        group: `(n,)` labels of all rows, in the order in which the block will run them; moments get a group axis.
        num_groups: As for `Moments.of_groups`.
        pool: As in `pooled`: by default maps are averaged over space, sequences over tokens.

    Raises:
        ValueError: If a layer does not exist, cannot be pooled or yields NaN, or `group` does not
            have one label per row that ran.

    Example:
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
        >>> with layer_moments(model, ["0"], group=[0, 0, 1, 1, 1]) as moments:
        ...     _ = model(torch.randn(5, 4))
        >>> moments["0"].mean.shape
        torch.Size([2, 8])
    """
    ids, classes = _group_ids(group, num_groups)
    rows = _RowCount()
    collected: dict[str, Moments] = {}

    def add(name: str, vectors: Tensor) -> None:
        require_finite(vectors, f"output of layer {name!r}")
        part = Moments.of(vectors) if ids is None else _by_group(vectors, ids, classes, rows, name)
        collected[name] = collected[name].merge(part) if name in collected else part

    with left_as_found(model), ExitStack() as stack:
        if ids is not None:
            stack.callback(unwrap(model).register_forward_pre_hook(rows.next_batch, with_kwargs=True).remove)
        stack.enter_context(_hooked(model, list_layers(model, layers), add, pool))
        yield collected
    if ids is not None and rows.end != len(ids):
        raise ValueError(
            f"`group` has {len(ids)} rows but the block ran {rows.end}; one per row is needed, in their order."
        )


def layer_moments_of(
    model: nn.Module,
    x: Tensor | np.ndarray,
    layers: str | Sequence[str],
    *,
    group: Any = None,
    num_groups: int | None = None,
    pool: Pool = "mean",
    batch_size: int = 512,
) -> dict[str, Moments]:
    """Moments of named layers over the rows of `x`, by group where `group` is given; one pass for all layers.

    Args:
        model: Any module that runs on a batch of `x`.
        x: `(n, ...)` inputs.
        layers: Names or patterns, as in `list_layers`.
        group: `(n,)` labels of any kind.
        num_groups: As for `Moments.of_groups`.
        pool: As in `pooled`.
        batch_size: Rows per call.

    Raises:
        ValueError: As `layer_moments`; also if the model raises, or a layer never ran.

    Example:
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
        >>> layer_moments_of(model, torch.randn(20, 4), "*")["1"].count
        tensor(20., dtype=torch.float64)
    """
    inputs = as_tensor(x)
    require_finite(inputs)
    if group is not None:
        require_rows(inputs, group, y_name="group")
    inner = unwrap(model)
    with layer_moments(inner, layers, group=group, num_groups=num_groups, pool=pool) as moments:
        for _, part in parts(inputs, batch_size):
            run(inner, part)
    idle = [name for name in list_layers(inner, layers) if name not in moments]
    if idle:
        raise ValueError(f"layers {', '.join(idle)} did not run on this data; leave them out, or name layers that did.")
    return moments


@contextmanager
def _hooked(model: nn.Module, names: Any, keep: Callable[[str, Tensor], None], pool: Pool) -> Iterator[None]:
    """Call `keep(name, (n, d))` whenever a named layer has run."""

    def watch(name: str) -> Any:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            try:
                keep(name, pooled(output, pool, name))
            except ValueError as error:
                raise Refused(str(error)) from None

        return hook

    modules = dict(unwrap(model).named_modules())
    with ExitStack() as hooks:
        for name in names:
            hooks.callback(modules[name].register_forward_hook(watch(name)).remove)
        yield


class _RowCount:
    """Which rows are running: counted when the whole model is called, since a layer may be called twice in one pass."""

    start = 0
    end = 0

    def next_batch(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        """A forward pre-hook of the whole model."""
        inputs = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
        if not inputs:
            raise ValueError("`group` needs to count rows, but the model was called without a tensor.")
        self.start, self.end = self.end, self.end + len(inputs[0])


def _group_ids(group: Any, num_groups: int | None) -> tuple[Tensor | None, tuple[str, ...]]:
    if group is None:
        return None, ()
    if num_groups is None:
        return encode_labels(group, "group")
    ids = torch.as_tensor(group).long()
    return ids, tuple(str(i) for i in range(num_groups))


def _by_group(vectors: Tensor, ids: Tensor, classes: tuple[str, ...], rows: _RowCount, name: str) -> Moments:
    present = ids[rows.start : rows.end]
    if len(present) != len(vectors):
        raise ValueError(
            f"layer {name!r} returned {len(vectors)} rows for rows {rows.start} to {rows.end - 1}, of which `group` "
            f"has {len(present)}; one label per row is needed, and a layer with one output per row."
        )
    return replace(Moments.of_groups(vectors, present, len(classes)), classes=classes)
