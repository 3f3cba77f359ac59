"""CIFAR-10: batches in the form their authors wrote them, joined in order."""

import pickle

import numpy as np
import pytest

from firstcue.data import read
from firstcue.data.cifar import CLASSES, read_cifar

RNG = np.random.default_rng(0)


def batch(n: int, seed: int) -> dict:
    rng = np.random.default_rng(seed)
    return {"data": rng.integers(0, 256, (n, 3072), dtype=np.uint8), "labels": rng.integers(0, 10, n).tolist()}


@pytest.fixture
def folder(tmp_path):
    for i in (1, 2):
        (tmp_path / f"data_batch_{i}").write_bytes(pickle.dumps(batch(5, i), protocol=2))
    (tmp_path / "test_batch").write_bytes(pickle.dumps(batch(3, 9), protocol=2))
    return tmp_path


def test_batches_are_joined_in_order_as_fractions(folder):
    found = read(folder)

    data = np.concatenate([batch(5, 1)["data"], batch(5, 2)["data"]]).reshape(-1, 3, 32, 32)
    assert np.array_equal((found.x * 255).round().numpy(), data)
    assert found.y.tolist() == batch(5, 1)["labels"] + batch(5, 2)["labels"] and found.classes == CLASSES


def test_the_test_part_and_single_files_are_read(folder):
    assert read_cifar(folder, "test").y.tolist() == read(folder / "test_batch").y.tolist() == batch(3, 9)["labels"]
    assert len(read(folder / "data_batch_2")) == 5


def test_names_of_classes_come_from_the_folder(folder):
    names = [f"kind {i}" for i in range(10)]
    (folder / "batches.meta").write_bytes(pickle.dumps({b"label_names": [n.encode() for n in names]}, protocol=2))

    assert read(folder).classes == tuple(names)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"data": np.zeros((2, 10), np.uint8), "labels": [0, 1]}, r"'data' is uint8 \(2, 10\); uint8 rows of 3072"),
        ({"data": np.zeros((2, 3072)), "labels": [0, 1]}, r"'data' is float64"),
        ({"data": np.zeros((2, 3072), np.uint8), "labels": [0]}, "2 images, but 'labels' has 1 entries"),
        ({"data": np.zeros((2, 3072), np.uint8), "labels": [[0], [1]]}, "a list of one integer each is needed"),
        ({"data": np.zeros((2, 3072), np.uint8)}, "has no 'labels'; keys found: data"),
        ({"data": np.zeros((2, 3072), np.uint8), "labels": [0, 10]}, "integers from 0 to 9"),
        ([1, 2], "holds a list; a dictionary"),
    ],
)
def test_a_batch_of_another_form_is_named(folder, content, message):
    (folder / "test_batch").write_bytes(pickle.dumps(content, protocol=2))
    with pytest.raises(ValueError, match=message):
        read(folder / "test_batch")


def test_a_hostile_batch_is_refused_with_the_reason(folder):
    (folder / "data_batch_1").write_bytes(b"cposix\nsystem\n(S'true'\ntR.")
    with pytest.raises(
        ValueError,
        match=r"data_batch_1 is a pickle that asks for posix\.system: refused, for a pickle can run any code",
    ):
        read(folder)


def test_a_truncated_batch_is_named(folder):
    path = folder / "data_batch_1"
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(ValueError, match=r"data_batch_1 is not a readable pickle.*5,000 bytes"):
        read(folder)


def test_an_absent_part_is_named(folder):
    (folder / "test_batch").unlink()
    with pytest.raises(ValueError, match="has no test_batch; unpack cifar-10-python"):
        read_cifar(folder, "test")
