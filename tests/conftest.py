"""Fixtures for what a machine may lack, and the rule that nothing is lacking where changes are judged."""

import os
import shutil
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

MUST_NOT_BE_SKIPPED = ("needs Chromium", "needs Debian's Fashion-MNIST")
"""Reasons to skip a test that a user's machine may have and the one that judges changes may not."""

FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")


@pytest.fixture(scope="session")
def chromium() -> str:
    """Path of a Chromium that is already on this machine."""
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        pytest.skip("needs Chromium: sudo apt-get install chromium")
    return path


@pytest.fixture(scope="session")
def fashion_mnist() -> Path:
    """Folder with the four IDX files of Fashion-MNIST."""
    if not FASHION_MNIST.is_dir():
        pytest.skip("needs Debian's Fashion-MNIST: sudo apt-get install dataset-fashion-mnist")
    return FASHION_MNIST


def _is_judged() -> bool:
    return os.environ.get("FIRSTCUE_CI") == "1" or os.environ.get("CI") == "true"


def _refuse_skip(report: Any) -> None:
    """Turn a skip for one of the reasons above into a failure."""
    reason = str(report.longrepr[2]) if report.skipped and isinstance(report.longrepr, tuple) else ""
    if _is_judged() and any(lack in reason for lack in MUST_NOT_BE_SKIPPED):
        report.outcome = "failed"
        report.longrepr = f"may not be skipped here: {reason}"


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport() -> Generator[None, Any, None]:
    outcome = yield
    _refuse_skip(outcome.get_result())


@pytest.hookimpl(hookwrapper=True)
def pytest_make_collect_report() -> Generator[None, Any, None]:
    outcome = yield
    _refuse_skip(outcome.get_result())
