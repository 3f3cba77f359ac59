"""Reports survive JSON whatever they hold, and files that are no report or gate say so."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from firstcue.finding import Finding, Gate, GroupRow, Groups, Interval, Moment, Overall, Picture, Report, read_gate

numbers = st.one_of(st.none(), st.floats(), st.floats(width=32).map(np.float32), st.integers(-5, 5).map(np.int64))
anything = st.recursive(
    st.one_of(numbers, st.booleans(), st.text(max_size=8)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)),
    max_leaves=6,
)


def finding(**given: Any) -> Finding:
    facts = {
        "id": "reliance/sky/input/edit",
        "cue": "sky",
        "kind": "reliance",
        "status": "relies",
        "meaning": "It leans.",
    }
    return Finding(**{**facts, **given})


def refuse(constant: str) -> None:
    raise AssertionError(f"{constant} in JSON")


def table(*accuracies: float) -> Groups:
    rows = tuple(GroupRow(group=i, y=str(i), n=50, accuracy=a) for i, a in enumerate(accuracies))
    return Groups(by_group=rows, worst_group=min(rows, key=lambda r: r.accuracy or 0.0), overall=Overall(accuracy=0.9))


@given(value=numbers, low=numbers, text=st.text(st.characters(), max_size=20), extra=anything)
def test_any_report_comes_back_from_json_as_it_was(value: Any, low: Any, text: str, extra: Any) -> None:
    one = finding(cue=text, value=value, relies=Interval(value=value, ci_low=low), details={text: value, "flag": True})
    moment = Moment(step=np.int64(3), curve="used/sky", value=low)
    report = Report(verdict="shortcut", findings=(one,), timeline=(moment,), richness={"more": extra}, notes=(text,))
    written = report.to_json()
    json.loads(written, parse_constant=refuse)
    assert Report.model_validate_json(written) == report


def test_nan_and_infinity_are_null_in_json() -> None:
    one = finding(value=math.nan, ci_low=-math.inf, details={"gap": np.float64("nan")})
    found = json.loads(Report(verdict="shortcut", findings=(one,), richness={"dlr": [math.inf]}).to_json())
    assert found["findings"][0]["value"] is None and found["findings"][0]["ci_low"] is None
    assert found["findings"][0]["details"] == {"gap": None} and found["richness"] == {"dlr": [None]}


def test_half_a_surrogate_pair_is_replaced() -> None:
    assert finding(cue="a\ud83d").cue == "a\N{REPLACEMENT CHARACTER}"
    assert finding(cue="a\ud83d\ude00").cue == "a\N{GRINNING FACE}"


def test_an_unknown_field_is_refused() -> None:
    with pytest.raises(ValueError, match="surprise"):
        Interval(value=1.0, surprise=2)  # type: ignore[call-arg]


@pytest.mark.parametrize("png", ["", "R0lGODlh", '"><script>', "iVBOR!", "iVBOR=\n", "data:image/png;base64,iVBOR"])
def test_a_picture_that_is_no_png_is_refused(png: str) -> None:
    with pytest.raises(ValueError, match="png"):
        Picture(title="t", caption="c", alt="a", png=png)


def test_the_published_keys_are_there() -> None:
    found = json.loads(Report(verdict="inconclusive", findings=(finding(),), groups=table(0.5)).to_json())
    assert {
        "version",
        "verdict",
        "findings",
        "groups",
        "learning_order",
        "richness",
        "agreement",
        "simplicity",
        "remedies",
        "environment",
    } <= set(found)
    assert {
        "id",
        "cue",
        "kind",
        "layer",
        "status",
        "severity",
        "encoded",
        "associated",
        "relies",
        "closed",
        "value",
        "unit",
        "ci_low",
        "ci_high",
        "n",
        "baseline",
        "meaning",
        "source",
    } <= set(found["findings"][0])
    assert {"by_group", "worst_group", "overall", "group_average", "train_weighted"} <= set(found["groups"])
    assert {"group", "y", "attribute", "n", "accuracy", "ci_low", "ci_high"} <= set(found["groups"]["worst_group"])
    assert {"versions", "seed", "device", "command"} <= set(found["environment"])


def test_a_report_is_read_from_json_from_its_page_and_from_its_folder(tmp_path: Path) -> None:
    report = Report(verdict="shortcut", findings=(finding(cue="</script><b>&\u2028"),), groups=table(0.5, 0.9))
    report.to_json(tmp_path / "report.json")
    report.save_html(tmp_path / "page.html")
    assert (
        Report.load(tmp_path) == Report.load(tmp_path / "report.json") == Report.load(tmp_path / "page.html") == report
    )


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "Invalid JSON"),
        ("[]", "an object"),
        ('{"verdict": "fine"}', "'shortcut', 'no shortcut found' or 'inconclusive'"),
        ('{"verdict": "shortcut", "colour": 1}', "colour"),
        ('{"verdict": "shortcut", "findings": [{}]}', "findings.0.id: Field required.*and 2 more"),
        ("<html></html>", "Invalid JSON"),
    ],
)
def test_what_is_no_report_is_refused_in_one_line_with_the_way_out(tmp_path: Path, content: str, said: str) -> None:
    path = tmp_path / "other.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=said) as caught:
        Report.load(path)
    assert type(caught.value) is ValueError
    assert "\n" not in str(caught.value) and "firstcue audit" in str(caught.value) and str(path) in str(caught.value)


def test_a_missing_or_binary_report_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no report at .*none\.json"):
        Report.load(tmp_path / "none.json")
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="cannot be read as text"):
        Report.load(tmp_path / "binary.json")


@pytest.mark.parametrize(
    ("gate", "verdict", "failures"),
    [
        (Gate(), "shortcut", 1),
        (Gate(), "inconclusive", 1),
        (Gate(), "no shortcut found", 0),
        (Gate(allow_shortcut=True), "shortcut", 0),
        (Gate(inconclusive="pass"), "inconclusive", 0),
        (Gate(min_worst_group=0.6), "no shortcut found", 0),
        (Gate(min_worst_group=0.61), "no shortcut found", 1),
        (Gate(max_group_gap=0.31), "no shortcut found", 0),
        (Gate(max_group_gap=0.29), "no shortcut found", 1),
        (Gate(max_group_gap=0.1, min_worst_group=0.9), "shortcut", 3),
    ],
)
def test_a_gate_says_each_broken_demand(gate: Gate, verdict: Any, failures: int) -> None:
    report = Report(verdict=verdict, groups=table(0.6, 0.9))
    assert len(gate.failures(report)) == failures
    assert report.passed(gate) is (failures == 0)


def test_a_gate_on_groups_fails_without_a_group_table() -> None:
    said = Gate(min_worst_group=0.1, max_group_gap=0.9).failures(Report(verdict="no shortcut found"))
    assert len(said) == 2 and all("cannot be judged" in s for s in said)


def test_a_gate_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "gate.toml"
    path.write_text('min_worst_group = 0.8\nmax_group_gap = 1\ninconclusive = "pass"\n')
    assert read_gate(path) == Gate(min_worst_group=0.8, max_group_gap=1.0, inconclusive="pass")
    assert not Report(verdict="inconclusive").passed(path)
    path.write_text("")
    assert read_gate(path) == Gate()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("min_wrost_group = 0.8", "unknown key 'min_wrost_group'; known keys: min_worst_group, max_group_gap"),
        ("min_worst_group = 80", "min_worst_group: .*less than or equal to 1"),
        ("min_worst_group = nan", "min_worst_group"),
        ('allow_shortcut = "yes"', "allow_shortcut: .*boolean"),
        ('inconclusive = "maybe"', "'fail' or 'pass'"),
        ("min_worst_group", "is not TOML"),
    ],
)
def test_a_wrong_gate_file_says_what_is_wrong(tmp_path: Path, content: str, said: str) -> None:
    path = tmp_path / "gate.toml"
    path.write_text(content)
    with pytest.raises(ValueError, match=said):
        read_gate(path)
    with pytest.raises(ValueError, match="no gate file at"):
        read_gate(tmp_path / "none.toml")
