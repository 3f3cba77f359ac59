import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from cases import generator, hard, labelled
from firstcue import Moments, load, marginal_eraser, oracle_leace, quantile_tables, save
from firstcue.erasure.marginal import kolmogorov_smirnov, marginal_gap, quantiles_at, rank_bounds

values = st.lists(st.sampled_from([-2.0, -1.0, 0.0, 0.0, 0.5, 1.0, 3.0]), min_size=1, max_size=30)


def table_of(sample, bins):
    x = torch.tensor(sample, dtype=torch.float64)[:, None]
    return quantile_tables(x, torch.zeros(len(x)), bins=bins).tables[0]


@settings(max_examples=100, deadline=None)
@given(sample=values, bins=st.integers(2, 40), probability=st.floats(0, 1))
def test_ranks_and_quantiles_bound_each_other(sample, bins, probability):
    table = table_of(sample, bins)
    p = torch.tensor([[probability]], dtype=torch.float64)
    lower, upper = rank_bounds(table, quantiles_at(table, p))
    assert float(lower) - 1e-9 <= probability <= float(upper) + 1e-9

    x = torch.tensor([[sample[0]]], dtype=torch.float64)
    lower, upper = rank_bounds(table, x)
    assert float(quantiles_at(table, lower)) <= sample[0] + 1e-9 or float(lower) == 0.0
    assert float(quantiles_at(table, upper)) >= sample[0] - 1e-9 or float(upper) == 1.0


@settings(max_examples=60, deadline=None)
@given(sample=values, bins=st.integers(2, 40))
def test_a_rank_is_the_share_below_plus_half_the_share_at(sample, bins):
    table = table_of(sample, bins)[0].numpy()
    grid = np.linspace(0, 1, bins)
    for x in {*sample, -5.0, 0.25, 7.0}:
        if (table == x).any():
            slow = (grid[table == x].min() + grid[table == x].max()) / 2
        else:
            slow = np.interp(x, table, grid)
        lower, upper = rank_bounds(torch.from_numpy(table)[None], torch.tensor([[x]], dtype=torch.float64))
        assert float(lower + upper) / 2 == pytest.approx(slow)


@settings(max_examples=40, deadline=None)
@given(sample=values, bins=st.integers(2, 40))
def test_tables_interpolate_between_sorted_values(sample, bins):
    slow = np.quantile(sample, np.linspace(0, 1, bins), method="hazen")
    assert_close(table_of(sample, bins)[0], torch.from_numpy(slow))


@settings(max_examples=40, deadline=None)
@given(one=values, two=values, bins=st.integers(2, 40))
def test_transport_keeps_the_order_and_stays_within_the_other_class(one, two, bins):
    x = torch.tensor([*one, *two], dtype=torch.float64)[:, None]
    z = [0] * len(one) + [1] * len(two)
    grid = torch.linspace(-3, 4, 50, dtype=torch.float64)[:, None]
    moved = quantile_tables(x, z, bins=bins).transport(grid, [0] * 50, [1] * 50)[:, 0]

    assert bool((moved.diff() >= 0).all())
    assert min(two) <= float(moved.min()) <= float(moved.max()) <= max(two)


def test_with_a_bin_per_value_transport_maps_sorted_values_to_sorted_values():
    g = generator()
    x = torch.randn(400, 3, generator=g, dtype=torch.float64)
    z = torch.arange(400) % 2
    tables = quantile_tables(x, z, bins=401)
    moved = tables.transport(x[z == 0], z[z == 0], 1 - z[z == 0])
    expected = x[z == 1].sort(dim=0).values.gather(0, x[z == 0].argsort(dim=0).argsort(dim=0))
    assert_close(moved, expected)


@pytest.mark.parametrize("name", hard())
def test_every_feature_has_the_same_distribution_in_every_class_afterwards(name):
    x, z = hard()[name]
    eraser = marginal_eraser(quantile_tables(x, z))
    erased = eraser(x, z)
    smallest = int(torch.bincount(z).min())

    assert erased.dtype == x.dtype
    assert bool(torch.isfinite(erased).all())
    if name != "fewer rows than features" and smallest > 50:
        assert marginal_gap(erased, z) < max(0.25 * marginal_gap(x, z), 1 / smallest + 1 / 256)


def test_means_of_classes_agree_afterwards():
    x, z = labelled(n=3000, d=5)
    erased = marginal_eraser(quantile_tables(x, z))(x, z)
    before, after = Moments.of_groups(x, z), Moments.of_groups(erased, z)
    assert float((after.mean - after.pool().mean).abs().max()) < 0.02 * float(
        (before.mean - after.pool().mean).abs().max()
    )


def test_the_distortion_is_as_promised_and_not_below_that_of_equal_means():
    x, z = labelled(n=3000, d=5)
    eraser = marginal_eraser(quantile_tables(x, z))
    moved = float((eraser(x, z) - x).square().sum(dim=1).mean())
    assert moved == pytest.approx(eraser.distortion, rel=0.02)
    assert moved > 0.99 * oracle_leace(Moments.of_groups(x, z)).distortion


def test_no_other_common_distribution_costs_less():
    x, z = labelled(n=600, d=4)
    tables = quantile_tables(x, z)
    least = marginal_eraser(tables).distortion
    assert all(marginal_eraser(tables, target=name).distortion > least for name in tables.classes)


def test_erasing_twice_changes_almost_nothing():
    x, z = labelled(n=900, d=4)
    once = marginal_eraser(quantile_tables(x, z))(x, z)
    again = marginal_eraser(quantile_tables(once, z))
    assert again.distortion < 1e-3 * float((once - x).square().sum(dim=1).mean())


def test_correlations_within_a_class_are_kept_where_marginals_only_shift():
    x, z = labelled(n=600, d=4, k=1)
    z = torch.arange(600) % 2
    shifted = x + 10 * z[:, None]
    erased = marginal_eraser(quantile_tables(shifted, z, bins=600))(shifted, z)
    for c in (0, 1):
        assert_close(torch.corrcoef(erased[z == c].mT), torch.corrcoef(x[z == c].mT), atol=0.03, rtol=0.0)


def test_values_that_many_rows_share_stay_together_and_the_gap_is_reported():
    g = generator()
    z = torch.arange(2000) % 2
    zeros = torch.rand(2000, 1, generator=g) < 0.2 + 0.5 * z[:, None]
    x = torch.where(zeros, 0.0, torch.rand(2000, 1, generator=g) + 1)
    eraser = marginal_eraser(quantile_tables(x, z))
    erased = eraser(x, z)
    assert len(erased[zeros & (z[:, None] == 0)].unique()) == 1
    with pytest.warns(UserWarning, match="wrote the label into the data"):  # where zeros end up tells their class
        report = eraser.report(x, z)
    assert 0.05 < report["marginal_gap_after"] < report["marginal_gap_before"]


def test_images_and_arrays_keep_their_shape_and_kind():
    x, z = labelled(n=90, d=12, dtype=torch.float32)
    pictures = x.reshape(90, 3, 2, 2).numpy()
    names = np.array(["a", "b", "c"])[z]
    erased = marginal_eraser(quantile_tables(pictures, names))(pictures, names)
    assert isinstance(erased, np.ndarray)
    assert erased.shape == pictures.shape
    assert erased.dtype == np.float32
    assert_close(torch.from_numpy(erased).flatten(1), marginal_eraser(quantile_tables(x, z))(x, z))


@settings(max_examples=40, deadline=None)
@given(one=values, two=values)
def test_the_distance_of_two_samples_is_the_largest_difference_of_shares(one, two):
    slow = max(abs(np.mean(np.array(one) <= v) - np.mean(np.array(two) <= v)) for v in one + two)
    found = kolmogorov_smirnov(torch.tensor(one)[:, None], torch.tensor(two)[:, None])
    assert float(found) == pytest.approx(slow)


def test_tables_can_be_saved_and_read(tmp_path):
    x, z = labelled(n=60, d=3)
    tables = quantile_tables(x, z)
    again = load(save(tables, tmp_path / "tables.safetensors"))
    assert torch.equal(again.transport(x, z, 2 - z), tables.transport(x, z, 2 - z))


def test_what_cannot_be_used_is_refused_with_the_way_out():
    x, z = labelled(n=60, d=3)
    tables = quantile_tables(x, z)
    eraser = marginal_eraser(tables)
    with pytest.raises(ValueError, match="at least 2"):
        quantile_tables(x, z, bins=1)
    with pytest.raises(ValueError, match="no class '7'"):
        marginal_eraser(tables, target="7")
    with pytest.raises(ValueError, match="one class only"):
        marginal_eraser(quantile_tables(x, torch.zeros(60)))
    with pytest.raises(ValueError, match="class of every row"):
        eraser(x)
    with pytest.raises(ValueError, match="seen no rows"):
        eraser(x, z + 5)
    with pytest.raises(ValueError, match="fitted on 3"):
        eraser(x[:, :2], z)
    with pytest.raises(ValueError, match="one per row"):
        tables.ranks(x, z[:5])
