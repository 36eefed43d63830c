"""The benchmarks at small sizes: that all run, and that the page has what the rows say."""

import csv
import subprocess
import sys
from pathlib import Path

BENCH = Path(__file__).parent.parent / "bench"
OPS = {"pairwise_dist", "nearest", "contrastive_loss", "rowwise", "dist_exp0", "overhead"}


def performance(out: Path, *options: str) -> None:
    command = [sys.executable, str(BENCH / "performance.py"), "--quick", "--out", str(out), *options]
    run = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stdout + run.stderr


# One test, because each worker that runs the suite would measure for its own.
def test_performance(tmp_path: Path) -> None:
    performance(tmp_path)
    table, page, figure = (tmp_path / f"performance.{suffix}" for suffix in ("csv", "md", "png"))
    check_rows(table)

    text = page.read_text(encoding="utf-8")
    assert "not yet run on hardware" in text
    assert "not measured" not in text, "a target that no group answers"
    assert all(f"## {op}" in text for op in OPS)
    assert figure.read_bytes().startswith(b"\x89PNG")

    # A partial run replaces the rows of its op, and the page is made of the table alone.
    before = table.read_text().splitlines()
    performance(tmp_path, "--only", "nearest")
    after = table.read_text().splitlines()
    assert [line for line in before if line.startswith("nearest")] != [a for a in after if a.startswith("nearest")]
    assert [line.split(",")[0] for line in before] == [line.split(",")[0] for line in after]
    assert {line for line in before if not line.startswith("nearest")} <= set(after)
    text = page.read_text(encoding="utf-8")
    page.unlink()
    performance(tmp_path, "--render-only")
    assert page.read_text(encoding="utf-8") == text


def check_rows(table: Path) -> None:
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["op"] for row in rows} == OPS
    floors = 0
    for row in rows:
        assert 0 < float(row["p20 s"]) <= float(row["p50 s"]) <= float(row["p80 s"]), row
        if row["implementation"] == row["floor"]:
            assert float(row["ratio"]) == 1
            floors += 1
    groups = {tuple(row[name] for name in ("op", "model", "case", "pass", "shape", "dtype")) for row in rows}
    ours = [row for row in rows if row["implementation"] == "hyperbolic"]
    assert len(ours) == len(groups) == floors
