"""Text, table, JUnit, model card, schema: each says what the report says, whatever the labels."""

import io
import re
import sys
from typing import Any
from xml.etree import ElementTree

import pytest
from report_samples import HOSTILE, SAMPLES, clean, embeddings, hostile, shortcut

from firstcue.finding import Gate, Report
from firstcue.report.schema import MODELS, schema
from firstcue.report.text import render

every_sample = pytest.mark.parametrize("sample", SAMPLES)


@every_sample
def test_text_is_at_most_a_hundred_columns_wide_without_control_characters(sample: str) -> None:
    from rich.cells import cell_len

    said = SAMPLES[sample]().summary()
    assert all(cell_len(line) <= 100 for line in said.splitlines())
    assert not re.search(r"[\x00-\x09\x0b-\x1f\u202a-\u202e]", said)


def test_text_has_verdict_groups_cues_order_and_repairs() -> None:
    said = shortcut().summary()
    for part in ("Red: The model relies", "coat with digit 0", "31 % (26 to 37 %)", "51 points", "step 126", "chosen"):
        assert part in said
    assert "Amber" in embeddings().summary() and "no intervention" in embeddings().summary()


def test_labels_are_no_markup_on_a_colour_terminal() -> None:
    from rich.console import Console

    page = io.StringIO()
    render(hostile(), Console(file=page, width=100, force_terminal=True, color_system="standard"))
    assert "[bold red]" in page.getvalue() and "\x1b[31mred" not in page.getvalue()


@every_sample
def test_rows_share_their_leading_keys_and_hold_plain_values(sample: str) -> None:
    rows = SAMPLES[sample]().to_rows()
    assert len(rows) == len(SAMPLES[sample]().findings)
    leading = [tuple(k for k in row if not k.startswith("details/")) for row in rows]
    assert len(set(leading)) <= 1
    assert all(v is None or isinstance(v, str | int | float) for row in rows for v in row.values())


def test_a_row_holds_every_number_of_its_finding() -> None:
    row, finding = shortcut().to_rows()[0], shortcut().findings[0]
    assert row["relies"] == finding.value and row["encoded_baseline"] == 0.51 and row["details/control_p"] == 0.005


def test_the_frame_has_one_row_per_finding_and_columns_even_when_empty() -> None:
    pytest.importorskip("pandas")
    frame = shortcut().to_frame()
    assert frame["cue"].tolist() == ["digit", "stitching"] and frame["relies"].tolist()[0] == 0.512
    assert len(SAMPLES["empty"]().to_frame()) == 0 and "encoded_ci_low" in SAMPLES["empty"]().to_frame()


def test_a_missing_pandas_is_answered_with_the_line_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match=r'pip install "firstcue\[frames\]"'):
        shortcut().to_frame()


@every_sample
def test_junit_is_valid_xml_with_one_case_per_finding(sample: str) -> None:
    report = SAMPLES[sample]()
    root = ElementTree.fromstring(report.to_junit().encode())
    cases = root.findall("testsuite/testcase")
    assert len(cases) == max(1, len(report.findings))
    relied = [f for f in report.findings if f.status == "relies"]
    assert len(root.findall(".//failure")) == len(relied) == int(root.get("failures", "-1"))
    assert len(root.findall(".//skipped")) == int(root.get("skipped", "-1"))


def test_inconclusive_findings_are_skipped_and_clean_ones_pass() -> None:
    assert "<skipped" in embeddings().to_junit() and "<failure" not in embeddings().to_junit()
    assert "<skipped" not in clean().to_junit() and "<failure" not in clean().to_junit()


def test_a_broken_gate_is_one_more_failure() -> None:
    from firstcue.report.junit import junit

    root = ElementTree.fromstring(junit(clean(), Gate(min_worst_group=0.99)).encode())
    assert next(f.get("message") for f in root.iter("failure")).startswith("worst-group accuracy 0.868")


def test_the_model_card_has_the_numbers() -> None:
    card = shortcut().to_model_card()
    assert "| coat with digit 0 (worst) | 31 % (26 to 37 %) | 250 |" in card
    assert "| digit | relied on, severe | 99.5 %" in card and "(chosen)" in card and card.startswith("## ")


def test_the_model_card_of_hostile_labels_is_text() -> None:
    card = hostile().to_model_card()
    assert "<" not in card and "[bold" not in card.replace("\\[bold", "")
    width = {line.count("|") - line.count("\\|") for line in card.splitlines() if line.startswith("| ")}
    assert width <= {4, 6}, "no label adds a column"
    assert "a" * 700 not in card and "\u202e" not in card


def check(value: Any, node: dict[str, Any], root: dict[str, Any], where: str) -> None:
    """The parts of JSON schema that these schemas use."""
    if "$ref" in node:
        return check(value, root["$defs"][node["$ref"].rpartition("/")[2]], root, where)
    if "anyOf" in node:
        problems = []
        for option in node["anyOf"]:
            try:
                return check(value, option, root, where)
            except AssertionError as problem:
                problems.append(str(problem))
        raise AssertionError(f"{where}: {problems}")
    kinds = {
        "object": dict, "array": list, "string": str, "integer": int, "number": (int, float), "boolean": bool,
        "null": type(None),
    }  # fmt: skip
    if "type" in node:
        assert isinstance(value, kinds[node["type"]]), f"{where} is {type(value).__name__}, not {node['type']}"
    assert "enum" not in node or value in node["enum"], f"{where} = {value!r}"
    if isinstance(value, dict):
        properties = node.get("properties", {})
        assert set(node.get("required", ())) <= set(value), where
        assert node.get("additionalProperties", True) or set(value) <= set(properties), where
        for key, item in value.items():
            further = node.get("additionalProperties")
            check(item, properties.get(key, further if isinstance(further, dict) else {}), root, f"{where}.{key}")
    if isinstance(value, list) and "items" in node:
        for i, item in enumerate(value):
            check(item, node["items"], root, f"{where}[{i}]")
    return None


@every_sample
def test_every_written_report_fits_the_published_schema(sample: str) -> None:
    import json

    published = schema("report")
    check(json.loads(SAMPLES[sample]().to_json()), published, published, "report")


def test_the_schema_refuses_what_is_no_report() -> None:
    published = schema("report")
    with pytest.raises(AssertionError):
        check({"verdict": "fine"}, published, published, "report")


@pytest.mark.parametrize("name", MODELS)
def test_schemas_are_stable_json_that_names_its_dialect(name: str) -> None:
    assert schema(name) == schema(name) and schema(name)["$schema"].endswith("2020-12/schema")
    assert schema(name)["properties"]


def test_an_unknown_schema_is_answered_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="report, finding, groups, remedy, gate"):
        schema("raport")


def test_hostile_labels_reach_every_format_unharmed() -> None:
    report = hostile()
    assert Report.model_validate_json(report.to_json()) == report
    assert [f.cue for f in report.findings] == list(HOSTILE)
