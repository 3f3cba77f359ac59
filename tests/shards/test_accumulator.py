"""Adding in place gives what merging gives, whatever the parts."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from firstcue.moments import Moments
from firstcue.shards import Accumulator


def rows(n=300, d=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, d, generator=generator, dtype=torch.float64) * torch.arange(1, d + 1) + 1e4
    x[:, 1] = 7.0
    return x, torch.randint(0, 3, (n,), generator=generator)


def agree(one: Moments, two: Moments, tolerance: float = 1e-12) -> bool:
    """Relative to the spread of each pair of features; equal where it is zero."""
    spread = two.scatter.diagonal(dim1=-2, dim2=-1).sqrt()
    size = spread[..., :, None] * spread[..., None, :]
    return (
        torch.equal(one.count, two.count)
        and torch.equal(one.rows, two.rows)
        and one.classes == two.classes
        and bool(((one.scatter - two.scatter).abs() <= tolerance * (size + 1)).all())
        and bool(((one.mean - two.mean).abs() <= tolerance * 1e4).all())
        and torch.equal(one.scatter, one.scatter.mT)
    )


def summed(parts) -> Moments:
    total = Accumulator()
    for part in parts:
        total.add(part)
    return total.moments()


@given(st.lists(st.integers(0, 300), max_size=80), st.randoms(use_true_random=False))
@settings(max_examples=25, deadline=None)
def test_any_split_in_any_order_gives_the_same_moments(cuts, source):
    x, y = rows()
    edges = sorted({0, 300, *cuts})
    pairs = list(itertools.pairwise(edges))
    source.shuffle(pairs)
    parts = [Moments.of_groups(x[a:b], y[a:b], 3) for a, b in pairs]
    assert agree(summed(parts), Moments.of_groups(x, y, 3))


def test_parts_are_left_as_they_are_and_more_can_follow():
    x, y = rows()
    part = Moments.of_groups(x[:100], y[:100], 3)
    before = part.scatter.clone()
    total = Accumulator()
    total.add(part)
    first = total.moments()
    total.add(Moments.of_groups(x[100:], y[100:], 3))
    assert torch.equal(part.scatter, before)
    assert agree(first, part)
    assert agree(total.moments(), Moments.of_groups(x, y, 3))


def test_groups_are_matched_by_name_and_new_ones_make_room():
    x, y = rows()
    names = ["cat", "dog", "owl"]
    said = [names[i] for i in y]
    order = sorted(range(300), key=lambda i: said[i])  # the first parts hold cats only
    parts = [Moments.of_groups(x[order[a : a + 5]], [said[i] for i in order[a : a + 5]]) for a in range(0, 300, 5)]
    assert agree(summed(parts), Moments.of_groups(x, said))


def test_weights_and_moments_without_groups_are_added_too():
    x, _ = rows()
    weights = torch.rand(300, dtype=torch.float64)
    parts = [Moments.of(x[a : a + 7], weights[a : a + 7]) for a in range(0, 300, 7)]
    found, whole = summed(parts), Moments.of(x, weights)
    assert found.count.ndim == 0
    torch.testing.assert_close(found.count, whole.count, rtol=1e-13, atol=0)
    torch.testing.assert_close(found.scatter, whole.scatter, rtol=1e-9, atol=1e-9)


def test_empty_parts_change_nothing():
    x, y = rows()
    nothing = Moments.of_groups(x[:0], y[:0], 3)
    assert agree(summed([nothing, Moments.of_groups(x, y, 3), nothing]), Moments.of_groups(x, y, 3))


def test_no_part_and_parts_that_cannot_be_added_say_so():
    x, _ = rows()
    with pytest.raises(ValueError, match="no parts"):
        Accumulator().moments()
    total = Accumulator()
    total.add(Moments.of(x))
    with pytest.raises(ValueError, match="features cannot be merged"):
        total.add(Moments.of(x[:, :2]))
    with pytest.raises(ValueError, match=r"use Moments\.merge"):
        total.add(Moments.of(x, fourth=True))
