"""Make the shipped slice of Fashion-MNIST: the first 3,000 pullovers and 3,000 coats of the training file.

Run once by the maintainers; needs `sudo apt-get install dataset-fashion-mnist`. Every run gives the same pixels.

    python scripts/make_fashion_slice.py [FOLDER_WITH_THE_IDX_FILES]
"""

import gzip
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from firstcue.data.images import PER_LINE, SHEETS, SLICE_CLASSES, SLICE_FOLDER

FASHION_IDS = {"pullover": 2, "coat": 4}
PER_SHEET = 1500


def contact_sheet(images: np.ndarray) -> np.ndarray:
    """`(m, 28, 28)` images as one picture with `PER_LINE` images side by side on each line."""
    lines = images.reshape(-1, PER_LINE, 28, 28).transpose(0, 2, 1, 3)
    return lines.reshape(-1, PER_LINE * 28)


def unpacked(path: Path, header: int) -> np.ndarray:
    """The bytes of an IDX file after its header."""
    return np.frombuffer(gzip.decompress(path.read_bytes()), np.uint8, offset=header)


def main(source: Path) -> None:
    """Write the contact sheets next to the licence notice."""
    images = unpacked(source / "train-images-idx3-ubyte.gz", header=16).reshape(-1, 28, 28)
    labels = unpacked(source / "train-labels-idx1-ubyte.gz", header=8)
    for name in SLICE_CLASSES:
        chosen = images[labels == FASHION_IDS[name]][: SHEETS * PER_SHEET]
        for number, part in enumerate(np.split(chosen, SHEETS), start=1):
            path = SLICE_FOLDER / f"{name}-{number}.png"
            Image.fromarray(contact_sheet(part)).save(path, "PNG", optimize=True)
            print(f"{path.name}: {len(part)} images, {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "/usr/share/datasets/fashion-mnist"))
