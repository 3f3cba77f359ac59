"""How many rows of every class and value: exact counts, in an order drawn at random."""

from collections.abc import Sequence

import torch
from torch import Tensor

from firstcue.batch import Batch


def core_rows(core: Batch, n: int | None, replace: bool, generator: torch.Generator) -> Tensor:
    """`(n,)` sorted ids of the cores, shared among classes in proportion to their size (largest remainder)."""
    if n is None:
        n = len(core)
    if n < 1 or (n > len(core) and not replace):
        raise ValueError(
            f"{n} rows were asked for, but `core` has {len(core)} images. Ask for fewer, give more images, or draw "
            f"them several times with `replace_core=True`."
        )
    if n == len(core) and not replace:
        return torch.arange(n)
    counts = core.y.cpu().bincount(minlength=core.num_classes)
    share = counts * n
    quota = share // len(core)
    largest = (share % len(core)).argsort(descending=True, stable=True)
    quota[largest[: n - int(quota.sum())]] += 1
    drawn = []
    for label, size in enumerate(quota.tolist()):
        members = (core.y.cpu() == label).nonzero()[:, 0]
        if replace:
            order = torch.randint(max(len(members), 1), (size,), generator=generator)
        else:
            order = torch.randperm(len(members), generator=generator)[:size]
        drawn.append(members[order])
    return torch.cat(drawn).sort().values


def partners(core: Batch, goes_with: Sequence[int] | None, num_values: int) -> list[int]:
    """The value that goes with each class: as given, else class id modulo the number of values."""
    if goes_with is None:
        return [label % num_values for label in range(core.num_classes)]
    if len(goes_with) != core.num_classes or not all(0 <= v < num_values for v in goes_with):
        raise ValueError(
            f"`goes_with` names one value (0 to {num_values - 1}) for each of {core.num_classes} classes; "
            f"got {tuple(goes_with)}."
        )
    return list(goes_with)


def exact_values(y: Tensor, partner: list[int], num_values: int, strength: float, generator: torch.Generator) -> Tensor:
    """`(n,)` value of every row: exact counts in every class, in an order drawn at random."""
    value = torch.empty_like(y)
    for label, agrees in enumerate(partner):
        members = (y == label).nonzero()[:, 0]
        members = members[torch.randperm(len(members), generator=generator)]
        num_conflicts = round(len(members) * (1 - strength))
        others = torch.tensor([v for v in range(num_values) if v != agrees])
        others = others[torch.randperm(len(others), generator=generator)]
        value[members] = agrees
        value[members[:num_conflicts]] = others[torch.arange(num_conflicts) % len(others)]
    return value


def require_strength(strength: float) -> None:
    """Refuse what is no fraction."""
    if not 0 <= strength <= 1:
        raise ValueError(
            f"`strength` is the fraction of rows whose cue agrees with the label, between 0 and 1; got {strength}."
        )
