"""Tooltips, one choice for all charts and zoom, as a hand finds them; and the same page without scripts and on paper."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from report_samples import hostile, shortcut

pytest.importorskip("vl_convert")
pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("live")
    return {
        made.__name__: made().save_html(folder / f"{made.__name__}.html", interactive=True)
        for made in (shortcut, hostile)
    }


@pytest.fixture
def tab(browser: Any, pages: dict[str, Path]) -> Iterator[Any]:
    opened = browser.new_page(viewport={"width": 1180, "height": 900})
    opened.goto(pages["shortcut"].as_uri())
    ready(opened)
    yield opened
    opened.close()


def ready(tab: Any) -> None:
    tab.wait_for_function("document.documentElement.dataset.live === 'ready'")


def last_point(tab: Any, chart: str) -> tuple[float, float]:
    """Middle of the last point of a chart that answers the pointer."""
    figure = tab.locator(f"figure[data-chart='{chart}']")
    figure.scroll_into_view_if_needed()
    box = figure.locator(".live .mark-symbol path").last.bounding_box()
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


def steps(tab: Any, chart: str) -> list[str]:
    """Labels of the horizontal axis that are to be seen, from left to right."""
    labels = tab.locator(f"figure[data-chart='{chart}'] .live .role-axis-label text")
    seen = "all => all.filter(t => Number(t.getAttribute('opacity') ?? 1) > 0).map(t => t.textContent)"
    return sorted((text for text in labels.evaluate_all(seen) if "%" not in text), key=int)


@pytest.mark.parametrize("name", ["shortcut", "hostile"])
def test_scripts_run_without_eval_requests_or_complaints(
    browser: Any, pages: dict[str, Path], heard: Any, name: str
) -> None:
    tab = browser.new_page()
    requests, complaints = heard(tab)
    tab.goto(pages[name].as_uri())
    ready(tab)
    assert tab.locator(".live svg").count() == tab.locator("figure[data-chart]").count() >= 1
    assert not tab.locator("figure[data-chart] > svg").first.is_visible()
    assert [r for r in requests if not r.startswith("data:")] == [pages[name].as_uri()] and complaints == []
    tab.close()


def test_a_point_tells_its_numbers(tab: Any) -> None:
    tab.mouse.move(*last_point(tab, "timeline/used"))
    tip = tab.locator("#vg-tooltip-element.visible")
    tip.wait_for()
    assert "digit" in tip.inner_text() and "step 504" in tip.inner_text()


def test_what_is_chosen_in_one_chart_is_followed_through_all(tab: Any) -> None:
    digit = tab.locator("#follow button", has_text="digit").filter(has_not_text="with")
    tab.mouse.click(*last_point(tab, "timeline/used"))
    tab.wait_for_function("document.querySelector('#follow [aria-pressed=true]')")
    assert digit.get_attribute("aria-pressed") == "true"
    for chart in ("timeline/decodable", "spectrum/held"):
        faint = tab.locator(f"figure[data-chart='{chart}'] .live .mark-line path").evaluate_all(
            "all => all.map(p => Number(p.getAttribute('opacity') ?? p.getAttribute('stroke-opacity') ?? 1))"
        )
        assert sorted(faint) == pytest.approx([*[0.12] * (len(faint) - 1), 1])
    assert "digit" in tab.locator("#cue-table tr.followed").inner_text()
    assert tab.locator("#cue-table tr.aside").count() == 1
    assert tab.locator("#groups tr.aside").count() == 0, "groups are no part of this choice"
    tab.keyboard.press("Escape")
    assert tab.locator(".followed, .aside").count() == 0


def test_a_group_is_chosen_by_keyboard(tab: Any) -> None:
    button = tab.locator("#follow button", has_text="coat with digit 0")
    button.focus()
    tab.keyboard.press("Enter")
    assert "coat with digit 0" in tab.locator("#groups tr.followed").inner_text()
    assert tab.locator("#groups tr.aside").count() == 3
    tab.keyboard.press("Space")
    assert tab.locator(".followed").count() == 0


def test_zoom_moves_all_panels_of_the_timeline_together_and_the_wheel_alone_none(tab: Any) -> None:
    charts = ("timeline/used", "timeline/decodable", "timeline/accuracy")
    whole = [steps(tab, chart) for chart in charts]
    assert [labels[0] for labels in whole] == ["0", "0", "0"]
    x, y = last_point(tab, charts[0])
    tab.mouse.move(x - 60, y)
    tab.keyboard.down("Control")
    tab.mouse.wheel(0, -500)
    tab.keyboard.up("Control")
    tab.wait_for_timeout(100)
    closer = [steps(tab, chart) for chart in charts]
    assert closer[0][0] != "0" and len({labels[0] for labels in closer}) == 1
    tab.get_by_role("button", name="All steps").click()
    tab.wait_for_timeout(100)
    assert [steps(tab, chart) for chart in charts] == whole
    x, y = last_point(tab, charts[0])
    tab.mouse.move(x - 60, y)
    tab.mouse.wheel(0, -5)
    tab.wait_for_timeout(100)
    assert [steps(tab, chart) for chart in charts] == whole
    tab.get_by_role("button", name="Zoom in").click()
    tab.wait_for_timeout(100)
    assert steps(tab, charts[0])[0] == steps(tab, charts[2])[0] != "0"


def test_paper_and_readers_without_scripts_get_the_drawings(browser: Any, tab: Any, pages: dict[str, Path]) -> None:
    tab.emulate_media(media="print")
    assert tab.locator("figure[data-chart] > svg").first.is_visible()
    assert not tab.locator(".live").first.is_visible() and not tab.locator("#follow").is_visible()
    context = browser.new_context(java_script_enabled=False)
    plain = context.new_page()
    plain.goto(pages["shortcut"].as_uri())
    assert plain.locator("figure[data-chart] > svg").first.is_visible()
    assert plain.locator("#follow").count() == 0
    context.close()


def test_charts_follow_the_theme_and_no_page_is_wider_than_the_window(tab: Any) -> None:
    line = tab.locator("figure[data-chart='timeline/used'] .live .mark-line path").first
    light = line.get_attribute("stroke")
    tab.emulate_media(color_scheme="dark")
    tab.wait_for_function(
        "before => document.querySelector('figure[data-chart=\"timeline/used\"] .live .mark-line path')?.getAttribute('stroke') !== before",
        arg=light,
    )
    for width in (320, 768):
        tab.set_viewport_size({"width": width, "height": 800})
        tab.wait_for_timeout(150)
        assert tab.evaluate("document.documentElement.scrollWidth") <= width
