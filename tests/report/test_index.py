"""The index lists every report below a folder, and its server answers this machine only."""

import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from report_samples import SAMPLES

from firstcue.report.index import index, server, write_index


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, make in SAMPLES.items():
        below = tmp_path / "runs" / f"{name} & <b>"
        below.mkdir(parents=True)
        make().to_json(below / "report.json")
    SAMPLES["clean"]().save_html(tmp_path / "runs" / "clean & <b>" / "report.html")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "report.json").write_text("{")
    return tmp_path


def test_reports_are_sorted_by_how_pressing_they_are(folder: Path) -> None:
    page = index(folder)
    places = [
        page.index(f"runs/{name} &amp; &lt;b&gt;</bdi>")
        for name in ("hostile", "shortcut", "embeddings", "empty", "clean")
    ]
    assert places == sorted(places)


def test_links_are_relative_and_quoted_and_prefer_the_page(folder: Path) -> None:
    page = index(folder)
    assert 'href="runs/clean%20%26%20%3Cb%3E/report.html"' in page
    assert 'href="runs/shortcut%20%26%20%3Cb%3E/report.json"' in page
    assert str(folder) not in page.replace(f"{folder}/broken", "")


def test_what_cannot_be_read_is_named_with_its_reason(folder: Path) -> None:
    assert "<bdi>broken</bdi></b>" in index(folder) and "Invalid JSON" in index(folder)


def test_an_empty_folder_says_how_to_get_a_report(tmp_path: Path) -> None:
    assert "0 reports" in index(tmp_path) and "--out DIR" in index(tmp_path)
    with pytest.raises(ValueError, match="is not a folder"):
        index(tmp_path / "none")


def test_the_index_is_written_where_it_belongs(folder: Path) -> None:
    assert write_index(folder) == folder / "index.html"
    assert (folder / "index.html").read_text().startswith("<!doctype html>")


@pytest.fixture
def address(folder: Path) -> Iterator[str]:
    with server(folder) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


def test_the_server_shows_the_index_and_the_reports(address: str) -> None:
    assert b"5 reports" in urllib.request.urlopen(f"{address}/", timeout=5).read()
    page = urllib.request.urlopen(f"{address}/runs/clean%20%26%20%3Cb%3E/report.html", timeout=5).read()
    assert page.startswith(b"<!doctype html>")


def test_the_server_refuses_a_foreign_name_for_this_machine(address: str) -> None:
    asked = urllib.request.Request(f"{address}/", headers={"Host": "evil.example"})
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(asked, timeout=5)
    assert caught.value.code == 403


def test_the_server_listens_on_loopback_only(folder: Path) -> None:
    with server(folder) as running:
        assert running.server_address[0] == "127.0.0.1"
