"""`audit`: one pass over a model and its data, from accuracies to a verdict and to what repairs it."""

import copy
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import nn

from firstcue._progress import Progress, silent
from firstcue.auditing import remedies as repair
from firstcue.auditing import stages
from firstcue.auditing.accepting import accepted
from firstcue.auditing.attempt import attempt
from firstcue.auditing.closing import close
from firstcue.auditing.effort import DEFAULT, effort_of
from firstcue.auditing.forecast import forecast, unsaid
from firstcue.auditing.order import Course, State, require_fitting, states
from firstcue.auditing.pictures import pictures
from firstcue.auditing.prepare import Prepared, prepare
from firstcue.auditing.running import Run
from firstcue.auditing.subject import Subject
from firstcue.auditing.suspects import inferred_findings
from firstcue.auditing.tables import group_table
from firstcue.batch import Batch, Edit
from firstcue.finding import Finding, Report
from firstcue.layers import find_head


def audit(
    model: Any,
    data: Any,
    *,
    attribute: Any = None,
    held_out: Any = None,
    edit: Edit | Mapping[str, Edit] | None = None,
    remedies: Sequence[str] | None = None,
    checkpoints: Any = None,
    trained_on: bool = True,
    effort: str = "default",
    seed: int = 0,
    device: str = "auto",
    batch_size: int = 512,
    command: str = "",
    progress: Progress = silent,
    announce: Callable[[str], None] = unsaid,
) -> Report:
    """Does the model rely on a shortcut, which, since when, and what removes it?

    A cue is called a shortcut only after an intervention on it: its value set in the input with the core kept, where the
    data or `edit` can say how, else its erasure at the penultimate layer under the unchanged head. What is merely encoded
    or merely associated with the label is reported as that.

    Args:
        model: A classifier that returns logits, or what `firstcue.integrations.modules.as_module` takes: a fitted scikit-learn
            classifier, a skorch net, an exported program. It is left bit for bit as found.
        data: Rows of the training distribution: a Batch, `(x, y)`, `(x, y, attribute)`, a mapping, an iterable of those
            (a DataLoader), a table of pandas or Polars, or a path.
        attribute: The cue to judge: an array `(n,)`, a column's name, several names, or a mapping from names to arrays.
            Without one, simple properties that tell the class are found and put to the same test, and clusters that
            errors concentrate in are inferred. Clusters never convict; a property only if its pairing with the class
            is broken in held-out rows.
        held_out: Rows the model never saw, in the same forms. Without it `data` is split, and the report says so.
        edit: `edit(x, value) -> x` sets the cue of every row to the value with that id (values in sorted order) and keeps
            the core. Composed data carries its own.
        remedies: Names of the remedies to try; those that apply when None; an empty sequence tries none.
        checkpoints: A glob, a folder, paths, or pairs `(step, state_dict)`: adds the order of learning.
        trained_on: Whether the model saw the rows of `data`.
        effort: "fast" gives the verdict, the groups and the commonest remedies; "default" describes the model too; "thorough"
            does so with more rows, layers and draws. The rule of the verdict and the level of its tests are the same.
        seed: Of every split, shuffle and resampling.
        device: "auto" uses the model's own; "cpu" or "cuda" works on a copy there.
        batch_size: Rows per call of the model.
        command: Shell command to print under "how to run it again".
        progress: Told the stage and the fraction done.
        announce: Told once, before the work, what will be done and about how long it will take here.

    Returns:
        A frozen report. A stage that fails is told in its notes, or as a finding, and the rest stands.

    Raises:
        ValueError: If data, labels or model cannot be used, with what was found and the way out.

    Source:
        LEACE (Belrose et al. 2023, arXiv 2306.03819); last-layer retraining (Kirichenko et al. 2022, arXiv 2204.02937);
        core and spurious features over training (Qiu et al. 2024, arXiv 2403.03375).

    Example:
        >>> import torch
        >>> x = torch.randn(400, 2, generator=torch.Generator().manual_seed(0))
        >>> y, unrelated = torch.arange(400) % 2, torch.arange(400) // 2 % 2
        >>> audit(torch.nn.Linear(2, 2), (x, y, unrelated), remedies=()).verdict
        'no shortcut found'
    """
    clock = time.perf_counter()
    progress("reading data", 0.0)
    model, data, held_out = accepted(model, data, held_out, attribute)
    run = Run(_placed(model, device), seed, batch_size, progress, effort_of(effort))
    steps = _wanted(run.model, remedies, checkpoints)
    data_in = prepare(data, attribute, held_out, edit, trained_on=trained_on, num_outputs=run.num_outputs, seed=seed)
    head, notes = run.head(data_in)
    expected = forecast(run, data_in, head, len(steps), remedies)
    announce(expected.sentence)
    subject = run.subject(data_in, head)
    found = stages.judged(run, data_in, subject)
    train, held = found.train, found.held
    rows, unready = attempt("running training rows", lambda: stages.material(run, remedies, subject, train, held), None)
    probes, lenses, untold = stages.described(run, subject, train, held)
    learned, unfollowed = stages.learned(run, steps, train, held, clusters=not data_in.cues)
    clusters, unclustered = _clusters(run, data_in, held, subject, learned)
    tried, untried = attempt("trying remedies", lambda: stages.tried(run, remedies, rows, subject, train, held), ())
    progress("writing the report", 0.98)
    shown, unshown = attempt("drawing rows", lambda: pictures(held, subject.decisions, seed, subject.features), ())
    failed = (unready, *untold, unfollowed, unclustered, untried, unshown)
    return close(
        [*found.findings, *clusters, *probes],
        described=lenses,
        given=bool(data_in.cues),
        groups=group_table(subject.decisions, held, train, data_in.split),
        learned=learned,
        remedies=tried,
        pictures=shown,
        notes=(*data_in.notes, *notes, *found.notes, *failed),
        seed=seed,
        device=str(run.device),
        command=command,
        effort=effort,
        expected=expected.seconds,
        seconds=time.perf_counter() - clock,
    )


def _wanted(model: nn.Module, remedies: Sequence[str] | None, checkpoints: Any) -> list[tuple[int, State]]:
    """The checkpoints that are to be followed; what is misspelt or does not fit is refused before the work."""
    for name in set(remedies or ()) - repair.NEEDS_TRAINING:
        repair.find(name)
    found = [] if checkpoints is None else states(checkpoints)
    require_fitting(model, found)
    return found


def _clusters(
    run: Run, data: Prepared, held: Batch, subject: Subject, learned: Course | None
) -> tuple[list[Finding], str]:
    """Without a named cue: the cluster that errors concentrate in."""
    if data.cues:
        return [], ""
    run.progress("looking for a cue in the errors", 0.75)
    early = learned.first if learned else None
    return attempt("looking for a cue in the errors", lambda: inferred_findings(held, subject, early, run.seed), [])


def audit_subject(
    model: nn.Module,
    data: Any,
    attribute: Any,
    held_out: Any,
    *,
    trained_on: bool,
    seed: int,
    device: str,
    batch_size: int,
) -> tuple[Subject, Batch, Batch, repair.Rows, repair.Rows, str]:
    """What an audit and a repair start from, the same for the same arguments.

    Returns:
        The model's answers, training rows, held-out rows, both as rows for remedies, and the held-out rows in words.

    Raises:
        ValueError: If data or model cannot be used, or the model has no linear head.
    """
    model, data, held_out = accepted(model, data, held_out, attribute)
    run = Run(_placed(model, device), seed, batch_size, silent, DEFAULT)
    prepared = prepare(data, attribute, held_out, None, trained_on=trained_on, num_outputs=run.num_outputs, seed=seed)
    # a repair needs a head: the error says which layers were seen
    subject = run.subject(prepared, find_head(run.model, prepared.held.x))
    train, held = prepared.train, prepared.held
    if prepared.cues:
        measured = stages.measured_cues(run, prepared, subject)[0] if len(prepared.cues) > 1 else []
        train, held = prepared.with_cue(stages.primary(measured, prepared))
    found = stages.material(run, None, subject, train, held)
    assert found is not None and found.train is not None
    return subject, train, held, found.held, found.train, prepared.split


def _placed(model: nn.Module, device: str) -> nn.Module:
    here = next((p.device.type for p in model.parameters()), "cpu")
    return model if device in ("auto", here) else copy.deepcopy(model).to(device)
