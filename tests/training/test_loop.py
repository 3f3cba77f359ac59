"""The training loop is plain training, with two seams."""

import copy
import random

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.testing import assert_close

from firstcue.batch import Batch, balanced_rows
from firstcue.layers import left_as_found
from firstcue.training.loop import mean_gradient, minibatches, train


def data(n=48, d=5, environments=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, d, generator=generator)
    y = (x[:, 0] + 0.3 * torch.randn(n, generator=generator) > 0).long()
    return Batch(x, y, group=torch.arange(n) % environments)


def network(d=5, double=True):
    model = nn.Sequential(nn.Linear(d, 8), nn.Tanh(), nn.Linear(8, 2))
    with torch.no_grad():
        for i, p in enumerate(model.parameters()):
            p.copy_(torch.randn(p.shape, generator=torch.Generator().manual_seed(i)) / 3)
    return model.double() if double else model


def sgd(model, lr=0.1):
    return torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)


def doubled(batch):
    return Batch(batch.x.double(), batch.y, batch.group)


def by_hand(model, batches, lr=0.1):
    optimizer = sgd(model, lr)
    for batch in batches:
        optimizer.zero_grad()
        cross_entropy(model(batch.x), batch.y).backward()
        optimizer.step()
    return model


def rule_of(scope):
    def rule(gradients):
        rule.seen.append(tuple(gradients.shape))
        return gradients.mean(dim=0)

    rule.seen = []
    if scope:
        rule.scope = scope
    return rule


@pytest.mark.parametrize("scope", ["element", "tensor", "model", None])
def test_the_mean_over_equal_environments_is_plain_training(scope):
    batches = list(minibatches(doubled(data()), 24, epochs=3, rows=lambda g: torch.arange(48)))
    expected = by_hand(network(), batches)
    rule = rule_of(scope)

    model = network()
    trained = train(model, batches, sgd(model), rule=rule)
    default = network()
    train(default, batches, sgd(default))

    assert trained is model
    assert_close(dict(trained.named_parameters()), dict(expected.named_parameters()), rtol=1e-12, atol=1e-13)
    assert_close(dict(default.named_parameters()), dict(expected.named_parameters()), rtol=0, atol=0)
    whole = sum(p.numel() for p in model.parameters())
    assert set(rule.seen) == (
        {(3, whole)} if scope in ("model", None) else {(3, p.numel()) for p in model.parameters()}
    )


def test_a_rule_gets_the_gradient_of_each_environments_mean_loss():
    """Unequal environments: each row of the stack is that environment alone."""
    batch = doubled(data())
    batch = Batch(batch.x, batch.y, torch.tensor([7] * 40 + [2] * 8))
    stacks = []

    def rule(gradients):
        stacks.append(gradients.clone())
        return torch.zeros_like(gradients[0])

    model = network()
    before = copy.deepcopy(model.state_dict())
    train(model, [batch], torch.optim.SGD(model.parameters(), lr=1.0), rule=rule)

    for row, environment in zip(stacks[0], (2, 7), strict=True):
        alone = batch.rows(batch.group == environment)
        model.zero_grad()
        cross_entropy(model(alone.x), alone.y).backward()
        assert_close(row, torch.cat([p.grad.flatten() for p in model.parameters()]))
    assert_close(model.state_dict(), before, rtol=0, atol=0)


def test_weights_of_one_are_plain_training_and_weights_of_zero_drop_rows():
    batches = [doubled(data())]
    keep = batches[0].y == 0
    plain, ones, some = network(), network(), network()

    train(plain, batches, sgd(plain))
    train(ones, batches, sgd(ones), weighting=lambda losses, outputs, batch: torch.ones_like(losses))
    train(
        some,
        batches,
        sgd(some),
        weighting=lambda losses, outputs, batch: keep.double() * len(keep) / keep.double().sum(),
    )
    expected = by_hand(network(), [batches[0].rows(keep)])

    assert_close(ones.state_dict(), plain.state_dict(), rtol=1e-12, atol=1e-13)
    assert_close(some.state_dict(), expected.state_dict(), rtol=1e-12, atol=1e-13)


def test_a_weighting_may_return_the_objective_and_sees_groups_and_outputs():
    seen = []

    def worst_group(losses, outputs, batch):
        seen.append((losses.shape, outputs.shape))
        return torch.stack([losses[batch.group == g].mean() for g in batch.group.unique()]).max()

    model = network()
    train(model, [doubled(data())] * 2, sgd(model), weighting=worst_group)

    assert seen == [((48,), (48, 2))] * 2
    with pytest.raises(ValueError, match="leaves a gradient rule nothing to compare"):
        train(model, [doubled(data())], sgd(model), weighting=worst_group, rule=rule_of(None))


def test_a_loss_that_only_averages_can_be_weighed_too():
    def margin(outputs, y):
        return torch.nn.functional.softplus(-(2 * y - 1) * (outputs[:, 1] - outputs[:, 0])).mean()

    a, b, batches = network(), network(), [doubled(data())]
    train(a, batches, sgd(a), loss=margin, weighting=lambda losses, outputs, batch: torch.ones_like(losses))
    train(b, batches, sgd(b))

    assert_close(a.state_dict(), b.state_dict(), rtol=1e-9, atol=1e-10)


def test_weights_act_inside_environments_before_the_rule():
    batches = [doubled(data())]
    a, b = network(), network()

    train(a, batches, sgd(a), rule=rule_of(None), weighting=lambda losses, outputs, batch: 2 * torch.ones_like(losses))
    train(b, batches, sgd(b), rule=lambda g: 2 * g.mean(0))

    assert_close(a.state_dict(), b.state_dict(), rtol=1e-12, atol=1e-13)


def noisy_network():
    model = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 2))
    with left_as_found(model):
        for p in model.parameters():
            p.copy_(torch.ones_like(p) / 3)
    return model


def test_one_seed_gives_one_result_and_the_global_random_state_is_left():
    loader = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(data().x, data().y), batch_size=16, shuffle=True
    )
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    results = []
    for seed in (1, 1, 2):
        torch.rand(3)  # the surroundings must not matter
        drawn = torch.get_rng_state()
        model = noisy_network()
        drawn = torch.get_rng_state()
        train(model, loader, sgd(model), epochs=3, seed=seed)
        assert torch.equal(torch.get_rng_state(), drawn)
        results.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    torch.set_rng_state(before[0])

    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])
    assert (np.random.get_state()[1] == before[1]).all()  # noqa: NPY002


def test_modes_come_back_and_training_happens_in_train_mode():
    model, modes = noisy_network().eval(), []
    model[0].train()
    model[1].register_forward_hook(lambda m, a, o: modes.append(m.training))

    train(model, [data()], sgd(model))

    assert modes == [True]
    assert [m.training for m in model.modules()] == [False, True, False, False, False]


def test_recorders_see_the_untrained_model_and_every_update():
    seen = []
    model = network()

    train(model, [doubled(data())] * 3, sgd(model), recorders=[lambda step: seen.append((step.number, step.loss))])

    assert [number for number, _ in seen] == [0, 1, 2, 3]
    assert seen[0][1] is None and seen[1][1] > seen[3][1]


def test_a_recorder_that_looks_inside_does_not_change_training():
    plain, watched = noisy_network(), noisy_network()

    def nosy(step):
        with left_as_found(step.model):
            step.model(torch.rand(4, 5))

    for model, recorders in ((plain, ()), (watched, (nosy,))):
        train(model, minibatches(data(), 16, epochs=2), sgd(model), recorders=recorders)

    assert_close(watched.state_dict(), plain.state_dict(), rtol=0, atol=0)


def test_a_loss_that_is_not_finite_stops_training_before_the_step():
    model = network(double=False)
    before = copy.deepcopy(model.state_dict())
    bad = data()
    bad.x[3] = torch.inf

    with pytest.raises(ValueError, match=r"the loss is nan at step 0 \(learning rate 0.25\): lower the learning rate"):
        train(model, [bad], sgd(model, lr=0.25))

    assert_close(model.state_dict(), before, rtol=0, atol=0)


@pytest.mark.parametrize("rule", [mean_gradient, rule_of(None)])
def test_diverging_training_is_reported_not_returned(rule):
    model = nn.Linear(5, 2)

    def steep(outputs, y):
        return outputs.square().mean()

    with pytest.raises(ValueError, match="learning rate 1e\\+12"):
        train(model, [data()] * 20, torch.optim.SGD(model.parameters(), lr=1e12), loss=steep, rule=rule)


@pytest.mark.parametrize(
    "batches, options, message",
    [
        ([], {}, "yields nothing"),
        (data(), {}, r"minibatches\(batch, 64, epochs=8\)"),
        ((data().x, data().y), {}, r"minibatches\(batch, 64, epochs=8\)"),
        (iter([data()]), {"epochs": 2}, "can be read once only"),
        ([data()], {"epochs": 0}, "`epochs` is at least 1"),
        ([data().x], {}, "yields a Tensor"),
        ([(data().x, data().y, data().y, data().y)], {}, "yields a 4-tuple"),
        ([(data().x, data().y[:5])], {}, "`x` has 48 rows but `y` has 5"),
        ([(data().x, data().y)], {"rule": rule_of(None)}, "the batch has none"),
        ([data()], {"loss": lambda f, y: cross_entropy(f, y, reduction="none")}, "return its mean over rows"),
    ],
)
def test_what_cannot_be_trained_on_is_refused(batches, options, message):
    model = network(double=False)

    with pytest.raises(ValueError, match=message):
        train(model, batches, sgd(model), **options)


def test_pairs_triples_arrays_and_batches_train_alike():
    batch = data()
    forms = [batch, (batch.x, batch.y), [batch.x.numpy(), batch.y.int().numpy()], (batch.x, batch.y, batch.group)]
    results = []
    for form in forms:
        model = network(double=False)
        results.append(train(model, [form], sgd(model)).state_dict())

    for result in results[1:]:
        assert_close(result, results[0], rtol=0, atol=0)


def test_minibatches_visit_every_row_once_per_epoch_in_an_order_fixed_by_the_seed():
    batch = Batch(torch.arange(10.0)[:, None], torch.zeros(10, dtype=torch.int64), columns={"name": np.arange(10)})
    state = torch.get_rng_state()

    visits = [torch.cat([b.x[:, 0] for b in minibatches(batch, 4, epochs=2, seed=s)]) for s in (0, 0, 1)]

    assert torch.equal(visits[0], visits[1]) and not torch.equal(visits[0], visits[2])
    assert sorted(visits[0][:10].tolist()) == sorted(visits[0][10:].tolist()) == list(range(10))
    assert not torch.equal(visits[0][:10], visits[0][10:])
    assert torch.equal(torch.get_rng_state(), state)


def test_minibatches_can_draw_balanced_rows():
    batch = Batch(torch.zeros(30, 1), torch.tensor([0] * 25 + [1] * 5))

    drawn = torch.cat([b.y for b in minibatches(batch, 4, epochs=3, rows=lambda g: balanced_rows(batch.y, g))])

    assert drawn.bincount().tolist() == [15, 15]


@pytest.mark.parametrize("arguments, message", [((0,), "at least 1"), ((4, 0), "at least 1")])
def test_minibatches_refuse_what_makes_no_sense_at_once(arguments, message):
    with pytest.raises(ValueError, match=message):
        minibatches(data(), *arguments)
    with pytest.raises(ValueError, match="no rows"):
        minibatches(data().rows(slice(0, 0)), 4)


def test_the_python_random_source_is_seeded_inside_and_restored_after():
    drawn = []

    class Augmented(nn.Linear):
        def forward(self, x):
            drawn.append((random.random(), np.random.rand()))  # noqa: NPY002
            return super().forward(x)

    for _ in range(2):
        model = Augmented(5, 2)
        train(model, [data()], sgd(model))

    assert drawn[0][1] == drawn[1][1]
