"""What is drawn is checked as geometry: where points and arcs are, and what the reduction does to distances."""

import itertools
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib import pyplot
from matplotlib.collections import LineCollection
from matplotlib.offsetbox import AnnotationBbox
from matplotlib.text import Annotation
from PIL import Image
from torch import Tensor

from hyperbolic import plot

matplotlib.use("Agg")
HOSTILE = "<script>alert('$x^{$')</script>"


@pytest.fixture(autouse=True)
def _close() -> Iterator[None]:
    yield
    pyplot.close("all")


def randn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def ball_distance(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """On the unit disk, as in the textbooks."""
    gap = ((x - y) ** 2).sum(-1)
    return np.arccosh(1 + 2 * gap / ((1 - (x**2).sum(-1)) * (1 - (y**2).sum(-1))))


def lorentz_distances(x: Tensor, c: float) -> Tensor:
    """Of all rows, in ambient coordinates."""
    x0 = (1 / c + x.square().sum(1)).sqrt()
    z = c * (x0[:, None] * x0 - x @ x.T)
    return torch.acosh(z.clamp_min(1).fill_diagonal_(1)) / c**0.5


def on_disk(x: Tensor, c: float) -> np.ndarray:
    """The stereographic projection of the hyperboloid from its apex's opposite."""
    x = math.sqrt(c) * x
    return (x / (1 + (1 + x.square().sum(1, keepdim=True)).sqrt())).numpy()


@pytest.mark.parametrize("c", [0.2, 1.0, 5.0])
def test_points_are_where_the_projection_puts_them(c: float) -> None:
    x = randn(20, 2)
    xy = on_disk(x, c)
    for points, model in ((x, "lorentz"), (torch.from_numpy(xy) / math.sqrt(c), "poincare")):
        offsets = plot.disk(points, c, model=model).collections[0].get_offsets()
        np.testing.assert_allclose(np.asarray(offsets), xy, rtol=1e-12)


@pytest.mark.parametrize("c", [0.2, 1.0, 5.0])
def test_edges_are_geodesics(c: float) -> None:
    """Every point of an arc lies between its ends: the triangle inequality holds with equality."""
    x, edges = randn(12, 2, seed=1), torch.tensor([[0, 1], [2, 3], [4, 5], [6, 7], [8, 9], [10, 11]])
    ax = plot.disk(x, c, edges=edges)
    arcs = next(part for part in ax.collections if isinstance(part, LineCollection)).get_segments()
    xy = on_disk(x, c)
    assert len(arcs) == len(edges)
    for arc, (i, j) in zip(arcs, edges.tolist()):
        np.testing.assert_allclose(arc[[0, -1]], xy[[i, j]], atol=1e-12)
        whole = ball_distance(xy[i], xy[j])
        first, second = ball_distance(xy[i], arc), ball_distance(arc, xy[j])
        np.testing.assert_allclose(first + second, whole, rtol=1e-7)
        steps = np.diff(first[1:-1])
        np.testing.assert_allclose(steps, whole / (len(arc) - 1), rtol=1e-5)


def test_nothing_leaves_the_disk() -> None:
    far = torch.tensor([[3e30, -2e30], [1e-30, 0.0], [0.0, 1e38], [-5e4, 1e-3]])
    edge = torch.tensor([[math.nextafter(1, 0), 0.0], [0.6, -0.8 + 1e-16], [0.0, 0.0]], dtype=torch.float64)
    for points, model in ((far, "lorentz"), (edge * (1 - 1e-16), "poincare")):
        ax = plot.disk(points, model=model, edges=torch.tensor([[0, 1], [1, 2], [0, 2]]))
        drawn = [np.asarray(part.get_offsets()) for part in ax.collections if not isinstance(part, LineCollection)]
        drawn += [arc for part in ax.collections if isinstance(part, LineCollection) for arc in part.get_segments()]
        for xy in drawn:
            assert np.isfinite(xy).all()
            assert (np.hypot(*xy.T) <= 1).all()


@pytest.mark.parametrize("depth", [0.05, 0.7, 3.0, 40.0])
def test_the_view_is_of_the_points(depth: float, tmp_path: Path) -> None:
    """Points take up most of it, wherever they are; rings at the radii that are in view carry their radius."""
    turn = torch.linspace(0, 2 * math.pi, 13, dtype=torch.float64)
    x = math.sinh(depth) * torch.stack([turn.cos(), turn.sin()], 1)
    edge = math.tanh(depth / 2)
    rings = [f"{ring:g}" for ring in (0.25, 0.5, 1, 2, 3, 4) if ring < depth]
    ax = plot.disk(x)
    for low, high in (ax.get_xlim(), ax.get_ylim()):
        assert low == -high
        assert edge < high < 1.2 * edge
    assert [text.get_text() for text in ax.texts][: len(rings)] == rings
    figure = plot.figure(x)
    for axis in (figure.layout.xaxis, figure.layout.yaxis):
        assert axis.range == (pytest.approx(ax.get_xlim()[0]), pytest.approx(ax.get_xlim()[1]))
    assert [note.text for note in figure.layout.annotations][: len(rings)] == rings


def test_the_origin_alone_is_seen_on_the_whole_disk() -> None:
    assert plot.disk(torch.zeros(3, 2)).get_xlim() == (-1.03, 1.03)


def test_labels_have_a_legend() -> None:
    """The nine most frequent have a colour, whatever characters they are made of; the rest is grey."""
    counts = {"_hidden": 20, "$x^{$": 15, HOSTILE: 12, **{f"label {i}": 11 - i for i in range(9)}}
    labels = [name for name, count in counts.items() for _ in range(count)]
    ax = plot.disk(randn(len(labels), 2), labels=labels)
    legend = ax.get_legend()
    assert legend is not None
    texts = [text.get_text() for text in legend.get_texts()]
    assert texts[:3] == ["other (12)", "_hidden (20)", "$x^{$ (15)"]
    assert texts[3] == "<script>alert('$x^{$')</script> (12)"
    assert len(texts) == 10
    assert sum(int(text.rsplit("(", 1)[1][:-1]) for text in texts) == len(labels)
    drawn = [part.get_offsets() for part in ax.collections]
    assert [len(np.asarray(xy)) for xy in drawn] == [12, 20, 15, 12, 11, 10, 9, 8, 7, 6]
    colours = {tuple(part.get_facecolor()[0]) for part in ax.collections}  # type: ignore[index]
    assert len(colours) == 10
    ax.figure.canvas.draw()  # where matplotlib would fail on dollars


def test_stars_are_above_the_others_and_have_no_label(tmp_path: Path) -> None:
    x, labels = randn(6, 2), ["a", "b", "a", "hidden", "a", "hidden"]
    ax = plot.disk(x, labels=labels, stars=[3, 5])
    *dots, stars = ax.collections
    np.testing.assert_allclose(np.asarray(stars.get_offsets()), on_disk(x, 1.0)[[3, 5]])
    assert [len(np.asarray(part.get_offsets())) for part in dots] == [3, 1]
    assert all(part.get_zorder() < stars.get_zorder() for part in dots)
    legend = ax.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["a (3)", "b (1)"]
    numbers = plot.disk(x, labels=x[:, 0], stars=[3, 5]).collections
    assert [len(np.asarray(part.get_offsets())) for part in numbers] == [4, 2]
    plot.interactive(x, tmp_path / "disk.html", labels=labels, texts=list("uvwxyz"), stars=[3, 5])
    page = (tmp_path / "disk.html").read_text()
    assert "hidden" not in page[page.rindex("Plotly.newPlot") :].replace("hiddenlabels", "")
    assert page.count('"symbol":"star"') == 1
    for draw in (plot.disk, lambda x, stars: plot.interactive(x, tmp_path / "none.html", stars=stars)):
        with pytest.raises(ValueError, match=r"stars must be rows of the 6 points, got \[6\]"):
            draw(x, stars=[6])


def test_numbers_have_a_colour_bar() -> None:
    x = randn(9, 2)
    ax = plot.disk(x, labels=x.norm(dim=1))
    np.testing.assert_allclose(np.asarray(ax.collections[0].get_array()), x.norm(dim=1).numpy())
    assert ax.get_legend() is None
    assert len(ax.figure.axes) == 2


def test_texts_and_thumbnails_do_not_cover_one_another(tmp_path: Path) -> None:
    x = randn(60, 2)
    files = [tmp_path / f"{i}.png" for i in range(60)]
    for i, path in enumerate(files):
        Image.new("RGB", (20 + i, 30), (4 * i, 0, 0)).save(path)
    images = [None if i % 2 else (path if i % 4 else Image.new("L", (9, 40))) for i, path in enumerate(files)]
    ax = plot.disk(x, texts=[f"text {i} $" if i % 5 == 1 else "" for i in range(60)], images=images)
    ax.figure.canvas.draw()
    boxes = [
        [part.get_window_extent() for part in ax.get_children() if type(part) is kind]
        for kind in (Annotation, AnnotationBbox)
    ]
    assert all(len(kind) > 5 for kind in boxes)
    assert not any(a.overlaps(b) for a, b in itertools.combinations(itertools.chain(*boxes), 2))
    assert "text 1 $" in {part.get_text() for part in ax.texts}  # the first that is not empty has its place


def test_depths() -> None:
    depth = randn(200).abs()
    ax = plot.depths(depth, labels=["a", "b", "b", "c"] * 50)
    heights = sum(patch.get_height() for group in ax.containers for patch in group)  # type: ignore[attr-defined]
    assert heights == 200
    legend = ax.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["b (100)", "a (50)", "c (50)"]


def test_interactive_is_whole_and_escaped(tmp_path: Path) -> None:
    x, edges = randn(4, 2), torch.tensor([[0, 1], [2, 3]])
    labels, texts = ["a", HOSTILE, "a", "b"], [HOSTILE, "plain", "<b>bold</b>", "&"]
    plot.interactive(x, tmp_path / "disk.html", 0.5, labels=labels, texts=texts, edges=edges)
    page = (tmp_path / "disk.html").read_text()
    assert "<script src" not in page
    assert len(page) > 1_000_000  # plotly itself
    assert "<script>alert" not in page
    assert "<b>bold" not in page
    figure = page[page.rindex("Plotly.newPlot") :]
    # plotly reads markup in texts; these are read as characters
    assert "&lt;b&gt;bold" in figure
    assert "&lt;script&gt;alert" in figure
    depth = math.asinh(math.sqrt(0.5) * x[1].norm().item()) / math.sqrt(0.5)
    assert f"plain\\u003cbr\\u003edepth {depth:.3f}" in figure


# --- reduction -----------------------------------------------------------------------------------------------------


def embedded(x: Tensor, dim: int, c: float, moved: bool) -> Tensor:
    """An isometric copy in more dimensions: turned and, if ``moved``, off the origin, by a Lorentz transformation."""
    turn = torch.linalg.qr(randn(dim, dim, seed=7)).Q
    y = torch.cat([x, x.new_zeros(len(x), dim - x.shape[1])], 1) @ turn
    if not moved:
        return y
    a = randn(dim, seed=8) * 0.4
    a0, y0 = (1 + a @ a).sqrt(), (1 / c + y.square().sum(1, keepdim=True)).sqrt()
    return y + a * (y0 + (y @ a)[:, None] / (1 + a0))


@pytest.mark.parametrize("moved", [False, True])
@pytest.mark.parametrize("c", [0.3, 1.0, 4.0])
def test_isometric_sets_come_back(c: float, moved: bool) -> None:
    for dim in (2, 3):
        x = randn(40, dim, seed=3)
        y = embedded(x, 6, c, moved)
        torch.testing.assert_close(lorentz_distances(y, c), lorentz_distances(x, c), rtol=1e-6, atol=1e-6)
        points, stress, explained = plot.reduce(y, dim, c)
        assert points.shape == (40, dim)
        torch.testing.assert_close(lorentz_distances(points, c), lorentz_distances(x, c), rtol=1e-6, atol=1e-6)
        assert stress < 1e-9
        assert explained == pytest.approx(1)
    if not moved:
        kept = plot.reduce(embedded(randn(40, 2, seed=3), 6, c, False), 2, c, keep_depth=True)
        torch.testing.assert_close(lorentz_distances(kept.points, c), lorentz_distances(randn(40, 2, seed=3), c))


@pytest.mark.parametrize("keep_depth", [False, True])
def test_stress_is_what_it_says_and_low(keep_depth: bool) -> None:
    c, x = 0.7, randn(50, 8, seed=4) * 0.5
    x[3] = 0
    points, stress, explained = plot.reduce(x, c=c, keep_depth=keep_depth)
    pairs = torch.ones(50, 50, dtype=torch.bool).triu(1)
    before, after = lorentz_distances(x, c)[pairs], lorentz_distances(points, c)[pairs]
    assert stress == pytest.approx(((after - before).square().sum() / before.square().sum()).sqrt().item())
    assert explained == pytest.approx(np.corrcoef(before, after)[0, 1] ** 2)
    # at least as good as the best plane of the coordinates, and as any start nearby
    plane = x @ torch.linalg.svd(x).Vh[:2].T
    naive = lorentz_distances(plane, c)[pairs]
    assert stress < 0.8 * ((naive - before).square().sum() / before.square().sum()).sqrt().item()
    if keep_depth:
        depth = [torch.asinh(c**0.5 * v.norm(dim=1)) for v in (x, points)]
        torch.testing.assert_close(*depth)
    again = plot.reduce(x, c=c, keep_depth=keep_depth)
    assert torch.equal(again.points, points)


def test_depth_is_kept_where_the_plane_says_nothing() -> None:
    """A point at right angles to the plane of the others still has its depth."""
    x = torch.cat([randn(10, 2), torch.zeros(10, 1)], 1).double()
    x = torch.cat([10 * x, torch.tensor([[0.0, 0.0, 1.0], [0.0, 0.0, 0.0]], dtype=torch.float64)])
    points = plot.reduce(x, keep_depth=True).points
    torch.testing.assert_close(points.norm(dim=1), x.norm(dim=1))


def test_few_points() -> None:
    assert plot.reduce(torch.ones(1, 4)).stress == 0
    assert plot.reduce(torch.ones(3, 4)).stress == 0
    two = plot.reduce(torch.tensor([[1.0, 2.0, 3.0], [0.0, 0.0, 1.0]]))
    assert two.stress < 1e-5
    assert math.isnan(two.explained)
    assert len(plot.disk(torch.zeros(0, 2)).collections) == 1


def test_arguments(tmp_path: Path) -> None:
    given: dict[str, Any]
    x = torch.zeros(3, 2)
    for given, message in [
        ({"points": torch.zeros(3, 5)}, r"disk: points must have shape \(N, 2\), got \(3, 5\); reduce brings"),
        ({"points": x, "model": "klein"}, "disk: model must be 'lorentz' or 'poincare', got 'klein'"),
        ({"points": x, "labels": ["a"]}, "disk: labels must have one entry a point, got 1 for 3"),
        ({"points": x, "texts": ["a"] * 4}, "disk: texts must have one entry a point, got 4 for 3"),
        ({"points": x, "images": []}, "disk: images must have one entry a point, got 0 for 3"),
    ]:
        with pytest.raises(ValueError, match=message):
            plot.disk(**given)
    with pytest.raises(ValueError, match=r"figure: points must have shape \(N, 2\)"):
        plot.interactive(torch.zeros(3), tmp_path / "none.html")
    for points, dim in ((torch.zeros(3, 2), 3), (torch.zeros(2), 1)):
        with pytest.raises(ValueError, match=rf"reduce: points must have shape \(N, {dim} or more\)"):
            plot.reduce(points, dim)
