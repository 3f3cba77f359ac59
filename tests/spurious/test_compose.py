"""Composed images: exact counts, honest sources, editors that change the cue and nothing else."""

import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis.strategies import floats, integers, lists
from torch import Tensor

from firstcue.batch import Batch
from firstcue.data import digits, shipped
from firstcue.spurious.compose import dominoes, overlay
from firstcue.spurious.cues import patch, stripes, tint


def images(counts: list[int], *, height: int = 5, width: int = 4, channels: int = 1, seed: int = 0) -> Batch:
    """Distinct random images, `counts[k]` of class k, in shuffled order."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    y = y[torch.randperm(len(y), generator=generator)]
    x = torch.rand(len(y), channels, height, width, generator=generator)
    return Batch(x, y, classes=tuple(f"c{k}" for k in range(len(counts))))


def group_table(batch: Batch) -> Tensor:
    assert batch.attribute is not None
    table = batch.groups().bincount(minlength=batch.num_classes * batch.num_values)
    return table.reshape(batch.num_classes, batch.num_values)


@given(
    counts=lists(integers(1, 40), min_size=2, max_size=4),
    num_values=integers(2, 5),
    strength=floats(0, 1),
    seed=integers(0, 2**31),
)
@settings(deadline=None, max_examples=60)
def test_every_group_has_exactly_the_rows_asked_for(counts, num_values, strength, seed):
    batch = dominoes(images(counts), images([3] * num_values, height=2), strength, seed=seed)

    table = group_table(batch)

    assert table.sum(dim=1).tolist() == counts
    for label, row in enumerate(table.tolist()):
        conflicts = row[: label % num_values] + row[label % num_values + 1 :]
        assert sum(conflicts) == round(counts[label] * (1 - strength))
        assert max(conflicts) - min(conflicts) <= 1


def test_at_strength_one_half_the_cue_is_independent_of_the_label():
    assert group_table(dominoes(images([40, 60]), images([7, 3]), 0.5)).tolist() == [[20, 20], [30, 30]]


def test_the_demo_splits_have_the_counts_they_promise():
    core, top = shipped(), digits((0, 1))
    train = dominoes(core.rows(slice(0, 3600)), top, 0.95, seed=0)
    held_out = dominoes(core.rows(slice(3600, 4600)), top, 0.5, seed=1)
    test = dominoes(core.rows(slice(4600, 5800)), top, 0.5, seed=2)

    assert [group_table(b).tolist() for b in (train, held_out, test)] == [
        [[1710, 90], [90, 1710]],
        [[250, 250], [250, 250]],
        [[300, 300], [300, 300]],
    ]
    assert train.x.shape == (3600, 1, 56, 28) and train.cue == "top digit" and train.values == ("0", "1")
    sources = torch.cat([b.index[:, 0] for b in (train, held_out, test)])
    assert len(sources.unique()) == 5800


def test_every_row_is_made_of_the_two_images_it_names():
    core, top = images([20, 30]), images([4, 5], height=3, seed=1)
    batch = dominoes(core, top, 0.8, seed=3)

    assert torch.equal(batch.x[:, :, 3:], core.x[batch.index[:, 0]])
    assert torch.equal(batch.x[:, :, :3], top.x[batch.index[:, 1]])
    assert torch.equal(batch.y, core.y[batch.index[:, 0]])
    assert torch.equal(batch.attribute, top.y[batch.index[:, 1]])


def test_sources_are_traced_through_a_selection_of_rows():
    core = shipped().rows(slice(100, 200))

    assert dominoes(core, digits(), 0.9, n=20).index[:, 0].min() >= 100


def test_the_same_seed_gives_the_same_bits_and_another_seed_does_not():
    core, top = images([30, 30]), images([9, 9])
    first, again, other = (dominoes(core, top, 0.7, seed=s) for s in (5, 5, 6))

    assert torch.equal(first.x, again.x) and torch.equal(first.attribute, again.attribute)
    assert not torch.equal(first.attribute, other.attribute)


def test_composing_leaves_the_global_random_state_alone():
    before = torch.get_rng_state()
    dominoes(images([30, 30]), images([9, 9]), 0.7).edit(torch.rand(1, 1, 10, 4, generator=torch.Generator()), 1)

    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("make", ["dominoes", "corner", "patch", "stripes"])
def test_editing_changes_the_cue_and_keeps_the_core_bit_for_bit(make):
    core, small = images([20, 20], height=12, width=12), images([5, 5], height=4, width=4, seed=1)
    wide = images([5, 5], height=4, width=12, seed=2)
    batch, region = {
        "dominoes": (dominoes(core, wide, 0.9), (slice(0, 4), slice(0, 12))),
        "corner": (overlay(core, small, 0.9), (slice(8, 12), slice(8, 12))),
        "patch": (overlay(core, patch(2, size=4), 0.9), (slice(0, 4), slice(0, 4))),
        "stripes": (overlay(core, stripes(2, height=4), 0.9), (slice(0, 4), slice(0, 12))),
    }[make]
    outside = torch.ones(batch.x.shape[2:], dtype=torch.bool)
    outside[region] = False

    zero, one = batch.edit(batch.x, 0), batch.edit(batch.x, 1)

    assert torch.equal(zero[:, :, outside], batch.x[:, :, outside])
    assert torch.equal(one[:, :, outside], batch.x[:, :, outside])
    assert (zero != one).flatten(start_dim=1).any(dim=1).all()
    assert torch.equal(batch.edit(zero, 1), one), "what was shown before leaves no trace"


def test_an_edited_domino_shows_an_image_of_the_value_asked_for():
    core, top = images([20, 20]), images([6, 8], height=3, seed=1)
    batch = dominoes(core, top, 0.9)
    for value in (0, 1):
        shown = batch.edit(batch.x, value)[:, :, :3].flatten(start_dim=1)
        pool = top.x[top.y == value].flatten(start_dim=1)
        matches = (shown[:, None] == pool[None]).all(dim=2)
        assert matches.any(dim=1).all()
        assert matches.any(dim=0).sum() > 3, "many images of the value are used, not one"


def test_an_edit_does_not_depend_on_the_other_rows():
    batch = dominoes(images([20, 20]), images([6, 8], height=3), 0.9)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0))

    assert torch.equal(batch.edit(batch.x, 1)[order], batch.edit(batch.x[order], 1))
    assert torch.equal(batch.rows(order[:7]).edit(batch.x[order[:7]], 0), batch.edit(batch.x, 0)[order[:7]])


def test_patch_and_stripes_recompose_to_the_same_image():
    for cue in (patch(3), stripes(3)):
        batch = overlay(images([12, 12, 12], height=9, width=9), cue, 0.5)
        for value in range(3):
            own = batch.attribute == value
            assert torch.equal(batch.edit(batch.x[own], value), batch.x[own])


def test_a_tint_keeps_the_grey_values_exactly():
    core = images([10, 10, 10])
    batch = overlay(core, tint(7), 0.4)

    assert torch.equal(batch.x.amax(dim=1, keepdim=True), core.x)
    for value in range(7):
        own = batch.attribute == value
        assert torch.equal(batch.edit(batch.x, value)[own], batch.x[own])


def test_values_may_outnumber_classes_and_the_other_way_round():
    many_values = group_table(dominoes(images([90, 90]), images([2] * 10), 0.9, goes_with=[3, 3]))
    assert many_values[:, 3].tolist() == [81, 81] and many_values.sum() == 180
    assert sorted(set(many_values.flatten().tolist())) == [1, 81]

    assert group_table(dominoes(images([10, 10, 10]), images([2, 2]), 1.0)).tolist() == [[10, 0], [0, 10], [10, 0]]


def test_a_sample_keeps_the_proportions_of_the_classes():
    batch = dominoes(images([300, 100]), images([5, 5]), 0.9, n=41)

    assert batch.y.bincount().tolist() == [31, 10]
    assert len(batch.index[:, 0].unique()) == 41


def test_a_class_without_rows_keeps_its_id():
    core = images([10, 10, 10])
    core = core.rows(core.y != 1)
    batch = dominoes(core, images([3, 3, 3]), 1.0)

    assert batch.classes == ("c0", "c1", "c2")
    assert group_table(batch).tolist() == [[10, 0, 0], [0, 0, 0], [0, 0, 10]]


def test_cores_repeat_only_when_asked_to():
    core, top = images([5, 5]), images([3, 3])

    assert len(dominoes(core, top, 0.5, n=50, replace_core=True)) == 50
    with pytest.raises(ValueError, match=r"11 rows were asked for, but `core` has 10 images.*replace_core=True"):
        dominoes(core, top, 0.5, n=11)


def test_spurious_images_can_be_used_once_each():
    core = images([10, 10])
    batch = dominoes(core, images([10, 12]), 1.0, unique=True)

    assert len(batch.index[:, 1].unique()) == 20
    with pytest.raises(ValueError, match=r"10 different spurious images of class 'c1' are needed, but there are 4"):
        dominoes(core, images([10, 4]), 1.0, unique=True)


@pytest.mark.parametrize("strength", [-0.1, 1.1, float("nan")])
def test_a_strength_that_is_no_fraction_is_refused(strength):
    with pytest.raises(ValueError, match="between 0 and 1"):
        dominoes(images([5, 5]), images([5, 5]), strength)


def test_images_that_do_not_fit_are_refused_with_both_shapes():
    core = images([5, 5])
    with pytest.raises(ValueError, match=r"same channels and width.*\(1, 5, 4\).*\(1, 5, 6\)"):
        dominoes(core, images([5, 5], width=6), 0.5)
    with pytest.raises(ValueError, match="do not fit over a core"):
        overlay(core, images([5, 5], height=9), 0.5)
    with pytest.raises(ValueError, match="the cue takes 6 x 6 pixels, but the images have 5 x 4"):
        overlay(core, patch(), 0.5)
    with pytest.raises(ValueError, match=r"needs images of shape \(n, channels, height, width\)"):
        dominoes(Batch(torch.rand(4, 3), torch.tensor([0, 1, 0, 1])), core, 0.5)
    with pytest.raises(ValueError, match="needs grey images"):
        overlay(images([5, 5], channels=3), tint(), 0.5)


def test_scales_of_pixels_do_not_mix():
    bytes_ = images([5, 5])
    bytes_ = Batch((bytes_.x * 255).to(torch.uint8), bytes_.y)
    with pytest.raises(ValueError, match=r"pixels of 0\.\.255 and of 0\.\.1 do not mix"):
        dominoes(images([5, 5]), bytes_, 0.5)


def test_a_pool_with_an_empty_class_is_refused():
    top = images([5, 5, 5])
    with pytest.raises(ValueError, match="none of: c1"):
        dominoes(images([5, 5]), top.rows(top.y != 1), 0.5)


def test_a_value_that_does_not_exist_cannot_be_set():
    batch = dominoes(images([5, 5]), images([5, 5]), 0.5)
    with pytest.raises(ValueError, match=r"the cue has no value 2; values: 0 \(c0\), 1 \(c1\)"):
        batch.edit(batch.x, 2)
    with pytest.raises(ValueError, match="needs images as they were composed"):
        batch.edit(batch.x.flatten(start_dim=1), 1)


def test_a_wrong_mapping_of_classes_to_values_is_refused():
    with pytest.raises(ValueError, match=r"one value \(0 to 1\) for each of 2 classes; got \(0, 5\)"):
        dominoes(images([5, 5]), images([5, 5]), 0.5, goes_with=[0, 5])


def test_composed_batches_can_be_sent_to_worker_processes():
    core = images([5, 5], height=9, width=9)
    for batch in (dominoes(core, images([5, 5], width=9), 0.5), overlay(core, tint(), 0.5)):
        copy = pickle.loads(pickle.dumps(batch))
        assert torch.equal(copy.edit(copy.x, 1), batch.edit(batch.x, 1))
