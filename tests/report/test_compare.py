"""Comparisons call a change what its interval shows to be one, and nothing else."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from report_samples import SAMPLES, clean, hostile, shortcut

from firstcue.finding import Finding, GroupRow, Groups, Interval, Overall, Report
from firstcue.report.compare import compare, difference, headline


def groups(worst: float, overall: float, half: float = 0.03) -> Groups:
    def row(i: int, a: float) -> GroupRow:
        return GroupRow(group=i, y=str(i), n=100, accuracy=a, ci_low=a - half, ci_high=a + half)

    rows = (row(0, worst), row(1, 0.99))
    mean = Overall(accuracy=overall, ci_low=overall - half, ci_high=overall + half, n=200)
    return Groups(by_group=rows, worst_group=rows[0], overall=mean)


def relying(value: float, status: Any = "relies", half: float = 0.03) -> Finding:
    relies = Interval(value=value, ci_low=value - half, ci_high=value + half)
    return Finding(id="reliance/sky/input/edit", cue="sky", kind="reliance", status=status, meaning="m", relies=relies)


@pytest.mark.parametrize("sample", SAMPLES)
def test_a_report_compared_with_itself_shows_no_change(sample: str) -> None:
    found = compare(SAMPLES[sample](), SAMPLES[sample]())
    assert not found.worse and not found.better and headline(found) == "No change beyond chance"
    assert {c.direction for c in found.changes} <= {"same"}


def test_better_one_way_is_worse_the_other_way() -> None:
    before, after = (
        Report(verdict="shortcut", groups=groups(0.4, 0.8)),
        Report(verdict="shortcut", groups=groups(0.7, 0.8)),
    )
    assert compare(before, after).better and not compare(before, after).worse
    assert compare(after, before).worse and not compare(after, before).better


def test_a_change_within_its_interval_is_no_change() -> None:
    before, after = (
        Report(verdict="shortcut", groups=groups(0.7, 0.8)),
        Report(verdict="shortcut", groups=groups(0.67, 0.8)),
    )
    assert not compare(before, after).worse
    narrow = Report(verdict="shortcut", groups=groups(0.67, 0.8, half=0.001))
    assert compare(Report(verdict="shortcut", groups=groups(0.7, 0.8, half=0.001)), narrow).worse


def test_the_verdict_alone_can_be_worse() -> None:
    order = ["no shortcut found", "inconclusive", "shortcut"]
    for i, a in enumerate(order):
        for j, b in enumerate(order):
            found = compare(Report(verdict=a), Report(verdict=b))  # type: ignore[arg-type]
            assert found.worse is (j > i) and found.better is (j < i)


def test_a_best_group_that_pays_for_the_worst_is_listed_and_not_called_worse() -> None:
    def made(worst: float, best: float) -> Report:
        g = groups(worst, 0.8)
        row = g.by_group[1].model_copy(update={"accuracy": best, "ci_low": best - 0.01, "ci_high": best + 0.01})
        return Report(verdict="shortcut", groups=g.model_copy(update={"by_group": (g.by_group[0], row)}))

    found = compare(made(0.4, 0.99), made(0.8, 0.9))
    assert found.better and not found.worse
    assert [c.direction for c in found.changes if c.what == "group"] == ["better", "worse"]


def test_less_reliance_is_better_and_a_new_reliance_is_worse() -> None:
    def made(*findings: Finding) -> Report:
        return Report(verdict="shortcut", findings=findings)

    assert compare(made(relying(0.5)), made(relying(0.2))).better
    assert compare(made(relying(0.2)), made(relying(0.5))).worse
    assert not compare(made(relying(0.2)), made(relying(0.21))).worse
    assert compare(made(relying(0.2)), made(relying(0.0, "no shortcut found"))).better
    assert compare(made(), made(relying(0.2))).worse
    assert not compare(made(relying(0.2)), made()).worse
    harmless = (relying(0.01, "no shortcut found", 0.001), relying(0.03, "no shortcut found", 0.001))
    assert not compare(made(harmless[0]), made(harmless[1])).worse


def test_being_read_more_easily_is_never_worse() -> None:
    def read(value: float) -> Report:
        one = Finding(
            id="decodability/sky/fc/linear", cue="sky", kind="decodability", status="no shortcut found", meaning="m",
            value=value, ci_low=value - 0.01, ci_high=value + 0.01,
        )  # fmt: skip
        return Report(verdict="no shortcut found", findings=(one,))

    assert not compare(read(0.6), read(0.9)).worse
    assert not compare(read(0.9), read(0.6)).better


parts = st.tuples(st.floats(0, 1), st.floats(0.001, 0.3), st.floats(0.001, 0.3))


@given(parts, parts)
def test_the_interval_of_a_difference_holds_it_and_turns_with_the_order(
    a: tuple[float, ...], b: tuple[float, ...]
) -> None:
    one, other = (Interval(value=v, ci_low=v - low, ci_high=v + high) for v, low, high in (a, b))
    change, low, high = difference(one, other)
    assert change is not None and low is not None and high is not None and low < change < high
    back, back_low, back_high = difference(other, one)
    assert (back, back_low, back_high) == pytest.approx((-change, -high, -low))


def test_equal_symmetric_intervals_widen_by_the_root_of_two() -> None:
    one = Interval(value=0.5, ci_low=0.4, ci_high=0.6)
    assert difference(one, one) == pytest.approx((0, -0.1 * 2**0.5, 0.1 * 2**0.5))


def test_without_an_interval_nothing_is_called_a_change() -> None:
    bare = [Report(verdict="shortcut", groups=Groups(overall=Overall(accuracy=a, n=10))) for a in (0.9, 0.1)]
    assert not compare(*bare).worse


def test_different_rows_are_named() -> None:
    assert any("different rows" in note for note in compare(shortcut(), SAMPLES["embeddings"]()).notes)


def test_the_comparison_speaks_text_json_and_html() -> None:
    found = compare(clean(), shortcut())
    assert "Worse than before" in found.summary() or "worse in others" in found.summary()
    assert "coat with digit 0" in found.summary() and "−58 points" in found.summary()
    assert json.loads(found.to_json())["worse"] is True
    assert "relied on" in found.html() and "://" not in found.html()


def test_hostile_labels_are_harmless_in_a_comparison() -> None:
    html = compare(hostile(), shortcut()).html()
    assert (
        html.count("<script") == 1 and "<script>alert" not in html and "\u202e" not in html.split('id="comparison"')[0]
    )
