"""The page: self-contained, true to the JSON, harmless whatever the labels, linear in the findings."""

import json
import re
from functools import cache
from html.parser import HTMLParser

import numpy as np
import pytest
from report_samples import HOSTILE, SAMPLES, shortcut

from firstcue.finding import Finding, Interval, Order, Remedy, Report
from firstcue.report.figures import picture
from firstcue.report.html import page

VOID = {"rect", "meta", "link", "br", "img", "hr", "input", "path", "line", "circle", "text"}
LOADING = {("script", "src"), ("link", "href"), ("img", "src"), ("iframe", "src"), ("object", "data"), ("use", "href")}


class Reading(HTMLParser):
    """Every tag with its attributes, and the text outside of style and script."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {k: v or "" for k, v in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {k: v or "" for k, v in attrs}))

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-3:]}"
            self.open.pop()

    def handle_data(self, data: str) -> None:
        if not {"style", "script"} & set(self.open):
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).replace("\N{NO-BREAK SPACE}", " ").split())


def embedded(html: str) -> str:
    return re.findall(r'<script type="application/json" id="report">(.*?)</script>', html, flags=re.DOTALL)[0]


@cache
def shown(name: str) -> tuple[str, Reading]:
    """The page of a sample, made once."""
    html = page(SAMPLES[name]())
    return html, Reading(html)


every_sample = pytest.mark.parametrize("name", SAMPLES)


@every_sample
def test_the_embedded_json_equals_the_artefact(name: str) -> None:
    assert json.loads(embedded(shown(name)[0])) == json.loads(SAMPLES[name]().to_json())


@every_sample
def test_no_part_of_the_page_is_loaded_from_elsewhere(name: str) -> None:
    html, read = shown(name)
    loads = [attrs[a] for tag, attrs in read.tags for t, a in LOADING if tag == t and a in attrs]
    assert all(source.startswith("data:") for source in loads)
    assert "@import" not in html and "url(" not in html.split("</style>")[0]
    assert "default-src 'none'" in html


@every_sample
def test_elements_are_closed_in_order_and_ids_are_unique(name: str) -> None:
    read = shown(name)[1]
    assert read.open == []
    ids = [attrs["id"] for _, attrs in read.tags if "id" in attrs]
    assert len(ids) == len(set(ids))


@every_sample
def test_figures_and_tables_have_text_alternatives(name: str) -> None:
    html, read = shown(name)
    for tag, attrs in read.tags:
        if tag == "svg":
            assert attrs.get("aria-hidden") == "true" or (attrs.get("role") == "img" and attrs["aria-label"])
        if tag == "img":
            assert "alt" in attrs
        if tag == "th":
            assert attrs["scope"] in ("row", "col")
    assert html.count("<table") == html.count("<caption")


def test_hostile_labels_are_text_and_nothing_else() -> None:
    read = shown("hostile")[1]
    scripts = [attrs for tag, attrs in read.tags if tag == "script"]
    assert scripts == [{"type": "application/json", "id": "report"}]
    assert not any(name.startswith("on") for _, attrs in read.tags for name in attrs)
    assert {tag for tag, _ in read.tags} <= {
        *[
            "html",
            "head",
            "meta",
            "title",
            "link",
            "style",
            "body",
            "main",
            "header",
            "section",
            "footer",
            "div",
            "span",
            "p",
            "b",
            "bdi",
            "br",
            "h1",
            "h2",
            "h3",
            "dl",
            "dt",
            "dd",
            "ul",
            "li",
            "code",
        ],
        *[
            "pre",
            "table",
            "caption",
            "thead",
            "tbody",
            "tr",
            "th",
            "td",
            "details",
            "summary",
            "figure",
            "figcaption",
            "img",
            "svg",
            "path",
            "line",
            "circle",
            "text",
            "g",
            "desc",
            "rect",
            "a",
        ],
        "script",
    }
    assert "<script>alert('x')</script>" in read.text
    assert "{{ 7 * 7 }}" in read.text, "labels are never templates"


def test_long_and_reordering_labels_are_shown_short_and_visible() -> None:
    html = shown("hostile")[0]
    outside = html.replace(embedded(html), "")
    assert "a" * 700 not in outside and "a" * 10_000 in html
    assert "\u202e" not in outside and "\x1b" not in outside and "\x00" not in outside
    assert "背景は海です" in outside and "خلفية رملية" in outside


def test_links_are_made_only_of_web_addresses() -> None:
    sources = [
        "https://arxiv.org/abs/2403.03375",
        "javascript:alert(1)",
        'https://x" onmouseover="alert(1)',
        "Name 2023",
    ]
    findings = tuple(
        Finding(id=str(i), cue=str(i), kind="reliance", status="relies", meaning="m", source=s)
        for i, s in enumerate(sources)
    )
    html = page(Report(verdict="shortcut", findings=findings))
    links = [attrs["href"] for tag, attrs in Reading(html).tags if tag == "a" and attrs["href"] != "#content"]
    assert links == sources[:1]


def test_the_verdict_its_numbers_and_the_repair_come_first() -> None:
    text = shown("shortcut")[1].text.partition("firstcue audit")[2]
    parts = [
        "Red: shortcut", "The model relies on a shortcut: digit", "31 %", "84 %", "Whom does it serve worst?",
        "What does it lean on?", "What was learned first?", "What repairs it?", "Evidence", "Data and method",
        "firstcue demo --seed 0", "What this page cannot say",
    ]  # fmt: skip
    places = [text.index(part) for part in parts]
    assert places == sorted(places)


def test_the_clean_page_shows_richness_and_accuses_nobody() -> None:
    text = shown("clean")[1].text
    assert "Green: no shortcut found" in text and "not relied on" in text
    assert "Did training transform the features?" in text and "2.1 (1.9 to 2.3)" in text
    assert "relies on" not in text


def test_embeddings_without_an_intervention_say_so() -> None:
    text = shown("embeddings")[1].text
    assert "no intervention was possible" in text and "Amber: inconclusive" in text
    assert "1 more groups" in text or "1 more group" in text


def test_what_a_repair_costs_is_said() -> None:
    remedies = (
        Remedy(name="as it is", worst_group=0.3, overall=0.9, needs_group_labels=False),
        Remedy(name="balance", worst_group=0.7, overall=0.8, needs_group_labels=True, selected=True),
        Remedy(name="other", worst_group=0.7, overall=0.95, needs_group_labels=True, worse=("slower",)),
    )
    text = Reading(page(Report(verdict="shortcut", remedies=remedies))).text
    assert "Worse: accuracy over all rows falls by 10 points" in text and "Worse: slower" in text


def test_readable_layers_are_one_table_and_no_accusation() -> None:
    def read(layer: str, cue: str, kind: str, value: float) -> Finding:
        return Finding(
            id=f"decodability/{cue}/{layer}/{kind}", cue=cue, kind="decodability", layer=layer, status="no shortcut found",
            value=value, baseline=0.5, meaning="m", encoded=Interval(value=value),
        )  # fmt: skip

    findings = tuple(
        read(layer, cue, kind, 0.9)
        for layer in ("conv1", "fc")
        for cue in ("class", "sky")
        for kind in ("linear", "strong")
    )
    html = page(Report(verdict="no shortcut found", findings=findings))
    assert html.count("<details") == 1 and 'id="cue-table"' not in html
    assert Reading(html).text.count("90 %") == 8


def test_a_timeline_with_gaps_and_many_curves_is_drawn() -> None:
    from firstcue.finding import Moment

    moments = [
        Moment(step=s, curve=f"used/cue {i}", value=None if s == 2 else 0.1 * i) for i in range(9) for s in range(5)
    ]
    html = page(
        Report(verdict="inconclusive", timeline=tuple(moments), learning_order=(Order(cue="cue 1", step_used=3),))
    )
    assert "3 more in the data" in html
    assert html.count('class="curve"') == 6


def many(count: int) -> Report:
    images = list(np.random.default_rng(0).random((12, 28, 28)))
    first = shortcut().findings[0]
    findings, pictures = [], []
    for i in range(count):
        findings.append(first.model_copy(update={"id": f"reliance/{i}/input/edit", "cue": f"cue {i}"}))
        pictures.append(picture(images, "Rows", "Twelve.", "Twelve rows.", finding=findings[-1].id))
    return shortcut().model_copy(update={"findings": tuple(findings), "pictures": tuple(pictures)})


def test_size_grows_linearly_and_stays_below_five_million_bytes_at_fifty_findings() -> None:
    size = {n: len(page(many(n)).encode()) for n in (0, 25, 50)}
    assert size[50] < 5_000_000
    assert size[50] - size[25] == pytest.approx(size[25] - size[0], rel=0.05)
    assert len(page(shortcut()).encode()) < 1_000_000


@every_sample
def test_the_same_report_makes_the_same_page(name: str) -> None:
    assert page(SAMPLES[name]()) == shown(name)[0]


@pytest.mark.parametrize("label", HOSTILE)
def test_every_hostile_label_survives_in_the_json(label: str) -> None:
    found = json.loads(embedded(page(Report(verdict="inconclusive", notes=(label,)))))
    assert found["notes"] == [label]


def test_the_worst_groups_interval_is_explained_where_it_is_not_that_of_its_row():
    explained = "The interval of the worst group at the top is wider"
    report = shortcut()
    worst = report.groups.worst_group
    assert worst is not None
    row = next(g for g in report.groups.by_group if g.group == worst.group)

    def told(ci_high):
        groups = report.groups.model_copy(update={"worst_group": row.model_copy(update={"ci_high": ci_high})})
        return Reading(page(report.model_copy(update={"groups": groups}))).text

    assert explained not in told(row.ci_high)
    assert explained in told(row.ci_high + 0.05)
