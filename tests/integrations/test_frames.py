"""Tables of pandas and Polars go in as they are, and findings come out as tables of either."""

import numpy as np
import pytest
import torch
from sklearn.compose import make_column_transformer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.tree import DecisionTreeClassifier

import firstcue as fc
from cli_cases import only_object
from firstcue.auditing.accepting import accepted
from firstcue.cli import main
from firstcue.data import read
from firstcue.integrations.frames import columns_of, decode, encode, is_frame, schema
from firstcue.layers import predict

pandas = pytest.importorskip("pandas")
polars = pytest.importorskip("polars")
LIBRARIES = {"pandas": pandas, "polars": polars}


def people(n: int = 600, agree: float = 0.9, seed: int = 0) -> dict[str, np.ndarray]:
    """Income goes weakly with age and, in a fraction of rows, with sex; rows of text, numbers and truths."""
    rng = np.random.default_rng(seed)
    y = np.arange(n) % 2
    cue = np.where(rng.random(n) < agree, y, 1 - y)
    return {
        "age": (40 + 8 * y + 10 * rng.normal(size=n)).round().astype(np.int64),
        "hours": 30 + 20 * rng.random(n),
        "sex": np.array(["woman", "man"])[cue],
        "member": rng.random(n) < 0.3,
        "income": np.array(["low", "high"])[y],
    }


def fitted(frame, last=None):
    """A pipeline that picks columns by name, as tables with text need it."""
    columns = make_column_transformer((StandardScaler(), ["age", "hours", "member"]), (OneHotEncoder(), ["sex"]))
    inputs = frame.drop(columns="income") if hasattr(frame, "iloc") else frame.drop("income")
    return make_pipeline(columns, last or LogisticRegression()).fit(inputs, np.asarray(frame["income"])), inputs


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_table_is_read_by_the_rules_of_a_csv_file(library, tmp_path):
    rows = people(50)
    frame = LIBRARIES[library].DataFrame(rows)
    from_frame = read(frame, label="income", attributes=["member"])
    path = tmp_path / "people.csv"
    frame.to_csv(path, index=False) if library == "pandas" else frame.write_csv(path)
    from_file = read(path, label="income", attributes=["member"])
    assert torch.equal(from_frame.x, from_file.x) and from_frame.x.dtype == torch.float32
    assert torch.equal(from_frame.y, from_file.y) and from_frame.classes == ("high", "low")
    assert set(from_frame.columns) == set(from_file.columns) == {"sex", "member"}


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_pipeline_on_named_columns_decides_in_the_audit_as_it_does_outside(library):
    frame = LIBRARIES[library].DataFrame(people())
    for last in (LogisticRegression(), DecisionTreeClassifier(max_depth=4)):
        pipeline, inputs = fitted(frame, last)
        module, batch, _ = accepted(pipeline, (inputs, frame["income"]), attribute="sex")
        answers = np.asarray(module.classes)[predict(module, batch.x).argmax(dim=1)]
        assert (answers == pipeline.predict(inputs)).all()
        assert batch.cue == "sex" and batch.values == ("man", "woman")


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_column_that_the_model_reads_is_edited_and_nothing_else(library):
    frame = LIBRARIES[library].DataFrame(people())
    pipeline, inputs = fitted(frame)
    _, batch, _ = accepted(pipeline, (inputs, frame["income"]), attribute="sex")
    edited = batch.edit(batch.x, 0)
    assert (edited[:, 2] == 0).all() and torch.equal(edited[:, [0, 1, 3]], batch.x[:, [0, 1, 3]])
    assert torch.equal(batch.edit(batch.x, 1)[batch.attribute == 1], batch.x[batch.attribute == 1])


def test_an_attribute_beside_the_table_is_taken_as_it_is():
    frame = pandas.DataFrame(people(60))
    pipeline, inputs = fitted(frame)
    region = np.array(["north", "south"])[np.arange(60) // 3 % 2]
    _, batch, _ = accepted(pipeline, (inputs, frame["income"], region))
    assert batch.values == ("north", "south") and batch.x.shape == (60, 4) and batch.edit is None


def test_a_tree_is_convicted_by_the_column_it_reads():
    train, held = (
        pandas.DataFrame(people(seed=s, agree=a)).rename(columns={"income": "y"}) for s, a in [(0, 0.9), (1, 0.5)]
    )
    pipeline, _ = fitted(train.rename(columns={"y": "income"}), DecisionTreeClassifier(max_depth=2))
    report = fc.audit(pipeline, train, attribute="sex", held_out=held)
    assert report.verdict == "shortcut" and report.findings[0].id.endswith("/edit")


def test_a_value_that_held_out_rows_lack_can_be_set_all_the_same():
    rows = people()
    rows["sex"] = np.where(np.arange(600) < 40, "unknown", rows["sex"])
    train, held = pandas.DataFrame(rows), pandas.DataFrame(people(seed=1))
    pipeline, inputs = fitted(train)
    _, _, batch = accepted(pipeline, (inputs, train["income"]), (held.drop(columns="income"), held["income"]), "sex")
    assert batch.values == ("man", "unknown", "woman")
    assert (batch.edit(batch.x, 1)[:, 2] == 1).all()


def test_the_command_line_gives_a_model_fitted_on_names_its_columns(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name, seed, agree in (("train", 0, 0.9), ("held", 1, 0.5)):
        pandas.DataFrame(people(seed=seed, agree=agree)).to_csv(tmp_path / f"{name}.csv", index=False)
    (tmp_path / "named_models.py").write_text(
        "import pandas\nfrom sklearn.compose import make_column_transformer\n"
        "from sklearn.linear_model import LogisticRegression\nfrom sklearn.pipeline import make_pipeline\n"
        "from sklearn.preprocessing import OneHotEncoder, StandardScaler\n\n"
        "def made():\n    rows = pandas.read_csv('train.csv')\n"
        "    steps = make_column_transformer((StandardScaler(), ['age', 'hours']), (OneHotEncoder(), ['sex']))\n"
        "    return make_pipeline(steps, LogisticRegression()).fit(rows[['sex', 'hours', 'age']], rows['income'])\n"
    )
    words = ["named_models:made", "train.csv", "--label", "income", "--attribute", "sex", "--held-out", "held.csv"]
    assert main(["fix", "erase", *words, "--out", "fixed", "--json"]) == 0
    told = only_object(capsys.readouterr().out)
    assert told["before"]["worst_group"]["accuracy"] < 0.3 < told["after"]["worst_group"]["accuracy"]
    assert main(["fix", "erase", *words[:-2], "--label", "wage", "--out", "fixed"]) == 3
    assert "no column 'wage'" in capsys.readouterr().err


def test_a_torch_model_gets_numbers_without_the_cue():
    frame = pandas.DataFrame(people(80)).rename(columns={"income": "label"})
    _, batch, _ = accepted(torch.nn.Linear(2, 2), frame, attribute="member")
    assert tuple(batch.x.shape) == (80, 2) and batch.edit is None


def test_rows_become_the_table_they_were():
    frame = pandas.DataFrame(people(30))
    columns = columns_of(frame)
    found = schema([columns], list(frame.columns))
    again = decode(encode(columns, found), found, "pandas")
    assert again.astype(object).equals(frame.astype(object)) and again["age"].dtype == np.int64


@pytest.mark.parametrize(
    ("frame", "phrase"),
    [
        (pandas.DataFrame({"a": [1.0], "sex": ["f"]}), "no column 'y' or 'label'"),
        (pandas.DataFrame([[1, 2, 0]], columns=["a", "a", "y"]), "several columns called 'a'"),
        (pandas.DataFrame({"a": [1.0, 2.0], "sex": ["f", None], "y": [0, 1]}), "column 'sex' has 1 empty cells"),
        (pandas.DataFrame({"a": pandas.array([1, None], dtype="Int64"), "y": [0, 1]}), "column 'a' has 1 empty"),
        (pandas.DataFrame({"a": [1.0, np.nan], "y": [0, 1]}), "column 'a' has 1 empty cells"),
        (polars.DataFrame({"a": [[1.0], [2.0]], "y": [0, 1]}), "column 'a' holds"),
        (polars.DataFrame({"a": [1.0], "y": [0]}).lazy(), "collect"),
    ],
)
def test_a_table_that_cannot_be_read_says_what_to_do(frame, phrase):
    with pytest.raises(ValueError, match=phrase):
        read(frame)


def test_columns_that_the_model_misses_are_named():
    frame = pandas.DataFrame(people(60))
    pipeline, inputs = fitted(frame)
    with pytest.raises(ValueError, match="fitted on a column 'hours' that the data lacks; columns found: 'age', 'sex'"):
        fc.audit(pipeline, (inputs.drop(columns="hours"), frame["income"]))
    with pytest.raises(ValueError, match="no attribute 'region'; columns found: 'age'"):
        fc.audit(pipeline, (inputs, frame["income"]), attribute="region")


@pytest.mark.parametrize("library", LIBRARIES)
def test_findings_come_out_as_a_table(library):
    finding = fc.Finding(
        id="a/b", cue="sky", kind="reliance", status="relies", meaning="It leans.", details={"gap": 0.4}
    )
    report = fc.Report(verdict="shortcut", findings=(finding,))
    frame = report.to_frame(library)
    assert type(frame).__module__.startswith(library) and is_frame(frame)
    assert list(frame["cue"]) == ["sky"] and list(frame["details/gap"]) == [0.4]
    assert list(fc.Report(verdict="no shortcut found").to_frame(library).columns)[:2] == ["id", "cue"]


def test_a_table_of_an_unknown_library_is_refused():
    with pytest.raises(ValueError, match="pandas or polars"):
        fc.Report(verdict="no shortcut found").to_frame("arrow")
