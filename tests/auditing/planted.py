"""Cheap cases with a known answer: rows made of a core, a cue and noise, and a linear head that uses the cue or does not."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from firstcue.auditing.cue import findings, measure_cue
from firstcue.auditing.subject import Subject
from firstcue.batch import Batch
from firstcue.finding import Report
from firstcue.layers import Head

SIZE = 3.0
"""Distance of a cue's value from zero, in units where its noise is 0.3: strongly encoded."""


@dataclass(frozen=True)
class Case:
    train: Batch
    held: Batch
    head: Head

    def subject(self, edit: bool) -> Subject:
        return Subject(self.head(self.held.x), self.held.x, self.head, self.head if edit else None)

    def model(self) -> nn.Linear:
        layer = nn.Linear(self.head.weight.shape[1], self.head.weight.shape[0])
        layer.load_state_dict({"weight": self.head.weight, "bias": self.head.bias})
        return layer

    def finding(self, *, edit: bool, seed: int = 0, draws: int = 199):
        held = self.held if edit else self.held.with_attribute(self.held.attribute)
        if not edit:
            held = Batch(
                held.x, held.y, attribute=held.attribute, classes=held.classes, values=held.values, cue=held.cue
            )
        subject = self.subject(edit)
        return findings([measure_cue(self.train, held, subject, seed=seed, draws=draws)], {}, subject, "penultimate")[0]


def table(strength: float, classes: int = 2, values: int = 2) -> np.ndarray:
    """p(a|y): the value that goes with the class has `strength`, the others share the rest."""
    t = np.full((classes, values), (1 - strength) / (values - 1))
    t[np.arange(classes), np.arange(classes) % values] = strength
    return t


def rows(
    p: np.ndarray, n: int, rng: np.random.Generator, *, core_noise: float = 1.0, harder: np.ndarray | None = None
) -> Batch:
    """`n` rows whose cue follows `p(a|y)`; cells marked in `harder` get noisier cores."""
    classes, values = p.shape
    y = np.arange(n) % classes
    a = (rng.random(n)[:, None] > p.cumsum(axis=1)[y][:, :-1]).sum(axis=1)
    noise = np.full(n, core_noise) if harder is None else np.where(harder[y, a], 2.2 * core_noise, core_noise)
    core = 1.6 * np.eye(classes)[y] + noise[:, None] * rng.normal(size=(n, classes))
    cue = SIZE * np.eye(values)[a] + 0.3 * rng.normal(size=(n, values))
    x = torch.tensor(np.concatenate([core, cue, rng.normal(size=(n, 6))], axis=1), dtype=torch.float32)

    def edit(inputs: Tensor, value: int) -> Tensor:
        inputs[:, classes : classes + values] = SIZE * torch.eye(values)[value]
        return inputs

    names = tuple(str(i) for i in range(classes)), tuple(f"v{i}" for i in range(values))
    return Batch(x, torch.tensor(y), attribute=torch.tensor(a), classes=names[0], values=names[1], cue="cue", edit=edit)


def fitted_head(batch: Batch, *, uses: bool) -> Head:
    """A logistic head on raw rows, which takes the cue, or one that is shown rows without it and cannot."""
    from sklearn.linear_model import LogisticRegression

    x = batch.x.clone()
    if not uses:
        x[:, batch.num_classes : batch.num_classes + batch.num_values] = 0
    fit = LogisticRegression(C=1.0).fit(x.numpy(), batch.y.numpy())
    w, b = torch.tensor(fit.coef_), torch.tensor(fit.intercept_)
    if len(w) == 1:
        w, b = torch.cat([torch.zeros_like(w), w]), torch.cat([torch.zeros_like(b), b])
    return Head("head", w.float(), b.float())


def case(
    train_table: np.ndarray,
    held_table: np.ndarray | None = None,
    *,
    seed: int,
    uses: bool = True,
    n_train: int = 3000,
    n_held: int = 1500,
    harder: np.ndarray | None = None,
) -> Case:
    """Training rows by `train_table`, held-out rows by `held_table` (uniform by default), and a head fitted to the former."""
    rng = np.random.default_rng(seed)
    held_table = np.full_like(train_table, 1 / train_table.shape[1]) if held_table is None else held_table
    train, held = rows(train_table, n_train, rng), rows(held_table, n_held, rng, harder=harder)
    return Case(train, held, fitted_head(train, uses=uses))


def timeless(report: Report) -> Report:
    """The report without what a clock said."""
    environment = report.environment.model_copy(update={"seconds": None, "seconds_expected": None})
    remedies = tuple(r.model_copy(update={"seconds": None}) for r in report.remedies)
    return report.model_copy(update={"environment": environment, "remedies": remedies})
