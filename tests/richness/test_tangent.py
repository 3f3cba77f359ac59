"""The tangent kernel against explicit Jacobians, and what is known in closed form."""

import copy
import math

import pytest
import torch
from torch import nn
from torch.func import functional_call, jacrev

from firstcue.forward import seeded
from firstcue.richness.curvature import tangent_lambda_max
from firstcue.richness.tangent import (
    kernel_distance,
    kernel_velocity,
    linearisation_error,
    tangent_change,
    tangent_kernel,
)


def mlp(seed=0, width=10, dtype=torch.float32):
    with seeded(seed):
        return nn.Sequential(nn.Linear(4, width), nn.ReLU(), nn.BatchNorm1d(width), nn.Dropout(), nn.Linear(width, 3)).to(dtype)  # fmt: skip


def inputs(n=9, seed=0):
    return torch.randn(n, 4, generator=torch.Generator().manual_seed(seed))


def jacobian(model, x):
    """`(n, C, P)`, written out."""
    own = copy.deepcopy(model).eval()
    params = {n: p.detach() for n, p in own.named_parameters() if p.requires_grad}
    parts = jacrev(lambda p: functional_call(own, p, (x,)))(params)
    return torch.cat([parts[name].flatten(2) for name in params], dim=2).double()


@pytest.mark.parametrize("max_bytes", [2**28, 3000, 1])
def test_the_kernel_is_that_of_the_jacobian_whatever_the_block(max_bytes):
    model, x = mlp(), inputs()
    j = jacobian(model, x)

    trace = tangent_kernel(model, x, max_bytes=max_bytes)
    total = tangent_kernel(model, x, kind="sum", max_bytes=max_bytes)

    assert torch.allclose(trace, torch.einsum("acp,bcp->ab", j, j) / 3, rtol=1e-5, atol=1e-5)
    assert torch.allclose(total, torch.einsum("acp,bdp->ab", j, j) / 3, rtol=1e-5, atol=1e-5)


def test_frozen_parameters_do_not_count_and_nothing_is_left_behind():
    model = mlp().train()
    model[0].requires_grad_(False)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    random = torch.get_rng_state()

    kernel = tangent_kernel(model, inputs())

    j = jacobian(model, inputs())
    assert torch.allclose(kernel, torch.einsum("acp,bcp->ab", j, j) / 3, rtol=1e-5, atol=1e-5)
    assert model.training and torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


def test_kernels_that_are_proportional_are_at_distance_zero_and_disjoint_ones_at_one():
    kernel = torch.diag(torch.tensor([1.0, 2.0, 0.0]))

    assert kernel_distance(kernel, 5 * kernel) == pytest.approx(0, abs=1e-12)
    assert kernel_distance(kernel, torch.diag(torch.tensor([0.0, 0.0, 3.0]))) == 1
    assert math.isnan(kernel_distance(kernel, 0 * kernel))


def test_velocity_is_distance_per_step():
    kernels = [tangent_kernel(mlp(seed), inputs()) for seed in range(3)]

    first, second = kernel_velocity(kernels, [0, 10, 40])

    assert first == pytest.approx(kernel_distance(kernels[0], kernels[1]) / 10)
    assert second == pytest.approx(kernel_distance(kernels[1], kernels[2]) / 30)
    with pytest.raises(ValueError, match="increase"):
        kernel_velocity(kernels, [0, 10, 10])


def test_change_is_zero_at_the_start_and_grows_with_the_step():
    start = mlp()
    moved = [copy.deepcopy(start) for _ in range(3)]
    direction = inputs(10, 3)
    with torch.no_grad():
        for size, model in zip((0.0, 0.1, 3.0), moved, strict=True):
            model[0].weight.add_(size * direction)

    none, little, much = (tangent_change(model, start, inputs()) for model in moved)

    assert none == pytest.approx(0, abs=1e-9) and none < little < much


def test_a_model_that_is_linear_in_its_parameters_has_no_linearisation_error():
    start = nn.Linear(4, 2)
    end = nn.Linear(4, 2)

    assert linearisation_error(end, start, inputs()) < 1e-6


def test_linearisation_error_is_that_of_the_jacobian():
    start, end, x = mlp(0), mlp(1), inputs()
    end.load_state_dict(end.state_dict() | {k: v for k, v in start.state_dict().items() if "running" in k})
    step = torch.cat(
        [(b - a).detach().flatten() for a, b in zip(start.parameters(), end.parameters(), strict=True)]
    ).double()
    f0, f1 = (copy.deepcopy(m).eval()(x).detach().double() for m in (start, end))

    expected = (f1 - f0 - jacobian(start, x) @ step).norm() / (f1 - f0).norm()

    assert linearisation_error(end, start, x) == pytest.approx(float(expected), rel=1e-5)


def test_a_tiny_step_is_linear_and_outputs_that_did_not_move_have_no_error():
    start = mlp(dtype=torch.float64)
    end = copy.deepcopy(start)
    with torch.no_grad():
        end[0].weight.add_(1e-6)

    assert linearisation_error(end, start, inputs()) < 1e-4
    assert math.isnan(linearisation_error(start, start, inputs()))


def test_models_of_another_architecture_are_refused():
    with pytest.raises(ValueError, match="other parameters"):
        linearisation_error(mlp(width=5), mlp(width=6), inputs())


def test_the_largest_eigenvalue_is_that_of_the_jacobian():
    model, x = mlp(), inputs(30)
    j = jacobian(model, x).flatten(0, 1)

    found = tangent_lambda_max(model, x, iterations=2000, tolerance=1e-9)

    assert found.converged and found.residual < 1e-2
    assert found.value == pytest.approx(float(torch.linalg.matrix_norm(j, 2)) ** 2 / 30, rel=1e-4)


def test_the_curvature_of_a_loss_is_that_of_its_gauss_newton_matrix():
    model, x, y = mlp(), inputs(20), torch.arange(20) % 3
    j = jacobian(model, x).flatten(0, 1)
    outputs = copy.deepcopy(model).eval()(x).detach()
    h = torch.func.hessian(lambda f: nn.functional.cross_entropy(f, y))(outputs).reshape(60, 60).double()
    expected = torch.linalg.eigvalsh(j.T @ h @ j)[-1]

    found = tangent_lambda_max(
        model, x, loss=lambda f: nn.functional.cross_entropy(f, y), iterations=2000, tolerance=1e-9
    )

    assert found.value == pytest.approx(float(expected), rel=1e-4)


def test_too_few_iterations_say_that_they_did_not_converge():
    found = tangent_lambda_max(mlp(), inputs(30), iterations=1)

    assert not found.converged and found.iterations == 1


def test_models_with_attention_and_normalisation_can_be_measured():
    class Small(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
            self.head = nn.Linear(8, 3)

        def forward(self, x):
            return self.head(self.layer(x).mean(dim=1))

    model, x = Small(), torch.randn(6, 5, 8)
    end = copy.deepcopy(model)
    with torch.no_grad():
        end.head.weight[:, 0].add_(0.1)

    assert linearisation_error(end, model, x) < 1e-4
    assert tangent_kernel(model, x).diagonal().min() > 0
    assert tangent_lambda_max(model, x).value > 0


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: tangent_kernel(nn.Linear(4, 2).requires_grad_(False), inputs()), "requires gradients"),
        (lambda: tangent_kernel(nn.Linear(4, 2), inputs()[:0]), "no rows"),
        (lambda: kernel_distance(torch.eye(2), torch.eye(3)), "same inputs"),
    ],
)
def test_what_has_no_tangent_kernel_is_refused_with_the_way_out(call, message):
    with pytest.raises(ValueError, match=message):
        call()
