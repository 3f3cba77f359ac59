"""One browser for all pages, and what a page asks for or complains of."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]


@pytest.fixture(scope="session")
def browser(chromium: str) -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=chromium, args=ARGUMENTS)
        yield running
        running.close()


@pytest.fixture
def heard() -> Callable[[Any], tuple[list[str], list[str]]]:
    """Lists of a tab that fill as it works: addresses that it requests, and what it says on its console or in dialogs."""

    def listen(tab: Any) -> tuple[list[str], list[str]]:
        requests: list[str] = []
        complaints: list[str] = []
        tab.on("request", lambda r: requests.append(r.url))
        tab.on("console", lambda m: complaints.append(m.text))
        tab.on("pageerror", lambda e: complaints.append(str(e)))
        tab.on("dialog", lambda d: complaints.append(d.message))
        return requests, complaints

    return listen
