"""The rule, line by line, on hand-made measurements."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from firstcue.auditing.erased import Erasure
from firstcue.auditing.verdict import Evidence, judge, overall_verdict
from firstcue.finding import Finding
from firstcue.spurious.intervals import holm
from firstcue.spurious.metrics import Rate
from firstcue.spurious.reliance import Gap, Reliance

R = torch.tensor([[0.45, -0.45], [-0.45, 0.45]]).double()


def gap(value, half=0.03, conflicting=0.6, undroppable=False):
    return Gap(
        value=value,
        ci_low=value - half,
        ci_high=value + half,
        n=1000,
        half_width=half,
        dropped=((0, 1),) if undroppable else (),
        undroppable=undroppable,
        kept=1.0,
        accuracy=torch.full((2, 2), 0.8).double(),
        counts=torch.full((2, 2), 250),
        weight=R / R.abs().sum() * 2,
        conflicting=Rate(conflicting, conflicting - 0.04, conflicting + 0.04, 500),
        aligned=Rate(0.9, 0.87, 0.93, 500),
        wanted=R / R.abs().sum() * 2,
    )


def erasure(closed, after=0.02, average_after=0.8):
    return Erasure(gap(after), closed, 0.3, 0.25, 0.35, 0.005, 199, 0.8, average_after, False, torch.zeros(4, 2))


CLEAR = Evidence("background", 2, 0.45, 500, gap(0.3), None, erasure(0.9), 0.005)


def test_a_cue_that_equals_the_label_is_not_identifiable():
    assert judge(replace(CLEAR, conflicting_rows=0)).status == "not identifiable"


def test_a_cue_that_is_not_associated_is_no_shortcut_however_large_the_gap():
    assert judge(replace(CLEAR, strength=0.019)).status == "no shortcut found"
    assert judge(replace(CLEAR, strength=0.0, conflicting_rows=0)).status == "no shortcut found"


def test_few_rows_give_no_verdict_and_say_how_many_would_do():
    said = judge(replace(CLEAR, gap=gap(0.3, half=0.11)))
    assert said.status == "inconclusive"
    assert "held-out rows in each" in said.meaning
    assert judge(replace(CLEAR, gap=gap(0.3, undroppable=True))).status == "inconclusive"


@pytest.mark.parametrize(
    ("value", "low", "high", "status", "severity"),
    [
        (0.08, 0.06, 0.10, "relies", "slight"),
        (0.20, 0.15, 0.25, "relies", "clear"),
        (0.40, 0.35, 0.45, "relies", "severe"),
        (0.01, -0.02, 0.04, "no shortcut found", "none"),
        (0.06, 0.02, 0.10, "inconclusive", "none"),
        (0.00, -0.06, 0.06, "inconclusive", "none"),
    ],
)
def test_an_edit_decides_by_both_bounds(value, low, high, status, severity):
    said = judge(replace(CLEAR, reliance=Reliance(value, low, high, 1000)))
    assert (said.status, said.severity) == (status, severity)


def test_an_edit_overrules_a_gap_that_comes_from_harder_rows():
    said = judge(replace(CLEAR, reliance=Reliance(0.0, -0.03, 0.03, 1000)))
    assert said.status == "no shortcut found"
    assert "harder" in said.meaning


def test_without_an_edit_a_small_gap_acquits_and_an_inverted_one_is_over_corrected():
    assert judge(replace(CLEAR, gap=gap(0.01))).status == "no shortcut found"
    said = judge(replace(CLEAR, gap=gap(-0.2)))
    assert said.status == "no shortcut found"
    assert "over-corrected" in said.meaning


def test_without_an_edit_erasure_convicts_only_when_it_closes_the_gap_and_harms_nothing():
    assert judge(CLEAR).status == "relies"
    assert judge(replace(CLEAR, p_value=0.06)).status == "inconclusive"
    assert judge(replace(CLEAR, erasure=erasure(0.6))).status == "inconclusive"
    assert judge(replace(CLEAR, erasure=erasure(0.9, after=-0.06))).status == "inconclusive"
    assert judge(replace(CLEAR, erasure=erasure(0.9, average_after=0.77))).status == "inconclusive"
    assert judge(replace(CLEAR, erasure=erasure(0.2))).status == "no shortcut found"
    assert "not through it" in judge(replace(CLEAR, erasure=erasure(0.2))).meaning


def test_conflicting_rows_below_chance_convict_when_the_control_agrees():
    below = replace(CLEAR, gap=gap(0.5, conflicting=0.4), erasure=erasure(0.5))
    assert judge(below).status == "relies"
    assert judge(replace(below, p_value=0.2)).status == "inconclusive"


def test_a_gap_that_includes_both_nothing_and_something_is_inconclusive():
    assert judge(replace(CLEAR, gap=gap(0.06, half=0.05))).status == "inconclusive"


@given(st.floats(-0.5, 0.5), st.floats(0.001, 0.2), st.floats(0, 0.5), st.floats(-1, 1.5), st.floats(0, 1))
def test_nothing_relies_without_association_and_evidence_beyond_the_threshold(value, half, strength, closed, p):
    said = judge(Evidence("cue", 2, strength, 100, gap(value, half), None, erasure(closed), p))
    if said.status == "relies":
        assert strength >= 0.02
        assert value - half > 0.05
        assert half <= 0.1
        assert p < 0.05


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_never_lowers_a_p_value_and_keeps_their_order(p):
    adjusted = holm(p)
    assert all(a >= b - 1e-12 for a, b in zip(adjusted, p, strict=True))
    assert all(
        x <= y
        for _, x, _, y in (
            (p[i], adjusted[i], p[j], adjusted[j]) for i in range(len(p)) for j in range(len(p)) if p[i] < p[j]
        )
    )


def finding(status):
    return Finding(id="x", cue="c", kind="reliance", status=status, meaning="")


def test_inferred_cues_never_decide_the_verdict():
    assert overall_verdict([finding("inferred")]) == "no shortcut found"
    assert overall_verdict([finding("inferred"), finding("not identifiable")]) == "inconclusive"
    assert overall_verdict([finding("inconclusive"), finding("relies")]) == "shortcut"
