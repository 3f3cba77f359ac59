"""Whatever fails beside the user's own input is told, and the rest of the report stands: tried for every stage."""

import pytest
import torch
from planted import case, table

import firstcue as fc
from firstcue.auditing import embeddings, lenses, model, running, stages
from firstcue.auditing.order import Course

CASE = case(table(0.95), seed=0, n_train=600, n_held=400)

# where each stage begins, what it answers when it works (here at once, or the function itself), and how its failure is told
STAGES = {
    "order": (lenses, "climb", [], "The order of statistics lens failed"),
    "richness": (lenses, "measure_richness", None, "The richness lens failed"),
    "agreement": (lenses, "measure_groups", None, "The agreement lens failed"),
    "simplicity": (lenses, "measure_simplicity", None, "The simplicity lens failed"),
    "layers": (stages, "probe_layers", [], "Probing layers failed"),
    "untrained": (running, "look_untrained", None, "Running the untrained network failed"),
    "encoded": (stages, "held_out_accuracy", stages.held_out_accuracy, "Probing cues failed"),
    "training rows": (stages, "material", None, "Running training rows failed"),
    "remedies": (stages, "tried", (), "Trying remedies failed"),
    "course": (stages, "course", Course((), ()), "Following checkpoints failed"),
    "pictures": (model, "pictures", (), "Drawing rows failed"),
    "discovery": (stages, "suspects", ([], []), "Looking for unnamed properties failed"),
    "clusters": (model, "inferred_findings", [], "Looking for a cue in the errors failed"),
}
NAMELESS = ("discovery", "clusters")
OF_EMBEDDINGS = {
    "order": (lenses, "climb", [], "The order of statistics lens failed"),
    "richness": (lenses, "measure_richness", None, "The richness lens failed"),
    "probes": (embeddings, "_probes", {}, "Probing embeddings failed"),
    "remedies": (embeddings, "_remedies", (), "Trying remedies failed"),
    "clusters": (embeddings, "inferred_findings", [], "Looking for a cue in the errors failed"),
}


def breaks(*_, **__):
    raise RuntimeError("a bolt is missing")


@pytest.fixture
def only(monkeypatch):
    """Let the named stages break, and all others answer at once."""

    def arrange(broken, table):
        for name, (module, function, answer, _) in table.items():
            whole = answer if callable(answer) else lambda *_, a=answer, **__: a
            monkeypatch.setattr(module, function, breaks if name in broken else whole)

    return arrange


def audited(*, named: bool = True, edit: bool = True):
    net = CASE.model()
    train, held = (b if named else (b.x, b.y) for b in (CASE.train, CASE.held))
    if named and not edit:
        train, held = ((b.x, b.y, b.attribute) for b in (CASE.train, CASE.held))
    return fc.audit(net, train, held_out=held, checkpoints=[(0, net.state_dict()), (9, net.state_dict())])


def failures(report) -> list[str]:
    return [note for note in report.notes if "failed" in note]


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_that_breaks_is_told_and_the_rest_stands(only, stage, tmp_path):
    only({stage}, STAGES)
    report = audited(named=stage not in NAMELESS)
    (note,) = failures(report)
    assert note.startswith(STAGES[stage][3])
    assert "RuntimeError: a bolt is missing" in note
    assert report.verdict == ("no shortcut found" if stage in NAMELESS else "shortcut")
    assert report.groups.overall.n == 400
    assert note in fc.Report.load(report.save_html(tmp_path / "page.html")).notes


def test_a_report_is_left_when_everything_beside_the_verdict_breaks(only):
    only(set(STAGES), STAGES)
    report = audited()
    assert report.verdict == "shortcut"
    assert len(failures(report)) == len(STAGES) - len(NAMELESS)


def test_a_cue_that_cannot_be_measured_is_a_finding_and_the_others_are_judged(only, monkeypatch, tmp_path):
    only((), STAGES)
    real = stages.measure_cue
    monkeypatch.setattr(
        stages, "measure_cue", lambda t, h, *a, **k: breaks() if h.cue == "odd" else real(t, h, *a, **k)
    )
    train, held = (
        fc.Batch.of(b.x, b.y, odd=torch.arange(len(b)) % 2, used=b.attribute) for b in (CASE.train, CASE.held)
    )
    report = fc.audit(CASE.model(), train, held_out=held, attribute=["odd", "used"])
    status = {f.cue: f.status for f in report.findings if f.kind == "reliance"}
    assert status["odd"] == "inconclusive"
    assert "a bolt is missing" in next(f.meaning for f in report.findings if f.cue == "odd")
    assert status["used"] == "relies" and report.verdict == "shortcut"
    assert "odd" in report.save_html(tmp_path / "page.html").read_text(encoding="utf-8")


def test_cues_are_judged_each_when_they_cannot_be_judged_together(only, monkeypatch):
    only((), STAGES)
    monkeypatch.setattr(stages, "measure_jointly", breaks)
    report = audited(edit=False)
    assert failures(report)[0].startswith("Measuring cues together failed")
    assert [f.status for f in report.findings if f.kind == "reliance"] == ["relies"]


@pytest.mark.parametrize("stage", OF_EMBEDDINGS)
def test_an_audit_of_embeddings_survives_the_same(only, stage):
    only({stage}, OF_EMBEDDINGS)
    named = {} if stage == "clusters" else {"attribute": CASE.train.attribute}
    report = fc.audit_embeddings(CASE.train.x, CASE.train.y, **named, outputs=CASE.head(CASE.train.x))
    (note,) = failures(report)
    assert note.startswith(OF_EMBEDDINGS[stage][3])
    assert report.groups.overall.n == 300


def test_a_cue_of_embeddings_that_cannot_be_measured_is_a_finding(only, monkeypatch):
    only((), OF_EMBEDDINGS)
    monkeypatch.setattr(embeddings, "measure_cue", breaks)
    report = fc.audit_embeddings(CASE.train.x, CASE.train.y, CASE.train.attribute, CASE.head(CASE.train.x))
    assert report.verdict == "inconclusive"
    assert "a bolt is missing" in report.findings[0].meaning


# what the user has to mend stays an error ------------------------------------------------------------------------------


def wrong_edit(x, value):
    raise KeyError("no such patch")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"remedies": ["last-leyer"]}, "no remedy is called 'last-leyer'"),
        ({"checkpoints": []}, "`checkpoints` is empty"),
        ({"checkpoints": [(3, {"weight": torch.zeros(1)})]}, "step 3 does not fit the model"),
        ({"edit": wrong_edit}, "raised KeyError"),
        ({"effort": "fastest"}, "`effort` is 'fast', 'default', 'thorough'; got 'fastest'"),
    ],
    ids=["remedy", "no checkpoints", "other checkpoints", "edit", "effort"],
)
def test_errors_of_the_users_own_stay_errors_and_come_early(only, given, message):
    only((), STAGES)
    with pytest.raises(ValueError, match=message):
        fc.audit(CASE.model(), CASE.train, held_out=CASE.held, **given)
