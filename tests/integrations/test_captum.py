"""Captum's calling convention, plots and metrics work on attributions by simplification."""

import base64
import io

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from firstcue import Report, explain_simplify
from firstcue.integrations.captum import attributed, simplification
from firstcue.simplicity.dct import DCTLaplace

captum = pytest.importorskip("captum")


def model() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 3)).eval()


def test_attributions_are_what_was_taken_away():
    method, x, net = None, torch.rand(2, 1, 8, 8), model()
    method = simplification(net, DCTLaplace(), steps=3)
    found = method.explain(x, target=1)
    assert torch.equal(method.attribute(x, target=1), (x - found.simplified).abs())
    assert isinstance(method.attribute((x,)), tuple)


def test_functions_and_further_arguments_are_called_as_captum_does():
    net = model()
    method = simplification(lambda x, shift: net(x) + shift, DCTLaplace(), steps=2)
    assert method.attribute(torch.rand(1, 1, 8, 8), additional_forward_args=torch.zeros(3)).shape == (1, 1, 8, 8)


def test_metrics_of_captum_take_it():
    from captum.metrics import sensitivity_max

    method = simplification(model(), DCTLaplace(), steps=2)
    inside = 0.25 + 0.5 * torch.rand(1, 1, 8, 8)
    assert bool(sensitivity_max(method.attribute, inside, n_perturb_samples=1).isfinite().all())


def test_a_baseline_and_several_inputs_are_refused():
    method, x = simplification(model(), DCTLaplace(), steps=2), torch.rand(1, 1, 8, 8)
    with pytest.raises(ValueError, match="no baseline"):
        method.attribute(x, baselines=0)
    with pytest.raises(ValueError, match="tuple of 2"):
        method.attribute((x, x))


def test_integrated_gradients_stand_in_the_report_beside_the_simplified_images():
    net, x = model(), torch.rand(6, 1, 8, 8)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    explained = explain_simplify(net, x, DCTLaplace(), steps=2, controls=False)
    report = Report(verdict="no shortcut found")
    plain, beside = attributed(report, net, x), attributed(report, net, x, explained=explained)

    assert report.pictures == () and [p.title for p in plain.pictures] == ["Integrated gradients"]
    assert width(beside.pictures[0]) > width(plain.pictures[0])
    assert "4 images" in plain.pictures[0].alt and "simplest image" in beside.pictures[0].caption
    assert "within" in plain.pictures[0].caption
    assert Report.model_validate_json(beside.to_json()) == beside
    assert all(torch.equal(value, before[name]) and value.grad is None for name, value in net.state_dict().items())


def test_the_attributions_shown_are_those_of_captum():
    """Of a linear model they are input times weight: a model that reads one pixel lights up that pixel alone."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 1, bias=False))
    with torch.no_grad():
        net[1].weight.zero_()
        net[1].weight[0, 9] = 2.0
    report = attributed(Report(verdict="no shortcut found"), net, 0.1 + torch.rand(1, 1, 8, 8))
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(report.pictures[0].png))))
    tile = pixels[:, -80:, 0].reshape(8, 10, 8, 10).max(axis=(1, 3))
    assert np.argwhere(tile > 0).tolist() == [[1, 1]]


def test_what_is_no_image_has_no_attributions():
    with pytest.raises(ValueError, match=r"images \(n, 1 or 3, h, w\)"):
        attributed(Report(verdict="no shortcut found"), model(), torch.rand(3, 64))


def width(picture) -> int:
    return Image.open(io.BytesIO(base64.b64decode(picture.png))).width
