"""Distractions are what they are said to be: random, seeded, made of parts that come back clean."""

import math

import numpy as np
import pytest
import torch

import firstcue as fc
from firstcue.simplicity.distractors import STRENGTHS, coefficients

IMAGE_KINDS = ("side", "blend")


def images(n=60, shape=(1, 12, 12), seed=0):
    return torch.rand(n, *shape, generator=torch.Generator().manual_seed(seed))


def made(kind, x=None, seed=0, **arguments):
    x = images() if x is None else x
    labels = torch.arange(len(x)) % 3
    if kind in IMAGE_KINDS:
        arguments = {"distractor": images(40, seed=9), "distractor_labels": torch.arange(40) % 4} | arguments
    return fc.distract(x, kind, labels=labels, seed=seed, **arguments)


@pytest.mark.parametrize("kind", STRENGTHS)
def test_images_stay_in_range_and_shape_and_labels_stay_those_of_the_core(kind):
    bed = made(kind)
    assert bed.images.shape == (60, 1, 12, 12) and float(bed.images.min()) >= 0 and float(bed.images.max()) <= 1
    assert torch.equal(bed.labels, torch.arange(60) % 3) and bed.classes == ("0", "1", "2")
    assert all(part.shape == bed.images.shape for part in bed.components.values())


@pytest.mark.parametrize("kind", STRENGTHS)
def test_a_seed_repeats_every_draw_and_another_changes_it(kind):
    first, again, other = made(kind), made(kind), made(kind, seed=1)
    assert torch.equal(first.images, again.images) and not torch.equal(first.images, other.images)


@pytest.mark.parametrize("kind", STRENGTHS)
def test_the_global_random_state_is_left_alone(kind):
    state = torch.get_rng_state()
    made(kind)
    assert torch.equal(state, torch.get_rng_state())


EXACT = {"side": (1, 1), "blend": (0.5, 0.5), "stripes": (0.7, 0.3), "noise": (0.75, 0.5), "uniform": (0.5, 0.5)}


@pytest.mark.parametrize("kind", EXACT)
def test_images_are_the_stated_sum_of_their_parts(kind):
    bed = made(kind)
    a, b = EXACT[kind]
    torch.testing.assert_close(
        bed.images, a * bed.components["core"] + b * bed.components["distractor"], atol=1e-5, rtol=0
    )
    kept = coefficients(bed.images, bed)
    assert (kept.core, kept.distractor) == pytest.approx((a, b), abs=1e-4)
    assert kept.ratio == pytest.approx(b / a, abs=1e-3)


def test_removing_the_distractor_is_measured_and_so_is_removing_the_core():
    bed = made("blend")
    core, other = bed.components["core"], bed.components["distractor"]
    kept = coefficients(0.2 + 0.6 * core, bed)
    assert (kept.core, kept.distractor) == pytest.approx((0.6, 0), abs=1e-6)
    assert kept.core_correlation == pytest.approx(1) and abs(kept.distractor_correlation) < 0.1
    swapped = coefficients(other, bed.swapped())
    assert (swapped.core, swapped.distractor) == pytest.approx((1, 0), abs=1e-6)


def test_a_blank_image_keeps_nothing_and_a_blank_part_cannot_be_told():
    bed = made("blend")
    kept = coefficients(torch.full_like(bed.images, 0.3), bed)
    assert (kept.core, kept.distractor, kept.core_correlation) == pytest.approx((0, 0, 0), abs=1e-9)
    blank = made("blend", distractor=torch.zeros(4, 1, 12, 12), distractor_labels=None)
    kept = coefficients(blank.images, blank)
    assert (
        kept.core == pytest.approx(0.5, abs=1e-6)
        and math.isnan(kept.distractor)
        and math.isnan(kept.distractor_correlation)
    )
    twin = made("blend")
    twin.components["distractor"] = twin.components["core"]
    assert math.isnan(coefficients(twin.images, twin).core)


def test_swapping_the_task_keeps_the_images_and_exchanges_all_else():
    bed = made("blend")
    other = bed.swapped()
    assert other.images is bed.images and torch.equal(other.labels, bed.other_labels)
    assert other.components["core"] is bed.components["distractor"] and other.classes == ("0", "1", "2", "3")
    assert torch.equal(other.swapped().labels, bed.labels)
    with pytest.raises(ValueError, match='of kind "noise" has no classes'):
        made("noise").swapped()


def test_partners_are_random_and_used_about_equally_often():
    x = images(100)
    bed = made("blend", x, distractor=images(30, seed=3), distractor_labels=None)
    counts = bed.partner.bincount(minlength=30)
    assert int(counts.min()) >= 3 and int(counts.max()) <= 4
    same = fc.distract(x, "blend", distractor=x)
    assert not bool((same.partner == torch.arange(100)).any())
    assert abs(float(np.corrcoef(same.partner, np.arange(100))[0, 1])) < 0.3


def test_labels_of_the_distractor_follow_their_images():
    bed = made("blend")
    assert torch.equal(bed.other_labels, (torch.arange(40) % 4)[bed.partner])


def test_sides_are_drawn_by_lot_and_the_other_half_of_each_part_is_black():
    bed = made("side", torch.ones(200, 1, 8, 8), distractor=torch.full((9, 1, 8, 8), 0.5), distractor_labels=None)
    left = bed.components["core"][:, 0, 0, 0]
    assert 70 < int((left == 1).sum()) < 130
    core, other = bed.components["core"], bed.components["distractor"]
    assert bool(((core > 0) ^ (other > 0)).all()) and float(core.mean()) == pytest.approx(0.5)


def test_stripes_run_one_way_or_the_other_and_say_which():
    bed = made("stripes", torch.zeros(100, 1, 16, 16), strength=1.0)
    varies_down = bed.images.std(dim=2).mean(dim=(1, 2)) > 0.1
    assert torch.equal(varies_down.long(), bed.other_labels)
    assert 30 < int(bed.other_labels.sum()) < 70
    assert bed.other_classes == ("varies across", "varies down")


def test_noise_lies_where_there_is_ink_only():
    x = images()
    x[:, :, :6] = 0
    bed = made("noise", x)
    assert float(bed.images[:, :, :6].abs().max()) == 0
    assert bool((bed.images[:, :, 6:] >= 0.5 * x[:, :, 6:] - 1e-6).all())


@pytest.mark.parametrize("strength", [0.0, 0.7, 1.0])
def test_a_patch_agrees_with_the_label_as_often_as_asked_for(strength):
    bed = made("patch", images(900), strength=strength)
    assert float((bed.other_labels == bed.labels).double().mean()) == pytest.approx(strength, abs=0.05)
    place = bed.components["distractor"].flatten(1).argmax(dim=1)
    assert len({(int(v), int(p)) for v, p in zip(bed.other_labels, place, strict=True)}) == 3
    torch.testing.assert_close(bed.images, bed.components["core"] + bed.components["distractor"])


def test_distractors_of_another_size_are_resized_and_arrays_stay_arrays():
    x = np.random.default_rng(0).random((6, 1, 12, 12)).astype(np.float64)
    bed = fc.distract(x, "blend", distractor=images(3, (1, 28, 28)).numpy())
    assert isinstance(bed.images, np.ndarray) and bed.images.dtype == np.float64 and bed.images.shape == x.shape
    half = fc.distract(images(4).half(), "stripes")
    assert half.images.dtype == torch.float16


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"kind": "glitter"}, "no distractor of kind 'glitter'; one of side, blend"),
        ({"kind": "blend"}, r'"blend" needs images to distract with'),
        ({"kind": "patch"}, '"patch" needs `labels` with at least two classes'),
        ({"kind": "blend", "distractor": torch.zeros(3, 3, 4, 4)}, "with the 1 channels of `x`"),
        ({"kind": "stripes", "strength": 1.5}, "`strength` is 1.5"),
        ({"kind": "stripes", "labels": [0, 1]}, "`x` has 60 rows but `labels` has 2"),
        ({"kind": "blend", "distractor": torch.zeros(3, 1, 4, 4), "distractor_labels": [1]}, "`distractor` has 3 rows"),
    ],
    ids=["kind", "no-images", "no-labels", "channels", "strength", "labels", "other-labels"],
)
def test_what_cannot_be_distracted_is_refused(arguments, says):
    with pytest.raises(ValueError, match=says):
        fc.distract(images(), **arguments)


def test_more_classes_than_places_are_refused():
    with pytest.raises(ValueError, match="20 classes need as many places, but images of 2 x 2 have 4"):
        fc.distract(images(40, (1, 2, 2)), "patch", labels=torch.arange(40) % 20)


def test_other_images_than_those_of_the_bed_are_refused():
    bed = made("blend")
    with pytest.raises(ValueError, match=r"`simplified` has shape \(3, 1, 12, 12\)"):
        coefficients(bed.images[:3], bed)
    with pytest.raises(ValueError, match="NaN or infinite"):
        coefficients(bed.images * float("nan"), bed)
