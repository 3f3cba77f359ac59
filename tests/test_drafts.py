"""Roots improved in float32 from pass to pass."""

import pytest
import torch
from torch.testing import assert_close

from cases import generator
from firstcue._drafts import Draft
from firstcue.bures import barycenter
from firstcue.linalg import sqrt_psd

D = 40


def rotation(seed=0, d=D):
    return torch.linalg.qr(torch.randn(d, d, generator=generator(seed), dtype=torch.float64)).Q


def covariance(seed, turned=0.05, condition=1e3):
    """Eigenvectors near the axes, eigenvalues over three orders."""
    skew = turned * torch.randn(D, D, generator=generator(seed), dtype=torch.float64) / D**0.5
    q = torch.matrix_exp(skew - skew.mT)
    return (q * torch.logspace(0, -torch.tensor(condition).log10().item(), D, dtype=torch.float64)) @ q.mT


def factor():
    return torch.diag(torch.logspace(0, -1.5, D, dtype=torch.float64))


def fresh():
    return Draft(torch.zeros(2, D, D))


def wanted(matrix, near):
    return sqrt_psd(near.mT @ matrix @ near)


def whitened(found, right):
    """Error in units of each direction's own length."""
    size = right.diagonal().sqrt()
    return float(((found - right) / size / size[:, None]).norm()) / len(right) ** 0.5


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
def test_a_draft_is_the_root_up_to_what_it_says(scale):
    matrix = covariance(0) * scale
    root, unit, error = fresh().root(matrix, factor(), 1e-5)

    assert error <= 1e-5
    assert whitened(root.double() * unit / scale**0.5, wanted(matrix, factor()) / scale**0.5) <= 2e-5


def test_the_next_pass_goes_on_from_the_last():
    matrix, draft = covariance(0), fresh()
    draft.root(matrix, factor(), 1e-5)
    moved = factor() * 3.0
    moved[0, 1] += 1e-4
    root, unit, error = draft.root(matrix, moved, 0.5)  # a goal that a single step meets

    assert error < 1e-3
    assert whitened(root.double() * unit, wanted(matrix, moved)) < 1e-3 * 3


def test_a_far_basis_is_refused_until_the_right_one_is_adopted():
    q = rotation()
    matrix, draft = q @ covariance(1) @ q.mT, fresh()

    assert draft.root(matrix, factor(), 1e-5) is None
    draft.adopt(7 * torch.linalg.eigh(factor() @ matrix @ factor()).eigenvectors)
    root, unit, _ = draft.root(matrix, factor(), 1e-5)
    assert_close(root.double() * unit, wanted(matrix, factor()), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("matrix", [torch.zeros(D, D, dtype=torch.float64), torch.diag((torch.arange(D) > 0).double())])
def test_matrices_without_variance_somewhere_are_refused(matrix):
    assert fresh().root(matrix, factor(), 1e-5) is None


@pytest.mark.parametrize("kind", ["nearly commuting", "generic"])
def test_drafts_lead_to_the_barycentre_of_exact_passes(kind):
    d, noise = 136, generator(3)
    deviations = torch.logspace(0, -1.5, d, dtype=torch.float64)
    roots = []
    for c in range(4):
        skew = torch.randn(d, d, generator=noise, dtype=torch.float64) / d**0.5 * 0.05
        q = rotation(c, d) if kind == "generic" else torch.matrix_exp(skew - skew.mT)
        roots.append(q * deviations * torch.exp(0.25 * torch.randn(d, generator=noise, dtype=torch.float64)))
    matrices = torch.stack([r @ r.mT for r in roots])
    found = barycenter(matrices, tolerance=1e-9)

    assert found.converged
    mean, inverse = torch.zeros(d, d, dtype=torch.float64), torch.linalg.inv(found.factor)
    for m in matrices:
        mean += inverse.mT @ sqrt_psd(found.factor.mT @ m @ found.factor) @ inverse / 4
    assert float((mean - torch.eye(d, dtype=torch.float64)).norm()) / d**0.5 <= 1e-7
    for a, m in zip(found.maps(), matrices, strict=True):
        assert_close(a @ m @ a.mT, found.matrix, rtol=0, atol=1e-9)
