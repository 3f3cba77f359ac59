"""Agreement reports: planted agreement is found, chance is told as chance, and nothing is hidden."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from torch import nn

from firstcue.agreement._tally import null_table, random_kept
from firstcue.agreement.coherence import measure_agreement
from firstcue.agreement.features import feature_agreement
from firstcue.agreement.gradients import environment_gradients
from firstcue.agreement.measures import agreement_measure, agreement_warnings, coherence_measure
from firstcue.agreement.noise import example_coherence, noise_scale
from firstcue.agreement.rules import and_mask
from firstcue.batch import Batch
from firstcue.training.recorder import Recorder, Step

cross_entropy = nn.functional.cross_entropy


def network(seed=0, inputs=4, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    model = nn.Sequential(nn.Linear(inputs, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 3)).to(dtype)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=generator))
    return model


def data(n=60, environments=5, seed=1, inputs=4):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, inputs, generator=generator)
    y = torch.randint(0, 2, (n,), generator=generator)  # class 2 is missing
    group = torch.randint(0, environments, (n,), generator=generator)
    group[:environments] = torch.arange(environments)
    return Batch(x, y, group)


class Vector(nn.Module):
    """Outputs `x * w`: the gradient of a row is what the loss makes of it."""

    def __init__(self, p):
        super().__init__()
        self.w = nn.Parameter(torch.zeros(p))

    def forward(self, x):
        return x * self.w


def linear_loss(outputs, y):
    return outputs.sum(dim=1).mean()


def of_gradients(rows, environment=None, **options):
    """The report on a model whose gradient on each row is that row."""
    rows = torch.as_tensor(rows, dtype=torch.float32)
    environment = torch.arange(len(rows)) if environment is None else environment
    return measure_agreement(Vector(rows.shape[1]), linear_loss, (rows, torch.zeros(len(rows))), environment, **options)


@pytest.mark.parametrize("threshold", [0.0, 0.5, 1.0])
def test_the_kept_share_is_that_of_the_mask(threshold):
    model, batch = network(), data()
    found = measure_agreement(model, cross_entropy, batch, threshold=threshold)
    model.eval()
    gradients = environment_gradients(model, cross_entropy, batch)
    for name, g in gradients.items():
        flat = g.flatten(1)
        kept = (flat.sign().sum(0).abs() >= threshold * len(g)).float().mean()
        assert found.layers[name].kept == pytest.approx(float(kept))
    masked = torch.cat([and_mask(g.flatten(1), threshold) for g in gradients.values()])
    mean = torch.cat([g.flatten(1).mean(0) for g in gradients.values()])
    assert found.norm_ratio == pytest.approx(float(masked.norm() / mean.norm()), rel=1e-5)


def test_the_conflict_matrix_holds_cosines_of_whole_gradients():
    model, batch = network().eval(), data()
    found = measure_agreement(model, cross_entropy, batch)
    whole = torch.cat([g.flatten(1) for g in environment_gradients(model, cross_entropy, batch).values()], dim=1)
    slow = nn.functional.cosine_similarity(whole[:, None], whole[None], dim=2)
    assert np.allclose(found.conflict, slow.numpy(), atol=1e-5)
    assert found.norms == pytest.approx(whole.norm(dim=1).tolist(), rel=1e-5)
    rho = whole.mean(0).square().sum() / whole.square().sum(1).mean()
    assert found.alignment == pytest.approx(float(rho), rel=1e-5)


def test_histograms_count_every_component_once():
    found = measure_agreement(network(), cross_entropy, data())
    for layer in [*found.layers.values(), found.whole]:
        assert sum(layer.histogram) == layer.size == pytest.approx(sum(layer.null_histogram))
        assert len(layer.histogram) == 6
    assert found.whole.size == sum(p.numel() for p in network().parameters())


@pytest.mark.parametrize(
    ("count", "least", "expected"),
    [(4, 4, 0.125), (8, 8, 0.00781), (16, 16, 3.05e-5), (16, 8, 0.0768), (80, 16, 0.0929), (80, 4, 0.7376)],
)
def test_random_signs_are_kept_as_often_as_the_binomial_says(count, least, expected):
    assert random_kept(least, count) == pytest.approx(expected, rel=6e-3)


def test_probabilities_of_random_signs_sum_to_one():
    assert torch.allclose(null_table(37).sum(dim=1), torch.ones(38, dtype=torch.float64))


def test_random_gradients_are_told_as_chance():
    rows = torch.randn(8, 20_000, generator=torch.Generator().manual_seed(0))
    found = of_gradients(rows, threshold=0.5)
    p = found.expected
    assert abs(found.kept - p) < 4 * (p * (1 - p) / 20_000) ** 0.5
    assert found.whole.mean == pytest.approx(found.whole.null_mean, rel=0.02)
    assert found.only_one_group == pytest.approx(found.only_one_expected, abs=0.01)
    assert found.alignment == pytest.approx(1 / 8, rel=0.05)
    assert any("no more is kept" in warning for warning in found.warnings)
    assert list(found.lone_dissent.values()) == pytest.approx([found.dissent_expected] * 8, abs=0.003)


def test_exact_zeros_are_not_expected_to_agree():
    rows = torch.randn(8, 1000, generator=torch.Generator().manual_seed(0))
    rows[2:, :500] = 0
    found = of_gradients(rows)
    assert found.layers["w"].zeros == pytest.approx(6 * 500 / 8000)
    assert found.expected == pytest.approx(0.5 * 2.0**-7)


def test_equal_gradients_agree_in_everything():
    found = of_gradients(torch.tensor([[1.0, -2.0, 3.0]]).repeat(4, 1))
    assert found.kept == found.alignment == found.norm_ratio == 1
    assert found.conflicting == found.only_one_group == 0 and not found.warnings
    assert np.allclose(found.conflict, 1)


def test_what_one_group_alone_wants_is_counted_and_named():
    rows = [[9.0, 1.0], [-1.0, 1.0], [-1.0, 1.0], [-1.0, 1.0]]  # the first wins the first component alone
    found = of_gradients(rows, torch.tensor([0, 1, 2, 3]))
    mean = torch.tensor(rows).mean(0)
    assert found.only_one_group == pytest.approx(float(mean[0] / mean.sum()))
    assert found.only_one_by_group == pytest.approx({"0": found.only_one_group, "1": 0, "2": 0, "3": 0})


def test_a_lone_dissenter_is_found():
    rows = torch.ones(5, 10)
    rows[3, :4] = -0.5
    rows[:2, 9] = -1  # two against three is no lone dissent
    found = of_gradients(rows)
    assert found.lone_dissent == pytest.approx({"0": 0, "1": 0, "2": 0, "3": 0.4, "4": 0})


def test_two_environments_have_no_lone_dissenter():
    assert of_gradients([[1.0, 2.0], [-1.0, 2.0]]).lone_dissent == {}


def test_random_groups_are_always_shown_beside():
    x = torch.randn(400, 3, generator=torch.Generator().manual_seed(0))
    group = torch.arange(400) % 8
    rows = x + 3 * torch.where(group < 4, 1.0, -1.0)[:, None]  # halves that pull apart
    found = of_gradients(rows, group)
    drawn = found.random_groups
    assert found.kept == 0 and found.conflicting > 0.4
    assert drawn is not None and drawn.random_groups is None and drawn.sizes == found.sizes
    again = of_gradients(rows, group).random_groups
    assert dataclasses.replace(again, conflict=drawn.conflict) == drawn
    same = of_gradients(x, group)
    assert abs(same.alignment - same.random_groups.alignment) < 0.2, (
        "groups that differ in nothing look like random ones"
    )


def test_the_order_of_rows_and_the_names_of_environments_change_nothing():
    model, batch = network(), data()
    order = torch.randperm(len(batch), generator=torch.Generator().manual_seed(3))
    first = measure_agreement(model, cross_entropy, batch)
    named = [f"site {int(g)}" for g in batch.group[order]]
    other = measure_agreement(model, cross_entropy, (batch.x[order], batch.y[order]), named)
    assert other.environments == tuple(f"site {i}" for i in range(5))
    assert np.allclose(first.conflict, other.conflict, atol=1e-5) and first.whole.histogram == other.whole.histogram


def test_duplicating_an_environment_set_changes_no_agreement():
    rows = torch.randn(4, 50, generator=torch.Generator().manual_seed(0))
    once, twice = of_gradients(rows), of_gradients(rows.repeat(2, 1))
    assert once.kept == twice.kept and once.alignment == pytest.approx(twice.alignment)


def test_the_model_is_left_as_found_and_dropout_is_off():
    model, batch = network(), data()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    first, second = (measure_agreement(model, cross_entropy, batch) for _ in range(2))
    assert first.kept == second.kept and np.array_equal(first.conflict, second.conflict)
    assert model.training and torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


def test_some_parameters_alone_can_be_measured():
    found = measure_agreement(network(), cross_entropy, data(), parameters=["3.weight"])
    assert list(found.layers) == ["3.weight"]


def test_unequal_and_few_and_silent_environments_are_named():
    rows = torch.cat([torch.ones(9, 2), torch.zeros(2, 2)])
    found = of_gradients(rows, torch.tensor([0] * 9 + [1] * 2))
    text = " ".join(found.warnings)
    assert "with 2 environments" in text and "2 to 9 rows" in text and "no gradient at all from 1" in text
    assert np.isnan(found.conflict[0, 1])


def test_a_steep_scale_is_named():
    rows = torch.randn(12, 3000, generator=torch.Generator().manual_seed(0))
    rows[:, 0] = 1.0
    assert any("more than 100" in warning for warning in of_gradients(rows).warnings)


def test_the_summary_shows_each_number_beside_its_controls():
    text = measure_agreement(network(), cross_entropy, data()).summary()
    assert "5 environments of" in text and "5 have to agree" in text
    assert all(word in text for word in ("of random signs", "of random groups", "of unrelated gradients"))


def test_half_precision_is_measured():
    batch = data()
    model = network(dtype=torch.bfloat16)
    found = measure_agreement(model, cross_entropy, dataclasses.replace(batch, x=batch.x.bfloat16()))
    assert 0 <= found.kept <= 1 and math.isfinite(found.alignment)


@pytest.mark.parametrize("threshold", [-0.1, 1.1])
def test_a_threshold_outside_zero_and_one_is_refused(threshold):
    with pytest.raises(ValueError, match="threshold"):
        of_gradients([[1.0], [2.0]], threshold=threshold)


def test_one_environment_is_refused():
    batch = data()
    with pytest.raises(ValueError, match="at least two"):
        measure_agreement(network(), cross_entropy, (batch.x, batch.y), torch.zeros(len(batch), dtype=torch.int64))
    with pytest.raises(ValueError, match="environment"):
        measure_agreement(network(), cross_entropy, (batch.x, batch.y))


def test_gradients_that_are_not_finite_name_the_parameter():
    model, batch = network(), data()
    with torch.no_grad():
        model[3].weight[0, 0] = math.inf
    with pytest.raises(ValueError, match="parameter '"):
        measure_agreement(model, cross_entropy, batch)


# examples


def test_coherence_is_that_of_single_gradients():
    model, batch = network().eval(), data(n=20)
    found = example_coherence(model, cross_entropy, batch)
    single = environment_gradients(model, cross_entropy, batch, torch.arange(20))
    g = torch.cat([v.flatten(1) for v in single.values()], dim=1).double()
    assert found.coherence == pytest.approx(float(g.sum(0).square().sum() / (20 * g.square().sum())), rel=1e-4)
    variance = float((g - g.mean(0)).square().sum() / 19)
    assert found.noise_scale == pytest.approx(variance / (float(g.mean(0).square().sum()) - variance / 20), rel=1e-3)
    assert found.whole.mean == pytest.approx(float(g.sign().mean(0).abs().mean()), abs=1e-6)


@pytest.mark.parametrize(("rows", "expected"), [(torch.eye(6), 1.0), (torch.ones(6, 6), 6.0)])
def test_orthogonal_examples_have_coherence_one_and_equal_ones_n(rows, expected):
    found = example_coherence(Vector(6), linear_loss, (rows, torch.zeros(6)))
    assert found.m_coherence == pytest.approx(expected)


def test_the_noise_scale_of_planted_noise_is_recovered():
    generator = torch.Generator().manual_seed(0)
    g = 1.0 + 3.0 * torch.randn(4000, 10, generator=generator)  # squared length 10, variance 90
    found = example_coherence(Vector(10), linear_loss, (g, torch.zeros(4000)))
    assert found.noise_scale == pytest.approx(9.0, rel=0.1)
    lengths = [[float(part.mean(0).square().sum()) for part in g.split(size)] for size in (10, 200)]
    assert noise_scale(*lengths, 10, 200) == pytest.approx(9.0, rel=0.3)


def test_pure_noise_has_no_finite_noise_scale():
    rows = torch.cat([torch.eye(4), -torch.eye(4)])
    assert example_coherence(Vector(4), linear_loss, (rows, torch.zeros(8))).noise_scale == math.inf
    assert noise_scale([2.0], [0.9], 1, 2) == math.inf


def test_without_gradient_coherence_is_undefined():
    found = example_coherence(Vector(3), linear_loss, (torch.zeros(4, 3), torch.zeros(4)))
    assert math.isnan(found.coherence) and math.isnan(found.noise_scale)


def test_what_has_no_coherence_is_refused():
    with pytest.raises(ValueError, match="compares examples"):
        example_coherence(network(), cross_entropy, data().rows(slice(0, 1)))
    with pytest.raises(ValueError, match="batch sizes"):
        noise_scale([1.0], [1.0], 4, 4)
    with pytest.raises(ValueError, match="squared lengths"):
        noise_scale([], [1.0], 1, 2)


# features


def planted(n=1200):
    """Feature 0 tells the class everywhere; features 1 to 3 tell it by a code of each environment."""
    generator = torch.Generator().manual_seed(0)
    y = torch.randint(0, 2, (n,), generator=generator)
    group = torch.arange(n) % 6
    code = torch.tensor([[1.0, 1.0, -1.0], [-1.0, 1.0, 1.0], [1.0, -1.0, 1.0]]).repeat(2, 1)
    code[3:] *= -1
    sign = (2 * y - 1)[:, None].float()
    noise = 0.3 * torch.randn(n, 4, generator=generator)
    return Batch(torch.cat([sign, sign * code[group]], dim=1) + noise, y, group)


def test_a_feature_that_holds_everywhere_stands_out():
    model = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 2))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(0.3 * torch.randn(p.shape, generator=generator))
    found = feature_agreement(model, cross_entropy, planted(), names=["core", "a", "b", "c"])
    core, *codes = found
    assert core.name == "core" and core.agreement > 0.9 > 0.7 > max(f.agreement for f in codes)
    assert core.kept > 0.5 and core.expected == pytest.approx(2.0**-5, rel=0.1)  # a dead unit agrees with nobody
    assert min(f.random_groups for f in codes) > max(f.agreement for f in codes)


def test_features_need_a_layer_that_sees_them():
    model = nn.Sequential(nn.ReLU(), nn.Linear(4, 2))
    with pytest.raises(ValueError, match=r"no nn\.Linear sees the inputs"):
        feature_agreement(model, cross_entropy, planted())
    with pytest.raises(ValueError, match="4 features"):
        feature_agreement(nn.Linear(4, 2), cross_entropy, planted(), names=["a"])


# over training


def test_measures_are_recorded_beside_their_controls():
    batch = data()
    recorder = Recorder(
        [agreement_measure(cross_entropy, batch, layers=True), coherence_measure(cross_entropy, batch)], every=1
    )
    recorder(Step(0, network()))
    row = recorder.rows[0]
    assert {
        "agreement/kept",
        "agreement/expected",
        "agreement/random_groups/kept",
        "agreement/kept/0.weight",
    } <= row.keys()
    assert {"coherence/m_coherence", "coherence/noise_scale"} <= row.keys()
    assert all(isinstance(value, int | float | None) for value in row.values())


def test_a_mask_that_passes_nothing_but_chance_for_long_is_warned_of():
    def row(step, kept):
        return {"step": step, "agreement/kept": kept, "agreement/expected": 0.01}

    rows = [row(0, 0.01), row(1, 0.011), row(2, 0.0), row(3, 0.5), row(4, 0.01), {"step": 5}]
    assert len(agreement_warnings(rows)) == 1 and agreement_warnings(rows)[0].startswith("steps 0 to 2")
    assert agreement_warnings(rows, patience=4) == []
    assert len(agreement_warnings(rows, patience=1)) == 2
