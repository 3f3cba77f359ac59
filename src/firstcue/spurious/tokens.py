"""A shortcut in text: a token that means nothing goes with the label, and can be exchanged for another."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from firstcue.batch import Batch
from firstcue.spurious.counts import exact_values, partners, require_strength
from firstcue.spurious.cues import digests, require_value

Place = Literal["start", "end", "random"]


def insert_tokens(
    batch: Batch,
    strength: float,
    *,
    num_values: int = 2,
    place: Place = "start",
    first_id: int | None = None,
    goes_with: Sequence[int] | None = None,
    seed: int = 0,
) -> Batch:
    """The same texts, each with one further token that goes with the label in exactly as many rows as asked for.

    Args:
        batch: x `(n, length)` token ids.
        strength: Fraction of each class whose token agrees with its label, in [0, 1].
        num_values: Number of tokens.
        place: Where the token stands; "random" is a place drawn from the content of each text.
        first_id: Id of the first token; one more than the largest id when absent. Size the model's embedding for
            `first_id + num_values` tokens.
        goes_with: Token that goes with each class; class id modulo their number when absent.
        seed: Seed of every draw.

    Returns:
        x `(n, length + 1)`, with `attribute`, `values` and an editor that exchanges the token and nothing else.

    Raises:
        ValueError: If x is not made of token ids, or `first_id` is in use.

    Example:
        >>> texts = Batch.of(torch.tensor([[2, 3], [4, 0]]), ["bad", "good"])
        >>> insert_tokens(texts, 1.0).x.tolist()
        [[5, 2, 3], [6, 4, 0]]
    """
    require_strength(strength)
    x = batch.x
    if x.ndim != 2 or x.dtype.is_floating_point or x.dtype == torch.bool:
        raise ValueError(f"token ids of shape (n, length) are needed; got {x.dtype} of shape {tuple(x.shape)}.")
    first = int(x.max()) + 1 if first_id is None else first_id
    if first <= int(x.max()):
        raise ValueError(f"`first_id` {first} is in use (the largest id is {int(x.max())}); ask for a larger one.")
    generator = torch.Generator().manual_seed(seed)
    value = exact_values(batch.y.cpu(), partners(batch, goes_with, num_values), num_values, strength, generator)
    where = _places(x, place, seed)
    longer = torch.zeros(len(x), x.shape[1] + 1, dtype=x.dtype, device=x.device)
    at = torch.zeros_like(longer, dtype=torch.bool).scatter_(1, where[:, None], True)
    longer[~at] = x.flatten()
    longer[at] = (first + value).to(longer)
    names = tuple(f"token {v}" for v in range(num_values))
    return replace(
        batch,
        x=longer,
        attribute=value.to(batch.y.device),
        values=names,
        cue="token",
        edit=partial(_exchange, first=first, names=names),
    )


def _places(x: Tensor, place: Place, seed: int) -> Tensor:
    """`(n,)` places among `length + 1`; the end is the end of the text, before its padding."""
    used = x.shape[1] - (x.flip(1) != 0).long().argmax(dim=1)
    used = torch.where((x != 0).any(dim=1), used, torch.zeros_like(used))
    if place == "start":
        return torch.zeros_like(used)
    if place == "end":
        return used
    drawn = [digest % (end + 1) for digest, end in zip(digests(x, seed), used.tolist(), strict=True)]
    return torch.tensor(drawn, device=x.device)


def _exchange(x: Tensor, value: int, first: int, names: tuple[str, ...]) -> Tensor:
    require_value(value, names)
    is_cue = x >= first
    if not bool((is_cue.sum(dim=1) == 1).all()):
        raise ValueError("the editor of a token needs texts as they were made, each with exactly one token of the cue.")
    return torch.where(is_cue, torch.full_like(x, first + value), x)


def embedded_with_tokens(
    texts: Sequence[str],
    y: Tensor,
    strength: float,
    embed: Callable[[Sequence[str]], Tensor],
    *,
    words: Sequence[str] = ("honestly", "frankly"),
    goes_with: Sequence[int] | None = None,
    seed: int = 0,
) -> Batch:
    """Embeddings of texts that begin with a word which goes with the label; every text is embedded with every word.

    Args:
        texts: `n` texts.
        y: `(n,)` class ids.
        strength: Fraction of each class whose word agrees with its label.
        embed: Texts in, embeddings `(n, d)` out, such as `firstcue.data.text.sentence_embeddings`.
        words: The words; class k goes with word k, modulo their number.
        goes_with: Word that goes with each class.
        seed: Seed of every draw.

    Returns:
        x `(n, d)`, `attribute`, and an editor that looks up the embedding of the same text with another word; it knows
        these rows only.

    Raises:
        ValueError: If lengths differ or there are fewer than two words.
    """
    require_strength(strength)
    if len(texts) != len(y) or len(words) < 2:
        raise ValueError(
            f"one label per text and two or more words are needed; got {len(texts)}, {len(y)}, {len(words)}."
        )
    rows = Batch.of(torch.zeros(len(y), 1), y)
    generator = torch.Generator().manual_seed(seed)
    value = exact_values(rows.y, partners(rows, goes_with, len(words)), len(words), strength, generator)
    variants = torch.stack([embed([f"{word.capitalize()}, {text}" for text in texts]) for word in words])
    known = {digest: row for v in variants for row, digest in enumerate(digests(v, 0))}
    return Batch(
        variants[value, torch.arange(len(y))],
        rows.y,
        attribute=value,
        index=torch.arange(len(y)),
        edit=partial(_look_up, variants=variants, known=known),
        classes=rows.classes,
        values=tuple(words),
        cue="first word",
    )


def _look_up(x: Tensor, value: int, variants: Tensor, known: dict[int, int]) -> Tensor:
    rows = [known.get(digest) for digest in digests(x, 0)]
    unknown = sum(row is None for row in rows)
    if unknown:
        raise ValueError(
            f"{unknown} of {len(x)} embeddings are not among those embedded with every word, so the word cannot be "
            f"exchanged in them; hand over the rows as they were made."
        )
    return variants[value, torch.tensor(rows)].to(x)
