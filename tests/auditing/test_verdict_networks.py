"""A sample of `benchmarks/verdict.py`: small networks under real cues, whose reliance is measured."""

import importlib.util
import sys
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "verdict.py"


@pytest.fixture(scope="module")
def bench():
    spec = importlib.util.spec_from_file_location("verdict_benchmark", BENCHMARK)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def test_cases_cover_every_cue_kind_and_strength(bench):
    settings = list(bench.settings(84))

    assert {(s.kind, s.bed, s.hard) for s in settings} == {
        (kind, bed, hard) for kind in bench.KINDS for bed in bench.beds() for hard in (False, True)
    }
    assert {s.strength for s in settings if s.kind == "planted"} == set(bench.STRENGTHS)
    assert len({(s.kind, s.seed) for s in settings}) == len(settings)


@pytest.mark.parametrize("bed", ["dominoes", "patch", "colours", "stripes", "brightness", "columns", "tokens"])
@pytest.mark.parametrize("hard", [False, True])
def test_an_editor_that_sets_the_value_a_row_has_changes_nothing(bench, bed, hard):
    cores = bench.cores_of(bed, hard)
    rows = bench.beds()[bed][hard](cores.rows(slice(0, 40)), 0.8, 0)
    same = [rows.edit(rows.x.clone(), value) for value in (0, 1)]

    if bed in ("dominoes", "columns"):  # another example of the same value
        left = slice(14, None) if bed == "dominoes" else slice(0, 16)
        where = (slice(None), slice(None), left) if bed == "dominoes" else (slice(None), left)
        assert all((s[where] == rows.x[where]).all() for s in same)
    else:
        for value in (0, 1):
            mine = rows.attribute == value
            assert (same[value][mine] - rows.x[mine]).abs().max() < 1e-6


@pytest.mark.science
def test_no_sampled_network_that_ignores_its_cue_is_accused_and_severe_reliance_is_found(bench):
    rows = [bench.judged(s) for s in bench.settings(14) if s.seed in (2, 3, 7, 12)]

    for row in rows:
        if bench.truth(row) != "relies":
            assert row["edit"] != "shortcut", row
            assert row["erasure"] != "shortcut", row
        if row["reliance"] > 0.25:
            assert row["edit"] == "shortcut", row
