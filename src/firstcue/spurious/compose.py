"""Images with a planted shortcut: a cue that goes with the label in exactly as many rows as asked for.

Two real image sets, or one and a drawn cue, are composed so that the number of rows in every group (class, value of the
cue) is exact rather than random, and every row can be edited: its cue changed, its core kept bit for bit.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from firstcue.batch import Batch
from firstcue.spurious.counts import core_rows, exact_values, partners, require_strength
from firstcue.spurious.cues import Corner, ImagePool, Paint


def dominoes(
    core: Batch,
    spurious: Batch,
    strength: float,
    *,
    n: int | None = None,
    seed: int = 0,
    goes_with: Sequence[int] | None = None,
    replace_core: bool = False,
    unique: bool = False,
    cue: str | None = None,
) -> Batch:
    """Core images with a spurious image above each: the label is that of the core, the cue is the class on top.

    In a class of n_y rows exactly `round(n_y (1 - strength))` conflict with the label; they are spread as evenly as
    possible over the other values.

    Args:
        core: Images `(m, c, h, w)` that carry the label. All of them are used, in their order, unless `n` is given.
        spurious: Images `(m', c, h', w)` whose class is the cue.
        strength: Fraction of each class whose cue agrees with its label, in [0, 1]; one over the number of values is
            independence.
        n: Rows wanted, shared among classes in proportion to their size.
        seed: Seed of every draw; the same seed gives the same bits.
        goes_with: Value that goes with each class; class id modulo the number of values when absent.
        replace_core: Draw cores with replacement, so that `n` may exceed their number.
        unique: Draw spurious images without replacement too. They are otherwise drawn with replacement.
        cue: Name of the cue; "top digit" or "top image" when absent.

    Returns:
        A batch with x `(n, c, h' + h, w)`; `attribute` and `values` for the class on top; `index` `(n, 2)`, the
        core and the spurious image of each row; and `edit(x, value)`, which puts another image of class `value` on top.

    Raises:
        ValueError: If images do not fit together, there are too few, or `strength` is not a fraction.

    Source:
        Shah et al. (2020), https://arxiv.org/abs/2006.07710; Qiu et al. (2024), https://arxiv.org/abs/2403.03375.

    Example:
        >>> from firstcue.data import digits
        >>> batch = dominoes(digits((3, 8)), digits((0, 1)), 0.9, n=200)
        >>> batch.x.shape, batch.groups().bincount().tolist()
        (torch.Size([200, 1, 56, 28]), [93, 10, 10, 87])
    """
    _require_images(core.x, "core")
    _require_images(spurious.x, "spurious")
    if core.x.shape[1] != spurious.x.shape[1] or core.x.shape[3] != spurious.x.shape[3]:
        raise ValueError(
            f"images above each other need the same channels and width; `core` has shape {tuple(core.x.shape[1:])} "
            f"and `spurious` {tuple(spurious.x.shape[1:])}. Resize, pad or repeat channels first."
        )
    pool = _pool(core, spurious, cue or _usual_name(spurious, "top"), "above", seed)
    return _compose(core, pool, strength, n, seed, goes_with, replace_core, unique)


def overlay(
    core: Batch,
    cue: Batch | Paint,
    strength: float,
    *,
    corner: Corner = "bottom right",
    n: int | None = None,
    seed: int = 0,
    goes_with: Sequence[int] | None = None,
    replace_core: bool = False,
    unique: bool = False,
) -> Batch:
    """Core images with a cue drawn over a part of each: small images in a corner, a patch, stripes or a tint.

    Args:
        core: Images `(m, c, h, w)` that carry the label.
        cue: Small images whose class is the cue, or a rule: `patch()`, `stripes()`, `tint()` of
            `firstcue.spurious.cues`.
        strength: Fraction of each class whose cue agrees with its label, in [0, 1].
        corner: Where small images are placed; a rule knows its own place.
        n, seed, goes_with, replace_core, unique: As in `dominoes`.

    Returns:
        A batch with `attribute`, `values`, `index` and `edit`, as `dominoes` gives.

    Raises:
        ValueError: If the cue does not fit, there are too few images, or `strength` is not a fraction.

    Example:
        >>> from firstcue.data import digits
        >>> from firstcue.spurious.cues import tint
        >>> batch = overlay(digits((3, 8)), tint(), 0.5, n=40)
        >>> batch.x.shape, batch.cue, batch.values
        (torch.Size([40, 3, 28, 28]), 'tint', ('hue 0', 'hue 180'))
    """
    _require_images(core.x, "core")
    if isinstance(cue, Paint):
        if cue.grey_only and core.x.shape[1] != 1:
            raise ValueError(f"a {cue.name} needs grey images (one channel); `core` has {core.x.shape[1]} channels.")
        return _compose(core, cue, strength, n, seed, goes_with, replace_core, unique)
    _require_images(cue.x, "cue")
    if core.x.shape[1] != cue.x.shape[1] or any(a < b for a, b in zip(core.x.shape[2:], cue.x.shape[2:], strict=True)):
        raise ValueError(
            f"the images of the cue, of shape {tuple(cue.x.shape[1:])}, do not fit over a core of shape "
            f"{tuple(core.x.shape[1:])}: the channels have to agree and the cue has to be smaller."
        )
    pool = _pool(core, cue, _usual_name(cue, "corner"), corner, seed)
    return _compose(core, pool, strength, n, seed, goes_with, replace_core, unique)


def _compose(
    core: Batch,
    cue: ImagePool | Paint,
    strength: float,
    n: int | None,
    seed: int,
    goes_with: Sequence[int] | None,
    replace_core: bool,
    unique: bool,
) -> Batch:
    require_strength(strength)
    generator = torch.Generator().manual_seed(seed)
    rows = core_rows(core, n, replace_core, generator)
    base = core.rows(rows)
    partner = partners(core, goes_with, len(cue.values))
    value = exact_values(base.y.cpu(), partner, len(cue.values), strength, generator)
    source = rows if core.index is None or core.index.ndim != 1 else core.index.cpu()[rows]
    if isinstance(cue, Paint):
        x, index = cue.show(base.x, value.to(base.x.device)), source
    else:
        drawn = cue.draw(value, generator, unique)
        x, index = cue.put(base.x, cue.images[drawn]), torch.stack([source, drawn], dim=1)
    return Batch(
        x,
        base.y,
        attribute=value.to(base.y.device),
        index=index,
        edit=cue.edit,
        columns=base.columns,
        classes=core.classes,
        values=cue.values,
        cue=cue.name,
    )


def _pool(core: Batch, spurious: Batch, name: str, place: str, seed: int) -> ImagePool:
    if core.x.dtype.is_floating_point != spurious.x.dtype.is_floating_point:
        raise ValueError(
            f"`core` holds {core.x.dtype} and the cue {spurious.x.dtype}: pixels of 0..255 and of 0..1 do not mix. "
            f"Bring both to one scale, for example x.float() / 255."
        )
    return ImagePool.of(spurious, name, place, seed)  # type: ignore[arg-type]


def _usual_name(spurious: Batch, place: str) -> str:
    is_digit = bool(spurious.classes) and all(len(c) == 1 and c.isdigit() for c in spurious.classes)
    return f"{place} {'digit' if is_digit else 'image'}"


def _require_images(x: Tensor, name: str) -> None:
    if x.ndim != 4 or len(x) == 0:
        raise ValueError(
            f"`{name}` needs images of shape (n, channels, height, width), n at least 1; got {tuple(x.shape)}."
        )
