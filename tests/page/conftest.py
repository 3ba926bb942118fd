"""A browser for all tests of a process. What it needs is installed when the first of them runs."""

from __future__ import annotations

import fcntl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.npm import installed
from support.page import Browser, browser

ROOT = Path(__file__).parents[2]
VENV = Path(sys.prefix)


@pytest.fixture(scope="session")
def shared_browser() -> Iterator[Browser]:
    with (VENV / ".page.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # several test processes may be the first
        stamp, pins = VENV / ".page", ROOT / "packaging" / "requirements" / "page.txt"
        if not stamp.exists() or stamp.stat().st_mtime < pins.stat().st_mtime:
            subprocess.run([ROOT / "packaging" / "bootstrap", "page"], check=True)
    with browser() as made:
        yield made


@pytest.fixture
def page(shared_browser: Browser) -> Iterator[Browser]:
    """The browser, as wide as a screen and with no preference; what the page complains about fails the test."""
    shared_browser.resize(1440, 1000)
    shared_browser.prefers()
    shared_browser.complaints()
    yield shared_browser
    shared_browser.open("about:blank")


@pytest.fixture(scope="session")
def axe() -> str:
    return (installed("axe-core") / "axe.min.js").read_text()


@pytest.fixture(scope="session")
def mqtt_js(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """mqtt.js, as the packaging fetches it."""
    file = tmp_path_factory.mktemp("mqtt") / "mqtt.js"
    subprocess.run([ROOT / "packaging" / "page" / "fetch", file], check=True)
    return file
