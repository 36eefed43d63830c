"""A build that is run again after it failed, was cut short or has finished, with the same rows or others."""

import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import lance
import pytest
import torch
from PIL import Image

from icl.bank.anchor_bank import AnchorBank
from icl.bank.embedding.embedder import EmbeddingBatch
from icl.bank.embedding.lift import HyperbolicLift
from icl.bank.schema import BankError

N = 50


class Letters:
    """An embedder that needs no model."""

    images = None

    def __init__(self, name: str = "letters", dtype: torch.dtype = torch.float32):
        self.name, self.dtype = name, dtype

    def texts(self, texts: list[str]) -> EmbeddingBatch:
        embeddings = torch.tensor([[len(text), text.count("a") + 1.0, ord(text[-1])] for text in texts])
        return EmbeddingBatch(embeddings, torch.arange(len(texts)), [])


def lift(seed: int = 0) -> HyperbolicLift:
    torch.manual_seed(seed)
    return HyperbolicLift(3, dim=2)


def rows(change: int | None = None) -> dict[str, Any]:
    texts = [f"text {i}" for i in range(N)]
    if change is not None:
        texts[change] = "another"
    return {"id": [f"r{i}" for i in range(N)], "text": texts}


def build(folder: Path, source: Any = None, *, embedder: Any = None, **options: Any) -> AnchorBank:
    options = {"lift": lift(), **options}
    return AnchorBank.build(folder, rows() if source is None else source, embedder=embedder or Letters(), **options)


def cut(folder: Path, monkeypatch: pytest.MonkeyPatch, commits: int = 2, source: Any = None) -> None:
    """Begin a build of ten rows a commit and stop it after some commits."""
    monkeypatch.setattr("icl.bank.ingest._BATCH", 10)
    monkeypatch.setattr("icl.bank.ingest._CHUNK", 10)
    write, done = lance.write_dataset, list[int]()

    def dies(*args: Any, **kwargs: Any) -> Any:
        if len(done) == commits:
            raise KeyboardInterrupt
        done.append(1)
        return write(*args, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr(lance, "write_dataset", dies)
        with pytest.raises(KeyboardInterrupt):
            build(folder, source)


OTHERS: list[tuple[dict[str, Any], str]] = [
    ({"embedder": Letters("other")}, "with model letters, and not other"),
    ({"embedder": Letters(dtype=torch.bfloat16)}, "with dtype torch.float32, and not torch.bfloat16"),
    ({"lift": lift(1)}, "with lift "),
    ({"source": rows(3)}, "of other rows"),
    ({"source": rows(15)}, "of other rows"),
    ({"source": {name: values[:15] for name, values in rows().items()}}, "of other rows"),
    ({"source": {name: values[::-1] for name, values in rows().items()}}, "of other rows"),
    ({"source": {**rows(), "task": ["vqa"] * N}}, "of other rows"),
]


@pytest.mark.parametrize(("other", "message"), OTHERS)
@pytest.mark.parametrize("finished", [False, True])
def test_another_build_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, finished: bool, other: dict[str, Any], message: str
) -> None:
    folder = tmp_path / "bank"
    cut(folder, monkeypatch)
    if finished:
        build(folder)
    what = "there is a bank" if finished else "there is an unfinished build"
    with pytest.raises(BankError, match=f"{what} at .*{message}"):
        build(folder, **other)
    # what was begun is whole
    whole = build(folder)
    assert whole.table(["id", "text"]).to_pydict() == rows()
    assert torch.equal(torch.cat(whole.vectors()), torch.cat(build(tmp_path / "at once").vectors()))


def test_another_curvature_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    points = {"id": [f"r{i}" for i in range(N)], "point": torch.rand(N, 2)}
    monkeypatch.setattr(sys.modules[__name__], "build", AnchorBank.build)
    cut(tmp_path / "bank", monkeypatch, source=points)
    with pytest.raises(BankError, match=r"with c 1\.0, and not 0\.5: run that build again"):
        AnchorBank.build(tmp_path / "bank", points, c=0.5)
    bank = AnchorBank.build(tmp_path / "bank", points)
    with pytest.raises(BankError, match=r"there is a bank at .* of other rows"):
        AnchorBank.build(tmp_path / "bank", {**points, "point": torch.rand(N, 2)})
    assert torch.equal(torch.cat(bank.vectors()), points["point"])
    for c in (0, -1, float("nan"), float("inf"), "1", None):
        with pytest.raises(BankError, match="c must be a positive finite number"):
            AnchorBank.build(tmp_path / "other", points, c=c)  # type: ignore[arg-type]
    assert not (tmp_path / "other").exists()


def test_finished_build_is_left_alone(tmp_path: Path) -> None:
    bank = build(tmp_path / "bank")
    bank.append({"id": ["later"], "text": ["later"]}, embedder=Letters())  # type: ignore[arg-type]
    bank.delete(["r3"])
    before = {path: path.read_bytes() for path in bank.folder.rglob("*") if path.is_file() and path.name != ".lock"}
    again = build(tmp_path / "bank")
    assert (again.version, len(again)) == (bank.version, N)
    after = {path: path.read_bytes() for path in bank.folder.rglob("*") if path.is_file() and path.name != ".lock"}
    assert {p: c for p, c in after.items() if p.name != "build.json"} == {
        p: c for p, c in before.items() if p.name != "build.json"
    }


def test_images_are_part_of_the_rows(tmp_path: Path) -> None:
    source = {"id": ["a"], "image": [str(tmp_path / "a.png")], "point": [[1.0]]}
    Image.new("RGB", (4, 4), (1, 2, 3)).save(tmp_path / "a.png")
    AnchorBank.build(tmp_path / "bank", source)
    assert len(AnchorBank.build(tmp_path / "bank", source)) == 1
    Image.new("RGB", (4, 4), (3, 2, 1)).save(tmp_path / "a.png")
    with pytest.raises(BankError, match="of other rows"):
        AnchorBank.build(tmp_path / "bank", source)


def test_a_repeated_id_is_no_row_that_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second run must refuse it too, and not take the later row for the earlier one."""
    monkeypatch.setattr("icl.bank.ingest._BATCH", 10)
    monkeypatch.setattr("icl.bank.ingest._CHUNK", 10)
    twice = rows()
    twice["id"][45] = "r3"
    for _ in range(2):
        with pytest.raises(BankError, match="ids must be unique, got in the bank already: r3"):
            build(tmp_path / "bank", twice)
    # with the row put right, the build goes on
    assert len(build(tmp_path / "bank")) == N


def test_failed_before_the_first_commit(tmp_path: Path) -> None:
    """Files without a manifest are no rows: the build begins again."""
    folder = tmp_path / "bank"
    build(folder)
    shutil.rmtree(folder / "anchors.lance" / "_versions")
    for name in ("bank.json", "build.json"):
        (folder / name).unlink()
    with pytest.raises(BankError, match="run the same build again"):
        AnchorBank.open(folder)
    assert len(build(folder, c=1.0)) == N
    for i, left in enumerate(([], [".lock"], [".lock", "build.json"], ["build.json.17.tmp"], ["anchors.lance"])):
        folder = tmp_path / f"begun {i}"
        folder.mkdir()
        for name in left:
            (folder / name).mkdir() if name == "anchors.lance" else (folder / name).touch()
        assert len(build(folder)) == N


@pytest.mark.parametrize("lost", [["bank.json"], ["bank.json", "build.json"]])
def test_a_bank_without_its_facts_is_not_built_over(tmp_path: Path, lost: list[str]) -> None:
    bank = build(tmp_path / "bank")
    bank.append({"id": ["later"], "text": ["later"]}, embedder=Letters())  # type: ignore[arg-type]
    for name in lost:
        (bank.folder / name).unlink()
    if len(lost) == 2:
        with pytest.raises(BankError, match="without a record of how it was built"):
            build(bank.folder)
    else:
        build(bank.folder)
    assert lance.dataset(str(bank.folder / "anchors.lance")).count_rows() == N + 1


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"settings": 3, "rows": 1, "digest": ""}'])
def test_damaged_record(tmp_path: Path, content: str) -> None:
    bank = build(tmp_path / "bank")
    (bank.folder / "build.json").write_text(content)
    with pytest.raises(BankError, match=r"build\.json is damaged"):
        build(bank.folder)
    assert len(AnchorBank.open(bank.folder)) == N


KILLED = """
    import os, signal, sys
    import lance
    from icl.bank.anchor_bank import AnchorBank
    write, done = lance.write_dataset, []
    def dies(*args, **kwargs):
        if len(done) == int(sys.argv[2]):
            lance.fragment.write_fragments(args[0], args[1])  # what a commit writes first
            os.kill(os.getpid(), signal.SIGKILL)
        done.append(1)
        return write(*args, **kwargs)
    lance.write_dataset = dies
    import icl.bank.ingest
    icl.bank.ingest._BATCH = icl.bank.ingest._CHUNK = 10
    AnchorBank.build(sys.argv[1], {"id": [f"r{i}" for i in range(50)], "point": [[i / 10.0] for i in range(50)]})
"""


@pytest.mark.parametrize("commits", [0, 3])
def test_killed_between_files_and_commit(tmp_path: Path, commits: int) -> None:
    """The run that goes on may read the rows in batches of another size."""
    command = [sys.executable, "-c", textwrap.dedent(KILLED), str(tmp_path / "bank"), str(commits)]
    assert subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}).returncode == -signal.SIGKILL
    source = {"id": [f"r{i}" for i in range(50)], "point": [[i / 10.0] for i in range(50)]}
    bank = AnchorBank.build(tmp_path / "bank", source)
    assert bank.table(["id"]).column("id").to_pylist() == source["id"]
    assert torch.equal(torch.cat(bank.vectors()), torch.tensor(source["point"]))
    assert json.loads((bank.folder / "build.json").read_text())["rows"] == 50
