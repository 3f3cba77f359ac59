import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, TensorDataset

from firstcue.batch import Batch, as_batch, balanced_rows, concatenate

X = torch.arange(12.0).reshape(6, 2)
Y = ["dog", "cat", "dog", "cat", "cat", "dog"]
SEA = ["sea", "sea", "land", "land", "sea", "land"]


def assert_same(batch: Batch, attribute: bool = True) -> None:
    assert torch.equal(batch.x, X)
    assert [batch.classes[i] for i in batch.y] == Y
    if attribute:
        assert [batch.values[i] for i in batch.attribute] == SEA


class Examples(Dataset):
    """One example at a time, as many image data sets are."""

    def __len__(self):
        return 6

    def __getitem__(self, i):
        return X[i], Y[i], SEA[i]


FORMS = {
    "a triple": (X, Y, SEA),
    "arrays": (X.numpy(), np.array(Y), np.array(SEA)),
    "a mapping": {"x": X, "y": Y, "attribute": SEA},
    "a loader of triples": [(X[:1], Y[:1], SEA[:1]), (X[1:], Y[1:], SEA[1:])],
    "a loader of mappings": [
        {"x": X[:4], "y": Y[:4], "attribute": SEA[:4]},
        {"x": X[4:], "y": Y[4:], "attribute": SEA[4:]},
    ],
    "a data set": Examples(),
    "a batch": Batch.of(X, Y, SEA),
}


@pytest.mark.parametrize("data", FORMS.values(), ids=FORMS)
def test_the_same_rows_in_any_form_make_the_same_batch(data):
    assert_same(as_batch(data))


def test_a_class_absent_from_a_part_does_not_shift_the_ids_of_another():
    parts = [(X[1:2], np.array([4]), np.array([9])), (X[:1], np.array([2]), np.array([5]))]
    batch = as_batch(parts)
    assert (batch.classes, batch.y.tolist(), batch.attribute.tolist()) == (("2", "4"), [1, 0], [1, 0])


def test_a_data_loader_of_pairs_is_read_in_its_order():
    batch = as_batch(DataLoader(TensorDataset(X, torch.tensor([1, 0, 1, 0, 0, 1])), batch_size=4))
    assert torch.equal(batch.x, X)
    assert batch.y.tolist() == [1, 0, 1, 0, 0, 1]


@pytest.mark.parametrize("name", ["cue", "edit", "background", "group", "index"])
def test_a_column_may_have_any_name(name):
    batch = as_batch({"x": X, "y": Y, name: SEA}).with_attribute(name)
    assert_same(batch)
    assert batch.cue == name


def test_an_editor_goes_with_the_attribute_it_was_made_for():
    batch = Batch.of(X, Y, SEA, cue="background", edit=lambda x, value: x, sex=[0, 1, 0, 1, 0, 1])
    assert batch.with_attribute("background").edit is not None
    assert batch.with_attribute("sex").edit is None


def test_rows_are_taken_from_every_field():
    batch = Batch.of(X, Y, SEA, sex=np.arange(6))
    for index in (torch.tensor([4, 0]), [4, 0], torch.tensor([True, False, False, False, True, False]), slice(0, 5, 4)):
        part = batch.rows(index)
        order = [4, 0] if not isinstance(index, slice) and len(index) == 2 else [0, 4]
        assert torch.equal(part.x, X[order])
        assert [part.classes[i] for i in part.y] == [Y[i] for i in order]
        assert part.columns["sex"].tolist() == order


def test_groups_number_class_and_value():
    batch = Batch.of(X, Y, SEA)
    assert batch.groups().tolist() == [3, 1, 2, 0, 1, 2]
    assert Batch.of(X, Y).groups().tolist() == [1, 0, 1, 0, 0, 1]


def test_parts_put_together_are_the_whole():
    batch = Batch.of(X, Y, SEA, sex=np.arange(6))
    whole = concatenate([batch.rows(slice(0, 2)), batch.rows(slice(2, 6))])
    assert_same(whole)
    assert whole.columns["sex"].tolist() == list(range(6))


def test_balanced_rows_are_equally_many_of_every_group_present():
    group = torch.tensor([0] * 50 + [2] * 7 + [3] * 20)
    rows = balanced_rows(group, torch.Generator().manual_seed(0))
    assert group[rows].bincount().tolist() == [7, 0, 7, 7]
    assert len(rows.unique()) == 21
    assert group[balanced_rows(group, torch.Generator().manual_seed(0), size=5)].bincount().tolist() == [5, 0, 5, 5]


REFUSED = {
    "a loader that yields nothing": ([], "yields nothing"),
    "items of another form": ([(X, Y), (X, Y, SEA)], "every item has to be"),
    "a mapping without labels": ({"x": X, "label": Y}, r"without \['y'\]; keys found: \['label', 'x'\]"),
    "a number": (3, "is a int"),
    "labels of another length": ((X, Y[:5]), "6 rows but `y` has 5"),
    "a column of another length": ({"x": X, "y": Y, "cue": SEA[:2]}, "`cue` has 2"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_other_forms_are_refused_with_what_was_found(case):
    data, phrase = REFUSED[case]
    with pytest.raises(ValueError, match=phrase):
        as_batch(data)


def test_an_attribute_that_is_not_there_is_refused_with_the_columns_that_are():
    with pytest.raises(ValueError, match="no column 'sex'; columns found: 'background'"):
        as_batch({"x": X, "y": Y, "background": SEA}, "sex")
