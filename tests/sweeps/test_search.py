"""A search finds good settings, is the same whenever it is run, and continues from what the store holds."""

import pytest

import firstcue as fc
from firstcue.sweeps import Store, Trial
from firstcue.sweeps.plan import Plan, read_plan
from firstcue.sweeps.search import best, chosen_so_far, measured, rounds, run_search

pytest.importorskip("optuna")

KNOWN = {"rate": 0.1, "width": 8, "net": "mlp"}
SEARCH = {
    "measure": "score",
    "count": 24,
    "seed": 3,
    "ranges": {
        "rate": {"low": 0.001, "high": 1.0, "log": True},
        "width": {"low": 1, "high": 9},
        "net": ["mlp", "cnn"],
    },
}


def plan(**more):
    return Plan(experiment="peak", seeds=2, search={**SEARCH, **more})


def peak(trial: Trial) -> list[dict]:
    """Highest at rate 0.1, width 5, cnn."""
    import math

    s = trial.settings
    score = -abs(math.log10(s["rate"]) + 1) - abs(s["width"] - 5) / 9 + (s["net"] == "cnn")
    return [{"score": score + trial.seed / 100}, {"score": score - trial.seed / 100}]


def searched(plan, folder, run=peak, order=1):
    store = Store(folder)

    def run_round(so_far, trials):
        fc.sweep(trials[::order], run, store, "serial")
        return {t.key: store.read(t) or store.read(t, failed=True) for t in trials}

    return run_search(rounds(plan, KNOWN), run_round)


def test_a_search_ends_near_the_best_and_beats_the_draws_it_began_with(tmp_path):
    points = searched(plan(count=40), tmp_path)
    winner = best(points, plan().search)
    assert len(points) == 40
    assert winner.settings["net"] == "cnn"
    assert winner.value > 0.75
    assert winner.value > max(p.value for p in points[:10])


def test_the_same_seed_chooses_the_same_points_in_whatever_order_results_arrive(tmp_path):
    one, two = searched(plan(), tmp_path / "a"), searched(plan(), tmp_path / "b", order=-1)
    assert one == two
    assert one != searched(plan(seed=4), tmp_path / "c")


def test_a_search_that_was_interrupted_is_told_what_the_store_holds(tmp_path):
    calls = []

    def counted(trial):
        calls.append(trial.key)
        if len(calls) == 19:
            raise KeyboardInterrupt
        return peak(trial)

    with pytest.raises(KeyboardInterrupt):
        searched(plan(), tmp_path / "a", counted)
    done, waiting, chosen = chosen_so_far(rounds(plan(), KNOWN), Store(tmp_path / "a"))
    assert len(done) == 18
    assert chosen == 12
    assert calls[18] in {trial.key for trial in waiting}
    assert searched(plan(), tmp_path / "a", counted) == searched(plan(), tmp_path / "b")
    assert len(calls) == 24 * 2 + 1  # each once, and the one that was in flight twice
    assert chosen_so_far(rounds(plan(), KNOWN), Store(tmp_path / "a"))[1] == []


@pytest.mark.filterwarnings("ignore:.*trials failed")
def test_a_point_that_fails_has_no_value_and_the_search_goes_on(tmp_path):
    def fussy(trial):
        if trial.settings["net"] == "mlp":
            raise RuntimeError("no")
        return peak(trial)

    points = searched(plan(), tmp_path, fussy)
    assert len(points) == 24
    assert all((point.value is None) == (point.settings["net"] == "mlp") for point in points)


def test_minimising_finds_the_lowest(tmp_path):
    points = searched(plan(goal="minimise"), tmp_path)
    assert best(points, plan(goal="minimise").search).value == min(point.value for point in points)


def test_a_measure_that_no_row_has_or_that_is_text_is_refused():
    from firstcue.sweeps.store import Result

    trial = Trial("peak", {}).to_dict()
    with pytest.raises(ValueError, match="'score', which no row has; rows have loss"):
        measured([Result(trial, [{"loss": 1.0}], 0.1)], "score")
    with pytest.raises(ValueError, match="holds text such as 'high'"):
        measured([Result(trial, [{"score": "high"}], 0.1)], "score")
    assert measured([Result(trial, [{"score": None}], 0.1)], "score") is None


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[search]\ncount = 3\n[search.ranges]\nrate = [1, 2]", "search.measure: Field required"),
        ('[search]\nmeasure = "a"\ncount = 3\n[search.ranges]\n', "search.ranges"),
        (
            '[search]\nmeasure = "a"\ncount = 3\nranges = {rate = [1]}\n[grid]\nnet = ["a"]',
            "leave out .grid. and .random.",
        ),
        (
            '[search]\nmeasure = "a"\ncount = 3\nranges = {rate = [1]}\n[settings]\nrate = 1',
            "'rate' is given in two of",
        ),
        ('[search]\nmeasure = "a"\ncount = 3\ngoal = "up"\nranges = {rate = [1]}', "search.goal"),
    ],
)
def test_what_a_search_cannot_mean_is_refused(tmp_path, text, complaint):
    (tmp_path / "s.toml").write_text(f'experiment = "peak"\n{text}')
    with pytest.raises(ValueError, match=complaint):
        read_plan(tmp_path / "s.toml")
