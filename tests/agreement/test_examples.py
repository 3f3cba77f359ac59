"""Agreement of single examples by matrix products is what counting signs one by one gives."""

from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, mse_loss
from torch.testing import assert_close

from firstcue import example_agreement, example_sums
from firstcue.agreement._signs import sum_of_signs
from firstcue.agreement.sums import GradientSums


def one_by_one(model, loss, x, y):
    """`(n, ...)` gradients, each by its own backward pass."""
    names = [name for name, _ in model.named_parameters()]
    rows = [
        torch.autograd.grad(loss(model(x[i : i + 1]), y[i : i + 1]), list(model.parameters())) for i in range(len(x))
    ]
    return {name: torch.stack([row[i] for row in rows]) for i, name in enumerate(names)}


def network():
    model = nn.Sequential(nn.Linear(5, 9), nn.ReLU(), nn.Linear(9, 7), nn.ReLU(), nn.Linear(7, 3))
    with torch.no_grad():
        for i, p in enumerate(model.parameters()):
            p.copy_(torch.randn(p.shape, generator=torch.Generator().manual_seed(i)))
    return model


def data(n=37, d=5):
    x = torch.randn(n, d, generator=torch.Generator().manual_seed(0))
    x[::3, 1] = 0.0  # exact zeros among the activations
    return x, torch.arange(n) % 3


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_signs_are_counted_exactly(dtype):
    model, (x, y) = network().to(dtype), data()
    x = x.to(dtype)

    found = example_sums(model, cross_entropy, (x, y), ("signs", "nonzero"))

    for name, stack in one_by_one(model, cross_entropy, x, y).items():
        assert torch.equal(found[name].signs, stack.sign().sum(dim=0)), name
        assert torch.equal(found[name].nonzero, (stack != 0).sum(dim=0).to(dtype)), name
        assert found[name].count == 37
    agreement = example_agreement(model, cross_entropy, (x, y))
    assert all(float(a.max()) <= 1 and float(a.min()) >= 0 for a in agreement.values())


def test_moments_of_examples_are_those_of_their_gradients():
    model, (x, y) = network().double(), data()
    x = x.double() + 0.5

    found = example_sums(model, cross_entropy, (x, y))

    for name, stack in one_by_one(model, cross_entropy, x, y).items():
        assert_close(found[name].mean, stack.mean(dim=0))
        assert_close(found[name].variance, stack.var(dim=0), rtol=1e-6, atol=1e-10)
        assert_close(found[name].squares, stack.square().sum(dim=0), rtol=1e-6, atol=1e-10)


def test_examples_whose_targets_pull_alike_agree_and_opposite_ones_do_not():
    model = nn.Linear(3, 1)
    x = torch.ones(10, 3)
    alike = example_agreement(model, mse_loss, (x, torch.full((10, 1), 50.0)))
    opposite = example_agreement(model, mse_loss, (x, torch.tensor([[50.0], [-50.0]] * 5)))

    assert bool((alike["weight"] == 1).all()) and bool((opposite["weight"] == 0).all())


def test_large_images_are_taken_in_parts():
    """A batch larger than one chunk, on a convolution whose patches are many."""
    model = nn.Sequential(nn.Conv2d(3, 5, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(5 * 64, 2)).double()
    x = torch.randn(70, 3, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y = torch.arange(70) % 2

    found = example_agreement(model, cross_entropy, (x, y))

    for name, stack in one_by_one(model, cross_entropy, x, y).items():
        assert_close(found[name], stack.sign().mean(dim=0).abs(), rtol=0, atol=1e-12)


def test_half_precision_examples_are_summed_in_float32():
    model, (x, y) = network().bfloat16(), data(600)

    found = example_sums(model, cross_entropy, (x.half(), y), ("signs",))

    assert found["0.bias"].total.dtype == torch.float32
    assert float(found["0.bias"].agreement.max()) <= 1


def test_an_unknown_sum_is_refused():
    with pytest.raises(ValueError, match='"signs", "scatter"'):
        example_sums(network(), cross_entropy, data(), ("cubes",))


@pytest.mark.parametrize("cuts", [[37], [1] * 37, [5, 1, 20, 11]])
def test_sums_do_not_depend_on_how_gradients_came(cuts):
    g = 100 + torch.randn(37, 4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    needs = ("signs", "nonzero", "scatter", "logs")
    whole, parts = GradientSums.of(g, needs), GradientSums(g[0], needs)

    for part in g.split(cuts):
        parts.add_one(part[0].clone()) if len(part) == 1 else parts.add(part)

    for name in ("total", *needs):
        assert_close(getattr(parts, name), getattr(whole, name))
    assert_close(parts.variance, g.var(dim=0))
    assert_close(parts.logs, (g.abs() + 1e-10).log().sum(dim=0))


def test_products_are_the_gradients_of_a_linear_layer():
    generator = torch.Generator().manual_seed(0)
    d, a = (torch.randn(50, k, generator=generator, dtype=torch.float64) for k in (4, 6))
    d[3], a[:, 2] = 0.0, 0.0
    needs = ("signs", "nonzero", "scatter", "logs")
    products = GradientSums(torch.zeros(4, 6, dtype=torch.float64), needs, floor=0.0)

    products.add_products(d, a)
    expected = GradientSums.of(d[:, :, None] * a[:, None, :], needs, floor=0.0)

    for name in ("total", *needs):
        assert_close(getattr(products, name), getattr(expected, name), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(1, 2, 1), (255, 6, 5), (256, 8, 3), (2047, 4, 4), (2048, 4, 4), (50, 7, 4)])
def test_two_sums_of_signs_in_one_float_are_both_exact(monkeypatch, shape, dtype):
    monkeypatch.setattr("firstcue.agreement._signs.LEAST", 0)
    n, outputs, inputs = shape
    generator = torch.Generator().manual_seed(n)
    d, a = (torch.randint(-1, 2, (n, k), generator=generator) for k in (outputs, inputs))
    d[:, 0], a[:, 0] = 1, 1
    d[:, 1], a[:, -1] = -1, 1  # the largest sums there are, beside each other and of both signs

    found = sum_of_signs(d.to(dtype), a.to(dtype))

    assert torch.equal(found.long(), d.mT @ a)
    assert found.dtype == dtype


def test_products_that_round_their_factors_hold_no_two_sums(monkeypatch):
    monkeypatch.setattr("firstcue.agreement._signs.LEAST", 0)
    d, a = torch.ones(300, 8), torch.ones(300, 8)
    d[::3, 4:] = -1
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        found = sum_of_signs(d, a)
    finally:
        torch.set_float32_matmul_precision(before)

    assert torch.equal(found, d.mT @ a)


def drawn():
    return np.random.random()  # noqa: NPY002


def numpys_generator():
    _, keys, place, *_ = np.random.get_state()  # noqa: NPY002
    return keys.tolist(), place


class Restless(nn.Linear):
    """Draws random numbers when it is called."""

    def forward(self, x):
        return super().forward(x) + 0 * drawn()


@pytest.mark.parametrize("where", ["model", "hook", "loss"])
def test_generators_stay_where_they_were_whoever_draws_from_them(where):
    def restless_loss(outputs, y):
        return cross_entropy(outputs, y) + 0 * drawn()

    model = nn.Sequential(Restless(3, 2) if where == "model" else nn.Linear(3, 2), nn.Dropout(0.5))
    if where == "hook":
        model[0].register_forward_hook(lambda *_: print(drawn()))
    batch, loss = (torch.randn(6, 3), torch.arange(6) % 2), restless_loss if where == "loss" else cross_entropy
    before, of_torch = numpys_generator(), torch.get_rng_state()

    example_agreement(model, loss, batch)

    assert numpys_generator() == before
    assert torch.equal(torch.get_rng_state(), of_torch)


def test_a_small_model_with_more_parameters_than_examples_works():
    model = nn.Linear(500, 2)
    x = torch.randn(3, 500, generator=torch.Generator().manual_seed(0))

    found = example_agreement(model, partial(cross_entropy, label_smoothing=0.1), (x, torch.tensor([0, 1, 0])))

    assert found["weight"].shape == (2, 500)
    assert set((found["weight"] * 3).round().int().flatten().tolist()) <= {1, 3}
