"""``icl bank``: what it prints where, and that an interruption costs nothing."""

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
import pytest
import torch
from PIL import Image

from icl.bank.anchor_bank import AnchorBank
from icl.bank.embedding.embedder import Embedder
from tests.icl.commands import points, read, run, write_rows
from tests.icl.models import tiny_model

ROOT = Path(__file__).parents[3]


def test_build_append_info(anchor_files: Path) -> None:
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
def test_search(bank: AnchorBank, anchor_files: Path, weight: float) -> None:
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


def test_search_by_points_and_condition(bank: AnchorBank, anchor_files: Path) -> None:
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


def test_finished_build_is_left_alone(bank: AnchorBank, anchor_files: Path) -> None:
    command = ["bank", "build", "demos.jsonl", "--out", "bank"]
    assert "bank: 30 rows of dimension 3" in run(*command).stdout
    assert AnchorBank.open("bank").version == bank.version
    message = "there is a bank at bank, with c 1.0, and not 2.0: append to it"
    assert message in run(*command, "--c", 2, code=1).stderr
    (anchor_files / "demos.jsonl").write_text((anchor_files / "demos.jsonl").read_text().replace("text 3", "Text 3"))
    assert "there is a bank at bank, of other rows: append to it" in run(*command, code=1).stderr


def test_images_and_texts(anchor_files: Path) -> None:
    """Embedded by a model on disk; what does not decode is counted, listed and written."""
    model = tiny_model("clip", anchor_files / "clip")
    (anchor_files / "photos" / "red").mkdir(parents=True)
    for i in range(5):
        Image.new("RGB", (20, 20), (50 * i, 0, 90)).save(anchor_files / "photos" / "red" / f"{i}.png")
    for i in range(7):
        (anchor_files / "photos" / f"broken [bold]{i}.png").write_text("no image")
    command = ["bank", "build", "photos", "--out", "bank", "--model", model, "--c", 2.0, "--batch-size", 2]
    result = run(*command, "--failures", "failed.jsonl", "--json")
    assert json.loads(result.stdout) == {"bank": "bank", "rows": 5, "failed": 7}
    assert "7 rows failed" in result.stderr
    assert len(re.findall(r"^  row \d: \S*/photos/broken \[bold\]\d.png: Unid", result.stderr, re.MULTILINE)) == 5
    assert "and 2 more" in result.stderr
    failed = [json.loads(line) for line in (anchor_files / "failed.jsonl").read_text().splitlines()]
    assert [Path(failure["what"]).name for failure in failed] == [f"broken [bold]{i}.png" for i in range(7)]
    # unit embeddings as tangents at the origin: points at distance 1
    e = Embedder(model).images([anchor_files / "photos" / "red" / f"{i}.png" for i in range(5)]).embeddings
    bank = AnchorBank.open("bank")
    torch.testing.assert_close(bank.gather(torch.arange(5)), e * np.sinh(2**0.5) / 2**0.5, rtol=1e-4, atol=1e-5)
    (found,) = read("bank", "search", "bank", "--image", anchor_files / "photos" / "red" / "3.png", "-k", 1)
    assert found[0]["id"] == "red/3.png"
    (found,) = read("bank", "search", "bank", "--text", "a red square", "-k", 5)
    text = Embedder(model).texts(["a red square"]).embeddings[0]
    assert [row["row"] for row in found] == (e @ text).sort(descending=True).indices.tolist()
    (anchor_files / "asked.jsonl").write_text(json.dumps({"id": "q", "image": "photos/red/1.png"}) + "\n")
    (line,) = run("select", "bank", "--query", "asked.jsonl", "--strategy", "rices", "-k", 4).stdout.splitlines()
    mine = (e @ e[1]).sort().indices.tolist()[:-1]  # without itself, nearest last
    assert json.loads(line)["demonstrations"] == [f"red/{i}.png" for i in mine]


def test_an_interrupted_append_adds_nothing(
    bank: AnchorBank, anchor_files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
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


def test_ctrl_c_leaves_a_build_that_goes_on(anchor_files: Path) -> None:
    """A process of its own, which gets the signal while it writes; the same command then makes the whole bank."""
    write_rows(anchor_files / "many.jsonl", points(600))
    command = [sys.executable, "-c", re.sub(r"^    ", "", SLOW, flags=re.MULTILINE)]
    command += ["bank", "build", str(anchor_files / "many.jsonl"), "--out", str(anchor_files / "many"), "--json"]
    first = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    while len(list((anchor_files / "many").glob("anchors.lance/data/*"))) < 3:
        assert first.poll() is None, first.stderr and first.stderr.read()
        time.sleep(0.01)
    first.send_signal(signal.SIGINT)
    out, err = first.communicate()
    assert (first.returncode, out) == (130, "")
    assert "run the same command again" in err
    plain = [sys.executable, "-m", "icl.cli", *command[3:]]
    second = subprocess.run(plain, cwd=ROOT, capture_output=True, text=True, check=True)
    assert json.loads(second.stdout)["rows"] == 600
    whole = AnchorBank.open(anchor_files / "many")
    assert whole.take(range(600), ["id"]).column("id").to_pylist() == [f"demo-{i}" for i in range(600)]
    torch.testing.assert_close(torch.cat(whole.vectors()), points(600))
