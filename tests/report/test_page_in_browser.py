"""The page in a real browser: quiet, offline, the same without scripts, readable in light, dark and on a phone."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from report_samples import SAMPLES, clean, shortcut

from firstcue.report.claims import write_claims
from firstcue.report.compare import compare
from firstcue.report.index import write_index

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    made = {name: make().save_html(folder / f"{name}.html") for name, make in SAMPLES.items()}
    shortcut().to_json(folder / "report.json")
    made["index"] = write_index(folder)
    made["compare"] = folder / "compare.html"
    made["compare"].write_text(compare(shortcut(), clean()).html(), encoding="utf-8")
    made["claims"] = claims_with_a_wide_figure(tmp_path_factory.mktemp("claims"))
    return made


def claims_with_a_wide_figure(folder: Path) -> Path:
    claim = {
        "text": "The core comes later",
        "published": "it does",
        "value": 0.5,
        "ci_low": 0.4,
        "ci_high": 0.6,
        "n": 5,
    }
    claim |= {"unit": "extra time", "verdict": "holds", "note": ""}
    told = {"experiment": "spurious/x", "title": "A title", "source": "a paper", "scale": "tiny", "seeds": 5}
    told |= {"minutes": 0.1, "failed": 0, "claims": [claim], "figures": {"curves": "x.svg"}}
    (folder / "spurious-x.json").write_text(json.dumps(told), encoding="utf-8")
    size = 'width="1040pt" height="230pt" viewBox="0 0 1040 230"'
    (folder / "x.svg").write_text(f'<svg {size}><rect width="1040" height="230"/></svg>', encoding="utf-8")
    return write_claims(folder)


PAGES = [*SAMPLES, "index", "compare", "claims"]


@pytest.mark.parametrize("name", PAGES)
@pytest.mark.parametrize("scripts", [True, False], ids=["scripts", "no scripts"])
def test_no_request_leaves_the_page_and_nothing_complains(
    browser: Any, pages: dict[str, Path], heard: Any, name: str, scripts: bool
) -> None:
    context = browser.new_context(java_script_enabled=scripts)
    tab = context.new_page()
    requests, complaints = heard(tab)
    tab.goto(pages[name].as_uri())
    assert [r for r in requests if not r.startswith("data:")] == [pages[name].as_uri()]
    assert complaints == []
    assert tab.locator("h1").inner_text().strip()
    context.close()


def test_the_tables_show_what_the_json_says(browser: Any, pages: dict[str, Path]) -> None:
    tab = browser.new_page()
    tab.goto(pages["shortcut"].as_uri())
    data = json.loads(tab.locator("#report").text_content())
    assert data == json.loads(shortcut().to_json())

    def values(selector: str) -> list[float]:
        return [float(v) for v in tab.eval_on_selector_all(selector, "all => all.map(e => e.dataset.value)")]

    groups = sorted(g["accuracy"] for g in data["groups"]["by_group"])
    assert values("#groups td[data-field=accuracy]") == groups
    assert values("#remedy-table td[data-field=worst_group]") == [r["worst_group"] for r in data["remedies"]]
    assert values("#cue-table td[data-field=relies][data-value]") == [data["findings"][0]["relies"]["value"]]
    assert values("#cue-table td[data-field=encoded]") == [f["encoded"]["value"] for f in data["findings"]]
    shown = tab.locator("#groups td[data-field=accuracy]").all_inner_texts()
    assert [t.replace("\N{NO-BREAK SPACE}", " ") for t in shown] == ["31 %", "55 %", "99 %", "99.2 %"]
    tab.close()


def test_marks_stand_where_the_numbers_are(browser: Any, pages: dict[str, Path]) -> None:
    tab = browser.new_page(viewport={"width": 1180, "height": 900})
    tab.goto(pages["shortcut"].as_uri())
    places = tab.eval_on_selector_all(
        "#remedy-table svg.strip",
        "all => all.map(s => { const b = s.getBoundingClientRect(), c = s.querySelector('circle').getBoundingClientRect();"
        " return (c.x + c.width / 2 - b.x) / b.width })",
    )
    assert places == pytest.approx([r.worst_group for r in shortcut().remedies], abs=0.005)
    tab.close()


def photograph(browser: Any, page: Path, width: int, scheme: str) -> np.ndarray:
    from PIL import Image

    tab = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    tab.goto(page.as_uri())
    image = np.asarray(Image.open(io.BytesIO(tab.screenshot(full_page=True))).convert("L"), dtype=float)
    tab.close()
    return image


@pytest.mark.parametrize("name", ["shortcut", "index", "compare"])
def test_light_is_light_dark_is_dark_and_both_hold_ink(browser: Any, pages: dict[str, Path], name: str) -> None:
    light, dark = (photograph(browser, pages[name], 1180, scheme) for scheme in ("light", "dark"))
    assert np.median(light) > 230 and np.median(dark) < 40
    assert (light < 100).mean() > 0.003 and (dark > 160).mean() > 0.003
    assert light.shape == dark.shape, "the theme changes colours only"


@pytest.mark.parametrize("name", PAGES)
def test_no_page_is_wider_than_the_window(browser: Any, pages: dict[str, Path], name: str) -> None:
    tab = browser.new_page()
    tab.goto(pages[name].as_uri())
    tab.eval_on_selector_all("details", "all => all.forEach(d => d.open = true)")
    found = {}
    for width in (320, 390, 768, 1180):
        tab.set_viewport_size({"width": width, "height": 800})
        found[width] = tab.evaluate("document.documentElement.scrollWidth")
    assert all(needed <= width for width, needed in found.items()), found
    tab.close()


def test_evidence_opens_by_keyboard(browser: Any, pages: dict[str, Path]) -> None:
    tab = browser.new_page()
    tab.goto(pages["shortcut"].as_uri())
    assert not tab.locator("details").first.evaluate("d => d.open")
    tab.locator("summary").first.focus()
    tab.keyboard.press("Enter")
    assert tab.locator("details").first.evaluate("d => d.open")
    tab.close()


def test_the_first_stop_of_the_keyboard_leads_past_the_masthead(browser: Any, pages: dict[str, Path]) -> None:
    tab = browser.new_page()
    tab.goto(pages["shortcut"].as_uri())
    tab.keyboard.press("Tab")
    link = tab.locator("a.skip")
    assert link.evaluate("e => e === document.activeElement") and link.bounding_box()["y"] >= 0
    assert tab.locator(link.get_attribute("href")).count() == 1
    tab.close()


def test_the_index_is_sorted_by_any_column(browser: Any, pages: dict[str, Path]) -> None:
    folder = pages["index"].parent / "several"
    for name in ("clean", "shortcut", "embeddings", "empty"):
        (folder / name).mkdir(parents=True)
        SAMPLES[name]().to_json(folder / name / "report.json")
    tab = browser.new_page()
    tab.goto(write_index(folder).as_uri())

    def names() -> list[str]:
        return tab.locator("tbody th a").all_inner_texts()

    assert names() == ["shortcut", "embeddings", "empty", "clean"]
    head = tab.locator("th[data-sort]", has_text="Worst group")
    head.locator("button").press("Enter")
    assert names() == ["shortcut", "embeddings", "clean", "empty"] and head.get_attribute("aria-sort") == "ascending"
    head.locator("button").click()
    assert names()[:2] == ["empty", "clean"] and head.get_attribute("aria-sort") == "descending"
    tab.locator("th[data-sort] button", has_text="Report").click()
    assert names() == ["clean", "embeddings", "empty", "shortcut"]
    tab.close()


def test_evidence_is_unfolded_on_paper(browser: Any, pages: dict[str, Path]) -> None:
    tab = browser.new_page()
    tab.goto(pages["shortcut"].as_uri())
    folded = tab.locator("details .body").first
    assert not folded.is_visible()
    tab.emulate_media(media="print")
    assert folded.bounding_box()["height"] > 20
    tab.close()


def test_text_has_enough_contrast_in_both_themes(browser: Any, pages: dict[str, Path]) -> None:
    measure = """() => {
      const lum = c => { const v = c.match(/[0-9.]+/g).slice(0, 3).map(x => { x /= 255;
        return x <= .03928 ? x / 12.92 : ((x + .055) / 1.055) ** 2.4 }); return .2126 * v[0] + .7152 * v[1] + .0722 * v[2] };
      const ground = e => { while (e) { const c = getComputedStyle(e).backgroundColor;
        if (!/, 0\\)$|transparent/.test(c)) return c; e = e.parentElement } return 'rgb(255,255,255)' };
      const worst = [];
      for (const e of document.querySelectorAll('p, td, th, h1, h2, h3, dt, dd, li, caption, summary span, .light, svg text, a')) {
        if (!e.textContent.trim()) continue;
        const s = getComputedStyle(e), ink = e.namespaceURI.endsWith('svg') ? s.fill : s.color;
        const [a, b] = [lum(ink), lum(ground(e))].sort((x, y) => y - x);
        const ratio = (a + .05) / (b + .05);
        if (ratio < 4.5) worst.push([e.tagName, e.textContent.trim().slice(0, 30), ratio]);
      }
      return worst }"""
    for scheme in ("light", "dark"):
        tab = browser.new_page(color_scheme=scheme)
        tab.goto(pages["shortcut"].as_uri())
        assert tab.evaluate(measure) == []
        tab.close()
