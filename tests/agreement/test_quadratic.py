"""Closed forms of the inconsistency score, against eigenvalues, sampling and the constants of the paper."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from firstcue.agreement.quadratic import determinant_bound, quadratic_inconsistency

positive = st.floats(1e-3, 1e3)


def random_hessians(count: int, size: int, seed: int) -> torch.Tensor:
    half = torch.randn(count, size, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return half @ half.mT + 0.1 * torch.eye(size, dtype=torch.float64)


@given(st.lists(st.tuples(positive, positive, positive), min_size=1, max_size=6), st.floats(1e-6, 1e3))
def test_diagonal_environments_give_eps_times_the_largest_ratio(curvatures, eps):
    h = torch.tensor(curvatures, dtype=torch.float64).T
    slow = max(a / b for row in h.T.tolist() for a in row for b in row)
    assert math.isclose(quadratic_inconsistency(h, eps), eps * slow, rel_tol=1e-9)
    assert math.isclose(quadratic_inconsistency(torch.diag_embed(h), eps), eps * slow, rel_tol=1e-6)


def test_equal_curvatures_give_eps():
    h = random_hessians(1, 5, 0).expand(3, 5, 5)
    assert math.isclose(quadratic_inconsistency(h, 0.3), 0.3, rel_tol=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_the_general_case_is_the_largest_generalised_eigenvalue(seed):
    from scipy.linalg import eigh

    h = random_hessians(3, 6, seed)
    slow = max(eigh(h[j].numpy(), h[i].numpy(), eigvals_only=True)[-1] for i in range(3) for j in range(3) if i != j)
    assert math.isclose(quadratic_inconsistency(h, 2.0), 2 * slow, rel_tol=1e-8)


def test_no_point_of_a_level_set_is_worse_than_the_closed_form():
    h = random_hessians(2, 3, 7)
    v = torch.randn(200_000, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    value = torch.einsum("ni,eij,nj->en", v, h, v)
    sampled = float(torch.maximum(value[1] / value[0], value[0] / value[1]).max())
    exact = quadratic_inconsistency(h, 1.0)
    assert 0.97 * exact < sampled <= exact * (1 + 1e-9)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e8])
def test_rescaling_a_parameter_changes_nothing(scale):
    h = random_hessians(2, 4, 3)
    change = torch.tensor([1.0, scale, 1.0, 1 / scale], dtype=torch.float64)
    other = h * change * change[:, None]
    assert math.isclose(quadratic_inconsistency(other, 1.0), quadratic_inconsistency(h, 1.0), rel_tol=1e-6)


def test_a_direction_flat_in_one_environment_only_is_infinitely_inconsistent():
    h = torch.tensor([[1.0, 0.0], [1.0, 1.0]])
    assert quadratic_inconsistency(h, 0.1) == math.inf
    turn = torch.linalg.qr(torch.randn(2, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)).Q
    assert quadratic_inconsistency(turn @ torch.diag_embed(h.double()) @ turn.mT, 0.1) == math.inf


def test_a_direction_flat_in_all_environments_does_not_count():
    assert quadratic_inconsistency([[0.0, 1.0], [0.0, 3.0]], 1.0) == 3.0
    flat = random_hessians(1, 4, 2)[0] * 0
    flat[:2, :2] = random_hessians(1, 2, 2)[0]
    assert math.isclose(quadratic_inconsistency(torch.stack([flat, 4 * flat]), 1.0), 4.0, rel_tol=1e-9)
    assert quadratic_inconsistency(np.zeros((2, 3)), 1.0) == 0.0


def test_the_constant_printed_in_the_paper_fails_where_one_direction_disagrees():
    h = torch.tensor([[1.0], [10.0]], dtype=torch.float64)
    mean, geometric = 5.5, 10**0.5
    printed = 2 * (mean / geometric) ** 2
    exact = quadratic_inconsistency(h, 1.0)
    assert exact == pytest.approx(10.0)
    assert printed == pytest.approx(6.05) and printed < exact
    assert determinant_bound(h, 1.0) == pytest.approx(2 * printed) and determinant_bound(h, 1.0) >= exact


def test_with_three_environments_even_the_larger_constant_needs_a_larger_exponent():
    h = torch.tensor([[1.0], [100.0], [50.5]], dtype=torch.float64)
    ratio = float(h.mean() / h.prod() ** (1 / 3))
    assert 4 * ratio**2 < quadratic_inconsistency(h, 1.0) <= determinant_bound(h, 1.0)


@given(st.integers(2, 5), st.integers(1, 5), st.integers(0, 1000))
def test_the_determinant_bound_holds(count, size, seed):
    h = random_hessians(count, size, seed)
    assert determinant_bound(h, 1.0) >= quadratic_inconsistency(h, 1.0) * (1 - 1e-9)
    diagonal = h.diagonal(dim1=1, dim2=2)
    assert determinant_bound(diagonal, 1.0) >= quadratic_inconsistency(diagonal, 1.0) * (1 - 1e-9)


def test_a_singular_environment_has_no_finite_determinant_bound():
    assert determinant_bound([[0.0, 1.0], [1.0, 1.0]], 1.0) == math.inf
    assert determinant_bound([[1e-300, 1.0], [1e300, 1.0]], 1.0) == math.inf


@pytest.mark.parametrize(
    ("hessians", "message"),
    [
        (torch.ones(1, 3), "one environment"),
        (torch.ones(2, 3, 4), "shape"),
        (torch.tensor([[1.0, -1.0], [1.0, 1.0]]), "environment 0 has negative curvature"),
        (torch.tensor([[1.0, math.nan], [1.0, 1.0]]), "NaN"),
        (torch.tensor([[[1.0, 2.0], [0.0, 1.0]]] * 2), "not symmetric"),
    ],
)
def test_what_cannot_be_compared_is_refused(hessians, message):
    with pytest.raises(ValueError, match=message):
        quadratic_inconsistency(hessians, 1.0)


@pytest.mark.parametrize("eps", [0.0, -1.0, math.nan])
def test_a_level_has_to_be_positive(eps):
    with pytest.raises(ValueError, match="eps"):
        quadratic_inconsistency(torch.ones(2, 2), eps)


def test_half_precision_and_float32_are_computed_in_float64():
    h = torch.tensor([[1.0, 2.0], [4.0, 1.0]])
    assert quadratic_inconsistency(h.half(), 1.0) == quadratic_inconsistency(h.double(), 1.0) == 4.0
