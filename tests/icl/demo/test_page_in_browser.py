"""The demo's page in a real browser: drawn without a network, on screens wide and narrow, light and dark."""

from pathlib import Path
from typing import Any

import pytest

from icl.demo.demo_plan import FULL
from icl.demo.selection import STRATEGIES
from tests.icl.browser import PHONE, WIDE, page_of
from tests.icl.demos import written


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo")
    written(FULL, folder)
    return folder / "report.html"


@pytest.mark.parametrize("width", [WIDE, PHONE])
def test_report(browser: Any, report: Path, width: int) -> None:
    with page_of(browser, report, width) as page:
        for name in ("disk", "choices", "accuracies", "curves"):
            box = page.wait_for_selector(f"#{name} .main-svg").bounding_box()
            assert 0.6 * min(width, 1000) < box["width"] <= width
        # the header, and a row for each method
        assert page.locator("#methods tr").count() > len(FULL.trials)
        assert page.locator("#ablations tr").count() == len(FULL.ablations) + 1
        assert page.locator("#choices .errorbar").count() > 0
        # the data is seen without pointing at anything: a digit each, the query, and what each strategy chose
        cards = page.locator(".cards img")
        assert cards.count() == 10 + 1 + 4 * len(STRATEGIES)
        assert cards.evaluate_all("all => all.every(i => i.naturalWidth > 0 && i.checkVisibility())")
        assert page.locator("#outcomes tr").count() == 1 + len({trial.task for trial in FULL.trials})
        images = page.locator(".attention img")
        assert images.count() == 2
        assert images.evaluate_all("all => all.every(i => i.naturalWidth > 0)")
        assert page.locator(".attention td").count() == 2 * 2 * 2 * 2


def test_a_point_shows_its_image(browser: Any, report: Path) -> None:
    with page_of(browser, report, WIDE) as page:
        points = page.locator("#disk .scatterlayer .point")
        page.wait_for_selector("#disk .scatterlayer .point")
        assert points.count() == 5
        points.first.scroll_into_view_if_needed()
        box = points.first.bounding_box()
        page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        page.wait_for_selector("#seen img")
        assert page.locator("#seen img").evaluate("image => image.naturalWidth") == 1
        assert page.locator("#seen").inner_text().strip().startswith("image ")


def test_dark(browser: Any, report: Path) -> None:
    """The page and the figures on it turn with the scheme, also while it is open."""
    with page_of(browser, report, WIDE) as page:
        page.wait_for_selector("#curves .main-svg")
        seen = {}
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)
            page.wait_for_timeout(300)
            paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
            text = page.locator("#curves .xtitle").evaluate("e => getComputedStyle(e).fill")
            seen[scheme] = [brightness(colour) for colour in (paper, text)]
        assert seen["light"][0] > 200 > 100 > seen["light"][1]
        assert seen["dark"][0] < 60 < 200 < seen["dark"][1]


def brightness(colour: str) -> float:
    """Of rgb(r, g, b), from 0 to 255."""
    parts = [float(part) for part in colour.partition("(")[2].rstrip(")").split(",")]
    return sum(parts[:3]) / 3
