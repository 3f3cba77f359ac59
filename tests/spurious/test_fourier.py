"""Fourier coefficients, the shortcut's identity and the gradients that follow from it, against slow computation."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from torch import nn
from torch.nn.functional import softplus

from firstcue.spurious.boolean import boolean_layout
from firstcue.spurious.confounding import confounded_density, fourier_gap, label_shares, neuron_gradients
from firstcue.spurious.fourier import (
    all_signs,
    estimate_coefficient,
    fourier_coefficient,
    fourier_coefficients,
    walsh_hadamard,
)
from firstcue.spurious.functions import majority, parity, staircase, truth_table
from firstcue.spurious.slowdown import predicted_slowdown, saturated_margin


def random_table(arity, seed):
    return truth_table(np.random.default_rng(seed).choice([-1, 1], 1 << arity))


@given(st.integers(0, 8), st.integers(0, 2**32))
@settings(max_examples=30, deadline=None)
def test_the_transform_is_the_mean_of_each_product(k, seed):
    values = torch.from_numpy(np.random.default_rng(seed).normal(size=(2, 1 << k)))
    x = all_signs(k).double()
    slow = torch.stack(
        [(values * x[:, [i for i in range(k) if s >> i & 1]].prod(dim=1)).mean(dim=1) for s in range(1 << k)], dim=1
    )
    torch.testing.assert_close(walsh_hadamard(values), slow)
    torch.testing.assert_close(walsh_hadamard(values).square().sum(dim=1), values.square().mean(dim=1))  # Parseval
    torch.testing.assert_close(walsh_hadamard(walsh_hadamard(values)) * (1 << k), values)


def test_a_parity_is_one_coefficient():
    found = fourier_coefficients(parity(4))
    assert found[15] == 1 and found.abs().sum() == 1


def test_the_staircase_of_five_has_these_coefficients_and_no_others():
    large = [[1], [1, 2], [1, 2, 3], [1, 3, 5], [1, 2, 3, 4], [1, 2, 3, 4, 5]]
    f = staircase(5)
    found = fourier_coefficients(f)
    assert all(fourier_coefficient(f, [i - 1 for i in s]) == 0.375 for s in large)
    assert sorted(found[found != 0].tolist()) == [-0.125] * 10 + [0.375] * 6


@pytest.mark.parametrize(
    ("degree", "value"), [(1, 1), (2, 0.5), (3, 0.5), (4, 0.375), (5, 0.375), (6, 0.3125), (10, 0.246), (14, 0.209)]
)
def test_staircases_go_with_their_first_bit_and_parities_with_none(degree, value):
    assert fourier_coefficient(staircase(degree, ties="plus"), [0]) == pytest.approx(value, abs=5e-4)
    if degree > 1:
        assert all(fourier_coefficient(parity(degree), [i]) == 0 for i in range(degree))


def test_the_step_of_a_sum_has_coefficients_that_fall_with_size():
    found = fourier_coefficients(majority(9)) / 2
    by_size = {s: found[(1 << s) - 1].item() for s in range(1, 10)}
    assert [round(by_size[s], 4) for s in (1, 3, 5, 7, 9)] == [0.1367, -0.0195, 0.0117, -0.0195, 0.1367]
    assert all(by_size[s] == 0 for s in (2, 4, 6, 8))


def test_an_estimate_comes_with_its_error():
    f = staircase(5, size=30)
    found = [estimate_coefficient(f, [0, 2, 4], 30, samples=4000, seed=seed) for seed in range(60)]
    inside = np.mean([abs(value - 0.375) < 1.96 * error for value, error in found])
    assert 0.85 <= inside <= 1
    assert fourier_coefficient(f, [0, 20]) == 0


@pytest.mark.parametrize("strength", [0.5, 0.8, 0.99])
@pytest.mark.parametrize("sampling", ["core-uniform", "mixture"])
def test_every_mean_under_a_shortcut_is_the_cores_plus_the_discounted_cues(strength, sampling):
    core, spurious = random_table(5, 1), staircase(3)
    density = confounded_density(core, spurious, strength, sampling)
    x = all_signs(8)
    y, a = core(x[:, :5]).double(), spurious(x[:, 5:]).double()
    if sampling == "core-uniform" or abs(spurious.positive_share - 0.5) < 1e-12:
        for seed in range(20):
            h = torch.from_numpy(np.random.default_rng(seed).normal(size=256))
            expected = (y * h).mean() + (2 * strength - 1) * (a * h).mean()
            torch.testing.assert_close((density * y * h).sum(), expected)


def test_shares_of_the_hard_benchmark_are_those_of_its_ties():
    core, spurious = staircase(14, ties="plus"), staircase(10, ties="plus")
    shares = label_shares(core, spurious, "mixture")
    p, q = shares.core_positive, shares.spurious_positive
    assert shares.agree == pytest.approx(p * q + (1 - p) * (1 - q))
    whole = 0.9 * shares.positive_if_agree + 0.1 * shares.positive_if_not
    assert whole != pytest.approx(p, abs=0.01)
    same = label_shares(core, spurious, "core-uniform")
    assert same.positive_if_agree == same.positive_if_not == p
    shares = label_shares(parity(3), staircase(3), "mixture")
    assert shares.positive_if_agree == shares.positive_if_not == 0.5


def two_layer_net(seed, width=7, columns=6):
    generator = torch.Generator().manual_seed(seed)
    net = nn.Sequential(nn.Linear(columns, width), nn.ReLU(), nn.Linear(width, 1)).double()
    for p in net.parameters():
        p.data.copy_(torch.randn(p.shape, generator=generator))
    return net


@pytest.mark.parametrize("strength", [0.5, 0.9])
@pytest.mark.parametrize("spurious", [parity(2), staircase(2, ties="plus")], ids=lambda f: f.name)
@pytest.mark.parametrize("sampling", ["core-uniform", "mixture"])
@pytest.mark.parametrize("shuffle", [None, 1])
def test_gradients_of_neurons_are_those_of_autograd(strength, spurious, sampling, shuffle):
    core = parity(3)
    layout = boolean_layout(core, spurious, 1, shuffle=shuffle)
    net = two_layer_net(0)
    x = torch.empty(64, 6).index_copy_(1, torch.cat([layout.core, layout.spurious, layout.noise]), all_signs(6))
    y = core(x[:, layout.core]).double()
    density = confounded_density(core, spurious, strength, sampling).repeat(2) / 2
    outputs = net(x.double())[:, 0]
    shift = outputs.detach()  # the loss at output zero
    loss = (density * softplus(-y * (outputs - shift))).sum()
    loss.backward()
    signal = neuron_gradients(net[0].weight, net[0].bias, core, spurious, strength, layout, sampling=sampling)
    torch.testing.assert_close(-net[0].weight.grad, 0.5 * net[2].weight.detach().mT * signal, atol=1e-6, rtol=1e-5)


def test_the_gap_shows_the_easy_cue_first_and_only_while_it_is_there():
    core, spurious = parity(4), parity(1)
    layout = boolean_layout(core, spurious, 4)
    gaps = [fourier_gap(two_layer_net(3, 64, 9), core, spurious, s, layout) for s in (0.5, 0.7, 0.9)]
    assert gaps[0].spurious < gaps[1].spurious < gaps[2].spurious
    assert gaps[2].spurious > gaps[2].core


@pytest.mark.parametrize("strength", [0.55, 0.7, 0.9, 0.99])
def test_the_margin_saturates_where_all_rows_weigh_the_same(strength):
    def loss(m):
        return strength * math.log1p(math.exp(-m)) + (1 - strength) * math.log1p(math.exp(m))

    best = minimize_scalar(loss, bounds=(-1, 10), method="bounded", options={"xatol": 1e-9}).x
    assert best == pytest.approx(saturated_margin(strength), abs=1e-5)
    agree = strength / (1 + math.exp(saturated_margin(strength)))
    disagree = (1 - strength) / (1 + math.exp(-saturated_margin(strength)))
    assert agree == pytest.approx(strength * (1 - strength)) == disagree
    assert predicted_slowdown(strength) == pytest.approx(0.25 / agree)


def test_the_ends_of_the_law_are_infinite():
    assert [predicted_slowdown(s) for s in (0.0, 1.0)] == [math.inf] * 2
    assert saturated_margin(1.0) == math.inf == -saturated_margin(0.0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: walsh_hadamard(torch.zeros(3)), "2\\^k"),
        (lambda: fourier_coefficient(parity(2), [2]), "from 0 to 1"),
        (lambda: all_signs(30), "too many"),
        (lambda: estimate_coefficient(lambda x: x, [0], 2), "one number per row"),
        (lambda: confounded_density(parity(2), parity(0), 0.9), "impossible"),
        (lambda: confounded_density(parity(15), parity(15), 0.9), "too many"),
        (lambda: predicted_slowdown(1.2), "between 0 and 1"),
        (
            lambda: fourier_gap(
                two_layer_net(0, columns=3), parity(2), parity(1), 0.9, boolean_layout(parity(2), parity(1))
            ),
            "add `noise`",
        ),
        (
            lambda: fourier_gap(nn.Linear(3, 1), parity(2), parity(1), 0.9, boolean_layout(parity(2), parity(1))),
            "Linear, ReLU, Linear",
        ),
        (
            lambda: neuron_gradients(
                torch.zeros(2, 4), torch.zeros(2), parity(2), parity(1), 0.9, boolean_layout(parity(2), parity(1))
            ),
            "boolean_layout",
        ),
    ],
)
def test_misuse_is_refused_with_a_way_out(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_all_signs_are_all_of_them_once():
    assert sorted(all_signs(3).tolist()) == sorted(map(list, itertools.product([-1.0, 1.0], repeat=3)))
