"""Numbers and labels as the report writes them."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from report_samples import SAMPLES

from firstcue.finding import Finding, Report
from firstcue.report import words


@given(st.text(max_size=300), st.integers(9, 80))
def test_a_shortened_label_is_short_on_one_line_and_visible(label: str, limit: int) -> None:
    short = words.shorten(label, limit)
    assert len(short) <= limit
    assert not any(unicodedata.category(c) in ("Cc", "Zl", "Zp", "Cs") for c in short)
    assert not any(unicodedata.category(c) == "Cf" and c not in "\u200c\u200d" for c in short)
    assert words.shorten(short, limit) == short


@given(st.text(st.characters(categories=["L", "N"]), min_size=1, max_size=20))
def test_a_plain_short_label_is_left_alone(label: str) -> None:
    assert words.shorten(label, 20) == label


@given(st.floats(0, 1))
def test_percent_says_none_or_all_only_when_it_is(fraction: float) -> None:
    said = words.percent(fraction)
    assert float(said.removesuffix(" %")) == pytest.approx(100 * fraction, abs=0.51)
    if said in ("0 %", "100 %"):
        assert min(fraction, 1 - fraction) < 0.0006


@given(st.floats(-1, 1))
def test_points_are_right_to_half_a_point_and_signed(fraction: float) -> None:
    said = words.points(fraction, sign=True).replace("−", "-")
    value = float(said.split()[0])
    assert value == pytest.approx(100 * fraction, abs=0.51)
    assert value == 0 or said[0] in "+-"


def test_one_point_is_singular() -> None:
    assert (
        words.points(0.01) == "1.0 point" and words.points(-0.01) == "−1.0 point" and words.points(0.1) == "10 points"
    )


@pytest.mark.parametrize("sample", SAMPLES)
def test_every_verdict_has_a_headline_and_a_sentence(sample: str) -> None:
    report = SAMPLES[sample]()
    assert words.headline(report) and words.lead(report).rstrip()
    assert len(words.headline(report)) < 200 and len(words.lead(report)) <= 900


def test_the_sentence_names_worst_group_and_repair() -> None:
    said = words.lead(SAMPLES["shortcut"]())
    assert "coat with digit 0" in said and "31 %" in said and "last-layer retraining" in said and "84 %" in said


def test_many_shortcuts_are_counted() -> None:
    findings = tuple(Finding(id=c, cue=c, kind="k", status="relies", meaning="m") for c in "abcde")
    assert words.headline(Report(verdict="shortcut", findings=findings)) == "The model relies on 5 shortcuts: a, b, c …"


def test_an_unsuspicious_cluster_is_not_called_suspected() -> None:
    calm = Finding(id="i", cue="inferred cluster", kind="inferred cluster", status="inferred", meaning="m")
    alarmed = calm.model_copy(update={"severity": "clear"})
    assert (words.status(calm), words.light(calm)) == ("nothing suspicious", "green")
    assert (words.status(alarmed), words.light(alarmed)) == ("suspected, clear", "amber")
