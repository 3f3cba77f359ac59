"""How long an audit will take on this machine, said before it begins: a timed pass, a timed yardstick, and counts of work.

The constants are seconds of processor time of one thread on the machine where a yardstick of small products, factorisations and
steps of a network took `YARDSTICK`; here it is timed again, and everything is scaled by it. It is meant to be right to a factor of
two: how many iterations a fit needs is not known before.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

import torch
from torch import Tensor

from firstcue.auditing import remedies as repair
from firstcue.auditing.effort import Effort
from firstcue.auditing.prepare import Prepared
from firstcue.auditing.running import Run
from firstcue.auditing.seen import look_through
from firstcue.auditing.subject import Subject
from firstcue.layers import Head

Clock = Callable[[], float]

YARDSTICK = 0.0045
"""Seconds of the yardstick where the constants below were measured."""
TIMED_ROWS = 64
BACKWARD = 3
"""Passes that a gradient costs."""


def unsaid(sentence: str) -> None:
    """Tell nobody."""


@dataclass(frozen=True)
class Forecast:
    """What will be done, and about how long it will take here."""

    parts: dict[str, float]
    """Seconds by what they are spent on."""
    what: str

    @property
    def seconds(self) -> float:
        """Of everything."""
        return sum(self.parts.values())

    @property
    def sentence(self) -> str:
        """One line before the work.

        Example:
            >>> Forecast({"probing": 41.0}, "1 cue on 500 held-out rows").sentence
            '1 cue on 500 held-out rows: about 40 s on this machine.'
        """
        return f"{self.what}: about {_rounded(self.seconds)} on this machine."


@dataclass(frozen=True)
class Sizes:
    """What the cost of an audit depends on."""

    held: int
    train: int
    width: int
    """Features that the head reads; 0 without a head."""
    classes: int
    values: int
    """Of the cue with the most."""
    cues: int
    edits: bool = False
    layers: int = 0
    checkpoints: int = 0
    pixels: int = 0
    """Values of an image; 0 where inputs are none."""
    parameters: int = 0
    row: float = 0.0
    """Seconds of one row in one pass."""
    remedies: tuple[str, ...] = ()


def forecast(
    run: Run,
    data: Prepared,
    head: Head | None,
    checkpoints: int,
    wanted: Sequence[str] | None,
    clock: Clock = time.perf_counter,
) -> Forecast:
    """What an audit of a model will do, and about how long it will take.

    Args:
        run: Its model is timed on a few rows.
        data: Rows and cues.
        head: The model's last layer, if it has one.
        checkpoints: How many are followed.
        wanted: Remedies by name; None for those of the effort.
        clock: Seconds.
    """
    x, batches = data.held.x, [data.with_cue(cue)[1] for cue in data.cues]
    sizes = Sizes(
        held=len(data.held),
        train=len(data.train),
        width=0 if head is None else head.weight.shape[1],
        classes=data.held.num_classes,
        values=max((b.num_values for b in batches), default=2),
        cues=len(data.cues),
        edits=any(b.edit is not None for b in batches),
        layers=len(run.layers(head)),
        checkpoints=checkpoints,
        pixels=x[0].numel() if x.ndim == 4 else 0,
        parameters=sum(p.numel() for p in run.model.parameters()),
        row=_seconds_per_row(run, head, x, clock),
        remedies=() if head is None else _tried(run.effort, wanted, bool(data.cues), trains=True),
    )
    return _forecast(sizes, run.effort, measured_yardstick(clock) / YARDSTICK)


def forecast_embeddings(
    data: Prepared, subject: Subject, effort: Effort, wanted: Sequence[str] | None, clock: Clock = time.perf_counter
) -> Forecast:
    """The same for embeddings, whose rows need not be run."""
    batches = [data.with_cue(cue)[1] for cue in data.cues]
    tried = () if subject.head is None else _tried(effort, wanted, bool(data.cues), trains=False)
    sizes = Sizes(
        held=len(data.held),
        train=len(data.train),
        width=data.held.x.shape[1],
        classes=data.held.num_classes,
        values=max((b.num_values for b in batches), default=2),
        cues=len(data.cues),
        remedies=tried,
    )
    return _forecast(sizes, effort, measured_yardstick(clock) / YARDSTICK)


def _tried(effort: Effort, wanted: Sequence[str] | None, cued: bool, *, trains: bool) -> tuple[str, ...]:
    """Names of the remedies that are measured, and of those of the whole network that are rehearsed."""
    names = effort.tries(wanted, cued)
    methods = [m for m in repair.METHODS.values() if (not m.by_request if names is None else m.name in names)]
    measured = [m.name for m in methods if (cued or not m.needs_attribute) and (trains or not m.needs_train)]
    rehearsed = [name for name in repair.NEEDS_TRAINING if trains and (names is None or name in names)]
    return tuple(name for name in (*measured, *sorted(rehearsed)) if name != "as it is")


def measured_yardstick(clock: Clock = time.perf_counter) -> float:
    """Median seconds of a small piece of work of the kinds that an audit is made of."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(256, 128, generator=generator)
    weight = torch.randn(128, 128, generator=generator, requires_grad=True)
    symmetric = x.double().mT @ x.double()
    spans = []
    for _ in range(7):
        began = clock()
        with torch.enable_grad():
            for _ in range(4):
                torch.autograd.grad((x @ weight).relu().square().mean(), weight)
        torch.linalg.eigh(symmetric)
        spans.append(clock() - began)
    return median(spans)


def _seconds_per_row(run: Run, head: Head | None, x: Tensor, clock: Clock) -> float:
    """Of a second pass over a few rows: what is set up once is not counted."""
    part = x[: min(TIMED_ROWS, run.batch_size)]
    spans = []
    for _ in range(2):
        began = clock()
        look_through(run.model, head, part, (), torch.arange(0), len(part))
        spans.append(clock() - began)
    return spans[-1] / len(part)


def _forecast(s: Sizes, effort: Effort, scale: float) -> Forecast:
    """Seconds of every part: those of passes as timed, those of everything else scaled to this machine."""
    targets = [s.classes] + [s.values] * min(s.cues, 1)
    fixed = {
        "judging cues": max(s.cues, 1) * (0.1 + 4e-7 * s.held * s.width * s.values) + (0 if s.cues else _scan(s)),
        "probing": _probing(s, effort, targets),
        "describing": _describing(s, effort, targets),
        "following checkpoints": 0.2 * s.checkpoints,
        "repairing": sum(_repair(name, s) for name in s.remedies),
        "the rest": 0.5,
    }
    parts = {name: scale * seconds for name, seconds in fixed.items() if seconds}
    return Forecast({"passes": s.row * _passes(s, effort)} | parts, _what(s, effort))


def _passes(s: Sizes, effort: Effort) -> int:
    """Rows that the model is run over, a gradient counted as several."""
    probed, described = min(s.held, effort.probed_rows), min(s.held, effort.described_rows)
    edited = s.values * (s.held if s.remedies and s.held * s.values <= 50_000 else min(s.held, 2000)) if s.edits else 0
    asked = 0 if s.cues else 6000
    fresh = max(probed, described) + (min(s.train, 2000) if described else 0)
    learned = s.checkpoints * min(s.held, 1000) * (1 + (s.values if s.edits else 0))
    grouped = min(s.train, effort.gradient_rows * min(s.values, 8)) if "agreement" in effort.lenses and s.cues else 0
    gradients = BACKWARD * 2 * (1 + effort.gradient_draws) * grouped
    explained = 2 * BACKWARD * effort.explained * effort.steps if s.pixels else 0
    return s.held + edited + asked + fresh + learned + gradients + explained + min(s.train, effort.train_rows)


def _probe(rows: int, labels: int) -> float:
    """A linear, a quadratic and a strong probe."""
    return 0.1 + 3e-4 * min(rows, 1000) + 8e-5 * labels * min(rows, 1000)


def _probing(s: Sizes, effort: Effort, targets: list[int]) -> int | float:
    if not s.row:  # embeddings
        seen = min(s.held, 5000)
        return sum(_probe(seen, k) if "strong" in effort.probes else 0.05 for k in targets)
    layers = s.layers + (s.width > 0) if effort.layers else 0
    return layers * sum(_probe(min(s.held, effort.probed_rows), k) for k in targets)


def _describing(s: Sizes, effort: Effort, targets: list[int]) -> float:
    """Order, richness, agreement and simplicity, without their passes."""
    seconds = 0.0
    if "order of statistics" in effort.lenses and s.width:
        seconds += sum(0.2 + 3 * _probe(min(s.held // 2, 1000), k) for k in targets)
    if "richness" in effort.lenses and s.width:
        seconds += 0.3 + 1e-8 * s.width**3
    if "agreement" in effort.lenses and s.cues and s.row:
        groups = min(s.values, 8)
        seconds += 1.5 + 2e-7 * s.parameters * groups * (1 + effort.gradient_draws)
    if "simplicity" in effort.lenses and s.pixels:
        seconds += effort.explained * effort.steps * (1e-3 + 1e-6 * s.pixels) + 1e-3 * effort.measured_images
    return seconds


def _repair(name: str, s: Sizes) -> float:
    """A fit in each of five folds and one on all rows."""
    rows = min(s.held, 4000) if not s.row else s.held
    if name.startswith("erase"):
        return 0.03 + 1e-5 * rows
    if name in repair.NEEDS_TRAINING:
        return 0.6  # rehearsed on the last layer, on no more than some thousand rows
    if name == "and-mask":
        return 1 + 1e-3 * rows
    return (2 if "class-balanced" in name else 1) * (0.5 + 1e-4 * rows * s.classes)


def _scan(s: Sizes) -> float:
    """Looking for properties that nobody named, and for clusters."""
    return 3.0 + 5e-4 * min(s.train, 10_000)


def _what(s: Sizes, effort: Effort) -> str:
    """What will be done, in words."""
    cues = f"{s.cues} cue{'s' * (s.cues != 1)}" if s.cues else "Unnamed cues"
    done = [f"{cues} on {s.held:,} held-out rows"]
    done += [f"{s.layers + 1} layers"] if effort.layers and s.row else []
    done += [f"{s.checkpoints} checkpoints"] if s.checkpoints else []
    done += [f"{len(s.remedies)} remedies"] if s.remedies else []
    return f"{', '.join(done)} ({effort.name})"


def _rounded(seconds: float) -> str:
    if seconds < 90:
        return f"{max(1, round(seconds, -1 if seconds > 20 else 0)):.0f} s"
    return f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"
