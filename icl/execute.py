"""What ``icl train`` does: a run is trained into a folder, from which it goes on if it is cut short."""

from __future__ import annotations

import json
import os
import platform
import shutil
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from time import perf_counter
from typing import Any

from transformers import PrinterCallback, TrainerCallback, set_seed
from transformers.trainer_utils import get_last_checkpoint

from hyperbolic.version import __version__
from icl import internals
from icl.adapters import attach
from icl.adapters.fitted import Fitted
from icl.fitting import fit_examples
from icl.models import load_model
from icl.prompt import Collator
from icl.runs import Run
from icl.splits import open_split, sample
from icl.train import DistillTrainer, answer_accuracy, training_arguments

RUN_FILE = "run.json"
CHECKPOINTS = "checkpoints"
FORMAT = 1

Step = Callable[[int, int, float | None], None]
"""Told the step, how many there will be, and what the last look at the dev set gave."""


def train(run: Run, out: str | Path, on_step: Step | None = None) -> dict[str, Any]:
    """Train an adapter into the folder ``out``, and return what ``run.json`` says there.

    A run that was cut short goes on after its last epoch; one that is finished is left alone. No test set is seen: the
    epoch is chosen by ``run.data.dev``. ``ValueError`` if the folder holds another run.
    """
    out = Path(out)
    told = _begin(run, out)
    if told["finished"]:
        return told
    splits = {
        part: open_split(source, part, run.data.show)
        for part, source in (("train", run.data.train), ("dev", run.data.dev))
        if source is not None
    }
    seed = run.training.seed
    told["digests"] = {part: split.digest(seed) for part, split in splits.items()}
    set_seed(seed)
    model, processor = load_model(run.model)
    adapters = attach(model, run.method)
    parts = adapters["default"]
    fitted = [isinstance(part, Fitted) for part in parts]
    _check(run, any(fitted) and not all(fitted))
    shots = run.data.shots if run.aim.needs_teacher or all(fitted) else 0
    examples = {part: split.examples(shots, run.data.strategy, seed) for part, split in splits.items()}
    examples["train"] = sample(examples["train"], run.data.samples, seed)
    told["examples"] = {part: len(rows) for part, rows in examples.items()}
    out.mkdir(parents=True, exist_ok=True)
    _write(told, out)
    clock = _Clock(told, out, on_step)
    if all(fitted):
        fit_examples(adapters, Collator(processor), examples["train"], examples.get("dev"))
    else:
        told |= _train(run, model, processor, examples, out, clock)
    adapters.save_pretrained(out)
    parameters = sum(t.numel() for part in parts for t in part.state_dict().values())
    told |= {"finished": True, "parameters": parameters, "seconds": round(clock.seconds, 2)}
    _write(told, out)  # last: what is told to be finished is there
    shutil.rmtree(out / CHECKPOINTS, ignore_errors=True)
    return told


def _begin(run: Run, out: Path) -> dict[str, Any]:
    """What is told of the run, where it was left."""
    found = read_run(out)
    described = run.to_dict()
    # what has come to nothing is no other run
    if found is not None and (found["finished"] or (out / CHECKPOINTS).is_dir()):
        if differences := sorted(_differences(found["run"], described)):
            raise ValueError(f"{out} holds another run, which differs in {', '.join(differences)}: name another folder")
        return found
    versions = {name: metadata.version(name) for name in ("torch", "transformers")}
    return {
        "format": FORMAT,
        "run": described,
        "finished": False,
        "seconds": 0.0,
        "versions": {"hyperbolic-icl": __version__, "python": platform.python_version(), **versions},
    }


def read_run(folder: str | Path) -> dict[str, Any] | None:
    """What is told of the adapter in a folder, if it was made by :func:`train`."""
    file = Path(folder) / RUN_FILE
    if not file.exists():
        return None
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(found, dict) or found.get("format") != FORMAT:
            raise ValueError(f"it must be of format {FORMAT}, the one that this version reads")
        Run.from_dict(found["run"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{file} cannot be read: {error}") from error
    return found


def _differences(a: Any, b: Any, name: str = "") -> Iterator[str]:
    if isinstance(a, dict) and isinstance(b, dict):
        for key in {*a, *b}:
            yield from _differences(a.get(key), b.get(key), f"{name}.{key}" if name else key)
    elif a != b:
        yield name


def _write(told: dict[str, Any], out: Path) -> None:
    draft = out / (RUN_FILE + ".tmp")
    draft.write_text(json.dumps(told, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(draft, out / RUN_FILE)


def _check(run: Run, mixed: bool) -> None:
    names = ", ".join(config.method for config in run.method)
    if mixed:
        raise ValueError(f"method: {names} are partly fitted and partly trained: make a run of each")
    if any(config.method == "hierarchy_bias" for config in run.method):
        raise ValueError("method: hierarchy_bias is told where demonstrations are, in Python: see icl.adapters")
    if run.data.shots == 0 and run.aim.needs_teacher:
        raise ValueError("data.shots must be at least 1: the objective compares with a teacher, which sees them")


class _Clock(TrainerCallback):
    """Seconds of all sessions of a run, and its progress."""

    def __init__(self, told: dict[str, Any], out: Path, on_step: Step | None):
        self.told, self.out, self.on_step = told, out, on_step
        self.before, self.start = told["seconds"], perf_counter()
        self.dev: float | None = None

    @property
    def seconds(self) -> float:
        return float(self.before + perf_counter() - self.start)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.on_step is not None:
            self.on_step(state.global_step, state.max_steps, self.dev)

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any = None, **kwargs: Any) -> None:
        self.dev = metrics[args.metric_for_best_model]

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if args.should_save:
            _write({**self.told, "seconds": round(self.seconds, 2)}, self.out)


def _train(run: Run, model: Any, processor: Any, examples: dict[str, Any], out: Path, clock: _Clock) -> dict[str, Any]:
    """What is learned goes into the model; returned is which epoch was chosen, and by what."""
    how, dev = run.training, examples.get("dev")
    folder = out / CHECKPOINTS
    args = training_arguments(
        folder,
        num_train_epochs=how.epochs,
        max_steps=how.steps or -1,
        learning_rate=how.learning_rate,
        per_device_train_batch_size=how.batch_size,
        per_device_eval_batch_size=how.batch_size,
        gradient_accumulation_steps=how.accumulation,
        **{internals.CHECKPOINTING: how.checkpointing},
        bf16=how.bf16,
        seed=how.seed,
        logging_steps=10,
        disable_tqdm=True,
        save_strategy="epoch",
        save_total_limit=2,
        eval_strategy="epoch" if dev else "no",
        load_best_model_at_end=dev is not None,
        metric_for_best_model=f"eval_{how.choose_by}",
        greater_is_better=how.choose_by == "accuracy",
    )
    trainer = DistillTrainer(
        model,
        args,
        objective=run.aim,
        train_dataset=examples["train"],
        eval_dataset=dev,
        data_collator=Collator(processor),
        teacher_cache=out / "teacher" if how.cache else None,
        keep_in_memory=isinstance(examples["train"], list),  # they are already, the testbed's
        compute_metrics=answer_accuracy if how.choose_by == "accuracy" else None,
        callbacks=[clock],
    )
    trainer.remove_callback(PrinterCallback)
    last = get_last_checkpoint(str(folder)) if folder.is_dir() else None
    trainer.train(resume_from_checkpoint=last)
    state = trainer.state
    history = [entry for entry in state.log_history if "eval_loss" in entry or "loss" in entry]
    chosen: dict[str, Any] = {"by": None, "epoch": state.epoch, "step": state.global_step}
    if dev:
        step = state.best_global_step
        epoch = next(e["epoch"] for e in history if e["step"] == step and "eval_loss" in e)
        chosen = {"by": f"dev {how.choose_by}", "epoch": epoch, "step": step, "value": state.best_metric}
    return {"chosen": chosen, "history": history}
