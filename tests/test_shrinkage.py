from functools import reduce

import pytest
import torch
from sklearn.covariance import OAS, LedoitWolf
from torch.testing import assert_close

from cases import generator, labelled
from firstcue import Moments, ledoit_wolf, oas, random_matrix_shrinkage

ESTIMATORS = [ledoit_wolf, oas, random_matrix_shrinkage]


@pytest.mark.parametrize(("ours", "theirs"), [(ledoit_wolf, LedoitWolf), (oas, OAS)])
@pytest.mark.parametrize(("n", "d"), [(200, 5), (10, 30), (5, 4), (50, 1), (3, 2)])
def test_estimates_equal_those_of_scikit_learn(ours, theirs, n, d):
    x, _ = labelled(n, d, 2)

    assert_close(ours(Moments.of(x + 100, fourth=True)), torch.from_numpy(theirs().fit(x.numpy()).covariance_))


@pytest.mark.parametrize("ours", ESTIMATORS)
def test_merged_moments_give_the_same_estimate(ours):
    x, _ = labelled(50, 6)
    parts = [Moments.of(part, fourth=True) for part in x.tensor_split([1, 20, 20])]

    assert_close(ours(reduce(Moments.merge, parts)), ours(Moments.of(x, fourth=True)))


@pytest.mark.parametrize("ours", ESTIMATORS)
def test_groups_are_estimated_each_on_its_own(ours):
    x, z = labelled(60, 4)
    by_class = ours(Moments.of_groups(x, z, fourth=True))

    for c in range(3):
        assert_close(by_class[c], ours(Moments.of(x[z == c], fourth=True)))


@pytest.mark.parametrize("ours", ESTIMATORS)
@pytest.mark.parametrize("scale", [1e-8, 1.0, 1e8])
def test_estimates_are_never_indefinite_and_keep_the_trace(ours, scale):
    for seed in range(60):
        x = scale * torch.randn(5, 4, generator=generator(seed), dtype=torch.float64)
        m = Moments.of(x, fourth=True)
        estimate = ours(m)

        assert torch.linalg.eigvalsh(estimate)[0] >= -1e-12 * m.covariance.trace()
        assert_close(estimate.trace(), m.covariance.trace())


@pytest.mark.parametrize("ours", ESTIMATORS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_isotropic_covariance_stays_as_it_is(ours, dtype):
    eye = torch.eye(50, dtype=dtype)
    x = torch.cat([eye, -eye]) * 150**0.5  # covariance 3 I

    assert_close(ours(Moments.of(x, fourth=True)), 3 * torch.eye(50, dtype=torch.float64), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("ours", ESTIMATORS)
def test_many_rows_need_no_shrinkage(ours):
    x, _ = labelled(100_000, 4)
    m = Moments.of(x, fourth=True)

    assert_close(ours(m), m.covariance, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("ours", ESTIMATORS)
def test_few_rows_are_estimated_better_than_by_the_sample_covariance(ours):
    truth = torch.diag(torch.linspace(0.5, 1.5, 40, dtype=torch.float64))
    x = torch.randn(30, 40, generator=generator(), dtype=torch.float64) * truth.diagonal().sqrt()
    m = Moments.of(x, fourth=True)

    assert (ours(m) - truth).norm() < 0.5 * (m.covariance - truth).norm()


def test_weights_do_not_change_the_number_of_rows():
    x, _ = labelled(30, 4)

    for ours in ESTIMATORS:
        assert_close(ours(Moments.of(x, [0.01] * 30, fourth=True)), ours(Moments.of(x, fourth=True)))


def test_ledoit_wolf_says_how_to_get_the_sums_it_lacks():
    with pytest.raises(ValueError, match="fourth=True"):
        ledoit_wolf(Moments.of(torch.eye(3)))
