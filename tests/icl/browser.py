"""Pages opened in a real browser without a head: Debian's Chromium, driven by Playwright. Skips where either lacks."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

WIDE, PHONE = 1280, 390
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@contextmanager
def chromium() -> Iterator[Any]:
    """A running browser, which takes a second or two to start."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
    if CHROMIUM is None:
        pytest.skip("needs a browser: apt-get install chromium")
    with playwright.sync_playwright() as driver:
        # the sandbox refuses to run as root, and the pages are ours
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@contextmanager
def page_of(browser: Any, path: Path, width: int) -> Iterator[Any]:
    """The page, loaded without a network.

    Fails at the end if by then there was an error on the console, an exception or a request of anything but a file
    beside the page, or if the page is wider than the screen.
    """
    phone = width == PHONE
    context = browser.new_context(viewport={"width": width, "height": 844 if phone else 900}, is_mobile=phone)
    context.set_offline(True)
    page = context.new_page()
    problems: list[str] = []
    page.on("console", lambda said: problems.append(said.text) if said.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("requestfailed", lambda request: problems.append(f"failed: {request.url}"))
    own = (path.parent.as_uri(), "data:", "blob:")
    page.on("request", lambda request: None if request.url.startswith(own) else problems.append(request.url))
    page.goto(path.as_uri())
    yield page
    assert problems == []
    assert page.evaluate("window.innerWidth") == width
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    context.close()
