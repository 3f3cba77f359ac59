import warnings

import numpy as np
import pytest
import torch
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.discriminant_analysis import QuadraticDiscriminantAnalysis
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC
from sklearn.tree import DecisionTreeClassifier
from torch.testing import assert_close

from cases import generator, hard, labelled
from firstcue import Moments, free_form_leace, injection, leace, oracle_leace
from references import mean_gap


class TruePosterior(ClassifierMixin, BaseEstimator):
    """Two Gaussians of known means and scales: the classifier that free-form LEACE asks for."""

    def fit(self, x, y):
        self.classes_ = np.unique(y)
        return self

    def predict_proba(self, x):
        log = np.stack([-0.5 * (x**2).sum(1), -0.5 * ((x - 1.0) ** 2 / 4).sum(1) - x.shape[1] * np.log(2)], axis=1)
        odds = np.exp(log - log.max(1, keepdims=True))
        return odds / odds.sum(1, keepdims=True)

    def predict(self, x):
        return self.predict_proba(x).argmax(1)


def two_gaussians(n, d=2, seed=0):
    z = torch.arange(n) % 2
    x = torch.randn(n, d, generator=generator(seed), dtype=torch.float64)
    return torch.where(z[:, None] == 1, 1 + 2 * x, x), z


def spread(x):
    return x.var(dim=0, correction=0).mean().sqrt()


def distortions(x, z):
    by_class = Moments.of_groups(x, z)
    return oracle_leace(by_class).distortion, leace(by_class).distortion


@pytest.mark.parametrize("name", hard())
def test_without_cross_fitting_class_means_are_equal_on_the_rows_fitted(name):
    x, z = hard()[name]
    eraser = free_form_leace(x, z, KNeighborsClassifier(1), cross_fit=False)
    far = 1 + float(x.double().abs().max() / x.double().std())
    erased = eraser(x)

    assert erased.dtype == x.dtype
    assert eraser.held_out_gap is None
    assert eraser.in_sample_gap < 1e-12 * far
    assert mean_gap(erased, z) < 4 * torch.finfo(x.dtype).eps * far * x.shape[1] ** 0.5


CLASSIFIERS = [
    LogisticRegression(),
    QuadraticDiscriminantAnalysis(),
    RandomForestClassifier(20),
    LinearSVC(),
    RidgeClassifier(),
    GaussianNB(),
    make_pipeline(StandardScaler(), LogisticRegression()),
]


@pytest.mark.parametrize("classifier", CLASSIFIERS, ids=lambda c: type(c).__name__)
def test_any_classifier_erases_with_cross_fitting(classifier):
    x, z = labelled(n=900, d=4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some of these are worse than a linear eraser, and say so
        eraser = free_form_leace(x, z, classifier)

    assert mean_gap(eraser.erase_fitted(x), z) < 1e-12
    assert eraser.held_out_gap < 0.1 * eraser.gap_before
    assert_close(eraser.gap_before, mean_gap(x, z))
    assert_close(eraser.in_sample_gap, mean_gap(eraser(x), z) * float(spread(eraser(x)) / spread(x)))


def test_with_the_true_probabilities_it_lies_between_the_oracle_and_leace():
    x, z = two_gaussians(4000)
    oracle, affine = distortions(x, z)
    eraser = free_form_leace(x, z, TruePosterior())
    assert oracle < eraser.distortion < 0.95 * affine


def test_no_other_multiple_of_the_true_probabilities_moves_rows_less():
    x, z = two_gaussians(100_000)
    eraser = free_form_leace(x, z, TruePosterior(), cross_fit=False)
    # other answers that erase as well: the true probability plus a guess that is blind to it
    answer = torch.from_numpy(TruePosterior().predict_proba(x.numpy())[:, 1])
    delta = x[z == 1].mean(dim=0) - x[z == 0].mean(dim=0)
    for other in (x[:, 0] > 0.5, x[:, 1].abs() > 1, x.square().sum(dim=1) > 4):
        mixed = answer + 0.3 * other
        gain = float(mixed[z == 1].mean() - mixed[z == 0].mean())
        moved = ((mixed - mixed.mean()) / gain)[:, None] * delta
        assert float(moved.square().sum(dim=1).mean()) > eraser.distortion


def test_with_least_squares_answers_it_is_leace():
    x, z = labelled(n=500, d=5)
    eraser = free_form_leace(x, z, RidgeClassifier(alpha=1e-10), cross_fit=False)
    assert_close(eraser(x), leace(Moments.of_groups(x, z))(x), atol=1e-8, rtol=1e-8)
    assert_close(eraser.distortion, eraser.leace_distortion)


def test_a_classifier_that_knows_its_rows_by_heart_is_the_oracle_on_them_and_worthless_elsewhere():
    x, z = two_gaussians(600)
    other, other_z = two_gaussians(600, seed=1)
    by_heart = free_form_leace(x, z, KNeighborsClassifier(1), cross_fit=False)
    with pytest.warns(UserWarning, match="worse eraser than a linear one"):
        fair = free_form_leace(x, z, KNeighborsClassifier(1))

    assert_close(by_heart(x), oracle_leace(Moments.of_groups(x, z))(x, z))
    assert mean_gap(by_heart(other), other_z) > 0.25 * mean_gap(other, other_z)
    assert fair.held_out_gap < 0.1 * fair.gap_before
    assert mean_gap(fair(other), other_z) < 0.5 * mean_gap(by_heart(other), other_z)


def test_the_held_out_gap_foretells_other_rows():
    x, z = two_gaussians(3000)
    other, other_z = two_gaussians(3000, seed=1)
    eraser = free_form_leace(x, z, QuadraticDiscriminantAnalysis())
    assert eraser.held_out_gap < 0.05
    assert mean_gap(eraser(other), other_z) < 0.1
    assert mean_gap(other, other_z) > 0.4


def test_moving_rows_further_than_leace_is_warned_of():
    z = torch.arange(600) % 2
    x = torch.randn(600, 4, generator=generator()) + 0.5 * z[:, None]
    with pytest.warns(UserWarning, match="worse eraser than a linear one") as said:
        eraser = free_form_leace(x, z, KNeighborsClassifier(1))
    assert eraser.distortion > eraser.leace_distortion
    assert len(said) == 1


def test_a_classifier_that_confuses_two_classes_is_warned_of():
    x, z = labelled(n=600, d=4)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        free_form_leace(x, z, DecisionTreeClassifier(max_depth=1), cross_fit=False)
    assert any("does not tell class" in str(warning.message) for warning in said)


def test_it_writes_nothing_into_the_rows():
    g = generator(1)
    x = torch.randn(4000, 2, generator=g, dtype=torch.float64)
    x[:, 0] = (2 * x[:, 0]).round() / 2
    z = torch.rand(4000, generator=g) < torch.sigmoid(2 * x[:, 0])
    erased = free_form_leace(x, z, LogisticRegression())(x)
    assert not injection(x, erased, z)["injected"]


def test_images_and_arrays_keep_their_shape_and_kind():
    x, z = labelled(n=200, d=12, dtype=torch.float32)
    pictures = x.reshape(200, 3, 2, 2)
    eraser = free_form_leace(pictures, z, GaussianNB())
    erased = eraser(pictures.numpy())

    assert isinstance(erased, np.ndarray)
    assert erased.shape == (200, 3, 2, 2)
    assert erased.dtype == np.float32
    assert_close(torch.from_numpy(erased).flatten(1), eraser(x))
    assert set(eraser.report(pictures, z)) == set(leace(Moments.of_groups(x, z)).report(x, z))


def test_rare_and_absent_classes_are_carried_along():
    x, z = labelled(n=300, d=4)
    z = torch.where(torch.arange(300) == 7, 5, 2 * z)  # ids 0, 2, 4 and one row of 5
    eraser = free_form_leace(x, z, GaussianNB(), cross_fit=False)
    assert eraser.classes == ("0", "2", "4", "5")
    assert mean_gap(eraser(x), z) < 1e-10


def test_the_same_seed_gives_the_same_eraser_and_leaves_global_randomness_alone():
    x, z = labelled(n=200, d=3)
    before = np.random.get_state()[1].copy(), torch.get_rng_state()  # noqa: NPY002
    forests = [free_form_leace(x, z, RandomForestClassifier(5), seed=seed).matrix for seed in (0, 0, 1)]

    assert torch.equal(forests[0], forests[1])
    assert not torch.equal(forests[0], forests[2])
    assert np.array_equal(before[0], np.random.get_state()[1])  # noqa: NPY002
    assert torch.equal(before[1], torch.get_rng_state())


def test_progress_ends_at_one():
    x, z = labelled(n=100, d=3)
    heard = []
    free_form_leace(x, z, GaussianNB(), cross_fit=4, progress=lambda stage, done: heard.append(done))
    assert heard == [0.25, 0.5, 0.75, 1.0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"estimator": "logistic"}, "scikit-learn classifier"),
        ({"estimator": GaussianNB}, "scikit-learn classifier"),
        ({"cross_fit": 1}, "number of folds"),
        ({"cross_fit": 1000}, "number of folds"),
        ({"z": torch.zeros(60)}, "one class only"),
        ({"z": torch.arange(59) % 2}, "one per row"),
        ({"z": torch.arange(60) == 3, "cross_fit": 2}, "one class only to fit on"),
        ({"x": torch.full((60, 2), torch.nan)}, "NaN"),
    ],
)
def test_what_cannot_be_fitted_is_refused_with_the_way_out(change, message):
    x, z = labelled(n=60, d=2)
    with pytest.raises(ValueError, match=message):
        free_form_leace(**({"x": x, "z": z, "estimator": GaussianNB()} | change))


def test_other_rows_are_not_taken_for_those_fitted():
    x, z = labelled(n=60, d=3)
    eraser = free_form_leace(x, z, GaussianNB())
    with pytest.raises(ValueError, match=r"call\s+eraser\(x\)"):
        eraser.erase_fitted(x[:10])
    with pytest.raises(ValueError, match="fitted on 3 features"):
        eraser(x[:, :2])
