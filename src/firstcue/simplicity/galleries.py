"""Pictures of simplification: originals beside what is left of them, where the bits went, and the extremes of a data set."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from firstcue._checks import as_tensor
from firstcue.simplicity.inspecting import GroupBits
from firstcue.simplicity.saved import SavedMap, contrast_normalised

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SIDE = 1.25
"""Inches of one image."""


def simplified_grid(
    x: Any,
    simplified: Any,
    *,
    bits_before: Any = None,
    bits_after: Any = None,
    notes: Sequence[str] = (),
    rows: int = 8,
) -> Any:
    """Original, simplified, the same with its contrast restored, and the difference; most bits saved first.

    Args:
        x: Images `(n, c, h, w)` in [0, 1].
        simplified: `(n, c, h, w)` in [0, 1].
        bits_before: `(n,)` total bits; shown per value, and they order the rows.
        bits_after: `(n,)`.
        notes: A line for each image, for example the probability of its class before and after.
        rows: Images to show at most.

    Returns:
        A matplotlib figure. The difference is grey where nothing changed, red where the image got brighter.

    Raises:
        ValueError: If shapes differ or there are no images.

    Example:
        >>> import torch
        >>> x = torch.rand(3, 1, 8, 8)
        >>> len(simplified_grid(x, x / 2, bits_before=[9.0, 8.0, 7.0], bits_after=[1.0, 2.0, 3.0]).axes)
        12
    """
    before, after = (as_tensor(v, name).detach().float().cpu() for v, name in ((x, "x"), (simplified, "simplified")))
    if before.shape != after.shape or before.ndim != 4 or len(before) == 0:
        raise ValueError(
            f"images of the same shape (n, c, h, w) are needed; got {tuple(before.shape)}, {tuple(after.shape)}."
        )
    known = bits_before is not None and bits_after is not None
    size = before[0].numel()
    old, new = (
        np.asarray(as_tensor(b).cpu(), dtype=float) / size if known else np.zeros(len(before))
        for b in (bits_before, bits_after)
    )
    order = np.argsort(new - old, kind="stable")[:rows]
    figure, panels = _panels(len(order), 4, ("original", "simplified", "contrast restored", "difference"))
    clear = contrast_normalised(after)
    for line, i in zip(panels, order, strict=True):
        for axes, image in zip(line, (before[i], after[i], clear[i]), strict=False):
            _show(axes, image)
        line[3].imshow((after[i] - before[i]).mean(dim=0).numpy(), cmap="RdGy_r", vmin=-1, vmax=1)
        if known:
            line[0].set_xlabel(f"{old[i]:.2f} bits/value", fontsize=7)
            line[1].set_xlabel(f"{new[i]:.2f} bits/value", fontsize=7)
        if len(notes):
            line[2].set_xlabel(notes[i], fontsize=7)
    return figure


def saved_grid(x: Any, simplified: Any, saved: SavedMap, *, rows: int = 8) -> "Figure":
    """Where bits were saved: original, simplified, and the map with a diverging scale around zero.

    Args:
        x: Images `(n, c, h, w)` in [0, 1].
        simplified: `(n, c, h, w)` in [0, 1].
        saved: From `bits_saved_map`.
        rows: Images to show at most.

    Returns:
        A matplotlib figure; a map that is only a proxy says so.

    Raises:
        ValueError: If numbers of images differ.

    Example:
        >>> import torch
        >>> saved = SavedMap(torch.rand(2, 8, 8), proxy=True)
        >>> saved_grid(torch.rand(2, 1, 8, 8), torch.rand(2, 1, 8, 8), saved).axes[2].get_title()
        'bits saved (proxy)'
    """
    before, after = (as_tensor(v, name).detach().float().cpu() for v, name in ((x, "x"), (simplified, "simplified")))
    if not len(before) == len(after) == len(saved.bits) or len(before) == 0:
        raise ValueError(f"one map per image is needed; got {len(before)}, {len(after)} and {len(saved.bits)}.")
    count = min(rows, len(before))
    figure, panels = _panels(
        count, 3, ("original", "simplified", "bits saved (proxy)" if saved.proxy else "bits saved")
    )
    most = float(saved.bits[:count].abs().max()) or 1.0
    for i, line in enumerate(panels):
        _show(line[0], before[i])
        _show(line[1], after[i])
        drawn = line[2].imshow(saved.bits[i].cpu().numpy(), cmap="RdBu", vmin=-most, vmax=most)
    figure.colorbar(drawn, ax=[line[2] for line in panels], shrink=0.6, label="bits per pixel")
    return figure


def extremes(x: Any, groups: Sequence[GroupBits], *, values: int | None = None) -> "Figure":
    """The simplest and the most complex images of each class, side by side.

    Args:
        x: Images `(n, c, h, w)` in [0, 1] that `groups` speak of.
        groups: From `inspect_bits(...).by_class`, `.by_group` or `group_bits`.
        values: Values in an image, to show bits per value; those of `x` when absent.

    Returns:
        A matplotlib figure, one line per class.

    Raises:
        ValueError: If there are no groups.

    Example:
        >>> import torch
        >>> from firstcue.simplicity.inspecting import group_bits
        >>> x = torch.rand(6, 1, 4, 4)
        >>> len(extremes(x, group_bits(x.sum(dim=(1, 2, 3)), [0, 0, 0, 1, 1, 1], examples=2)).axes)
        8
    """
    if not groups:
        raise ValueError("`groups` is empty; there is nothing to show.")
    images = as_tensor(x).detach().float().cpu()
    size = values or images[0].numel()
    each = max(len(group.simplest) for group in groups)
    titles = ["simplest" if i == 0 else "most complex" if i == 2 * each - 1 else "" for i in range(2 * each)]
    figure, panels = _panels(len(groups), 2 * each, titles)
    for line, group in zip(panels, groups, strict=True):
        line[0].set_ylabel(f"{group.name}\n{group.mean / size:.2f} bits/value", fontsize=7)
        for axes, row in zip(line[:each], group.simplest, strict=False):
            _show(axes, images[row])
        for axes, row in zip(line[::-1], group.most_complex, strict=False):
            _show(axes, images[row])
    return figure


def image_grid(x: Any, *, columns: int = 10, titles: Sequence[str] = ()) -> Any:
    """Images in lines, for example a condensed set with one line per class.

    Args:
        x: Images `(n, c, h, w)` in [0, 1].
        columns: Images in a line.
        titles: One above each image.

    Raises:
        ValueError: If there are no images.

    Example:
        >>> import torch
        >>> len(image_grid(torch.rand(5, 1, 4, 4), columns=3).axes)
        6
    """
    images = as_tensor(x).detach().float().cpu()
    if len(images) == 0:
        raise ValueError("`x` is empty; there is nothing to show.")
    width = min(columns, len(images))
    figure, panels = _panels(-(-len(images) // width), width, ())
    for i, axes in enumerate(panels.flat):
        if i < len(images):
            _show(axes, images[i])
            axes.set_title(titles[i] if i < len(titles) else "", fontsize=7)
    return figure


def _panels(rows: int, columns: int, titles: Sequence[str]) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(SIDE * columns + 0.6, SIDE * rows + 0.4), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False)
    for axes in panels.flat:
        axes.set_xticks([])
        axes.set_yticks([])
        for edge in axes.spines.values():
            edge.set_visible(False)
    for axes, title in zip(panels[0], titles, strict=False):
        axes.set_title(title, fontsize=8)
    return figure, panels


def _show(axes: Any, image: Tensor) -> None:
    """Three channels in colour; any other number as grey, their mean."""
    if len(image) == 3:
        axes.imshow(image.permute(1, 2, 0).clamp(0, 1).numpy(), interpolation="nearest")
    else:
        axes.imshow(image.mean(dim=0).numpy(), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
