"""The desk in Chromium, over the demo in this process. Without Chromium these tests are skipped."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.browser.serving import demo_services, serving

_FLAGS = (
    "--disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update "
    "--disable-sync"
)
expect.set_options(timeout=30_000)  # of a machine that does much else


def chromium_path() -> str | None:
    """Where Chromium is: NEURODIAL_CHROMIUM, or the first of its usual names on the path."""
    named = os.environ.get("NEURODIAL_CHROMIUM")
    return named or next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium; of one module alone, for Playwright's event loop runs in this thread as long as it lives."""
    path = chromium_path()
    if path is None:
        pytest.skip("no Chromium: `make browser` says how to install it, or set NEURODIAL_CHROMIUM to where it is")
    flags = [*_FLAGS.split(), *(["--no-sandbox"] if os.geteuid() == 0 else [])]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=flags)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def desk() -> Iterator[str]:
    """The address of the demo."""
    with tempfile.TemporaryDirectory() as folder, demo_services(Path(folder)) as services, serving(services) as address:
        yield address


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A page of 1,280 pixels that fails its test by whatever goes wrong in it."""
    with browser.new_context(viewport={"width": 1280, "height": 900}) as context:
        page = context.new_page()
        page.set_default_timeout(30_000)
        wrong: list[str] = []
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda said: wrong.append(said.text) if "Content Security Policy" in said.text else None)
        yield page
        assert not wrong
