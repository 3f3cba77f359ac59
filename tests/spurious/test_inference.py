"""Groups guessed from early outputs are those that were planted, and the guesses obey their definitions."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from firstcue.spurious.boolean import boolean_data
from firstcue.spurious.functions import parity
from firstcue.spurious.inference import (
    _two_means,
    crossed,
    eiil_environments,
    eiil_slopes,
    error_set,
    george_clusters,
    has_umap,
    minority,
    silhouette,
    spare_clusters,
)


def reference(seed, n=2000):
    """Outputs that follow the shortcut only, classes, and who goes against it."""
    batch = boolean_data(parity(3), parity(1), 0.9, n, seed=seed)
    noise = 0.2 * torch.randn(n, generator=torch.Generator().manual_seed(seed))
    return 3.0 * (2 * batch.attribute - 1) + noise, batch.y, batch.y != batch.attribute


def f1(guess, truth):
    return 2 * int((guess & truth).sum()) / int(guess.sum() + truth.sum())


METHODS = {
    "error set": error_set,
    "spare": lambda outputs, y: minority(spare_clusters(outputs, y), y),
    "eiil": lambda outputs, y: minority(eiil_environments(outputs, y, steps=500), y),
    "george": lambda outputs, y: minority(george_clusters(outputs, y, clusters=2, projection="pca"), y),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("seed", range(3))
def test_a_reference_that_knows_only_the_shortcut_gives_the_groups_away(method, seed):
    output, y, against = reference(seed)
    assert f1(METHODS[method](output, y), against) >= 0.95


@pytest.mark.parametrize("method", ["spare", "eiil"])
def test_a_reference_that_knows_nothing_tells_nothing(method):
    _, y, against = reference(0)
    noise = torch.randn(len(y), generator=torch.Generator().manual_seed(5))
    assert f1(METHODS[method](noise, y), against) < 0.19 + 0.1  # of the guess that every row is one: 2 m / (1 + m)


@pytest.mark.parametrize("classes", [2, 5])
def test_the_derivative_in_the_scale_is_that_of_autograd(classes):
    generator = torch.Generator().manual_seed(classes)
    logits = 3 * torch.randn(40, classes, generator=generator, dtype=torch.float64)
    y = torch.randint(0, classes, (40,), generator=generator)
    scale = torch.ones((), dtype=torch.float64, requires_grad=True)
    slow = [
        torch.autograd.grad(torch.nn.functional.cross_entropy(scale * f[None], t[None]), scale)[0]
        for f, t in zip(logits, y, strict=True)
    ]
    torch.testing.assert_close(eiil_slopes(logits, y), torch.stack(slow), atol=1e-6, rtol=1e-6)


def test_environments_are_further_from_invariant_than_random_ones():
    output, y, _ = reference(3)
    slopes = eiil_slopes(output, y)

    def apart(e):
        return sum(float(slopes[e == k].sum()) ** 2 for k in (0, 1))

    found = apart(eiil_environments(output, y, steps=500))
    generator = torch.Generator().manual_seed(0)
    assert found > max(apart(torch.randint(0, 2, (len(y),), generator=generator)) for _ in range(50))


@given(st.lists(st.floats(-100, 100), min_size=2, max_size=12))
@settings(max_examples=60, deadline=None)
def test_two_means_leave_the_least_spread(values):
    x = np.array(values)

    def spread(side):
        return sum(float(((p - p.mean()) ** 2).sum()) for p in (x[side], x[~side]) if len(p))

    assert spread(_two_means(x) == 1) <= min(spread(x > v) for v in x) + 1e-6 * (1 + float((x**2).sum()))


def test_clusters_never_mix_classes_and_the_largest_of_a_class_comes_first():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(300, 4, generator=generator)
    y = torch.randint(0, 4, (300,), generator=generator)
    for ids in (spare_clusters(logits, y, clusters=3), george_clusters(logits, y, clusters=3, projection="pca")):
        assert len(torch.stack([ids, y], 1).unique(dim=0)) == len(ids.unique()) == int(ids.max()) + 1
        for label in range(4):
            counts = ids[y == label].unique(return_counts=True)[1]
            assert counts[0] == counts.max()


def test_the_silhouette_finds_how_many_clusters_there_are():
    generator = torch.Generator().manual_seed(1)
    places = torch.tensor([-8.0, 0.0, 8.0])[torch.arange(300) % 3] + 0.2 * torch.randn(300, generator=generator)
    y = torch.zeros(300, dtype=torch.int64)
    assert len(spare_clusters(places, y, clusters=None).unique()) == 3
    assert silhouette(places[:, None].numpy(), np.arange(300) % 3) > silhouette(
        places[:, None].numpy(), np.arange(300) % 2
    )
    assert silhouette(np.zeros((4, 1)), np.zeros(4, dtype=int)) == -1


def test_what_is_the_same_everywhere_is_one_cluster_or_environment():
    y = torch.tensor([0, 1, 0, 1, 1])
    assert spare_clusters(torch.zeros(5), y).tolist() == y.tolist()
    assert george_clusters(torch.zeros(5, 3), y, projection="pca").tolist() == y.tolist()
    assert eiil_environments(torch.zeros(5), y).tolist() == [0] * 5
    assert not minority(torch.zeros(5, dtype=torch.int64), y).any()


def test_a_missing_class_and_few_rows_are_clustered_too():
    ids = spare_clusters([[0.0, 1.0, 2.0], [0.0, 5.0, 1.0], [1.0, 0.0, 0.0]], [2, 2, 0])
    assert ids.tolist() == [1, 2, 0] or ids.tolist() == [2, 1, 0]


@pytest.mark.parametrize("make", [torch.float16, torch.float32, torch.float64])
def test_every_precision_and_form_of_outputs_gives_the_same_groups(make):
    output, y, _ = reference(0, 200)
    two = torch.stack([torch.zeros(200), output], dim=1).to(make)
    for method in METHODS.values():
        assert torch.equal(
            method(two, y), method(two[:, 1:].float().numpy() if method is not METHODS["george"] else two.float(), y)
        )


def test_a_seed_gives_one_answer_and_leaves_the_random_state():
    output, y, _ = reference(0, 300)
    state, of_numpy = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    first = [method(output, y) for method in METHODS.values()]
    assert torch.equal(torch.get_rng_state(), state)
    assert np.array_equal(np.random.get_state()[1], of_numpy)  # noqa: NPY002
    assert all(torch.equal(a, method(output, y)) for a, method in zip(first, METHODS.values(), strict=True))


def test_crossing_numbers_groups_without_gaps():
    assert crossed(["a", "b", "b", "a"], [0, 0, 2, 2]).tolist() == [0, 1, 3, 2]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: error_set(torch.zeros(3, 2), torch.zeros(4).long()), "3"),
        (
            lambda: error_set(torch.zeros(3, 2), torch.tensor([0, 1, 2])),
            "ids from 0 to 2, but `outputs` are of 2 classes",
        ),
        (lambda: error_set(torch.full((2, 2), torch.nan), [0, 1]), "NaN or infinite"),
        (lambda: spare_clusters(torch.zeros(2, 2, 2), [0, 1]), r"\(n, K\) logits are needed"),
        (lambda: spare_clusters(torch.zeros(2), [0, 1], clusters=0), "`clusters` is at least 1"),
    ],
    ids=["lengths", "ids", "nan", "shape", "clusters"],
)
def test_what_cannot_be_grouped_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.skipif(has_umap(), reason="umap-learn is installed")
def test_without_umap_the_default_falls_back_to_principal_components_and_umap_says_what_to_install():
    x, y = torch.randn(60, 5, generator=torch.Generator().manual_seed(0)), torch.arange(60) % 2
    assert torch.equal(george_clusters(x, y), george_clusters(x, y, projection="pca"))
    with pytest.raises(ValueError, match="pip install umap-learn"):
        george_clusters(x, y, projection="umap")


def test_umap_where_it_is_installed_finds_the_groups_of_features_and_says_the_same_again():
    pytest.importorskip("umap")
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 200)
    cue = np.where(rng.random(200) < 0.8, y, 1 - y)
    x = rng.normal(size=(200, 6))
    x[:, :2] += 6.0 * cue[:, None]
    found = george_clusters(x, y, clusters=2, projection="umap")
    assert torch.equal(found, george_clusters(x, y, clusters=2))  # the default, once more
    assert float((minority(found, y).numpy() == (cue != y)).mean()) > 0.95
    with pytest.raises(ValueError, match="more than 11 rows"):
        george_clusters(x[:8], y[:8], projection="umap")
    assert torch.equal(george_clusters(x[:8], y[:8]), george_clusters(x[:8], y[:8], projection="pca"))
