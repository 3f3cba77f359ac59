"""Neurons are divided by what they read, whatever their scale, their order and the columns nobody reads."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from firstcue.batch import Batch
from firstcue.spurious.batched import BooleanRun, train_boolean
from firstcue.spurious.batched_metrics import used
from firstcue.spurious.boolean import boolean_data, boolean_layout
from firstcue.spurious.decode import decode
from firstcue.spurious.functions import parity
from firstcue.spurious.subnetworks import subnetworks, subnetworks_by_selectivity, without_neurons


def net(width=12, columns=9, outputs=1, seed=0, bias=True):
    generator = torch.Generator().manual_seed(seed)
    model = nn.Sequential(nn.Linear(columns, width, bias=bias), nn.ReLU(), nn.Linear(width, outputs))
    for p in model.parameters():
        p.data.copy_(torch.randn(p.shape, generator=generator))
    return model


LAYOUT = boolean_layout(parity(4), parity(2), 3)


@given(st.integers(0, 2**31), st.integers(1, 3))
@settings(max_examples=30, deadline=None)
def test_scaling_a_neuron_up_and_its_output_down_changes_nothing(seed, outputs):
    model = net(seed=seed, outputs=outputs)
    before = subnetworks(model, LAYOUT)
    factor = torch.rand(12, generator=torch.Generator().manual_seed(seed)) * 9 + 0.1
    with torch.no_grad():
        model[0].weight.mul_(factor[:, None])
        model[2].weight.div_(factor)
    after = subnetworks(model, LAYOUT)
    torch.testing.assert_close(after.importance, before.importance, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(after.share_core, before.share_core, atol=1e-5, rtol=1e-5)
    assert torch.equal(after.core_neurons, before.core_neurons)
    assert after.purity == pytest.approx(before.purity, abs=1e-5)


def test_shares_are_parts_of_all_that_a_neuron_reads():
    model = net()
    parts = subnetworks(model, LAYOUT)
    square = model[0].weight.detach().double().square()
    rest = square[:, 6:].sum(dim=1) / square.sum(dim=1)
    torch.testing.assert_close(parts.share_core + parts.share_spurious + rest, torch.ones(12, dtype=torch.float64))
    torch.testing.assert_close(parts.share_core, square[:, :4].sum(dim=1) / square.sum(dim=1))
    assert sorted([*parts.core_neurons.tolist(), *parts.spurious_neurons.tolist()]) == list(range(12))
    assert parts.core_importance + parts.spurious_importance == pytest.approx(1)


def test_neurons_are_assigned_by_weight_per_column_so_that_block_sizes_do_not_matter():
    model = nn.Sequential(nn.Linear(5, 2, bias=False), nn.ReLU(), nn.Linear(2, 1))
    model[0].weight.data = torch.tensor([[1.0, 1.0, 1.0, 1.0, 1.1], [1.0, 1.0, 1.0, 1.0, 0.9]])
    parts = subnetworks(model, {"core": [0, 1, 2, 3], "spurious": [4]})
    assert parts.spurious_neurons.tolist() == [0] and parts.core_neurons.tolist() == [1]


def test_columns_nobody_reads_change_nothing():
    model, wider = net(), net(columns=14)
    with torch.no_grad():
        wider[0].weight.zero_()
        wider[0].weight[:, :9] = model[0].weight
        wider[2].weight.copy_(model[2].weight)
    a, b = subnetworks(model, LAYOUT), subnetworks(wider, boolean_layout(parity(4), parity(2), 8))
    torch.testing.assert_close(a.share_core, b.share_core)
    assert torch.equal(a.spurious_neurons, b.spurious_neurons) and a.purity == pytest.approx(b.purity)


def test_shuffled_columns_give_the_same_division():
    model, layout = net(), boolean_layout(parity(4), parity(2), 3, shuffle=5)
    shuffled = net()
    with torch.no_grad():
        shuffled[0].weight[:, torch.cat([layout.core, layout.spurious, layout.noise])] = model[0].weight
    a, b = subnetworks(model, LAYOUT), subnetworks(shuffled, layout)
    assert torch.equal(a.core_neurons, b.core_neurons) and a.weight_correlation == pytest.approx(b.weight_correlation)


def test_dead_networks_have_no_number_rather_than_a_wrong_one():
    model = net(bias=False)
    with torch.no_grad():
        model[0].weight.zero_()
    parts = subnetworks(model, LAYOUT)
    assert np.isnan([parts.purity, parts.weight_correlation, parts.core_importance]).all()
    assert float(parts.share_core.abs().sum()) == 0


def test_silencing_neurons_leaves_the_others_and_the_model_alone():
    model, x = net(), torch.randn(20, 9, generator=torch.Generator().manual_seed(1))
    before = model(x)
    ids = torch.tensor([1, 4, 7])
    silent = without_neurons(model, ids)
    hidden = torch.relu(model[0](x))
    hidden[:, ids] = 0
    torch.testing.assert_close(silent(x), model[2](hidden))
    assert torch.equal(model(x), before)
    torch.testing.assert_close(without_neurons(model, np.arange(0))(x), before)


@pytest.fixture(scope="module")
def learned():
    """A shortcut of degree 2, learned before the core and kept after it."""
    run = BooleanRun(parity(4), parity(2), 0.9, noise=4, seed=0)
    found = train_boolean([run], 6000, at=[6000], measures=[used])
    return found.module(0), boolean_layout(run.core, run.spurious, 4), found.rows[-1]


def test_training_on_a_shortcut_leaves_two_subnetworks(learned):
    model, layout, last = learned
    assert last["core_correlation"] >= 0.99
    parts = subnetworks(model, layout)
    assert parts.weight_correlation < -0.3 and parts.purity > 0.6
    batch = boolean_data(parity(4), parity(2), 0.5, 3000, noise=4, seed=99)
    hidden = torch.relu(model[0](batch.x)).detach()
    from_spurious = decode(hidden[:, parts.spurious_neurons], batch, permutations=1)
    from_core = decode(hidden[:, parts.core_neurons], batch, permutations=1)
    assert from_spurious.core_correlation < 0.5 and from_spurious.spurious_correlation > 0.9
    assert from_core.core_correlation > 0.95
    decision = without_neurons(model, parts.spurious_neurons)(batch.x)[:, 0] > 0
    assert (decision == batch.y.bool()).double().mean() > 0.95


def test_selectivity_finds_the_same_division_without_knowing_the_columns(learned):
    batch = boolean_data(parity(4), parity(2), 0.5, 4000, noise=4, seed=98)
    generator = torch.Generator().manual_seed(0)
    y, a = 2.0 * batch.y - 1, 2.0 * batch.attribute - 1
    mix = torch.rand(10, generator=generator)
    x = y[:, None] * mix + a[:, None] * (1 - mix) + 0.5 * torch.randn(4000, 10, generator=generator)
    parts = subnetworks_by_selectivity(x, batch)
    assert parts.core_neurons.tolist() == (mix >= 0.5).nonzero()[:, 0].tolist()
    torch.testing.assert_close(parts.share_core + parts.share_spurious, torch.ones(10, dtype=torch.float64))
    model, layout, _ = learned
    by_columns = subnetworks(model, layout)
    hidden = torch.relu(model[0](batch.x)).detach()
    by_answers = subnetworks_by_selectivity(hidden, batch, outgoing=model[2].weight)
    top = by_columns.importance.argsort(descending=True)[:32]
    same = torch.isin(top, by_columns.core_neurons) == torch.isin(top, by_answers.core_neurons)
    assert same.double().mean() >= 0.75


@given(st.integers(0, 2**31))
@settings(max_examples=20, deadline=None)
def test_selectivity_ignores_scale_shift_and_group_sizes(seed):
    rng = torch.Generator().manual_seed(seed)
    y, a = torch.randint(0, 2, (400,), generator=rng), torch.randint(0, 2, (400,), generator=rng)
    x = torch.randn(400, 6, generator=rng, dtype=torch.float64) + y[:, None] * torch.arange(6) - a[:, None] * 2.0
    x[:, 5] = 3.0  # a constant neuron
    batch = Batch.of(x, y, a)
    parts, moved = subnetworks_by_selectivity(x, batch), subnetworks_by_selectivity(7 * x - 1e4, batch)
    torch.testing.assert_close(parts.share_core, moved.share_core, atol=1e-7, rtol=1e-6)
    assert parts.share_core[5] == parts.share_spurious[5] == parts.importance[5] == 0


def test_a_neuron_that_follows_the_label_is_not_selective_for_a_cue_that_goes_with_it():
    batch = boolean_data(parity(1), parity(1), 0.95, 4000)
    noise = torch.randn(4000, generator=torch.Generator().manual_seed(0))
    parts = subnetworks_by_selectivity((batch.y + 0.3 * noise)[:, None], batch)
    assert parts.share_core > 0.95


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: subnetworks(nn.Linear(9, 1), LAYOUT), "subnetworks_by_selectivity"),
        (lambda: subnetworks(nn.Sequential(nn.Linear(9, 3), nn.Tanh(), nn.Linear(3, 1)), LAYOUT), "Tanh"),
        (lambda: subnetworks(net(), {"core": [0]}), "lacks spurious"),
        (lambda: subnetworks(net(), {"core": [0], "spurious": [9]}), "from 0 to 8"),
        (lambda: subnetworks(net(), {"core": [0], "spurious": []}), "0 spurious"),
        (lambda: subnetworks(net(), {"core": [0, 1], "spurious": [1]}), "twice"),
        (lambda: without_neurons(net(), torch.tensor([12])), "from 0 to 11"),
        (
            lambda: subnetworks_by_selectivity(torch.zeros(4, 2), Batch.of(torch.zeros(4, 1), [0, 0, 1, 1])),
            "two classes",
        ),
        (
            lambda: subnetworks_by_selectivity(
                torch.zeros(5, 2), Batch.of(torch.zeros(5, 1), [0, 0, 1, 1, 1], [0, 0, 1, 1, 0])
            ),
            "smallest has 0",
        ),
        (
            lambda: subnetworks_by_selectivity(
                torch.zeros(8, 2), Batch.of(torch.zeros(8, 1), [0, 1] * 4, [0, 0, 1, 1] * 2), outgoing=torch.ones(1, 3)
            ),
            "one column per neuron",
        ),
    ],
)
def test_what_cannot_be_divided_is_refused_with_a_way_out(make, message):
    with pytest.raises(ValueError, match=message):
        make()
