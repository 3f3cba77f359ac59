"""Draw rows in which the spurious function agrees with the core one as often as wanted, exactly and without loops over rows."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from firstcue.spurious.functions import MOST_TABLE_BITS, BooleanFunction
from firstcue.spurious.packed import MOST_BITS, Words, flipped, low_bits, random_words, write_signs

Sampling = Literal["core-uniform", "mixture"]

BLOCK = 4096
"""Rows drawn from one seed (seed, block): what is drawn does not depend on how it is cut."""

_RAREST = 1e-4
"""Share of random rows below which a search for them is given up."""


class Rows(NamedTuple):
    """A block of rows."""

    x: np.ndarray
    """`(n, k)` float32 signs."""
    y: np.ndarray
    """`(n,)` int64, 1 where the core function is +1."""
    a: np.ndarray
    """`(n,)` the same for the spurious one."""


@dataclass(frozen=True)
class Recipe:
    """What to draw."""

    core: BooleanFunction
    spurious: BooleanFunction
    strength: float
    noise: int
    sampling: Sampling | str
    seed: int

    def __post_init__(self) -> None:
        for role, function in (("core", self.core), ("spurious", self.spurious)):
            if not isinstance(function, BooleanFunction):
                raise ValueError(
                    f"`{role}` is a {type(function).__name__}; give a function such as parity(3), or wrap your own: "
                    f"boolean_function(f, size)."
                )
        require_shortcut(self.strength, self.sampling)
        if self.noise < 0 or self.seed < 0:
            raise ValueError(f"`noise` and `seed` are at least 0; got {self.noise} and {self.seed}.")

    @property
    def size(self) -> int:
        """Coordinates of a row."""
        return self.core.size + self.spurious.size + self.noise


def require_shortcut(strength: float, sampling: str) -> None:
    """Refuse a strength that is no probability, and an unknown way of sampling."""
    if not 0 <= strength <= 1:
        raise ValueError(f"`strength` is the probability that both functions agree, between 0 and 1; got {strength}.")
    if sampling not in ("core-uniform", "mixture"):
        raise ValueError(f"`sampling` is {sampling!r}; choose 'core-uniform' or 'mixture'.")


def block(recipe: Recipe, number: int, out: np.ndarray | None = None, limit: int = BLOCK) -> Rows:
    """One block, or its first `limit` rows, in `out` `(limit, k)` if given."""
    rng = np.random.Generator(np.random.SFC64([recipe.seed, number]))
    core, spurious, noise = _drawn(recipe, rng)
    x = np.empty((limit, recipe.size), dtype=np.float32) if out is None else out
    _write(recipe, [core[:limit], spurious[:limit], *(part[:limit] for part in noise)], x)
    y, a = (1 - f.negative(w[:limit]).astype(np.int64) for f, w in ((recipe.core, core), (recipe.spurious, spurious)))
    return Rows(x, y, a)


def level_set(function: BooleanFunction, negative: np.ndarray, words: Words, rng: np.random.Generator) -> Words:
    """Uniform words on which the function is -1 where `negative` and +1 elsewhere, made from uniform `words`."""
    if function.flip is not None:
        return flipped(words, function.negative(words) != negative, np.uint64(function.flip))
    if function.arity <= MOST_TABLE_BITS:
        return _from_table(function, negative, words, rng)
    what = f"rows on which {function.name} has the value wanted"
    return _redrawn([words], negative, lambda parts: function.negative(parts[0]), what, rng)[0]


def _drawn(recipe: Recipe, rng: np.random.Generator) -> tuple[Words, Words, list[Words]]:
    """Words of the core block, the spurious block and the noise, with more random bits above those that count.

    The core of a seed is the same at every strength.
    """
    core = random_words(rng, BLOCK)
    if recipe.size <= MOST_BITS:  # one word holds the row: functions read its lowest bits
        spurious = core >> np.uint64(min(recipe.core.size, MOST_BITS - 1))
        noise = [spurious >> np.uint64(recipe.spurious.size)] if recipe.noise else []
    else:
        spurious = random_words(rng, BLOCK)
        noise = [random_words(rng, BLOCK) for _ in range(-(-recipe.noise // MOST_BITS))]
    agree = rng.random(BLOCK) < recipe.strength
    if recipe.sampling == "core-uniform" or _both_unbiased(recipe):
        negative = (
            recipe.core.negative(core) == agree
        )  # the cue is -1 where it follows a core of -1 or opposes one of +1
        return core, level_set(recipe.spurious, negative, spurious, rng), noise
    what = f"rows on which {recipe.core.name} and {recipe.spurious.name} agree or disagree as wanted"
    core, spurious = _redrawn([core, spurious], agree, lambda parts: _agreement(recipe, parts), what, rng)
    return core, spurious, noise


def _agreement(recipe: Recipe, parts: list[Words]) -> np.ndarray:
    return recipe.core.negative(parts[0]) == recipe.spurious.negative(parts[1])


def _both_unbiased(recipe: Recipe) -> bool:
    """Whether both ways of sampling are one; a flip says so without a table."""
    return recipe.core.flip is not None and recipe.spurious.flip is not None


def _write(recipe: Recipe, parts: list[Words], out: np.ndarray) -> None:
    """The signs of all parts, side by side."""
    sizes = [recipe.core.size, recipe.spurious.size]
    sizes += [min(MOST_BITS, recipe.noise - done) for done in range(0, recipe.noise, MOST_BITS)]
    if recipe.size <= MOST_BITS:
        row = parts[-1]
        for part, size in zip(parts[-2::-1], sizes[len(parts) - 2 :: -1], strict=True):
            row = (row << np.uint64(size)) | (part & low_bits(size)) if size < MOST_BITS else part
        write_signs(row, out)
        return
    start = 0
    for part, size in zip(parts, sizes, strict=True):
        write_signs(part, out[:, start : start + size])
        start += size


def _from_table(function: BooleanFunction, negative: np.ndarray, words: Words, rng: np.random.Generator) -> Words:
    order, positives = _patterns(function)
    counts = np.where(negative, len(order) - positives, positives)
    if not counts.all():
        _refuse_empty(function.name, bool(negative[counts == 0][0]))
    # 53 random bits over at most 2^20 patterns: none is favoured by more than 2^-33 of its share
    place = (rng.random(len(words)) * counts).astype(np.int64) + np.where(negative, positives, 0)
    return (words & ~low_bits(function.arity)) | order[place]


def _patterns(function: BooleanFunction) -> tuple[Words, int]:
    """All patterns, those with value +1 first, and how many these are; made once per function."""
    kept = function.__dict__.get("_patterns")
    if kept is None:
        order = np.argsort(-function.table, kind="stable").astype(np.uint64)
        kept = function.__dict__["_patterns"] = (order, int((function.table > 0).sum()))
    return kept


def _redrawn(
    parts: list[Words],
    wanted: np.ndarray,
    value_of: Callable[[list[Words]], np.ndarray],
    what: str,
    rng: np.random.Generator,
) -> list[Words]:
    """Rows whose value is not the one wanted are replaced by random ones that have it: uniform among those that do."""
    parts, present = [part.copy() for part in parts], value_of(parts)
    for value in (False, True):
        left, tried, found = np.flatnonzero((wanted == value) & (present != value)), 0, 0
        while len(left):
            fresh = [random_words(rng, BLOCK) for _ in parts]
            right = np.flatnonzero(value_of(fresh) == value)
            tried, found = tried + BLOCK, found + len(right)
            if found < _RAREST * tried and tried >= 10 / _RAREST:
                raise ValueError(
                    f"{what} are too rare to be found by chance: {found} of {tried:,} draws (p = {found / tried:.1g}). Give "
                    f"the function as a truth table of at most {MOST_TABLE_BITS} coordinates, or choose one that takes "
                    f"both values more often."
                )
            right = right[: len(left)]
            for part, new in zip(parts, fresh, strict=True):
                part[left[: len(right)]] = new[right]
            left = left[len(right) :]
    return parts


def _refuse_empty(name: str, negative: bool) -> None:
    raise ValueError(
        f"{name} is never {'-1' if negative else '+1'}: it cannot agree and disagree with a core as asked."
    )
