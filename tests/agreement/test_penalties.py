"""Penalties are what their papers write, and train."""

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.testing import assert_close

from firstcue import fishr, group_dro, iga, irm, spectral_decoupling, train, vrex
from firstcue.batch import Batch

ENVIRONMENTS = torch.tensor([4, 2, 4, 4, 2, 9, 4, 2, 9, 4, 2])


def network():
    model = nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 2)).double()
    with torch.no_grad():
        for i, p in enumerate(model.parameters()):
            p.copy_(torch.randn(p.shape, generator=torch.Generator().manual_seed(i)))
    return model


def data():
    x = torch.randn(11, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return Batch(x, torch.arange(11) % 2, group=ENVIRONMENTS)


def objective(weighting, model, batch):
    outputs = model(batch.x)
    return weighting(cross_entropy(outputs, batch.y, reduction="none"), outputs, batch)


def environment_losses(model, batch):
    return [cross_entropy(model(batch.x[batch.group == e]), batch.y[batch.group == e]) for e in (2, 4, 9)]


def gradient(value, model):
    return torch.autograd.grad(value, list(model.parameters()))


def test_irm_is_the_product_of_two_derivatives_by_a_scale():
    model, batch = network(), data()
    scale = torch.ones((), dtype=torch.float64, requires_grad=True)
    products = []
    for e in (2, 4, 9):
        outputs, y = model(batch.x[batch.group == e]), batch.y[batch.group == e]
        halves = [cross_entropy(scale * outputs[i::2], y[i::2]) for i in (0, 1)]
        slopes = [torch.autograd.grad(half, scale, create_graph=True)[0] for half in halves]
        products.append(slopes[0] * slopes[1])
    expected = torch.stack(environment_losses(model, batch)).mean() + 7.0 * torch.stack(products).mean()

    found = objective(irm(7.0), model, batch)

    assert_close(found, expected)
    assert_close(gradient(found, model), gradient(expected, model))


def test_an_environment_of_one_row_adds_its_loss_alone():
    model, batch = network(), data()
    single = Batch(batch.x[:2], batch.y[:2], torch.tensor([0, 1]))

    assert_close(objective(irm(7.0), model, single), cross_entropy(model(single.x), single.y))


def test_vrex_adds_the_variance_of_the_losses():
    model, batch = network(), data()
    losses = torch.stack(environment_losses(model, batch))

    assert_close(objective(vrex(3.0), model, batch), losses.mean() + 3.0 * losses.var(correction=0))


def test_iga_adds_the_squared_distances_of_gradients_to_their_mean():
    model, batch = network(), data()
    losses = environment_losses(model, batch)
    rows = torch.stack(
        [
            torch.cat([g.flatten() for g in torch.autograd.grad(v, list(model.parameters()), create_graph=True)])
            for v in losses
        ]
    )
    expected = torch.stack(losses).mean() + 2.0 * (rows - rows.mean(dim=0)).square().sum()

    found = objective(iga(model.parameters(), 2.0), model, batch)

    assert_close(found, expected)
    assert_close(gradient(found, model), gradient(expected, model))


def test_spectral_decoupling_adds_the_mean_squared_output_and_needs_no_labels():
    model, batch = network(), Batch(data().x, data().y)
    outputs = model(batch.x)

    found = objective(spectral_decoupling(0.5), model, batch)

    assert_close(found, cross_entropy(outputs, batch.y) + 0.5 * outputs.square().mean())


def test_fishr_compares_variances_of_single_gradients_of_the_head():
    model, batch = network(), data()
    head = model[2]
    variances = []
    for e in (2, 4, 9):
        rows = []
        for i in (batch.group == e).nonzero()[:, 0]:
            loss = cross_entropy(model(batch.x[i : i + 1]), batch.y[i : i + 1])
            weight, bias = torch.autograd.grad(loss, [head.weight, head.bias], create_graph=True)
            rows.append(torch.cat([weight, bias[:, None]], dim=1).flatten())
        variances.append(torch.stack(rows).var(dim=0, correction=0))
    apart = torch.stack(variances) - torch.stack(variances).mean(dim=0)
    expected = torch.stack(environment_losses(model, batch)).mean() + 5.0 * apart.square().mean()

    weighting = fishr(head, 5.0, decay=0.0)
    found = objective(weighting, model, batch)

    assert_close(found, expected)
    assert_close(gradient(found, model), gradient(expected, model))
    weighting.remove()
    assert not head._forward_pre_hooks
    with pytest.raises(ValueError, match="was not called"):
        objective(weighting, model, batch)


def test_fishr_remembers_variances_of_earlier_updates():
    model, batch = network(), data()
    once, twice = fishr(model[2], 1.0, decay=0.5), fishr(model[2], 1.0, decay=0.5)
    first = objective(once, model, batch)
    objective(twice, model, batch)

    second = objective(twice, model, batch)

    mean = torch.stack(environment_losses(model, batch)).mean()
    assert_close(second - mean, (first - mean) * 1.5**2)  # 0.5 v + v, squared


@pytest.mark.parametrize("make", [irm, vrex, lambda s, anneal: iga(network().parameters(), s, anneal=anneal)])
def test_annealing_holds_the_strength_back(make):
    model, batch = network(), data()
    if make not in (irm, vrex):
        weighting = iga(model.parameters(), 50.0, anneal=1)
        plain = iga(model.parameters(), 1.0), iga(model.parameters(), 50.0)
    else:
        weighting, plain = make(50.0, anneal=1), (make(1.0), make(50.0))

    for expected in plain:
        assert_close(objective(weighting, model, batch), objective(expected, model, batch))


def test_vrex_training_brings_the_losses_of_environments_together():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(200, 2, generator=generator)
    group = torch.arange(200) % 2
    flip = torch.rand(200, generator=generator) < torch.where(group == 0, 0.05, 0.4)
    y = ((x[:, 0] > 0) ^ flip).long()
    spread = {}
    for strength in (0.0, 100.0):
        model = nn.Linear(2, 2)
        with torch.no_grad():
            model.weight.zero_(), model.bias.zero_()
        train(
            model, [Batch(x, y, group)] * 200, torch.optim.Adam(model.parameters(), lr=0.05), weighting=vrex(strength)
        )
        losses = cross_entropy(model(x), y, reduction="none").detach()
        spread[strength] = abs(float(losses[group == 0].mean() - losses[group == 1].mean()))

    assert spread[100.0] < 0.2 * spread[0.0], spread


def test_group_dro_weighs_groups_by_their_losses():
    weighting, batch = group_dro(0.5), data()
    losses = torch.linspace(0, 2, 11, dtype=torch.float64)
    means = torch.stack([losses[e == ENVIRONMENTS].mean() for e in (2, 4, 9)])
    for t in (1, 2):
        weights = weighting(losses, losses, batch)
        q = torch.softmax(0.5 * t * means, dim=0)
        assert_close((weights * losses).mean(), (q * means).sum())
    assert_close(torch.tensor(list(weighting.weights.values()), dtype=torch.float64), q[[0, 1, 2]])


def test_a_group_absent_from_a_batch_keeps_its_weight():
    weighting, batch = group_dro(1.0), data()
    weighting(torch.ones(11), torch.ones(11), batch)
    rows = batch.rows(ENVIRONMENTS == 4)

    weights = weighting(torch.ones(5), torch.ones(5), rows)

    assert weighting.weights[2] == weighting.weights[9] < weighting.weights[4]
    assert_close((weights * torch.ones(5)).mean(), torch.tensor(weighting.weights[4]))


def test_group_dro_serves_the_group_that_is_served_worst():
    generator = torch.Generator().manual_seed(0)
    group = (torch.arange(400) % 10 == 0).long()
    y = torch.randint(0, 2, (400,), generator=generator)
    sign = torch.where(group == 0, 1.0, -1.0) * (2 * y - 1)
    x = torch.stack([2 * sign, 0.7 * (2.0 * y - 1)], dim=1) + torch.randn(400, 2, generator=generator)
    worst = {}
    for name, weighting in (("plain", None), ("group_dro", group_dro(0.1))):
        model = nn.Linear(2, 2)
        with torch.no_grad():
            model.weight.zero_(), model.bias.zero_()
        train(model, [Batch(x, y, group)] * 200, torch.optim.Adam(model.parameters(), lr=0.05), weighting=weighting)
        correct = (model(x).argmax(dim=1) == y).float()
        worst[name] = min(float(correct[group == g].mean()) for g in (0, 1))

    assert worst["group_dro"] > worst["plain"] + 0.2, worst


@pytest.mark.parametrize(
    "make", [lambda: irm(1.0), lambda: vrex(1.0), lambda: iga(network().parameters(), 1.0), lambda: group_dro()]
)
def test_batches_without_environments_are_refused(make):
    model, batch = network(), Batch(data().x, data().y)

    assert make().needs == ("group",)
    with pytest.raises(ValueError, match="the batch has none"):
        objective(make(), model, batch)


@pytest.mark.parametrize(
    "make",
    [
        lambda: irm(-1.0),
        lambda: vrex(1.0, anneal=-1),
        lambda: spectral_decoupling(float("nan")),
        lambda: group_dro(-0.1),
    ],
)
def test_strengths_that_make_no_sense_are_refused(make):
    with pytest.raises(ValueError, match=r"at least 0|positive"):
        make()


def test_fishr_refuses_an_average_that_never_moves():
    with pytest.raises(ValueError, match="below 1"):
        fishr(nn.Linear(2, 2), 1.0, decay=1.0)
