"""IDX files: header, type and length are taken at their word and checked."""

import gzip
import struct

import numpy as np
import pytest
import torch

from firstcue.data import fashion_mnist, read
from firstcue.data.garments import DEBIAN_COMMAND, DEBIAN_FOLDER, FASHION_CLASSES
from firstcue.data.idx import read_idx_file


def idx(array: np.ndarray, code: int = 0x08) -> bytes:
    return struct.pack(f">HBB{array.ndim}I", 0, code, array.ndim, *array.shape) + array.tobytes()


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    for prefix, n in (("train", 7), ("t10k", 4)):
        images, labels = rng.integers(0, 256, (n, 5, 4), dtype=np.uint8), (np.arange(n) % 3).astype(np.uint8)
        (tmp_path / f"{prefix}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(images)))
        (tmp_path / f"{prefix}-labels-idx1-ubyte").write_bytes(idx(labels))
        np.save(tmp_path / f"{prefix}.npy", images)
    return tmp_path


def test_a_folder_gives_its_training_part_and_a_file_its_own(folder):
    train, test = read(folder), read(folder / "t10k-images-idx3-ubyte.gz")

    assert train.x.shape == (7, 1, 5, 4) and test.x.shape == (4, 1, 5, 4)
    np.testing.assert_array_equal((train.x[:, 0] * 255).round().numpy(), np.load(folder / "train.npy"))
    assert train.y.tolist() == [0, 1, 2, 0, 1, 2, 0] and train.classes == ("0", "1", "2")


@pytest.mark.parametrize(
    ("code", "dtype"), [(0x08, ">u1"), (0x09, ">i1"), (0x0B, ">i2"), (0x0C, ">i4"), (0x0D, ">f4"), (0x0E, ">f8")]
)
def test_every_type_of_the_format_is_read(tmp_path, code, dtype):
    array = np.arange(6).reshape(2, 3).astype(dtype)
    (tmp_path / "a-idx").write_bytes(idx(array, code))

    found = read_idx_file(tmp_path / "a-idx")

    assert np.array_equal(found, array) and found.dtype == array.dtype.newbyteorder("=")


@pytest.mark.parametrize("change", [-1, 3])
def test_a_file_of_the_wrong_length_is_named(tmp_path, change):
    content = idx(np.zeros((4, 3), dtype=np.uint8))
    (tmp_path / "a-idx").write_bytes(content[:change] if change < 0 else content + b"\0" * change)
    with pytest.raises(ValueError, match=r"has \d+ bytes, but its header of shape \(4, 3\) promises 24"):
        read_idx_file(tmp_path / "a-idx")


def test_a_truncated_archive_and_a_wrong_beginning_are_named(tmp_path):
    whole = gzip.compress(idx(np.zeros((400, 30), dtype=np.uint8)))
    (tmp_path / "a-idx.gz").write_bytes(whole[:-20])
    (tmp_path / "b-idx").write_bytes(b"\x89PNG....")
    with pytest.raises(ValueError, match=r"a-idx\.gz is not a readable IDX file"):
        read_idx_file(tmp_path / "a-idx.gz")
    with pytest.raises(ValueError, match="it begins with 89 50 4e 47"):
        read_idx_file(tmp_path / "b-idx")


def test_a_header_of_impossible_size_is_refused(tmp_path):
    (tmp_path / "a-idx").write_bytes(struct.pack(">HBB3I", 0, 8, 3, 2**32 - 1, 2**32 - 1, 2**32 - 1))
    with pytest.raises(ValueError, match="promises"):
        read_idx_file(tmp_path / "a-idx")


def test_images_without_labels_are_named(folder):
    (folder / "train-labels-idx1-ubyte").unlink()
    with pytest.raises(ValueError, match="has no file of train labels; expected train-labels-idx"):
        read(folder)
    (folder / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(ValueError, match=r"the labels of .*t10k-images-idx3-ubyte.gz are missing"):
        read(folder / "t10k-images-idx3-ubyte.gz")


def test_lengths_that_differ_are_named(folder):
    (folder / "train-labels-idx1-ubyte").write_bytes(idx(np.zeros(6, dtype=np.uint8)))
    with pytest.raises(ValueError, match="one label per image is needed"):
        read(folder)


@pytest.mark.skipif(not DEBIAN_FOLDER.is_dir(), reason=f"needs Debian's Fashion-MNIST: {DEBIAN_COMMAND}")
def test_all_of_fashion_mnist_is_read_by_name_and_by_folder():
    test = read("builtin:fashion-mnist/test")

    assert test.x.shape == (10000, 1, 28, 28) and test.classes == FASHION_CLASSES
    assert test.y.bincount().tolist() == [1000] * 10
    assert torch.equal(read(DEBIAN_FOLDER / "t10k-images-idx3-ubyte.gz").x, test.x)


def test_an_absent_fashion_mnist_prints_the_command(monkeypatch, tmp_path):
    monkeypatch.setattr("firstcue.data.garments.DEBIAN_FOLDER", tmp_path / "none")
    with pytest.raises(ValueError, match="sudo apt-get install dataset-fashion-mnist"):
        fashion_mnist()
