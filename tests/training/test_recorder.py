"""A recorder keeps what was asked for, when it was asked for, and disturbs nothing."""

from itertools import pairwise

import pytest
import torch
from torch import nn

from firstcue.batch import Batch
from firstcue.training.loop import minibatches, train
from firstcue.training.recorder import Recorder, Step, group_accuracy, log_spaced


def held_out():
    x = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0], [-1.0, -1.0]])
    return Batch(x, torch.tensor([1, 1, 0, 0, 0]), attribute=torch.tensor([1, 0, 1, 0, 0]), values=("0", "1"))


class Shortcut(nn.Module):
    """Predicts the attribute, the sign of the second number."""

    def forward(self, x):
        return x[:, 1]


def test_group_accuracy_of_a_shortcut_is_perfect_where_cue_and_label_agree():
    measured = group_accuracy(held_out())(Step(0, Shortcut()))

    assert measured == {"accuracy/0": 1, "accuracy/1": 0, "accuracy/2": 0, "accuracy/3": 1, "accuracy/worst": 0}


def test_group_accuracy_uses_the_group_where_there_is_no_attribute():
    batch = Batch(held_out().x, held_out().y, group=torch.tensor([5, 5, 5, 9, 9]))

    assert group_accuracy(batch, "g")(Step(0, Shortcut())) == {
        "g/5": pytest.approx(1 / 3),
        "g/9": 1.0,
        "g/worst": pytest.approx(1 / 3),
    }


@pytest.mark.parametrize("every, expected", [(4, [0, 4, 8]), ({1, 7}, [1, 7]), (log_spaced(9, 3), [0, 1, 3, 9])])
def test_rows_are_kept_at_the_steps_that_are_due(every, expected):
    recorder, model = Recorder([group_accuracy(held_out())], every), nn.Linear(2, 2)

    train(
        model, minibatches(held_out(), 5, epochs=9), torch.optim.SGD(model.parameters(), lr=0.5), recorders=[recorder]
    )

    assert [row["step"] for row in recorder.rows] == expected
    assert [step for step, _ in recorder.curve("accuracy/worst")] == expected
    assert all(isinstance(row["loss"], float) for row in recorder.rows if row["step"])


def test_it_works_in_the_users_own_loop_and_leaves_the_mode():
    modes = []
    recorder = Recorder([lambda step: modes.append(step.model.training) or {"one": 1}], every=2)
    model = nn.Dropout().train()

    for number in range(1, 5):
        recorder.step(model, number, loss=torch.tensor(0.5, requires_grad=True))

    assert recorder.rows == [{"step": 2, "loss": 0.5, "one": 1}, {"step": 4, "loss": 0.5, "one": 1}]
    assert modes == [False, False] and model.training


def test_recording_between_forward_and_backward_leaves_the_graph_alone():
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 2))
    loss = model(held_out().x).sum()

    Recorder([group_accuracy(held_out())], every=1).step(model, 0)
    loss.backward()

    assert model[0].weight.grad is not None


def test_measures_of_the_same_name_are_refused():
    recorder = Recorder([lambda step: {"loss": 0.0}], every=1)

    with pytest.raises(ValueError, match="two measures are called 'loss'"):
        recorder.step(nn.Linear(1, 1), 0)


@pytest.mark.parametrize("every", [0, -3, set(), [-1]])
def test_steps_that_are_none_are_refused(every):
    with pytest.raises(ValueError, match="`every`"):
        Recorder([], every)


def test_a_curve_that_was_not_recorded_names_those_that_were():
    recorder = Recorder([lambda step: {"a": 1}], every=1)
    recorder.step(nn.Linear(1, 1), 0)

    with pytest.raises(ValueError, match="recorded: a, loss, step"):
        recorder.curve("b")


@pytest.mark.parametrize("total, count", [(1, 1), (1, 10), (7, 100), (1000, 10), (10**6, 40)])
def test_log_spaced_steps_rise_from_zero_to_the_total(total, count):
    steps = log_spaced(total, count)

    assert steps[0] == 0 and steps[-1] == total and len(steps) <= count + 1
    assert list(steps) == sorted(set(steps))
    gaps = [b - a for a, b in pairwise(steps)]
    assert all(b >= a - 1 for a, b in pairwise(gaps))


def test_log_spacing_needs_steps():
    with pytest.raises(ValueError, match="at least 1"):
        log_spaced(0)
