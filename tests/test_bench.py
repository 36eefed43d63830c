"""The benchmarks at small sizes: that all run, and that the page has what the rows say."""

import csv
import json
import math
import os
import subprocess
import sys
from pathlib import Path

BENCH = Path(__file__).parent.parent / "bench"
OPS = {"pairwise_dist", "nearest", "contrastive_loss", "rowwise", "dist_exp0", "overhead"}


def quick(job: str, out: Path, *options: str) -> None:
    command = [sys.executable, str(BENCH / f"{job}.py"), "--quick", "--out", str(out), *options]
    run = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stdout + run.stderr


def performance(out: Path, *options: str) -> None:
    quick("performance", out, *options)


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


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


def tree(path: Path, branches: int = 3, depth: int = 3) -> Path:
    """A complete tree as the closure of networkx, edges from the general to the specific."""
    nodes, edges, level = [{"id": "0", "label": "root.n.01"}], [], [["0"]]
    for _ in range(depth):
        level = [[*above, f"{above[-1]}.{i}"] for above in level for i in range(branches)]
        nodes += [{"id": line[-1], "label": f"{line[-1]}.n.01"} for line in level]
        edges += [{"source": above, "target": line[-1]} for line in level for above in line[:-1]]
    graph = {"directed": True, "multigraph": False, "graph": {}, "nodes": nodes, "edges": edges}
    path.write_text(json.dumps(graph))
    return path


def test_wordnet(tmp_path: Path) -> None:
    """The setups of all libraries train on the same; where the arithmetic is exact enough they go the same way."""
    page = tmp_path / "evidence.md"
    page.write_text("# By hand\n\n<!-- wordnet: generated, do not edit -->\nold\n<!-- end of wordnet -->\n\nAfter.\n")
    quick("wordnet", tmp_path, str(tree(tmp_path / "tree.json")))
    looks = rows_of(tmp_path / "wordnet.csv")
    assert len({(look["library"], look["model"], look["learned"], look["dtype"]) for look in looks}) == 12
    assert {look["strangers"] for look in looks} == {"8", "40"}
    for look in looks:
        assert 0 < float(look["epoch_seconds"]) <= float(look["seconds"])
        assert 0 < float(look["map"]) <= 1 <= float(look["mean_rank"]) < 40
    exact = [look for look in looks if look["learned"] == "tangents" and look["dtype"] == "float64"]
    for strangers in ("8", "40"):
        last = [look for look in exact if look["strangers"] == strangers][-4:]
        assert len({look["epoch"] for look in last}) == 1
        assert all(math.isclose(float(look["map"]), float(last[0]["map"]), rel_tol=1e-3) for look in last)
    text = page.read_text(encoding="utf-8")
    assert text.startswith("# By hand\n\n<!-- wordnet: generated")
    assert text.endswith("<!-- end of wordnet -->\n\nAfter.\n")
    assert "old" not in text
    assert text.count("| hyperbolic | lorentz | tangents | float32 |") == 1
    assert (tmp_path / "wordnet.png").read_bytes().startswith(b"\x89PNG")


def test_ranking(tmp_path: Path) -> None:
    quick("ranking", tmp_path, str(tree(tmp_path / "tree.json")))
    rows = rows_of(tmp_path / "ranking.csv")
    for row in rows:
        assert 0 <= float(row["low"]) <= float(row["mean"]) <= float(row["high"]) <= 1, row
    means = {(row["queries"], row["method"], row["metric"]): float(row["mean"]) for row in rows}
    assert len(means) == len(rows) == 2 * 9 * 5
    for (queries, method, metric), mean in means.items():
        if method != "random":
            assert mean > means[queries, "random", metric], (queries, method, metric)
        # who has the concept has the parent too
        assert means[queries, method, "same concept"] <= means[queries, method, "same parent"]
    text = (tmp_path / "evidence.md").read_text(encoding="utf-8")
    assert text.startswith("<!-- ranking: generated, do not edit -->")
    assert text.count("| seen | hyperbolic | RICES (cosine) |") == 1
    assert (tmp_path / "ranking.png").read_bytes().startswith(b"\x89PNG")


def test_gpu_without_one() -> None:
    command = [sys.executable, str(BENCH / "gpu.py")]
    run = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "CUDA_VISIBLE_DEVICES": ""})
    assert (run.returncode, run.stdout) == (1, "no GPU: torch.cuda.is_available() is false; nothing measured\n")
