"""Classifiers of scikit-learn are audited as they are: the module answers what the estimator answers, in every case."""

import numpy as np
import pytest
import torch
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.feature_selection import SelectKBest
from sklearn.linear_model import LinearRegression, LogisticRegression, Perceptron, RidgeClassifier
from sklearn.model_selection import GridSearchCV
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures, StandardScaler
from sklearn.svm import SVC, LinearSVC
from sklearn.tree import DecisionTreeClassifier

import firstcue as fc
from cli_cases import only_object
from firstcue.cli import main
from firstcue.integrations.estimators import LinearEstimated, ScoredEstimated, estimator_module
from firstcue.layers import find_head, predict

LINEAR = {
    "logistic regression": LogisticRegression(),
    "a linear SVM": LinearSVC(),
    "a linear SVM, sparse": LinearSVC(penalty="l1"),
    "ridge": RidgeClassifier(),
    "a perceptron": Perceptron(),
    "a pipeline": make_pipeline(StandardScaler(), PolynomialFeatures(2), LogisticRegression()),
    "a pipeline within one": make_pipeline(StandardScaler(), make_pipeline(SelectKBest(k=3), LinearSVC())),
    "a search": GridSearchCV(LogisticRegression(), {"C": [0.1, 1.0]}, cv=2),
}
OTHERS = {
    "an SVM without probabilities": SVC(),
    "an SVM of pairs": SVC(decision_function_shape="ovo"),
    "a linear SVM of pairs": SVC(kernel="linear", decision_function_shape="ovo"),
    "a forest": RandomForestClassifier(n_estimators=5, random_state=0),
    "boosting": HistGradientBoostingClassifier(max_iter=5),
    "a tree": DecisionTreeClassifier(max_depth=3, random_state=0),
    "neighbours": KNeighborsClassifier(2),
    "naive Bayes": GaussianNB(),
    "a pipeline": make_pipeline(StandardScaler(), SVC()),
}


def rows(classes: int, n: int = 240) -> tuple[np.ndarray, np.ndarray]:
    """Overlapping classes of unequal size, named so that their order is not that of their size."""
    rng = np.random.default_rng(0)
    y = np.minimum(rng.geometric(0.5, n) - 1, classes - 1)
    x = rng.normal(size=(n, 5)) + 0.8 * rng.normal(size=(classes, 5))[y]
    return 100 + 10 * x, np.array(["pear", "apple", "fig"])[y]


def decided(model: torch.nn.Module, x: np.ndarray) -> np.ndarray:
    return np.asarray(model.classes)[predict(model, x).argmax(dim=1).numpy()]


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("name", LINEAR)
def test_a_linear_classifier_has_a_head_and_decides_as_it_does(name, classes):
    x, y = rows(classes)
    fitted = LINEAR[name].fit(x, y)
    if "sparse" in name:
        fitted.sparsify()
    model = estimator_module(fitted)

    assert isinstance(model, LinearEstimated)
    assert find_head(model, x).name == "head"
    assert (decided(model, x) == fitted.predict(x)).all()
    scores = fitted.decision_function(x)
    found = model(torch.from_numpy(x)).detach().numpy()
    assert np.allclose(found if classes > 2 else found[:, 1] - found[:, 0], scores, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("name", OTHERS)
def test_every_other_classifier_decides_as_it_does(name, classes):
    x, y = rows(classes)
    fitted = OTHERS[name].fit(x, y)
    model = estimator_module(fitted)

    if name != "a linear SVM of pairs" or classes > 2:
        assert isinstance(model, ScoredEstimated)
    assert (decided(model, x) == fitted.predict(x)).all()
    assert (decided(model, x.astype(np.float32)) == fitted.predict(x.astype(np.float32))).all()


class OnlyPredicts:
    """What a home-made classifier may be content with."""

    classes_ = np.array([3, 7])

    def fit(self, x, y):
        return self

    def get_params(self, deep=True):
        return {}

    def predict(self, x):
        return np.where(x[:, 0] > 100, 7, 3)


def test_decisions_alone_are_enough():
    x, _ = rows(2)
    assert (decided(estimator_module(OnlyPredicts()), x).astype(int) == OnlyPredicts().predict(x)).all()


class Lies(LogisticRegression):
    """Linear by its coefficients, not by its decisions."""

    def decision_function(self, x):
        return np.tanh(super().decision_function(x)) ** 3 + 0.5


def test_a_linear_head_is_verified_and_not_known_by_name():
    x, y = rows(2)
    model = estimator_module(Lies(max_iter=50).fit(x, y))
    assert isinstance(model, ScoredEstimated)


@pytest.mark.parametrize(
    ("made", "phrase"),
    [
        (lambda x, y: LogisticRegression(), "is not fitted; call its fit"),
        (lambda x, y: make_pipeline(StandardScaler(), SVC()), "is not fitted"),
        (lambda x, y: LinearRegression().fit(x, x[:, 0]), "is no classifier"),
        (lambda x, y: DecisionTreeClassifier().fit(x, np.stack([y, y], axis=1)), "gives 2 labels per row"),
        (lambda x, y: "a model", "`model` is a str"),
    ],
)
def test_what_cannot_be_audited_is_refused_with_the_way_out(made, phrase):
    x, y = rows(2)
    with pytest.raises(ValueError, match=phrase):
        fc.audit(made(x, y), (x, y))


def test_rows_of_another_width_are_refused_by_number():
    x, y = rows(2)
    fitted = SVC().fit(x, y)
    with pytest.raises(ValueError, match="fitted on 5 columns"):
        fc.audit(fitted, (x[:, :4], y))


def leaning(n: int, agree: float, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A weak core in the first column, a strong cue in the second, which agrees with the label in a fraction of rows."""
    rng = np.random.default_rng(seed)
    y = np.arange(n) % 2
    cue = np.where(rng.random(n) < agree, y, 1 - y)
    x = np.stack([rng.normal(2 * y - 1, 1.0), cue.astype(float), *rng.normal(size=(10, n))], axis=1)
    return x, y + 1, cue


TRAIN, HELD = leaning(600, 0.9, 0), leaning(400, 0.5, 1)


def test_the_cue_of_a_linear_classifier_is_erased_and_repaired():
    fitted = make_pipeline(StandardScaler(), LogisticRegression()).fit(*TRAIN[:2])
    before = {key: value.copy() for key, value in vars(fitted[-1]).items() if isinstance(value, np.ndarray)}
    report = fc.audit(fitted, TRAIN, held_out=HELD, remedies=(), effort="fast")
    fixed = fc.fix(fitted, TRAIN, "erase", HELD)

    assert report.verdict == "shortcut" and report.findings[0].closed.value > 0.5
    assert fixed.after.worst_group.accuracy > fixed.before.worst_group.accuracy + 0.1
    assert all(np.array_equal(getattr(fitted[-1], key), value) for key, value in before.items())


def test_the_cue_of_any_other_classifier_is_edited():
    def edit(x, value):
        edited = x.clone()
        edited[:, 1] = value
        return edited

    forest = RandomForestClassifier(n_estimators=20, random_state=0).fit(*TRAIN[:2])
    report = fc.audit(forest, TRAIN, held_out=HELD, edit=edit)
    assert report.verdict == "shortcut" and report.findings[0].id.endswith("/edit")
    with pytest.raises(ValueError, match=r"A RandomForestClassifier is judged by setting the cue"):
        fc.audit(forest, TRAIN, held_out=HELD)
    with pytest.raises(ValueError, match="cannot be repaired here"):
        fc.fix(forest, TRAIN, "erase", HELD)


def test_labels_are_those_of_the_fit_and_not_places():
    """Labels 1 and 2 of a classifier of 1, 2 and 3 must not be read as its second and third output."""
    x, y, cue = TRAIN
    three = np.concatenate([y, np.full(40, 3)])
    fitted = LogisticRegression().fit(np.concatenate([x, np.full((40, 12), 9.0)]), three)
    fixed = fc.fix(fitted, (x, y, cue), "erase", (x, y, cue))
    assert fixed.before.overall.accuracy == pytest.approx(fitted.score(x, y), abs=0.05)
    assert {row.y for row in fixed.before.by_group} == {"1", "2"}
    with pytest.raises(
        ValueError, match="the data has the label '4', but the LogisticRegression was fitted on 1, 2, 3"
    ):
        fc.audit(fitted, (x, y + 2, cue))


def test_the_command_line_takes_a_factory_of_an_estimator(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "fitted_models.py").write_text(
        "import numpy as np\nfrom sklearn.linear_model import LinearRegression, LogisticRegression\n\n"
        "def made():\n    data = np.load('train.npz')\n    return LogisticRegression().fit(data['x'], data['y'])\n\n"
        "def regressor():\n    return LinearRegression().fit([[0.0], [1.0]], [0.0, 1.0])\n"
    )
    for name, (x, y, cue) in (("train", TRAIN), ("held", HELD)):
        np.savez(tmp_path / f"{name}.npz", x=x, y=y, cue=cue)
    words = ["fitted_models:made", "train.npz", "--attribute", "cue", "--held-out", "held.npz"]
    assert main(["fix", "erase", *words, "--out", "once"]) == 0
    capsys.readouterr()
    assert main(["fix", "last-layer", "once", *words[1:], "--out", "twice", "--json"]) == 0
    assert only_object(capsys.readouterr().out)["remedy"] == "last-layer"
    assert main(["audit", "fitted_models:regressor", "train.npz"]) == 3
    assert "is no classifier" in capsys.readouterr().err
