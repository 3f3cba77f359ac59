"""Verdicts on claims follow the interval over seeds, and nothing else."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from firstcue.experiments import find, judged, names, paired, t_interval
from firstcue.experiments.catalogue import trials_of

VALUES = st.lists(st.floats(-100, 100), min_size=2, max_size=8)


@given(VALUES)
def test_the_interval_is_that_of_the_t_test(values):
    value, low, high = t_interval(values)
    if np.std(values) > 1e-9:
        expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
        np.testing.assert_allclose([low, high], expected, rtol=1e-9, atol=1e-9)
    assert low <= value <= high


@given(VALUES)
def test_a_claim_and_its_opposite_never_both_hold(values):
    verdicts = {judged("c", values, published="", unit="", wants=sign).verdict for sign in ("positive", "negative")}
    assert verdicts in ({"inconclusive"}, {"holds", "does not hold"})


@pytest.mark.parametrize("values", [[], [1.0], [1.0, math.nan, 2.0]])
def test_too_little_is_inconclusive(values):
    claim = judged("c", values, published="", unit="bits")
    assert claim.verdict == "inconclusive"
    assert claim.ci_low is None


def test_pairs_are_matched_by_seed_and_incomplete_ones_left_out():
    rows = [
        {"seed": 0, "rule": "a", "v": 3.0},
        {"seed": 0, "rule": "b", "v": 1.0},
        {"seed": 1, "rule": "a", "v": 9.0},
        {"seed": 2, "rule": "b", "v": 9.0},
    ]
    assert paired(rows, "rule", "v", "a", "b") == [2.0]


def test_pairs_that_are_not_unique_are_refused():
    rows = [{"seed": 0, "net": net, "rule": "a", "v": 3.0} for net in ("x", "y")]
    with pytest.raises(ValueError, match="name more in `by`"):
        paired(rows, "rule", "v", "a", "b")


def test_an_unknown_experiment_names_what_comes_near():
    with pytest.raises(ValueError, match="reproduce list"):
        find("erasing/nothing")


@pytest.mark.parametrize("name", names())
def test_every_experiment_states_its_scales_and_plans_its_trials(name):
    (experiment,) = find(name)
    assert {"tiny", "small"} <= set(experiment.scales)
    assert experiment.seeds >= 3
    for scale in ("tiny", "small"):
        plan = trials_of(experiment, scale, 2)
        assert {trial.seed for trial in plan} == {0, 1} or len({trial.seed for trial in plan}) == 2
        assert len(set(plan)) == len(plan)
