"""The page of a bank in a real browser: it is drawn, fits, needs no network, and tells what the mouse is over."""

import math
import re
from pathlib import Path
from typing import Any

import pytest

from icl.bank.report import write_report
from tests.icl.bank.test_report import HOSTILE, build
from tests.icl.browser import PHONE, WIDE, page_of

COUNT = 24


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Row i is i/4 from the origin, on a ray."""
    folder = tmp_path_factory.mktemp("browser")
    return write_report(build(folder, "row ", COUNT), folder / "page").parent


@pytest.mark.parametrize("width", [WIDE, PHONE])
def test_report(browser: Any, folder: Path, width: int) -> None:
    with page_of(browser, folder / "index.html", width) as page:
        images = page.locator("img")
        sizes = images.evaluate_all("all => all.map(i => [i.naturalWidth, i.getBoundingClientRect().width])")
        # the disk, the depths, and the neighbours that have a picture
        assert len(sizes) > 5
        assert all(natural > 0 and 0 < displayed <= width for natural, displayed in sizes)
        assert sizes[0][1] > 0.65 * min(width, 992)
        page.get_by_role("link", name="To zoom and to hover over").click()
        page.wait_for_selector(".main-svg")
        assert page.title() == "Poincaré disk"


@pytest.mark.parametrize("width", [WIDE, PHONE])
def test_disk(browser: Any, folder: Path, width: int) -> None:
    with page_of(browser, folder / "disk.html", width) as page:
        page.wait_for_selector(".scatterlayer .point")
        points = page.locator(".scatterlayer .point")
        assert points.count() == COUNT + 3  # and three queries, as stars
        rim = page.locator(".shapelayer path").first.bounding_box()
        assert rim["width"] == pytest.approx(rim["height"], rel=0.01)
        assert rim["width"] > 0.85 * min(width, 900)
        assert rim["x"] >= 0
        assert rim["x"] + rim["width"] <= width
        centre = rim["x"] + rim["width"] / 2, rim["y"] + rim["height"] / 2
        offsets = {}
        for i in range(points.count()):
            box = points.nth(i).bounding_box()
            x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
            page.mouse.move(1, 1)
            page.wait_for_selector(".hoverlayer .hovertext", state="detached")
            page.mouse.move(x, y)
            page.wait_for_selector(".hoverlayer .hovertext")
            text = page.locator(".hoverlayer .hovertext").first.text_content()
            match = re.search(r"^row (\d+)(?::.*)?depth (\d\.\d{3})$", text)
            assert match, text
            row, depth = int(match[1]), float(match[2])
            assert depth == pytest.approx(row / 4, abs=5e-4)
            offsets[row] = math.dist((x, y), centre) - rim["width"] / 2 * math.tanh(depth / 2)
        # further out, points are nearer than they are wide, and a neighbour may answer
        assert set(range(6)) <= set(offsets)
        assert all(abs(offsets[row]) < 2 for row in range(6))
        assert all(abs(pixels) < 8 for pixels in offsets.values())
        legend = page.locator(".legend .legendtext").all_text_contents()
        assert sorted(legend) == ["row 0", "row 1", "row 2"]


def test_data_stay_data(browser: Any, tmp_path: Path) -> None:
    """An alert would hang the page and its script be an error."""
    page_file = write_report(build(tmp_path, HOSTILE, 6), tmp_path / "page")
    with page_of(browser, page_file, WIDE) as page:
        assert page.locator("script").count() == 0
        assert HOSTILE in page.inner_text("body")
    with page_of(browser, page_file.parent / "disk.html", WIDE) as page:
        page.wait_for_selector(".scatterlayer .point")
        legend = page.locator(".legend .legendtext").all_text_contents()
        assert sorted(legend) == [f"{HOSTILE}{i}" for i in range(3)]
