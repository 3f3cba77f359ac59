"""The audit from end to end, on real images with a planted shortcut and on controls."""

import json

import numpy as np
import pytest
import torch
from planted import timeless
from torch import nn

import firstcue as fc
from firstcue import demo
from firstcue.data import garment_dominoes
from firstcue.layers import predict

pytestmark = pytest.mark.xdist_group("audit")  # one worker trains the network of `shortcut` for all


@pytest.fixture(scope="module")
def shortcut(tmp_path_factory):
    """A network that took the shortcut, its rows, checkpoints and report."""
    folder = tmp_path_factory.mktemp("checkpoints")
    parts = {part: garment_dominoes(0.95, part) for part in ("train", "held-out", "test")}
    net = demo.trained(parts["train"], folder, epochs=4)
    report = fc.audit(net, parts["train"], held_out=parts["held-out"], checkpoints=str(folder))
    return net, parts, folder, report


def test_a_planted_shortcut_is_found_dated_and_priced(shortcut):
    _, _, _, report = shortcut
    assert report.verdict == "shortcut"
    (main,) = [f for f in report.findings if f.kind == "reliance"]
    assert (main.status, main.severity, main.cue) == ("relies", "severe", "top digit")
    assert main.relies.ci_low > 0.25
    assert main.id == "reliance/top digit/penultimate/edit"
    assert main.encoded.value > 0.9 > main.encoded.baseline
    order = {o.cue: o for o in report.learning_order}
    assert order["top digit"].step_used is not None
    assert order["top digit"].step_used <= (order["core"].step_used or 10**9)
    assert {m.curve for m in report.timeline} >= {
        "used/core",
        "used/top digit",
        "decodable/core",
        "decodable/top digit",
    }
    by_name = {r.name: r for r in report.remedies}
    assert by_name["last-layer"].worst_group > by_name["as it is"].worst_group + 0.2
    assert sum(r.selected for r in report.remedies) == 1


def test_the_model_and_global_state_are_left_bit_for_bit_as_found(shortcut):
    net, parts, _, _ = shortcut
    net.train()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), torch.get_num_threads(), torch.is_grad_enabled()  # noqa: NPY002
    rows = parts["held-out"].rows(torch.arange(400))
    fc.audit(net, rows, remedies=("erase",))
    assert net.training
    assert all(torch.equal(before[k], v) for k, v in net.state_dict().items())
    assert torch.equal(states[0], torch.get_rng_state())
    assert np.array_equal(states[1], np.random.get_state()[1])  # noqa: NPY002
    assert states[2:] == (torch.get_num_threads(), torch.is_grad_enabled())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())
    assert all(p.grad is None or True for p in net.parameters())


def test_the_same_seed_gives_the_same_report(shortcut):
    net, parts, _, _ = shortcut
    train, held = parts["train"].rows(torch.arange(600)), parts["held-out"].rows(torch.arange(300))
    one, two = (fc.audit(net, train, held_out=held, remedies=("erase",), seed=3) for _ in range(2))
    assert timeless(one) == timeless(two)


def test_fix_keeps_the_promise_of_the_report_on_rows_nobody_saw(shortcut):
    net, parts, _, report = shortcut
    promised = {r.name: r for r in report.remedies}
    for name in ("last-layer", "erase"):
        fixed = fc.fix(net, parts["train"], name, parts["held-out"])
        assert fixed.after.worst_group.accuracy == promised[name].worst_group
        test = parts["test"]
        table = fc.group_metrics(test.y, predict(fixed.model, test.x).argmax(1), test.groups())
        low, high = promised[name].ci_low, promised[name].ci_high
        their_low, their_high = table.intervals["worst_group"]
        assert their_high >= low
        assert their_low <= high
        assert table.worst_group.accuracy > fixed.before.worst_group.accuracy + 0.2


def test_a_repaired_model_survives_being_saved_and_loaded(shortcut, tmp_path):
    from firstcue.models import load_model, save_model

    net, parts, _, _ = shortcut
    fixed = fc.fix(net, parts["train"], "erase", parts["held-out"])
    folder = save_model(fixed.model, tmp_path / "repaired", factory="firstcue.demo:network", changes=fixed.changes)
    x = parts["test"].x[:50]
    assert torch.equal(predict(load_model(str(folder)), x), predict(fixed.model, x))


def test_an_attribute_that_has_nothing_to_do_with_anything_is_no_shortcut(shortcut):
    net, parts, _, _ = shortcut
    noise = {p: np.random.default_rng(i).integers(0, 2, len(parts[p])) for i, p in enumerate(("train", "held-out"))}
    held = parts["held-out"]
    report = fc.audit(
        net,
        (parts["train"].x, parts["train"].y, noise["train"]),
        held_out=(held.x, held.y, noise["held-out"]),
        remedies=(),
        effort="fast",
    )
    assert report.verdict == "no shortcut found"


def test_an_attribute_that_equals_the_label_is_not_identifiable(shortcut):
    net, parts, _, _ = shortcut
    train, held = parts["train"], parts["held-out"]
    report = fc.audit(net, (train.x, train.y, train.y), held_out=(held.x, held.y, held.y), remedies=(), effort="fast")
    assert report.verdict == "inconclusive"
    assert [f.status for f in report.findings if f.kind == "reliance"] == ["not identifiable"]


@pytest.fixture(scope="module")
def unnamed(shortcut):
    """The report on the same network when nobody names an attribute."""
    net, parts, folder, _ = shortcut
    train, held = parts["train"], parts["held-out"]
    return fc.audit(net, (train.x, train.y), held_out=(held.x, held.y), checkpoints=str(folder), remedies=("erase",))


def test_without_an_attribute_clusters_are_inferred_and_never_convict(unnamed):
    assert [f.status for f in unnamed.findings if f.kind == "inferred cluster"] == ["inferred"]
    assert all(f.kind == "discovered cue" for f in unnamed.findings if f.status == "relies")


def test_a_shortcut_that_nobody_named_is_named_dated_and_repaired(unnamed):
    assert unnamed.verdict == "shortcut"
    (guilty,) = [f for f in unnamed.findings if f.status == "relies"]
    assert guilty.cue == "brightness of the upper half"
    assert guilty.relies.ci_low > 0.25
    assert guilty.encoded.value > 0.8
    assert guilty.details["association_in_held_out_rows"] < 0.1
    assert {o.cue for o in unnamed.learning_order} == {"core", guilty.cue}
    assert unnamed.groups.cue == guilty.cue
    erased = next(r for r in unnamed.remedies if r.name == "erase")
    assert erased.worst_group > unnamed.groups.worst_group.accuracy + 0.2


def test_a_report_without_a_named_attribute_survives_json_and_html(unnamed, tmp_path):
    assert fc.Report.model_validate_json(unnamed.to_json()) == unnamed
    assert "brightness of the upper half" in unnamed.save_html(tmp_path / "page.html").read_text(encoding="utf-8")


def test_two_cues_are_judged_together_and_only_the_used_one_is_accused(shortcut):
    net, parts, _, _ = shortcut
    data = {}
    for i, part in enumerate(("train", "held-out")):
        b, generator = parts[part], torch.Generator().manual_seed(i)
        noise = torch.where(
            torch.rand(len(b), generator=generator) < 0.7, b.y, 1 - b.y
        )  # goes with the label, unseen by the model
        data[part] = fc.Batch.of(b.x, b.y, digit=b.attribute.numpy(), note=noise.numpy())
    report = fc.audit(
        net, data["train"], attribute=["digit", "note"], held_out=data["held-out"], remedies=(), effort="fast"
    )
    status = {f.cue: f.status for f in report.findings if f.kind == "reliance"}
    assert status["digit"] == "relies"
    assert status["note"] != "relies"
    digit = next(f for f in report.findings if f.cue == "digit" and f.kind == "reliance")
    assert abs(digit.details["gap_with_all_cues_erased"]) < abs(digit.details["gap"]) / 2
    assert digit.details["gap_with_the_other_cues_erased"] > digit.details["gap"] / 2


def test_a_users_own_editor_is_used(shortcut):
    net, parts, _, _ = shortcut
    train, held = parts["train"], parts["held-out"]
    report = fc.audit(
        net,
        (train.x, train.y, train.attribute),
        held_out=(held.x, held.y, held.attribute),
        edit=held.edit,
        remedies=(),
        effort="fast",
    )
    main = next(f for f in report.findings if f.kind == "reliance")
    assert main.id.endswith("/edit")
    assert main.status == "relies"


def test_the_report_holds_its_own_json(shortcut, tmp_path):
    report = shortcut[3]
    path = tmp_path / "report.json"
    report.to_json(path)
    assert fc.Report.load(path) == report
    keys = json.loads(path.read_text())
    assert keys["verdict"] == "shortcut"
    assert 0 <= keys["richness"]["dlr"]["value"] <= 1
    assert keys["agreement"]["kept"]["random_groups"] > keys["agreement"]["kept"]["value"]
    assert keys["simplicity"]["density"] == "dct" and keys["simplicity"]["n"] == 300


class Returns(nn.Module):
    def __init__(self, what):
        super().__init__()
        self.linear, self.what = nn.Linear(4, 2), what

    def forward(self, x):
        return self.what(self.linear(x))


def boom(z):
    raise RuntimeError("the dog ate it")


@pytest.mark.parametrize(
    ("what", "message"),
    [
        (lambda z: {"a": z, "b": z}, "Name it `logits`"),
        (lambda z: z.softmax(1), "softmax"),
        (lambda z: z * float("nan"), "NaN"),
        (boom, "RuntimeError.*dog ate it"),
        (lambda z: z.mean(), "one row of logits per input"),
    ],
)
def test_a_model_that_cannot_be_audited_gets_an_error_that_says_why(what, message):
    x, y = torch.randn(60, 4, generator=torch.Generator().manual_seed(0)), torch.arange(60) % 2
    with pytest.raises(ValueError, match=f"(?s){message}"):
        fc.audit(Returns(what), (x, y, y.roll(1)))


def test_a_model_with_one_logit_is_audited_and_repaired():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(800, 3, generator=generator)
    y = (x[:, 0] > 0).long()
    a = (x[:, 1] > 0).long()
    model = nn.Linear(3, 1)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, 2.0, 0.0]]))
        model.bias.zero_()
    train_a = torch.where(torch.rand(800, generator=generator) < 0.9, y, 1 - y)
    x_train = torch.stack([x[:, 0], x[:, 1].abs() * (2 * train_a - 1), x[:, 2]], dim=1)
    report = fc.audit(model, (x_train, y, train_a), held_out=(x, y, a), effort="fast")
    assert report.verdict == "shortcut"
    fixed = fc.fix(model, (x_train, y, train_a), "last-layer", (x, y, a))
    assert fixed.model(x).shape == (800, 1)
    assert fixed.after.worst_group.accuracy > 0.9
