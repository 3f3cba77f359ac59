import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from firstcue._checks import as_tensor, encode_labels, require_classes, require_finite, require_rows

LABELS = {
    "integers": np.array([3, 7, 3, 7, 7]),
    "negative ids": np.array([-1, 2, -1, 2, 2]),
    "unsigned": np.array([1, 9, 1, 9, 9], dtype=np.uint16),
    "whole floats": np.array([0.0, 4.0, 0.0, 4.0, 4.0]),
    "half floats": torch.tensor([0.0, 4.0, 0.0, 4.0, 4.0], dtype=torch.float16),
    "bools": np.array([False, True, False, True, True]),
    "strings": ["cat", "dog", "cat", "dog", "dog"],
    "objects": np.array(["cat", "dog", "cat", "dog", "dog"], dtype=object),
    "one-hot rows": np.eye(2)[[0, 1, 0, 1, 1]],
    "a column": np.array([[3], [7], [3], [7], [7]]),
    "a tensor": torch.tensor([0, 1, 0, 1, 1]),
}


@pytest.mark.parametrize("labels", LABELS.values(), ids=LABELS)
def test_labels_of_every_kind_become_ids_in_sorted_order(labels):
    ids, names = encode_labels(labels)
    assert ids.tolist() == [0, 1, 0, 1, 1]
    assert ids.dtype == torch.int64 and len(names) == 2


@given(st.lists(st.integers(-(10**6), 10**6), min_size=1, max_size=50))
def test_names_of_ids_give_the_labels_back(labels):
    ids, names = encode_labels(labels)
    assert [int(names[i]) for i in ids] == labels


REFUSED = {
    "a regression target": (np.array([0.1, 0.2, 1.0]), "looks like a regression target"),
    "several labels per row": (np.array([[1, 1, 0], [0, 1, 0]]), "one column at a time"),
    "rows without a label": (np.array([[0, 0], [0, 1]]), "not one-hot"),
    "missing labels": (np.array(["a", None], dtype=object), "1 missing values"),
    "NaN": (np.array([0.0, np.nan]), "1 NaN"),
    "maps": (np.zeros((2, 3, 3)), "one label per row"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_one_label_per_row_is_refused_with_the_way_out(case):
    labels, phrase = REFUSED[case]
    with pytest.raises(ValueError, match=phrase):
        encode_labels(labels, "y")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_rows_that_are_not_finite_are_counted_and_the_first_is_named(dtype, bad):
    x = torch.zeros(9000, 3, dtype=dtype)
    require_finite(x)
    x[5000, 1] = bad
    x[8000] = bad
    with pytest.raises(ValueError, match=r"in 2 of 9000 rows \(first: row 5000\)"):
        require_finite(x)


def test_sums_that_overflow_are_not_taken_for_infinite_values():
    require_finite(torch.full((4, 100), 60_000.0, dtype=torch.float16))
    require_finite(torch.full((4, 100), 3e38))


def test_arrays_share_their_memory_and_stay_as_they_are():
    x = np.arange(6.0).reshape(2, 3)
    assert as_tensor(x).data_ptr() == x.ctypes.data
    x.flags.writeable = False
    assert as_tensor(x).tolist() == x.tolist()
    assert as_tensor(x[::-1]).tolist() == x[::-1].tolist()
    assert as_tensor(np.array([1, 65_535], dtype=np.uint16)).tolist() == [1, 65_535]


def test_text_is_no_input():
    with pytest.raises(ValueError, match="numbers are needed"):
        as_tensor(np.array(["a", "b"]))


def test_different_lengths_are_both_named():
    with pytest.raises(ValueError, match="`x` has 3 rows but `y` has 2"):
        require_rows(torch.zeros(3), [0, 1])


def test_a_single_class_is_refused_by_its_name():
    require_classes(torch.tensor([1, 0, 2]), ["a", "b", "c"])
    with pytest.raises(ValueError, match=r"one class only \('b'\)"):
        require_classes(torch.tensor([0, 5]), ["a", "b"])
