"""Neural collapse against its definition with pseudo-inverses, and at its ends."""

import math

import pytest
import torch
from torch import nn

from firstcue import Moments, low_rank_measure, neural_collapse
from firstcue.heads import Head


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def classes(counts, noise=0.0, d=20, offset=0.0, means=None):
    """Rows around the corners of a simplex in d dimensions, their labels and the corners."""
    k = len(counts)
    y = torch.repeat_interleave(torch.arange(k), torch.tensor(counts))
    corners = torch.eye(k, dtype=torch.float64) - 1 / k if means is None else means
    corners = corners @ torch.linalg.qr(normal(d, k, seed=1)).Q.T
    return corners[y] + offset * normal(d, seed=2) + noise * normal(len(y), d, seed=3), y, corners


def by_definition(x, y):
    """NC1 with the pseudo-inverse written out."""
    k = int(y.max()) + 1
    means = torch.stack([x[y == c].mean(dim=0) for c in range(k)])
    within = sum((x[y == c] - means[c]).T @ (x[y == c] - means[c]) for c in range(k)) / len(x)
    centred = means - means.mean(dim=0)
    return float((within @ torch.linalg.pinv(centred.T @ centred / k, rtol=1e-8, hermitian=True)).trace() / k)


@pytest.mark.parametrize("offset", [0.0, 10.0])
def test_full_collapse_is_zero_in_every_measure(offset):
    x, y, corners = classes([30] * 5, offset=offset)
    head = Head("", 2 * corners + normal(20, seed=5), -2 * corners @ normal(20, seed=2) * offset)

    found = neural_collapse(Moments.of_groups(x, y), head, x, y)

    values = (
        found.nc1,
        found.nc1_trace,
        found.cdnv,
        found.nc2,
        found.nc2_lengths,
        found.nc2_angles,
        found.nc3,
        found.nc4,
    )
    assert values == pytest.approx([0.0] * 8, abs=1e-12)
    assert found.centre_accuracy == 1
    assert not found.notes and not found.reason


@pytest.mark.parametrize("counts, noise", [([40] * 4, 0.3), ([100, 30, 10], 1.0), ([7, 5], 0.1)])
def test_nc1_is_its_definition(counts, noise):
    x, y, _ = classes(counts, noise)

    found = neural_collapse(Moments.of_groups(x, y))

    assert found.nc1 == pytest.approx(by_definition(x, y), rel=1e-9)
    means = torch.stack([x[y == c].mean(dim=0) for c in range(len(counts))])
    within = sum((x[y == c] - means[c]).square().sum() for c in range(len(counts))) / len(x)
    between = (means - means.mean(dim=0)).square().sum() / len(counts)
    assert found.nc1_trace == pytest.approx(float(within / between), rel=1e-9)


def test_the_class_distance_normalised_variance_is_its_definition():
    x, y, _ = classes([40, 20, 10], 0.5)
    means = [x[y == c].mean(dim=0) for c in range(3)]
    variances = [(x[y == c] - means[c]).square().sum(dim=1).mean() for c in range(3)]
    pairs = [
        (variances[i] + variances[j]) / (2 * (means[i] - means[j]).square().sum())
        for i in range(3)
        for j in range(3)
        if i != j
    ]

    assert neural_collapse(Moments.of_groups(x, y)).cdnv == pytest.approx(float(sum(pairs) / 6), rel=1e-9)


def test_noise_directions_between_classes_do_not_explode_nc1():
    """Three means on a line but for 1e-6: the second direction between classes is noise."""
    means = torch.tensor([[1.0, 0, 0], [-1, 0, 0], [0, 1e-6, 0]]).double()
    x, y, _ = classes([50] * 3, 0.0, means=means)
    x = x + 1e-3 * normal(*x.shape, seed=8)
    x = x - torch.stack([x[y == c].mean(dim=0) for c in range(3)])[y] + classes([50] * 3, means=means)[0]

    found = neural_collapse(Moments.of_groups(x, y))

    assert found.nc1 < 1e-5
    assert found.nc1_trace == pytest.approx(float(20e-6 / (2 / 3)), rel=0.2)


def test_unequal_lengths_and_unequal_angles_are_told_apart():
    lengths = torch.diag(torch.tensor([1.0, 1, 2])).double()
    scaled = neural_collapse(Moments.of_groups(*classes([20] * 3, means=lengths)[:2]))
    # a regular hexagon has equal lengths and unequal angles
    turn = torch.arange(6).double() * math.pi / 3
    ring = torch.stack([turn.cos(), turn.sin(), *[0 * turn] * 4], dim=1)
    angles = neural_collapse(Moments.of_groups(*classes([20] * 6, means=ring)[:2]))

    assert scaled.nc2_lengths > 0.1 and scaled.nc2 > 0.1
    assert angles.nc2_lengths == pytest.approx(0, abs=1e-12) and angles.nc2_angles > 0.1 and angles.nc2 > 0.1


def test_collapsed_classes_at_random_places_are_not_as_rich_as_a_simplex():
    x, y, _ = classes([40] * 5, means=normal(5, 5, seed=4))
    outputs = torch.nn.functional.one_hot(y).double()

    found = neural_collapse(Moments.of_groups(x, y))

    assert found.nc1 == pytest.approx(0, abs=1e-12)
    assert found.nc2 > 0.1
    assert low_rank_measure(x, outputs).dlr > 0.02


def test_nc4_counts_rows_on_which_head_and_nearest_mean_disagree():
    x, y, corners = classes([50] * 4, 0.1)
    agreeing = neural_collapse(Moments.of_groups(x, y), Head("", corners, torch.zeros(4).double()), x)
    swapped = neural_collapse(Moments.of_groups(x, y), Head("", corners[[1, 0, 2, 3]], torch.zeros(4).double()), x)

    assert agreeing.nc4 == 0 and agreeing.centre_accuracy is None
    assert swapped.nc4 == 0.5
    assert swapped.nc3 == pytest.approx(4 / 3, abs=0.05)


def test_what_was_not_given_is_none():
    x, y, corners = classes([20] * 3, 0.1)
    by_class = Moments.of_groups(x, y)

    assert neural_collapse(by_class).nc3 is None and neural_collapse(by_class).nc4 is None
    assert neural_collapse(by_class, Head("", corners, torch.zeros(3).double())).nc4 is None
    assert neural_collapse(by_class, features=x, labels=y).nc4 is None
    assert neural_collapse(by_class, features=x, labels=y).centre_accuracy > 0.9


def test_a_class_without_rows_is_left_out_and_keeps_its_place_in_the_head():
    x, y, corners = classes([30, 20, 10], 0.1)
    ids = torch.tensor([0, 1, 3])[y]
    head = nn.Linear(20, 4).double()
    with torch.no_grad():
        head.weight.copy_(torch.cat([corners[:2], 100 * normal(1, 20), corners[2:]]))
        head.bias.zero_()

    found = neural_collapse(Moments.of_groups(x, ids, 4), head, x, ids)

    assert found.num_classes == 3
    wanted = neural_collapse(Moments.of_groups(x, y), Head("", corners, torch.zeros(3).double()), x, y)
    assert (found.nc1, found.nc3, found.nc4) == pytest.approx((wanted.nc1, wanted.nc3, wanted.nc4))
    assert found.centre_accuracy == wanted.centre_accuracy
    assert "1 classes have no rows" in found.notes[0] and "unequal size" in found.notes[1]


def test_merged_moments_of_parts_give_the_same_numbers():
    x, y, _ = classes([60, 40, 20], 0.3, offset=100)
    order = torch.randperm(120, generator=torch.Generator().manual_seed(0))
    whole = neural_collapse(Moments.of_groups(x, y))
    merged = Moments.of_groups(x[order[:50]], y[order[:50]], 3).merge(
        Moments.of_groups(x[order[50:]], y[order[50:]], 3)
    )

    found = neural_collapse(merged)

    assert (found.nc1, found.cdnv, found.nc2) == pytest.approx((whole.nc1, whole.cdnv, whole.nc2), rel=1e-9)


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-4), (torch.float16, 2e-2)])
def test_lower_precision_changes_it_by_little(dtype, tolerance):
    x, y, _ = classes([60, 40, 20], 0.3)
    exact = neural_collapse(Moments.of_groups(x, y))

    found = neural_collapse(Moments.of_groups(x.to(dtype), y))

    assert (found.nc1, found.cdnv, found.nc2) == pytest.approx((exact.nc1, exact.cdnv, exact.nc2), rel=tolerance)


def test_names_of_classes_are_followed():
    x, y, _ = classes([30, 20, 10], 0.1)
    names = ["coat", "bag", "shirt"]
    labels = [names[i] for i in y]

    found = neural_collapse(Moments.of_groups(x, labels), features=x, labels=labels)

    assert found.centre_accuracy == neural_collapse(Moments.of_groups(x, y), features=x, labels=y).centre_accuracy


@pytest.mark.parametrize(
    "x, y, reason",
    [
        (normal(10, 4), torch.zeros(10).long(), "1 class has rows"),
        (torch.full((10, 4), 0.1), torch.arange(10) % 2, "all classes have the same mean"),
    ],
)
def test_what_has_no_collapse_is_said_with_a_reason(x, y, reason):
    found = neural_collapse(Moments.of_groups(x, y, 2))

    assert math.isnan(found.nc1) and math.isnan(found.nc2) and reason in found.reason


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda x, y: neural_collapse(Moments.of(x)), "give `Moments.of_groups"),
        (
            lambda x, y: neural_collapse(Moments.of_groups(x, y), nn.Linear(20, 4)),
            "4 outputs but the moments 3 classes",
        ),
        (lambda x, y: neural_collapse(Moments.of_groups(x, y), nn.Linear(6, 3)), "the head reads 6 features"),
        (lambda x, y: neural_collapse(Moments.of_groups(x, y), features=x[:, 1:]), "has 19 columns but the moments 20"),
        (lambda x, y: neural_collapse(Moments.of_groups(x, y), features=x, labels=y + 1), "holds the class '3'"),
        (lambda x, y: neural_collapse(Moments.of_groups(x, y), features=x / 0), "NaN or infinite"),
    ],
)
def test_a_mistake_is_refused_with_a_way_out(call, message):
    x, y, _ = classes([20] * 3, 0.1)

    with pytest.raises(ValueError, match=message):
        call(x, y)
