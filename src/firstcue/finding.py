"""What an audit says: findings, group table, learning order, remedies. Data only; rendering lives in `report`."""

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from firstcue._values import Record, Value, condensed, read_text

Verdict = Literal["shortcut", "no shortcut found", "inconclusive"]
Status = Literal["relies", "no shortcut found", "not identifiable", "inconclusive", "inferred"]
Severity = Literal["none", "slight", "clear", "severe"]

DESCRIBING = ("decodability", "order of statistics", "richness", "agreement", "simplicity")
"""Kinds of finding that describe the model and accuse nothing: no verdict rests on them."""


class Interval(Value):
    """A number with its 95 % interval, the rows behind it, and what an empty measurement would give."""

    value: float | None = None
    ci_low: float | None = None
    ci_high: float | None = None
    n: int | None = Field(default=None, description="rows the number was measured on")
    baseline: float | None = Field(default=None, description="the same number where there is nothing to find")
    baseline_kind: str | None = Field(
        default=None,
        description="what the baseline is: shuffled labels, random direction, untrained network, majority class",
    )


class Finding(Value):
    """One measured statement about one cue."""

    id: str = Field(description="lens/cue/layer/measure")
    cue: str
    kind: str = Field(
        description="what was measured: reliance by edit, reliance by erasure, decodability, inferred cluster ..."
    )
    layer: str | None = None
    status: Status
    severity: Severity = "none"
    encoded: Interval | None = Field(
        default=None, description="held-out balanced accuracy of a probe of the cue, a fraction"
    )
    associated: Interval | None = Field(
        default=None, description="half the summed |r(y,a)| over K, a fraction: 0 independent of the label in training"
    )
    relies: Interval | None = Field(
        default=None,
        description="change of accuracy caused by the cue through an intervention; null when none was possible",
    )
    closed: Interval | None = Field(
        default=None, description="fraction of the gap closed by erasing the cue at the penultimate layer"
    )
    value: float | None = None
    unit: str = "accuracy difference, a fraction"
    ci_low: float | None = None
    ci_high: float | None = None
    n: int | None = None
    baseline: float | None = None
    meaning: str = Field(description="one plain sentence")
    source: str = Field(default="", description="the method's paper or page")
    details: Mapping[str, float | int | str | bool | None] = Field(
        default_factory=dict, description="every further number of this finding, by name"
    )

    @property
    def yours_to_judge(self) -> bool:
        """Whether decisions hang on a property that nobody named: a cue or a part of the class, the data cannot tell."""
        hangs = self.relies is not None and (self.relies.ci_low or 0.0) > 0.05
        return self.status == "inferred" and self.severity == "none" and hangs

    @property
    def judges(self) -> bool:
        """Whether it says something of a cue's use, so that the verdict may rest on it."""
        return self.kind not in DESCRIBING


class GroupRow(Value):
    """Accuracy in one group; ids of classes and values are given by name."""

    group: int
    y: str
    attribute: str | None = None
    n: int
    accuracy: float | None = None
    ci_low: float | None = None
    ci_high: float | None = None


class Overall(Value):
    """Plain accuracy over all held-out rows."""

    accuracy: float | None = None
    ci_low: float | None = None
    ci_high: float | None = None
    n: int = 0


class Groups(Value):
    """The group table and its three named averages."""

    by_group: tuple[GroupRow, ...] = ()
    worst_group: GroupRow | None = None
    overall: Overall = Overall()
    group_average: float | None = None
    train_weighted: float | None = None
    too_small: tuple[int, ...] = Field(default=(), description="groups with too few rows to be named the worst")
    split: str = Field(default="", description="which rows these are")
    cue: str = Field(default="", description="the attribute that the groups are formed by")


class Order(Value):
    """When one cue became decodable and when it was used, in training steps; null when never or not measured."""

    cue: str
    step_decodable: int | None = None
    step_used: int | None = None


class Moment(Value):
    """One point of one curve over training."""

    step: int
    curve: str = Field(description="used/core, used/<cue>, decodable/core, decodable/<cue>, accuracy/worst, ...")
    value: float | None = Field(description="null where it could not be measured; the line is broken there")
    ci_low: float | None = None
    ci_high: float | None = None


Basis = Literal["measured", "predicted", "not predicted", "not tried"]


class Remedy(Value):
    """What one repair does, or may do, to held-out rows used neither to fit nor to choose it."""

    name: str
    basis: Basis = Field(
        default="measured",
        description="measured: of the repaired model itself; predicted: of a rehearsal on the last layer, which is no "
        "promise; else there are no numbers, and `note` says why",
    )
    worst_group: float | None = None
    ci_low: float | None = Field(default=None, description="of worst_group")
    ci_high: float | None = None
    overall: float | None = None
    group_average: float | None = None
    n: int | None = None
    gain: Interval | None = Field(
        default=None, description="of the worst group, on the same rows; baseline_kind says over what"
    )
    relies: Interval | None = Field(
        default=None,
        description="what is left of the reliance on the cue: by edit where the input can be edited, else the gap",
    )
    needs_group_labels: bool
    needs: tuple[str, ...] = Field(default=(), description="labels that it uses beyond the classes")
    seconds: float | None = None
    selected: bool = False
    note: str = ""
    unchanged: bool = Field(default=False, description="this row is the model as it came, measured on the same rows")
    worse: tuple[str, ...] = Field(default=(), description="what got worse, in words")


class Picture(Value):
    """One figure of the page that is made of data: a PNG as base64."""

    title: str
    caption: str
    alt: str
    png: str = Field(pattern=r"^iVBOR[A-Za-z0-9+/]*={0,2}$", description="base64")
    finding: str = Field(default="", description="id of the finding it belongs to")
    lead: bool = Field(default=False, description="shown beside the verdict instead of with the evidence")


class Environment(Value):
    """What is needed to run it again."""

    versions: Mapping[str, str] = Field(default_factory=dict)
    seed: int | None = None
    device: str = "cpu"
    command: str = ""
    effort: str = Field(default="", description="fast, default or thorough")
    seconds: float | None = Field(default=None, description="that the work took")
    seconds_expected: float | None = Field(default=None, description="that were foretold before it")


class Report(Value):
    """The whole answer about one model; `to_json` has a published schema (`firstcue schema report`).

    Example:
        >>> report = Report(verdict="no shortcut found")
        >>> report.passed(), Report.model_validate_json(report.to_json()) == report
        (True, True)
    """

    version: str = "1"
    title: str = "Audit"
    verdict: Verdict
    summary_line: str = Field(default="", description="the verdict as one plain sentence")
    findings: tuple[Finding, ...] = ()
    groups: Groups = Groups()
    learning_order: tuple[Order, ...] = ()
    timeline: tuple[Moment, ...] = ()
    richness: Mapping[str, Any] | None = None
    agreement: Mapping[str, Any] | None = None
    simplicity: Mapping[str, Any] | None = None
    remedies: tuple[Remedy, ...] = ()
    pictures: tuple[Picture, ...] = ()
    notes: tuple[str, ...] = Field(default=(), description="warnings and choices that the reader has to know")
    limits: tuple[str, ...] = Field(default=(), description="what this page cannot say")
    environment: Environment = Environment()

    def summary(self) -> str:
        """The verdict and its evidence as plain text for a terminal."""
        from firstcue.report.text import summary

        return summary(self)

    def to_rows(self) -> list[dict[str, Any]]:
        """One flat dictionary per finding."""
        from firstcue.report.table import rows

        return rows(self)

    def to_frame(self, library: str = "pandas") -> Any:
        """The findings as a table of "pandas" or "polars" (extras `frames`, `polars`)."""
        from firstcue.report.table import frame

        return frame(self, library)

    def to_json(self, path: str | Path | None = None) -> str:
        """The report as JSON text, also written to `path` when given; plain numbers, null for what was not measured."""
        text = self.model_dump_json(indent=2)
        if path is not None:
            Path(path).write_text(text + "\n", encoding="utf-8")
        return text

    def save_html(self, path: str | Path, *, interactive: bool = False) -> Path:
        """Write one self-contained page that makes no request; `interactive` inlines scripts (extra `interactive`).

        Raises:
            MissingExtra: Interactive, without that extra.
        """
        from firstcue.report.html import page

        target = Path(path)
        target.write_text(page(self, interactive=interactive), encoding="utf-8")
        return target

    def to_junit(self, path: str | Path | None = None) -> str:
        """JUnit XML in which a finding that relies on a shortcut is a failure."""
        from firstcue.report.junit import junit

        text = junit(self)
        if path is not None:
            Path(path).write_text(text, encoding="utf-8")
        return text

    def to_model_card(self) -> str:
        """A Markdown fragment for a model card."""
        from firstcue.report.card import model_card

        return model_card(self)

    def passed(self, gate: "Gate | str | Path | None" = None) -> bool:
        """Whether the report passes `gate` (a `Gate` or a gate file); without one, whether no shortcut was found."""
        if isinstance(gate, str | Path):
            gate = read_gate(gate)
        return not (gate or Gate()).failures(self)

    @classmethod
    def load(cls, path: str | Path) -> "Report":
        """Read a report written by `to_json` or `save_html`; of a folder, its `report.json`.

        Raises:
            ValueError: If the file is missing or not such a report.
        """
        target = Path(path)
        target = target / "report.json" if target.is_dir() else target
        text = read_text(target, "report", "give the report.json that `firstcue audit --out DIR` wrote")
        page = re.search(r'<script type="application/json" id="report">(.*?)</script>', text, flags=re.DOTALL)
        try:
            return cls.model_validate_json(page.group(1) if page else text)
        except ValidationError as error:
            raise ValueError(
                f"{target} is not a report of firstcue: {condensed(error)}. Give the report.json (or report.html) "
                f"that `firstcue audit --out DIR` wrote, or run the audit again; see `firstcue schema report`."
            ) from None


class Gate(Record):
    """What a report has to satisfy in continuous integration; an unknown key is an error."""

    min_worst_group: float | None = Field(default=None, ge=0, le=1)
    max_group_gap: float | None = Field(
        default=None, ge=0, le=1, description="largest allowed difference between best and worst group"
    )
    allow_shortcut: bool = False
    inconclusive: Literal["fail", "pass"] = "fail"

    def failures(self, report: Report) -> list[str]:
        """One sentence per broken demand; empty when the gate is passed."""
        said: list[str] = []
        groups = report.groups
        worst = groups.worst_group.accuracy if groups.worst_group else None
        accuracies = [g.accuracy for g in groups.by_group if g.accuracy is not None and g.group not in groups.too_small]
        if self.min_worst_group is not None:
            if worst is None:
                said.append(f"min_worst_group = {self.min_worst_group} cannot be judged: no group table was measured.")
            elif worst < self.min_worst_group:
                said.append(f"worst-group accuracy {worst:.3f} is below min_worst_group = {self.min_worst_group}.")
        if self.max_group_gap is not None:
            if not accuracies:
                said.append(f"max_group_gap = {self.max_group_gap} cannot be judged: no group table was measured.")
            elif (gap := max(accuracies) - min(accuracies)) > self.max_group_gap:
                said.append(f"group accuracies differ by {gap:.3f}, more than max_group_gap = {self.max_group_gap}.")
        if report.verdict == "shortcut" and not self.allow_shortcut:
            said.append("the model relies on a shortcut and allow_shortcut is false.")
        if report.verdict == "inconclusive" and self.inconclusive == "fail":
            said.append('the verdict is inconclusive and inconclusive = "fail".')
        return said


def read_gate(path: str | Path) -> Gate:
    """Read a gate file (TOML).

    Raises:
        ValueError: If the file is missing, not TOML, or holds an unknown key or a value out of range.
    """
    target = Path(path)
    known = ", ".join(Gate.model_fields)
    text = read_text(target, "gate file", f"write one with any of the keys {known}")
    try:
        demands = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ValueError(
            f"{target} is not TOML: {error}. A gate file has lines such as `min_worst_group = 0.8`."
        ) from None
    unknown = sorted(set(demands) - set(Gate.model_fields))
    if unknown:
        raise ValueError(f"{target} has the unknown key {unknown[0]!r}; known keys: {known}.")
    try:
        return Gate.model_validate(demands, strict=True)
    except ValidationError as error:
        raise ValueError(f"{target} cannot be used: {condensed(error)}.") from None
