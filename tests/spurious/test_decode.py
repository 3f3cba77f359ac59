from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from firstcue.batch import Batch
from firstcue.spurious.curves import convergence_time, forgetting_index, reliance_index
from firstcue.spurious.decode import decode
from firstcue.spurious.readout import discriminant


def features_of(y, a, *, core=2.0, cue=2.0, d=8, seed=0):
    """Noise of unit spread with the class on the first axis and the attribute on the second."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(len(y), d, generator=generator)
    x[:, 0] += core * y
    x[:, 1] += cue * a
    return x


def rows(counts, seed=0):
    """A shuffled batch with `counts[y][a]` rows per group."""
    counts = torch.tensor(counts)
    y, a = torch.meshgrid(torch.arange(len(counts)), torch.arange(counts.shape[1]), indexing="ij")
    y, a = y.flatten().repeat_interleave(counts.flatten()), a.flatten().repeat_interleave(counts.flatten())
    # another stream than the features': rows ordered by the very draws of the noise would be readable from it
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(seed + 1000))
    return y[order], a[order]


BALANCED = [[100, 100], [100, 100]]


def test_what_is_planted_is_read_and_what_is_not_is_not():
    y, a = rows(BALANCED)
    found = decode(features_of(y, a, core=6.0, cue=0.0), Batch.of(torch.zeros(400, 1), y, a))
    assert found.core > 0.99 and found.core_p == 0.001
    assert found.core_correlation == pytest.approx(2 * found.core - 1)
    assert abs(found.spurious - 0.5) < 0.1 and found.spurious_p > 0.01
    assert found.spurious_ci[0] < 0.5 < found.spurious_ci[1]
    assert abs(found.core_baseline - 0.5) < 0.1 and found.baseline_kind == "shuffled labels"
    assert found.n == 400 and found.folds == 5


def test_a_cue_that_goes_with_the_label_is_not_read_by_way_of_the_label():
    """Features of the class alone, at strength .95: the plain accuracy of reading the cue would be .95."""
    y, a = rows([[475, 25], [25, 475]])
    found = decode(features_of(y, a, core=6.0, cue=0.0), Batch.of(torch.zeros(1000, 1), y, a))
    assert abs(found.spurious - 0.5) < 0.12
    assert found.spurious_ci[0] < 0.5 < found.spurious_ci[1]


@pytest.mark.parametrize("method", ["ridge", "logistic"])
def test_both_methods_find_three_classes_and_four_values(method):
    y, a = rows([[40, 30, 30, 20], [30, 30, 50, 30], [30, 60, 30, 30]])
    x = torch.cat(
        [torch.eye(3)[y] * 8, torch.eye(4)[a] * 8, torch.randn(len(y), 3, generator=torch.Generator().manual_seed(0))],
        1,
    )
    found = decode(x, Batch.of(x, y, a), method=method)
    assert found.core > 0.999 and found.spurious > 0.999
    assert found.core_correlation is None and found.num_values == 4


def test_ridge_is_least_squares_to_plus_and_minus_one():
    y, a = rows([[60, 20], [30, 70]])
    x = features_of(y, a).double()
    x = (x - x.mean(0)) / x.std(0, correction=0)
    w = torch.where(y == 0, 0.5 / (y == 0).sum(), 0.5 / (y == 1).sum()).double()  # classes weigh the same
    centred = x - (w[:, None] * x).sum(0)
    gram = (centred * w[:, None]).mT @ centred + 0.3 * torch.eye(8, dtype=torch.float64)
    least_squares = torch.linalg.solve(gram, (w[:, None] * centred * (2 * y - 1)[:, None]).sum(0))
    by_hand = (centred @ least_squares > 0).long()
    assert 0 < by_hand.sum() < len(y)
    assert torch.equal(discriminant(x, y, w, 2, 0.3)(x), by_hand)


def test_a_class_between_two_others_is_not_hidden():
    """Regression to one-hot rows never predicts the middle one of three classes on a line."""
    y = torch.arange(300) % 3
    x = features_of(y, torch.zeros(300), core=8.0, cue=0.0, d=2)
    assert decode(x, Batch.of(x, y)).core > 0.98


def test_more_features_than_rows_are_read_through_the_small_gram_matrix():
    y, a = rows([[12, 13], [11, 14]])
    x = features_of(y, a, d=400) + 2.0 * y[:, None] * (torch.arange(400) < 50)
    wide = decode(x, Batch.of(x, y, a), ridge=1.0)
    assert wide.core > 0.9
    weight = torch.full((50,), 0.02, dtype=torch.float64)
    slow = torch.stack([x[y == k].double().mean(0) for k in (0, 1)])
    spread = (x.double() - slow[y]) * weight.sqrt()[:, None]
    axes = slow @ torch.linalg.inv(spread.mT @ spread + torch.eye(400))
    by_hand = (x.double() @ axes.mT - 0.5 * (axes * slow).sum(1)).argmax(1)
    assert torch.equal(discriminant(x.double(), y, weight, 2, 1.0)(x.double()), by_hand)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 1000))
def test_an_invertible_map_of_the_features_changes_nothing(seed):
    y, a = rows([[40, 30], [25, 60]], seed)
    x = features_of(y, a, seed=seed).double()
    mix = torch.linalg.qr(torch.randn(8, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64))[0]
    mixed = x @ (mix * torch.linspace(0.2, 5, 8, dtype=torch.float64)) + 7
    plain, other = decode(x, Batch.of(x, y, a), ridge=0.0), decode(mixed, Batch.of(x, y, a), ridge=0.0)
    assert (plain.core, plain.spurious, plain.core_p) == pytest.approx((other.core, other.spurious, other.core_p))


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 1000), st.sampled_from([torch.float16, torch.float32, torch.float64]))
def test_order_scale_and_shift_of_neurons_change_nothing(seed, dtype):
    y, a = rows([[40, 30], [25, 60]], seed)
    x = (features_of(y, a, seed=seed) * 4).round().to(dtype)  # exact in every type
    moved = x[:, torch.randperm(8, generator=torch.Generator().manual_seed(seed))] * 4 + 64
    plain, other = decode(x, Batch.of(y, y, a), permutations=50), decode(moved, Batch.of(y, y, a), permutations=50)
    assert (plain.core, plain.spurious) == pytest.approx((other.core, other.spurious))


def test_a_large_mean_and_a_constant_feature_do_no_harm():
    y, a = rows(BALANCED)
    x = features_of(y, a).double()
    plain = decode(x, Batch.of(x, y, a))
    moved = decode(torch.cat([x + 1e6, torch.full((400, 1), 3.0)], dim=1), Batch.of(x, y, a))
    assert (moved.core, moved.spurious) == pytest.approx((plain.core, plain.spurious))


def test_the_p_value_of_pure_noise_is_uniform():
    rng = np.random.default_rng(0)
    p = []
    for seed in range(120):
        y, x = torch.from_numpy(rng.integers(0, 3, 90)), torch.from_numpy(rng.normal(size=(90, 4)))
        p.append(decode(x, Batch.of(x, y), seed=seed, permutations=99).core_p)
    assert np.mean(np.array(p) <= 0.05) < 0.11
    assert 0.4 < np.mean(p) < 0.62


@pytest.mark.science
@pytest.mark.parametrize(("n", "d", "core"), [(1000, 64, 0.0), (400, 8, 0.0), (400, 64, 2.0), (60, 8, 1.0)])
def test_the_interval_covers_what_such_a_read_out_reaches(n, d, core):
    generator, found = torch.Generator().manual_seed(1), []
    for seed in range(150):
        y = torch.randint(0, 2, (n,), generator=generator)
        x = torch.randn(n, d, generator=generator)
        x[:, 0] += core * y
        found.append(decode(x, Batch.of(x, y), seed=seed, permutations=1))
    truth = np.mean([f.core for f in found]) if core else 0.5
    assert np.mean([f.core_ci[0] <= truth <= f.core_ci[1] for f in found]) >= 0.93


def test_the_untrained_network_is_the_baseline_when_given():
    y, a = rows(BALANCED)
    trained, untrained = features_of(y, a, core=4.0), features_of(y, a, core=1.0)
    found = decode(trained, Batch.of(trained, y, a), baseline=untrained)
    assert found.baseline_kind == "untrained network"
    assert found.core_baseline == pytest.approx(decode(untrained, Batch.of(trained, y, a)).core)
    assert 0.6 < found.core_baseline < found.core


def test_a_network_is_read_in_evaluation_and_left_as_it_was():
    y, a = rows(BALANCED)
    x = features_of(y, a, core=6.0)
    net = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Dropout(0.5)).train()
    net[1].eval()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    state = torch.get_rng_state()
    assert decode(net, Batch.of(x, y, a)) == decode(net, Batch.of(x, y, a))
    assert torch.equal(state, torch.get_rng_state())
    assert net.training and net[2].training and not net[1].training
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert all(p.grad is None for p in net.parameters())


def test_without_an_attribute_only_the_class_is_read():
    y = torch.arange(60) % 2
    x = features_of(y, torch.zeros(60), core=6.0)
    found = decode(x.numpy(), Batch.of(x, y))
    assert found.core > 0.9
    assert found.spurious is None and found.spurious_p is None and found.spurious_correlation is None


def test_an_attribute_that_equals_the_label_is_named():
    y = torch.arange(60) % 2
    x = features_of(y, y, core=6.0)
    found = decode(x, Batch.of(x, y, y))
    assert "cannot be told from the class" in found.note
    assert found.spurious_p == 1.0


def test_classes_named_but_absent_are_no_matter():
    y = torch.arange(60) % 2
    x = features_of(y, y, core=6.0)
    batch = Batch.of(x, y)
    assert decode(x, replace(batch, y=y * 2, classes=("cat", "none", "dog"))) == decode(x, batch)


def test_few_rows_of_a_class_mean_fewer_folds():
    y = torch.tensor([0] * 40 + [1] * 3)
    x = features_of(y, y, core=6.0)
    assert decode(x, Batch.of(x, y)).folds == 3


@pytest.mark.parametrize(
    ("x", "y", "options", "message"),
    [
        (torch.zeros(4, 2), [0, 0, 0, 0], {}, "`y` has one class only"),
        (torch.zeros(4, 2), [0, 0, 0, 1], {}, r"has 1 row\(s\)"),
        (torch.zeros(3, 2), [0, 0, 1, 1], {}, "`representation` has 3 rows"),
        (torch.full((4, 2), torch.nan), [0, 0, 1, 1], {}, "`representation` has NaN"),
        (torch.zeros(4, 2, 3, 3), [0, 0, 1, 1], {}, "pool maps"),
        (torch.zeros(4, 2), [0, 0, 1, 1], {"method": "tree"}, "choose 'ridge' or 'logistic'"),
        (torch.zeros(4, 2), [0, 0, 1, 1], {"ridge": 0.0}, "give a positive one"),
        (torch.zeros(4, 2), [0, 0, 1, 1], {"folds": 1}, "at least two of each"),
    ],
)
def test_mistakes_are_named_with_the_way_out(x, y, options, message):
    with pytest.raises((ValueError, TypeError), match=message):
        decode(x, Batch.of(torch.zeros(4, 1), y), **options)


def test_convergence_must_last_and_may_be_censored():
    assert convergence_time([1, 2, 4, 8], [0.9, 0.95, 0.96, 0.99]) == 2
    assert convergence_time([1, 2, 4, 8], [0.99, 0.9, 0.96, 0.99]) is None
    assert convergence_time([1, 2, 4, 8], [0.99, 0.9, 0.96, 0.99], patience=2) == 4
    assert convergence_time([], []) is None


@given(st.lists(st.floats(-1, 1), max_size=12), st.floats(-1, 1), st.integers(1, 4))
def test_convergence_is_its_definition(values, threshold, patience):
    steps = [3 * i for i in range(len(values))]
    lasting = [
        s
        for i, s in enumerate(steps)
        if len(values[i : i + patience]) == patience and min(values[i : i + patience]) >= threshold
    ]
    assert convergence_time(steps, values, threshold, patience) == (lasting[0] if lasting else None)


@pytest.mark.parametrize(("steps", "values"), [([1], [0.1, 0.2]), ([2, 1], [0.1, 0.2]), ([1, 2], [0.1, float("nan")])])
def test_a_curve_without_order_or_numbers_is_refused(steps, values):
    with pytest.raises(ValueError, match=r"`steps` has|NaN"):
        convergence_time(steps, values)


def test_indices_by_hand():
    assert forgetting_index([0.0, 0.5, 0.5]) == 0
    assert forgetting_index(torch.tensor([0.5, 0.0])) == 1
    assert forgetting_index([-0.1, 0.0]) is None and forgetting_index([]) is None
    assert reliance_index(0.0, 1.0) == 1 and reliance_index(1.0, 0.0) == 0
    assert reliance_index(0.5, -0.5) == -0.5
    assert reliance_index(0.0, 0.0) is None
