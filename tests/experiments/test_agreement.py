"""Experiments on agreement: their data has golden numbers, their claims are judged, small runs behave as they should."""

import math
from dataclasses import replace
from functools import partial

import pytest
import torch

from firstcue.agreement.apply import apply_rule
from firstcue.agreement.rules import and_mask, mean_gradient
from firstcue.experiments.agreement import (
    coinrun,
    label_noise,
    learning_signal,
    linear_regression,
    mask_settings,
    memorisation,
    minima,
    patchwork,
    random_labels,
)
from firstcue.experiments.agreement._memorising import COMMON, epochs_of, loss, memorise, perceptron
from firstcue.experiments.agreement._pictures import pictures
from firstcue.experiments.agreement._spirals import PRESETS, Preset, spirals, spirals_for_testing
from firstcue.sweeps import Trial

MODULES = (
    coinrun,
    label_noise,
    learning_signal,
    linear_regression,
    mask_settings,
    memorisation,
    minima,
    patchwork,
    random_labels,
)


def rows_of(module, trials):
    return [row for trial in trials for row in trial.label(module.run(trial))]


# spirals with signatures

GOLDEN = {
    "paper": ((-0.81465766, 0.75143023), 0),
    "readme": ((-0.70220508, 0.19940913), 1),
    "code": ((-0.19058218, -1.71621582), 1),
}
SIGNATURE = (1.76405235, 0.40015721)
"""Of environment 0 with seed 0, before its scale: the first draws of the authors' generator."""


@pytest.mark.parametrize("name", sorted(GOLDEN))
def test_the_first_row_is_that_of_the_authors_generator(name):
    mechanism, y = GOLDEN[name]
    batch = spirals(PRESETS[name])
    signature = [(2 * y - 1) * PRESETS[name].std * s for s in SIGNATURE]
    assert int(batch.y[0]) == y
    assert batch.x[0, :4].tolist() == pytest.approx([*mechanism, *signature], abs=1e-6)


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_presets_have_their_sizes(name):
    preset = PRESETS[name]
    batch, test = spirals(preset), spirals_for_testing(preset)
    assert batch.x.shape == (preset.environments * preset.rows, 2 + preset.signature) and batch.x.dtype == torch.float32
    assert batch.group.bincount().tolist() == [preset.rows] * preset.environments
    assert len(test) == 2000 and 0.45 < float(test.y.float().mean()) < 0.55
    assert float(batch.x[:, 2:].std()) == pytest.approx(preset.std, rel=0.15)


def test_a_signature_tells_the_label_within_its_environment_and_nothing_elsewhere():
    batch = spirals(Preset(4, 50, 6))
    for e in range(4):
        own = batch.x[batch.group == e, 2:] * (2 * batch.y[batch.group == e, None] - 1)
        assert torch.allclose(own, own[:1].expand_as(own))
    assert not torch.allclose(batch.x[0, 2:].abs(), batch.x[60, 2:].abs())


def test_seeds_share_no_draw():
    preset = Preset(3, 20, 4)
    first, second = spirals(preset, seed=0), spirals(preset, seed=1)
    assert not any(torch.equal(a, b) for a in first.x[:, :2].split(20) for b in second.x[:, :2].split(20))
    assert torch.equal(first.x, spirals(preset, seed=0).x)


def test_the_mechanism_alone_is_enough_and_the_signature_alone_is_not():
    from sklearn.linear_model import LogisticRegression
    from sklearn.neighbors import KNeighborsClassifier

    preset = PRESETS["readme"]
    batch, test = spirals(preset), spirals_for_testing(preset)
    near = KNeighborsClassifier(5).fit(batch.x[:, :2], batch.y)
    assert near.score(test.x[:, :2], test.y) > 0.99
    shortcut = LogisticRegression(C=100, max_iter=500).fit(batch.x[::8, 2:], batch.y[::8])
    assert shortcut.score(batch.x[:, 2:], batch.y) == 1.0
    assert abs(shortcut.score(test.x[:, 2:], test.y) - 0.5) < 0.03


# training on them

SMALL = {"environments": 4, "rows": 64, "batch_size": 32, "epochs": 4, "hidden": 16}


def test_a_training_repeats_and_leaves_global_randomness_alone():
    state = torch.get_rng_state()
    first = memorise(SMALL, 3)
    assert first == memorise(SMALL, 3) != memorise(SMALL, 4)
    assert torch.equal(state, torch.get_rng_state())
    assert [row["end"] for row in first] == [False] * 3 + [True]


def test_the_mask_keeps_few_components_and_plain_training_all():
    assert all(row["kept"] < 0.6 for row in memorise(SMALL, 0))
    assert all(row["kept"] == 1 for row in memorise({**SMALL, "threshold": 0.0}, 0))


def test_a_masked_step_is_that_of_the_rule():
    preset = Preset(4, 32, 5)
    settings = {**COMMON, **SMALL, "rows": 32, "epochs": 1, "l2": 0.0, "scale": "none", "decay": []}
    batch, model = spirals(preset), perceptron(7, settings, 0).double()
    batch = replace(batch, x=batch.x.double())
    slow = perceptron(7, settings, 0).double()
    for _ in epochs_of(model, batch, preset, settings, 0):
        pass
    apply_rule(slow, partial(and_mask, threshold=1.0), loss, batch)
    torch.optim.Adam(slow.parameters(), lr=settings["rate"]).step()
    assert all(torch.allclose(a, b, atol=1e-9) for a, b in zip(model.parameters(), slow.parameters(), strict=True))


@pytest.mark.parametrize("changed", [{"irm": 1.0}, {"dropout": 0.5}, {"batch_norm": True}, {"l1": 1e-3}])
def test_every_baseline_trains(changed):
    row = memorise({**SMALL, "threshold": 0.0, **changed}, 0)[-1]
    assert all(math.isfinite(row[name]) for name in ("train", "test", "held_out"))


def test_weights_behind_the_mask_decay():
    preset, settings = Preset(4, 32, 5), {**COMMON, **SMALL, "rows": 32, "l2": 1e-1, "epochs": 10}
    model = perceptron(7, settings, 0)
    before = model[0].weight.detach().abs().sum()
    for _ in epochs_of(model, spirals(preset), preset, settings, 0):
        pass
    assert model[0].weight.detach().abs().sum() < before


# the small examples


def test_the_shared_weight_of_the_regression_is_three():
    rows = rows_of(linear_regression, linear_regression.trials("tiny", 2))
    assert [r["weight_4"] for r in rows if r["rule"] == "AND-mask"] == pytest.approx([3.0] * 2, abs=0.25)
    losses = {rule: [r["test_loss"] for r in rows if r["rule"] == rule] for rule in linear_regression.RULES}
    assert max(losses["AND-mask"]) < 0.02 and max(losses["geometric mean"]) < 0.02 and min(losses["mean"]) > 0.4
    assert all(claim.verdict == "holds" for claim in linear_regression.claims(rows))


def test_the_regression_follows_the_gradients_of_autograd():
    x, y = linear_regression.rows_of_four()
    model = torch.nn.Linear(5, 1, bias=False)
    with torch.no_grad():
        model.weight.copy_(linear_regression.fit(mean_gradient, 1, 0)[None])

    def half_square(outputs, targets):
        return (outputs[:, 0] - targets).square().mean() / 2

    apply_rule(model, mean_gradient, half_square, (x[:2], y[:2]), torch.arange(2))
    rate, decay = 0.3 * 0.9995**2, 0.01
    slow = (model.weight - rate * model.weight.grad) * (1 - decay * rate)
    assert torch.allclose(linear_regression.fit(mean_gradient, 2, 0), slow.detach()[0], atol=2e-5)


def test_the_patchwork_is_judged_inconsistent(monkeypatch):
    monkeypatch.setattr(patchwork, "LEVELS", (1e-6, 1e-2))
    rows = rows_of(patchwork, [Trial("agreement/patchwork", {"points": 51, "steps": 20}, 0)])
    assert [claim.verdict for claim in patchwork.claims(rows)] == ["holds", "holds"]


def test_the_learning_signal_is_measured_on_both_sides_of_the_mask():
    rows = rows_of(
        learning_signal, [Trial("agreement/learning-signal", {"rows": 32, "hidden": 16}, s) for s in range(2)]
    )
    sizes = {row["components"] for row in rows if row["threshold"] == 0 and row["part"] == "kept"}
    for threshold in learning_signal.THRESHOLDS:
        parts = [r["components"] for r in rows if r["threshold"] == threshold and r["seed"] == 0]
        assert {sum(parts)} == sizes
    assert all(-1 <= row[name] <= 1 for row in rows for name in ("mechanism", "shortcut"))
    assert len(learning_signal.claims(rows)) == 3


def test_minima_are_compared_at_equal_levels(monkeypatch):
    monkeypatch.setattr(minima, "LEVELS", (0.003, 0.01))
    shared = {"rows": 160, "updates": 20, "search": 2}
    rows = rows_of(minima, [Trial("agreement/minima", {**shared, "rule": rule}, 0) for rule in minima.RULES])
    assert [row["eps"] for row in rows] == [0.003, 0.01] * 2
    assert all(row["path"] > 0 and 0 <= row["unseen"] <= 1 for row in rows)
    assert len(minima.claims(rows)) == 2 and minima.figures(rows)


def test_settings_of_the_mask_are_turned_one_at_a_time_and_share_their_centre(monkeypatch):
    monkeypatch.setattr(
        mask_settings, "CURVES", {"l2": (0.0, 1e-3), "threshold": (0.0, 0.75, 1.0), "scale": ("none", "tensor")}
    )
    little = {"environments": 4, "rows": 16, "batch_size": 16, "epochs": 2, "hidden": 8, "decay": [0.75]}
    trials = [replace(t, settings={**t.settings, **little}) for t in mask_settings.trials("tiny", 2)]
    assert len(trials) == 2 * 5
    rows = rows_of(mask_settings, trials)
    assert all(0 <= row["test"] <= row["best_test"] <= 1 for row in rows)
    assert [claim.n for claim in mask_settings.claims(rows)] == [2] * 5
    axes = mask_settings.figures(rows)["settings"].axes
    assert [len(a.lines) for a in axes] == [2 * len(v) + 1 for v in mask_settings.CURVES.values()]


# pictures


def test_redrawn_labels_may_be_the_true_ones_and_only_changed_ones_count_as_wrong():
    given = {**label_noise.SCALES["tiny"].settings, "redrawn": 0.5}
    data = pictures(given, 0)
    share = float(data.mislabelled.float().mean())
    assert 0.5 * 0.9 - 0.06 < share < 0.5 * 0.9 + 0.06
    assert not pictures({**given, "redrawn": 0.0}, 0).mislabelled.any()
    assert torch.equal(pictures({**given, "redrawn": 0.0}, 0).train.y, data.truth)
    assert len(data.test) == 900 and float(data.train.x.std()) == pytest.approx(1, abs=1e-3)


TINY = {"data": "builtin:digits", "train_rows": 240, "test_rows": 200, "pool": 4, "epochs": 30, "hidden": 64}


def test_random_labels_are_learned_by_plain_training_and_not_by_the_mask():
    shared = {
        **TINY,
        "rate": 5e-3,
    }
    trials = [Trial("agreement/random-labels", {**shared, "redrawn": r, "threshold": t}, s) for r in (0.0, 1.0) for t in (0.0, 0.2) for s in range(1)]  # fmt: skip
    rows = rows_of(random_labels, trials)
    ends = {(r["redrawn"], r["threshold"]): r for r in rows if r["end"]}
    assert ends[1.0, 0.0]["train"] > ends[1.0, 0.2]["train"] + 0.15
    assert ends[0.0, 0.2]["test"] > 0.6
    assert len(random_labels.claims(rows)) == 3 and random_labels.figures(rows)


def test_noise_is_judged_on_wrong_labels():
    runs = label_noise.RUNS.items()
    trials = [Trial("agreement/label-noise", {**TINY, "epochs": 6, "redrawn": 0.25, "decay": [0.75], "run": n, **s}, seed) for n, s in runs for seed in range(2)]  # fmt: skip
    rows = rows_of(label_noise, trials)
    assert all(0 <= row["mislabelled_given"] <= 1 and 0 <= row["mislabelled_true"] <= 1 for row in rows)
    assert len(label_noise.claims(rows)) == 4 and label_noise.figures(rows)


# CoinRun


def test_the_shipped_levels_are_read_and_split_by_level():
    data = coinrun.levels("shipped", 2)
    seen = [set(part.group.tolist()) for part in (data.train, data.validation, data.test)]
    assert [len(s) for s in seen] == [6, 2, 16] and not (seen[0] & seen[1] or seen[0] & seen[2] or seen[1] & seen[2])
    assert data.train.x.shape[1:] == (3, 32, 32) and 0 <= float(data.train.x.min()) < float(data.train.x.max()) <= 1
    assert set(data.test.y.tolist()) <= set(range(len(coinrun.ACTIONS)))


def test_data_that_is_missing_says_how_to_make_it(tmp_path, monkeypatch):
    monkeypatch.setenv(coinrun.VARIABLE, str(tmp_path / "nowhere.npz"))
    with pytest.raises(ValueError, match="make coinrun-data"):
        coinrun.levels("coinrun.npz", 2)


def test_every_step_shows_one_level():
    data = coinrun.levels("shipped", 2).train
    parts = coinrun.one_level_per_step(data, 10, torch.Generator().manual_seed(0))
    assert all(len(data.group[part].unique()) == 1 for part in parts)
    assert sorted(torch.cat(parts).tolist()) == list(range(len(data)))


def test_both_methods_are_tried_with_the_same_settings():
    trials = coinrun.trials("small", 1)
    by_draw = {}
    for trial in trials:
        by_draw.setdefault(trial.settings["draw"], []).append(dict(trial.settings))
    for adam, mask in by_draw.values():
        assert adam.pop("threshold") == 0 and mask.pop("threshold") > 0
        assert {adam.pop("method"), mask.pop("method")} == {coinrun.ADAM, coinrun.MASK}
        assert adam == mask


def test_settings_are_chosen_on_held_out_levels_never_on_the_test():
    rows = [
        {"method": coinrun.MASK, "draw": d, "seed": s, "validation_loss": v, "test_loss": t}
        for d, v, t in ((0, 1.0, 0.1), (1, 0.5, 0.9))
        for s in (1, 0)
    ]
    chosen = coinrun.chosen_rows(rows, coinrun.MASK)
    assert [(r["draw"], r["seed"]) for r in chosen] == [(1, 0), (1, 1)]
    assert coinrun.chosen_rows(rows, coinrun.ADAM) == []


def test_a_player_is_cloned():
    rows = rows_of(coinrun, coinrun.trials("tiny", 2))
    assert all(math.isfinite(row["test_loss"]) and 0 <= row["moved"] <= 1 for row in rows)
    assert {row["moved"] == 1 for row in rows if row["method"] == coinrun.ADAM} == {True}
    assert len(coinrun.claims(rows)) == 2 and coinrun.figures(rows)


# all


@pytest.mark.parametrize("module", MODULES, ids=lambda m: m.__name__.split(".")[-1])
def test_trials_are_distinct_and_named_after_the_module(module):
    name = f"agreement/{module.__name__.split('.')[-1].replace('_', '-')}"
    for scale in module.SCALES:
        trials = module.trials(scale, 2)
        assert {t.experiment for t in trials} == {name}
        assert len({t.key for t in trials}) == len(trials)
    assert "arXiv 2009.00329" in module.SOURCE and module.TITLE


def test_a_claim_of_memorisation_shows_every_seed():
    def end(run, seed, test, held_out):
        return {"run": run, "seed": seed, "epoch": 1, "end": True, "train": 1.0, "test": test, "held_out": held_out}

    rows = [end(run, s, 0.5, 0.5) for run in (memorisation.PLAIN, memorisation.MASK) for s in range(3)]
    rows += [end(memorisation.WEAK, s, t, t) for s, t in enumerate((0.97, 0.52, 0.99))]
    claims = memorisation.claims(rows)
    assert any("0.52, 0.97, 0.99" in claim.note for claim in claims)
    assert [claim.verdict for claim in claims[:2]] == ["holds", "inconclusive"]
    assert memorisation.figures(rows).keys() == {"curves", "ends"}


@pytest.mark.science
def test_plain_training_memorises_and_the_mask_learns_the_spiral():
    settings = {"preset": "readme", "l2": 1e-3, "batch_size": 256, "epochs": 150, "decay": [0.75]}
    plain = memorise({**settings, "threshold": 0.0}, 0)[-1]
    masked = memorise(settings, 0)
    assert plain["train"] > 0.99 and plain["test"] < 0.56
    assert max(row["test"] for row in masked) > plain["test"] + 0.2
