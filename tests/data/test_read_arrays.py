"""Arrays from disk: the same bits, columns kept, damage and pickles named."""

import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from firstcue.batch import Batch
from firstcue.data import read, write_npz
from firstcue.data.arrays import read_npy

X = np.arange(24, dtype=np.float32).reshape(6, 4)
Y = np.asarray([0, 1, 0, 1, 1, 0])


@given(
    x=arrays(st.sampled_from([np.float16, np.float32, np.float64, np.int64]), (5, 3), elements=st.integers(-9, 9)),
    y=st.lists(st.sampled_from(["cat", "dog"]), min_size=5, max_size=5),
)
@settings(deadline=None, max_examples=20)
def test_embeddings_keep_their_bits_and_dtype(tmp_path_factory, x, y):
    path = tmp_path_factory.mktemp("npz") / "data.npz"
    np.savez(path, x=x, y=np.asarray(y))

    batch = read(path)

    assert np.array_equal(batch.x.numpy(), x) and batch.x.numpy().dtype == x.dtype
    assert [batch.classes[i] for i in batch.y] == y


def test_every_column_of_the_right_length_may_be_the_attribute(tmp_path):
    place = np.asarray(["sea", "land", "sea", "sea", "land", "land"])
    np.savez(tmp_path / "data.npz", x=X, y=Y, place=place, age=np.arange(6))

    batch = read(tmp_path / "data.npz")

    assert set(batch.columns) == {"place", "age"}
    assert batch.with_attribute("place").values == ("land", "sea")


def test_an_array_of_another_shape_is_named_and_ignored(tmp_path):
    np.savez(tmp_path / "data.npz", x=X, y=Y, means=np.zeros((2, 4)), short=np.zeros(3))

    with pytest.warns(UserWarning, match=r"ignored: means \(2, 4\), short \(3,\)"):
        assert read(tmp_path / "data.npz").columns == {}


def test_images_of_bytes_become_fractions_and_others_stay(tmp_path):
    image = np.full((6, 2, 2), 51, dtype=np.uint8)
    for name, x, expected in [
        ("bytes", image, torch.full((6, 2, 2), 0.2)),
        ("double", image.astype(np.float64), torch.full((6, 2, 2), 51.0)),
        ("table", image.reshape(6, 4), torch.full((6, 4), 51, dtype=torch.uint8)),
    ]:
        np.savez(tmp_path / f"{name}.npz", x=x, y=Y)
        torch.testing.assert_close(read(tmp_path / f"{name}.npz").x, expected, rtol=0, atol=0)


def test_named_classes_keep_their_ids_even_when_one_is_absent(tmp_path):
    np.savez(tmp_path / "data.npz", x=X, y=2 * Y, classes=np.asarray(["pullover", "dress", "coat"]))

    batch = read(tmp_path / "data.npz")

    assert batch.y.tolist() == (2 * Y).tolist() and batch.classes == ("pullover", "dress", "coat")


def test_a_label_beyond_the_named_classes_is_refused(tmp_path):
    np.savez(tmp_path / "data.npz", x=X, y=2 * Y, classes=np.asarray(["a", "b"]))
    with pytest.raises(ValueError, match="`classes` has 2 names, so labels have to be integers from 0 to 1"):
        read(tmp_path / "data.npz")


def test_a_pair_of_files_is_read_from_one_string_or_two_arguments(tmp_path):
    np.save(tmp_path / "x.npy", X)
    np.save(tmp_path / "y.npy", Y)

    one = read(f"{tmp_path}/x.npy,{tmp_path}/y.npy")
    two = read(tmp_path / "x.npy", y=tmp_path / "y.npy")
    three = read(tmp_path / "x.npy", y=Y)

    assert all(np.array_equal(b.x.numpy(), X) and b.y.tolist() == Y.tolist() for b in (one, two, three))


def test_writing_to_mapped_inputs_does_not_reach_the_file(tmp_path):
    np.save(tmp_path / "x.npy", X)
    np.save(tmp_path / "y.npy", Y)
    read(f"{tmp_path}/x.npy,{tmp_path}/y.npy").x.zero_()

    assert np.array_equal(np.load(tmp_path / "x.npy"), X)


def test_a_written_batch_comes_back_as_it_was(tmp_path):
    batch = Batch.of(
        torch.rand(6, 1, 3, 3), ["b", "a", "b", "a", "a", "b"], ["x", "y", "y", "x", "x", "y"], cue="top digit"
    )
    back = read(write_npz(batch, tmp_path / "data.npz")).with_attribute("top_digit")

    assert torch.equal(back.x, batch.x) and torch.equal(back.y, batch.y) and back.classes == batch.classes
    assert torch.equal(back.attribute, batch.attribute) and back.values == batch.values
    assert [path.name for path in tmp_path.iterdir()] == ["data.npz"]


def test_a_missing_file_is_answered_with_names_that_look_alike(tmp_path):
    np.savez(tmp_path / "train_data.npz", x=X, y=Y)
    with pytest.raises(ValueError, match=r"no file .*traindata\.npz; the folder .* has train_data\.npz"):
        read(tmp_path / "traindata.npz")
    with pytest.raises(ValueError, match=r"its folder .* does not exist"):
        read(tmp_path / "nowhere" / "data.npz")


@pytest.mark.parametrize("keep", [0.1, 0.5, 0.95])
def test_a_truncated_npz_is_named(tmp_path, keep):
    path = tmp_path / "data.npz"
    np.savez(path, x=np.random.default_rng(0).normal(size=(100, 10)), y=np.arange(100) % 2)
    path.write_bytes(path.read_bytes()[: int(keep * path.stat().st_size)])

    with pytest.raises(ValueError, match=r"data\.npz is not a readable \.npz file.*bytes"):
        read(path)


def test_a_damaged_array_inside_an_npz_is_named(tmp_path):
    path = tmp_path / "data.npz"
    np.savez(path, x=np.zeros((50, 10)), y=np.arange(50) % 2)
    content = bytearray(path.read_bytes())
    content[400] ^= 0xFF
    path.write_bytes(content)

    with pytest.raises(ValueError, match=r"not a readable \.npz file: Bad CRC"):
        read(path)


def test_a_truncated_npy_is_named(tmp_path):
    path = tmp_path / "x.npy"
    np.save(path, np.zeros((100, 10)))
    path.write_bytes(path.read_bytes()[:500])

    with pytest.raises(ValueError, match=r"x\.npy is not a readable \.npy file.*truncated"):
        read_npy(path)


def test_a_pickle_inside_an_array_is_refused_with_the_way_out(tmp_path):
    objects = np.asarray(["cat", "dog", "cat", "dog", "dog", None], dtype=object)
    np.savez(tmp_path / "data.npz", x=X, y=objects)
    np.save(tmp_path / "y.npy", objects)

    with pytest.raises(ValueError, match=r"array 'y' of .* as a pickle, which can run any code.*astype\(str\)"):
        read(tmp_path / "data.npz")
    with pytest.raises(ValueError, match=r"y\.npy is stored as Python objects.*np\.save\(path, array\.astype\(str\)\)"):
        read_npy(tmp_path / "y.npy")


def test_a_pickle_under_the_name_of_an_array_is_refused(tmp_path):
    for name in ("x.npy", "data.npz"):
        (tmp_path / name).write_bytes(pickle.dumps({"x": [1, 2], "y": [0, 1]}))
        with pytest.raises(ValueError, match="looks like a pickle, which can run any code"):
            read(tmp_path / name, y=Y)


def test_missing_keys_are_named_beside_those_found(tmp_path):
    np.savez(tmp_path / "data.npz", X=X, labels=Y)
    with pytest.raises(ValueError, match=r"no array named 'x' and 'y'; found: X \(6, 4\), labels \(6,\)"):
        read(tmp_path / "data.npz")


def test_lengths_that_differ_are_named(tmp_path):
    np.savez(tmp_path / "data.npz", x=X, y=Y[:5])
    np.save(tmp_path / "x.npy", X)
    with pytest.raises(ValueError, match=r"shape \(6, 4\) and y of .* has shape \(5,\)"):
        read(tmp_path / "data.npz")
    with pytest.raises(ValueError, match=r"6 rows but `y` has 5|6 rows but"):
        read(tmp_path / "x.npy", y=Y[:5])


@pytest.mark.parametrize("name", ["data.npz", "x.npy", "table.csv"])
def test_an_empty_file_is_named(tmp_path, name):
    (tmp_path / name).touch()
    with pytest.raises(ValueError, match=f"{name} is empty"):
        read(tmp_path / name, y=Y)


def test_inputs_without_labels_ask_for_the_second_file(tmp_path):
    np.save(tmp_path / "x.npy", X)
    with pytest.raises(ValueError, match=r"inputs without labels; name both files, as in x\.npy,labels\.npy"):
        read(tmp_path / "x.npy")


def test_a_regression_target_is_refused(tmp_path):
    np.savez(tmp_path / "data.npz", x=X, y=np.linspace(0, 1, 6))
    with pytest.raises(ValueError, match="regression target"):
        read(tmp_path / "data.npz")
