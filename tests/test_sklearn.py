"""The transformers do what the functions do, and keep the promises of scikit-learn."""

import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import check_estimator
from torch.testing import assert_close

import firstcue as fc
from cases import labelled
from firstcue.erasure.leace import leace_from_rows
from firstcue.erasure.row_space import fit_in_row_space
from firstcue.moments import Moments

KINDS = {
    "Leace": (fc.sklearn.Leace, fc.leace),
    "AlfQleace": (fc.sklearn.AlfQleace, fc.alf_qleace),
    "OracleLeace": (fc.sklearn.OracleLeace, fc.oracle_leace),
    "Qleace": (fc.sklearn.Qleace, fc.qleace),
}
LABEL_FREE = ["Leace", "AlfQleace"]

pytestmark = pytest.mark.filterwarnings("ignore:.*removes .* directions and with them:UserWarning")


def erase(estimator, x, z):
    return estimator.transform(x) if type(estimator).__name__ in LABEL_FREE else estimator.transform(x, z)


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_exactly_the_checks_that_give_no_labels_fail(name):
    estimator = KINDS[name][0]()
    results = check_estimator(estimator, on_fail=None, on_skip=None)
    failed = {r["check_name"]: r["exception"] for r in results if r["status"] == "failed"}
    assert set(failed) == set(fc.sklearn.expected_failed_checks(estimator)), failed
    assert len(results) > 40
    if name == "OracleLeace":
        assert all("class of every row" in str(error) for error in failed.values())


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_check_estimator_passes_with_the_declared_exceptions(name):
    estimator = KINDS[name][0]()
    check_estimator(estimator, expected_failed_checks=fc.sklearn.expected_failed_checks(estimator), on_skip=None)


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16])
def test_a_transformer_does_what_its_function_does(name, dtype):
    kind, method = KINDS[name]
    x, z = labelled(dtype=dtype)
    expected = method(Moments.of_groups(x, z))(x, z)
    assert torch.equal(erase(kind().fit(x, z), x, z), expected)
    found = kind().fit_transform(x.numpy(), z.numpy())
    assert isinstance(found, np.ndarray) and found.dtype == x.numpy().dtype
    assert_close(torch.from_numpy(found), expected)


@pytest.mark.parametrize("name", KINDS)
@settings(max_examples=15, deadline=None)
@given(cuts=st.lists(st.integers(0, 300), min_size=1, max_size=4), seed=st.integers(0, 5))
def test_parts_added_or_merged_in_any_order_are_the_whole(name, cuts, seed):
    kind, _ = KINDS[name]
    x, z = (t.numpy() for t in labelled(300, seed=seed))
    parts = [p for p in np.split(np.arange(300), sorted(cuts)) if len(p)]
    whole = erase(kind().fit(x, z), x, z)
    added = kind()
    for part in parts:
        added.partial_fit(x[part], z[part])
    merged = [kind().partial_fit(x[part], z[part]) for part in reversed(parts)]
    for other in merged[1:]:
        merged[0].merge(other)
    for estimator in (added, merged[0]):
        np.testing.assert_allclose(erase(estimator, x, z), whole, atol=1e-8)


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("n, d", [(200, 6), (20, 50)])
def test_a_weight_of_two_is_a_row_given_twice_and_one_of_zero_a_row_left_out(name, n, d):
    if name == "Qleace" and n < d:
        pytest.skip("QLEACE refuses fewer rows than features")
    kind, _ = KINDS[name]
    x, z = (t.numpy() for t in labelled(n, d))
    weights = np.random.default_rng(0).integers(0, 3, n)
    once = erase(kind().fit(x, z, sample_weight=weights), x, z)
    repeated = erase(kind().fit(x.repeat(weights, axis=0), z.repeat(weights)), x, z)
    np.testing.assert_allclose(once, repeated, atol=1e-7)


@pytest.mark.parametrize("name", ["Leace", "AlfQleace", "OracleLeace"])
@pytest.mark.parametrize("case", ["fewer rows than features", "float16", "mean"])
def test_few_rows_give_what_the_full_matrices_give(name, case):
    kind, method = KINDS[name]
    x, z = labelled(30, 50, seed=1)
    x = x.half() if case == "float16" else x + 1e4 if case == "mean" else x
    estimator = kind().fit(x, z)
    assert estimator.moments_ is None
    wide, by_moments = x.double(), method(Moments.of_groups(x.double(), z))
    assert_close(estimator.eraser_(wide, z), by_moments(wide, z), atol=1e-5, rtol=0)
    means = Moments.of_groups(estimator.eraser_(wide, z), z).mean
    assert_close(means, means[:1].expand_as(means), atol=1e-7, rtol=0)


def test_few_rows_keep_what_depends_on_units_apart():
    x, z = labelled(20, 50)
    x *= torch.logspace(-6, 6, 50, dtype=x.dtype)
    x[:, 3] = 0.1
    estimator = fc.sklearn.Leace().fit(x, z)
    assert_close(estimator.transform(x), leace_from_rows(x, z)(x), rtol=1e-6, atol=1e-8)
    assert torch.equal(estimator.transform(x)[:, 3], x[:, 3])


def test_memory_for_many_features_is_that_of_the_rows():
    x = torch.randn(30, 40_000, generator=torch.Generator().manual_seed(0))
    z = torch.arange(30) % 3
    eraser = fit_in_row_space(fc.leace, x, z, equilibrate=True)  # a d x d matrix would take 12.8 GB
    means = Moments.of_groups(eraser(x)[:, :50].double(), z).mean
    assert_close(means, means[:1].expand_as(means), atol=1e-4, rtol=0)


def test_a_pipeline_reads_nothing_of_an_erased_concept():
    x, z = (t.numpy() for t in labelled(900, 6))
    chance = np.bincount(z).max() / len(z)
    raw = cross_val_score(LogisticRegression(max_iter=500), x, z).mean()
    erased = cross_val_score(make_pipeline(fc.sklearn.Leace(), LogisticRegression(max_iter=500)), x, z).mean()
    assert raw > chance + 0.05 and erased < chance + 0.03


@pytest.mark.parametrize("name", KINDS)
def test_a_saved_estimator_goes_on_where_it_was(name, tmp_path):
    kind, _ = KINDS[name]
    x, z = labelled()
    names = np.array(["red", "green", "blue"])[z]
    estimator = kind(strict=True).fit(x[:400], names[:400])
    estimator.save(tmp_path / "eraser.safetensors")
    found = kind.load(tmp_path / "eraser.safetensors")
    assert found.get_params() == estimator.get_params()
    assert_close(erase(found, x, names), erase(estimator, x, names), rtol=0, atol=0)
    assert_close(
        erase(found.partial_fit(x[400:], names[400:]), x, names),
        erase(kind().fit(x, names), x, names),
        atol=1e-8,
        rtol=0,
    )
    assert_close(erase(pickle.loads(pickle.dumps(estimator)), x, names), erase(estimator, x, names))


def test_names_of_columns_pass_through_and_are_saved(tmp_path):
    pd = pytest.importorskip("pandas")
    x, z = labelled(60, 3)
    frame = pd.DataFrame(x.numpy(), columns=["a", "b", "c"])
    estimator = fc.sklearn.Leace().set_output(transform="pandas").fit(frame, z.numpy())
    assert list(estimator.transform(frame)) == ["a", "b", "c"]
    estimator.save(tmp_path / "eraser.safetensors")
    found = fc.sklearn.Leace.load(tmp_path / "eraser.safetensors")
    assert list(found.get_feature_names_out()) == ["a", "b", "c"]
    with pytest.raises(ValueError, match="feature names"):
        found.transform(frame[["c", "b", "a"]])


def test_as_many_classes_as_features_warn_and_are_refused_only_when_strict():
    x, z = labelled(100, 3, 4)
    with pytest.warns(UserWarning, match="leaves a constant"):
        fc.sklearn.Leace().fit(x, z)
    with pytest.warns(UserWarning):
        fc.sklearn.AlfQleace().fit(x, z)
    for name in KINDS:
        if name in LABEL_FREE:
            with pytest.raises(ValueError, match="strict=False"), pytest.warns(UserWarning):
                KINDS[name][0](strict=True).fit(x, z)
        else:
            with pytest.raises(ValueError, match="strict=False"):
                KINDS[name][0](strict=True).fit(x, z)
        KINDS[name][0](strict=True).fit(*labelled(400, 8, 3)) if name != "AlfQleace" else None


@pytest.mark.parametrize("shrinkage", ["oas", "ledoit_wolf", "random_matrix"])
def test_shrinkage_is_chosen_by_name(shrinkage):
    x, z = labelled(300)
    function = {"oas": fc.oas, "ledoit_wolf": fc.ledoit_wolf, "random_matrix": fc.random_matrix_shrinkage}[shrinkage]
    moments = Moments.of_groups(x, z, fourth=True)
    assert_close(fc.sklearn.Leace(shrinkage=shrinkage).fit(x, z).transform(x), fc.leace(moments, shrinkage=function)(x))


def written_by_another(x, z, path):
    fc.sklearn.Leace().fit(x, z).save(path / "one")
    fc.sklearn.Qleace.load(path / "one")


def an_eraser_alone(x, z, path):
    fc.save(fc.leace(Moments.of_groups(x, z)), path / "one")
    fc.sklearn.Leace.load(path / "one")


@pytest.mark.parametrize("mistake, way_out", [
    (lambda x, z, _: fc.sklearn.Leace(shrinkage="much").fit(x, z), "random_matrix"),
    (lambda x, z, _: fc.sklearn.Leace().fit(x[:5], z[:5]).partial_fit(x, z), "begin with `partial_fit`"),
    (lambda x, z, _: fc.sklearn.Leace().fit(x, z).merge(fc.sklearn.Qleace().fit(x, z)), "merges with its like"),
    (lambda x, z, _: fc.sklearn.Leace().fit(x, 0 * z), "one class only"),
    (lambda x, z, _: fc.sklearn.Leace().fit(x, x[:, 0]), "regression target"),
    (lambda x, z, _: fc.sklearn.Leace().fit(x, z, sample_weight=0.0 * z), "non-zero"),
    (lambda x, z, _: fc.sklearn.Leace().partial_fit(x[:1], z[:1]).transform(x), "one class only"),
    (lambda x, z, _: fc.sklearn.Qleace().fit(x, z).transform(x), "class of every row"),
    (lambda x, z, _: fc.sklearn.OracleLeace().fit(x, z).transform(x, z + 7), "fitted on"),
    (lambda x, z, path: fc.sklearn.Leace.load(path / "none"), "no file"),
    (written_by_another, "not a Qleace"), (an_eraser_alone, "no estimator"),
])  # fmt: skip
def test_a_mistake_is_refused_with_the_way_out(mistake, way_out, tmp_path):
    x, z = labelled(200)
    with pytest.raises(ValueError, match=way_out):
        mistake(x, z, tmp_path)
