"""Folders of images: both layouts, one size, damage named."""

import numpy as np
import pytest
import torch
from PIL import Image

from firstcue.data import read


def picture(path, value: int = 100, size: tuple[int, int] = (5, 4), mode: str = "L") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, value if mode in ("L", "I;16") else (value, 0, 51)).save(path)


def test_a_table_of_labels_names_images_classes_and_attributes(tmp_path):
    for i in range(3):
        picture(tmp_path / "pictures" / f"{i}.png", 51 * i)
    (tmp_path / "labels.csv").write_text(
        "file,label,place\npictures/2.png,dog,sea\npictures/0.png,cat,sea\npictures/1.png,dog,land\n"
    )

    batch = read(tmp_path)

    assert batch.x.shape == (3, 1, 4, 5) and batch.x.dtype == torch.float32
    torch.testing.assert_close(batch.x[:, 0, 0, 0], torch.tensor([0.4, 0.0, 0.2]))
    assert batch.classes == ("cat", "dog") and batch.y.tolist() == [1, 0, 1]
    assert batch.with_attribute("place").values == ("land", "sea")
    assert batch.columns["file"].tolist()[0] == "pictures/2.png"


def test_subfolders_are_classes(tmp_path):
    for name in ("dog/a.png", "cat/b.png", "cat/a.jpg", "cat/notes.txt"):
        if name.endswith("txt"):
            (tmp_path / name).write_text("not an image")
        else:
            picture(tmp_path / name)

    batch = read(tmp_path)

    assert batch.classes == ("cat", "dog") and batch.y.tolist() == [0, 0, 1]
    assert batch.columns["file"].tolist() == ["cat/a.jpg", "cat/b.png", "dog/a.png"]


def test_grey_images_among_colour_ones_get_three_equal_channels(tmp_path):
    picture(tmp_path / "a" / "grey.png", 51)
    picture(tmp_path / "b" / "colour.png", 102, mode="RGB")

    x = read(tmp_path).x

    assert x.shape == (2, 3, 4, 5)
    torch.testing.assert_close(x[:, :, 0, 0], torch.tensor([[0.2, 0.2, 0.2], [0.4, 0.0, 0.2]]))


def test_numbered_labels_sort_as_numbers(tmp_path):
    lines = ["file,y"]
    for label in (10, 9, 2):
        picture(tmp_path / f"{label}.png")
        lines.append(f"{label}.png,{label}")
    (tmp_path / "labels.csv").write_text("\n".join(lines))

    assert read(tmp_path).classes == ("2", "9", "10")


def test_images_of_two_sizes_are_named(tmp_path):
    picture(tmp_path / "a" / "1.png")
    picture(tmp_path / "b" / "2.png", size=(7, 4))
    with pytest.raises(ValueError, match=r"2\.png is 7 x 4 pixels, but .*1\.png is 5 x 4"):
        read(tmp_path)


def test_a_damaged_image_is_named(tmp_path):
    picture(tmp_path / "a" / "1.png")
    pixels = np.random.default_rng(0).integers(0, 255, (50, 50), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a" / "2.png")
    whole = (tmp_path / "a" / "2.png").read_bytes()
    for content in (whole[: len(whole) // 2], b"not an image"):
        (tmp_path / "a" / "2.png").write_bytes(content)
        with pytest.raises(ValueError, match=r"2\.png is not a readable image"):
            read(tmp_path)


def test_images_of_sixteen_bits_are_not_cut_to_eight(tmp_path):
    picture(tmp_path / "a" / "1.png", 3000, mode="I;16")
    with pytest.raises(ValueError, match="mode 'I;16'; 8 bits per channel are read"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("file,label\nmissing.png,cat\n", "names 1 images that are not there .*missing.png"),
        ("name,label\na.png,cat\n", "needs a column 'file' and one column 'label'; columns found: 'name', 'label'"),
        ("file,kind\na.png,cat\n", "needs a column 'file' and one column 'label'"),
        ("file,label\n../secret.png,cat\n", "lies outside the folder"),
        ("file,label\na.png,\n", "1 empty cells; every image needs a label"),
    ],
)
def test_a_wrong_table_of_labels_is_named(tmp_path, table, message):
    picture(tmp_path / "images" / "a.png")
    (tmp_path / "images" / "labels.csv").write_text(table)
    with pytest.raises(ValueError, match=message):
        read(tmp_path / "images")


def test_a_folder_without_data_says_what_is_read(tmp_path):
    with pytest.raises(ValueError, match=r"neither labels\.csv .* nor images in one subfolder per class"):
        read(tmp_path)
