"""Published tables again, from the real checkpoints and data sets: published beside measured, cell by cell.

    python bench/published.py idefics2-8b --model HuggingFaceM4/idefics2-8b --images coco --vqav2 vqav2 --okvqa okvqa
        --coco dataset_coco.json

Folders are as their publishers pack them: --images has train2014/ and val2014/, --vqav2 and --okvqa the JSON files of
questions and annotations, --coco is Karpathy's file. Without data sets it prints the published table. A run that was
cut short goes on where it was when it is run again.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from harness import coco
from harness.comparison import compare, markdown
from harness.published import BASES, EPOCHS, STEP, TASKS, TEMPLATES, Row, Task, rows_of
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from transformers import AutoProcessor

from icl.bank import AnchorBank, Embedder, HyperbolicLift
from icl.common.files import digest
from icl.evaluation import EvaluationPlan, Results, evaluate
from icl.training import TrainingRun, train
from icl.training.settings import DataSettings, TrainingSettings

Show = Callable[[str, int, int | None], None]
"""Told what is done, and how much of how much of it."""


@dataclass(frozen=True)
class Setting:
    """What is the same for all cells of a table.

    Args:
        model: for :func:`icl.attention.load_model`.
        out: folder for rows, adapters and results.
        clip: embeds the images that RICES compares; without one its cells are not measured.
        seeds: of adapters and demonstrations.
        batch: examples in memory at a time; a step of training is of ``STEP`` whatever this is.
    """

    model: str
    out: Path
    clip: str | None = None
    seeds: tuple[int, ...] = (0,)
    batch: int = STEP


def prepare(name: str, source: Path, images: Path, out: Path, limit: int | None = None) -> dict[str, str]:
    """Files of rows to learn from, to choose by and to be tested by, made once. ``limit`` is of the last.

    ``ValueError`` if ``out`` has rows made from other files.
    """
    folder = out / "data" / name
    parts = {"train": "train", "dev": "dev", "test": "test" if limit is None else f"test-{limit}"}
    files = {part: folder / f"{stem}.jsonl" for part, stem in parts.items()}
    named = [source] if source.is_file() else sorted(source.glob("*.json"))
    if not named:
        raise ValueError(f"{name}: {source} must be there, a file or a folder of JSON files")
    made_of = {"images": str(images.absolute()), **{file.name: digest(file.read_bytes()) for file in named}}
    told = folder / "made_of.json"
    if told.exists() and json.loads(told.read_text(encoding="utf-8")) != made_of:
        raise ValueError(f"{folder} was made of other files than those of {source}: name another --out")
    if not (told.exists() and all(file.exists() for file in files.values())):
        for part, rows in coco.splits(name, source, images).items():
            coco.write(coco.drawn(rows, limit) if part == "test" else rows, files[part])
        told.write_text(json.dumps(made_of, indent=1) + "\n", encoding="utf-8")
    return {part: str(file) for part, file in files.items()}


def templated(base: str, model: str, out: Path) -> str:
    """The model, or a folder with its files and a chat template, where its processor has none."""
    if base not in TEMPLATES:
        return model
    processor: Any = AutoProcessor.from_pretrained(model)
    if getattr(processor, "chat_template", None) is not None:
        return model
    if Path(model).is_dir():
        source = Path(model)
    else:
        from huggingface_hub import snapshot_download

        source = Path(snapshot_download(model))
    folder = out / "model"
    processor.chat_template = TEMPLATES[base]
    processor.save_pretrained(folder)
    for file in source.iterdir():
        if not (folder / file.name).exists():
            (folder / file.name).symlink_to(file.resolve())
    return str(folder)


def measure(setting: Setting, name: str, task: Task, rows: Sequence[Row], files: Mapping[str, str], show: Show) -> None:
    """Train and test what the rows ask for, into files of ``setting.out``; what is there already is left alone."""
    results = Results(setting.out / "results" / f"{name}.json")
    bank = setting.out / "banks" / name
    # The same in all cells but for one thing, so that each is measured once.
    shared = EvaluationPlan(
        files["test"],
        setting.model,
        seeds=setting.seeds,
        pool=files["train"],
        bank=str(bank),
        prompt=task.prompt,
        metrics=(task.metric,),
        max_new_tokens=task.max_new_tokens,
        batch_size=setting.batch,
    )

    def answer(plan: EvaluationPlan, what: str) -> None:
        done = 0

        def advance(count: int) -> None:
            nonlocal done
            done += count
            show(f"{what}: answers", done, None)

        evaluate(plan, results, advance)

    answer(shared, "zero-shot")
    for row in rows:
        if row.config is None:
            if row.strategy != "random":
                if setting.clip is None:
                    continue
                _build(bank, files["train"], setting.clip, show)
            answer(replace(shared, shots=(row.shots,), strategies=(row.strategy,)), row.name)
            continue
        folders = []
        for seed in setting.seeds:
            folders.append(setting.out / "adapters" / name / f"{row.name.lower()}-{seed}")
            train(run(setting, task, row, files, seed), folders[-1], partial(_step, show, row.name))
        answer(replace(shared, adapters=tuple(folders)), row.name)


def run(setting: Setting, task: Task, row: Row, files: Mapping[str, str], seed: int) -> TrainingRun:
    """How the adapter of a row is learned."""
    assert row.config is not None
    with open(files["train"], encoding="utf-8") as lines_of:
        there = sum(1 for _ in lines_of)
    return TrainingRun(
        setting.model,
        DataSettings(
            files["train"],
            files["dev"] if row.dev else None,
            samples=min(row.samples, there),
            shots=row.shots or None,
            prompt=task.prompt,
        ),
        (row.config,),
        training=TrainingSettings(
            epochs=EPOCHS,
            learning_rate=row.learning_rate,
            batch_size=min(setting.batch, STEP),
            accumulation=math.ceil(STEP / setting.batch),
            seed=seed,
            bf16=torch.cuda.is_available(),
        ),
    )


def _step(show: Show, what: str, step: int, of: int, dev: float | None) -> None:
    show(what, step, of)


def _build(folder: Path, rows: str, clip: str, show: Show) -> None:
    if (folder / "bank.json").exists():
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    embedder = Embedder(clip)
    done = 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        show("bank of demonstrations", done, None)

    AnchorBank.build(
        folder, Path(rows), embedder=embedder, lift=HyperbolicLift(embedder.width).eval(), progress=advance
    )


@contextmanager
def _shown() -> Iterator[Show]:
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    err = Console(stderr=True)
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as bar:
        line = bar.add_task("", total=None)
        yield lambda what, done, of: bar.update(line, description=what, completed=done, total=of)


def main(
    base: Annotated[str, typer.Argument(help=f"Whose table: {', '.join(BASES)}.")],
    model: Annotated[str | None, typer.Option(help="Its path, or name on the hub.")] = None,
    images: Annotated[Path, typer.Option(help="Folder with train2014/ and val2014/.")] = Path("coco"),
    vqav2: Annotated[Path | None, typer.Option(help="Folder of questions and annotations.")] = None,
    okvqa: Annotated[Path | None, typer.Option(help="Likewise.")] = None,
    coco_file: Annotated[Path | None, typer.Option("--coco", help="dataset_coco.json of Karpathy.")] = None,
    clip: Annotated[str | None, typer.Option(help="Path or name of a CLIP model, for RICES.")] = None,
    method: Annotated[list[str] | None, typer.Option(help="These rows alone; can be repeated.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Test rows, drawn always alike; default: all.")] = None,
    seed: Annotated[list[int] | None, typer.Option(min=0, help="Can be repeated; default: 0.")] = None,
    batch: Annotated[int, typer.Option(min=1, help=f"Examples in memory; a step is of {STEP}.")] = STEP,
    out: Annotated[Path, typer.Option(help="Folder of all that is made.")] = Path("out/published"),
) -> None:
    """Measure methods on published tasks and compare them with what was published."""
    if base not in BASES:
        raise typer.BadParameter(f"must be one of {', '.join(BASES)}, got {base}", param_hint="base")
    sources = {name: path for name, path in (("vqav2", vqav2), ("okvqa", okvqa), ("coco", coco_file)) if path}
    if sources and model is None:
        raise typer.BadParameter("must be given where data sets are", param_hint="--model")
    known = {row.name for name in TASKS for row in rows_of(base, name)}
    if method and (unknown := set(method) - known):
        names = f"must be of {', '.join(sorted(known))}, got {', '.join(sorted(unknown))}"
        raise typer.BadParameter(names, param_hint="--method")
    if batch < STEP and STEP % batch:
        raise typer.BadParameter(f"must divide {STEP}, or be more, got {batch}", param_hint="--batch")
    out = out / base
    tests: dict[str, str] = {}
    try:
        with _shown() as show:
            for name, source in sources.items():
                files = prepare(name, source, images, out, limit)
                tests[name] = files["test"]
                setting = Setting(templated(base, str(model), out), out, clip, tuple(seed or (0,)), batch)
                rows = [row for row in rows_of(base, name) if not method or row.name in method]
                measure(setting, name, TASKS[name], rows, files, show)
    except KeyboardInterrupt as error:
        print("stopped: run the same command again, it goes on where it was", file=sys.stderr)
        raise typer.Exit(130) from error
    except (ValueError, OSError) as error:
        print(" ".join(str(error).split()), file=sys.stderr)
        raise typer.Exit(1) from error
    compared = [
        line
        for name in sources or TASKS
        for line in compare(name, TASKS[name], rows_of(base, name), _results(out, name), tests.get(name))
    ]
    text = markdown(compared)
    print(text)
    if sources:
        (out / "published.md").write_text(text, encoding="utf-8")
        (out / "published.json").write_text(json.dumps(compared, indent=1) + "\n", encoding="utf-8")


def _results(out: Path, name: str) -> Results:
    return Results(out / "results" / f"{name}.json")


if __name__ == "__main__":
    typer.run(main)
