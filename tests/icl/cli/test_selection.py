"""``icl select``: demonstrations as JSON lines."""

import json
from pathlib import Path

from icl.bank.anchor_bank import AnchorBank
from icl.bank.selection.queries import Queries
from icl.bank.selection.select_rows import select
from tests.icl.commands import points, run


def test_select(bank: AnchorBank, anchor_files: Path) -> None:
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
