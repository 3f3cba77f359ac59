"""Richness over training: what is recorded, at what cost, and that nothing is left behind."""

import copy
import json
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from firstcue.batch import Batch
from firstcue.forward import seeded
from firstcue.richness.change import measure_change
from firstcue.richness.low_rank import low_rank_measure
from firstcue.richness.monitor import RichnessMonitor, richness_measure
from firstcue.richness.profile import richness_profile
from firstcue.training.loop import minibatches, train
from firstcue.training.recorder import Recorder, Step


def network(seed=0, classes=3):
    with seeded(seed):
        return nn.Sequential(
            nn.Flatten(), nn.Linear(16, 20), nn.BatchNorm1d(20), nn.ReLU(), nn.Dropout(0.3), nn.Linear(20, classes)
        )


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 6, 3, padding=1)
        self.block = nn.Sequential(nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 6, 3, padding=1))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(6, 3)

    def forward(self, x):
        x = self.stem(x)
        return self.fc(self.pool(x + self.block(x)).flatten(1))


def data(n=300, seed=0, classes=3):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 1, 4, 4, generator=generator)
    return Batch(x, (x.flatten(1) @ torch.randn(16, classes, generator=generator)).argmax(dim=1))


def fit(model, steps=60, recorders=(), rate=0.3):
    optimizer = torch.optim.SGD(model.parameters(), lr=rate)
    return train(model, minibatches(data(), 50, epochs=steps // 6), optimizer, recorders=recorders)


def states(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


@pytest.mark.parametrize("make", [network, Residual])
def test_recording_changes_neither_the_model_nor_its_training(make):
    plain, watched = (copy.deepcopy(made) for made in [make()] * 2)
    recorder = Recorder([richness_measure(data())], every=10)

    fit(plain)
    fit(watched, recorders=[recorder])

    assert len(recorder.rows) == 7
    assert all(torch.equal(value, states(plain)[name]) for name, value in states(watched).items())


def test_the_monitor_leaves_mode_buffers_random_state_and_hooks():
    model = network().train()
    before, random = states(model), (torch.get_rng_state(), np.random.get_state()[1].copy())  # noqa: NPY002
    loader = DataLoader(TensorDataset(data().x, data().y), batch_size=32, shuffle=True)

    RichnessMonitor(model, loader).record(0)

    assert model.training and all(torch.equal(value, before[name]) for name, value in states(model).items())
    assert torch.equal(torch.get_rng_state(), random[0]) and (np.random.get_state()[1] == random[1]).all()  # noqa: NPY002
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_numbers_are_those_of_the_arrays():
    model = network()
    row = RichnessMonitor(model, data()).record(0)
    model.eval()
    with torch.no_grad():
        features, outputs = model[:-1](data().x), model(data().x)
    found = low_rank_measure(features, outputs, "raw", "auto")

    assert row["richness/dlr"] == pytest.approx(found.dlr, abs=1e-6)
    assert row["richness/participation_ratio"] == pytest.approx(found.participation_ratio, rel=1e-5)
    assert row["richness/accuracy"] == pytest.approx(float((outputs.argmax(1) == data().y).double().mean()), abs=1e-9)
    assert row["richness/feature_change"] == pytest.approx(0, abs=1e-9) and row["richness/weight_movement"] == 0


def test_training_moves_features_and_the_sentence_says_by_how_much():
    model = network()
    monitor = RichnessMonitor(model, data(), every=30)
    monitor.record(0)
    fit(model)
    monitor.record(60, loss=0.1)

    last = monitor.rows[-1]
    assert last["richness/feature_change"] > 0.05 and last["richness/weight_movement"] > 0.05
    assert last["richness/accuracy"] > monitor.rows[0]["richness/accuracy"]
    assert "step 60" in monitor.sentence() and "better" not in monitor.sentence()


class Speaker(nn.Module):
    """Tokens in, one vector of logits per token out, by the transposed embedding."""

    def __init__(self, bare):
        super().__init__()
        self.embed = nn.Embedding(11, 8)
        self.mix = nn.Linear(8, 8)
        self.lm_head = nn.Linear(8, 11, bias=False)
        self.lm_head.weight = self.embed.weight
        self.bare = bare

    def forward(self, tokens):
        x = torch.tanh(self.mix(self.embed(tokens).cumsum(dim=1)))
        return x @ self.embed.weight.T if self.bare else self.lm_head(x)


@pytest.mark.parametrize("bare", [True, False])
def test_heads_tied_to_the_embedding_are_found_and_every_token_is_a_row(bare):
    model, tokens = Speaker(bare), torch.randint(0, 11, (40, 6))
    row = RichnessMonitor(model, tokens).record(0)
    with torch.no_grad():
        outputs = model(tokens).flatten(0, 1)
        features = torch.tanh(model.mix(model.embed(tokens).cumsum(dim=1))).flatten(0, 1)

    assert row["richness/dlr"] == pytest.approx(low_rank_measure(features, outputs, "raw", "auto").dlr, abs=1e-5)


def test_a_given_start_is_what_change_is_measured_from():
    start = network()
    trained = fit(copy.deepcopy(start))

    row = richness_measure(data(), initial=start)(Step(60, trained))

    assert row["richness/feature_change"] == pytest.approx(
        measure_change(trained, data().x, initial=start, tangent_rows=0)["feature change"], abs=1e-6
    )


@pytest.mark.parametrize(
    "given",
    [
        data(),
        (data().x, data().y),
        [(data().x[:200], data().y[:200]), (data().x[200:], data().y[200:])],
        (data().x.numpy(), data().y.numpy()),
        data().x,
    ],
)
def test_probe_rows_may_come_in_any_form(given):
    row = RichnessMonitor(network(), given).record(0)
    whole = RichnessMonitor(network(), data()).record(0)

    assert row["richness/dlr"] == pytest.approx(whole["richness/dlr"], abs=1e-6)


def test_the_probe_set_is_capped_and_the_same_at_every_step():
    model, seen = network(), []
    monitor = RichnessMonitor(model, data(5000))
    model.register_forward_hook(lambda module, args, output: seen.append(len(args[0])))
    monitor.record(0)
    monitor.record(1)

    assert sum(seen) <= 2 * (2000 + 2 * 256)
    assert monitor.rows[1] | {"step": 0} == monitor.rows[0]


def test_what_would_cost_too_much_is_skipped_and_listed():
    monitor = RichnessMonitor(network(), data(2000), max_share=1e-6)

    for step in range(5):
        monitor.record(step)

    assert [row["step"] for row in monitor.rows] == [0] and monitor.skipped == [1, 2, 3, 4]


def test_a_diverged_model_gives_an_error_that_names_it():
    model = network()
    with torch.no_grad():
        model[1].weight.fill_(float("nan"))
    with pytest.raises(ValueError, match="NaN"):
        RichnessMonitor(model, data()).record(0)


def test_constant_features_are_recorded_as_not_defined(tmp_path):
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 4), nn.ReLU(), nn.Linear(4, 3))
    with torch.no_grad():
        model[1].weight.zero_()
        model[1].bias.fill_(1.0)
    monitor = RichnessMonitor(model, data())
    monitor.record(0)

    assert math.isnan(monitor.rows[0]["richness/dlr"])
    assert "not defined" in monitor.sentence()
    assert json.loads(monitor.to_json(tmp_path / "rows.json").read_text())[0]["richness/dlr"] is None


def test_the_rows_can_be_drawn(tmp_path):
    monitor = RichnessMonitor(network(), data())
    monitor.record(0)
    monitor.record(5)

    assert monitor.plot(tmp_path / "run.png").read_bytes().startswith(b"\x89PNG")
    assert b"<svg" in monitor.plot(tmp_path / "run.svg").read_bytes()
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: RichnessMonitor(network(), data(), every=0), "every"),
        (lambda: RichnessMonitor(network(), data(), max_share=2.0), "max_share"),
        (lambda: richness_measure(data(), max_rows=1), "max_rows"),
        (lambda: RichnessMonitor(network(), 3).record(0), "Batch"),
        (lambda: RichnessMonitor(network(), []).record(0), "nothing"),
        (lambda: RichnessMonitor(nn.Sequential(network(), nn.Softmax(1)), data()).record(0), "softmax"),
    ],
)
def test_what_cannot_be_monitored_is_refused_with_the_way_out(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_the_profile_ends_in_the_features_of_the_head():
    model = fit(network())
    profile = richness_profile(model, data(2000).x, data(2000).y, debias=False)
    by_layer = {found.layer: found for found in profile}
    model.eval()
    features, outputs = model[:-1](data(2000).x).detach(), model(data(2000).x).detach()

    assert list(by_layer) == ["1", "2", "3", "5"]
    assert by_layer["3"].dlr == pytest.approx(low_rank_measure(features, outputs).dlr, abs=1e-6)
    assert by_layer["3"].explained == pytest.approx(1, abs=1e-5)
    assert 0 < by_layer["3"].quality <= 1
    assert by_layer["1"].explained < 1 - 1e-3 and by_layer["1"].width == 20
    assert all(0 <= found.dlr <= 1 and 0 <= found.alignment <= 1 for found in profile)


def test_the_profile_pools_maps_and_refuses_layers_that_are_not():
    assert [found.layer for found in richness_profile(Residual(), data().x)][-1] == "fc"
    with pytest.raises(ValueError, match="no layer 'nowhere'"):
        richness_profile(Residual(), data().x, layers="nowhere")


def test_the_table_holds_every_measure_and_reads_as_text():
    start = network()
    model = fit(copy.deepcopy(start))

    table = measure_change(model, data().x, data().y, initial=start, tangent_rows=8)

    assert {"D_LR", "label alignment", "feature change", "tangent change", "linearisation error", "NC1"} <= {
        row.name for row in table.rows
    }
    assert table["NC4"] == pytest.approx(0.3, abs=0.3) and 0 < table["NC1"] < 100
    assert "needs labels" in str(table) and table.to_rows()[0]["n"] == 300
    with pytest.raises(KeyError, match="measured:"):
        table["nothing"]
    assert {row.needs for row in measure_change(model, data().x).rows} == {""}


def test_measures_of_an_untrained_model_against_itself_are_those_of_the_lazy_limit():
    model = network()
    table = measure_change(model, data().x, initial=model, tangent_rows=8)

    for row in table.rows:
        if row.lazy in ("0", "1"):
            assert math.isnan(row.value) or row.value == pytest.approx(float(row.lazy), abs=1e-6), row.name
