"""Tables: what each column becomes, and what is refused rather than guessed."""

import sys

import numpy as np
import pandas as pd
import pytest

from firstcue._extras import MissingExtra
from firstcue.data import read

ROWS = "age,place,label,code\n1.5,sea,cat,0\n2,land,dog,1\n-3e2,sea,cat,1\n"


@pytest.fixture
def csv(tmp_path):
    def write(text: str, name: str = "table.csv"):
        (tmp_path / name).write_text(text, encoding="utf-8")
        return tmp_path / name

    return write


def test_numbers_are_features_text_is_an_attribute_and_the_label_is_neither(csv):
    batch = read(csv(ROWS))

    assert batch.x.tolist() == [[1.5, 0.0], [2.0, 1.0], [-300.0, 1.0]] and str(batch.x.dtype) == "torch.float32"
    assert batch.classes == ("cat", "dog") and batch.y.tolist() == [0, 1, 0]
    assert list(batch.columns) == ["place"] and batch.with_attribute("place").values == ("land", "sea")


def test_a_numeric_attribute_is_no_feature(csv):
    batch = read(csv(ROWS), attributes=["code"])

    assert batch.x.shape == (3, 1)
    assert batch.with_attribute("code").values == ("0", "1")


def test_any_column_may_be_the_label(csv):
    assert read(csv(ROWS), label="code").classes == ("0", "1")


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_common_separators_quotes_and_byte_order_marks_are_read(csv, separator):
    text = (
        separator.join(["a", "label"])
        + "\r\n"
        + separator.join(["1", f'"x{separator}y"'])
        + "\r\n"
        + separator.join(["2", "z"])
    )
    batch = read(csv("\ufeff" + text))

    assert batch.x.tolist() == [[1.0], [2.0]] and batch.classes == (f"x{separator}y", "z")


def test_parquet_gives_what_csv_gives(tmp_path, csv):
    frame = pd.read_csv(csv(ROWS))
    frame.to_parquet(tmp_path / "table.parquet")
    parquet, text = read(tmp_path / "table.parquet", attributes=["code"]), read(csv(ROWS), attributes=["code"])

    assert parquet.x.tolist() == text.x.tolist() and parquet.y.tolist() == text.y.tolist()
    assert list(parquet.columns) == list(text.columns)
    assert np.array_equal(parquet.columns["place"], text.columns["place"])


def test_row_numbers_of_pandas_are_no_feature(tmp_path, csv):
    pd.read_csv(csv(ROWS)).iloc[[2, 0, 1]].to_parquet(tmp_path / "table.parquet")

    assert read(tmp_path / "table.parquet").x.shape == (3, 2)


def test_parquet_without_pyarrow_prints_the_line_that_installs_it(tmp_path, monkeypatch):
    (tmp_path / "table.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtra, match=r'pip install "firstcue\[parquet\]"'):
        read(tmp_path / "table.parquet")


def test_a_damaged_parquet_file_is_named(tmp_path, csv):
    path = tmp_path / "table.parquet"
    pd.read_csv(csv(ROWS)).to_parquet(path)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ValueError, match=r"table\.parquet is not a readable Parquet file"):
        read(path)


def test_nested_and_absent_cells_of_parquet_are_refused(tmp_path):
    pd.DataFrame({"e": [[1.0, 2.0], [3.0, 4.0]], "y": [0, 1]}).to_parquet(tmp_path / "nested.parquet")
    pd.DataFrame({"a": pd.array([1, None], dtype="Int64"), "y": [0, 1]}).to_parquet(tmp_path / "absent.parquet")
    with pytest.raises(ValueError, match=r"column 'e' of .* holds list"):
        read(tmp_path / "nested.parquet")
    with pytest.raises(ValueError, match=r"column 'a' of .* has 1 empty cells \(first: row 1\)"):
        read(tmp_path / "absent.parquet")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n1,2\n", r"no column 'y' or 'label' for the label; columns found: 'a', 'b'"),
        ("a,y,label\n1,2,3\n", "both a column 'y' and a column 'label'"),
        ("a,y\n1,0\n2\n", r"line 3, has 1 cells, but the header names 2 columns"),
        ("a,a,y\n1,2,0\n", "several columns called 'a'"),
        ("a,y\n", "a header but no rows"),
        ("name,y\nx,0\nz,1\n", r"no numeric column to serve as a feature, beside the label 'y' and 'name'"),
        ("a,y\n1,0\n,1\n3,0\n", r"column 'a' of .* has 1 empty cells \(first: row 1"),
        ("a,y\n1,0\n2,\n3,0\n", r"column 'y' of .* has 1 empty cells"),
        ("a,y\n" + "1,0\n" * 20 + "?,1\n", r"column 'a' of .* numbers in all but 1 of 21 cells; row 20 .* has '\?'"),
    ],
)
def test_what_cannot_be_read_is_named(csv, text, message):
    with pytest.raises(ValueError, match=message):
        read(csv(text))


def test_asking_for_absent_columns_lists_those_found(csv):
    with pytest.raises(ValueError, match="no column 'kind' for the label; columns found: 'age', 'place'"):
        read(csv(ROWS), label="kind")
    with pytest.raises(ValueError, match="no column 'sex'; columns found: 'age', 'place', 'label', 'code'"):
        read(csv(ROWS), attributes=["sex"])


def test_text_in_another_encoding_is_named(tmp_path):
    (tmp_path / "table.csv").write_bytes("a,y\n1,é\n2,b\n".encode("latin1"))
    with pytest.raises(ValueError, match="not a readable CSV file in UTF-8"):
        read(tmp_path / "table.csv")


def test_none_is_a_fine_name_for_an_attribute_value(csv):
    batch = read(csv("a,y,place\n1,0,none\n2,1,sea\n"), attributes=["place"])

    assert batch.with_attribute("place").values == ("none", "sea")
