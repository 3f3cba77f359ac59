"""Resampled rows: exact counts of every group, no row twice, and a column that can be set without touching the rest."""

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis.strategies import floats, integers, lists

from firstcue.batch import Batch
from firstcue.data import read
from firstcue.spurious.resampling import column_attribute, confounded


def rows(counts: list[int], num_values: int) -> Batch:
    """`counts[y * num_values + a]` rows of every group."""
    group = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    group = group[torch.randperm(len(group), generator=torch.Generator().manual_seed(0))]
    batch = Batch(torch.arange(len(group))[:, None].float(), group // num_values, classes=("a", "b"))
    return Batch(**{**vars(batch), "attribute": group % num_values, "values": tuple(map(str, range(num_values)))})


@settings(deadline=None, max_examples=50)
@given(num_values=integers(2, 4), counts=lists(integers(3, 40), min_size=8, max_size=8), strength=floats(0, 1))
def test_every_group_is_as_large_as_asked_for_and_no_larger_choice_exists(num_values, counts, strength):
    data = rows(counts[: 2 * num_values], num_values)
    batch = confounded(data, strength)

    per_class = len(batch) // 2
    assert len(batch.x.unique()) == len(batch)
    for label in range(2):
        agree = int(((batch.y == label) & (batch.attribute == label % num_values)).sum())
        assert agree == per_class - round(per_class * (1 - strength))
    with pytest.raises(ValueError, match="there are enough for"):
        confounded(data, strength, n=2 * per_class + 2)


def test_real_tumours_are_confounded_with_their_texture():
    data = column_attribute(read("builtin:breast-cancer"), 1, name="texture")
    batch = confounded(data, 0.9, n=200, goes_with=(1, 0))
    assert batch.groups().bincount().tolist() == [10, 90, 90, 10] and batch.cue == "texture"


@settings(deadline=None, max_examples=30)
@given(column=integers(0, 3), seed=integers(0, 20))
def test_setting_a_column_leaves_the_others_and_takes_the_value_of_a_row_from_that_side(column, seed):
    x = torch.randn(30, 4, generator=torch.Generator().manual_seed(seed))
    assume(len(x[:, column].unique()) > 1)
    data = column_attribute(Batch.of(x, torch.arange(30) % 2), column)
    for value in (0, 1):
        edited = data.edit(x, value)
        others = [c for c in range(4) if c != column]
        assert torch.equal(edited[:, others], x[:, others])
        assert torch.isin(edited[:, column], x[data.attribute == value, column]).all()
        assert torch.equal(data.edit(edited, value), edited)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: confounded(Batch.of(torch.rand(4, 2), [0, 1, 0, 1]), 0.9), "no attribute"),
        (lambda: confounded(rows([5, 5, 5, 5], 2), 1.2), "between 0 and 1"),
        (lambda: confounded(rows([5, 0, 0, 5], 2), 0.5, n=8), "4 rows of each class were asked for"),
        (lambda: column_attribute(Batch.of(torch.ones(4, 2), [0, 1, 0, 1]), 0), "all rows are on one side"),
        (lambda: column_attribute(Batch.of(torch.rand(4, 2), [0, 1, 0, 1]), 5), "no column 5"),
    ],
)
def test_what_cannot_be_resampled_is_explained(make, words):
    with pytest.raises(ValueError, match=words):
        make()
