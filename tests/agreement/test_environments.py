"""Environments without labels: random groups are the control, planted columns are found, and innocent ones are not."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from firstcue.agreement._head import head_gradients
from firstcue.agreement.environments import (
    error_environments,
    examples_as_environments,
    gradient_clusters,
    random_environments,
    rank_columns,
)
from firstcue.agreement.gradients import environment_gradients
from firstcue.batch import Batch

cross_entropy = nn.functional.cross_entropy


def network(inputs=6, outputs=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    model = nn.Sequential(nn.Linear(inputs, 8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, outputs))
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(0.5 * torch.randn(p.shape, generator=generator))
    return model


def planted(n=600, seed=0):
    """The class shows in feature 0 everywhere, and in feature 1 with a sign that depends on the site."""
    rng = np.random.default_rng(seed)
    y, site = rng.integers(0, 2, n), rng.integers(0, 3, n)
    x = 0.5 * rng.standard_normal((n, 6))
    x[:, 0] += 2 * y - 1
    x[:, 1] += (2 * y - 1) * np.array([3.0, -3.0, 0.0])[site]
    columns = {
        "site": np.array(["sea", "land", "air"])[site],
        "coin": rng.integers(0, 2, n),
        "time": rng.random(n),
        "class": y,
        "row": np.arange(n).astype(str),
        "constant": np.zeros(n),
    }
    return Batch(torch.from_numpy(x).float(), torch.from_numpy(y), columns=columns)


def test_last_layer_gradients_are_those_of_autograd():
    model, batch = network().eval(), planted(12)
    found = head_gradients(model, cross_entropy, batch.x, batch.y, batch_size=5)
    slow = environment_gradients(model, cross_entropy, batch, torch.arange(12), parameters=["3.weight", "3.bias"])
    assert torch.allclose(found.delta[:, :, None] * found.features[:, None, :-1], slow["3.weight"].double(), atol=1e-6)
    assert torch.allclose(found.delta * found.features[:, -1:], slow["3.bias"].double(), atol=1e-6)
    rows = torch.cat([slow["3.weight"].flatten(1), slow["3.bias"]], dim=1).double()
    assert torch.allclose(found.gram, rows @ rows.mT, atol=1e-5)
    assert torch.allclose(found.losses.float(), cross_entropy(model(batch.x), batch.y, reduction="none"), atol=1e-5)


def test_a_single_output_is_a_last_layer_too():
    def loss(outputs, y):
        return nn.functional.binary_cross_entropy_with_logits(outputs[:, 0], y.float())

    batch = planted(10)
    assert head_gradients(network(outputs=1), loss, batch.x, batch.y).delta.shape == (10, 1)


@pytest.mark.parametrize(("n", "count"), [(10, 3), (7, 7), (100, 2)])
def test_random_groups_are_as_equal_as_can_be(n, count):
    sizes = random_environments(n, count, seed=4).bincount(minlength=count)
    assert int(sizes.sum()) == n and int(sizes.max() - sizes.min()) <= 1


def test_random_groups_within_classes_share_every_class_evenly():
    y = torch.tensor([0] * 10 + [1] * 33 + [3] * 7)
    groups = random_environments(50, 3, within=y, seed=1)
    for label in (0, 1, 3):
        sizes = groups[y == label].bincount(minlength=3)
        assert int(sizes.max() - sizes.min()) <= 1
    assert torch.equal(groups, random_environments(50, 3, within=y, seed=1))
    assert not torch.equal(groups, random_environments(50, 3, within=y, seed=2))


@pytest.mark.parametrize("count", [1, 6])
def test_groups_that_cannot_be_made_are_refused(count):
    with pytest.raises(ValueError, match="count"):
        random_environments(5, count)


def test_every_example_can_be_an_environment():
    assert examples_as_environments(planted(4)).tolist() == [0, 1, 2, 3]


def test_errors_split_rows_unless_there_are_none():
    batch = Batch(torch.eye(3), torch.tensor([0, 0, 2]))
    assert error_environments(nn.Identity(), batch).tolist() == [0, 1, 0]
    with pytest.raises(ValueError, match="right on all 3"):
        error_environments(nn.Identity(), Batch(torch.eye(3), torch.arange(3)))


def test_the_column_that_splits_the_data_is_ranked_first_and_coins_are_not_accused():
    found = {c.name: c for c in rank_columns(network(), cross_entropy, planted())}
    assert next(iter(found)) == "site"
    assert found["site"].p == pytest.approx(1 / 201) and found["site"].disagreement > 2
    assert found["site"].alignment < found["site"].random_alignment
    assert found["coin"].p_adjusted > 0.05 and found["time"].p_adjusted > 0.05
    assert found["site"].values == ("air", "land", "sea") and sum(found["site"].sizes) == 600


def test_columns_that_cannot_be_tested_say_why():
    found = {c.name: c for c in rank_columns(network(), cross_entropy, planted())}
    assert found["class"].note.startswith("follows the class") and found["class"].p == 1
    assert "value of its own" in found["row"].note and "one value" in found["constant"].note
    assert found["time"].note == "cut into bins" and len(found["time"].sizes) == 4


def test_missing_numbers_are_an_environment_of_their_own():
    batch = planted(100)
    column = np.where(np.arange(100) < 20, np.nan, np.arange(100) % 2.0)
    (found,) = rank_columns(network(), cross_entropy, batch, {"sensor": column}, permutations=20)
    assert found.values == ("0.0", "1.0", "missing") and found.sizes[2] == 20
    column = np.where(np.arange(100) < 20, np.nan, np.arange(100.0))
    (found,) = rank_columns(network(), cross_entropy, batch, {"sensor": column}, permutations=20)
    assert len(found.sizes) == 5 and found.sizes[4] == 20


@pytest.mark.parametrize("classes", [1, 2])
def test_p_values_of_columns_that_say_nothing_are_uniform(classes):
    batch = planted(150)
    batch = Batch(batch.x, batch.y % classes)
    rng = np.random.default_rng(0)
    columns = {f"coin {i}": rng.integers(0, 3, 150) for i in range(60)}
    found = rank_columns(network(), cross_entropy, batch, columns, permutations=60)
    p = np.array([c.p for c in found])
    assert 0.35 < p.mean() < 0.65 and (p <= 0.1).mean() < 0.25
    assert abs(np.mean([c.disagreement for c in found]) - 1) < 0.15


def test_the_statistic_is_the_squared_length_of_the_environments_gradients():
    model, batch = network(), planted(40)
    (found,) = rank_columns(model, cross_entropy, batch, {"coin": np.arange(40) % 2}, permutations=30)
    model.eval()
    g = environment_gradients(model, cross_entropy, batch, torch.arange(40) % 2, parameters=["3.weight", "3.bias"])
    rows = torch.cat([g["3.weight"].flatten(1), g["3.bias"]], dim=1)
    alignment = rows.mean(0).square().sum() / rows.square().sum(1).mean()
    assert found.alignment == pytest.approx(float(alignment), rel=1e-4)


def test_adjusted_p_values_never_fall_along_the_ranking():
    found = rank_columns(network(), cross_entropy, planted(), permutations=50)
    adjusted = [c.p_adjusted for c in found]
    assert adjusted == sorted(adjusted) and all(c.p <= c.p_adjusted <= 1 for c in found)


def test_many_rows_are_drawn_from_and_the_result_repeats():
    model, batch = network(), planted(500)
    first = rank_columns(model, cross_entropy, batch, ["site"], max_rows=200, permutations=30)
    assert sum(first[0].sizes) == 200
    assert first == rank_columns(model, cross_entropy, batch, ["site"], max_rows=200, permutations=30)


def test_group_and_attribute_are_columns_too():
    batch = planted(60)
    batch = Batch(batch.x, batch.y, group=torch.arange(60) % 2, attribute=torch.arange(60) // 2 % 2, cue="light")
    found = rank_columns(network(), cross_entropy, batch, permutations=10)
    assert {c.name for c in found} == {"group", "light"}


def test_columns_that_are_missing_or_too_short_are_refused():
    batch = planted(20)
    with pytest.raises(ValueError, match="no column 'weather'"):
        rank_columns(network(), cross_entropy, batch, ["weather"])
    with pytest.raises(ValueError, match="rows"):
        rank_columns(network(), cross_entropy, batch, {"short": [1, 2]})
    with pytest.raises(ValueError, match="no column to rank"):
        rank_columns(network(), cross_entropy, Batch(batch.x, batch.y))


def test_clusters_of_gradients_find_rows_against_the_shortcut():
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 800)
    against = rng.random(800) < 0.2
    cue = np.where(against, 1 - y, y)
    x = np.stack([2.0 * cue - 1, 0.3 * (2 * y - 1)], axis=1) + 0.2 * rng.standard_normal((800, 2))
    model = nn.Linear(2, 2)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[-1.0, 0.0], [1.0, 0.0]]))  # leans on the cue
        model.bias.zero_()
    found = gradient_clusters(model, cross_entropy, Batch(torch.from_numpy(x).float(), torch.from_numpy(y)))
    assert np.mean(found.numpy() == against) > 0.95


def test_small_classes_are_one_cluster():
    batch = planted(40)
    y = torch.cat([torch.zeros(38, dtype=torch.int64), torch.ones(2, dtype=torch.int64)])
    found = gradient_clusters(network(), cross_entropy, Batch(batch.x, y), count=3)
    assert found[38:].tolist() == [0, 0] and set(found[:38].tolist()) == {0, 1, 2}
    with pytest.raises(ValueError, match="at least 2"):
        gradient_clusters(network(), cross_entropy, batch, count=1)


def test_the_model_is_left_as_found():
    model, batch = network(), planted(50)
    model.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    rank_columns(model, cross_entropy, batch, ["site"], permutations=5)
    gradient_clusters(model, cross_entropy, batch)
    assert model.training and torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters()) and not model[3]._forward_hooks


def test_a_model_without_a_linear_last_layer_is_refused():
    batch = planted(20)
    with pytest.raises(ValueError, match="softmax"):
        rank_columns(nn.Sequential(nn.Linear(6, 2), nn.Softmax(dim=1)), cross_entropy, batch, ["site"])


def test_alignment_of_random_groups_is_finite():
    (found,) = rank_columns(network(), cross_entropy, planted(100), ["coin"], permutations=10)
    assert math.isfinite(found.random_alignment)
