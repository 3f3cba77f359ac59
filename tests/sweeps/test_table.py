"""Results stream into a table that is whole at every moment and, in the end, in the order of the trials."""

import csv
import itertools

import pytest

import firstcue as fc
from firstcue.sweeps import Trial
from firstcue.sweeps.store import Result
from firstcue.sweeps.table import Table, to_frame, write_rows


def square(trial: Trial) -> dict:
    return {"y": trial.settings["x"] ** 2, "odd": trial.settings["x"] % 2 == 1}


def plan(n=5):
    return [Trial("square", {"x": x}) for x in range(n)]


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_rows_are_in_the_file_before_the_sweep_ends(tmp_path, kind):
    if kind == "parquet":
        pytest.importorskip("pyarrow")
    pytest.importorskip("pandas")
    import pandas

    read = pandas.read_csv if kind == "csv" else pandas.read_parquet
    table, trials = Table(tmp_path / f"rows.{kind}", plan()), plan()
    for trial in trials[:1:-1]:
        table.add(trial.key, Result(trial.to_dict(), [square(trial)], 0.1))
    table.write()
    assert read(table.path).x.tolist() == [2, 3, 4]
    rows = fc.sweep(plan(), square, tmp_path / "store", "serial", table=table.path)
    assert read(table.path).equals(to_frame(rows))
    assert [row["y"] for row in rows] == [0, 1, 4, 9, 16]


def test_while_a_sweep_runs_its_table_grows(tmp_path, monkeypatch):
    monkeypatch.setattr("firstcue.sweeps.table.time.perf_counter", itertools.count(0.0, 10.0).__next__)
    monkeypatch.setattr("firstcue.sweeps.table.SHARE", 5)  # that clock makes every write look dear
    seen = []

    def look(trial):
        path = tmp_path / "rows.csv"
        seen.append(len(list(csv.DictReader(path.open()))) if path.exists() else 0)
        return square(trial)

    fc.sweep(plan(), look, tmp_path / "store", "serial", table=tmp_path / "rows.csv")
    assert seen[0] == 0
    assert seen == sorted(seen)
    assert seen[-1] >= 3


def test_a_table_after_a_fault_is_that_of_an_undisturbed_sweep(tmp_path):
    fc.sweep(plan()[3:], square, tmp_path / "a", "serial")
    fc.sweep(plan(), square, tmp_path / "a", "serial", table=tmp_path / "a.csv")
    fc.sweep(plan(), square, tmp_path / "b", "serial", table=tmp_path / "b.csv")
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()


def test_values_of_several_types_become_text_in_parquet(tmp_path):
    pytest.importorskip("pyarrow")
    import pyarrow.parquet as parquet

    write_rows([{"v": 1, "w": [1, 2]}, {"v": "all"}, {"v": None}], tmp_path / "rows.parquet")
    assert parquet.read_table(tmp_path / "rows.parquet").to_pylist() == [
        {"v": "1", "w": [1, 2]},
        {"v": "all", "w": None},
        {"v": None, "w": None},
    ]


def test_other_formats_and_folders_that_do_not_exist_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"as \.csv or \.parquet; got 'rows.xlsx'"):
        fc.sweep(plan(), square, tmp_path / "store", "serial", table=tmp_path / "rows.xlsx")
    with pytest.raises(ValueError, match="cannot be written"):
        write_rows([{"x": 1}], tmp_path / "nowhere" / "rows.csv")
