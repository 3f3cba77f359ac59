"""What the rows look like: examples of each group, the same with the cue set otherwise, and what is typical of each class."""

import torch
from torch import Tensor

from firstcue.auditing.typical import typical_pictures
from firstcue.batch import Batch
from firstcue.finding import Picture

PER_GROUP = 6
MAX_GROUPS = 6


def pictures(held: Batch, decisions: Tensor, seed: int, features: Tensor | None = None) -> tuple[Picture, ...]:
    """A picture per group and one per class, if the inputs are images with one or three channels; else none.

    Args:
        held: Held-out rows.
        decisions: `(n,)` the model's class ids, named in the caption.
        seed: Of the choice of rows.
        features: `(n, d)` what the head reads, by which rows are most and least typical of their class.
    """
    if held.x.ndim != 4 or held.x.shape[1] not in (1, 3) or min(held.x.shape[2:]) < 4:
        return ()
    made, cells = [], held.groups()
    generator = torch.Generator().manual_seed(seed)
    for g in cells.unique().tolist()[:MAX_GROUPS]:
        members = (cells == g).nonzero()[:, 0]
        rows = members[torch.randperm(len(members), generator=generator)[:PER_GROUP]]
        made.append(_group(held, rows, g, decisions, members))
    return (*made, *typical_pictures(held, features, decisions))


def _group(held: Batch, rows: Tensor, g: int, decisions: Tensor, members: Tensor) -> Picture:
    from firstcue.report.figures import enlarged, picture

    low, high = float(held.x[members].min()), float(held.x[members].max())
    y, a = divmod(g, held.num_values)
    name = held.classes[y] + (f", {held.cue} {held.values[a]}" if held.attribute is not None else "")
    right = int((decisions[members] == held.y[members]).sum())
    images, caption = held.x[rows], f"{right} of {len(members)} right."
    alt = f"{len(rows)} example inputs of the group {name}"
    if held.edit is not None:
        other = (a + 1) % held.num_values
        images = torch.cat([images, held.edit(held.x[rows].clone(), other)])
        caption += f" Below: the same rows with {held.cue} set to {held.values[other]}, as the reliance test sees them."
        alt += ", and below them the same with the cue edited"
    return picture(enlarged(images, low, high), name, caption, alt, columns=PER_GROUP)
