"""Bits of vectors are those of their cells; the part that depends on units is called differential."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import firstcue as fc


def rows(n=400, d=3, seed=0, mean=0.0):
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(d, d, generator=generator, dtype=torch.float64)
    return torch.randn(n, d, generator=generator, dtype=torch.float64) @ mix + mean


def test_bits_are_the_log_density_of_the_widened_gaussian_and_a_cell():
    x, cell = rows(), 0.05
    moments = fc.Moments.of(x)
    density = fc.GaussianVectors.of(moments, cell)
    wide = moments.covariance + torch.eye(3) * cell**2 / (2 * math.pi)
    law = torch.distributions.MultivariateNormal(moments.mean, wide)
    torch.testing.assert_close(density.differential_bits(x), -law.log_prob(x) / math.log(2))
    torch.testing.assert_close(fc.bits(density, x), -law.log_prob(x) / math.log(2) - 3 * math.log2(cell))


def test_a_mixture_weights_groups_by_their_rows_and_leaves_empty_ones_out():
    x = torch.cat([rows(300), rows(100, seed=1, mean=5.0)])
    moments = fc.Moments.of_groups(x, torch.tensor([0] * 300 + [2] * 100), num_groups=3)
    density = fc.GaussianVectors.of(moments, 0.1)
    each = [fc.GaussianVectors.of(moments.group(g), 0.1).bits(x) for g in (0, 2)]
    expected = -(0.75 * torch.exp2(-each[0]) + 0.25 * torch.exp2(-each[1])).log2()
    torch.testing.assert_close(density.bits(x), expected)


def test_mean_bits_of_gaussian_rows_are_their_entropy():
    x = rows(20_000)
    density = fc.GaussianVectors.of(fc.Moments.of(x), 0.01)
    entropy = 0.5 * torch.logdet(2 * math.pi * math.e * fc.Moments.of(x).covariance) / math.log(2) - 3 * math.log2(0.01)
    assert float(fc.bits(density, x).mean()) == pytest.approx(float(entropy), rel=1e-3)


@settings(max_examples=20, deadline=None)
@given(cell=st.floats(1e-3, 1e3), scale=st.floats(1e-3, 1e3))
def test_no_vector_takes_fewer_than_zero_bits(cell, scale):
    moments = fc.Moments.of(rows() * scale)
    density = fc.GaussianVectors.of(moments, cell)
    assert float(density.bits(moments.mean[None])) >= -1e-9


def test_halving_the_cell_costs_a_bit_per_feature():
    x = rows()
    coarse, fine = (fc.bits(fc.GaussianVectors.of(fc.Moments.of(x), cell), x) for cell in (2e-3, 1e-3))
    torch.testing.assert_close(fine - coarse, torch.full((400,), 3.0, dtype=torch.float64), rtol=1e-4, atol=1e-4)


def test_units_do_not_matter_when_the_cell_is_stated_in_them():
    x = rows()
    scale = torch.tensor([1.0, 1000.0, 1e-3], dtype=torch.float64)
    plain, other = (
        fc.GaussianVectors.of(fc.Moments.of(v), 0.1 * s).bits(v) for v, s in ((x, scale**0), (x * scale, scale))
    )
    torch.testing.assert_close(plain, other)


def test_a_constant_feature_costs_nothing_and_a_large_mean_does_no_harm():
    x = rows()
    constant = torch.cat([x, torch.full((400, 1), 7.0)], dim=1)
    plain = fc.GaussianVectors.of(fc.Moments.of(x), 0.1).bits(x)
    torch.testing.assert_close(fc.GaussianVectors.of(fc.Moments.of(constant), 0.1).bits(constant), plain)
    torch.testing.assert_close(
        fc.GaussianVectors.of(fc.Moments.of(x + 1e6), 0.1).bits(x + 1e6), plain, rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64], ids=str)
def test_bits_come_back_in_the_type_of_the_rows(dtype):
    density = fc.GaussianVectors.of(fc.Moments.of(rows()), 0.1)
    assert fc.bits(density, rows(5).to(dtype)).dtype == dtype
    assert fc.bits(density, rows(5).numpy()).dtype == "float64"


def test_few_rows_need_shrinkage_and_cells_must_be_stated_sensibly():
    few = fc.Moments.of(rows(3))
    with pytest.raises(ValueError, match=r"1 of 1 groups have at most 3 rows.*covariance=fc.oas"):
        fc.GaussianVectors.of(few, 0.1)
    assert fc.bits(fc.GaussianVectors.of(few, 0.1, covariance=fc.oas), rows(5, seed=3)).isfinite().all()
    with pytest.raises(ValueError, match="`resolution` must be positive"):
        fc.GaussianVectors.of(fc.Moments.of(rows()), 0.0)
    with pytest.raises(ValueError, match=r"`resolution` has shape \(2,\); one number or 3"):
        fc.GaussianVectors.of(fc.Moments.of(rows()), [0.1, 0.2])
    flat = torch.cat([rows() * 1e6, rows() * 1e6], dim=1)
    with pytest.raises(ValueError, match="too fine for features of this size"):
        fc.GaussianVectors.of(fc.Moments.of(flat), 1e-9)


def test_rows_of_another_width_are_refused():
    with pytest.raises(ValueError, match=r"items of shape \(2,\), but this density knows \(3,\)"):
        fc.bits(fc.GaussianVectors.of(fc.Moments.of(rows()), 0.1), torch.zeros(4, 2))
