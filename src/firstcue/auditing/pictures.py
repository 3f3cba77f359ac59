"""What the rows look like: one image per group, and the same images with the cue set otherwise."""

import base64
import io

import numpy as np
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
    y, a = divmod(g, held.num_values)
    name = held.classes[y] + (f", {held.cue} {held.values[a]}" if held.attribute is not None else "")
    right = int((decisions[members] == held.y[members]).sum())
    strips = [held.x[rows]]
    caption = f"{right} of {len(members)} right."
    if held.edit is not None:
        other = (a + 1) % held.num_values
        strips.append(held.edit(held.x[rows].clone(), other))
        caption += f" Below: the same rows with {held.cue} set to {held.values[other]}, as the reliance test sees them."
    alt = f"{len(rows)} example inputs of the group {name}" + (
        ", and below them the same with the cue edited" if len(strips) > 1 else ""
    )
    return Picture(title=name, caption=caption, alt=alt, png=_png(strips))


def _png(strips: list[Tensor]) -> str:
    from PIL import Image

    low, high = min(float(s.min()) for s in strips), max(float(s.max()) for s in strips)
    rows = [
        torch.cat(
            list(torch.nn.functional.pad((s.float() - low) / max(high - low, 1e-12), (1, 1, 1, 1), value=1.0)), dim=2
        )
        for s in strips
    ]
    grid = torch.cat(rows, dim=1).permute(1, 2, 0).mul(255).round().clamp(0, 255).byte().cpu().numpy()
    image = Image.fromarray(np.ascontiguousarray(grid[..., 0] if grid.shape[2] == 1 else grid))
    scale = max(1, _HEIGHT * len(strips) // image.height)
    out = io.BytesIO()
    image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST).save(
        out, format="PNG", optimize=True
    )
    return base64.b64encode(out.getvalue()).decode("ascii")
