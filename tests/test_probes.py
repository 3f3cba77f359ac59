import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis.strategies import integers
from torch.testing import assert_close

from cases import generator, hard, labelled
from firstcue import Moments, leace, linear_probe, oas, oracle_leace, qleace, quadratic_probe, strong_probe
from firstcue.probes import held_out_accuracy
from firstcue.probes.split import Split, balanced_accuracy, drawn, stratified

KINDS = ("linear", "quadratic", "strong")


def of(x, z):
    return Moments.of_groups(x, z)


def log_loss(probe, x, z):
    """Mean cross-entropy in nats."""
    return float(torch.nn.functional.cross_entropy(probe(x).double(), z))


def entropy(z):
    share = torch.bincount(z).double() / len(z)
    share = share[share > 0]
    return float(-(share * share.log()).sum())


def gaussian_log_density(x, mean, covariance):
    return torch.distributions.MultivariateNormal(mean, covariance).log_prob(x)


def slow_lda(x, z):
    """Log-posteriors by the density of each class with the pooled covariance."""
    means = torch.stack([x[z == c].mean(dim=0) for c in z.unique()])
    rest = x - means[z]
    covariance = rest.mT @ rest / len(x)
    share = torch.bincount(z).double() / len(z)
    joint = torch.stack([gaussian_log_density(x, m, covariance) for m in means], dim=1) + share.log()
    return joint.log_softmax(dim=1)


def slow_qda(x, z):
    share = torch.bincount(z).double() / len(z)
    parts = [x[z == c] for c in z.unique()]
    found = [(p.mean(dim=0), torch.cov(p.mT, correction=0)) for p in parts]
    joint = torch.stack([gaussian_log_density(x, *f) for f in found], dim=1) + share.log()
    return joint.log_softmax(dim=1)


@given(seed=integers(0, 2**31))
@settings(max_examples=15, deadline=None)
def test_closed_forms_are_the_bayes_rules_of_gaussian_classes(seed):
    x, z = labelled(d=4, seed=seed)

    assert_close(linear_probe(of(x, z))(x).log_softmax(dim=1), slow_lda(x, z), rtol=1e-6, atol=1e-6)
    assert_close(quadratic_probe(of(x, z))(x).log_softmax(dim=1), slow_qda(x, z), rtol=1e-6, atol=1e-6)


def test_the_linear_probe_agrees_with_scikit_learn():
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    x, z = labelled(n=400)
    theirs = LinearDiscriminantAnalysis().fit(x.numpy(), z.numpy())

    # they divide the covariance by n - k
    ours = linear_probe(of(x, z))(x).softmax(dim=1)
    assert_close(ours, torch.from_numpy(theirs.predict_proba(x.numpy())), rtol=0, atol=0.01)
    assert (ours.argmax(dim=1).numpy() == theirs.predict(x.numpy())).mean() > 0.99


def test_balanced_probes_give_every_class_the_same_prior():
    x, z = labelled(k=2)

    for fit in (linear_probe, quadratic_probe):
        lift = (fit(of(x, z), balanced=True)(x) - fit(of(x, z))(x)).diff(dim=1)
        share = torch.bincount(z).double() / len(z)
        assert_close(lift, (share[0] / share[1]).log().expand_as(lift), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", ["plain", "constant feature", "copied feature", "units from 1e-6 to 1e6", "float32"])
def test_erased_rows_leave_nothing_to_the_probe_of_their_degree(name):
    x, z = hard()[name]
    linear, quadratic = leace(of(x, z))(x), qleace(of(x, z))(x, z)
    atol = 1e-9 if x.dtype == torch.float64 else 1e-4

    assert log_loss(linear_probe(of(x, z)), x, z) < entropy(z) - 0.1
    assert log_loss(linear_probe(of(linear, z)), linear, z) == pytest.approx(entropy(z), abs=atol)
    assert log_loss(quadratic_probe(of(quadratic, z)), quadratic, z) == pytest.approx(entropy(z), abs=atol)


def test_a_quadratic_probe_still_reads_what_leace_leaves():
    x, z = labelled()
    erased = oracle_leace(of(x, z))(x, z)

    assert log_loss(linear_probe(of(erased, z)), erased, z) == pytest.approx(entropy(z))
    assert log_loss(quadratic_probe(of(erased, z)), erased, z) < entropy(z) - 0.1


@pytest.mark.parametrize("name", hard())
@pytest.mark.parametrize("fit", [linear_probe, quadratic_probe])
def test_hard_inputs_give_finite_logits_that_beat_the_prior(name, fit):
    x, z = hard()[name]
    logits = fit(of(x, z))(x)

    assert torch.isfinite(logits).all()
    assert logits.dtype == (torch.float64 if x.dtype == torch.float64 else torch.float32)
    assert (logits.argmax(dim=1) == z).double().mean() >= torch.bincount(z).max() / len(z)


def test_a_feature_that_is_the_label_is_read_although_no_class_varies_in_it():
    x, z = labelled()
    with_label = torch.cat([x, z[:, None].to(x) ** 2], dim=1)

    for fit in (linear_probe, quadratic_probe):
        probe = fit(of(with_label, z))
        assert torch.equal(probe(with_label).argmax(dim=1), z)


def test_units_do_not_matter():
    x, z = labelled()
    scale = torch.logspace(-6, 6, 8, dtype=x.dtype)

    for fit in (linear_probe, quadratic_probe, lambda m: linear_probe(m, shrinkage=oas)):
        assert_close(fit(of(x * scale, z))(x * scale), fit(of(x, z))(x), rtol=1e-6, atol=1e-6)


def test_a_class_without_rows_is_never_chosen():
    x, z = labelled(k=2)
    by_class = Moments.of_groups(x, 2 * z, num_groups=4)

    for fit in (linear_probe, quadratic_probe):
        logits = fit(by_class)(x)
        assert logits.shape == (600, 4)
        assert (logits[:, [1, 3]] == -math.inf).all()
        assert_close(logits[:, [0, 2]], fit(of(x, z))(x))


def test_mixing_covariances_is_said_and_done_only_where_needed():
    x, z = labelled()
    rare = torch.where(torch.arange(len(x)) < 3, 3, z)

    assert quadratic_probe(of(x, z)).note == ""
    assert "73%" in quadratic_probe(of(x, rare)).note  # 8 / (3 + 8)
    assert "mixed" in quadratic_probe(of(x, z), pooled=True).note
    assert linear_probe(of(x, z), shrinkage=oas).note == "covariance shrunk"


def test_far_from_zero_nothing_is_rounded_away():
    x, z = labelled(dtype=torch.float32)
    near, far = linear_probe(of(x, z))(x), linear_probe(of(x + 2.0**12, z))(x + 2.0**12)

    assert_close(near.argmax(dim=1).double().mean(), far.argmax(dim=1).double().mean(), rtol=0, atol=0.01)


def test_one_class_and_other_features_are_refused():
    x, z = labelled()

    for fit in (linear_probe, quadratic_probe):
        with pytest.raises(ValueError, match="one class only"):
            fit(of(x, torch.zeros_like(z)))
        with pytest.raises(ValueError, match="needs one group axis"):
            fit(Moments.of(x))
        with pytest.raises(ValueError, match="5 features but the probe was fitted on 8"):
            fit(of(x, z))(x[:, :5])


def test_numpy_gives_numpy():
    x, z = labelled(dtype=torch.float32)

    assert isinstance(quadratic_probe(of(x, z))(x.numpy()), np.ndarray)


# --- held out -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_planted_is_read_and_noise_is_not(kind):
    z = torch.arange(900) % 3
    x = torch.randn(900, 10, generator=generator())
    noise = held_out_accuracy(kind, x, z)
    x[:, 4] += 4.0 * z
    planted = held_out_accuracy(kind, x, z)

    assert planted.accuracy > 0.93
    assert planted.ci_low < planted.accuracy < planted.ci_high
    assert noise.ci_low < 1 / 3 < noise.ci_high
    assert abs(planted.baseline - 1 / 3) < 0.08
    assert (planted.n, planted.kind, planted.baseline_kind) == (900, kind, "shuffled labels")


def test_each_kind_reads_its_own_order():
    x = torch.randn(2000, 3, generator=generator())
    spread = (x[:, 0].abs() > 0.7).long()
    saddle = (x[:, 0] * x[:, 1] > 0).long()
    waves = (torch.sin(4 * x[:, 0]) > 0).long()
    found = {
        name: [held_out_accuracy(kind, x, z).accuracy for kind in KINDS]
        for name, z in {"spread": spread, "saddle": saddle, "waves": waves}.items()
    }

    assert found["spread"][0] < 0.6 < 0.9 < found["spread"][1]
    assert found["saddle"][0] < 0.6 < 0.75 < found["saddle"][1]
    assert found["waves"][1] < 0.65 < 0.85 < found["waves"][2]


def test_accuracy_is_balanced():
    z = (torch.arange(1000) < 50).long()
    x = torch.randn(1000, 4, generator=generator())

    for kind in KINDS:  # always saying 0 would be right in 95 % of rows
        assert 0.35 < held_out_accuracy(kind, x, z).accuracy < 0.65


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", hard())
def test_hard_inputs_are_measured(kind, name):
    x, z = hard()[name]
    found = held_out_accuracy(kind, x, z)

    assert 0 <= found.ci_low <= found.accuracy <= found.ci_high <= 1
    assert 0 <= found.baseline <= 1
    alone = {"a class of one row": "'3'", "fewer rows than features": "'0'"}
    assert found.n == len(x) - (name in alone)
    if name in alone:
        assert f"classes with one row left out: {alone[name]}" in found.note


def test_a_linear_probe_of_fewer_rows_than_features_still_reads():
    z = torch.arange(300) % 2
    x = torch.randn(300, 400, generator=generator())
    x[:, :20] += 0.8 * (z[:, None] - 0.5) * 2
    found = held_out_accuracy("linear", x, z)

    assert found.accuracy > 0.85
    assert "covariance shrunk" in found.note


def test_wide_tables_are_reduced_and_it_is_said():
    z = torch.arange(1200) % 2
    x = torch.randn(1200, 100, generator=generator())
    x[:, :50] += x[:, 50:51] + 3.0 * z[:, None]

    for kind in ("quadratic", "strong"):
        found = held_out_accuracy(kind, x, z)
        assert found.accuracy > 0.9
        assert "64 of 100 directions" in found.note


def test_rows_can_be_limited_and_large_classes_are_thinned_first():
    z = torch.cat([torch.zeros(5000), torch.ones(100)]).long()
    x = torch.randn(5100, 3, generator=generator())

    assert held_out_accuracy("linear", x, z, rows=600).n == 600
    some = drawn(z, 600, seed=0)
    assert torch.bincount(z[some]).tolist() == [500, 100]
    assert drawn(z, 10_000, seed=0).tolist() == list(range(5100))
    assert strong_probe(x, z, max_rows=150).n <= 150


@given(seed=integers(0, 2**31), folds=integers(2, 5))
@settings(max_examples=20, deadline=None)
def test_folds_share_every_class_out_evenly(seed, folds):
    ids = torch.randint(0, 6, (97,), generator=generator(seed)) % 5
    split = stratified(ids, tuple("abcdef"), folds, seed)
    table = torch.bincount(split.fold * 6 + ids, minlength=folds * 6).reshape(folds, 6)

    assert (table.amax(dim=0) - table.amin(dim=0)).max() <= 1
    assert torch.bincount(split.shuffled(seed).ids).tolist() == torch.bincount(ids).tolist()


def test_more_folds_learn_from_more_rows():
    z = torch.arange(120) % 2
    x = torch.randn(120, 30, generator=generator(1)) + 0.5 * z[:, None]

    assert (
        held_out_accuracy("linear", x, z, folds=10).accuracy
        >= held_out_accuracy("linear", x, z, folds=2).accuracy - 0.03
    )
    with pytest.raises(ValueError, match="at least two are needed"):
        held_out_accuracy("linear", x, z, folds=1)


def test_few_rows_claim_no_certainty():
    ids = torch.tensor([0, 0, 1, 1])
    split = Split(ids, torch.tensor([0, 1, 0, 1]), 2, ("a", "b"), "")
    accuracy, low, high, n = balanced_accuracy(ids, split)

    assert (accuracy, high, n) == (1.0, 1.0, 4)
    assert low < 0.5


@pytest.mark.science
@pytest.mark.parametrize(("n", "shift"), [(60, 0.0), (60, 1.0), (400, 0.5)])
def test_the_interval_covers_what_such_a_probe_reaches(n, shift):
    found = []
    for seed in range(150):
        z = (torch.arange(n) < n // 4).long()
        x = torch.randn(n, 6, generator=generator(seed)) + shift * z[:, None]
        found.append(held_out_accuracy("linear", x, z, seed=seed))
    truth = float(np.mean([f.accuracy for f in found])) if shift else 0.5

    assert np.mean([f.ci_low <= truth <= f.ci_high for f in found]) >= 0.93


@pytest.mark.parametrize("kind", KINDS)
def test_what_cannot_be_measured_is_not_a_number(kind):
    alone = held_out_accuracy(kind, torch.randn(3, 2), ["a", "b", "c"])
    one = held_out_accuracy(kind, torch.randn(8, 2), ["a"] * 8)

    for found in (alone, one):
        assert math.isnan(found.accuracy)
        assert (found.ci_low, found.ci_high, found.n) == (0.0, 1.0, 0)
        assert "fewer than two classes with two rows" in found.note


@pytest.mark.parametrize("kind", KINDS)
def test_a_table_in_which_nothing_varies_is_read_at_chance(kind):
    z = torch.arange(60) % 2

    assert held_out_accuracy(kind, torch.full((60, 3), 0.1), z).accuracy == 0.5


@pytest.mark.parametrize("kind", KINDS)
def test_the_measurement_depends_on_its_seed_alone(kind):
    x, z = labelled()
    state, threads = torch.random.get_rng_state(), torch.get_num_threads()
    first = held_out_accuracy(kind, x, z, seed=5)

    assert held_out_accuracy(kind, x, z, seed=5) == first
    assert torch.equal(state, torch.random.get_rng_state())
    assert torch.get_num_threads() == threads


def test_mistakes_are_explained():
    x, z = labelled()

    with pytest.raises(ValueError, match="`kind` is 'linear', 'quadratic' or 'strong'"):
        held_out_accuracy("deep", x, z)
    with pytest.raises(ValueError, match="`x` has 600 rows but `z` has 599"):
        held_out_accuracy("linear", x, z[1:])
    with pytest.raises(ValueError, match="NaN or infinite"):
        held_out_accuracy("quadratic", x / 0, z)
