"""Reports as an audit writes them: a shortcut, a clean one, embeddings only, nearly nothing, and hostile text."""

import math

import numpy as np

from firstcue.finding import (
    Environment,
    Finding,
    GroupRow,
    Groups,
    Interval,
    Moment,
    Order,
    Overall,
    Picture,
    Remedy,
    Report,
)
from firstcue.report.figures import picture

VERSIONS = {"firstcue": "0.1.0", "python": "3.11.2", "torch": "2.13.0+cpu", "numpy": "2.3.5", "scikit-learn": "1.8.0"}
HOSTILE = (
    "<script>alert('x')</script>",
    '"><img src=x onerror=alert(1)>',
    "</script><script>alert(2)</script>",
    "a" * 10_000,
    "背景は海です",
    "خلفية رملية",
    "abc\u202egnp.exe",
    "[bold red]markup[/bold red] | pipe ` tick * star _ under",
    "line\none\x00two\x1b[31mred",
    "{{ 7 * 7 }} & &amp; \u2028 ]]>",
)


def _row(group: int, y: str, attribute: str, n: int, right: int) -> GroupRow:
    p = (right + 1) / (n + 2)
    half = 1.96 * math.sqrt(p * (1 - p) / (n + 2))
    return GroupRow(
        group=group,
        y=y,
        attribute=attribute,
        n=n,
        accuracy=right / n,
        ci_low=max(p - half, 0),
        ci_high=min(p + half, 1),
    )


def _groups(right: tuple[int, int, int, int]) -> Groups:
    names = [("pullover", "0"), ("pullover", "1"), ("coat", "0"), ("coat", "1")]
    rows = tuple(_row(i, *names[i], 250, right[i]) for i in range(4))
    overall = sum(right) / 1000
    return Groups(
        by_group=rows,
        worst_group=min(rows, key=lambda r: r.accuracy),
        overall=Overall(accuracy=overall, ci_low=overall - 0.028, ci_high=overall + 0.028, n=1000),
        group_average=overall,
        train_weighted=min(1.0, overall + 0.2) if overall < 0.8 else overall,
        split="held-out rows",
        cue="digit",
    )


def _curves(cue_level: float, core_level: float) -> tuple[Moment, ...]:
    made = []
    for step in (0, 1, 2, 4, 8, 16, 32, 63, 126, 252, 504):
        rise = {
            "used/digit": cue_level / (1 + math.exp(-2.2 * (math.log1p(step) - 2.4))),
            "used/core": core_level / (1 + math.exp(-1.6 * (math.log1p(step) - 4.6))),
            "decodable/digit": 0.93 + 0.07 / (1 + math.exp(-1.6 * (math.log1p(step) - 2))),
            "decodable/core": 0.72 + 0.16 / (1 + math.exp(-1.6 * (math.log1p(step) - 4.2))),
            "accuracy/worst": 0.02 + 0.33 / (1 + math.exp(-2.2 * (math.log1p(step) - 5))),
            "accuracy/overall": 0.5 + 0.22 / (1 + math.exp(-2.2 * (math.log1p(step) - 3))),
        }
        made += [
            Moment(step=step, curve=c, value=v, ci_low=max(v - 0.03, 0), ci_high=min(v + 0.03, 1))
            for c, v in rise.items()
        ]
    return tuple(made)


def _examples() -> tuple[Picture, ...]:
    rng = np.random.default_rng(0)
    ramp = np.linspace(0.2, 0.8, 56)[:, None] * np.ones((1, 28))
    images = [np.clip(ramp + 0.02 * rng.integers(0, 5, (56, 28)), 0, 1) for _ in range(6)]
    return (
        picture(
            images, "Rows where the digit misleads", "Coats carrying digit 0.", "Six coats below a digit 0.", lead=True
        ),
        picture(
            images,
            "The same rows, digit edited",
            "Only the digit was changed.",
            "Six coats below a digit 1.",
            finding="use/digit/input/edit",
        ),
    )


SPECTRA = {
    "directions": [1, 2, 3, 4, 6, 8, 12, 16, 24, 32],
    "size": [1.0, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005, 0.002, 0.001],
    "targets": {
        "class": [0.1, 0.3, 0.5, 0.6, 0.65, 0.7, 0.72, 0.75, 0.78, 0.8],
        "digit": [0.8, 0.9, 0.92, 0.93, 0.94, 0.95, 0.96, 0.97, 0.98, 0.99],
    },
    "head": [0.6, 0.9, 0.95, 0.97, 0.98, 0.99, 0.99, 1.0, 1.0, 1.0],
}
AGREEMENT = {
    "environments": ["0", "1"],
    "kept": {"value": 0.36, "ci_low": 0.26, "ci_high": 0.47, "random_groups": 0.59},
    "only_one_group": {"value": 0.23, "ci_low": 0.0, "ci_high": 0.48, "random_groups": 0.01},
    "expected_of_random_signs": 0.26,
    "histogram": {"groups": [0.5, 0.14, 0.36], "random_groups": [0.3, 0.11, 0.59], "random_signs": [0.5, 0.24, 0.26]},
    "n": 500,
}


def shortcut() -> Report:
    """The demo at strength .95."""
    edit = Finding(
        id="use/digit/input/edit",
        cue="digit",
        kind="reliance by edit",
        layer="input",
        status="relies",
        severity="severe",
        encoded=Interval(
            value=0.995, ci_low=0.985, ci_high=0.999, n=1000, baseline=0.51, baseline_kind="shuffled labels"
        ),
        associated=Interval(value=0.9, ci_low=0.887, ci_high=0.912, n=3600, baseline=0.0, baseline_kind="independent"),
        relies=Interval(
            value=0.512, ci_low=0.473, ci_high=0.551, n=1000, baseline=0.004, baseline_kind="digit of the same value"
        ),
        closed=Interval(value=0.89, ci_low=0.81, ci_high=0.97, n=1000, baseline=0.01, baseline_kind="random direction"),
        value=0.512,
        ci_low=0.473,
        ci_high=0.551,
        n=1000,
        baseline=0.0,
        meaning="Changing only the digit changes the accuracy by 51 points: the model decides by the digit.",
        source="https://arxiv.org/abs/2403.03375",
        details={
            "gap": 0.55,
            "gap_ci_low": 0.49,
            "gap_ci_high": 0.6,
            "gap_after_erasure": 0.06,
            "control_p": 0.005,
            "draws": 199,
            "share": 0.93,
        },
    )
    random = Finding(
        id="use/stitching/input/erasure",
        cue="stitching",
        kind="reliance by erasure",
        layer="fc1",
        status="no shortcut found",
        encoded=Interval(value=0.97, ci_low=0.95, ci_high=0.98, n=1000, baseline=0.5, baseline_kind="shuffled labels"),
        associated=Interval(value=0.008, ci_low=0.0, ci_high=0.02, n=3600),
        value=-0.004,
        ci_low=-0.03,
        ci_high=0.021,
        n=1000,
        baseline=0.0,
        meaning="Stitching can be read from the features but does not go with the label in training.",
        source="Belrose et al. 2023, arXiv:2306.03819",
    )
    return Report(
        title="pullover or coat, digit on top",
        verdict="shortcut",
        findings=(edit, random),
        groups=_groups((247, 138, 78, 248)),
        learning_order=(
            Order(cue="digit", step_decodable=0, step_used=8),
            Order(cue="core", step_decodable=63, step_used=126),
            Order(cue="stitching", step_decodable=4, step_used=None),
        ),
        timeline=_curves(0.512, 0.62),
        richness={"dlr": {"value": 0.02, "ci_low": 0.01, "ci_high": 0.03}, "dlr_untrained": 0.49, "spectra": SPECTRA},
        agreement=AGREEMENT,
        remedies=(
            Remedy(
                name="as trained",
                worst_group=0.31,
                ci_low=0.25,
                ci_high=0.37,
                overall=0.71,
                group_average=0.71,
                n=500,
                needs_group_labels=False,
                unchanged=True,
            ),
            Remedy(
                name="last-layer retraining (DFR)",
                worst_group=0.84,
                ci_low=0.79,
                ci_high=0.88,
                overall=0.872,
                group_average=0.872,
                n=500,
                needs_group_labels=True,
                seconds=0.8,
                selected=True,
            ),
            Remedy(
                name="class-balanced last layer",
                worst_group=0.42,
                ci_low=0.36,
                ci_high=0.48,
                overall=0.74,
                group_average=0.74,
                n=500,
                needs_group_labels=False,
                seconds=0.5,
            ),
            Remedy(
                name="digit erased, bias re-centred",
                worst_group=0.82,
                ci_low=0.77,
                ci_high=0.87,
                overall=0.86,
                group_average=0.86,
                n=500,
                needs_group_labels=True,
                seconds=0.04,
                note="folds into the head; no labels at test time",
            ),
            Remedy(
                name="trained on balanced groups",
                worst_group=0.67,
                ci_low=0.61,
                ci_high=0.73,
                overall=0.69,
                n=500,
                needs_group_labels=True,
                seconds=14.2,
            ),
        ),
        pictures=_examples(),
        notes=(
            "Held-out rows: 1,000 at strength 0.5, split 400 fit, 200 choose, 400 report.",
            "No cell has fewer than 50 rows.",
        ),
        limits=(
            "Only cues that were named or discovered were tested; another shortcut may remain.",
            "The promise of a repair holds for data like the held-out rows.",
        ),
        environment=Environment(
            versions=VERSIONS, seed=0, device="cpu, 2 threads", command="firstcue demo --seed 0 --out firstcue-demo"
        ),
    )


def clean() -> Report:
    """The same data at strength .5: encoded and unused."""
    edit = Finding(
        id="use/digit/input/edit",
        cue="digit",
        kind="reliance by edit",
        layer="input",
        status="no shortcut found",
        encoded=Interval(value=0.99, ci_low=0.98, ci_high=0.995, n=1000, baseline=0.5, baseline_kind="shuffled labels"),
        associated=Interval(value=0.004, ci_low=0.0, ci_high=0.015, n=3600),
        relies=Interval(value=0.003, ci_low=-0.012, ci_high=0.017, n=1000),
        value=0.003,
        ci_low=-0.012,
        ci_high=0.017,
        n=1000,
        baseline=0.0,
        meaning="The digit can be read from the features, but changing it leaves the decisions as they are.",
    )
    return Report(
        title="pullover or coat, digit at random",
        verdict="no shortcut found",
        findings=(edit,),
        groups=_groups((221, 219, 222, 217)),
        richness={
            "dlr": 0.31,
            "used": {"value": 2.1, "ci_low": 1.9, "ci_high": 2.3, "baseline": 40.0},
            "rank": 64,
            "spectra": SPECTRA,
        },
        agreement=AGREEMENT,
        simplicity={"density": "dct", "bits_per_value_of_coat, 0": 5.9, "bits_per_value_of_coat, 1": 5.5},
        environment=Environment(versions=VERSIONS, seed=1, command="firstcue audit net:make data.npz"),
    )


def embeddings() -> Report:
    """Embeddings without outputs: nothing can be intervened on."""
    finding = Finding(
        id="use/site/embedding/gap",
        cue="site",
        kind="accuracy gap",
        status="inconclusive",
        encoded=Interval(value=0.83, ci_low=0.8, ci_high=0.86, n=600, baseline=0.34, baseline_kind="shuffled labels"),
        associated=Interval(value=0.31, ci_low=0.27, ci_high=0.35, n=600),
        value=0.08,
        ci_low=0.01,
        ci_high=0.15,
        n=600,
        meaning="A linear model on these embeddings serves rows that go against the site worse: reliance or harder rows?",
    )
    rows = tuple(
        _row(3 * c + a, f"class {c}", f"hospital {a}", 60 + 10 * a, 40 + 9 * a + c) for c in range(3) for a in range(3)
    )
    groups = Groups(by_group=rows, worst_group=rows[0], overall=Overall(accuracy=0.78, n=630), too_small=(8,))
    return Report(verdict="inconclusive", findings=(finding,), groups=groups, limits=("No model was given.",))


def empty() -> Report:
    """An audit that could measure nothing."""
    return Report(verdict="inconclusive")


def hostile() -> Report:
    """Every text field filled by somebody who wants to break the page."""
    findings = tuple(
        Finding(
            id=f"use/{i}/{label[:90]}",
            cue=label,
            kind=label,
            layer=label,
            status=status,
            meaning=label,
            source=label,
            value=0.3,
            ci_low=0.2,
            ci_high=0.4,
            n=10,
            details={label[:200]: label, "nan": float("nan")},
        )
        for i, (label, status) in enumerate(
            zip(
                HOSTILE,
                ["relies", "inconclusive", "inferred", "not identifiable", "no shortcut found"] * 2,
                strict=True,
            )
        )
    )
    rows = tuple(
        GroupRow(
            group=i, y=label, attribute=HOSTILE[-1 - i], n=20 + i, accuracy=0.05 * i, ci_low=0.0, ci_high=0.05 * i + 0.2
        )
        for i, label in enumerate(HOSTILE)
    )
    return Report(
        title=HOSTILE[2],
        verdict="shortcut",
        summary_line=HOSTILE[0] + HOSTILE[6],
        findings=findings,
        groups=Groups(by_group=rows, worst_group=rows[0], overall=Overall(accuracy=0.4, n=200), split=HOSTILE[1]),
        learning_order=tuple(Order(cue=label, step_used=i) for i, label in enumerate(HOSTILE)),
        timeline=tuple(
            Moment(step=s, curve=f"used/{label}", value=0.1 * i) for i, label in enumerate(HOSTILE) for s in (0, 9)
        ),
        richness={
            HOSTILE[0]: HOSTILE[1],
            "more": {"value": 1.0, HOSTILE[2]: HOSTILE[3]},
            "list": [HOSTILE[0], 1, None],
            "spectra": {"directions": [1, 5], "size": [1.0, 0.1], "targets": {label: [0.1, 0.9] for label in HOSTILE}},
        },
        agreement={HOSTILE[1]: HOSTILE[0], "environments": list(HOSTILE), "kept": HOSTILE[2], "histogram": HOSTILE[3]},
        simplicity={f"bits_per_value_of_{label}": float(i) for i, label in enumerate(HOSTILE)},
        remedies=tuple(
            Remedy(name=label, note=label, worst_group=0.5, needs_group_labels=False, worse=(label,))
            for label in HOSTILE
        ),
        pictures=(picture([np.eye(4)], HOSTILE[0], HOSTILE[1], HOSTILE[1]),),
        notes=HOSTILE,
        limits=HOSTILE,
        environment=Environment(versions={HOSTILE[0]: HOSTILE[2]}, device=HOSTILE[1], command=HOSTILE[2]),
    )


SAMPLES = {"shortcut": shortcut, "clean": clean, "embeddings": embeddings, "empty": empty, "hostile": hostile}
