"""The command line: what it prints where, its exit codes, and that the examples of its help run."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import normalize
from typer.testing import CliRunner, Result

from hyperbolic import lorentz
from icl.bank.anchor_bank import AnchorBank
from icl.bank.embedding.embedder import Embedder
from icl.bank.embedding.lift import HyperbolicLift
from icl.bank.selection.queries import Queries
from icl.bank.selection.select_rows import select
from icl.cli.app import app
from tests.icl.models import tiny_model

ROOT = Path(__file__).parents[3]


def run(*args: Any, code: int = 0) -> Result:
    result = CliRunner().invoke(app, [str(arg) for arg in args], env={"COLUMNS": "200", "TERM": "dumb"})
    assert result.exit_code == code, result.output
    return result


def read(*args: Any) -> Any:
    """What --json prints: one value and nothing else."""
    return json.loads(run(*args, "--json").stdout)


def points(n: int, seed: int = 0) -> Tensor:
    return lorentz.expmap0(torch.randn(n, 3, generator=torch.Generator().manual_seed(seed)))


def write_rows(path: Path, x: Tensor, first: int = 0, **columns: list[Any]) -> Path:
    rows = [
        {"id": f"demo-{i}", "text": f"text {i}", "point": p, **{k: v[i - first] for k, v in columns.items()}}
        for i, p in enumerate(x.tolist(), first)
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, with the files that the examples name."""
    monkeypatch.chdir(tmp_path)
    write_rows(tmp_path / "demos.jsonl", points(30), task=["vqa", "ocr", "[red]"] * 10)
    write_rows(tmp_path / "more.jsonl", points(4, seed=1), first=30)
    write_rows(tmp_path / "queries.jsonl", points(3, seed=2), first=100)
    np.save(tmp_path / "queries.npy", points(2, seed=3).numpy())
    generator = torch.Generator().manual_seed(0)
    labels = [i % 4 for i in range(60)]
    noise = torch.randn(60, 6, generator=generator)
    e = normalize(torch.randn(4, 6, generator=generator)[labels] + 0.3 * noise, dim=1)
    columns = {"image_embedding": e.tolist(), "text_embedding": (e + 0.1 * noise.flip(0)).tolist()}
    parents = [None if i < 4 else f"r{i % 4}" for i in range(60)]
    table = {"id": [f"r{i}" for i in range(60)], "label": labels, "parent": parents, **columns}
    pq.write_table(pa.table(table), tmp_path / "embeddings.parquet")
    return tmp_path


@pytest.fixture
def bank(here: Path) -> AnchorBank:
    return AnchorBank.build(here / "bank", here / "demos.jsonl")


def test_build_append_info(here: Path) -> None:
    assert read("bank", "build", "demos.jsonl", "--out", "bank", "--c", 0.5) == {
        "bank": "bank",
        "rows": 30,
        "failed": 0,
    }
    assert AnchorBank.open("bank").meta.c == 0.5
    torch.testing.assert_close(AnchorBank.open("bank").gather(torch.arange(30)), points(30))
    assert read("bank", "append", "bank", "more.jsonl")["added"] == 4
    info = read("bank", "info", "bank")
    assert (info["rows"], info["dimension"], info["versions"]) == (34, 3, 2)
    assert "dimension" in run("bank", "info", "bank").stdout
    assert "other: 30 rows of dimension 3" in run("bank", "build", "demos.jsonl", "--out", "other").stdout


@pytest.mark.parametrize("weight", [0.0, 0.5])
def test_search(bank: AnchorBank, here: Path, weight: float) -> None:
    x = points(30).double()
    d = torch.acosh((1 + x.square().sum(1)).sqrt()[:, None] * (1 + x.square().sum(1)).sqrt() - x @ x.T)
    score = weight * torch.acosh((1 + x.square().sum(1)).sqrt()) - d[5]
    score[5] = -torch.inf  # itself left out
    (found,) = read("bank", "search", "bank", "--id", "demo-5", "-k", 7, "--depth-weight", weight)
    want = score.topk(7)
    assert [row["id"] for row in found] == [f"demo-{i}" for i in want.indices.tolist()]
    assert [row["score"] for row in found] == pytest.approx(want.values.tolist(), rel=1e-5)
    assert [row["dist"] for row in found] == pytest.approx(d[5, want.indices].tolist(), rel=1e-5)
    assert all(row["text"] == f"text {row['row']}" for row in found)


def test_search_by_points_and_condition(bank: AnchorBank, here: Path) -> None:
    query = torch.from_numpy(np.load("queries.npy"))
    found = read("bank", "search", "bank", "--points", "queries.npy", "-k", 4, "--where", "task = 'vqa'")
    assert [[row["row"] for row in rows] for rows in found] == bank.search(query, 4, where="task = 'vqa'").rows.tolist()
    table = run("bank", "search", "bank", "--points", "queries.npy", "-k", 4).stdout
    assert all(name in table for name in ("demo-", "distance", "text 1"))
    np.save("objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    assert "objects.npy is no array" in run("bank", "search", "bank", "--points", "objects.npy", code=1).stderr


def test_search_by_the_index(bank: AnchorBank) -> None:
    pytest.importorskip("usearch")
    record = read("bank", "index", "bank")
    assert record["version"] == bank.version
    exact = read("bank", "search", "bank", "--id", "demo-5", "-k", 5)
    assert read("bank", "search", "bank", "--id", "demo-5", "-k", 5, "--ann") == exact


def test_select(bank: AnchorBank, here: Path) -> None:
    options = ["--strategy", "hyperbolic", "-k", 3, "--diversity", 0.3, "--order", "random", "--seed", 4]
    lines = [
        json.loads(line) for line in run("select", "bank", "--query", "queries.jsonl", *options).stdout.splitlines()
    ]
    queries = Queries(points=points(3, seed=2), ids=[f"demo-{i}" for i in (100, 101, 102)])
    rows = select(bank, queries, 3, diversity=0.3, order="random", seed=4).tolist()
    assert lines == [
        {"id": name, "demonstrations": [f"demo-{row}" for row in mine]} for name, mine in zip(queries.ids or [], rows)
    ]
    (line,) = run("select", "bank", "--id", "demo-5", "-k", 29, "--strategy", "random").stdout.splitlines()
    assert sorted(json.loads(line)["demonstrations"]) == sorted(f"demo-{i}" for i in range(30) if i != 5)


@pytest.mark.parametrize("pairs", ["text", "label", "parent"])
def test_lift_fit(here: Path, pairs: str) -> None:
    report = read("lift", "fit", "embeddings.parquet", "--out", "lift", "--pairs", pairs, "--dim", 4, "--epochs", 8)
    assert report["after"]["loss"] < report["before"]["loss"]
    lift = HyperbolicLift.load("lift")
    assert (lift.width, lift.dim) == (6, 4)
    assert lift.c.item() == pytest.approx(report["c"])
    built = read("bank", "build", "embeddings.parquet", "--out", "bank", "--lift", "lift")
    assert built["rows"] == 60
    again = read("lift", "fit", "bank", "--out", "lift", "--pairs", pairs, "--dim", 4, "--epochs", 8)
    assert again["after"]["loss"] == pytest.approx(report["after"]["loss"], rel=1e-3)
    table = run("lift", "fit", "bank", "--out", "lift", "--pairs", pairs, "--epochs", 1).stdout
    assert "recall@5" in table


def test_from_rows_to_depths(here: Path) -> None:
    """A bank that was only embedded says that it has no depth; lifted again, without its model, it has."""
    embeddings = pq.read_table("embeddings.parquet")
    answers = pa.array([[f"a{label.as_py()}"] * 2 + ["other"] for label in embeddings.column("label")])
    embeddings = embeddings.append_column("answers", answers)
    width = 6
    plain = AnchorBank.build(here / "embedded", embeddings, lift=HyperbolicLift(width).eval())
    run("lift", "fit", "embedded", "--out", "flat", "--pairs", "label", "--epochs", 1)
    HyperbolicLift(width).save(here / "scale")
    result = run("bank", "build", "embedded", "--lift", "scale", "--out", "same", "--json")
    assert "all rows lie at one depth" in result.stderr
    assert json.loads(result.stdout)["rows"] == 60
    run("lift", "fit", "embedded", "--out", "lift", "--pairs", "label", "--label", "answers", "--dim", 3)
    result = run("bank", "build", "embedded", "--lift", "lift", "--out", "bank")
    assert result.stderr == ""
    bank = AnchorBank.open("bank")
    assert (bank.meta.dim, bank.meta.widths) == (3, plain.meta.widths)
    names = ["id", "label", "parent", "answers"]
    assert bank.table(names).equals(plain.table(names))
    lifted = HyperbolicLift.load("lift")(torch.cat(plain.vectors("image_embedding"))).detach()
    torch.testing.assert_close(torch.cat(bank.vectors()), lifted, rtol=1e-5, atol=1e-6)
    depth = lorentz.dist0(lifted.double(), c=bank.meta.c)
    assert depth.max() > 1.01 * depth.min()
    assert (
        "has no column none to pair by"
        in run("lift", "fit", "bank", "--out", "x", "--pairs", "label", "--label", "none", code=1).stderr
    )


def test_finished_build_is_left_alone(bank: AnchorBank, here: Path) -> None:
    command = ["bank", "build", "demos.jsonl", "--out", "bank"]
    assert "bank: 30 rows of dimension 3" in run(*command).stdout
    assert AnchorBank.open("bank").version == bank.version
    message = "there is a bank at bank, with c 1.0, and not 2.0: append to it"
    assert message in run(*command, "--c", 2, code=1).stderr
    (here / "demos.jsonl").write_text((here / "demos.jsonl").read_text().replace("text 3", "Text 3"))
    assert "there is a bank at bank, of other rows: append to it" in run(*command, code=1).stderr


def test_images_and_texts(here: Path) -> None:
    """Embedded by a model on disk; what does not decode is counted, listed and written."""
    model = tiny_model("clip", here / "clip")
    (here / "photos" / "red").mkdir(parents=True)
    for i in range(5):
        Image.new("RGB", (20, 20), (50 * i, 0, 90)).save(here / "photos" / "red" / f"{i}.png")
    for i in range(7):
        (here / "photos" / f"broken [bold]{i}.png").write_text("no image")
    command = ["bank", "build", "photos", "--out", "bank", "--model", model, "--c", 2.0, "--batch-size", 2]
    result = run(*command, "--failures", "failed.jsonl", "--json")
    assert json.loads(result.stdout) == {"bank": "bank", "rows": 5, "failed": 7}
    assert "7 rows failed" in result.stderr
    assert len(re.findall(r"^  row \d: \S*/photos/broken \[bold\]\d.png: Unid", result.stderr, re.MULTILINE)) == 5
    assert "and 2 more" in result.stderr
    failed = [json.loads(line) for line in (here / "failed.jsonl").read_text().splitlines()]
    assert [Path(failure["what"]).name for failure in failed] == [f"broken [bold]{i}.png" for i in range(7)]
    # unit embeddings as tangents at the origin: points at distance 1
    e = Embedder(model).images([here / "photos" / "red" / f"{i}.png" for i in range(5)]).embeddings
    bank = AnchorBank.open("bank")
    torch.testing.assert_close(bank.gather(torch.arange(5)), e * np.sinh(2**0.5) / 2**0.5, rtol=1e-4, atol=1e-5)
    (found,) = read("bank", "search", "bank", "--image", here / "photos" / "red" / "3.png", "-k", 1)
    assert found[0]["id"] == "red/3.png"
    (found,) = read("bank", "search", "bank", "--text", "a red square", "-k", 5)
    text = Embedder(model).texts(["a red square"]).embeddings[0]
    assert [row["row"] for row in found] == (e @ text).sort(descending=True).indices.tolist()
    (here / "asked.jsonl").write_text(json.dumps({"id": "q", "image": "photos/red/1.png"}) + "\n")
    (line,) = run("select", "bank", "--query", "asked.jsonl", "--strategy", "rices", "-k", 4).stdout.splitlines()
    mine = (e @ e[1]).sort().indices.tolist()[:-1]  # without itself, nearest last
    assert json.loads(line)["demonstrations"] == [f"red/{i}.png" for i in mine]


def test_errors_of_the_user_are_one_line(bank: AnchorBank, here: Path) -> None:
    (here / "empty").mkdir()
    (here / "plain.jsonl").write_text('{"id": "a", "text": "b"}\n')
    rows = [{"image_embedding": [1.0, i], "label": f"only {i}"} for i in range(5)]
    (here / "other.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for args, message in [
        (["bank", "info", "nowhere"], "there is no bank at nowhere: build one"),
        (["bank", "build", "more.jsonl", "--out", "bank"], "there is a bank at bank, of other rows: append to it"),
        (["bank", "build", "missing.jsonl", "--out", "new"], "there is nothing at missing.jsonl"),
        (["bank", "build", "empty", "--out", "new"], "holds neither images nor any of"),
        (["bank", "build", "demos.jsonl", "--out", "new", "--lift", "empty"], "empty holds no lift"),
        (["bank", "append", "bank", "demos.jsonl"], "ids must be unique"),
        (["bank", "build", "demos.jsonl", "--out", "new", "--lift", "no"], "there is no lift at no: icl lift fit"),
        (["bank", "append", "bank", "plain.jsonl"], "rows without a point need a lift"),
        (["bank", "build", "plain.jsonl", "--out", "new"], "these have no embeddings either, for which build takes a"),
        (["lift", "fit", "other.jsonl", "--pairs", "label", "--out", "lift"], "4 pairs of rows or more, to learn from"),
        (["bank", "search", "bank", "--id", "[red]x"], "has no row with id [red]x"),
        (["bank", "search", "bank", "--where", "nothing = 3", "--id", "demo-1"], "cannot filter by nothing = 3"),
        (["bank", "report", "bank", "--out", "page", "--label", "none"], "has no column none to colour by"),
        (["select", "bank", "--id", "demo-1", "-k", "30"], "k must be from 1 to 29"),
        (["select", "bank", "--id", "demo-1", "--strategy", "rices"], "compares the image_embedding of every query"),
        (["lift", "fit", "demos.jsonl", "--out", "lift"], "has neither image_embedding nor text_embedding"),
        (["lift", "fit", "embeddings.parquet", "--out", "lift", "--c", "99"], "c must be between"),
    ]:
        result = run(*args, code=1)
        assert result.stdout == ""
        assert message in result.stderr
        assert result.stderr.count("\n") == 1, result.stderr


def test_usage(bank: AnchorBank) -> None:
    for args in (
        ["bank", "search", "bank"],
        ["bank", "search", "bank", "--id", "a", "--text", "b"],
        ["bank", "search", "bank", "--id", "a", "--ann", "--where", "true"],
        ["bank", "search", "bank", "--id", "a", "-k", "0"],
        ["bank", "build"],
        ["select", "bank"],
        ["select", "bank", "--id", "a", "--query", "queries.jsonl"],
        ["select", "bank", "--id", "a", "--strategy", "best"],
        ["nothing"],
    ):
        result = run(*args, code=2)
        assert result.stdout == ""
        assert "Usage" in result.stderr


def test_an_interrupted_append_adds_nothing(bank: AnchorBank, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(AnchorBank, "append", interrupted)
    result = run("bank", "append", "bank", "more.jsonl", code=130)
    assert "stopped: nothing was added" in result.stderr
    assert result.stdout == ""


SLOW = """
    import signal
    import sys
    import icl.bank.ingest
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which a job in the background has ignored
    icl.bank.ingest._BATCH = icl.bank.ingest._CHUNK = 10
    sink = icl.bank.ingest.RowIngest._table
    def slowly(self, *args):
        import time
        time.sleep(0.05)
        return sink(self, *args)
    icl.bank.ingest.RowIngest._table = slowly
    from icl.cli.app import app
    app(sys.argv[1:])
"""


def test_ctrl_c_leaves_a_build_that_goes_on(here: Path) -> None:
    """A process of its own, which gets the signal while it writes; the same command then makes the whole bank."""
    write_rows(here / "many.jsonl", points(600))
    command = [sys.executable, "-c", re.sub(r"^    ", "", SLOW, flags=re.MULTILINE)]
    command += ["bank", "build", str(here / "many.jsonl"), "--out", str(here / "many"), "--json"]
    first = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    while len(list((here / "many").glob("anchors.lance/data/*"))) < 3:
        assert first.poll() is None, first.stderr and first.stderr.read()
        time.sleep(0.01)
    first.send_signal(signal.SIGINT)
    out, err = first.communicate()
    assert (first.returncode, out) == (130, "")
    assert "run the same command again" in err
    plain = [sys.executable, "-m", "icl.cli", *command[3:]]
    second = subprocess.run(plain, cwd=ROOT, capture_output=True, text=True, check=True)
    assert json.loads(second.stdout)["rows"] == 600
    whole = AnchorBank.open(here / "many")
    assert whole.take(range(600), ["id"]).column("id").to_pylist() == [f"demo-{i}" for i in range(600)]
    torch.testing.assert_close(torch.cat(whole.vectors()), points(600))
