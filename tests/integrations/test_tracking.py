"""Rows of a recorder arrive in TensorBoard and MLflow once each, at their steps, without what is no number."""

import math

import pytest
import torch

from firstcue import Batch, Recorder, train
from firstcue.integrations.tracking import Tracker, mlflow, tensorboard


def recorder() -> Recorder:
    return Recorder([lambda step: {"accuracy/worst": step.number / 10, "nothing": math.nan, "name": "x"}], every=2)


def run_with(*recorders) -> None:
    model = torch.nn.utils.skip_init(torch.nn.Linear, 2, 2)
    torch.nn.init.zeros_(model.weight)
    torch.nn.init.zeros_(model.bias)
    rows = Batch(torch.eye(2), torch.tensor([0, 1]))
    train(model, [rows], torch.optim.SGD(model.parameters(), lr=0.1), epochs=5, recorders=recorders)


def test_every_row_is_sent_once():
    own, seen = recorder(), []
    run_with(own, Tracker(own, lambda numbers, step: seen.append((step, numbers))))

    assert [step for step, _ in seen] == [0, 2, 4] and seen[1][1]["accuracy/worst"] == 0.2
    assert [set(numbers) for _, numbers in seen] == [{"accuracy/worst"}, *[{"accuracy/worst", "loss"}] * 2]


def test_tensorboard_has_the_scalars(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    own = recorder()
    run_with(own, tensorboard(own, tmp_path))

    found = EventAccumulator(str(tmp_path)).Reload()
    events = found.Scalars("accuracy/worst")
    assert [(e.step, round(e.value, 6)) for e in events] == [(0, 0.0), (2, 0.2), (4, 0.4)]
    assert set(found.Tags()["scalars"]) == {"accuracy/worst", "loss"}


def test_mlflow_has_the_metrics(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    library = pytest.importorskip("mlflow")
    library.set_tracking_uri(f"file:{tmp_path}")
    library.set_experiment("a test")
    with library.start_run() as run:
        own = recorder()
        run_with(own, mlflow(own))
        library_client = library.MlflowClient()
        history = library_client.get_metric_history(run.info.run_id, "accuracy/worst")
    assert [(m.step, m.value) for m in history] == [(0, 0.0), (2, 0.2), (4, 0.4)]


def test_without_a_run_mlflow_says_what_to_do():
    pytest.importorskip("mlflow")
    with pytest.raises(ValueError, match=r"mlflow.start_run\(\)"):
        mlflow(recorder())
