"""Pages that the command line writes, and what it says before the work when it could not."""

import sys
from pathlib import Path

import pytest
from report_samples import clean, shortcut

from firstcue.cli import main
from firstcue.finding import Report
from firstcue.report import interactive


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    for name, made in (("a", clean()), ("b", shortcut())):
        (tmp_path / name).mkdir()
        made.to_json(tmp_path / name / "report.json")
    return tmp_path


def test_compare_writes_the_page_of_differences(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = runs / "changes.html"
    words = ["compare", str(runs / "a" / "report.json"), str(runs / "b" / "report.json"), "--out", str(page)]
    assert main([*words, "--fail-on", "worse"]) == 1
    assert "digit: reliance by edit" in page.read_text() and str(page) in capsys.readouterr().out
    assert main([*words[:-1], str(runs)]) == 2


def test_view_writes_interactive_pages_that_hold_the_report(runs: Path) -> None:
    pytest.importorskip("vl_convert")
    (runs / "broken").mkdir()
    (runs / "broken" / "report.json").write_text("{")
    assert main(["view", str(runs), "--only-write", "--interactive"]) == 0
    assert 'href="b/report.html"' in (runs / "index.html").read_text()
    assert Report.load(runs / "b" / "report.html") == shortcut()
    assert "window.vegaEmbed" in (runs / "b" / "report.html").read_text()


def test_what_an_interactive_page_lacks_is_said_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = ["audit", "nothing:here", "nowhere.npz", "--interactive"]
    assert main(data) == 2 and "--out" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "vl_convert", None)
    interactive.vega_bundle.cache_clear()
    assert main([*data, "--out", str(tmp_path)]) == 4
    assert 'pip install "firstcue[interactive]"' in capsys.readouterr().err
