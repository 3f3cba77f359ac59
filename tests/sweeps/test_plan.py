"""A sweep file says which trials are run; what it cannot mean is refused with the way out."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firstcue.sweeps.plan import Plan, Range, read_plan, trials_of_plan

KNOWN = {"rate": 0.1, "rows": 100, "net": "mlp", "on": True, "limit": None}


def written(tmp_path, text):
    path = tmp_path / "sweep.toml"
    path.write_text(text)
    return path


def test_a_file_with_everything_is_read(tmp_path):
    text = """
    experiment = "erasure/learning-speed"
    seeds = [3, 5]
    time_limit = 60
    [settings]
    rows = 50
    [grid]
    net = ["mlp", "cnn"]
    [random]
    count = 2
    [random.ranges]
    rate = { low = 0.001, high = 0.1, log = true }
    """
    trials = trials_of_plan(read_plan(written(tmp_path, text)), KNOWN, version=4)
    assert len(trials) == len(set(trials)) == 2 * 2 * 2
    assert {t.seed for t in trials} == {3, 5}
    assert {t.settings["net"] for t in trials} == {"mlp", "cnn"}
    assert all(t.settings["rows"] == 50 and t.settings["on"] is True and t.version == 4 for t in trials)
    assert all(0.001 <= t.settings["rate"] <= 0.1 for t in trials)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("experiment = ", "is no TOML"),
        ("seeds = 3", "experiment: Field required"),
        ('experiment = "a"\nspeed = 3', "speed: Extra inputs are not permitted"),
        ('experiment = "a"\nseeds = 0', "seeds"),
        ('experiment = "a"\n[grid]\nrate = []', "grid.rate"),
        ('experiment = "a"\n[settings]\nrate = 1\n[grid]\nrate = [2]', "'rate' is given in two of"),
        ('experiment = "a"\n[random]\ncount = 1\n[random.ranges]\nrate = {low = 2, high = 1}', "low < high"),
    ],
)
def test_what_cannot_be_meant_is_refused(tmp_path, text, complaint):
    with pytest.raises(ValueError, match=complaint):
        read_plan(written(tmp_path, text))


def test_a_missing_file_says_what_to_write(tmp_path):
    with pytest.raises(ValueError, match="no sweep file at"):
        read_plan(tmp_path / "none.toml")


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"speed": 1}, "has no setting 'speed'; it has rate, rows, net, on, limit"),
        ({"rows": "many"}, "'rows' of e is a int, as in 100; got 'many'"),
        ({"rows": 1.5}, "'rows'"),
        ({"rows": True}, "'rows'"),
        ({"rate": True}, "'rate'"),
    ],
)
def test_settings_of_another_name_or_type_are_refused(settings, complaint):
    with pytest.raises(ValueError, match=complaint):
        trials_of_plan(Plan(experiment="e", settings=settings), KNOWN)


def test_a_whole_number_will_do_where_a_fraction_is_usual():
    assert trials_of_plan(Plan(experiment="e", seeds=1, settings={"rate": 1}), KNOWN)[0].settings["rate"] == 1


@given(st.integers(-50, 50), st.integers(1, 100), st.integers(0, 99))
def test_draws_stay_in_their_range_and_whole_ends_give_whole_numbers(low, width, seed):
    import random

    value = Range(low=low, high=low + width).draw(random.Random(seed))
    assert isinstance(value, int)
    assert low <= value <= low + width
