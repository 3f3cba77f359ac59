"""An audit of embeddings that lie in many files: moments of all rows, and a sample where rows themselves are needed."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from firstcue._checks import encode_labels
from firstcue._progress import Progress, silent, within
from firstcue.auditing.embeddings import LAYER, audit_embeddings
from firstcue.auditing.forecast import unsaid
from firstcue.finding import Finding, Interval, Report
from firstcue.moments import Moments
from firstcue.probes import linear_probe
from firstcue.richness.low_rank import low_rank_of_moments
from firstcue.shards import Features, Shard, find_shards, read_parts, shard_moments
from firstcue.shards.measures import by_column, leading, values_of
from firstcue.shards.reading import Shards
from firstcue.spurious.association import association_of_counts

SAMPLE = 20_000
"""Rows of the sample, unless told otherwise."""


def audit_shards(
    shards: Shards,
    y: str = "y",
    attribute: Sequence[str] = (),
    outputs: str | None = None,
    *,
    rows: int = SAMPLE,
    store: str | Path | None = None,
    backend: str = "loky",
    workers: int | None = None,
    scheduler: str | None = None,
    remedies: Sequence[str] | None = None,
    effort: str = "default",
    seed: int = 0,
    command: str = "",
    progress: Progress = silent,
    announce: Callable[[str], None] = unsaid,
) -> Report:
    """Audit embeddings in shards: association, linear probes and D_LR over all rows, everything else on a sample of rows.

    Over all rows, from moments alone: how strongly each cue goes with the label, how well a linear probe fitted to all rows
    reads class and cue (tested on the sample), the share of variance that goes with each, and with outputs D_LR. On a sample
    drawn at random from all shards: the verdict with its interventions, the quadratic and strong probes, the group
    table, the order of statistics and the remedies. The report says which is which.

    Args:
        shards: A pattern such as "shards/*.npy", or a list of files; see `find_shards`.
        y: Name of the label's column.
        attribute: Names of the columns that may be shortcuts.
        outputs: Name of the column of the model's logits.
        rows: Rows of the sample.
        store: Folder that keeps what was measured of each shard, so that an interrupted audit continues.
        backend: As in `shard_moments`, as are the next two.
        workers: Processes.
        scheduler: Address of a running dask scheduler.
        remedies: As in `audit_embeddings`, as is the next.
        effort: Of what is measured on the sample.
        seed: Of the sample, and of every split and shuffle.
        command: Shell command to print under "how to run it again".
        progress: Told the stage and the fraction done.
        announce: Told once how long the work on the sample will take, when all shards have been read.

    Raises:
        ValueError: If there are no shards, or they cannot be read or do not fit each other.
    """
    found = find_shards(shards)
    by = (y, *attribute)
    measured = shard_moments(
        shards,
        Features(by=by, outputs=outputs),
        store=store,
        backend=backend,
        workers=workers,
        scheduler=scheduler,
        progress=within(progress, 0.0, 0.6),
    )
    ((_, cells),) = measured.items()
    progress("drawing a sample", 0.6)
    sample = draw(found, (*by, *(() if outputs is None else (outputs,))), int(cells.rows.sum()), rows, seed)
    report = audit_embeddings(
        sample["x"],
        sample[y],
        {name: sample[name] for name in attribute} or None,
        None if outputs is None else sample[outputs],
        remedies=remedies,
        effort=effort,
        seed=seed,
        command=command,
        progress=within(progress, 0.6, 1.0),
        announce=announce,
    )
    return _with_all_rows(report, _AllRows(cells, by, sample["x"].shape[1], outputs), sample)


def draw(shards: Sequence[Shard], columns: Sequence[str], total: int, rows: int, seed: int) -> dict[str, Any]:
    """About `rows` of the `total` rows of all shards, each with the same chance; all if there are no more.

    Args:
        shards: Read in parts; of mapped files only the pages that hold chosen rows.
        columns: Names of those wanted beside x.
        total: Rows of all shards.
        rows: Rows wanted.
        seed: Of the draw.
    """
    generator = np.random.default_rng(seed)
    kept: dict[str, list[np.ndarray]] = {name: [] for name in ("x", *columns)}
    share = min(1.0, rows / total)
    for shard in shards:
        for part in read_parts(shard, columns):
            n = len(part["x"])
            count = generator.binomial(n, share)
            chosen = np.sort(generator.choice(n, count, replace=False, shuffle=False))
            for name, values in part.items():
                kept[name].append(np.asarray(values)[chosen])
    return {name: np.concatenate(parts) for name, parts in kept.items()}


@dataclass(frozen=True)
class _AllRows:
    cells: Moments
    """Of [x, outputs], by every combination of the label and the cues."""
    by: tuple[str, ...]
    """Columns of the label and the cues."""
    width: int
    outputs: str | None

    @property
    def n(self) -> int:
        return int(self.cells.rows.sum())

    def of(self, column: str) -> Moments:
        """Of x, by the values of one column."""
        return leading(by_column(self.cells, self.by.index(column), len(self.by)), self.width)

    def counts(self, cue: str) -> np.ndarray:
        """`(K, A)` rows by label and value of the cue."""
        named = [values_of(name, len(self.by)) for name in self.cells.classes or ()]
        a = self.by.index(cue)
        classes, values = (sorted({name[i] for name in named}) for i in (0, a))
        counts = np.zeros((len(classes), len(values)), np.int64)
        for name, rows in zip(named, self.cells.rows.tolist(), strict=True):
            counts[classes.index(name[0]), values.index(name[a])] += rows
        return counts


def _with_all_rows(report: Report, whole: _AllRows, sample: dict[str, Any]) -> Report:
    """The report with what all rows say in the place of, or beside, what the sample says."""
    associations = {cue: association_of_counts(whole.counts(cue)) for cue in whole.by[1:]}
    findings = []
    for finding in report.findings:
        found = associations.get(finding.cue)
        if finding.associated is not None and found is not None:
            stated = Interval(value=found.strength, n=found.n, baseline=0.0, baseline_kind="independent of the label")
            information = {
                "mutual_information_bits": found.mutual_information,
                "mutual_information_ci_low": found.information_low,
                "mutual_information_ci_high": found.information_high,
            }
            finding = finding.model_copy(update={"associated": stated, "details": {**finding.details, **information}})
        findings.append(finding)
    x = torch.as_tensor(sample["x"])
    findings += [_decodability(whole, column, x, sample[column]) for column in whole.by]
    if whole.outputs is not None:
        findings += _low_rank(whole)
    note = (
        f"{whole.n:,} rows in shards. Over all of them, from moments alone: how cues go with the label"
        f"{', D_LR' if whole.outputs else ''}, and the linear probes marked all-rows (fitted to all rows, tested on the sample). "
        f"On a random sample of {len(x):,} rows: everything else, the verdict above all; a group of few rows may be missing "
        f"from it."
    )
    return report.model_copy(update={"findings": tuple(findings), "notes": (note, *report.notes)})


def _decodability(whole: _AllRows, column: str, x: Tensor, labels: Any) -> Finding:
    """How well the probe fitted to all rows reads a column, on the rows of the sample."""
    moments = whole.of(column)
    names = moments.classes or ()
    cue = "class" if column == whole.by[0] else column
    what = "the class" if cue == "class" else column
    answers = torch.cat([linear_probe(moments, balanced=True)(part.float()).argmax(dim=1) for part in x.split(4096)])
    ids, seen = encode_labels(labels, column)
    truth = torch.tensor([names.index(name) for name in seen])[ids]
    right = [(answers[truth == k] == k).double() for k in truth.unique().tolist()]
    value = sum(float(r.mean()) for r in right) / len(right)
    error = math.sqrt(sum(float(r.mean() * (1 - r.mean())) / len(r) for r in right)) / len(right)
    pooled = moments.pool()
    total = float(pooled.scatter.diagonal().sum())
    between = 1 - float(moments.scatter.diagonal(dim1=-2, dim2=-1).sum()) / total if total > 0 else math.nan
    return Finding(
        id=f"decodability/{cue}/{LAYER}/linear-all-rows",
        cue=cue,
        kind="decodability",
        layer=LAYER,
        status="no shortcut found",
        encoded=Interval(value=value, n=len(x), baseline=1 / len(names), baseline_kind="chance"),
        value=value,
        unit="balanced accuracy, a fraction",
        ci_low=max(0.0, value - 1.96 * error),
        ci_high=min(1.0, value + 1.96 * error),
        n=len(x),
        baseline=1 / len(names),
        meaning=f"A linear probe fitted to all {whole.n:,} rows reads {what} with {value:.0%}. Decodable is not used.",
        source="Linear discriminant analysis from class moments (Fisher 1936)",
        details={"rows_fitted": whole.n, "share_of_variance_between": between},
    )


def _low_rank(whole: _AllRows) -> list[Finding]:
    joint = whole.cells.pool()
    found = low_rank_of_moments(joint, joint.mean.shape[-1] - whole.width)
    if not math.isfinite(found.dlr):
        return []
    return [
        Finding(
            id=f"richness/class/{LAYER}/dlr-all-rows",
            cue="class",
            kind="richness",
            layer=LAYER,
            status="no shortcut found",
            value=found.dlr,
            unit="D_LR, 0 (rich) to 1 (lazy)",
            n=whole.n,
            meaning=f"Over all {whole.n:,} rows D_LR is {found.dlr:.3f}: 0 where the embeddings hold nothing but what the outputs use.",
            source="Decoupling Dynamical Richness from Representation Learning (Nam et al. 2024, arXiv 2410.04264)",
        )
    ]
