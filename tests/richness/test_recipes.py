"""Knobs that move training between lazy and rich do exactly what they say."""

import copy
from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, mse_loss, one_hot

from firstcue.forward import seeded
from firstcue.heads import features_and_outputs
from firstcue.richness.recipes import (
    centred_output,
    frozen_features,
    lazy_twin,
    safe_learning_rate,
    scaled_initialisation,
    scaled_loss,
    scaled_targets,
)


def mlp(seed=0, width=32, classes=3):
    with seeded(seed):
        return nn.Sequential(nn.Linear(5, width), nn.ReLU(), nn.Linear(width, classes))


def data(n=200, seed=0, classes=3):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 5, generator=generator)
    return x, (x @ torch.randn(5, classes, generator=generator)).argmax(dim=1)


def trained(model, loss, rate, steps=100, momentum=0.0):
    x, y = data()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=rate, momentum=momentum)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        value = loss(model(x), y)
        value.backward()
        optimizer.step()
        losses.append(float(value.detach()))
    return losses


def test_output_is_zero_at_the_start_and_only_the_given_model_is_trained():
    model, x = mlp(), data()[0]
    start = copy.deepcopy(model)
    centred = centred_output(model, 10.0)

    assert not centred(x).any()
    trained(centred, scaled_loss(mse_on_one_hot, 10.0), 0.01, 5)
    assert all(torch.equal(a, b) for a, b in zip(centred.start.parameters(), start.parameters(), strict=True))
    assert torch.allclose(centred(x), 10 * (model(x) - start(x)))


def mse_on_one_hot(outputs, y):
    return mse_loss(outputs, one_hot(y, 3).float())


def test_small_targets_train_exactly_as_a_large_alpha():
    small, scaled = centred_output(mlp()), centred_output(mlp(), 10.0)

    trained(small, scaled_targets(3, 0.1), 0.2, 50)
    trained(scaled, scaled_loss(mse_on_one_hot, 10.0), 0.2, 50)

    assert float((small.model[0].weight - small.start[0].weight).detach().norm()) > 1e-4
    assert torch.allclose(small.model[0].weight, scaled.model[0].weight, atol=1e-6)


def test_a_large_alpha_moves_weights_less_for_the_same_function():
    moved = []
    for alpha in (0.5, 50.0):
        model = centred_output(mlp(), alpha)
        x, y = data()
        loss = scaled_loss(mse_on_one_hot, alpha)
        rate = safe_learning_rate(model, x, y, loss).rate
        losses = trained(model, loss, rate, 400)
        assert losses[-1] < 0.7 * losses[0]
        moved.append(float((model.model[0].weight - model.start[0].weight).detach().norm()))

    assert moved[1] < 0.1 * moved[0]


def test_the_safe_rate_is_stable_and_five_times_it_is_not():
    x, y = data()
    found = safe_learning_rate(centred_output(mlp(), 100.0), x, y, scaled_loss(mse_on_one_hot, 100.0))

    calm = trained(centred_output(mlp(), 100.0), scaled_loss(mse_on_one_hot, 100.0), found.rate, 60)
    wild = trained(centred_output(mlp(), 100.0), scaled_loss(mse_on_one_hot, 100.0), 5 * found.rate, 60)

    assert found.converged
    assert all(b <= a + 1e-9 for a, b in pairwise(calm))
    assert max(wild[:30]) > 2 * wild[0]


def test_momentum_and_safety_scale_the_rate():
    x, y = data()
    plain = safe_learning_rate(mlp(), x, y, cross_entropy)
    heavy = safe_learning_rate(mlp(), x, y, cross_entropy, momentum=0.9, safety=0.25)

    assert heavy.rate == pytest.approx(plain.rate * 0.1 * 0.5, rel=1e-9)


def test_scaled_initialisation_scales_matrices_alone_and_touches_no_original():
    model = mlp()
    kept = copy.deepcopy(model)
    scaled = scaled_initialisation(model, 2.0)

    assert torch.equal(scaled[0].weight, 2 * model[0].weight) and torch.equal(scaled[0].bias, model[0].bias)
    assert torch.equal(model[0].weight, kept[0].weight)


def test_training_frozen_features_leaves_them_bit_for_bit():
    model, x = mlp(), data()[0]
    copied = frozen_features(model, x)
    before = features_and_outputs(copied, x)[0]

    losses = trained(copied, cross_entropy, 0.5, 50)

    assert losses[-1] < losses[0]
    assert torch.equal(features_and_outputs(copied, x)[0], before)
    assert all(p.requires_grad for p in model.parameters())


def test_a_head_tied_to_the_embedding_is_untied_when_features_are_frozen():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding(7, 4)
            self.head = nn.Linear(4, 7, bias=False)
            self.head.weight = self.embed.weight

        def forward(self, x):
            return self.head(self.embed(x).mean(dim=1))

    model = Tied()
    copied = frozen_features(model, torch.randint(0, 7, (5, 3)))

    assert copied.head.weight.requires_grad and not copied.embed.weight.requires_grad
    assert copied.head.weight is not copied.embed.weight


def test_the_lazy_twin_is_ridge_regression_on_the_initial_features():
    from sklearn.linear_model import Ridge

    model, (x, y) = mlp(), data()
    features = features_and_outputs(model, x)[0].double()
    twin = lazy_twin(model, x, y, ridge=1e-2)
    strength = 1e-2 * float(features.var(dim=0, unbiased=False).mean()) * len(x)
    reference = Ridge(alpha=strength).fit(features.numpy(), one_hot(y, 3).numpy())

    assert torch.allclose(twin.head.weight.double(), torch.from_numpy(reference.coef_), atol=1e-4)
    assert twin.accuracy == (reference.predict(features.numpy()).argmax(1) == y.numpy()).mean()
    assert torch.equal(twin.model[0].weight, model[0].weight)


def test_the_twin_works_with_constant_features_more_features_than_rows_and_two_classes_on_one_output():
    wide = nn.Sequential(nn.Linear(5, 100), nn.ReLU(), nn.Linear(100, 1))
    with torch.no_grad():
        wide[0].weight[:10].zero_()
    x, y = data(40, classes=2)

    assert lazy_twin(wide, x, y, ridge=1e-6).accuracy > 0.95


def test_class_ids_keep_their_outputs_when_a_class_is_missing():
    model, (x, y) = mlp(classes=4), data()
    y = torch.where(y == 2, 3, y)  # classes 0, 1, 3

    twin = lazy_twin(model, x, y)

    assert set(twin.model(x).argmax(dim=1).tolist()) <= {0, 1, 3} and twin.accuracy > 0.8


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: centred_output(mlp(), 0.0), "alpha"),
        (lambda: scaled_targets(3, -1.0), "scale"),
        (lambda: scaled_initialisation(mlp(), float("nan")), "factor"),
        (lambda: safe_learning_rate(mlp(), *data(), cross_entropy, momentum=1.0), "momentum"),
        (lambda: safe_learning_rate(mlp(), *data(), lambda f, y: f.sum()), "no curvature"),
        (lambda: lazy_twin(mlp(), *data(), ridge=-1.0), "ridge"),
        (lambda: lazy_twin(mlp(classes=2), *data()), "3 classes"),
        (lambda: lazy_twin(mlp(), data()[0], torch.zeros(200)), "one class"),
    ],
)
def test_what_makes_no_sense_is_refused_with_the_way_out(call, message):
    with pytest.raises(ValueError, match=message):
        call()
