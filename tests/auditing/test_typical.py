"""Rows far from their class are found whatever the scale of the features, and shown below those that are near."""

import numpy as np
import pytest
import torch

from firstcue.agreement.coherence import measure_agreement
from firstcue.auditing.charted import MOST_POINTS, histogram, spectra
from firstcue.auditing.pictures import pictures
from firstcue.auditing.typical import WIDEST, distances, extremes, typical_pictures
from firstcue.batch import Batch
from firstcue.richness.spectrum import feature_spectrum


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize("width", [3, 40, WIDEST + 1])
def test_a_row_moved_away_from_its_class_is_the_farthest(width: int) -> None:
    x, y = torch.randn(30, width, generator=generator()) + 100.0, torch.arange(30) % 3
    x[7] += 8.0
    assert int(distances(x, y).argmax()) == 7


def test_distances_do_not_depend_on_scale_or_place_of_the_features() -> None:
    x, y = torch.randn(200, 4, generator=generator()).double(), torch.arange(200) % 2
    assert torch.allclose(distances(1000 * x + 1e5, y), distances(x, y), rtol=1e-4)


def test_constant_features_and_a_missing_class_are_no_trouble() -> None:
    far = distances(torch.ones(6, 3), torch.tensor([0, 0, 0, 2, 2, 2]))
    assert far.tolist() == [0.0] * 6


def test_extremes_start_at_their_ends_and_do_not_meet() -> None:
    near, remote = extremes(torch.tensor([3.0, 1.0, 2.0, 9.0, 5.0]), torch.arange(5))
    assert near.tolist() == [1, 2] and remote.tolist() == [3, 4]


def images(attribute: bool = True) -> Batch:
    y = torch.arange(60) % 2
    a = (torch.arange(60) < 54).long()
    return Batch.of(torch.rand(60, 1, 8, 8, generator=generator()), y, a if attribute else None)


def test_the_caption_tells_what_the_far_rows_have_in_common() -> None:
    held = images()
    features = torch.randn(60, 2, generator=generator()) / 10
    features[54:] += 5  # the rows with the rare value
    (first, second) = typical_pictures(held, features, held.y)
    assert "100% have attribute 0, of all 10%" in first.caption and "most typical" in second.alt
    assert first.finding == "typical"


def test_pictures_of_groups_are_followed_by_one_of_each_class() -> None:
    held = images(attribute=False)
    features = torch.randn(60, 2, generator=generator())
    assert [p.finding for p in pictures(held, held.y, 0, features)] == ["", "", "typical", "typical"]
    assert [p.finding for p in pictures(held, held.y, 0)] == ["", ""]
    assert typical_pictures(held, features * float("nan"), held.y) == ()


def test_a_spectrum_is_thinned_and_keeps_its_ends() -> None:
    x = np.random.default_rng(0).normal(size=(300, 90))
    y = x[:, 0] > 0
    found = feature_spectrum(x, x[:, :2], y)
    said = spectra(found, found, "sky")
    assert said is not None
    at = said["directions"]
    assert at[0] == 1 and at[-1] == 90 and len(at) <= MOST_POINTS and at == sorted(set(at))
    assert said["targets"]["sky"] == said["targets"]["class"] and said["head"][-1] == pytest.approx(1.0)
    assert said["size"] == [float(np.asarray(found.size)[k - 1]) for k in at]


def test_shares_of_agreeing_weights_sum_to_one() -> None:
    x = torch.randn(90, 5, generator=generator())
    found = measure_agreement(
        torch.nn.Linear(5, 3), torch.nn.functional.cross_entropy, (x, torch.arange(90) % 3), torch.arange(90) % 4
    )
    said = histogram(found)
    assert {name: len(shares) for name, shares in said.items()} == {"groups": 5, "random_groups": 5, "random_signs": 5}
    assert all(sum(shares) == pytest.approx(1.0) for shares in said.values())
    assert said["groups"][4] == pytest.approx(found.kept)
