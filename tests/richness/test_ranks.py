"""Effective ranks: closed forms on planted spectra, invariances, and what happens at the edges."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from firstcue.moments import Moments
from firstcue.richness.ranks import (
    alpha_req,
    effective_ranks,
    entropy_rank,
    intrinsic_dimension,
    participation_ratio,
    stable_rank,
)


def drawn(n, d, seed=0, dtype=torch.float64):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def whitened(n, d, seed=0):
    """Rows whose covariance is exactly the identity."""
    x = drawn(n, d, seed)
    return torch.linalg.qr(x - x.mean(dim=0)).Q * n**0.5


@pytest.mark.parametrize("d", [1, 3, 17])
def test_white_features_have_full_rank_by_every_measure(d):
    found = effective_ranks(whitened(200, d))

    for name in ("participation_ratio", "entropy_rank", "stable_rank"):
        assert getattr(found, name) == pytest.approx(d, rel=1e-9), name
    assert found.rankme == pytest.approx(d, rel=1e-4)
    assert (found.rank, found.n, found.d) == (d, 200, d)


@given(seed=st.integers(0, 2**31), d=st.integers(1, 12), n=st.integers(2, 40))
@settings(max_examples=40, deadline=None)
def test_ranks_lie_between_one_and_the_rank_and_are_ordered(seed, d, n):
    scale = torch.logspace(0, -2, d, dtype=torch.float64)
    found = effective_ranks(drawn(n, d, seed) * scale)

    assert 1 - 1e-9 <= found.stable_rank <= found.participation_ratio + 1e-9
    assert found.participation_ratio <= found.entropy_rank + 1e-9 <= found.rank + 2e-9


@pytest.mark.parametrize("n, d", [(60, 8), (8, 60), (30, 30)])
def test_rows_fewer_or_more_than_features_give_the_numbers_of_the_singular_values(n, d):
    x = drawn(n, d) + 3
    sigma = torch.linalg.svdvals(x - x.mean(dim=0))
    raw = torch.linalg.svdvals(x)
    share = raw / raw.sum() + 1e-7

    found = effective_ranks(x)

    assert found.participation_ratio == pytest.approx(float((sigma**2).sum() ** 2 / (sigma**4).sum()), rel=1e-10)
    assert found.stable_rank == pytest.approx(float((sigma**2).sum() / sigma[0] ** 2), rel=1e-10)
    assert found.rankme == pytest.approx(float(torch.exp(-(share * share.log()).sum())), rel=1e-6)


@pytest.mark.parametrize("dtype, rel", [(torch.float32, 1e-3), (torch.float16, 2e-2)])
def test_low_precision_and_arrays_give_nearly_the_same(dtype, rel):
    x = drawn(300, 6) * torch.tensor([3.0, 2, 1, 1, 0.5, 0.2])

    narrow = effective_ranks(x.to(dtype))

    assert narrow.participation_ratio == pytest.approx(effective_ranks(x.numpy()).participation_ratio, rel=rel)


def test_a_large_mean_changes_only_the_rank_of_features_that_are_not_centred():
    x = drawn(500, 5)
    there = effective_ranks((x + 1e4).float())

    assert there.participation_ratio == pytest.approx(effective_ranks(x).participation_ratio, rel=1e-3)
    assert there.rankme < 1.1


def test_moments_that_were_merged_give_the_ranks_of_all_rows():
    x = drawn(100, 4)
    merged = Moments.of(x[:33]).merge(Moments.of(x[33:]))

    assert effective_ranks(merged).entropy_rank == pytest.approx(effective_ranks(x).entropy_rank, rel=1e-10)


def test_constant_features_have_no_effective_rank_and_an_added_constant_column_changes_nothing():
    constant = effective_ranks(torch.full((20, 3), 7.0))
    x = drawn(50, 3)
    extended = effective_ranks(torch.cat([x, torch.ones(50, 1, dtype=torch.float64)], dim=1))

    assert math.isnan(constant.participation_ratio) and math.isnan(constant.alpha) and constant.rank == 0
    assert extended.participation_ratio == pytest.approx(effective_ranks(x).participation_ratio, rel=1e-9)


@pytest.mark.parametrize("alpha", [0.5, 1.0, 2.5])
def test_a_planted_power_law_is_found(alpha):
    k = torch.arange(1, 65, dtype=torch.float64)
    found = effective_ranks(whitened(400, 64) * k ** (-alpha / 2))

    assert found.alpha == pytest.approx(alpha, rel=1e-6)
    assert found.alpha_fit == pytest.approx(1, abs=1e-6)
    assert found.alpha_window == (10, 64)


def test_a_spectrum_that_is_no_power_law_says_so_in_its_fit():
    slope, fit, _ = alpha_req([1.0] * 50 + [1e-6] * 50, window=(1, 100))

    assert slope > 0 and fit < 0.9


def test_a_spectrum_too_short_for_a_slope_has_none():
    assert math.isnan(alpha_req([3.0, 2.0, 1.0])[0])


@pytest.mark.parametrize("rank", [participation_ratio, entropy_rank, stable_rank])
def test_the_unit_of_the_features_is_irrelevant(rank):
    spectrum = torch.tensor([5.0, 3.0, 0.1, 0.0])

    assert rank(spectrum) == pytest.approx(rank(1e-9 * spectrum), rel=1e-6)
    assert math.isnan(rank([0.0, 0.0]))


@pytest.mark.parametrize(
    "features, message",
    [
        (torch.tensor([[1.0, float("nan")], [0.0, 1.0]]), "NaN"),
        (torch.ones(1, 3), "at least two"),
        (torch.ones(4), "rows of features"),
        (Moments.of_groups(torch.ones(4, 2), [0, 0, 1, 1]), "pool"),
    ],
)
def test_what_has_no_spectrum_is_refused_with_the_way_out(features, message):
    with pytest.raises(ValueError, match=message):
        effective_ranks(features)


def test_a_negative_spectrum_and_an_impossible_window_are_refused():
    with pytest.raises(ValueError, match="none negative"):
        participation_ratio([1.0, -0.1])
    with pytest.raises(ValueError, match="window"):
        alpha_req([1.0] * 20, window=(5, 3))


@pytest.mark.parametrize("d", [2, 5])
def test_the_dimension_of_a_curved_sheet_is_that_of_the_sheet(d):
    pytest.importorskip("skdim")
    flat = torch.rand(1500, d, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    sheet = torch.cat([flat, (2 * flat).sin(), flat.cumsum(dim=1) ** 2], dim=1)
    twice = torch.cat([sheet, sheet[:100]])

    assert intrinsic_dimension(twice) == pytest.approx(d, rel=0.15)


def test_thinning_rows_is_the_same_for_the_same_seed_and_leaves_random_state():
    pytest.importorskip("skdim")
    x, before = drawn(400, 3), (torch.get_rng_state(), np.random.get_state()[1].copy())  # noqa: NPY002

    assert intrinsic_dimension(x, max_rows=200) == intrinsic_dimension(x, max_rows=200)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1] == before[1]).all()  # noqa: NPY002


def test_too_few_distinct_rows_have_no_dimension():
    pytest.importorskip("skdim")
    with pytest.raises(ValueError, match="distinct"):
        intrinsic_dimension(torch.ones(50, 3))
