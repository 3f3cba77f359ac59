"""Backgrounds, textures and watermarks: the dials do what they say, and an edit changes the cue alone."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis.strategies import floats, integers, sampled_from

from firstcue.batch import Batch
from firstcue.data import digits, shipped
from firstcue.spurious.compose import overlay
from firstcue.spurious.overlays import background, texture, watermark

PAINTS = {
    "whole background": background(3),
    "block": background(3, magnitude=1 / 16),
    "varying corner": background(3, magnitude=1 / 16, variance="medium"),
    "varying anywhere": background(3, magnitude=1 / 16, variance="high", saturation=0.5),
    "texture": texture(3),
    "wandering texture": texture(3, magnitude=0.3, variance=0.5),
    "watermark": watermark(3),
    "moving watermark": watermark(3, size=6, jitter=2, magnitude=0.4),
}


def garments(n: int = 12) -> Batch:
    return shipped().rows(slice(0, n))


@pytest.mark.parametrize("name", PAINTS)
def test_editing_to_another_value_and_back_changes_nothing(name):
    batch = overlay(garments(), PAINTS[name], 0.5, seed=1)
    assert batch.attribute is not None and batch.edit is not None
    for value in range(3):
        rows = batch.attribute == value
        there_and_back = batch.edit(batch.edit(batch.x, (value + 1) % 3), value)
        assert torch.equal(there_and_back[rows], batch.x[rows])


@pytest.mark.parametrize("name", PAINTS)
def test_values_are_told_apart_in_every_image_and_rows_do_not_matter_to_each_other(name):
    x = garments().x
    shown = [PAINTS[name].edit(x, value) for value in range(3)]
    for a in range(3):
        assert all((shown[a][i] != shown[(a + 1) % 3][i]).any() for i in range(len(x)))
        assert torch.equal(PAINTS[name].edit(x[3:4], a), shown[a][3:4])


@pytest.mark.parametrize("name", [name for name in PAINTS if name not in ("texture", "wandering texture")])
def test_what_the_cue_does_not_cover_stays_bit_for_bit(name):
    x = garments().x
    shown = PAINTS[name].edit(x, 1)
    covered = (PAINTS[name].edit(x, 0) != PAINTS[name].edit(x, 2)).any(dim=1) | (shown != x).any(dim=1)
    assert covered.float().mean() < (0.95 if name == "whole background" else 0.15)
    if "background" in name or "varying" in name or name == "block":
        assert torch.equal(shown[(x > 0).expand_as(shown)], x.expand_as(shown)[(x > 0).expand_as(shown)])


@settings(deadline=None, max_examples=40)
@given(magnitude=floats(0.01, 0.25), variance=sampled_from(["low", "medium", "high"]), seed=integers(0, 99))
def test_a_background_paints_as_many_pixels_as_asked_for(magnitude, variance, seed):
    shown = background(magnitude=magnitude, variance=variance, seed=seed).edit(torch.zeros(2, 1, 28, 28), 0)
    painted = (shown[:, 0] > 0).flatten(1).sum(dim=1)
    wanted = max(1, round(magnitude * 784))
    assert (painted - wanted).abs().max() <= (0 if variance != "low" else 14)


def test_low_variance_paints_the_same_pixels_and_high_variance_others():
    x = torch.zeros(2, 1, 28, 28)
    x[0, 0, 27, 27], x[1, 0, 26, 27] = 1.0, 1.0
    for variance, same in (("low", True), ("medium", False), ("high", False)):
        shown = background(magnitude=0.05, variance=variance).edit(x, 0)
        painted = shown[:, 0] != shown[:, 1]
        assert torch.equal(painted[0], painted[1]) is same


def test_the_seed_moves_a_moving_mark():
    x = garments().x
    assert not torch.equal(watermark(jitter=3, seed=0).edit(x, 0), watermark(jitter=3, seed=1).edit(x, 0))
    assert torch.equal(watermark(jitter=0, seed=0).edit(x, 0), watermark(jitter=0, seed=1).edit(x, 0))


def test_a_colour_needs_grey_images():
    colour = Batch(torch.rand(4, 3, 8, 8), torch.tensor([0, 1, 0, 1]))
    with pytest.raises(ValueError, match="needs grey images"):
        overlay(colour, background(), 0.5)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: background(magnitude=0.0), "`magnitude` is above 0"),
        (lambda: background(magnitude=0.5, variance="medium"), "at most a quarter"),
        (lambda: texture(variance=2.0), "0 to 1"),
        (lambda: watermark(9), "2 to 4 values"),
        (lambda: texture(width=20).edit(digits().x[:2], 0), "leaves nothing"),
    ],
)
def test_a_wrong_dial_is_explained(make, words):
    with pytest.raises(ValueError, match=words):
        make()
