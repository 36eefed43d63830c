"""The page of a bank: its content, and that data stays data."""

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from icl.bank.anchor_bank import AnchorBank
from icl.bank.report import write_report
from icl.bank.schema import BankError
from icl.bank.selection.queries import Queries

HOSTILE = "\"><script>alert('x')</script>{{ 7*7 }}$x^{$"


class Page(HTMLParser):
    """Tags with their attributes, and the text."""

    def __init__(self, path: Path):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def sources(self) -> list[str]:
        return [str(attributes["src"]) for tag, attributes in self.tags if tag == "img"]


def build(folder: Path, hostile: str, count: int = 24) -> AnchorBank:
    """Rows along a ray, i at distance about i, the even ones with an image, of which one is broken."""
    folder.mkdir(exist_ok=True)
    for i in range(0, count, 2):
        Image.new("RGB", (400, 300), (10 * i, 0, 0)).save(folder / f"{i}.png")
    (folder / "4.png").write_bytes(b"no image")
    radius = torch.arange(count, dtype=torch.float64) / 4
    return AnchorBank.build(
        folder / "bank",
        {
            "id": [f"{hostile}{i}" for i in range(count)],
            "text": [None if i == 2 else f"{hostile} text {i}" for i in range(count)],
            "image": [str(folder / f"{i}.png") if i % 2 == 0 else None for i in range(count)],
            "label": [f"{hostile}{i % 3}" for i in range(count)],
            "point": torch.stack([radius.sinh(), 0 * radius, 0 * radius], 1),
        },
    )


def test_neighbours(tmp_path: Path) -> None:
    bank = build(tmp_path, "row ")
    page = Page(write_report(bank, tmp_path / "page", Queries(points=torch.zeros(1, 3)), k=6))
    assert "Neighbours of query 1" in page.text
    cards = re.findall(r"(row \d+)(?::[^\n]*)?\s*score (-?\d\.\d{3}), distance (\d\.\d{3})", page.text)
    assert cards == [(f"row {i}", f"{-i / 4:.3f}", f"{i / 4:.3f}") for i in range(6)]
    # images where there are readable ones, else the text
    assert page.sources() == ["disk.png", "depth.png", "row-0.png", "row-2.png"]
    for i in (1, 3, 4, 5):
        assert f"row  text {i}" in page.text
    for name, colour in (("row-0.png", 0), ("row-2.png", 20)):
        picture = Image.open(tmp_path / "page" / name)
        assert (picture.size, picture.getpixel((5, 5))) == ((240, 180), (colour, 0, 0))
    for name in ("disk.png", "depth.png"):
        shades = np.asarray(Image.open(tmp_path / "page" / name).convert("L"))
        assert min(shades.shape) > 400
        assert shades.std() > 5


def test_everything_from_data_is_escaped(tmp_path: Path) -> None:
    bank = build(tmp_path, HOSTILE)
    path = write_report(bank, tmp_path / "page", Queries.of_rows(bank, torch.tensor([1, 0])), k=4)
    page = Page(path)
    allowed = {"html", "head", "meta", "title", "style", "body", "h1", "h2", "table", "tr", "th", "td", "img", "p", "a"}
    assert {tag for tag, _ in page.tags} <= allowed | {"div", "figure", "blockquote", "figcaption", "span"}
    assert all(set(attributes) <= {"src", "alt", "class", "href", "lang", "charset", "name", "content"}
               for _, attributes in page.tags)  # fmt: skip
    assert f"Neighbours of {HOSTILE}1" in page.text
    assert f"{HOSTILE} text 1" in page.text
    assert "<script>alert('x')" not in (tmp_path / "page" / "disk.html").read_text()


def test_queries_by_default_are_of_three_depths(tmp_path: Path) -> None:
    bank = build(tmp_path, "row ")
    page = Page(write_report(bank, tmp_path / "page"))
    sections = page.text.split("Neighbours of ")[1:]
    assert [section.split("\n")[0] for section in sections] == ["row 2", "row 12", "row 21"]
    for section, own in zip(sections, ("row 2", "row 12", "row 21")):  # a query is not its own neighbour
        assert re.findall(r"distance (.*)", section)[:2] == ["0.250", "0.250"]
        assert own not in re.findall(r"^(row \d+)(?::|$)", section.split("\n", 1)[1], re.MULTILINE)
    alone = build(tmp_path / "alone", "row ", 1)
    page = Page(write_report(alone, tmp_path / "alone page"))
    assert "Neighbours of row 0" in page.text
    assert "distance" not in page.text.split("Neighbours of row 0")[1]


@pytest.mark.parametrize(
    "points",
    [
        torch.nn.functional.normalize(torch.randn(20, 8, generator=torch.Generator().manual_seed(0)), dim=1),
        torch.ones(6, 3) + 1e-7 * torch.arange(6)[:, None],
        torch.zeros(4, 2),
        torch.ones(1, 3),
        torch.tensor([[-2.0], [0.5], [1.0]]),
    ],
    ids=["unit vectors", "rounding apart", "the origin", "one row", "one dimension"],
)
def test_points_at_one_depth(tmp_path: Path, points: torch.Tensor) -> None:
    """As every bank of embeddings is without a learned lift: one bar, and no histogram of rounding."""
    bank = AnchorBank.build(tmp_path / "bank", {"point": points})
    page = Page(write_report(bank, tmp_path / "page"))
    assert page.text.count("Neighbours of ") == min(3, len(points))
    shades = np.asarray(Image.open(tmp_path / "page" / "depth.png").convert("L"))
    assert shades.std() > 5


def test_arguments(tmp_path: Path) -> None:
    bank = build(tmp_path, "row ", 4)
    for label in ("nothing", "point"):
        with pytest.raises(BankError, match=f"has no column {label} to colour by"):
            write_report(bank, tmp_path / "page", label=label)
    with pytest.raises(BankError, match="queries need points"):
        write_report(bank, tmp_path / "page", Queries(ids=["row 1"]))
    assert not (tmp_path / "page").exists()
