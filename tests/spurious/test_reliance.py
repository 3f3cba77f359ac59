import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from firstcue.spurious.association import association, recentred
from firstcue.spurious.reliance import accuracy_gap, edit_reliance, rows_needed

ALIGNED = np.array([[0.4, -0.4], [-0.4, 0.4]])


def rows_from(counts):
    """Label and value ids with `counts[y][a]` rows per cell."""
    counts = np.asarray(counts)
    y, a = np.indices(counts.shape)
    return np.repeat(y.ravel(), counts.ravel()), np.repeat(a.ravel(), counts.ravel())


def cells(accuracy, n):
    """Labels, values and outcomes with `accuracy[y][a]` (times n a whole number) in cells of `n` rows each."""
    accuracy = np.asarray(accuracy)
    counts = np.broadcast_to(np.asarray(n), accuracy.shape)
    y, a = rows_from(counts)
    right = np.concatenate([np.arange(c) < round(p * c) for p, c in zip(accuracy.ravel(), counts.ravel(), strict=True)])
    return right, y, a


def random_contrast(seed, shape):
    rng = np.random.default_rng(seed)
    y, a = rows_from(rng.integers(1, 30, shape))
    return association(y, a).r.numpy()


# association ------------------------------------------------------------------


def test_association_of_two_by_two_by_hand():
    found = association(*rows_from([[90, 10], [20, 80]]))
    assert np.allclose(found.r, [[0.35, -0.35], [-0.35, 0.35]])
    assert found.strength == pytest.approx(0.35)
    assert found.counts.tolist() == [[90, 10], [20, 80]]
    assert found.associated


def test_association_of_three_by_three_by_hand():
    found = association(*rows_from([[8, 1, 1], [1, 8, 1], [0, 5, 5]]))
    assert np.allclose(found.r, [[0.5, -11 / 30, -2 / 15], [-0.2, 1 / 3, -2 / 15], [-0.3, 1 / 30, 4 / 15]])
    assert found.strength == pytest.approx((1.0 + 2 / 3 + 0.6) / 6)


def test_class_sizes_and_common_values_do_not_count():
    few, many = association(*rows_from([[9, 1], [2, 8]])), association(*rows_from([[900, 100], [2, 8]]))
    assert torch.allclose(few.r, many.r)
    assert association(*rows_from([[90, 10], [9, 1]])).strength == pytest.approx(0, abs=1e-12)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 4), st.integers(2, 5))
def test_rows_and_columns_of_r_sum_to_zero(seed, num_classes, num_values):
    r = random_contrast(seed, (num_classes, num_values))
    assert np.allclose(r.sum(axis=0), 0)
    assert np.allclose(r.sum(axis=1), 0)


def test_an_absent_class_is_not_averaged_over():
    y, a = rows_from([[8, 2], [0, 0], [3, 7]])
    found = association(y, a, num_classes=4)
    assert found.r.shape == (4, 2)
    assert np.allclose(found.r[[0, 2]], [[0.25, -0.25], [-0.25, 0.25]])
    assert np.allclose(found.r[[1, 3]], 0)
    assert found.strength == pytest.approx(0.25)


def test_mutual_information_of_equal_bits_is_one_bit():
    found = association(*rows_from([[5000, 0], [0, 5000]]))
    assert found.mutual_information == pytest.approx(1, abs=1e-3)
    assert found.information_low <= 1 <= found.information_high + 1e-3


def test_the_interval_of_mutual_information_covers_the_truth():
    rng = np.random.default_rng(0)
    for p in (np.full((2, 2), 0.25), np.array([[0.35, 0.15], [0.15, 0.35]]), np.full((2, 10), 0.05)):
        truth = (p * np.log2(p / p.sum(1, keepdims=True) / p.sum(0, keepdims=True))).sum()
        drawn = rng.multinomial(400, p.ravel(), size=400).reshape(400, *p.shape)
        found = [association(*rows_from(counts), *p.shape) for counts in drawn]
        hits = np.mean([f.information_low - 1e-12 <= truth <= f.information_high for f in found])
        assert hits >= 0.92, p


@pytest.mark.parametrize(
    ("y", "a", "message"),
    [
        ([], [], "`y` has no rows"),
        ([0, 1], [0], "`y` has 2 rows but `attribute` has 1"),
        ([0.5, 1], [0, 1], "integer ids"),
        (["cat", "dog"], [0, 1], "Batch.of"),
        ([0, -1], [0, 1], "ids from 0"),
    ],
)
def test_association_names_what_is_wrong(y, a, message):
    with pytest.raises(ValueError, match=message):
        association(y, a)


def test_ids_beyond_the_number_of_classes_are_refused():
    with pytest.raises(ValueError, match=r"`y` has ids 0 .. 2; 0 .. 1"):
        association([0, 2], [0, 1], num_classes=2)


# gap --------------------------------------------------------------------------


def test_with_two_values_the_gap_is_aligned_minus_conflicting():
    gap = accuracy_gap(ALIGNED, *cells([[0.99, 0.55], [0.31, 0.99]], 100))
    assert gap.value == pytest.approx((0.99 + 0.99) / 2 - (0.55 + 0.31) / 2)
    assert gap.ci_low < gap.value < gap.ci_high
    assert (gap.conflicting.accuracy, gap.conflicting.n) == (pytest.approx(0.43), 200)
    assert gap.aligned.accuracy == pytest.approx(0.99)
    assert gap.n == 400 and gap.kept == pytest.approx(1) and not gap.dropped and not gap.undroppable


def test_unequal_cells_count_equally():
    equal = accuracy_gap(ALIGNED, *cells([[0.9, 0.5], [0.3, 0.9]], 100))
    unequal = accuracy_gap(ALIGNED, *cells([[0.9, 0.5], [0.3, 0.9]], [[1000, 10], [50, 200]]))
    assert unequal.value == pytest.approx(equal.value)
    assert unequal.half_width > equal.half_width


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 4), st.integers(2, 5))
def test_additive_difficulty_of_classes_and_values_leaves_no_gap(seed, num_classes, num_values):
    """Also when cells are dropped and r is re-centred."""
    rng = np.random.default_rng(seed)
    accuracy = (rng.integers(0, 10, (num_classes, 1)) + rng.integers(0, 11, (1, num_values))) / 20
    counts = np.where(rng.random(accuracy.shape) < 0.15, 0, 20)
    gap = accuracy_gap(random_contrast(seed, accuracy.shape), *cells(accuracy, counts))
    assert gap.undroppable or gap.value == pytest.approx(0, abs=1e-9)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.permutations(range(3)), st.permutations(range(4)))
def test_names_of_classes_and_values_do_not_matter(seed, classes, values):
    rng = np.random.default_rng(seed)
    y, a, correct = rng.integers(0, 3, 400), rng.integers(0, 4, 400), rng.random(400) < 0.7
    train_y, train_a = rng.integers(0, 3, 200), rng.integers(0, 4, 200)
    classes, values = np.array(classes), np.array(values)
    plain = accuracy_gap(association(train_y, train_a, 3, 4), correct, y, a)
    renamed = accuracy_gap(association(classes[train_y], values[train_a], 3, 4), correct, classes[y], values[a])
    assert (renamed.value, renamed.ci_low, renamed.ci_high) == pytest.approx((plain.value, plain.ci_low, plain.ci_high))
    by_value = rng.random((400, 4)) < 0.6
    before = edit_reliance(association(train_y, train_a, 3, 4), by_value, y, draws=50)
    moved = np.empty_like(by_value)
    moved[:, values] = by_value
    after = edit_reliance(association(classes[train_y], values[train_a], 3, 4), moved, classes[y], draws=50)
    assert after.value == pytest.approx(before.value)


def by_argmax(p, accuracy):
    """The naive gap: cells whose value is the commonest of their class, minus the others."""
    aligned = p == p.max(axis=1, keepdims=True)
    return accuracy[aligned].mean() - accuracy[~aligned].mean()


def test_ten_values_hide_a_shortcut_from_argmax_but_not_from_r():
    p = np.repeat([[0.9, 0.1], [0.1, 0.9]], 5, axis=1) / 5
    p += np.array([0.02, -0.02, 0, 0, 0, 0.02, -0.02, 0, 0, 0])
    accuracy = np.where(p > 0.1, 0.95, 0.65)  # the model follows which half the value is from
    r = p - p.mean(axis=0)
    gap = accuracy_gap(r, *cells(accuracy, 100))
    assert gap.value == pytest.approx(0.3)
    assert by_argmax(p, accuracy) < 0.2


def test_a_value_commonest_in_both_classes_does_not_hide_the_shortcut():
    p = np.array([[0.6, 0.3, 0.1], [0.6, 0.1, 0.3]])
    accuracy = np.array([[0.9, 0.95, 0.55], [0.9, 0.55, 0.95]])
    gap = accuracy_gap(p - p.mean(axis=0), *cells(accuracy, 100))
    assert gap.value == pytest.approx(0.4)
    assert by_argmax(p, accuracy) < 0.16


def test_a_small_cell_of_two_by_two_cannot_be_dropped():
    gap = accuracy_gap(ALIGNED, *cells([[0.9, 1.0], [0.5, 0.9]], [[50, 9], [50, 50]]))
    assert gap.dropped == ((0, 1),) and gap.undroppable
    assert np.isnan(gap.value) and (gap.ci_low, gap.ci_high, gap.half_width) == (-1, 1, 1)


def test_a_small_cell_of_ten_values_is_dropped_with_its_column():
    p = np.repeat([[0.9, 0.1], [0.1, 0.9]], 5, axis=1) / 5
    accuracy = np.where(p > 0.1, 0.9, 0.6)
    accuracy[0, 9] = 0.0
    counts = np.full((2, 10), 20)
    counts[0, 9] = 5
    gap = accuracy_gap(p - p.mean(axis=0), *cells(accuracy, counts))
    assert gap.dropped == ((0, 9),) and not gap.undroppable
    assert gap.weight[:, 9].tolist() == [0, 0]
    assert gap.value == pytest.approx(0.3)
    assert 0.8 < gap.kept < 1


def test_no_association_leaves_nothing_to_measure():
    assert accuracy_gap(np.zeros((2, 2)), *cells([[0.9, 0.5], [0.5, 0.9]], 50)).undroppable


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 5), st.integers(2, 5))
def test_recentring_gives_the_nearest_contrast(seed, rows, columns):
    rng = np.random.default_rng(seed)
    r, support = rng.normal(size=(rows, columns)), rng.random((rows, columns)) < 0.8
    nearest = recentred(r, support)
    assert np.allclose(nearest.sum(axis=0), 0) and np.allclose(nearest.sum(axis=1), 0)
    assert (nearest[~support] == 0).all()
    assert np.allclose(recentred(nearest, support), nearest)
    other = recentred(rng.normal(size=r.shape), support)  # any other contrast on these cells is farther away
    assert ((r - nearest)[support] ** 2).sum() <= ((r - other)[support] ** 2).sum() + 1e-9


def test_rows_needed_by_hand():
    """502 rows in each of four cells at accuracy .80, 2,007 in all; fewer at .95."""
    for accuracy, total in ((0.80, 2007), (0.87, 1419), (0.95, 596)):
        gap = accuracy_gap(ALIGNED, *cells(np.full((2, 2), accuracy), 100_000))
        assert 4 * rows_needed(gap) == pytest.approx(total, abs=4)


def test_rows_needed_speaks_even_when_a_cell_is_empty():
    gap = accuracy_gap(ALIGNED, *cells(np.full((2, 2), 0.8), [[0, 1000], [1000, 1000]]))
    assert gap.undroppable and 480 < rows_needed(gap) < 520


def test_that_many_rows_tell_the_effect():
    wanted = rows_needed(accuracy_gap(ALIGNED, *cells(np.full((2, 2), 0.8), 50)))
    gap = accuracy_gap(ALIGNED, *cells(np.full((2, 2), 0.8), 5 * (wanted // 5)))
    assert gap.half_width < 1.96 * 0.05 / 2.8 * 1.05


def test_tensors_and_arrays_give_the_same_gap():
    correct, y, a = cells([[0.9, 0.5], [0.3, 0.9]], 20)
    arrays = accuracy_gap(ALIGNED, correct, y, a)
    tensors = accuracy_gap(torch.from_numpy(ALIGNED).float(), *map(torch.from_numpy, (correct, y, a)))
    assert arrays.value == pytest.approx(tensors.value)
    assert arrays.accuracy.dtype == torch.float64


@pytest.mark.parametrize(
    ("r", "correct", "y", "a", "message"),
    [
        ([[1.0, 0.0], [0.0, 1.0]], [True], [0], [0], "have to sum to 0"),
        ([0.5, -0.5], [True], [0], [0], r"a finite \(K, A\) table"),
        (ALIGNED, [True, False], [0], [0], "`y` has 1 rows but `correct` has 2"),
        (ALIGNED, [True], [2], [0], r"`y` has ids 2 .. 2; 0 .. 1"),
        (ALIGNED, [0.3], [0], [0], "bools with 1 axes"),
    ],
)
def test_gap_names_what_is_wrong(r, correct, y, a, message):
    with pytest.raises(ValueError, match=message):
        accuracy_gap(np.array(r), correct, y, a)


# reliance ---------------------------------------------------------------------


def slow_reliance(r, right, y):
    """The formula, cell by cell."""
    classes, values = r.shape
    total = 0.0
    for k in range(classes):
        total += sum(r[k, v] * right[y == k, v].mean() for v in range(values))
    return (total / classes) / (np.abs(r).sum() / 2 / classes)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 4), st.integers(2, 10))
def test_reliance_is_its_formula(seed, num_classes, num_values):
    rng = np.random.default_rng(seed)
    r = random_contrast(seed, (num_classes, num_values))
    y = np.concatenate([np.arange(num_classes), rng.integers(0, num_classes, 60)])
    right = rng.random((len(y), num_values)) < rng.random((num_classes, num_values))[y]
    assert edit_reliance(r, right, y, draws=20).value == pytest.approx(slow_reliance(r, right, y))


def test_reliance_of_two_by_two_by_hand():
    """Nine rows right whatever the cue; one of class 0 right only with its own cue; class 1 never flips."""
    right = np.ones((20, 2), dtype=bool)
    right[0] = [True, False]
    assert edit_reliance(ALIGNED, right, np.repeat([0, 1], 10)).value == pytest.approx(0.05)


@pytest.mark.parametrize(
    "r", [ALIGNED, random_contrast(1, (3, 3)), random_contrast(2, (2, 10))], ids=["2x2", "3x3", "2x10"]
)
def test_a_model_of_the_cue_alone_relies_fully_and_one_of_the_core_not_at_all(r):
    y = np.repeat(np.arange(len(r)), 100)
    follows = (r > 0)[y]  # right exactly where the cue goes with the label
    assert edit_reliance(r, follows, y).value == pytest.approx(1)
    core = np.repeat(np.random.default_rng(0).random(len(y))[:, None] < 0.8, r.shape[1], axis=1)
    found = edit_reliance(r, core, y)
    assert found.value == pytest.approx(0, abs=1e-12)
    assert -0.05 < found.ci_low < 0 < found.ci_high < 0.05


def test_harder_conflicting_rows_make_a_gap_but_no_reliance():
    rng = np.random.default_rng(0)
    y, a = rng.integers(0, 2, 2000), rng.integers(0, 2, 2000)
    right = rng.random(2000) < np.where(y == a, 0.95, 0.8)  # whatever the cue is set to
    assert accuracy_gap(ALIGNED, right, y, a).ci_low > 0.05
    assert edit_reliance(ALIGNED, np.stack([right, right], axis=1), y).value == pytest.approx(0, abs=1e-12)


def test_the_interval_is_that_of_a_plain_bootstrap_when_rows_are_many():
    rng = np.random.default_rng(0)
    y = np.repeat([0, 1], [300, 500])
    right = rng.random((800, 2)) < np.where(np.eye(2)[y] > 0, 0.9, 0.6)
    found = edit_reliance(ALIGNED, right, y, draws=4000)
    drawn = []
    for _ in range(1000):
        rows = np.concatenate([rng.choice(np.flatnonzero(y == k), (y == k).sum()) for k in (0, 1)])
        drawn.append(slow_reliance(ALIGNED, right[rows], y[rows]))
    assert (found.ci_low, found.ci_high) == pytest.approx(np.quantile(drawn, [0.025, 0.975]), abs=0.012)


def test_rows_of_one_source_count_once():
    rng = np.random.default_rng(0)
    y = np.repeat([0, 1], 50)
    right = rng.random((100, 2)) < np.where(np.eye(2)[y] > 0, 0.9, 0.6)
    once = edit_reliance(ALIGNED, right, y)
    copies = np.repeat(np.arange(100), 8)
    naive = edit_reliance(ALIGNED, right[copies], y[copies])
    honest = edit_reliance(ALIGNED, right[copies], y[copies], clusters=copies)
    assert honest.value == pytest.approx(once.value)
    assert honest.ci_high - honest.ci_low == pytest.approx(once.ci_high - once.ci_low, rel=0.1)
    assert naive.ci_high - naive.ci_low < 0.5 * (honest.ci_high - honest.ci_low)


def test_few_rows_without_a_flip_do_not_claim_certainty():
    still = edit_reliance(ALIGNED, np.ones((20, 2), dtype=bool), np.repeat([0, 1], 10))
    assert still.value == pytest.approx(0, abs=1e-12)
    assert still.ci_low < -0.05 and still.ci_high > 0.05


def test_a_class_without_rows_is_left_out():
    r = random_contrast(3, (3, 3))
    y = np.repeat([0, 2], 40)
    left = recentred(r, np.array([[True] * 3, [False] * 3, [True] * 3]))
    found = edit_reliance(r, (left > 0)[y], y)
    assert found.value == pytest.approx(1) and found.n == 80


def test_a_harder_value_is_not_reliance():
    """Value 1 costs every class the same accuracy: nothing moves towards the label it goes with."""
    y = np.repeat([0, 1], 100)
    right = np.stack([np.ones(200, dtype=bool), np.tile([True, False], 100)], axis=1)
    assert edit_reliance(ALIGNED, right, y).value == pytest.approx(0, abs=1e-12)


def test_one_seed_gives_one_interval_and_leaves_the_global_state():
    rng = np.random.default_rng(0)
    right, y = rng.random((60, 2)) < 0.7, np.repeat([0, 1], 30)
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    assert edit_reliance(ALIGNED, right, y, seed=3) == edit_reliance(ALIGNED, right, y, seed=3)
    assert (np.random.get_state()[1] == state).all()  # noqa: NPY002


@pytest.mark.parametrize(
    ("right", "y", "message"),
    [
        (np.ones((4, 3), dtype=bool), [0, 0, 1, 1], "3 columns but r has 2 values"),
        (np.ones((4, 2), dtype=bool), [0, 0, 1], "`y` has 3 rows but `correct_by_value` has 4"),
        (np.ones((4, 2), dtype=bool), [0, 0, 0, 0], r"at least two classes.*with rows: \[0\]"),
        (np.ones(4, dtype=bool), [0, 0, 1, 1], "bools with 2 axes"),
    ],
)
def test_reliance_names_what_is_wrong(right, y, message):
    with pytest.raises(ValueError, match=message):
        edit_reliance(ALIGNED, right, y)


def test_clusters_of_another_length_are_refused():
    with pytest.raises(ValueError, match="one source id per row"):
        edit_reliance(ALIGNED, np.ones((4, 2), dtype=bool), [0, 0, 1, 1], clusters=[0, 1])


def outcome_pairs(rng, flip, n):
    """Rows right whatever the cue, except that a share `flip` follows it."""
    y = np.repeat([0, 1], n)
    follows = rng.random(2 * n) < flip
    return np.where(follows[:, None], np.eye(2, dtype=bool)[y], rng.random((2 * n, 1)) < 0.9), y


@pytest.mark.science
@pytest.mark.parametrize("n", [20, 60, 150])
@pytest.mark.parametrize("flip", [0.0, 0.03, 0.1, 0.5])
def test_the_interval_of_reliance_covers_the_truth(flip, n):
    rng = np.random.default_rng(0)
    found = [edit_reliance(ALIGNED, *outcome_pairs(rng, flip, n), seed=i, draws=400) for i in range(400)]
    assert np.mean([f.ci_low <= flip <= f.ci_high for f in found]) >= 0.92


@pytest.mark.science
@pytest.mark.parametrize("sizes", [[[50, 10], [10, 50]], [[250, 250], [250, 250]], [[100, 15], [30, 100]]])
@pytest.mark.parametrize(
    "accuracy", [[[0.99, 0.55], [0.31, 0.99]], [[0.9, 0.9], [0.9, 0.9]], [[0.99, 0.98], [0.97, 0.99]]]
)
def test_the_interval_of_the_gap_covers_the_truth(sizes, accuracy):
    rng = np.random.default_rng(0)
    y, a = rows_from(sizes)
    truth = (np.array(accuracy) * ALIGNED).sum() / 0.8
    found = [accuracy_gap(ALIGNED, rng.random(len(y)) < np.array(accuracy)[y, a], y, a) for _ in range(1500)]
    assert np.mean([f.ci_low <= truth <= f.ci_high for f in found]) >= 0.935
