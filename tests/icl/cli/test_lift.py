"""``icl lift fit``, and banks that are lifted by what it learns."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from hyperbolic import lorentz
from icl.bank.anchor_bank import AnchorBank
from icl.bank.embedding.lift import HyperbolicLift
from tests.icl.commands import read, run


@pytest.mark.parametrize("pairs", ["text", "label", "parent"])
def test_lift_fit(anchor_files: Path, pairs: str) -> None:
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


def test_from_rows_to_depths(anchor_files: Path) -> None:
    """A bank that was only embedded says that it has no depth; lifted again, without its model, it has."""
    embeddings = pq.read_table("embeddings.parquet")
    answers = pa.array([[f"a{label.as_py()}"] * 2 + ["other"] for label in embeddings.column("label")])
    embeddings = embeddings.append_column("answers", answers)
    width = 6
    plain = AnchorBank.build(anchor_files / "embedded", embeddings, lift=HyperbolicLift(width).eval())
    run("lift", "fit", "embedded", "--out", "flat", "--pairs", "label", "--epochs", 1)
    HyperbolicLift(width).save(anchor_files / "scale")
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
