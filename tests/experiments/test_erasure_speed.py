"""The learning-speed experiment trains what it says on what it says, and its claims follow from its rows."""

import json
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.testing import assert_close

from firstcue.experiments.erasure import _data, learning_speed
from firstcue.experiments.erasure._augment import augmented
from firstcue.experiments.erasure._nets import NAMES, Swin, build, count, mlp
from firstcue.experiments.erasure._training import Learner, endless
from firstcue.moments import Moments
from firstcue.sweeps import Trial


def drawn(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 12, 12), (1, 16, 16)])
def test_every_network_reads_images_of_every_size_and_learns(name, shape):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build(name, shape, 4, 8, 2)
    x, y = torch.rand(16, *shape, generator=drawn()), torch.arange(16) % 4
    half = shape[1] // 2
    for i, c in enumerate(y.tolist()):  # each class has a quarter that is dark
        x[i, :, half * (c // 2) :, half * (c % 2) :] -= 1
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(40):
        loss = nn.functional.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]
    assert all(p.grad is not None for p in model.parameters())


def test_the_convolutional_network_has_as_many_parameters_as_the_fully_connected_one():
    for shape in ((1, 8, 8), (1, 16, 16), (3, 32, 32)):
        small, like = count(build("lenet", shape, 10, 128)), count(mlp(shape, 10, 128, 2))
        assert abs(small - like) < 0.1 * like


@pytest.mark.parametrize("shift, blocks, reached", [(0, 1, {(0, 0)}), (2, 2, {(0, 0), (0, 1), (1, 0), (1, 1)})])
def test_attention_sees_its_window_and_a_shift_its_neighbours_but_not_the_opposite_edge(shift, blocks, reached):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Swin((1, 24, 24), 3, 8, blocks)
    x = torch.randn(1, 12, 12, 8, generator=drawn(), requires_grad=True)
    out = x
    for block in model.first:
        out = block(out)
    out[0, 0, 0].sum().backward()
    touched = x.grad[0].abs().sum(dim=-1) > 0
    windows = touched.unflatten(0, (3, 4)).unflatten(2, (3, 4)).any(dim=3).any(dim=1)
    assert {tuple(w) for w in windows.nonzero().tolist()} <= reached | {(0, 0)}
    corner = touched.nonzero()
    assert int(corner.max()) < (4 if blocks == 1 else 8), "a shifted window does not reach around the edge"


def test_crops_move_an_image_and_keep_its_pixels():
    maps = torch.zeros(200, 1, 8, 8)
    maps[:, :, 4, 3] = 1
    moved = augmented(maps, "crop", drawn())
    assert torch.equal(moved.flatten(1).sum(dim=1), torch.ones(200))
    places = {tuple(place) for place in moved[:, 0].nonzero()[:, 1:].tolist()}
    assert places == {(4 + i, 3 + j) for i in (-1, 0, 1) for j in (-1, 0, 1)}
    flipped = augmented(maps, "crop and flip", drawn())
    assert {place[1] for place in flipped[:, 0].nonzero()[:, 1:].tolist()} == {2, 3, 4, 5}
    assert augmented(maps, "none", drawn()) is maps


def test_batches_visit_every_row_once_before_any_twice():
    picks = endless(10, 4, drawn())
    seen = torch.cat([next(picks) for _ in range(5)])
    assert sorted(seen[:10].tolist()) == sorted(seen[10:].tolist()) == list(range(10))


DIGITS = {"source": "builtin:digits", "side": 8, "rows": 1797, "augment": "none"}


def test_each_method_removes_what_it_says():
    found = {
        name: _data.pool(method=name, **DIGITS)
        for name in ("leace", "qleace", "alf-qleace", "gradient", "gradient-close")
    }
    gaps = {name: (p.facts["mean_gap_after"], p.facts["covariance_gap_after"]) for name, p in found.items()}
    assert gaps["leace"][0] < 1e-4 and gaps["qleace"][0] < 1e-4 and gaps["alf-qleace"][0] < 1e-4
    assert gaps["gradient-close"][0] < 0.05 < 1 < gaps["gradient"][0] < found["leace"].facts["mean_gap_before"]
    assert max(gaps["qleace"][1], gaps["gradient-close"][1]) < 0.3 < gaps["alf-qleace"][1] < gaps["leace"][1]
    assert float(found["gradient"].x.min()) >= 0 and float(found["gradient"].x.max()) <= 1
    assert found["leace"].scale == found["qleace"].scale and torch.equal(found["leace"].mean, found["qleace"].mean)


def test_random_directions_are_as_many_as_asked_and_leave_the_mean():
    x = torch.randn(50, 20, generator=drawn(), dtype=torch.float64)
    eraser = _data.random_projection(6, x.mean(dim=0), 3)
    assert torch.linalg.matrix_rank(eraser(x) - x.mean(dim=0)) == 14
    assert_close(eraser(x).mean(dim=0), x.mean(dim=0))


def learner(**changes):
    kept = _data.pool(method=changes.pop("method", "control"), **(DIGITS | changes.pop("data", {})))
    fixed = {
        "net": "mlp",
        "width": 16,
        "depth": 1,
        "classes": 10,
        "rate": 1e-2,
        "batch": 32,
        "epochs": 3,
        "patience": 2,
    }
    return Learner(kept, **(fixed | {"steps": 5, "eraser": kept.eraser} | changes)), kept


def test_rows_erased_in_the_loop_are_those_erased_before():
    before, pool = learner(method="qleace")
    within, raw = learner(method="qleace", data={"augment": "crop"}, augment="crop")
    assert before.eraser is None and within.eraser is not None
    rows = torch.cat([raw.x, raw.y[:, None].float()], dim=1)
    expected = (within.eraser(raw.x, raw.y) - raw.mean) / raw.scale
    assert_close(within._ready(rows).flatten(1), expected)
    assert_close(before._ready(torch.cat([pool.x, rows[:, -1:]], dim=1)).flatten(1), (pool.x - pool.mean) / pool.scale)
    moved = within._ready(rows, drawn())
    assert moved.shape == (1797, 1, 8, 8) and not torch.equal(moved, within._ready(rows))
    means = Moments.of_groups(moved.flatten(1), raw.y).mean
    assert float((means - means.mean(dim=0)).abs().max()) < 0.5, "augmented rows are erased, not only the images behind"


def test_training_stops_when_validation_no_longer_improves_and_keeps_the_best():
    fit, pool = learner(epochs=200, patience=3, rate=0.05)
    rows = torch.cat([pool.x, pool.y[:, None].float()], dim=1)
    calls = []
    step = torch.optim.AdamW.step
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", lambda self, *a: (calls.append(1), step(self, *a))[1])
        predict = fit(rows[:100], pool.y[:100], rows[1000:1300], pool.y[1000:1300], 0)
    assert len(calls) < 200 * 5, "it ended early"
    loss = nn.functional.cross_entropy(predict(rows[1000:1300]), pool.y[1000:1300])
    assert float(loss) < math.log(10)


SMALL = {
    "data": "builtin:digits", "side": 8, "pool": 1797, "net": "mlp", "width": 16, "depth": 1, "rate": 1e-2, "rows": 300,
    "chunks": 3, "epochs": 3, "patience": 2, "batch": 32, "steps": 5, "augment": "none",
}  # fmt: skip


@pytest.mark.parametrize("eraser", _data.ERASERS)
def test_a_trial_gives_the_same_plain_rows_whenever_it_runs(eraser):
    trial = Trial("erasure/learning-speed", SMALL | {"eraser": eraser}, seed=1)
    rows = learning_speed.run(trial)
    torch.rand(1)
    assert rows == learning_speed.run(trial)
    assert json.loads(json.dumps(rows, allow_nan=False)) == rows
    assert [row["kind"] for row in rows] == ["length", "curve", "curve"]
    assert 0 < rows[0]["bits"] < 8 and rows[0]["chance"] == pytest.approx(math.log2(10))


def test_erasing_means_makes_digits_harder_to_learn():
    bits = {}
    for eraser in ("control", "leace"):
        settings = SMALL | {"eraser": eraser, "rows": 900, "epochs": 10, "width": 64}
        bits[eraser] = learning_speed.run(Trial("erasure/learning-speed", settings))[0]["bits"]
    assert bits["leace"] > bits["control"] + 0.3


@pytest.mark.parametrize("scale", ["tiny", "small", "paper"])
def test_a_scale_has_every_method_network_and_seed_once(scale):
    found = learning_speed.trials(scale, 2)
    given = learning_speed.SCALES[scale].settings
    assert len({trial.key for trial in found}) == len(found) == 2 * 7 * len(given["nets"]) * len(given["data"])
    assert all({"rows", "epochs", "patience"} <= set(trial.settings) for trial in found)


def planted(effects, seeds=5):
    """Rows whose code lengths are 2 bits plus the effect of the method on the network, and a little noise."""
    noise = np.random.default_rng(0)
    rows = []
    for net in ("mlp", "swin"):
        for seed in range(seeds):
            base = 2 + noise.normal(scale=0.3)
            for eraser in _data.ERASERS:
                bits = base + effects.get((eraser, net), 0.0) + noise.normal(scale=0.01)
                row = {
                    "kind": "length",
                    "data": "builtin:digits",
                    "net": net,
                    "eraser": eraser,
                    "seed": seed,
                    "bits": bits,
                }
                curve = row | {"kind": "curve", "trained_on": 50, "held_out_bits": bits}
                rows += [row, curve, curve | {"trained_on": 100, "held_out_bits": bits - 0.5}]
    return rows


AS_PUBLISHED = {
    ("leace", "mlp"): 0.5, ("leace", "swin"): 0.5, ("qleace", "mlp"): 1.0, ("qleace", "swin"): -0.4,
    ("alf-qleace", "mlp"): 0.2, ("alf-qleace", "swin"): 0.3, ("gradient", "mlp"): 0.1, ("gradient", "swin"): 0.2,
    ("gradient-close", "mlp"): 0.2, ("gradient-close", "swin"): 0.1,
}  # fmt: skip


def test_claims_hold_where_the_rows_say_what_the_paper_says_and_not_where_they_do_not():
    held = learning_speed.claims(planted(AS_PUBLISHED))
    assert {claim.verdict for claim in held} == {"holds"}
    turned = learning_speed.claims(planted({key: -value for key, value in AS_PUBLISHED.items()}))
    verdicts = {claim.text: claim.verdict for claim in turned}
    assert verdicts.pop(turned[-1].text) == "holds"  # both signs are still there
    assert set(verdicts.values()) == {"does not hold"}
    nothing = learning_speed.claims(planted({}, seeds=2))
    assert "holds" not in {claim.verdict for claim in nothing[:-1]}


def test_figures_show_a_panel_per_network_and_a_line_per_method():
    made = learning_speed.figures(planted(AS_PUBLISHED))
    panels = made["curves-digits"].axes
    assert [panel.get_title() for panel in panels] == ["mlp, feed-forward", "swin, sophisticated"]
    assert all(len(panel.lines) == len(_data.ERASERS) for panel in panels)


def test_svhn_is_read_as_it_is_distributed(tmp_path, monkeypatch):
    from scipy.io import savemat

    folder = tmp_path / "svhn"
    folder.mkdir()
    pixels = np.arange(32 * 32 * 3 * 4, dtype=np.uint8).reshape(32, 32, 3, 4)
    savemat(folder / "train_32x32.mat", {"X": pixels, "y": np.array([[10], [1], [2], [10]])})
    monkeypatch.setenv("FIRSTCUE_DATA", str(tmp_path))
    batch = _data.images("svhn", 32)
    assert batch.x.shape == (4, 3, 32, 32) and batch.y.tolist() == [0, 1, 2, 0]
    assert float(batch.x[2, 1, 5, 7]) == pytest.approx(pixels[5, 7, 1, 2] / 255)


@pytest.mark.parametrize("source", ["cifar-10-batches-py", "svhn"])
def test_data_that_is_not_there_is_named_with_the_way_to_bring_it(source, tmp_path, monkeypatch):
    monkeypatch.setenv("FIRSTCUE_DATA", str(tmp_path))
    with pytest.raises(ValueError, match="FIRSTCUE_DATA"):
        _data.images.__wrapped__(source, 32)
