"""What the rows look like: one image per group, and the same images with the cue set otherwise."""

import torch
from torch import Tensor

from firstcue.batch import Batch
from firstcue.finding import Picture

PER_GROUP = 6
MAX_GROUPS = 6
_HEIGHT = 84


def pictures(held: Batch, decisions: Tensor, seed: int) -> tuple[Picture, ...]:
    """A picture per group, if the inputs are images with one or three channels; else none.

    Args:
        held: Held-out rows.
        decisions: `(n,)` the model's class ids, named in the caption.
        seed: Of the choice of rows.
    """
    if held.x.ndim != 4 or held.x.shape[1] not in (1, 3) or min(held.x.shape[2:]) < 4:
        return ()
    made, cells = [], held.groups()
    generator = torch.Generator().manual_seed(seed)
    for g in cells.unique().tolist()[:MAX_GROUPS]:
        members = (cells == g).nonzero()[:, 0]
        rows = members[torch.randperm(len(members), generator=generator)[:PER_GROUP]]
        made.append(_group(held, rows, g, decisions, members))
    return tuple(made)


def _group(held: Batch, rows: Tensor, g: int, decisions: Tensor, members: Tensor) -> Picture:
    from firstcue.report.figures import picture

    low, high = float(held.x[members].min()), float(held.x[members].max())
    y, a = divmod(g, held.num_values)
    name = held.classes[y] + (f", {held.cue} {held.values[a]}" if held.attribute is not None else "")
    right = int((decisions[members] == held.y[members]).sum())
    images, caption = list(held.x[rows]), f"{right} of {len(members)} right."
    alt = f"{len(rows)} example inputs of the group {name}"
    if held.edit is not None:
        other = (a + 1) % held.num_values
        images += list(held.edit(held.x[rows].clone(), other))
        caption += f" Below: the same rows with {held.cue} set to {held.values[other]}, as the reliance test sees them."
        alt += ", and below them the same with the cue edited"
    return picture([_shown(image, low, high) for image in images], name, caption, alt, columns=PER_GROUP)


def _shown(image: Tensor, low: float, high: float) -> Tensor:
    """Values in [0, 1], each pixel repeated so that small images stay sharp."""
    scale = max(1, _HEIGHT // image.shape[1])
    unit = ((image.float() - low) / max(high - low, 1e-12)).clamp(0, 1)
    return unit.repeat_interleave(scale, dim=1).repeat_interleave(scale, dim=2)
