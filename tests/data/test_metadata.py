"""Folders with metadata.csv, as Waterbirds and CelebA come: parts, labels, sizes."""

import pytest
from PIL import Image

from firstcue.data import read


@pytest.fixture
def birds(tmp_path):
    lines = ["img_id,img_filename,y,split,place"]
    for i in range(6):
        name = f"species {i % 2}/{i}.jpg"
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (20 + i, 12), (40 * i, 0, 0)).save(tmp_path / name, quality=100)
        lines.append(f"{i},{name},{i % 2},{i // 2},{'land' if i < 3 else 'water'}")
    (tmp_path / "metadata.csv").write_text("\n".join(lines))
    return tmp_path


def test_a_part_is_read_resized_and_cropped(birds):
    batch = read(f"{birds}?split=val&size=8")

    assert batch.x.shape == (2, 3, 8, 8) and batch.y.tolist() == [0, 1]
    assert batch.columns["place"].tolist() == ["land", "water"]
    assert abs(float(batch.x[0, 0].mean()) - 80 / 255) < 0.02
    assert [len(read(f"{birds}?split={part}&size=8")) for part in ("train", "test", "all")] == [2, 2, 6]


def test_without_a_part_the_training_rows_are_read(birds):
    assert read(f"{birds}?size=8").columns["img_id"].tolist() == ["0", "1"]


def test_images_of_several_sizes_ask_for_one(birds):
    with pytest.raises(ValueError, match="resize or crop"):
        read(birds)


def test_celeba_has_other_names_and_another_label(tmp_path):
    (tmp_path / "img_align_celeba").mkdir()
    for i in range(2):
        Image.new("RGB", (4, 4)).save(tmp_path / "img_align_celeba" / f"{i}.png")
    (tmp_path / "list_attr_celeba.csv").write_text("image_id,Blond_Hair,Male,partition\n0.png,-1,1,0\n1.png,1,-1,0\n")

    batch = read(f"{tmp_path}?label=Blond_Hair").with_attribute("Male")

    assert batch.classes == ("-1", "1") and batch.groups().tolist() == [1, 2]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("split=middle", "parts: train, val, test, all"),
        ("size=large", "size=PIXELS"),
        ("part=val", "split=train"),
        ("label=species", "no column of labels"),
    ],
)
def test_a_wrong_option_says_which_there_are(birds, options, words):
    with pytest.raises(ValueError, match=words):
        read(f"{birds}?{options}")


def test_a_name_outside_the_folder_is_refused(birds):
    (birds / "metadata.csv").write_text("img_filename,y\n../secret.png,0\n")
    with pytest.raises(ValueError, match="outside that folder"):
        read(birds)
