"""Densities of other libraries give the bits that their own numbers say."""

import math

import pytest
import torch
from torch import nn

import firstcue as fc
from firstcue.simplicity.quantising import SharedNoise, dequantised


def x(n=4, shape=(1, 4, 4)):
    return torch.rand(n, *shape, generator=torch.Generator().manual_seed(0))


def by_hand(log_prob, images, low=0.0):
    """Bits from one draw of the noise that `fc.bits` starts with."""
    v = dequantised(images, SharedNoise().manual_seed(0))
    return -log_prob(v + low) / math.log(2) + images[0].numel() * 8


def test_a_distribution_over_images_is_asked_for_images_and_over_rows_for_rows():
    normal = torch.distributions.Normal(torch.full((1, 4, 4), 0.5), 0.3)
    whole = torch.distributions.Independent(normal, 3)
    rows = torch.distributions.Independent(torch.distributions.Normal(torch.full((16,), 0.5), 0.3), 1)
    images = fc.from_log_prob(whole)
    assert images.shape == (1, 4, 4)
    for density in (images, fc.from_log_prob(normal), fc.from_log_prob(rows)):
        torch.testing.assert_close(fc.bits(density, x(), n_dequant=1), by_hand(whole.log_prob, x()))


def test_the_middle_of_the_cell_may_be_asked_in_place_of_noise():
    law = torch.distributions.Beta(torch.tensor(2.0), torch.tensor(2.0))
    image = torch.full((1, 1, 1, 1), 100 / 255)
    expected = -law.log_prob(torch.tensor(100.5 / 256)) / math.log(2) + 8
    found = fc.bits(fc.from_log_prob(law, dequantize=False), image, return_error=True)
    torch.testing.assert_close(found.bits[0], expected)
    assert found.error.item() == 0


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_a_multiscale_flow_of_normflows_needs_no_label_here():
    nf = pytest.importorskip("normflows")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        steps = [nf.flows.GlowBlock(4, 8), nf.flows.Squeeze()]
        flow = nf.MultiscaleFlow([nf.distributions.DiagGaussian((4, 2, 2))], [steps], [], class_cond=False)
        flow.eval()
        flow.log_prob(x(), None)
    density = fc.from_log_prob(flow, "-0.5..0.5")
    expected = by_hand(lambda v: flow.log_prob(v, None), x(), low=-0.5)
    torch.testing.assert_close(fc.bits(density, x(), n_dequant=1), expected.detach())
    assert list(density.parameters())  # its weights are found, to move and to freeze


def test_a_flow_of_zuko_is_asked_row_by_row():
    zuko = pytest.importorskip("zuko")
    with torch.random.fork_rng(devices=[]):
        flow = zuko.flows.MAF(16, transforms=1, hidden_features=(8,))
    density = fc.from_log_prob(flow, "-1..1", flat=True)
    images = x().requires_grad_()
    bits = density.bits(images)
    v = dequantised(images.detach())
    expected = -flow().log_prob(2 * v.flatten(1) - 1) / math.log(2) + 16 * 7
    torch.testing.assert_close(bits, expected)
    bits.sum().backward()
    assert bool(images.grad.abs().sum() > 0)


class Contextual(nn.Module):
    """The calling convention of nflows."""

    def log_prob(self, inputs, context=None):
        assert context is None
        return -inputs.flatten(1).sum(1)


def test_an_optional_context_is_left_alone():
    torch.testing.assert_close(
        fc.bits(fc.from_log_prob(Contextual()), x(), n_dequant=1), by_hand(Contextual().log_prob, x())
    )


@pytest.mark.parametrize("obj", [3.0, nn.Linear(2, 2), "flow"], ids=["number", "layer", "string"])
def test_what_has_no_log_prob_is_refused(obj):
    with pytest.raises(ValueError, match="has no `log_prob`"):
        fc.from_log_prob(obj)


def test_an_unknown_range_is_refused():
    with pytest.raises(ValueError, match=r"'0..2'; one of 0..1, -0.5..0.5"):
        fc.from_log_prob(lambda v: v, "0..2")


def test_log_densities_of_a_wrong_shape_are_named():
    with pytest.raises(ValueError, match=r"shape \(\) for 4 images; one per image"):
        fc.bits(fc.from_log_prob(lambda v: v.sum()), x())
