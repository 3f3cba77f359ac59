import dataclasses
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from firstcue.spurious.intervals import contrast_interval, minimum_interval
from firstcue.spurious.metrics import group_metrics, paired_difference, wilson

WATERBIRDS = (3498, 184, 56, 1057)  # training rows by group


def rows_of(right, sizes):
    """Labels, predictions and group ids with `right[g]` of `sizes[g]` rows of group g predicted right."""
    group = np.repeat(np.arange(len(sizes)), sizes)
    place = np.concatenate([np.arange(n) for n in sizes])
    y = group % 2
    return y, np.where(place < np.array(right)[group], y, 1 - y), group


@given(st.integers(1, 500), st.data())
def test_wilson_is_scipys(n, data):
    k = data.draw(st.integers(0, n))
    peer = binomtest(k, n).proportion_ci(method="wilson")
    assert wilson(k, n) == pytest.approx((max(peer.low, 0), min(peer.high, 1)), abs=1e-9)


def test_wilson_without_rows_says_nothing():
    assert wilson(0, 0) == (0, 1)


def test_more_successes_than_trials_are_refused():
    with pytest.raises(ValueError, match=r"`successes` is 3 of n = 2"):
        wilson(3, 2)


def test_waterbirds_average_is_weighted_as_in_training():
    right, sizes = (95, 80, 40, 90), (100, 100, 50, 100)
    metrics = group_metrics(*rows_of(right, sizes), train_counts=WATERBIRDS)
    by_hand = (3498 * 0.95 + 184 * 0.8 + 56 * 0.8 + 1057 * 0.9) / (3498 + 184 + 56 + 1057)
    assert metrics.train_weighted == pytest.approx(by_hand)
    assert metrics.group_average == pytest.approx((0.95 + 0.8 + 0.8 + 0.9) / 4)
    assert metrics.overall.accuracy == pytest.approx(305 / 350)


def test_the_three_averages_agree_for_equal_groups():
    metrics = group_metrics(*rows_of((30, 20, 40), (40, 40, 40)), train_counts=[7, 7, 7])
    assert metrics.group_average == pytest.approx(metrics.overall.accuracy)
    assert metrics.train_weighted == pytest.approx(metrics.overall.accuracy)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 40), st.integers(1, 40)), min_size=1, max_size=6))
def test_no_average_is_below_the_worst_group(cells):
    right, sizes = [min(k, n) for k, n in cells], [n for _, n in cells]
    metrics = group_metrics(*rows_of(right, sizes), min_count=1)
    worst = min(k / n for k, n in zip(right, sizes, strict=True))
    assert metrics.worst_group.accuracy == pytest.approx(worst)
    assert metrics.worst_group.accuracy <= metrics.group_average + 1e-12
    assert metrics.worst_group.accuracy <= metrics.overall.accuracy + 1e-12
    for low, high in metrics.intervals.values():
        assert 0 <= low <= high <= 1
    low, high = metrics.intervals["worst_group"]
    assert low - 1e-12 <= worst <= high + 1e-12


@settings(max_examples=30, deadline=None)
@given(st.permutations(range(4)), st.randoms(use_true_random=False))
def test_order_of_rows_and_names_of_groups_do_not_matter(names, random):
    y, guess, group = rows_of((30, 12, 9, 50), (40, 20, 15, 60))
    order = list(range(len(y)))
    random.shuffle(order)
    plain = group_metrics(y, guess, group)
    renamed = group_metrics(y[order], guess[order], np.array(names)[group][order])
    assert renamed.worst_group.accuracy == plain.worst_group.accuracy
    assert renamed.intervals["worst_group"] == pytest.approx(plain.intervals["worst_group"])
    assert renamed.group_average == pytest.approx(plain.group_average)


@pytest.mark.parametrize(
    "ids",
    [
        ["land", "sea"],
        [False, True],
        [3.0, 7.0],
        [-5, 12],
        np.array(["land", None], dtype=object),
        torch.tensor([3, 7]),
        torch.tensor([0.0, 1.0], dtype=torch.float16),
    ],
    ids=str,
)
def test_groups_may_have_ids_of_any_kind(ids):
    y, guess, group = rows_of((18, 12), (20, 20))
    given_ids = ids[torch.as_tensor(group)] if isinstance(ids, torch.Tensor) else np.array(ids)[group]
    metrics = group_metrics(y, guess, given_ids)
    assert [row.n for row in metrics.by_group] == [20, 20]
    assert metrics.worst_group.accuracy == 0.6
    assert metrics.worst_group.group == (ids[1].item() if isinstance(ids, torch.Tensor) else ids[1])


def test_labels_may_be_strings_tensors_or_halves():
    words = group_metrics(["cat", "dog"] * 10, ["cat", "cat"] * 10, ["a", "b"] * 10)
    numbers = group_metrics(torch.tensor([0.0, 1.0]).half().repeat(10), torch.tensor([0, 0]).repeat(10), [0, 1] * 10)
    assert words.overall == numbers.overall
    assert words.worst_group.group == "b"


def test_a_small_group_is_named_but_never_the_worst():
    metrics = group_metrics(*rows_of((20, 0, 15), (25, 9, 20)))
    assert metrics.too_small == (1,)
    assert metrics.worst_group.group == 2
    assert metrics.by_group[1].accuracy == 0


def test_without_a_group_large_enough_there_is_no_worst_group():
    metrics = group_metrics(*rows_of((3, 0), (4, 2)))
    assert metrics.worst_group is None
    assert "worst_group" not in metrics.intervals


def test_a_training_group_without_rows_leaves_its_average_unmeasured():
    metrics = group_metrics(*rows_of((18, 12), (20, 20)), train_counts={0: 100, 1: 100, 2: 5})
    assert metrics.train_weighted is None
    assert metrics.too_small == (2,)


def test_training_counts_may_be_a_mapping_from_names():
    metrics = group_metrics([0, 1] * 20, [0, 0] * 20, ["sea", "land"] * 20, train_counts={"sea": 3, "land": 1})
    assert metrics.train_weighted == 0.75


@pytest.mark.parametrize(
    ("y", "guess", "group", "counts", "message"),
    [
        ([0, 1], [0], [0, 1], None, r"`y` has 2 rows but `y_hat` has 1"),
        ([0, 1], [[0.1, 0.9], [0.2, 0.8]], [0, 1], None, r"argmax\(1\)"),
        ([0, 1], [0, 1], [0], None, r"`group` has shape \(1,\)"),
        ([], [], [], None, "`y` has no rows"),
        (["cat", "dog"], [0, 1], [0, 1], None, "labels of the same kind"),
        ([0, 1], [0, math.nan], [0, 1], None, "1 NaN"),
        ([0, 1], [0, 1], [0, math.nan], None, "`group` has 1 NaN"),
        ([0, 1], [0, 1], ["a", "b"], [1, 2], "a mapping from id to count"),
        ([0, 1], [0, 1], ["a", "b"], {"a": 1}, r"no entry for groups \['b'\]"),
        ([0, 1], [0, 1], [0, 1], [0, 0], "sums to 0"),
    ],
)
def test_mistakes_are_named_with_the_way_out(y, guess, group, counts, message):
    with pytest.raises(ValueError, match=message):
        group_metrics(y, guess, group, train_counts=counts)


def test_small_groups_get_no_bootstrap():
    assert "worst_group/bootstrap" in group_metrics(*rows_of((40, 45), (50, 50))).intervals
    assert "worst_group/bootstrap" not in group_metrics(*rows_of((40, 45), (49, 50))).intervals


def test_the_interval_of_the_minimum_reaches_above_that_of_its_group():
    """Among many equal groups the worst is worst by chance, so its own interval lies too low."""
    metrics = group_metrics(*rows_of([54] * 9 + [48], [60] * 10))
    assert metrics.worst_group.ci_high > metrics.by_group[9].ci_high
    assert metrics.worst_group.ci_low <= metrics.by_group[9].ci_low


def test_the_same_rows_give_the_same_metrics():
    y, guess, group = rows_of((40, 45), (60, 60))
    assert group_metrics(y, guess, group) == group_metrics(y, guess, group)
    with pytest.raises(dataclasses.FrozenInstanceError):
        group_metrics(y, guess, group).group_average = 1.0


def test_pairing_keeps_what_two_predictors_share():
    """Two predictors that fail on nearly the same rows differ by little, though each is uncertain."""
    rng = np.random.default_rng(0)
    group = np.repeat([0, 1], 200)
    before = rng.random(400) < 0.7
    after = before.copy()
    after[np.flatnonzero(~before)[:20]] = True
    paired = paired_difference(before, after, group)
    shuffled = paired_difference(
        before, np.concatenate([rng.permutation(after[:200]), rng.permutation(after[200:])]), group
    )
    assert paired.ci_high - paired.ci_low < 0.75 * (shuffled.ci_high - shuffled.ci_low)
    assert paired.ci_low > -0.03


def test_swapping_the_predictors_flips_the_sign():
    rng = np.random.default_rng(1)
    before, after, group = rng.random(300) < 0.6, rng.random(300) < 0.8, np.repeat([0, 1, 2], 100)
    there, back = paired_difference(before, after, group), paired_difference(after, before, group)
    assert there.value == pytest.approx(-back.value)
    assert there.ci_low == pytest.approx(-back.ci_high, abs=0.02)
    assert there == paired_difference(before, after, group)


def test_predictors_that_never_differ_get_an_interval_of_some_width():
    same = paired_difference([True] * 30, [True] * 30, [0] * 30)
    assert same.value == 0
    assert same.ci_low < -0.01 < 0.01 < same.ci_high


def test_paired_difference_names_what_is_wrong():
    with pytest.raises(ValueError, match="the same rows"):
        paired_difference([True], [True, False], [0])
    with pytest.raises(ValueError, match="no group has 10 rows"):
        paired_difference([True] * 5, [False] * 5, [0] * 5)
    with pytest.raises(ValueError, match="bools are needed"):
        paired_difference([0.5] * 20, [1.0] * 20, [0] * 20)


CELLS = [
    ((0.9, 0.9, 0.9, 0.9), (50, 50, 50, 50)),
    ((0.99, 0.55, 0.31, 0.99), (250, 250, 250, 250)),
    ((0.99, 0.97, 0.99, 0.98), (200, 20, 20, 200)),
    ((0.9, 0.6, 0.9, 0.9), (200, 20, 20, 200)),
    ((0.9,) * 10, (60,) * 10),
]


@pytest.mark.parametrize(("accuracy", "sizes"), CELLS)
def test_the_worst_groups_interval_covers_the_truth(accuracy, sizes):
    rng = np.random.default_rng(0)
    rows = np.array(sizes)
    ends = [minimum_interval(rng.binomial(rows, accuracy), rows) for _ in range(600)]
    assert np.mean([low <= min(accuracy) <= high for low, high in ends]) >= 0.92


@pytest.mark.parametrize(("accuracy", "sizes"), [*CELLS[:4], ((0.99, 0.55, 0.31, 0.99), (50, 10, 10, 50))])
def test_the_interval_of_a_contrast_covers_the_truth(accuracy, sizes):
    rng = np.random.default_rng(0)
    rows, weight = np.array(sizes), np.array([0.5, -0.5, -0.5, 0.5])
    ends = [contrast_interval(weight, rng.binomial(rows, accuracy), rows) for _ in range(2000)]
    truth = float(weight @ np.array(accuracy))
    assert np.mean([low <= truth <= high for low, high, _ in ends]) >= 0.94


@pytest.mark.science
@pytest.mark.parametrize(
    ("before", "after"), [((0.95, 0.35), (0.9, 0.85)), ((0.9, 0.9), (0.9, 0.9)), ((0.9, 0.6), (0.8, 0.7))]
)
@pytest.mark.parametrize("size", [25, 150])
def test_the_paired_interval_covers_the_truth(before, after, size):
    rng = np.random.default_rng(0)
    group = np.repeat([0, 1], size)
    truth, hits = min(after) - min(before), 0
    for seed in range(500):
        shared = rng.random(2 * size)  # the same difficulty for both predictors
        a, b = shared < np.array(before)[group], shared < np.array(after)[group]
        found = paired_difference(a, b, group, seed=seed, draws=500)
        hits += found.ci_low <= truth <= found.ci_high
    assert hits / 500 >= 0.9
