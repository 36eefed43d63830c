"""Draws docs/architecture.svg: the wings of icl and the packages beside it, and who imports whom, as the code says."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated
from xml.sax.saxutils import escape

import grimp
import typer

ROOT = Path(__file__).parent.parent
PICTURE = ROOT / "docs" / "architecture.svg"
WIDTH, BOX, HEIGHT, FLOOR = 1000, 220, 64, 118
"""Of the picture, of a box, and from one floor to the next, in pixels."""


def read_wings() -> dict[str, set[str]]:
    """Return the wings that each wing of icl imports; "hyperbolic" is one that imports none."""
    graph = grimp.build_graph("icl", "hyperbolic")
    names = {module.removeprefix("icl.") for module in graph.find_children("icl")}
    arrows: dict[str, set[str]] = {name: set() for name in [*sorted(names), "hyperbolic"]}
    for name in names:
        inside = {f"icl.{name}", *graph.find_descendants(f"icl.{name}")}
        for module in inside:
            for imported in graph.find_modules_directly_imported_by(module):
                package, *rest = imported.split(".")
                other = "hyperbolic" if package == "hyperbolic" else rest[0] if rest else name
                if other != name:
                    arrows[name].add(other)
    return arrows


def longest_chain(arrows: Mapping[str, set[str]]) -> list[str]:
    """Return the longest chain of imports, from the wing that nobody imports down."""

    def down(name: str) -> list[str]:
        return [name, *max(map(down, sorted(arrows[name])), key=len, default=[])]

    return max(map(down, arrows), key=len)


def floors(arrows: Mapping[str, set[str]]) -> dict[str, int]:
    """Return how many wings lie below each, in the longest chain down from it."""

    def floor(name: str) -> int:
        return max((floor(other) + 1 for other in arrows[name]), default=0)

    return {name: floor(name) for name in arrows}


def purpose(name: str) -> str:
    """Return the first sentence of a wing's docstring, up to its first colon."""
    folder = ROOT / "hyperbolic" if name == "hyperbolic" else ROOT / "icl" / name
    text = ast.get_docstring(ast.parse((folder / "__init__.py").read_text(encoding="utf-8"))) or ""
    return text.partition("\n")[0].partition(":")[0].partition(". ")[0].rstrip(".").replace("``", "")


def draw(arrows: Mapping[str, set[str]]) -> str:
    """Return the picture as SVG. Arrows that another path stands for are left out."""
    levels = floors(arrows)
    top = max(levels.values())
    rows = [[name for name in arrows if levels[name] == level] for level in range(top, -1, -1)]
    places = {
        name: (WIDTH * (i + 1) / (len(row) + 1), 20 + FLOOR * y + HEIGHT / 2)
        for y, row in enumerate(rows)
        for i, name in enumerate(row)
    }
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {FLOOR * (top + 1) + 20}" '
        'font-family="system-ui, sans-serif">',
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0 0 8 4 0 8z" fill="#8a93a3"/></marker></defs>',
    ]
    for name, others in arrows.items():
        below = set().union(*(_reach(arrows, other) for other in others))
        for other in sorted(others - below):
            (x1, y1), (x2, y2) = places[name], places[other]
            parts.append(
                f'<path d="M{x1:.0f} {y1 + HEIGHT / 2:.0f} C{x1:.0f} {y1 + HEIGHT:.0f} {x2:.0f} {y2 - HEIGHT:.0f} '
                f'{x2:.0f} {y2 - HEIGHT / 2 - 2:.0f}" fill="none" stroke="#8a93a3" marker-end="url(#tip)"/>'
            )
    for name, (x, y) in places.items():
        parts.append(
            f'<rect x="{x - BOX / 2:.0f}" y="{y - HEIGHT / 2:.0f}" width="{BOX}" height="{HEIGHT}" rx="8" '
            f'fill="{"#e8f0fe" if name == "hyperbolic" else "#f6f7f9"}" stroke="#c4cad4"/>'
            f'<text x="{x:.0f}" y="{y - 10:.0f}" text-anchor="middle" font-size="15" font-weight="600">{name}</text>'
        )
        for i, line in enumerate(_wrap(purpose(name))):
            parts.append(
                f'<text x="{x:.0f}" y="{y + 6 + 13 * i:.0f}" text-anchor="middle" font-size="10.5" fill="#4a5160">'
                f"{escape(line)}</text>"
            )
    return "\n".join([*parts, "</svg>", ""])


def _reach(arrows: Mapping[str, set[str]], name: str) -> set[str]:
    return set().union(*({other} | _reach(arrows, other) for other in arrows[name]))


def _wrap(text: str, width: int = 36) -> list[str]:
    """Return two lines at most, cut at words."""
    lines = [""]
    for word in text.split():
        if lines[-1] and len(lines[-1]) + len(word) >= width:
            lines.append("")
        lines[-1] += f" {word}" if lines[-1] else word
    return lines if len(lines) <= 2 else [lines[0], f"{lines[1]} ..."]


def main(
    check: Annotated[bool, typer.Option("--check", help="Write nothing; exit with 1 if it is not current.")] = False,
) -> None:
    """Draw docs/architecture.svg from the imports of the code.

    Example: python bench/architecture.py
    """
    arrows = read_wings()
    picture = draw(arrows)
    print("longest chain:", " -> ".join(longest_chain(arrows)))
    if not check:
        PICTURE.write_text(picture, encoding="utf-8")
    elif not PICTURE.exists() or PICTURE.read_text(encoding="utf-8") != picture:
        print(f"{PICTURE} is not what the imports are: run python bench/architecture.py")
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
