"""How often the verdict is right about small networks whose reliance is known: false alarms, precision and recall.

claim   of networks that do not rely on a cue, clean ones and ones that encode it, at most 5 % are accused: with the attribute and
        an edit, with the attribute and erasure alone, and without the attribute
false   if a line printed below says MISSED: the lower Wilson bound of a rate of false alarms is above 5 %

A case is one network of its own, trained for about half a second on the shipped garments (pullover or coat, 14 x 14 pixels) under
one of seven cues, or on sentences of generated tokens. `planted` networks saw the cue agree with the label in a share of .6 to .99
of their 1,500 rows, `clean` ones in half; `unused` ones saw every row with both values, were taught to tell the value, so that it is
encoded for certain, and to answer alike with both; the rows shown to the audit pair it with the label all the same. Cues are easy or hard to see, held-out
rows (1,000) pair cue and label in a share of .5 or .7. What a network relies on in truth is measured, not assumed: accuracy with
the agreeing minus accuracy with the conflicting value, on 2,500 further cores. Above .05 it relies, below it does not.

About half a minute a dozen cases; `--fast` runs two of each kind and cue. `--cases FILE` appends to and goes on from a file.
"""

import argparse
import json
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, cross_entropy

import firstcue as fc
from firstcue.batch import Batch
from firstcue.data import read, shipped
from firstcue.spurious import overlays, tokens
from firstcue.spurious.compose import dominoes, overlay
from firstcue.spurious.cues import Paint, patch, stripes, tint
from firstcue.spurious.intervals import wilson
from firstcue.spurious.resampling import column_attribute

KINDS = ("planted", "clean", "unused")
ROUTES = ("edit", "erasure", "no attribute")
STRENGTHS = (0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
RELIES = 0.05
ROWS = {"train": 1500, "held": 1000, "truth": 2500}
WORDS, LENGTH = 60, 12

Bed = Callable[[Batch, float, int], Batch]
"""Cores, strength and seed in; rows with a cue and its editor out."""


@dataclass(frozen=True)
class Case:
    """What is audited, and the truth about it."""

    model: nn.Module
    train: Batch
    held: Batch
    reliance: float


# cores


@cache
def garments() -> Batch:
    """6,000 pullovers and coats at 14 x 14."""
    found = shipped()
    return Batch(avg_pool2d(found.x, 2), found.y, classes=found.classes)


@cache
def table() -> Batch:
    """The same at 4 x 4, as a table of 16 columns."""
    found = shipped()
    return Batch(avg_pool2d(found.x, 7).flatten(1), found.y, classes=found.classes)


@cache
def drawn_digits() -> Batch:
    """Images to put on top."""
    found = read("builtin:mnist-5k")
    return Batch(avg_pool2d(found.x.float(), 2), found.y, classes=found.classes)


@cache
def sentences(hard: bool) -> Batch:
    """Tokens of which some are a little more usual in one class."""
    generator = torch.Generator().manual_seed(7)
    y = torch.arange(6000) % 2
    usual = (torch.randn(2, WORDS, generator=generator) * (0.25 if hard else 0.5)).softmax(dim=1)
    x = 1 + torch.multinomial(usual[y], LENGTH, replacement=True, generator=generator)
    return Batch(x, y, classes=("bad", "good"))


# beds: easy and hard


def with_digits(cores: Batch, strength: float, seed: int, pair: tuple[int, int]) -> Batch:
    pool = drawn_digits()
    of_pair = [pool.rows((pool.y == digit).nonzero()[:, 0]) for digit in pair]
    top = Batch(
        torch.cat([b.x for b in of_pair]),
        torch.repeat_interleave(torch.arange(2), torch.tensor([len(b) for b in of_pair])),
    )
    return dominoes(cores, replace(top, classes=tuple(map(str, pair))), strength, seed=seed)


def painted(cores: Batch, strength: float, seed: int, paint: Paint) -> Batch:
    return overlay(cores, paint, strength, seed=seed)


def brightness(levels: tuple[float, float]) -> Paint:
    """The brightest pixel of every image at one of two levels."""
    return Paint("brightness", tuple(f"{level:g}" for level in levels), partial(_lit, levels=torch.tensor(levels)))


def _lit(x: Tensor, value: Tensor, levels: Tensor) -> Tensor:
    return x / x.amax(dim=(1, 2, 3), keepdim=True).clamp(min=1e-6) * levels[value][:, None, None, None]


def with_column(cores: Batch, strength: float, seed: int, noise: float) -> Batch:
    """A further column, minus or plus one and noise, whose sign goes with the label."""
    generator = torch.Generator().manual_seed(seed)
    agrees = torch.rand(len(cores), generator=generator) < strength
    side = torch.where(agrees, cores.y, 1 - cores.y)
    size = (1 + noise * torch.randn(len(cores), generator=generator)).abs() + 0.01
    x = torch.cat([cores.x, (size * (2 * side - 1))[:, None]], dim=1)
    return column_attribute(Batch(x, cores.y, classes=cores.classes), x.shape[1] - 1, name="last column", at=0.0)


def with_token(cores: Batch, strength: float, seed: int, place: tokens.Place) -> Batch:
    return tokens.insert_tokens(cores, strength, place=place, first_id=WORDS + 1, seed=seed)


def beds() -> dict[str, tuple[Bed, Bed]]:
    """By name, easy and hard."""
    return {
        "dominoes": (partial(with_digits, pair=(0, 1)), partial(with_digits, pair=(3, 8))),
        "patch": (partial(painted, paint=patch(size=4)), partial(painted, paint=patch(size=2, corner="top right"))),
        "colours": (
            partial(painted, paint=tint()),
            partial(painted, paint=overlays.background(magnitude=0.1, variance="high", saturation=0.5)),
        ),
        "stripes": (
            partial(painted, paint=stripes(height=4)),
            partial(painted, paint=overlays.texture(width=2, magnitude=0.3)),
        ),
        "brightness": (
            partial(painted, paint=brightness((0.5, 1.0))),
            partial(painted, paint=brightness((0.85, 1.0))),
        ),
        "columns": (partial(with_column, noise=0.3), partial(with_column, noise=1.0)),
        "tokens": (partial(with_token, place="start"), partial(with_token, place="random")),
    }


def cores_of(bed: str, hard: bool) -> Batch:
    return table() if bed == "columns" else sentences(hard) if bed == "tokens" else garments()


# networks


class Network(nn.Module):
    """Features and a linear head."""

    def __init__(self, body: nn.Module, outputs: int = 2) -> None:
        super().__init__()
        self.body, self.head = body, nn.Linear(32, outputs)

    def forward(self, x: Tensor) -> Tensor:
        answer: Tensor = self.head(self.body(x))
        return answer


def body(like: Tensor) -> nn.Module:
    if not like.dtype.is_floating_point:
        return nn.Sequential(nn.EmbeddingBag(WORDS + 3, 16), nn.Linear(16, 32), nn.ReLU())
    if like.ndim == 2:
        return nn.Sequential(nn.Linear(like.shape[1], 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU())
    convolutions = nn.Sequential(
        nn.Conv2d(like.shape[1], 8, 3, stride=2), nn.ReLU(), nn.Conv2d(8, 16, 3, stride=2), nn.ReLU(), nn.Flatten()
    )
    with torch.no_grad():
        width = convolutions(like[:1]).shape[1]
    return nn.Sequential(convolutions, nn.Linear(width, 32), nn.ReLU())


def trained(x: Tensor, y: Tensor, seed: int, *, epochs: int = 6) -> Network:
    """On the rows as they are."""
    return _fitted(x, seed, epochs, lambda model, part: cross_entropy(model(x[part]), y[part]))


def trained_to_ignore(batch: Batch, seed: int, *, epochs: int = 6) -> Network:
    """To know the value of the cue before the last layer, and to give the same answer with both values."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed + 1)
        teller = nn.Linear(32, 2)
    assert batch.edit is not None
    both = [batch.edit(batch.x.clone(), value) for value in (0, 1)]

    def loss(model: Network, part: Tensor) -> Tensor:
        features = model.body(torch.cat([x[part] for x in both]))
        answers, y = model.head(features), batch.y[part].repeat(2)
        apart = (answers[: len(part)] - answers[len(part) :]).square().mean()
        told = cross_entropy(teller(features), torch.arange(2).repeat_interleave(len(part)))
        return cross_entropy(answers, y) + told + apart

    return _fitted(both[0], seed, epochs, loss, [*teller.parameters()])


def _fitted(
    like: Tensor,
    seed: int,
    epochs: int,
    loss: Callable[[Network, Tensor], Tensor],
    further: Sequence[nn.Parameter] = (),
) -> Network:
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Network(body(like))
    optimizer = torch.optim.Adam([*model.parameters(), *further], lr=3e-3)
    for _ in range(epochs):
        for part in torch.randperm(len(like), generator=generator).split(64):
            optimizer.zero_grad(set_to_none=True)
            loss(model, part).backward()
            optimizer.step()
    return model.eval()


def shown_both(batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """Every row with both values of the cue; its label; the value."""
    assert batch.edit is not None
    x = torch.cat([batch.edit(batch.x.clone(), v) for v in (0, 1)])
    return x, batch.y.repeat(2), torch.arange(2).repeat_interleave(len(batch))


def true_reliance(model: nn.Module, batch: Batch) -> float:
    """Accuracy with the agreeing value minus accuracy with the other, over all rows, classes weighing the same."""
    x, y, value = shown_both(batch)
    with torch.no_grad():
        right = (torch.cat([model(part) for part in x.split(2000)]).argmax(dim=1) == y).double()
    return sum(float(right[(y == c) & (value == c)].mean() - right[(y == c) & (value != c)].mean()) for c in (0, 1)) / 2


# cases


@dataclass(frozen=True)
class Setting:
    """What tells one case from another."""

    kind: str
    bed: str
    hard: bool
    strength: float
    held: float
    seed: int


def settings(per_kind: int) -> Iterator[Setting]:
    """Cues, then hardness, then strengths in turn."""
    names = list(beds())
    for i in range(per_kind):
        bed, rest = names[i % len(names)], i // len(names)
        strength = STRENGTHS[(rest // 2 + i) % len(STRENGTHS)]
        for kind in KINDS:
            yield Setting(kind, bed, bool(rest % 2), 0.5 if kind == "clean" else strength, (0.5, 0.7)[rest // 2 % 2], i)


def made(setting: Setting) -> Case:
    """Rows that share no core, and the network."""
    cores = cores_of(setting.bed, setting.hard)
    generator = torch.Generator().manual_seed(10_000 + setting.seed)
    parts = dict(
        zip(
            ROWS,
            torch.randperm(len(cores), generator=generator)[: sum(ROWS.values())].split(list(ROWS.values())),
            strict=True,
        )
    )
    make = beds()[setting.bed][setting.hard]
    rows = {
        name: make(cores.rows(at.sort().values), strength, 3 * setting.seed + i)
        for i, ((name, at), strength) in enumerate(
            zip(parts.items(), (setting.strength, setting.held, 0.5), strict=True)
        )
    }
    train = rows["train"]
    ignores = setting.kind == "unused"
    model = trained_to_ignore(train, setting.seed) if ignores else trained(train.x, train.y, setting.seed)
    return Case(model, train, rows["held"], true_reliance(model, rows["truth"]))


def without(batch: Batch, *, attribute: bool) -> Batch:
    """Without the editor, and without the attribute too."""
    if not attribute:
        return Batch(batch.x, batch.y, classes=batch.classes)
    return Batch(batch.x, batch.y, attribute=batch.attribute, classes=batch.classes, values=batch.values, cue=batch.cue)


def verdicts(case: Case, seed: int, routes: Sequence[str] = ROUTES) -> dict[str, str]:
    """The verdict by each route."""
    found = {}
    for route in routes:
        if route == "edit":
            train, held = case.train, case.held
        else:
            train, held = (without(b, attribute=route == "erasure") for b in (case.train, case.held))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            report = fc.audit(case.model, train, held_out=held, remedies=(), effort="fast", seed=seed)
        found[route] = report.verdict
    return found


def judged(setting: Setting, routes: Sequence[str] = ROUTES) -> dict[str, Any]:
    case = made(setting)
    return {**vars(setting), "reliance": round(case.reliance, 4), **verdicts(case, setting.seed, routes)}


# tables


def truth(row: dict[str, Any]) -> str:
    """Planted networks that turn out not to rely on their cue are innocent too, and clean ones may turn out guilty."""
    if row["reliance"] > RELIES:
        return "relies"
    return "clean" if row["kind"] == "clean" else "encoded, unused"


def share(hits: int, n: int) -> str:
    if n == 0:
        return "0 of 0"
    low, high = wilson(hits, n)
    return f"{hits} of {n} ({hits / n:.1%}, {low:.1%} to {high:.1%})"


def summary(every: list[dict[str, Any]]) -> bool:
    """Print accusations by truth and route, then precision and recall; whether false alarms stay at 5 %."""
    held = True
    for route in ROUTES:
        rows = [row for row in every if route in row]
        print(f"\n{route}")
        for kind in ("clean", "encoded, unused"):
            of_kind = [row for row in rows if truth(row) == kind]
            accused = sum(row[route] == "shortcut" for row in of_kind)
            fine = not of_kind or wilson(accused, len(of_kind))[0] <= 0.05
            held &= fine
            print(f"  accused, {kind}: {share(accused, len(of_kind))}  {'held' if fine else 'MISSED'}")
        guilty = [row for row in rows if truth(row) == "relies"]
        flagged = [row for row in rows if row[route] == "shortcut"]
        print(f"  precision: {share(sum(truth(row) == 'relies' for row in flagged), len(flagged))}")
        print(f"  recall: {share(sum(row[route] == 'shortcut' for row in guilty), len(guilty))}")
        for name, low, high in (
            ("slight, .05 to .10", 0.05, 0.1),
            ("clear, .10 to .25", 0.1, 0.25),
            ("severe", 0.25, 2),
        ):
            some = [row for row in guilty if low < row["reliance"] <= high]
            print(f"    {name}: {share(sum(row[route] == 'shortcut' for row in some), len(some))}")
        cleared = sum(row[route] == "no shortcut found" for row in guilty)
        print(f"  relies, and 'no shortcut found': {share(cleared, len(guilty))}")
    print(
        "\nby cue, with truth above or below .05: accused of those that rely / of the others; edit, erasure, no attribute"
    )
    for bed in beds():
        mine = [row for row in every if row["bed"] == bed]
        guilty, others = ([r for r in mine if (truth(r) == "relies") is wanted] for wanted in (True, False))
        parts = [
            f"{sum(r.get(route) == 'shortcut' for r in guilty)}/{sum(r.get(route) == 'shortcut' for r in others)}"
            for route in ROUTES
        ]
        print(f"  {bed:10} {len(guilty):3} rely, {len(others):3} do not: {', '.join(parts)}")
    return held


def kept(file: Path | None) -> dict[tuple[str, int], dict[str, Any]]:
    """The cases of a file by kind and seed; what a later line says of a case is added to the earlier ones."""
    cases: dict[tuple[str, int], dict[str, Any]] = {}
    lines = file.read_text().splitlines() if file is not None and file.exists() else []
    for row in map(json.loads, lines):
        cases.setdefault((row["kind"], row["seed"]), {}).update(row)
    return cases


def main(
    fast: bool = False, per_kind: int = 210, file: Path | None = None, part: str = "0/1", report: bool = True
) -> int:
    """Run what the file does not hold yet, and print the tables; 1 if a claim is false."""
    cases = kept(file)
    mine, parts = map(int, part.split("/"))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for setting in settings(14 if fast else per_kind):
            case = cases.setdefault((setting.kind, setting.seed), {})
            routes = [route for route in ROUTES if route not in case]
            if not routes or setting.seed % parts != mine:
                continue
            case.update(judged(setting, routes))
            if file is not None:
                with file.open("a") as out:
                    out.write(json.dumps(case) + "\n")
    finally:
        torch.set_num_threads(threads)
    return int(not summary([case for case in cases.values() if case])) if report else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="False alarms, precision and recall of the verdict on small networks.")
    parser.add_argument("--fast", action="store_true", help="two networks of each kind and cue")
    parser.add_argument("--per-kind", type=int, default=210, help="networks of each kind")
    parser.add_argument("--cases", dest="file", type=Path, help="a file of cases to go on from")
    parser.add_argument("--part", default="0/1", help="i/n: every n-th case only, to share the work")
    sys.exit(main(**vars(parser.parse_args())))
