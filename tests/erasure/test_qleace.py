import warnings

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from cases import generator, hard, labelled
from firstcue import Moments, ledoit_wolf, oas, oracle_leace, qleace
from firstcue.linalg import sqrt_psd
from references import mean_gap

REFUSED = ["fewer rows than features", "rare class", "a class of one row"]
GIVEN = [name for name in hard() if name not in REFUSED]


def fit(x, z, **settings):
    return qleace(Moments.of_groups(x, z), **settings)


def covariances(x, z):
    rows = x.double()
    return torch.stack([torch.cov(rows[z == c].mT, correction=0).reshape(x.shape[1], -1) for c in z.unique()])


def whitened_gap(x, z):
    """Largest difference of class covariances in any direction, relative to the variance in that direction."""
    found = covariances(x, z)
    variance = found.mean(dim=0).diagonal()
    # a constant may be stored with the rounding of its size
    varies = variance > (1e-14 * x.double().abs().amax(dim=0)).square()
    found, scale = found[:, varies][:, :, varies], variance[varies].sqrt()
    values, vectors = torch.linalg.eigh(found.mean(dim=0) / scale[:, None] / scale)
    kept = values > 1e-10 * values[-1]
    whiten = vectors[:, kept] / values[kept].sqrt()
    white = whiten.mT @ (found / scale[:, None] / scale) @ whiten
    return float((white - white.mean(dim=0)).abs().max())


def slow_map(source, target):
    """Inverse root, root of the middle, inverse root: the formula of optimal transport between Gaussians."""
    root = sqrt_psd(source)
    inverse = torch.linalg.inv(root)
    return inverse @ sqrt_psd(root @ target @ root) @ inverse


def quadratic_features(x):
    pairs = torch.triu_indices(x.shape[1], x.shape[1])
    return torch.cat([x, x[:, pairs[0]] * x[:, pairs[1]]], dim=1)


@pytest.mark.parametrize("name", GIVEN)
def test_class_means_and_covariances_coincide_after_erasure(name):
    x, z = hard()[name]
    eraser = fit(x, z)
    erased = eraser(x, z)
    far = 1 + float(x.double().abs().max() / x.double().std())

    assert eraser.converged
    assert erased.dtype == x.dtype
    assert mean_gap(erased, z) < 4 * torch.finfo(x.dtype).eps * far * x.shape[1] ** 0.5
    assert whitened_gap(erased, z) < (1e-7 if x.dtype == torch.float64 else 0.05)
    exact = eraser(x.double(), z)
    assert whitened_gap(exact, z) < (1e-7 if x.dtype == torch.float64 else 1e-4)


@pytest.mark.parametrize("name", ["plain", "copied feature", "constant feature", "float32"])
def test_no_least_squares_probe_of_second_degree_reads_anything(name):
    x, z = hard()[name]
    erased = fit(x, z)(x, z).double()
    one_hot = torch.nn.functional.one_hot(z).double()

    def explained(rows):
        features = quadratic_features(rows)
        features = features - features.mean(dim=0)
        size = features.std(dim=0)
        features = features[:, size > 1e-9] / size[size > 1e-9]
        target = one_hot - one_hot.mean(dim=0)
        fitted = features @ torch.linalg.pinv(features, rtol=1e-7) @ target
        return float(fitted.square().sum() / target.square().sum())

    assert explained(x.double()) > 0.5
    assert explained(erased) < (1e-12 if x.dtype == torch.float64 else 1e-6)


@pytest.mark.parametrize("k", [2, 4])
def test_movement_is_that_of_optimal_transport(k):
    x, z = labelled(k=k)
    eraser = fit(x, z)
    edited = eraser(x, z)
    moved = float((edited - x).square().sum(dim=1).mean())
    shares, found = torch.bincount(z).double() / len(z), covariances(x, z)
    common = covariances(edited, z)[0]
    # the promise: what the means cost, and the mean squared Bures distance to the common covariance
    root = sqrt_psd(common)
    bures = [float(common.trace() + s.trace() - 2 * sqrt_psd(root @ s @ root).trace()) for s in found]
    means = sum(float(p) * float((x[z == c].mean(dim=0) - x.mean(dim=0)).square().sum()) for c, p in enumerate(shares))

    assert eraser.distortion == pytest.approx(moved, rel=1e-8)
    assert moved == pytest.approx(means + sum(float(p) * b for p, b in zip(shares, bures, strict=True)), rel=1e-8)
    assert moved >= oracle_leace(Moments.of_groups(x, z)).distortion
    for c, mapped in enumerate(eraser.maps):
        assert_close(mapped, slow_map(found[c], common), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("k", [2, 3])
def test_no_other_common_covariance_is_reached_with_less_movement(k):
    x, z = labelled(k=k)
    eraser = fit(x, z)
    common, found = covariances(eraser(x, z), z)[0], covariances(x, z)
    shares = torch.bincount(z).double() / len(z)
    means = oracle_leace(Moments.of_groups(x, z)).distortion

    for i in range(10):
        nudge = torch.eye(8, dtype=x.dtype) + 0.02 * torch.randn(8, 8, generator=generator(i), dtype=x.dtype)
        other = nudge @ common @ nudge.mT
        change = torch.stack([slow_map(s, other) for s in found]) - torch.eye(8, dtype=x.dtype)
        assert means + float(torch.einsum("k,kij,kij->", shares, change @ found, change)) > eraser.distortion


def test_the_mean_of_unequal_classes_stays_where_it_is():
    x, z = labelled(n=2000, k=2)
    z = (torch.arange(2000) < 200).long()  # one to nine
    x = x + 5.0 * z[:, None]

    assert_close(fit(x, z)(x, z).mean(dim=0), x.mean(dim=0))


def test_erasing_twice_changes_nothing():
    x, z = labelled()
    once = fit(x, z)(x, z)
    again = fit(once, z)

    assert_close(again.maps, torch.eye(8, dtype=x.dtype).expand(3, -1, -1), rtol=0, atol=1e-7)
    assert_close(again(once, z), once, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_erasure_follows_rotation_and_scale(scale):
    x, z = labelled()
    turn = torch.linalg.qr(torch.randn(8, 8, generator=generator(1), dtype=x.dtype)).Q
    shift = torch.randn(8, generator=generator(2), dtype=x.dtype)
    moved = scale * (x @ turn.mT + shift)

    assert_close(
        fit(moved, z, tolerance=1e-11)(moved, z) / scale,
        fit(x, z, tolerance=1e-11)(x, z) @ turn.mT + shift,
        rtol=1e-6,
        atol=1e-7,
    )


def test_row_order_and_doubled_rows_do_not_matter():
    x, z = labelled()
    order = torch.randperm(len(x), generator=generator(3))
    plain = fit(x, z)(x, z)

    assert_close(fit(x[order], z[order])(x, z), plain, rtol=1e-6, atol=1e-7)
    assert_close(fit(torch.cat([x, x]), torch.cat([z, z]))(x, z), plain, rtol=1e-6, atol=1e-7)
    weighted = qleace(Moments.of_groups(x, z, weights=2 * torch.ones(len(x))))
    assert_close(weighted(x, z), plain, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    "recode",
    [
        lambda z: 5 * z - 3,  # a negative id
        lambda z: z.to(torch.int32),
        lambda z: torch.nn.functional.one_hot(z),
        lambda z: np.array(["cat", "dog", "bird"])[z],
    ],
)
def test_labels_of_any_kind_mean_the_same(recode):
    x, z = labelled()
    labels = recode(z)

    assert_close(fit(x, labels)(x, labels), fit(x, z)(x, z), rtol=1e-5, atol=1e-6)


def test_a_class_absent_from_the_fit_is_left_out_and_refused_later():
    x, z = labelled()
    eraser = qleace(Moments.of_groups(x, z, num_groups=5))

    assert_close(eraser(x, z), fit(x, z)(x, z))
    assert eraser.maps.shape == (5, 8, 8)
    with pytest.raises(ValueError, match="has seen no rows"):
        eraser(x[:1], [4])


def test_numpy_gives_numpy():
    x, z = labelled(dtype=torch.float32)
    erased = fit(x.numpy(), z.numpy())(x.numpy(), z.numpy())

    assert isinstance(erased, np.ndarray)
    assert erased.dtype == np.float32


def test_features_no_class_varies_in_keep_their_place():
    x, z = labelled(d=4)
    # constant in every class, at a value that differs between classes: only its mean is erased
    step = torch.tensor([1.0, 5.0, -2.0], dtype=x.dtype)[z]
    x = torch.cat([x, step[:, None]], dim=1)
    erased = fit(x, z)(x, z)

    assert_close(erased[:, 4], step.mean().expand(len(x)))
    assert whitened_gap(erased[:, :4], z) < 1e-7


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("fewer rows than features", "class '0' has 1 sample for the 17 of 50 dimensions in which the classes vary"),
        ("rare class", r"class '1' has 3 samples for 8 dimensions \(at least 9 are needed\)"),
        ("a class of one row", "class '3' has 1 sample for 8 dimensions"),
    ],
)
def test_too_few_rows_in_a_class_are_refused_with_the_way_out(name, words):
    x, z = hard()[name]

    with pytest.raises(ValueError, match=words + ".*Reduce `x` first.*merge or drop rare classes.*shrinkage=oas"):
        fit(x, z)


def test_a_feature_constant_in_one_class_is_refused():
    x, z = labelled()
    x = x.clone()
    x[z == 1, 3] = 0.0

    with pytest.raises(ValueError, match=r"class '1' \(\d+ samples\) varies in only 7 of 8 dimensions"):
        fit(x, z)


def test_one_class_is_refused():
    with pytest.raises(ValueError, match="one class only"):
        fit(torch.randn(5, 2), torch.zeros(5, dtype=torch.int64))


def test_nan_is_refused():
    x, z = labelled()
    x[7, 2] = torch.nan

    with pytest.raises(ValueError, match="NaN or infinite values in 1 of 600 rows"):
        fit(x, z)


@pytest.mark.parametrize("estimator", [oas, ledoit_wolf])
def test_shrinkage_on_request_fills_in_and_says_what_is_left(estimator):
    x, z = hard()["rare class"]
    by_class = Moments.of_groups(x, z, fourth=True)

    with pytest.warns(UserWarning, match=r"leaves class covariances apart by up to \d+\.\d%"):
        eraser = qleace(by_class, shrinkage=estimator)
    report = eraser.report(x, z)

    assert report["covariance_gap_after"] > 0.01
    assert report["mean_gap_after"] < 1e-12
    assert report["distortion"] == pytest.approx(eraser.distortion)


def test_shrinkage_cannot_help_a_class_that_does_not_vary_at_all():
    x, z = hard()["a class of one row"]

    with pytest.raises(ValueError, match=r"class '3' \(1 samples?\) varies in only 0 of"):
        fit(x, z, shrinkage=oas)


def test_stopping_early_is_said_and_still_erases():
    x, z = labelled(k=4)

    with pytest.warns(UserWarning, match="QLEACE stopped after 1 passes at residual"):
        eraser = fit(x, z, max_iterations=1)

    assert (eraser.converged, eraser.iterations) == (False, 1)
    assert eraser.residual > 1e-3
    assert whitened_gap(eraser(x, z), z) < 1e-7


def test_two_classes_need_no_iteration_and_no_warning():
    x, z = labelled(k=2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        eraser = fit(x, z)

    assert (eraser.converged, eraser.iterations) == (True, 0)


def test_the_report_says_what_was_moved_and_what_is_left():
    x, z = labelled()
    eraser = fit(x, z)
    report = eraser.report(x, z)

    assert report["rank"] == 8
    assert report["distortion"] == pytest.approx(report["optimum"])
    assert report["covariance_gap_before"] > 0.5
    assert report["covariance_gap_after"] < 1e-9
    assert report["mean_gap_before"] > 0.5
    assert report["mean_gap_after"] < 1e-10


def test_float32_rows_far_from_zero_are_erased():
    x, z = labelled(dtype=torch.float32)
    far = x + 1e4
    erased = fit(far, z)(far, z)

    # float32 holds numbers near 1e4 to 1e-3
    assert mean_gap(erased, z) < 1e-3
    assert whitened_gap(erased, z) < 0.01


@pytest.mark.parametrize("ratio", [1e-3, 1e-5])
def test_a_difference_in_a_feature_of_small_variance_is_erased(ratio):
    x, z = labelled(n=4000, dtype=torch.float32)
    x = x.clone()
    x[:, 5] = ratio * (torch.randn(len(x), generator=generator(4)) * (1 + z) + 3 * z)
    erased = fit(x, z)(x, z)

    assert mean_gap(erased[:, 5:6], z) < 1e-3
    assert whitened_gap(erased, z) < 1e-3


@pytest.mark.peer
def test_where_the_peer_erases_exactly_we_agree_for_equal_classes():
    quadratic = pytest.importorskip("concept_erasure.quadratic")
    x, z = labelled(n=900)
    z = torch.arange(900) % 3  # equal classes: only then is the peer's mean the mean of the rows
    x = x + 0.5 * torch.randn(3, 8, generator=generator(5), dtype=x.dtype)[z] * x.roll(1, dims=1)
    peer = quadratic.QuadraticFitter.fit(x, z, shrinkage=False).eraser

    assert_close(fit(x, z)(x, z), peer(x, z), rtol=1e-5, atol=1e-5)
