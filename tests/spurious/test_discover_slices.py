"""Slices with many errors: each method against a planted slice, the exact one against brute force and its package."""

from itertools import combinations, product

import numpy as np
import pytest
import torch

import firstcue as fc
from firstcue.spurious.slices import enrichment

RNG = np.random.default_rng


def planted_slice(seed=0, n=2000):
    """Embeddings with a clump of 8 % of the rows, in which errors are four times as common."""
    rng = RNG(seed)
    y = rng.integers(0, 2, n)
    inside = rng.random(n) < 0.08
    z = rng.normal(size=(n, 6))
    z[inside, :2] = [4.0, 4.0] + 0.5 * z[inside, :2]
    z[:, 2] += 3 * y
    wrong = rng.random(n) < np.where(inside, 0.48, 0.12)
    decision = np.where(wrong, 1 - y, y)
    table = {"camera": np.where(inside, "old", rng.choice(["new", "other"], n)), "noise": rng.choice(list("abc"), n)}
    return z, y, 3.0 * np.eye(2)[decision], inside, wrong, table


def overlap(rows, truth):
    return (rows & truth).sum() / (rows | truth).sum()


@pytest.mark.parametrize("seed", range(3))
def test_a_slice_with_four_times_the_errors_is_ranked_first_by_every_method(seed):
    z, y, logits, inside, wrong, table = planted_slice(seed)
    first = fc.slice_line(table, wrong)[0]
    assert first.name == "camera = old"
    assert first.size == inside.sum() and first.error == pytest.approx(wrong[inside].mean())
    lit = fc.spotlight(z, wrong.astype(float), seed=seed)[0]
    assert inside[lit.rows].mean() > 0.5 and lit.error > 2 * lit.overall
    near = fc.domino_slices(z, y, logits, seed=seed)[0]
    assert inside[near.rows].mean() > 0.5 and near.error > 2 * near.overall
    assert enrichment(lit.rows, table)[0][:2] == ("camera", "old")


def brute(table, errors, depth, weight, support):
    """Every conjunction on different columns, scored one by one."""
    n, mean, found = len(errors), errors.mean(), []
    for d in range(1, depth + 1):
        for columns in combinations(table, d):
            for values in product(*(np.unique(table[c]) for c in columns)):
                rows = np.all([table[c] == v for c, v in zip(columns, values, strict=True)], axis=0)
                if rows.sum() >= support:
                    score = weight * (errors[rows].mean() / mean - 1) - (1 - weight) * (n / rows.sum() - 1)
                    if score > 0:
                        found.append(score)
    return sorted(found, reverse=True)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("weight", [0.6, 0.95])
def test_pruned_search_equals_brute_force(seed, weight):
    rng = RNG(seed)
    table = {f"c{j}": rng.integers(0, 2 + j % 3, 300).astype(str) for j in range(6)}
    errors = rng.random(300) ** 3 * (1 + 3 * (table["c1"] == "1") * (table["c4"] == "0"))
    expected = brute(table, errors, 3, weight, 10)
    found = [s.score for s in fc.slice_line(table, errors, most=7, depth=3, weight=weight, support=10)]
    assert found == pytest.approx(expected[:7])


def test_the_package_finds_the_same_slices():
    sliceline = pytest.importorskip("sliceline.slicefinder")
    _, _, _, _, wrong, table = planted_slice(4)
    finder = sliceline.Slicefinder(alpha=0.95, k=3, max_l=2, min_sup=32, verbose=False)
    columns = np.stack(list(table.values()), axis=1).astype(object)
    finder.fit(columns, wrong.astype(float))
    theirs = sorted((s["slice_score"] for s in finder.top_slices_statistics_), reverse=True)
    ours = [s.score for s in fc.slice_line(table, wrong, most=3, support=32)]
    assert ours == pytest.approx(theirs[: len(ours)], rel=1e-6)


def test_numbers_are_cut_in_four_and_small_slices_left_out():
    size = np.arange(400.0)
    (first, *_) = fc.slice_line({"size": size}, size < 100)
    assert first.name == "size = (-inf, 99.8]"
    assert fc.slice_line({"rare": np.arange(400) < 5}, np.arange(400) < 5) == ()


def test_enrichment_names_what_a_slice_has_more_of_and_nothing_by_chance():
    rng = RNG(0)
    rows = rng.random(500) < 0.2
    table = {"noise": rng.choice(list("abcd"), 500), "place": np.where(rows, "sea", rng.choice(["sea", "land"], 500))}
    (only,) = enrichment(rows, table)
    assert only[:2] == ("place", "sea")
    assert only.share == 1.0 and 1.2 < only.lift < 2


def test_without_errors_there_are_no_slices():
    z, y, _, _, _, table = planted_slice(n=200)
    assert fc.slice_line(table, np.zeros(200)) == ()
    assert fc.domino_slices(z, y, 3.0 * np.eye(2)[y]) == ()
    assert fc.spotlight(z, np.zeros(200)) == ()


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_embeddings_far_from_nought_and_wider_than_long_are_taken(dtype):
    z, y, logits, _, wrong, _ = planted_slice(n=120)
    wide = np.hstack([z, np.ones((120, 1)), 0.01 * RNG(1).normal(size=(120, 200))]) + 50
    for found in (
        fc.domino_slices(wide.astype(dtype), y, logits),
        fc.spotlight(wide.astype(dtype), wrong.astype(float)),
    ):
        assert all(np.isfinite(s.error) and s.size > 0 for s in found)


def test_a_slice_in_the_embedding_is_explained_and_shows_rows():
    z, y, logits, inside, _, table = planted_slice(1)
    found = fc.discover(torch.from_numpy(z), None, y, table, outputs=logits)
    named = [s for s in found.slices if "camera = old" in s.name]
    assert {s.method for s in named} >= {"SliceLine", "Spotlight"}
    near = next(s for s in named if s.method == "Spotlight")
    assert near.rows.shape == (2000,)
    assert inside[list(near.typical)].mean() > 0.5
    assert not set(near.typical) & set(near.atypical)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: fc.slice_line({"a": [1, 2]}, [0.5, -1]), "none below 0"),
        (lambda: fc.slice_line({"a": [1, 2]}, [0, 1], weight=0), r"in \(0, 1\]"),
        (lambda: fc.slice_line({"a": [1, 2, 3]}, [0, 1]), "another number of rows"),
        (lambda: fc.spotlight(np.zeros((3, 2)), [1.0, 0.0]), "`embeddings` has 3 rows"),
        (lambda: fc.domino_slices(np.full((2, 2), np.nan), [0, 1], np.eye(2)), "NaN or infinite"),
    ],
)
def test_mistakes_in_slices_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
