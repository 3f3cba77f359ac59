import pytest
import torch
from torch.testing import assert_close

from cases import generator, hard
from firstcue import Moments
from firstcue.linalg import eigh_psd, factor_psd, inverse_sqrt_psd, range_basis, roots_psd, sqrt_psd


def spd(*shape, seed=0, rank=None):
    d = shape[-1]
    a = torch.randn(*shape[:-1], d, rank or d, generator=generator(seed), dtype=torch.float64)
    return a @ a.mT


def test_a_root_squared_is_the_matrix_over_a_batch():
    a = spd(3, 2, 5)

    assert_close(sqrt_psd(a) @ sqrt_psd(a), a)
    assert_close(sqrt_psd(a), sqrt_psd(a).mT)


def test_an_inverse_root_whitens_and_vanishes_off_the_range():
    a = torch.stack([spd(5), spd(5, rank=3)])
    white = inverse_sqrt_psd(a) @ a @ inverse_sqrt_psd(a)
    root, inverse = roots_psd(a)

    assert_close(white[0], torch.eye(5, dtype=torch.float64))
    assert_close(white[1] @ white[1], white[1])
    assert_close(white[1].trace(), torch.tensor(3.0, dtype=torch.float64))
    assert_close(root, sqrt_psd(a))
    assert_close(inverse, inverse_sqrt_psd(a))


def test_rank_is_that_of_what_rounding_leaves():
    values, _, kept = eigh_psd(torch.stack([spd(6, rank=2), spd(6)]))

    assert kept.sum(dim=-1).tolist() == [2, 6]
    assert (values >= 0).all()


@pytest.mark.parametrize("name", hard())
def test_a_solution_reproduces_what_lies_in_the_range(name):
    x, _ = hard()[name]
    m = Moments.of(x, precision="float64")
    b = (
        m.covariance
        @ torch.randn(x.shape[1], 2, generator=generator(), dtype=torch.float64)
        / m.covariance.diagonal().max()
    )
    factor = factor_psd(m.covariance, rows=len(x))
    unit = m.covariance.diagonal().sqrt().clamp(min=1e-300)[:, None]

    assert_close(m.covariance @ factor.solve(b) / unit, b / unit, rtol=1e-6, atol=1e-8 * float((b / unit).abs().max()))
    assert_close(factor.whiten(b).mT @ factor.whiten(b), b.mT @ factor.solve(b), rtol=1e-8, atol=1e-12)
    assert float(factor.outside(b).abs().max()) < 1e-6 * float((b / unit).abs().max())


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
def test_rank_does_not_depend_on_units(scale):
    a = spd(6, rank=4) * scale
    unit = torch.logspace(-6, 6, 6, dtype=torch.float64)

    assert factor_psd(a).rank == 4
    assert factor_psd(a * unit * unit[:, None]).rank == 4
    assert range_basis(a * unit * unit[:, None]).shape == (6, 4)


def test_a_well_conditioned_matrix_needs_no_eigenvectors():
    assert factor_psd(spd(30) + torch.eye(30)).half is None
    assert factor_psd(spd(30, rank=29)).half is not None


def test_constant_features_are_dropped_even_beside_uncorrelated_ones():
    a = torch.diag(torch.tensor([1.0, 0.0, 1.0, 1.0], dtype=torch.float64))
    a[2, 3] = a[3, 2] = 1.0  # also a copy, so that the eigenvalue 1 of the constant could mix with others
    b = torch.ones(4, 1, dtype=torch.float64)

    assert factor_psd(a).rank == 2
    assert_close(factor_psd(a).solve(b)[:, 0], torch.tensor([1.0, 0.0, 0.5, 0.5], dtype=torch.float64))
    assert range_basis(a).shape == (4, 2)


def test_the_range_basis_is_orthonormal_and_spans_the_range():
    a = spd(7, rank=3)
    basis = range_basis(a)

    assert_close(basis.mT @ basis, torch.eye(3, dtype=torch.float64))
    assert_close(basis @ (basis.mT @ a), a)
    assert_close(
        range_basis(torch.diag(torch.tensor([2.0, 0.0, 1.0], dtype=torch.float64))).sum(dim=0),
        torch.ones(2, dtype=torch.float64),
    )
