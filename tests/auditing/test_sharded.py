"""An audit of shards says what an audit of the rows says, and which number comes from which rows."""

import json

import numpy as np
import pytest
import torch

from firstcue.auditing.embeddings import audit_embeddings
from firstcue.auditing.sharded import audit_shards, draw
from firstcue.cli import main
from firstcue.moments import Moments
from firstcue.probes import linear_probe
from firstcue.shards import find_shards


def rows(n=3000):
    """A class and a cue that goes with it, both linear in the embeddings; the head reads both."""
    generator = np.random.default_rng(0)
    y = generator.integers(0, 2, n)
    sex = np.where(generator.random(n) < 0.85, y, 1 - y)
    x = generator.standard_normal((n, 6)).astype(np.float32)
    x[:, 0] += 2.5 * y
    x[:, 1] += 2.5 * sex
    head = np.zeros((6, 2), np.float32)
    head[0, 1], head[1, 1] = 1.0, 1.5
    outputs = x @ head - np.float32([0, 3.1])
    return x, y, sex, outputs.astype(np.float32)


@pytest.fixture(scope="module")
def pattern(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    for i, part in enumerate(np.array_split(np.arange(3000), [10, 1300, 1301])):
        for name, values in zip(("", ".y", ".sex", ".outputs"), rows(), strict=True):
            np.save(folder / f"{i}{name}.npy", values[part])
    return str(folder / "*.npy")


@pytest.fixture(scope="module")
def report(pattern):
    return audit_shards(pattern, "y", ("sex",), "outputs", rows=1500, remedies=(), backend="serial")


def finding(report, name):
    return next(f for f in report.findings if f.id == name)


def test_the_planted_shortcut_is_found(report):
    assert report.verdict == "shortcut"
    assert finding(report, "reliance/sex/embeddings/erasure").status == "relies"


def test_association_is_that_of_all_rows(report):
    _, y, sex, _ = rows()
    found = finding(report, "reliance/sex/embeddings/erasure").associated
    share = np.array([[np.mean(sex[y == k] == a) for a in (0, 1)] for k in (0, 1)])
    assert found.n == 3000
    assert found.value == pytest.approx(np.abs(share - share.mean(axis=0)).sum() / 4)


def test_the_probe_of_all_rows_is_the_one_that_the_rows_give(report, pattern):
    x, y, _, _ = rows()
    found = finding(report, "decodability/class/embeddings/linear-all-rows")
    sample = draw(find_shards(pattern), ("y", "sex", "outputs"), 3000, 1500, seed=0)
    answers = linear_probe(Moments.of_groups(x, y, precision="float64"), balanced=True)(torch.from_numpy(sample["x"]))
    right = answers.argmax(dim=1).numpy() == sample["y"]
    assert found.details["rows_fitted"] == 3000
    assert found.value == pytest.approx(np.mean([right[sample["y"] == k].mean() for k in (0, 1)]))
    assert found.ci_low < found.value < found.ci_high
    assert 0 < found.details["share_of_variance_between"] < 1


def test_richness_of_all_rows_stands_in_the_report(report):
    from firstcue.richness.low_rank import low_rank_measure

    x, _, _, outputs = rows()
    assert finding(report, "richness/class/embeddings/dlr-all-rows").value == pytest.approx(
        low_rank_measure(x, outputs).dlr, abs=1e-3
    )


def test_the_report_says_which_rows_each_number_comes_from(report):
    assert "3,000 rows in shards" in report.notes[0]
    assert "On a random sample of 1,4" in report.notes[0] or "On a random sample of 1,5" in report.notes[0]


def test_a_sample_draws_every_row_alike_and_all_if_there_are_few(pattern):
    shards = find_shards(pattern)
    whole = draw(shards, ("y",), 3000, 5000, seed=0)
    np.testing.assert_array_equal(whole["x"], rows()[0])
    np.testing.assert_array_equal(whole["y"], rows()[1])
    sizes = [len(draw(shards, (), 3000, 300, seed=s)["x"]) for s in range(20)]
    assert 270 < np.mean(sizes) < 330


def test_the_command_audits_shards_and_continues_from_its_store(pattern, tmp_path, capsys, monkeypatch):
    quick = lambda *given, **named: audit_embeddings(*given, **{**named, "remedies": ()})  # noqa: E731
    monkeypatch.setattr("firstcue.auditing.sharded.audit_embeddings", quick)
    words = ["audit-embeddings", pattern, "--attribute", "sex", "--outputs", "outputs", "--rows", "1500", "--json"]
    words += ["--backend", "serial", "--store", str(tmp_path / "store")]
    assert main(words) == 0
    assert json.loads(capsys.readouterr().out)["verdict"] == "shortcut"
    assert len(list((tmp_path / "store" / "moments").iterdir())) == 4


def test_what_the_command_cannot_mean_is_wrong_usage(pattern, tmp_path, capsys):
    np.save(tmp_path / "x.npy", rows()[0])
    assert main(["audit-embeddings", str(tmp_path / "x.npy")]) == 2
    assert "needs its labels" in capsys.readouterr().err
    assert main(["audit-embeddings", pattern, "--held-out", "rows.npz"]) == 2
    assert "--held-out" in capsys.readouterr().err
    assert main(["audit-embeddings", str(tmp_path / "none" / "*.npy"), "--backend", "serial"]) == 3
    assert "no file matches" in capsys.readouterr().err
