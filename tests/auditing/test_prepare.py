"""Data in any form ends in one coding, or in an error that says what to do."""

import numpy as np
import pytest
import torch

from firstcue.auditing.prepare import prepare
from firstcue.batch import Batch

X = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
Y = torch.arange(40) % 2
A = torch.arange(40) // 2 % 2


def prepared(data, attribute=None, held_out=None, edit=None, outputs=2, **options):
    return prepare(data, attribute, held_out, edit, trained_on=True, num_outputs=lambda _: outputs, seed=0, **options)


def test_without_held_out_rows_the_data_is_split_and_the_report_says_so():
    p = prepared((X, Y, A))
    assert len(p.train) == len(p.held) == 20
    assert p.cues == ("attribute",)
    assert "optimistic" in p.notes[0]
    assert p.with_cue("attribute")[1].groups().bincount().tolist() == [5, 5, 5, 5]


@pytest.mark.parametrize("form", ["triple", "array", "column", "mapping", "loader", "batch"])
def test_every_form_of_attribute_gives_the_same_ids(form):
    names = np.array(["sea", "land"])[A.numpy()]
    data, attribute = {
        "triple": ((X, Y, names), None),
        "array": ((X, Y), names),
        "column": (Batch.of(X, Y, place=names), "place"),
        "mapping": ((X, Y), {"place": names}),
        "loader": ([(X[:7], Y[:7], names[:7]), (X[7:], Y[7:], names[7:])], "place"),
        "batch": (Batch.of(X, Y, names, cue="place"), None),
    }[form]
    p = prepared(data, attribute)
    train, held = p.with_cue(p.cues[0])
    assert train.values == held.values == ("land", "sea")
    assert len(train) + len(held) == 40


def test_a_value_missing_from_one_side_does_not_shift_ids():
    held = Batch.of(X[:10], Y[:10], np.array(["b", "c"] * 5), cue="place")
    p = prepared(Batch.of(X, Y, np.array(["a", "b", "c", "a"] * 10), cue="place"), None, held)
    train, seen = p.with_cue("place")
    assert train.values == seen.values == ("a", "b", "c")
    assert set(seen.attribute.tolist()) == {1, 2}


def test_integer_labels_are_output_indices_even_when_a_class_is_absent():
    p = prepared((X, Y + 1), outputs=4)
    assert p.train.classes == ("0", "1", "2", "3")
    assert set(p.train.y.tolist()) == {1, 2}


def test_labels_that_do_not_fit_the_outputs_are_refused_with_both_numbers():
    with pytest.raises(ValueError, match="3 outputs but the labels have 2 classes"):
        prepared((X, np.where(Y == 0, "cat", "dog")), outputs=3)


def test_several_attributes_are_kept_apart():
    p = prepared((X, Y), {"a": A, "b": torch.arange(40) // 4 % 5})
    assert p.cues == ("a", "b")
    assert p.with_cue("b")[0].num_values == 5


@pytest.mark.parametrize(
    ("data", "options", "message"),
    [
        ((X, Y), {"attribute": "place"}, "no attribute 'place'.*third item"),
        ((X, Y[:5]), {}, "40 rows but `y` has 5"),
        ((X, torch.zeros(40)), {"outputs": 2}, "one class only"),
        ((X, torch.randn(40)), {}, "regression target"),
        ((X, torch.ones(40, 2)), {}, "not one-hot"),
        ((X.index_fill(0, torch.tensor([3]), float("nan")), Y), {}, "NaN or infinite values in 1 of"),
        ([], {}, "yields nothing"),
        (((X, Y, A)), {"held_out": (X, Y)}, "`held_out` has no attribute"),
        ((X, Y, A), {"edit": {"other": lambda x, v: x}}, "not audited"),
        ((X, Y), {"attribute": A[:9]}, "40 rows but `attribute` has 9"),
        (7, {}, "is a int"),
    ],
)
def test_wrong_input_gets_an_error_that_says_what_was_found(data, options, message):
    with pytest.raises(ValueError, match=message):
        prepared(data, **options)


def test_an_editor_follows_its_attribute_through_recoding():
    batch = Batch.of(X, Y, np.array(["b", "c"] * 20), cue="place", edit=lambda x, v: x * 0 + v)
    other = Batch.of(X, Y, np.array(["a", "b"] * 20), cue="place")
    p = prepared(other, None, batch)
    _, held = p.with_cue("place")
    assert held.values == ("a", "b", "c")
    assert float(held.edit(X, 2)[0, 0]) == 1.0
    with pytest.raises(ValueError, match="knows the values b, c, not a"):
        held.edit(X, 0)
