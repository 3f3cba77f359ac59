"""The head of a classifier is found by what it computes, and replaced without touching the original."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.testing import assert_close

from firstcue.layers import features_and_outputs, find_head, predict, with_head


def seeded(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


class Net(nn.Module):
    """Body, dropout, an auxiliary head that runs last, and `finish` on what the head gives."""

    def __init__(self, finish=lambda f: f, k=3, bias=True):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, 8), nn.ReLU(inplace=True))
        self.dropout = nn.Dropout(0.5)
        self.classifier = nn.Linear(8, k, bias=bias)
        self.auxiliary = nn.Linear(8, 5)
        self.finish = finish

    def forward(self, x):
        hidden = self.dropout(self.body(x))
        logits = self.classifier(hidden)
        self.auxiliary(hidden)
        return self.finish(logits)


class ConvNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 3, 1)

    def forward(self, x):
        pooled = self.conv(x).relu().mean((2, 3), keepdim=True)
        return self.head(pooled).flatten(1)


class Tied(nn.Module):
    """A head whose weight is that of the embedding."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(5, 4)
        self.head = nn.Linear(4, 5, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, ids):
        return self.head(self.embedding(ids).mean(1))


MODELS = [
    (lambda: nn.Sequential(nn.Flatten(), nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)), (9, 2, 3), "3"),
    (Net, (9, 6), "classifier"),
    (lambda: Net(lambda f: {"logits": f}), (9, 6), "classifier"),
    (lambda: Net(lambda f: (f.clone(),)), (9, 6), "classifier"),
    (lambda: Net(lambda f: f.squeeze(1), k=1), (9, 6), "classifier"),
    (lambda: Net(k=1, bias=False), (9, 6), "classifier"),
    (lambda: nn.DataParallel(Net()), (9, 6), "classifier"),
    (ConvNet, (9, 1, 5, 5), "head"),
    (lambda: nn.utils.parametrizations.weight_norm(nn.Linear(6, 3)), (9, 6), ""),
    (lambda: Net().double(), (9, 6), "classifier"),
    (lambda: Net().to(torch.bfloat16), (9, 6), "classifier"),
]


@pytest.mark.parametrize("make, shape, name", MODELS)
def test_the_head_read_from_its_features_gives_the_models_outputs(make, shape, name):
    model, x = make().train(), seeded(*shape)

    head = find_head(model, x)
    features, outputs = features_and_outputs(model, x, batch_size=4, head=head)

    half = next(model.parameters()).dtype == torch.bfloat16
    tolerance = 5e-2 if half else 1e-5
    assert head.name == name
    assert features.dtype == outputs.dtype == torch.float32
    assert_close(head(features), outputs, rtol=tolerance, atol=tolerance)
    assert_close(outputs, predict(model, x), rtol=tolerance, atol=tolerance)
    assert model.training


def test_features_are_those_before_dropout_takes_effect():
    model, x = Net(), seeded(9, 6)

    features, _ = features_and_outputs(model, x)

    assert_close(features, model.body(x).detach())


def test_numpy_features_give_numpy_logits_in_their_type():
    head = find_head(Net(), seeded(9, 6))

    assert head(np.ones((2, 8))).dtype == np.float64
    assert head(torch.ones(2, 8).half()).dtype == torch.float16


@pytest.mark.parametrize(
    "finish, message",
    [
        (lambda f: f.softmax(1), "are the softmax of its linear layer 'classifier', not logits"),
        (lambda f: 2 * f, "no linear layer's output is the model's output"),
        (lambda f: f.sub_(1).relu_(), "is not the head: something acts on its outputs"),
        (lambda f: f / 0, "NaN or infinite outputs"),
    ],
)
def test_outputs_that_are_not_a_linear_read_out_are_refused_with_a_remedy(finish, message):
    with pytest.raises(ValueError, match=message):
        find_head(Net(finish), seeded(9, 6))


@pytest.mark.parametrize(
    "last, label", [(nn.Softmax(1), "softmax"), (nn.LogSoftmax(1), "log_softmax"), (nn.Sigmoid(), "sigmoid")]
)
def test_a_final_squashing_function_is_named(last, label):
    model = nn.Sequential(nn.Linear(6, 3), last)

    with pytest.raises(ValueError, match=f"the {label} of its linear layer '0', not logits. Return the logits"):
        find_head(model, seeded(9, 6))


def test_a_model_without_a_linear_head_is_refused():
    with pytest.raises(ValueError, match=r"it has none.*audit_embeddings"):
        find_head(nn.Sequential(nn.Flatten(), nn.ReLU()), seeded(4, 3))
    with pytest.raises(ValueError, match="linear layers exist"):
        find_head(nn.Sequential(nn.Linear(3, 2), nn.ReLU(), nn.Flatten()), seeded(4, 3, 3))


def test_a_head_that_only_sometimes_is_the_output_is_caught_on_the_rows_where_it_is_not():
    """A ReLU that the probe rows never make act."""
    linear = nn.Linear(1, 2)
    with torch.no_grad():
        linear.weight.fill_(1.0)
        linear.bias.fill_(0.0)
    x = torch.cat([torch.ones(300, 1), -torch.ones(10, 1)])

    with pytest.raises(ValueError, match="not the head"):
        features_and_outputs(nn.Sequential(linear, nn.ReLU()), x)


@pytest.mark.parametrize("make, shape, name", MODELS[:8] + MODELS[9:10])
def test_a_new_head_changes_only_the_copy_and_keeps_the_keys(make, shape, name):
    model, x = make(), seeded(*shape)
    head, (features, before) = find_head(model, x), features_and_outputs(model, x)
    weight, bias = seeded(*head.weight.shape, seed=1), seeded(*head.bias.shape, seed=2)

    repaired = with_head(model, name, weight, bias)

    inner = model.module if isinstance(model, nn.DataParallel) else model
    logits = features @ weight.T + bias
    assert set(repaired.state_dict()) - {"classifier.bias"} == set(inner.state_dict()) - {"classifier.bias"}
    assert_close(predict(model, x), before, rtol=0, atol=0)
    shift = logits[:, :1] if inner.state_dict()[f"{name}.weight"].shape[0] == 1 else 0
    assert_close(predict(repaired, x), logits - shift, rtol=1e-4, atol=1e-5)
    assert all(p.requires_grad for p in repaired.parameters())


def test_a_missing_bias_is_added_only_where_it_is_needed():
    model, x = Net(bias=False), seeded(9, 6)

    without = with_head(model, "classifier", torch.ones(3, 8), torch.zeros(3))
    needed = with_head(model, "classifier", torch.ones(3, 8), torch.arange(3.0))

    assert set(without.state_dict()) == set(model.state_dict())
    assert set(needed.state_dict()) == {*model.state_dict(), "classifier.bias"}
    assert_close(predict(needed, x) - predict(without, x), torch.arange(3.0).expand(9, 3))
    assert model.classifier.bias is None


def test_a_tied_embedding_is_untied_not_overwritten():
    model, ids = Tied(), torch.arange(10).reshape(5, 2) % 5

    repaired = with_head(model, "head", torch.zeros(5, 4), torch.zeros(5))

    assert_close(repaired.embedding.weight, model.embedding.weight)
    assert_close(predict(repaired, ids), torch.zeros(5, 5))
    assert find_head(model, ids).name == "head"


def test_a_parametrised_head_becomes_a_plain_layer():
    model = nn.Sequential(nn.Linear(6, 8), nn.utils.parametrizations.weight_norm(nn.Linear(8, 3)))

    repaired = with_head(model, "1", torch.zeros(3, 8), torch.arange(3.0))

    assert set(repaired.state_dict()) == {"0.weight", "0.bias", "1.weight", "1.bias"}
    assert_close(predict(repaired, seeded(2, 6)), torch.arange(3.0).expand(2, 3))


def test_a_model_that_is_itself_a_parametrised_head_is_replaced_whole():
    model = nn.utils.parametrizations.weight_norm(nn.Linear(6, 3))

    repaired = with_head(model, "", torch.zeros(3, 6), torch.arange(3.0))

    assert_close(predict(repaired, seeded(2, 6)), torch.arange(3.0).expand(2, 3))


def test_a_head_of_a_large_model_is_found_on_at_most_256_rows():
    seen = []

    class Counting(Net):
        def forward(self, x):
            seen.append(len(x))
            return super().forward(x)

    find_head(Counting(), seeded(1000, 6))

    assert seen == [256]


def test_dtype_and_frozen_parameters_are_kept():
    model = Net().half().requires_grad_(False)

    repaired = with_head(model, "classifier", torch.ones(3, 8), torch.ones(3))

    assert repaired.classifier.weight.dtype == torch.float16
    assert not repaired.classifier.weight.requires_grad


@pytest.mark.parametrize(
    "name, weight, bias, message",
    [
        ("nope", torch.ones(3, 8), torch.ones(3), "no linear layer 'nope'; its linear layers: body.0, classifier"),
        ("classifier", torch.ones(3, 7), torch.ones(3), "do not fit the layer"),
        ("classifier", torch.ones(3, 8), torch.ones(2), "do not fit the layer"),
        ("classifier", torch.full((3, 8), torch.nan), torch.ones(3), "`weight` has NaN"),
    ],
)
def test_a_head_that_does_not_fit_is_refused(name, weight, bias, message):
    with pytest.raises(ValueError, match=message):
        with_head(Net(), name, weight, bias)


def test_the_state_of_the_model_is_untouched_by_finding_its_head():
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(), nn.Linear(8, 2)).train()
    before, drawn = copy.deepcopy(model.state_dict()), torch.get_rng_state()

    find_head(model, seeded(9, 6))

    assert_close(model.state_dict(), before, rtol=0, atol=0)
    assert torch.equal(torch.get_rng_state(), drawn)
    assert not any(m._forward_hooks for m in model.modules())
