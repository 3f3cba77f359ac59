"""The interactive page: the static one with scripts that nothing else may join, and data that hold what is drawn."""

import base64
import hashlib
import json
import re
import sys
from functools import cache

import pytest
from report_samples import HOSTILE, SAMPLES, hostile, shortcut

from firstcue._extras import MissingExtra
from firstcue.finding import Report
from firstcue.report import interactive
from firstcue.report.html import page
from firstcue.report.interactive import charts
from firstcue.report.subjects import subjects

LIVE = re.compile(r"<script>(.*?)</script>", flags=re.DOTALL)


@cache
def live(name: str) -> str:
    pytest.importorskip("vl_convert")
    return page(SAMPLES[name](), interactive=True)


@pytest.mark.parametrize("name", ["shortcut", "hostile"])
def test_only_the_scripts_of_the_page_may_run(name: str) -> None:
    html = live(name)
    policy = re.findall(r'content="(default-src[^"]*)"', html)[0]
    allowed = re.findall(r"'sha256-([^']+)'", policy)
    code = LIVE.findall(html)
    assert [base64.b64encode(hashlib.sha256(c.encode()).digest()).decode() for c in code] == allowed
    assert len(code) == 2 and "unsafe-eval" not in policy and "connect-src" not in policy
    assert html.count("<script") == html.count("</script>") == 4


def test_vega_is_inlined_once_and_the_page_stays_small() -> None:
    static, moving = page(shortcut()), live("shortcut")
    assert moving.count("window.vegaEmbed") == 1
    assert len(static.encode()) < 1_500_000 and len(moving.encode()) < 3_000_000
    head, _, _ = static.partition("</footer>")
    assert head.partition("<body>")[2] in moving, "everything static is there for readers without scripts"


def test_charts_hold_every_point_of_the_static_panels() -> None:
    found = charts(shortcut())
    html = page(shortcut())
    assert set(found["charts"]) == set(re.findall(r'data-chart="([^"]+)"', html))
    rows = found["charts"]["timeline/used"]["data"]["values"]
    drawn = [m for m in shortcut().timeline if m.curve.startswith("used/")]
    assert sorted((r["x"], r["y"]) for r in rows) == sorted((m.step, m.value) for m in drawn)
    assert {r["name"] for r in rows} == {"core", "digit"}


def test_a_name_leads_to_one_id_wherever_it_stands() -> None:
    known = subjects(shortcut())
    assert known.find("core") == known.find("class") == 0
    assert known.names[known.find("digit")] == "digit"
    worst = known.find("worst")
    assert known.names[worst] == "coat with digit 0" and known.find("coat, 0") == worst == known.find("group 2")
    assert known.find("nobody") is None


@pytest.mark.parametrize("name", SAMPLES)
def test_hostile_labels_are_data_and_never_expressions(name: str) -> None:
    found = charts(SAMPLES[name]())

    def walk(part: object, key: str = "") -> None:
        if isinstance(part, dict):
            for k, v in part.items():
                assert not any(label in str(k) for label in HOSTILE)
                if k not in ("values", "description"):
                    walk(v, k)
        elif isinstance(part, list):
            for v in part:
                walk(v, key)
        else:
            assert not any(label in str(part) for label in HOSTILE), key

    walk(found["charts"])
    json.dumps(found, allow_nan=False)


def test_a_report_of_nothing_is_interactive_too() -> None:
    assert charts(Report(verdict="inconclusive")) == {"subjects": [], "charts": {}}
    assert "\u202e" not in "".join(charts(hostile())["subjects"])


def test_without_the_extra_the_line_that_installs_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vl_convert", None)
    interactive.vega_bundle.cache_clear()
    with pytest.raises(MissingExtra, match=r'pip install "firstcue\[interactive\]"'):
        page(shortcut(), interactive=True)
    interactive.vega_bundle.cache_clear()
