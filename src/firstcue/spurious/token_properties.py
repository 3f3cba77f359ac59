"""What can be said of a sequence of token ids without its words: which frequent tokens it holds, and how long it is."""

from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from firstcue._checks import as_tensor
from firstcue.spurious.properties import Property
from firstcue.spurious.text_properties import MOST_TOKENS

PAD = 0
"""Id of the places behind the end of a sequence, as everywhere here."""


def token_properties(x: Any) -> tuple[Property, ...]:
    """The presence of each frequent token, and the number of tokens.

    A token is carried over with its place: it is put where the donor has it, or what the donor has there is put for it.

    Args:
        x: `(n, length)` integer token ids, 0 for padding.

    Raises:
        ValueError: If `x` is not made of token ids.

    Example:
        >>> found = token_properties(torch.tensor([[5, 2, 3], [6, 3, 0]] * 10))
        >>> [p.name for p in found]
        ['token 2', 'token 5', 'token 6', 'number of tokens']
        >>> found[1].carry(torch.tensor([[6, 3, 0]]), torch.tensor([[5, 2, 3]])).tolist()
        [[5, 3, 0]]
    """
    ids = as_tensor(x)
    if ids.ndim != 2 or ids.dtype.is_floating_point or ids.dtype == torch.bool:
        raise ValueError(f"token ids of shape (n, length) are needed; got {ids.dtype} of shape {tuple(ids.shape)}.")
    tokens = tuple(
        Property(f"token {t}", _holds(ids, t), measure=partial(_holds, token=t), carry=partial(_carry, token=t))
        for t in frequent_ids(ids)
    )
    return (*tokens, Property("number of tokens", _length(ids), measure=_length))


def frequent_ids(x: Int[Tensor, "n length"], most: int = MOST_TOKENS) -> list[int]:
    """Tokens that at least a hundredth of the rows (and ten of them) hold, and a hundredth (and ten) do not, by frequency."""
    ordered = x.cpu().sort(dim=1).values
    first = torch.ones_like(ordered, dtype=torch.bool)
    first[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    ids, rows = ordered[first & (ordered != PAD)].unique(return_counts=True)
    least = max(10, len(x) / 100)
    kept = [(n, t) for t, n in zip(ids.tolist(), rows.tolist(), strict=True) if least <= n <= len(x) - least]
    return [t for _, t in sorted(kept, key=lambda pair: (-pair[0], pair[1]))[:most]]


def _holds(x: Any, token: int) -> np.ndarray:
    return np.asarray((as_tensor(x) == token).any(dim=1).cpu().double().numpy())


def _length(x: Any) -> np.ndarray:
    return np.asarray((as_tensor(x) != PAD).sum(dim=1).cpu().double().numpy())


def _carry(x: Tensor, donors: Tensor, token: int) -> Tensor:
    """Rows that lack the token get it where the donor has it; in rows that have it, the donor's other tokens stand for it."""
    donors = donors.to(x)
    has, wanted = (x == token).any(dim=1), (donors == token).any(dim=1)
    last = (x != PAD).long().cumsum(dim=1).argmax(dim=1)
    place = torch.minimum((donors == token).long().argmax(dim=1), last)
    put = x.scatter(1, place[:, None], token)
    other = (donors != PAD) & (donors != token)
    spare = donors.gather(1, other.long().argmax(dim=1)[:, None])
    dropped = torch.where(
        x == token, torch.where(other, donors, torch.where(other.any(dim=1, keepdim=True), spare, PAD)), x
    )
    changed = torch.where((wanted & ~has)[:, None], put, x)
    return torch.where((has & ~wanted)[:, None], dropped, changed)
