"""What simplified images are worth: retrained classifiers, curves over bits, and the baselines to beat."""

import math

import pytest
import torch
from torch import nn

from firstcue.batch import Batch
from firstcue.simplicity.baselines import at_equal_bits, baseline_curve, blur, jpeg, reconstruction
from firstcue.simplicity.dct import DCTLaplace
from firstcue.simplicity.evaluating import evaluate_simplified, retrain, retrained_row, tradeoff
from firstcue.simplicity.simplify import Simplifier

SMALL = Simplifier(width=2, scales=1)


def batch(n=64, seed=0):
    """A bright left or right half, on noise."""
    generator = torch.Generator().manual_seed(seed)
    x, y = 0.4 * torch.rand(n, 1, 8, 8, generator=generator), torch.arange(n) % 2
    x[y == 0, :, :, :4] += 0.5
    x[y == 1, :, :, 4:] += 0.5
    return Batch((x * 255).round() / 255, y)


def linear():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 2))


def test_a_new_classifier_learns_what_there_is_to_learn_and_nothing_from_blank_images():
    train, test = batch(), batch(40, seed=1)
    kept = retrained_row(lambda x: x, linear, train, test, DCTLaplace(), steps=60, rate=0.01)
    blank = retrained_row(lambda x: 0 * x, linear, train, test, DCTLaplace(), steps=60, rate=0.01)
    assert kept["accuracy_simplified"] == kept["accuracy_original"] > 0.95 and kept["n"] == 40
    assert blank["accuracy_simplified"] == 0.5 and blank["bits_per_pixel"] < 0.2 * kept["bits_per_pixel"]


def test_retraining_repeats_itself_and_leaves_the_random_state_alone():
    before = torch.rand(3, generator=torch.Generator().set_state(torch.get_rng_state()))
    first, again = (retrain(linear, batch(), steps=3, seed=5) for _ in range(2))
    assert torch.equal(first[1].weight, again[1].weight)
    assert torch.equal(before, torch.rand(3, generator=torch.Generator().set_state(torch.get_rng_state())))


def test_every_kind_of_classifier_is_evaluated_beside_the_joint_one():
    train = batch()
    fit = SMALL.fit(linear(), DCTLaplace(), train, steps=2, warmup=2)
    makers = {"linear": linear, "other": lambda: nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(72, 2))}
    rows = evaluate_simplified(fit, makers, train, batch(20, seed=1), DCTLaplace(), steps=5)
    assert [(row["network"], row["kind"]) for row in rows] == [
        ("joint", "its own"),
        ("retrained", "linear"),
        ("retrained", "other"),
    ]
    assert all(row["bits_per_pixel_original"] > 0 and row["n"] == 20 for row in rows)


def test_the_tradeoff_has_a_row_for_every_weight_seed_and_network():
    rows = tradeoff(
        linear, DCTLaplace(), batch(), batch(20, seed=1), lams=[0, 1], seeds=2, simplifier=SMALL, steps=2, warmup=1,
        retrain_steps=3,
    )  # fmt: skip
    assert {(r["lam"], r["seed"], r["network"]) for r in rows} == {
        (lam, seed, network) for lam in (0, 1) for seed in (0, 1) for network in ("joint", "retrained")
    }


@pytest.mark.parametrize("transform", [blur(1.5), jpeg(10)])
def test_baselines_take_bits_and_stay_on_the_lattice(transform):
    x = batch().x
    found = transform(x)
    assert found.shape == x.shape and found.dtype == x.dtype
    assert (255 * found - (255 * found).round()).abs().max() < 1e-3
    assert DCTLaplace().bits(found).mean() < DCTLaplace().bits(x).mean()


def test_no_blur_changes_nothing_and_a_wide_one_leaves_a_constant():
    x = batch().x
    assert torch.equal(blur(0)(x), x)
    flat = blur(20)(x)
    assert float((flat - flat.mean(dim=(2, 3), keepdim=True)).abs().max()) < 0.2


def test_colour_goes_through_jpeg_and_two_channels_do_not():
    assert jpeg(90)(torch.rand(2, 3, 16, 16)).shape == (2, 3, 16, 16)
    with pytest.raises(ValueError, match="one or three channels"):
        jpeg(90)(torch.rand(2, 2, 8, 8))
    with pytest.raises(ValueError, match="between 1 and 95"):
        jpeg(0)
    with pytest.raises(ValueError, match="0 or more"):
        blur(-1)


def test_reconstruction_needs_no_classifier_and_cannot_classify():
    fit = reconstruction(DCTLaplace(), batch(), 0.5, simplifier=SMALL, steps=2)
    assert fit.classifier is None and fit(batch().x).shape == (64, 1, 8, 8)
    with pytest.raises(ValueError, match="fitted to reconstruct"):
        fit.as_module()


def test_curves_are_read_between_their_points_and_nowhere_else():
    curve = baseline_curve("blur", blur, [0.5, 3.0], linear, batch(), batch(20, seed=1), DCTLaplace(), steps=3)
    low, high = sorted(row["bits_per_pixel"] for row in curve)
    assert math.isfinite(at_equal_bits(curve, (low + high) / 2)) and math.isnan(at_equal_bits(curve, high + 0.1))
    assert math.isnan(at_equal_bits([], 1.0))
