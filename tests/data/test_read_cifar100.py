"""CIFAR-100: fine labels as classes, coarse ones as a column, and no pickle that could run code."""

import pickle

import numpy as np
import pytest

from firstcue.data import read


@pytest.fixture
def folder(tmp_path):
    home = tmp_path / "cifar-100-python"
    home.mkdir()
    for part, n in (("train", 4), ("test", 2)):
        rng = np.random.default_rng(n)
        content = {
            b"data": rng.integers(0, 256, (n, 3072), dtype=np.uint8),
            b"fine_labels": list(range(n)),
            b"coarse_labels": [i % 2 for i in range(n)],
        }
        (home / part).write_bytes(pickle.dumps(content, protocol=2))
    names = {b"fine_label_names": [f"fine {i}".encode() for i in range(100)], b"coarse_label_names": [b"sea", b"land"]}
    (home / "meta").write_bytes(pickle.dumps(names, protocol=2))
    return home


def test_both_parts_are_read_with_both_kinds_of_label(folder):
    train, test = read(folder), read(folder / "test")

    assert train.x.shape == (4, 3, 32, 32) and float(train.x.max()) <= 1
    assert train.y.tolist() == [0, 1, 2, 3] and len(train.classes) == 100 and train.classes[3] == "fine 3"
    assert train.columns["coarse"].tolist() == ["sea", "land", "sea", "land"] and len(test) == 2


def test_a_damaged_part_says_what_is_wrong(folder):
    (folder / "train").write_bytes(
        pickle.dumps({b"data": np.zeros((2, 3072), np.uint8), b"fine_labels": [0]}, protocol=2)
    )
    with pytest.raises(ValueError, match="2 images, but 'fine_labels' has 1 entries"):
        read(folder)
