"""The images that ship: the right pixels, in the promised order and scale."""

import gzip
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from firstcue.data import digits, shipped
from firstcue.data.garments import DEBIAN_COMMAND, DEBIAN_FOLDER
from firstcue.data.images import SLICE_FOLDER

needs_debian = pytest.mark.skipif(not DEBIAN_FOLDER.is_dir(), reason=f"needs Debian's Fashion-MNIST: {DEBIAN_COMMAND}")


def test_the_slice_holds_six_thousand_images_in_alternating_order():
    batch = shipped()

    assert batch.x.shape == (6000, 1, 28, 28) and batch.x.dtype == torch.float32
    assert batch.x.min() == 0 and batch.x.max() == 1
    assert torch.equal(batch.y, torch.arange(6000) % 2) and batch.classes == ("pullover", "coat")
    assert torch.equal(batch.index, torch.arange(6000))


def test_every_garment_ships_once():
    rows = shipped().x.flatten(start_dim=1).numpy()

    assert len({row.tobytes() for row in rows}) == 6000


@needs_debian
def test_the_slice_is_the_beginning_of_the_original_file_bit_for_bit():
    def unpacked(name: str, header: int) -> np.ndarray:
        return np.frombuffer(gzip.decompress((DEBIAN_FOLDER / name).read_bytes()), np.uint8, offset=header)

    pixels = unpacked("train-images-idx3-ubyte.gz", 16).reshape(-1, 28, 28)
    labels = unpacked("train-labels-idx1-ubyte.gz", 8)
    batch = shipped()
    for label, original in enumerate((2, 4)):
        ours = (batch.x[batch.y == label, 0] * 255).round().numpy().astype(np.uint8)
        assert np.array_equal(ours, pixels[labels == original][:3000])


def test_the_licence_travels_with_the_images():
    notice = (SLICE_FOLDER / "NOTICE").read_text()

    assert "Copyright (c) 2017 Zalando SE" in notice and "Permission is hereby granted" in notice
    assert max(path.stat().st_size for path in Path(SLICE_FOLDER).iterdir()) < 1_500_000


def test_enlarged_digits_carry_exactly_the_pixels_of_the_small_ones():
    images, labels = load_digits(return_X_y=True)
    batch = digits((8, 3), size=30)

    small = images[np.isin(labels, (3, 8))].reshape(-1, 8, 8) / 16
    assert batch.x.shape == (len(small), 1, 30, 30)
    assert np.array_equal(batch.x[:, 0, 3:27:3, 3:27:3].numpy(), small.astype(np.float32))
    assert batch.x[:, :, :3].abs().sum() == 0 and batch.x[:, :, 27:].abs().sum() == 0
    assert batch.x[:, 0, 3:27, 3:27].sum() == pytest.approx(9 * small.sum(), rel=1e-5)
    assert batch.classes == ("8", "3") and batch.y[0] == int(labels[np.isin(labels, (3, 8))][0] == 3)


@pytest.mark.parametrize("classes", [(), (0, 0), (3, 11)])
def test_digits_that_do_not_exist_are_refused(classes):
    with pytest.raises(ValueError, match="different digits from 0 to 9"):
        digits(classes)


def test_digits_cannot_be_made_smaller_than_they_are():
    with pytest.raises(ValueError, match="8 x 8 pixels"):
        digits((0, 1), size=7)
