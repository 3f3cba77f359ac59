"""Pictures show what they are given, with every axis named, and leave matplotlib's own state alone."""

import math

import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb
from torch import nn

from firstcue import Recorder, feature_spectrum, richness_measure, richness_profile
from firstcue.richness.figures import COLOURS, against_accuracy, by_layer, over_training, spectra


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def network():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 3))


def recorded():
    model, recorder = network(), Recorder([richness_measure(normal(100, 6))], every=1)
    for step in range(4):
        recorder.step(model, step)
        with torch.no_grad():
            model[2].weight.mul_(1.5)
    return recorder.rows


def spectrum(seed=0):
    x, y = normal(90, 8, seed=seed), torch.arange(90) % 3
    return feature_spectrum(x, x @ normal(8, 3, seed=1), y, attributes={"background": torch.arange(90) % 2})


def written(figure, tmp_path):
    """Drawn without error, to a file that is not empty, and every panel has names on its axes."""
    figure.savefig(tmp_path / "figure.png")
    assert all(axes.get_ylabel() for axes in figure.axes)
    assert figure.axes[-1].get_xlabel()
    return (tmp_path / "figure.png").stat().st_size > 2000


def test_the_course_of_training_shows_the_recorded_numbers(tmp_path):
    rows = recorded()

    figure = over_training(rows)

    assert written(figure, tmp_path)
    for axes, key in zip(figure.axes, ("dlr", "used", "participation_ratio"), strict=True):
        assert list(axes.lines[0].get_ydata()) == [row[f"richness/{key}"] for row in rows]
    assert list(figure.axes[2].lines[1].get_ydata()) == [row["richness/rank"] for row in rows]
    two = over_training({"rich": rows, "lazy": rows})
    assert [t.get_text() for t in two.axes[0].get_legend().get_texts()] == ["rich", "lazy"]
    assert two.axes[0].lines[0].get_marker() != two.axes[0].lines[1].get_marker()


def test_three_panels_show_the_spectrum_with_attributes_dashed(tmp_path):
    found = spectrum()

    figure = spectra(found)

    assert written(figure, tmp_path)
    assert [axes.get_ylabel() for axes in figure.axes] == ["quality", "use", "size"]
    for axes, curve in zip(figure.axes, (found.quality, found.use, found.size), strict=True):
        np.testing.assert_allclose(axes.lines[0].get_ydata(), curve)
    dashed = figure.axes[0].lines[1]
    np.testing.assert_allclose(dashed.get_ydata(), found.attributes["background"])
    assert dashed.get_linestyle() == "--"


def test_epochs_are_coloured_from_dark_to_light_in_their_order(tmp_path):
    figure = spectra({20: spectrum(1), 0: spectrum(0), 5: spectrum(2)})

    lines = [line for line in figure.axes[1].lines if line.get_label().isdigit()]
    brightness = {int(line.get_label()): np.dot(to_rgb(line.get_color()), [0.2126, 0.7152, 0.0722]) for line in lines}
    assert brightness[0] < brightness[5] < brightness[20]
    assert written(figure, tmp_path)
    assert len(spectra(dict.fromkeys(range(12), spectrum())).axes[0].get_legend().get_texts()) == 3


def test_layers_stand_in_the_order_of_the_model(tmp_path):
    profile = richness_profile(network(), normal(100, 6))

    figure = by_layer({"now": profile, "start": profile})

    assert written(figure, tmp_path)
    assert [t.get_text() for t in figure.axes[1].get_xticklabels()] == [found.layer for found in profile]
    assert list(figure.axes[0].lines[0].get_ydata()) == [found.dlr for found in profile]


def test_runs_of_a_sweep_are_points_in_two_panels(tmp_path):
    rows = [{"dlr": 0.1 * i, "accuracy": 0.9, "worst": 0.5 + 0.01 * i, "rate": i % 2} for i in range(6)]
    rows.append({"dlr": math.nan, "accuracy": 0.1, "worst": 0.1, "rate": 0})

    figure = against_accuracy(rows, by="rate")

    assert written(figure, tmp_path)
    assert [axes.get_ylabel() for axes in figure.axes] == ["held-out accuracy", "worst-group accuracy"]
    assert sum(len(points.get_offsets()) for points in figure.axes[1].collections) == 6
    assert len(against_accuracy([{"dlr": 0.5, "accuracy": 0.9}]).axes) == 1


def test_colours_differ_in_brightness_or_hue_for_common_colour_blindness():
    """Distances in a simulation of missing red and missing green cones stay visible."""
    simulate = {
        "protan": np.array([[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]]),
        "deutan": np.array([[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]]),
    }
    rgb = np.array([to_rgb(colour) for colour in COLOURS])
    for matrix in simulate.values():
        seen = rgb @ matrix.T
        gaps = np.linalg.norm(seen[:, None] - seen, axis=-1)[np.triu_indices(len(rgb), 1)]
        assert gaps.min() > 0.1


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: over_training([{"step": 0, "loss": 1.0}]), "record it with `richness_measure`"),
        (lambda: spectra({}), "no spectrum to draw"),
        (lambda: by_layer([]), "at least one layer"),
        (lambda: against_accuracy([{"dlr": 0.1}]), "no row holds 'dlr' and one of accuracy, worst"),
    ],
)
def test_nothing_to_draw_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_pyplot_is_not_touched():
    import matplotlib.pyplot as plt

    before = plt.get_fignums()
    over_training(recorded())

    assert plt.get_fignums() == before
