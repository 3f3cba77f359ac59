"""Estimates of the inconsistency score against closed forms, the paper's patchwork, and environments that agree."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from firstcue.agreement._subspace import largest_on_ball
from firstcue.agreement.consistency import MEANING, inconsistency, losses_of
from firstcue.agreement.quadratic import quadratic_inconsistency
from firstcue.experiments.agreement.patchwork import Patchwork, patchwork_losses


class Point(nn.Module):
    """Nothing but a vector of parameters at zero."""

    def __init__(self, size, dtype=torch.float64):
        super().__init__()
        self.theta = nn.Parameter(torch.zeros(size, dtype=dtype))


def quadratic(hessian, at=0.0):
    return lambda model: (model.theta - at) @ hessian @ (model.theta - at) / 2


def random_hessians(count, size, seed, floor=0.3):
    generator = torch.Generator().manual_seed(seed)
    half = torch.randn(count, size, size, generator=generator, dtype=torch.float64) / size**0.5
    return half @ half.mT + floor * torch.eye(size, dtype=torch.float64)


@pytest.mark.parametrize(("count", "size", "steps"), [(2, 6, 60), (3, 5, 40), (2, 50, 200)])
def test_the_path_search_comes_within_two_percent_of_the_closed_form_and_never_above(count, size, steps):
    h = random_hessians(count, size, 1)
    eps = [1e-3, 0.1]
    found = inconsistency(Point(size), [quadratic(a) for a in h], eps, steps=steps)
    exact = np.array([quadratic_inconsistency(h, e) for e in eps])
    assert (found.path <= exact * (1 + 1e-9)).all() and (found.ray <= exact * (1 + 1e-9)).all()
    assert (found.path >= 0.98 * exact).all(), f"path {found.path}, exact {exact}"


def test_the_quadratic_estimate_is_exact_in_few_dimensions_without_damping():
    h = random_hessians(3, 4, 5)
    found = inconsistency(Point(4), [quadratic(a) for a in h], 0.2, damping=1e-12)
    assert found.quadratic == pytest.approx(quadratic_inconsistency(h, 0.2), rel=1e-6)


def test_equal_environments_are_consistent():
    h = random_hessians(1, 4, 3)[0]
    found = inconsistency(Point(4), [quadratic(h), quadratic(h)], [0.01, 1.0])
    assert (found.normalised <= 1 + 1e-9).all() and (found.normalised > 0.97).all()
    assert found.gap == 0 and not found.growing


def test_the_patchwork_solution_is_inconsistent_without_bound():
    found = inconsistency(Patchwork(), patchwork_losses(), 1e-6)
    assert found.path >= 1.05 and found.growing
    assert any("gaining" in warning for warning in found.warnings)


def test_the_patchwork_needs_the_parameter_of_the_figure_not_of_the_text():
    losses = patchwork_losses()
    figure = [float(loss(Patchwork().requires_grad_(False))) for loss in losses.values()]
    text = [float(loss(Patchwork(second=-50.0).requires_grad_(False))) for loss in losses.values()]
    assert figure == pytest.approx([0.0032, 0.0032], abs=5e-5)
    assert text == pytest.approx([0.046, 0.0071], rel=0.03), "minus 50 fits the target of neither environment"


def test_half_of_the_patchwork_can_be_spoilt_unseen_by_the_other():
    losses = patchwork_losses()
    spoilt = Patchwork().requires_grad_(False)
    before = [float(loss(spoilt)) for loss in losses.values()]
    spoilt.theta[5] = -0.5
    after = [float(loss(spoilt)) for loss in losses.values()]
    assert abs(after[0] - before[0]) < 1e-12 and after[1] == pytest.approx(1.0584, abs=2e-3)


def test_a_model_is_consistent_if_both_environments_hold_the_same_rows():
    loss = next(iter(patchwork_losses().values()))
    found = inconsistency(Patchwork(), [loss, loss], [1e-6, 1e-2])
    assert (found.path <= found.eps * (1 + 1e-9)).all()


def test_a_difference_that_is_there_already_counts_in_the_score_but_not_in_the_centred_one():
    h = torch.eye(2, dtype=torch.float64)
    found = inconsistency(Point(2), [quadratic(h), lambda m: 5 + quadratic(h)(m)], 0.1)
    assert found.gap == pytest.approx(5)
    assert 5 < found.path <= 5.1 + 1e-9 and found.path_centred <= 0.1 + 1e-9
    assert found.pair in {("0", "1"), ("1", "0"), ("0", "0"), ("1", "1")}


def test_a_wider_band_never_has_a_smaller_score():
    h = random_hessians(3, 8, 4)
    found = inconsistency(
        Point(8), [quadratic(a, at=0.1 * i) for i, a in enumerate(h)], np.logspace(-4, 0, 5), steps=10
    )
    assert (np.diff(found.path) >= 0).all() and (np.diff(found.ray) >= 0).all()


def test_levels_come_back_in_the_order_in_which_they_were_asked_for():
    h = random_hessians(2, 3, 4)
    losses = [quadratic(a) for a in h]
    mixed = inconsistency(Point(3), losses, [0.5, 0.01, 0.5])
    assert mixed.eps.tolist() == [0.5, 0.01, 0.5] and mixed.path[0] == mixed.path[2] > mixed.path[1]
    assert isinstance(inconsistency(Point(3), losses, 0.5).path, float)


def network():
    generator = torch.Generator().manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Dropout(0.5), nn.Linear(5, 2))
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=generator))
    x = torch.randn(40, 3, generator=generator)
    return model, x, (x[:, 0] > 0).long(), torch.arange(40) % 3


def test_the_model_is_left_bit_for_bit_as_it_was_found():
    model, x, y, environment = network()
    model.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    graph = model(x).sum()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    random_state = torch.get_rng_state()
    found = inconsistency(model, losses_of(nn.functional.cross_entropy, (x, y), environment), 0.05, steps=5)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert model.training and torch.equal(random_state, torch.get_rng_state())
    assert all(p.grad is None for p in model.parameters())
    graph.backward()  # a graph of the user's own still runs
    assert set(found.losses) == {"0", "1", "2"} and found.quadratic > 0


def test_the_model_is_put_back_after_an_error():
    model = Point(2)
    calls = []

    def failing(m):
        calls.append(1)
        if len(calls) > 6:
            raise KeyError("no")
        return (m.theta**2).sum()

    with pytest.raises(KeyError):
        inconsistency(model, [failing, failing], 0.1)
    assert not model.theta.any()


def test_the_result_repeats():
    model, x, y, environment = network()
    losses = losses_of(nn.functional.cross_entropy, (x, y), environment)
    first = inconsistency(model, losses, 0.05, steps=5, seed=3)
    again = inconsistency(model, losses, 0.05, steps=5, seed=3)
    assert first == again


def test_a_layer_that_cannot_be_differentiated_twice_leaves_the_bounds():
    class Slope(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return 2 * x

        @staticmethod
        def backward(ctx, g):
            raise NotImplementedError("the derivative of slope is not implemented")

    class Once(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return (x**2).sum()

        @staticmethod
        def backward(ctx, g):
            return g * Slope.apply(ctx.saved_tensors[0])

    found = inconsistency(Point(3), [lambda m: Once.apply(m.theta), lambda m: 2 * Once.apply(m.theta)], 0.1)
    assert math.isnan(found.quadratic) and 0.19 < found.path <= 0.2 + 1e-9
    assert any("differentiated twice" in warning for warning in found.warnings)


def test_a_point_that_is_no_minimum_is_named():
    h = torch.eye(2, dtype=torch.float64)
    found = inconsistency(Point(2), [quadratic(h, at=3.0), quadratic(h, at=3.1)], 1e-3)
    assert any("no minimum" in warning for warning in found.warnings)
    assert found.gradient_norm == pytest.approx(3.05 * 2**0.5)


def test_levels_below_rounding_are_named():
    model = Point(2, torch.float32)
    losses = [lambda m: 1 + (m.theta**2).sum(), lambda m: 1 + 2 * (m.theta**2).sum()]
    assert any("rounding" in warning for warning in inconsistency(model, losses, 1e-7).warnings)


def test_flat_environments_move_nothing():
    found = inconsistency(Point(2), [lambda m: 0 * m.theta.sum(), lambda m: 0 * m.theta.sum()], 0.1)
    assert found.path == 0 and math.isnan(found.quadratic)


@pytest.mark.parametrize(
    ("losses", "message"),
    [
        ([lambda m: m.theta.sum()], "at least two"),
        ([lambda m: m.theta.sum() * math.nan, lambda m: m.theta.sum()], "environment 0 is nan"),
        ([lambda m: m.theta, lambda m: m.theta.sum()], "scalar"),
        ([lambda m: m.theta.sum(), lambda m: torch.rand(())], "call to call"),
        ([lambda m: m.theta.sum(), lambda m: torch.ones(())], "environment 1 does not depend"),
    ],
)
def test_losses_that_cannot_be_searched_are_refused(losses, message):
    with pytest.raises(ValueError, match=message):
        inconsistency(Point(2), losses, 0.1)


@pytest.mark.parametrize("eps", [0.0, -0.1, [0.1, math.nan], []])
def test_levels_have_to_be_positive(eps):
    with pytest.raises(ValueError, match="eps"):
        inconsistency(Point(1), [lambda m: m.theta.sum()] * 2, eps)


def test_frozen_models_are_refused():
    with pytest.raises(ValueError, match="requires a gradient"):
        inconsistency(Point(2).requires_grad_(False), [lambda m: m.theta.sum()] * 2, 0.1)


def test_losses_of_environments_are_means_over_their_rows():
    x, y = torch.arange(6.0)[:, None], torch.zeros(6, 1)
    losses = losses_of(nn.functional.mse_loss, (x, y), ["a", "b", "b", "a", "b", "b"])
    assert float(losses["a"](nn.Identity())) == (0 + 9) / 2
    assert float(losses["b"](nn.Identity())) == (1 + 4 + 16 + 25) / 4
    with pytest.raises(ValueError, match="no environment"):
        losses_of(nn.functional.mse_loss, (x, y))


def test_every_estimate_says_what_it_may_be_taken_for():
    assert MEANING["path"].startswith("lower bound") and MEANING["ray"].startswith("lower bound")
    assert "approximation" in MEANING["quadratic"]


@pytest.mark.parametrize("seed", range(4))
def test_the_largest_value_on_a_ball_is_found(seed):
    generator = torch.Generator().manual_seed(seed)
    a = torch.randn(3, 3, generator=generator, dtype=torch.float64)
    a, b = (
        a + a.mT - (2.0 if seed % 2 else 0.0) * torch.eye(3),
        torch.randn(3, generator=generator, dtype=torch.float64),
    )
    w = torch.randn(400_000, 3, generator=generator, dtype=torch.float64)
    w *= (torch.rand(400_000, 1, generator=generator, dtype=torch.float64) ** (1 / 6) * 2**0.5) / w.norm(
        dim=1, keepdim=True
    )
    sampled = float((torch.einsum("ni,ij,nj->n", w, a, w) / 2 + w @ b).max())
    exact = largest_on_ball(a, b, 2.0)
    assert sampled <= exact + 1e-9 and sampled > exact - 0.02 * abs(exact) - 0.02


def test_on_a_ball_the_linear_term_may_miss_the_steepest_direction():
    a = torch.diag(torch.tensor([1.0, 4.0], dtype=torch.float64))
    assert largest_on_ball(a, torch.tensor([0.0, 0.0]), 2.0) == pytest.approx(4.0)
    assert largest_on_ball(a, torch.tensor([1e-3, 0.0]), 2.0) == pytest.approx(4.0, rel=1e-5)
