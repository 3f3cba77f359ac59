"""Captum's calling convention, plots and metrics work on attributions by simplification."""

import pytest
import torch
from torch import nn

from firstcue.integrations.captum import simplification
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
