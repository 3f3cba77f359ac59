"""The mask over time lets a component move only where recent gradients agreed."""

import copy
import io
from functools import partial

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from firstcue import TemporalAndMask

OPTIMIZERS = {
    "sgd": partial(torch.optim.SGD, lr=0.1),
    "momentum": partial(torch.optim.SGD, lr=0.1, momentum=0.9, nesterov=True),
    "adam": partial(torch.optim.Adam, lr=0.01),
    "adamw": partial(torch.optim.AdamW, lr=0.01, weight_decay=0.0),
    "amsgrad": partial(torch.optim.Adam, lr=0.01, amsgrad=True, foreach=False),
    "rmsprop": partial(torch.optim.RMSprop, lr=0.01),
    "adagrad": partial(torch.optim.Adagrad, lr=0.1),
}


def network(seed=0):
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 1))
    with torch.no_grad():
        for i, p in enumerate(model.parameters()):
            p.copy_(torch.randn(p.shape, generator=torch.Generator().manual_seed(seed + i)))
    return model


def steps(model, optimizer, count=6, start=0):
    for t in range(start, start + count):
        x = torch.randn(5, 4, generator=torch.Generator().manual_seed(100 + t))
        optimizer.zero_grad()
        (model(x) - x[:, :1]).square().mean().backward()
        optimizer.step()
    return [p.detach().clone() for p in model.parameters()]


def one_weight(threshold, decay, signs, optimizer=None, **options):
    """How the weight of a one-parameter model stands after each gradient."""
    p = nn.Parameter(torch.zeros(1))
    inner = torch.optim.SGD([p], lr=1.0) if optimizer is None else optimizer([p])
    masked, seen = TemporalAndMask(inner, threshold, decay, **options), []
    for sign in signs:
        p.grad = torch.tensor([float(sign)])
        masked.step()
        seen.append(float(p.detach()))
    return seen


@pytest.mark.parametrize("bias_correction", [False, True])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_without_a_threshold_it_is_the_optimiser_step_for_step(name, bias_correction):
    a, b = network(), network()

    expected = steps(a, OPTIMIZERS[name](a.parameters()))
    masked = TemporalAndMask(OPTIMIZERS[name](b.parameters()), 0.0, 0.8, bias_correction=bias_correction)

    assert_close(steps(b, masked), expected, rtol=0, atol=0)


@pytest.mark.parametrize("decay", [0.5, 0.8, 0.9])
def test_alternating_environments_never_move(decay):
    """|a| starts at 1 - decay and falls towards (1 - decay) / (1 + decay)."""
    assert one_weight(1 - decay + 0.01, decay, [1, -1] * 50) == [0.0] * 100
    assert one_weight((1 - decay) / (1 + decay) - 0.01, decay, [1, -1] * 50)[0] != 0.0


@pytest.mark.parametrize("threshold", [0.2, 0.5, 0.75, 0.9])
@pytest.mark.parametrize("decay", [0.0, 0.5, 0.8])
def test_a_constant_gradient_opens_the_mask_when_the_average_can_reach_the_threshold(threshold, decay):
    opening = next(t for t in range(1, 100) if 1 - decay**t >= threshold - 1e-9)

    seen = one_weight(threshold, decay, [1] * 20)

    assert seen[: opening - 1] == [0.0] * (opening - 1) and seen[opening - 1] == -1.0


def test_bias_correction_opens_the_mask_at_the_first_step():
    assert one_weight(1.0, 0.9, [1, 1, -1], bias_correction=True) == [-1.0, -2.0, -2.0]
    assert one_weight(1.0, 0.9, [1] * 30) == [0.0] * 30


def test_moments_see_every_gradient_while_the_mask_is_closed():
    """When it opens, momentum has been gathered."""
    momentum = partial(torch.optim.SGD, lr=1.0, momentum=0.5)

    assert one_weight(0.6, 0.5, [1, 1], momentum) == [0.0, -1.5]


def by_hand(gradients, alpha, b1, b2, b3, threshold, eps=1e-8):
    """The paper's algorithm with Adam's bias correction, one component at a time."""
    theta = m = v = a = torch.zeros_like(gradients[0])
    for t, g in enumerate(gradients, start=1):
        m, v, a = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g * g, b3 * a + (1 - b3) * g.sign()
        update = alpha * (m / (1 - b1**t)) / ((v / (1 - b2**t)).sqrt() + eps)
        theta = torch.where(a.abs() >= threshold, theta - update, theta)
    return theta


def test_adam_with_the_mask_is_the_published_algorithm():
    gradients = torch.randn(30, 50, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 0.3
    p = nn.Parameter(torch.zeros(50, dtype=torch.float64))
    masked = TemporalAndMask(torch.optim.Adam([p], lr=0.01, betas=(0.6, 0.9)), 0.4, 0.7)
    for g in gradients:
        p.grad = g.clone()
        masked.step()

    assert_close(p.detach(), by_hand(gradients, 0.01, 0.6, 0.9, 0.7, 0.4))
    assert 0 < masked.kept < 1


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_weight_decay_also_moves_what_is_masked(name):
    p = nn.Parameter(torch.full((3,), 2.0))
    inner = OPTIMIZERS[name]([p], weight_decay=0.5)
    masked = TemporalAndMask(inner, 1.0, 0.9)
    p.grad = torch.tensor([1.0, -1.0, 1.0])

    masked.step()

    assert_close(p.detach(), torch.full((3,), 2.0 * (1 - inner.param_groups[0]["lr"] * 0.5)))
    assert inner.param_groups[0]["weight_decay"] == 0.5, "the setting is left as it was"


def test_schedulers_and_groups_are_those_of_the_optimiser():
    model = network()
    inner = torch.optim.Adam([{"params": model[0].parameters(), "lr": 0.1}, {"params": [model[2].weight]}], lr=0.01)
    masked = TemporalAndMask(inner, 0.3, 0.5)
    scheduler = torch.optim.lr_scheduler.StepLR(masked, 1, gamma=0.5)

    steps(model, masked, 2)
    scheduler.step()
    masked.add_param_group({"params": [model[2].bias], "lr": 1.0})

    assert [group["lr"] for group in inner.param_groups] == [0.05, 0.005, 1.0]
    assert masked.param_groups is inner.param_groups
    steps(model, masked, 2)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_training_continues_from_a_state_dict_as_if_it_had_not_stopped(name):
    model = network()
    masked = TemporalAndMask(OPTIMIZERS[name](model.parameters()), 0.4, 0.7, bias_correction=True)
    steps(model, masked, 4)
    stored = io.BytesIO()
    torch.save(masked.state_dict(), stored)
    stored.seek(0)
    again = copy.deepcopy(model)
    expected = steps(model, masked, 4, start=4)

    resumed = TemporalAndMask(OPTIMIZERS[name](again.parameters()), 0.4, 0.7, bias_correction=True)
    resumed.load_state_dict(torch.load(stored, weights_only=True))

    assert_close(steps(again, resumed, 4, start=4), expected, rtol=0, atol=0)


def test_a_copy_steps_like_the_original():
    model = network()
    masked = TemporalAndMask(OPTIMIZERS["adam"](model.parameters()), 0.4, 0.7)
    steps(model, masked, 3)
    twin, optimizer = copy.deepcopy((model, masked))

    assert optimizer.param_groups is optimizer.optimizer.param_groups and optimizer.state is optimizer.optimizer.state
    assert_close(steps(twin, optimizer, 3, start=3), steps(model, masked, 3, start=3), rtol=0, atol=0)


def test_a_closure_is_evaluated_once():
    p, calls = nn.Parameter(torch.ones(2)), []

    def closure():
        calls.append(1)
        p.grad = torch.ones(2)
        return p.sum()

    loss = TemporalAndMask(torch.optim.SGD([p], lr=1.0), 0.0, 0.5).step(closure)

    assert float(loss) == 2.0 and len(calls) == 1 and p.tolist() == [0.0, 0.0]


def test_parameters_without_a_gradient_stay():
    p, idle = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    masked = TemporalAndMask(torch.optim.SGD([p, idle], lr=1.0, weight_decay=0.1), 0.0, 0.5)

    masked.step()
    p.grad = torch.ones(2)
    masked.step()

    assert idle.tolist() == [1.0, 1.0] and p.tolist() == [0.0, 0.0]


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda p: TemporalAndMask(torch.optim.SGD([p]), 1.5, 0.5), "between 0 and 1; got 1.5"),
        (lambda p: TemporalAndMask(torch.optim.SGD([p]), 0.5, 1.0), "below 1; got 1.0"),
        (lambda p: TemporalAndMask(torch.optim.LBFGS([p]), 0.5, 0.5), "several times per step"),
    ],
)
def test_what_makes_no_sense_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(nn.Parameter(torch.ones(2)))


def test_a_gradient_that_is_not_finite_stops_before_the_step():
    good, bad = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(3))
    masked = TemporalAndMask(torch.optim.SGD([good, bad], lr=1.0), 0.0, 0.5)
    good.grad, bad.grad = torch.ones(2), torch.tensor([1.0, torch.nan, 1.0])

    with pytest.raises(ValueError, match=r"parameter 1 of the optimiser, of shape \(3,\), is NaN"):
        masked.step()

    assert good.tolist() == [1.0, 1.0]
    bad.grad = torch.ones(3).to_sparse()
    with pytest.raises(ValueError, match="sparse"):
        masked.step()
