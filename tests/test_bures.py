import contextlib
import io

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis.strategies import integers
from torch.testing import assert_close

from cases import generator
from firstcue.bures import barycenter, bures_map, bures_squared
from firstcue.linalg import sqrt_psd

EYE = torch.eye(6, dtype=torch.float64)


def spd(k, d=6, *, seed=0, rank=None):
    """`k` covariances of `d` features, condition in the hundreds, or of lower rank."""
    a = torch.randn(k, d, rank or d + 4, generator=generator(seed), dtype=torch.float64)
    return a @ a.mT / d


def rotation(d, seed=0):
    return torch.linalg.qr(torch.randn(d, d, generator=generator(seed), dtype=torch.float64)).Q


def commuting(k=4, d=6, seed=0):
    basis = rotation(d, seed)
    values = torch.rand(k, d, generator=generator(seed), dtype=torch.float64) * 9 + 0.1
    return basis @ torch.diag_embed(values) @ basis.mT


def slow_squared(a, b):
    """tr a + tr b - 2 tr (a^1/2 b a^1/2)^1/2, as written in the paper."""
    root = sqrt_psd(a)
    return float(a.trace() + b.trace() - 2 * sqrt_psd(root @ b @ root).trace())


def slow_barycenter(matrices, weights, passes=400):
    """The fixed point as published, with symmetric roots and inverses."""
    s = torch.einsum("k,kij->ij", weights, matrices)
    for _ in range(passes):
        root = sqrt_psd(s)
        inverse = torch.linalg.inv(root)
        t = inverse @ torch.einsum("k,kij->ij", weights, sqrt_psd(root @ matrices @ root)) @ inverse
        s = t @ s @ t
    return s


def first_order_residual(s, matrices, weights):
    root = sqrt_psd(s)
    inverse = torch.linalg.inv(root)
    maps = inverse @ sqrt_psd(root @ matrices @ root) @ inverse
    return float((torch.einsum("k,kij->ij", weights, maps) - torch.eye(len(s), dtype=s.dtype)).norm() / len(s) ** 0.5)


def shares(k):
    weight = torch.arange(1, k + 1, dtype=torch.float64)
    return weight / weight.sum()


@given(seed=integers(0, 2**31))
@settings(max_examples=25, deadline=None)
def test_the_distance_is_a_metric(seed):
    a, b, c = spd(3, seed=seed)

    assert bures_squared(a, a) <= 1e-12 * float(a.trace())
    assert bures_squared(a, b) == pytest.approx(bures_squared(b, a))
    assert bures_squared(a, b) == pytest.approx(slow_squared(a, b))
    assert bures_squared(a, c) ** 0.5 <= bures_squared(a, b) ** 0.5 + bures_squared(b, c) ** 0.5


def test_matrices_that_commute_are_as_far_apart_as_their_roots():
    a, b = commuting(2)

    assert bures_squared(a, b) == pytest.approx(float((sqrt_psd(a) - sqrt_psd(b)).square().sum()))


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
def test_distance_follows_scale_and_ignores_rotation(scale):
    a, b = spd(2)
    q = rotation(6, seed=1)

    assert bures_squared(scale * q @ a @ q.mT, scale * q @ b @ q.mT) == pytest.approx(scale * bures_squared(a, b))


@given(seed=integers(0, 2**31))
@settings(max_examples=25, deadline=None)
def test_the_map_is_symmetric_positive_and_arrives(seed):
    a, b = spd(2, seed=seed)
    mapped = bures_map(a, b)

    assert_close(mapped, mapped.mT)
    assert float(torch.linalg.eigvalsh(mapped)[0]) > 0
    assert_close(mapped @ a @ mapped, b)
    # its cost is the distance: E|Ax - x|^2 = tr (A - I) a (A - I)
    assert float(((mapped - EYE) @ a @ (mapped - EYE)).trace()) == pytest.approx(bures_squared(a, b))


def test_a_map_from_a_singular_matrix_reaches_what_it_can():
    a = spd(1, rank=3)[0]
    b = rotation(6, seed=2)
    inside = a @ spd(1, seed=3)[0] @ a  # variance in the range of a only

    assert_close(bures_map(a, inside) @ a @ bures_map(a, inside), inside)
    with pytest.raises(ValueError, match=r"no linear map turns `source` \(rank 3\) into `target` \(rank 6\)"):
        bures_map(a, b @ spd(1)[0] @ b.mT)


def test_a_map_may_lead_out_of_the_directions_in_which_the_source_varies():
    line = torch.diag(torch.tensor([1.0, 0.0], dtype=torch.float64))
    turned = torch.ones(2, 2, dtype=torch.float64)
    mapped = bures_map(line, turned)

    assert_close(mapped, torch.tensor([[1.0, 0.0], [1.0, 0.0]], dtype=torch.float64))
    a, b = spd(1, rank=4)[0], spd(1, seed=5, rank=3)[0]
    assert_close(bures_map(a, b) @ a @ bures_map(a, b).mT, b)


def test_matrices_that_commute_average_by_their_roots():
    matrices, weight = commuting(), shares(4)
    root = torch.einsum("k,kij->ij", weight, sqrt_psd(matrices))
    found = barycenter(matrices, weight)

    assert found.converged
    assert_close(found.matrix, root @ root)


@pytest.mark.parametrize("k", [2, 3, 5])
@pytest.mark.parametrize("d", [1, 6])
def test_the_barycentre_is_that_of_the_published_iteration(k, d):
    matrices, weight = spd(k, d), shares(k)
    found = barycenter(matrices, weight)

    assert found.converged
    assert found.residual <= 1e-8
    assert_close(found.matrix, slow_barycenter(matrices, weight), rtol=1e-7, atol=1e-9)
    assert first_order_residual(found.matrix, matrices, weight) <= 2e-8
    assert found.objective == pytest.approx(
        sum(float(w) * slow_squared(found.matrix, m) for w, m in zip(weight, matrices, strict=True)), rel=1e-7, abs=1e-9
    )


def test_two_matrices_by_formula_equal_the_fixed_point():
    pair = spd(2)
    weight = torch.tensor([0.3, 0.7], dtype=torch.float64)
    closed = barycenter(pair, weight)
    # the same problem as three matrices, one of them given twice
    iterated = barycenter(pair[[0, 1, 1]], torch.tensor([0.3, 0.4, 0.3], dtype=torch.float64), tolerance=1e-11)

    assert (closed.iterations, closed.converged) == (0, True)
    assert iterated.iterations > 1
    assert_close(closed.matrix, iterated.matrix, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("ranks", [(3, 6), (6, 3), (3, 3), (2, 5)])
def test_two_singular_matrices_have_the_least_objective(ranks):
    pair = torch.stack([spd(1, seed=i, rank=rank)[0] for i, rank in enumerate(ranks)])
    weight = torch.tensor([0.4, 0.6], dtype=torch.float64)
    found = barycenter(pair, weight)
    # the best value of w1 B(S, a) + w2 B(S, b) is w1 w2 B(a, b), on the shortest path between them
    best = 0.24 * slow_squared(*pair)

    assert found.objective == pytest.approx(best, rel=1e-6)
    assert 0.4 * slow_squared(found.matrix, pair[0]) + 0.6 * slow_squared(found.matrix, pair[1]) == pytest.approx(
        best, rel=1e-6
    )


@given(seed=integers(0, 2**31))
@settings(max_examples=10, deadline=None)
def test_no_nearby_matrix_is_a_better_average(seed):
    matrices, weight = spd(3, seed=seed), shares(3)
    found = barycenter(matrices, weight)

    def objective(s):
        return sum(float(w) * slow_squared(s, m) for w, m in zip(weight, matrices, strict=True))

    for i in range(5):
        nudge = EYE + 0.01 * torch.randn(6, 6, generator=generator(i), dtype=torch.float64)
        assert objective(nudge @ found.matrix @ nudge.mT) > found.objective


def test_the_average_follows_scale_and_rotation():
    matrices, weight = spd(4), shares(4)
    q = rotation(6, seed=1)
    plain = barycenter(matrices, weight, tolerance=1e-11).matrix

    for scale in (1e-12, 1e12):
        turned = barycenter(scale * q @ matrices @ q.mT, weight, tolerance=1e-11)
        assert turned.converged
        assert_close(turned.matrix / scale, q @ plain @ q.mT)


@pytest.mark.parametrize("spread", [1.0, 1e-3, 1e-6])
def test_maps_carry_every_matrix_to_the_average_even_in_its_weakest_direction(spread):
    scale = torch.logspace(0, np.log10(spread), 6, dtype=torch.float64)
    matrices, weight = scale[:, None] * spd(4) * scale, shares(4)
    found = barycenter(matrices, weight)
    whiten = torch.linalg.inv(found.factor)

    assert found.converged
    for mapped, matrix in zip(found.maps(), matrices, strict=True):
        assert_close(whiten @ mapped @ matrix @ mapped.mT @ whiten.mT, EYE, rtol=0, atol=1e-8)
        assert_close(mapped, mapped.mT, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("d", [6, 130])
def test_stopping_early_costs_minimality_but_not_arrival(d):
    matrices = spd(5, d)
    found = barycenter(matrices, max_iterations=1)

    assert not found.converged
    assert found.residual > 1e-3
    for mapped, matrix in zip(found.maps(), matrices, strict=True):
        assert_close(mapped @ matrix @ mapped.mT, found.matrix)


def test_directions_without_variance_are_left_out():
    basis = rotation(6)[:, :4]
    inner = spd(3, 4)
    found = barycenter(basis @ inner @ basis.mT)

    assert found.converged
    assert_close(found.matrix, basis @ barycenter(inner).matrix @ basis.mT, rtol=1e-6, atol=1e-8)
    assert_close(found.maps()[1] @ (basis @ inner[1] @ basis.mT) @ found.maps()[1].mT, found.matrix)
    assert barycenter(torch.zeros(3, 4, 4)).matrix.norm() == 0


def test_three_singular_matrices_give_an_average_or_say_that_they_do_not():
    matrices = torch.stack([spd(1, seed=i, rank=4)[0] for i in range(3)])
    found = barycenter(matrices, shares(3), max_iterations=300)

    assert found.converged == (found.residual <= 1e-8)
    assert found.objective <= sum(
        float(w) * slow_squared(matrices.mean(dim=0), m) for w, m in zip(shares(3), matrices, strict=True)
    )


def test_zero_matrices_among_others_are_handled():
    matrices = torch.cat([spd(3), torch.zeros(1, 6, 6, dtype=torch.float64)])
    found = barycenter(matrices)

    # the root of nothing is nothing: the average of four roots, one of them zero
    assert found.converged
    assert_close(found.matrix, 0.75**2 * barycenter(matrices[:3]).matrix, rtol=1e-6, atol=1e-8)
    with pytest.raises(ValueError, match="a matrix is singular"):
        found.maps()
    pair = torch.stack([torch.zeros_like(matrices[0]), matrices[1]])
    assert_close(barycenter(pair).matrix, matrices[1] / 4)


def test_a_matrix_without_weight_changes_nothing():
    matrices = spd(4)
    weight = torch.tensor([0.5, 0.0, 0.2, 0.3], dtype=torch.float64)

    assert_close(barycenter(matrices, weight).matrix, barycenter(matrices[[0, 2, 3]], weight[[0, 2, 3]]).matrix)
    assert_close(barycenter(matrices, torch.tensor([0.0, 0.0, 2.0, 0.0])).matrix, matrices[2])


def test_large_matrices_start_in_float32_and_end_exact():
    # random rotations of one log-spaced spectrum
    matrices = torch.stack(
        [(q := rotation(130, i)) @ torch.diag(torch.logspace(0, -3, 130, dtype=torch.float64)) @ q.mT for i in range(3)]
    )
    found = barycenter(matrices)

    assert found.converged
    assert first_order_residual(found.matrix, matrices, torch.full((3,), 1 / 3, dtype=torch.float64)) <= 2e-8


def test_results_keep_the_precision_they_were_given():
    assert barycenter(spd(3).float()).matrix.dtype == torch.float32
    assert bures_map(*spd(2).float()).dtype == torch.float32


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: bures_squared(EYE, torch.ones(2, 2)), "cannot be compared"),
        (lambda: bures_squared(EYE, torch.triu(torch.ones(6, 6))), "`b` is not symmetric"),
        (lambda: bures_squared(-EYE, EYE), "negative variance"),
        (lambda: barycenter(EYE * torch.nan * torch.ones(2, 1, 1)), "NaN or infinite"),
        (lambda: barycenter(spd(2), torch.tensor([1.0, -1.0])), "none negative"),
        (lambda: barycenter(spd(2), torch.zeros(2)), "not all zero"),
    ],
)
def test_a_mistake_is_explained(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def rank_deficient(k, d, seed):
    """One matrix of full rank and others that lose one rank more each."""
    return torch.stack([spd(1, d, seed=seed + c, rank=d + 4 if c == 0 else max(1, d - c))[0] for c in range(k)])


def within(basis, matrices):
    return basis @ matrices @ basis.mT


@settings(max_examples=8, deadline=None)
@given(seed=integers(0, 2**30), k=integers(2, 4), d=integers(2, 5))
def test_singular_matrices_beside_one_of_full_rank_have_the_average_of_the_published_iteration(seed, k, d):
    matrices, weight = rank_deficient(k, d, seed), shares(k)
    found = barycenter(matrices, weight, tolerance=1e-12)

    assert found.converged
    assert found.residual < 1e-11
    # the roots of rounding errors keep the published form from more
    atol = 1e-8 * float(matrices.abs().max()) * float(torch.linalg.cond(found.matrix)) ** 0.5
    assert_close(found.matrix, slow_barycenter(matrices, weight), rtol=1e-8, atol=atol)


@pytest.mark.peer
@settings(max_examples=12, deadline=None)
@given(seed=integers(0, 2**30), k=integers(2, 5), d=integers(2, 7), more=integers(0, 3))
def test_the_barycentre_agrees_with_pot(seed, k, d, more):
    gaussian = pytest.importorskip("ot.gaussian")
    matrices, weight = spd(k, d, seed=seed), shares(k)
    with contextlib.redirect_stdout(io.StringIO()):  # it says so when rounding keeps it above 1e-12
        peer = gaussian.bures_barycenter_fixpoint(matrices.numpy(), weight.numpy(), num_iter=500, eps=1e-12)
    basis = rotation(d + more, seed)[:, :d]  # with `more`, all are singular; the peer can only take them in their range
    found = barycenter(within(basis, matrices), weight, tolerance=1e-12, max_iterations=1000)

    wanted = within(basis, torch.from_numpy(np.asarray(peer)))
    assert_close(found.matrix, wanted, rtol=1e-8, atol=1e-8 * float(matrices.abs().max()))


@pytest.mark.peer
@settings(max_examples=20, deadline=None)
@given(seed=integers(0, 2**30), d=integers(1, 7), more=integers(0, 3))
def test_maps_and_distances_agree_with_pot(seed, d, more):
    gaussian = pytest.importorskip("ot.gaussian")
    start, end = spd(2, d, seed=seed)
    peer, _ = gaussian.bures_wasserstein_mapping(np.zeros(d), np.zeros(d), start.numpy(), end.numpy())
    distance = float(gaussian.bures_distance(start.numpy(), end.numpy()))
    basis = rotation(d + more, seed)[:, :d]
    mapped = bures_map(within(basis, start), within(basis, end))
    size = max(1.0, float(mapped.abs().max()))

    assert_close(mapped, within(basis, torch.from_numpy(np.asarray(peer))), rtol=1e-8, atol=1e-8 * size)
    assert bures_squared(start, end) == pytest.approx(
        distance**2, rel=1e-8, abs=1e-8 * float(start.trace() + end.trace())
    )


@settings(max_examples=20, deadline=None)
@given(seed=integers(0, 2**30), d=integers(2, 7), rank=integers(1, 6))
def test_a_singular_target_is_reached_at_the_cost_of_the_distance(seed, d, rank):
    start, end = spd(1, d, seed=seed)[0], spd(1, d, seed=seed + 1, rank=min(rank, d))[0]
    mapped = bures_map(start, end)
    eye, size = torch.eye(d, dtype=torch.float64), float(start.trace() + end.trace())

    assert_close(mapped @ start @ mapped, end, rtol=0, atol=1e-12 * size)
    assert float(torch.linalg.eigvalsh(mapped)[0]) > -1e-12 * float(mapped.norm())
    cost = float(((mapped - eye) @ start @ (mapped - eye)).trace())
    assert bures_squared(start, end) == pytest.approx(cost, rel=1e-8, abs=1e-8 * size)
