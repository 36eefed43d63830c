"""Carry out a run: train an adapter into a folder, from which training goes on if it is cut short."""

from __future__ import annotations

import logging
import math
import platform
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib import metadata
from pathlib import Path
from time import perf_counter
from typing import Any

from transformers import PrinterCallback, TrainerCallback, set_seed

from hyperbolic.version import __version__
from icl.adapters import attach
from icl.attention import internals, load_model, model_identity
from icl.bank import DemonstratedRecords, check_rows, sample_examples
from icl.data import Examples, format_query
from icl.prompts import Collator
from icl.training import learning_rate
from icl.training.arguments import training_arguments
from icl.training.checkpoints import find_newest_whole, prune
from icl.training.fitting import fit_examples
from icl.training.run_configuration import TrainingRun
from icl.training.run_folder import (
    CHECKPOINTS,
    FORMAT,
    check_unchanged,
    digest_adapter,
    find_record,
    lock_folder,
    remove_checkpoints,
    write_run,
)
from icl.training.splits import FileSplit, Split, open_split
from icl.training.trainer import DistillTrainer, answer_accuracy

StepCallback = Callable[[int, int, float | None], None]
"""Called with the step, how many there will be, and the last value of the dev set."""
_LOGGER = logging.getLogger(__name__)
# Examples that a trial of a learning rate is judged by.
_TRIAL_EXAMPLES = 64


def train(run: TrainingRun, out: str | Path, on_step: StepCallback | None = None) -> dict[str, Any]:
    """Train an adapter into the folder ``out``, and return what ``run.json`` says there.

    A run that was cut short goes on from its last whole checkpoint; one that is finished is left alone. No test set is
    read: the epoch is chosen by ``run.data.dev``.

    Raises:
        ValueError: the folder holds another run, or this one of data or a model that changed since; another process
            is training into it; or the run or its data are not right.
        OSError: the folder cannot be written.
    """
    out, seed = Path(out), run.training.seed
    _check_run(run)
    splits = {"train": open_split(run.data.train, "train", run.data.demonstrations)}
    if run.data.dev is not None:
        splits["dev"] = open_split(run.data.dev, "dev", run.data.demonstrations)
    for split in splits.values():  # also where no teacher sees them: a pool that is too small is not what was meant
        if isinstance(split, FileSplit) and (run.data.shots or 0) > len(split.pool):
            raise ValueError(
                f"data.shots must be at most {len(split.pool)}, the rows of the pool, got {run.data.shots}"
            )
    fitted = run.method[0].fitted
    shots = run.data.shots if run.aim.needs_teacher or fitted else 0
    examples = {part: split.examples(shots, run.data.strategy, seed) for part, split in splits.items()}
    digests = {part: split.digest(seed) for part, split in splits.items()} | {"model": model_identity(run.model)}
    if shots != 0 and run.data.pool not in (None, run.data.train):
        digests["pool"] = open_split(str(run.data.pool), "train", run.data.demonstrations).digest(seed)
    training_set = examples["train"]
    if isinstance(training_set, DemonstratedRecords) and training_set.selection_digest is not None:
        digests["demonstrations"] = training_set.selection_digest
    examples["train"] = sample_examples(training_set, run.data.samples, seed)
    record = find_record(run, digests, out)
    if record is not None and record["finished"]:
        _LOGGER.info(
            f"{out} is finished already: settings, data and model have not changed since, and nothing is done again"
        )
        return record
    # Rows without an answer are of no use to these.
    answered = {"train", "dev"} if run.aim.ce and not fitted else set()
    check_rows(examples, answered | ({"dev"} if run.training.choose_by == "accuracy" else set()), out)
    with lock_folder(out):
        record = find_record(run, digests, out) or _new_record(run)
        if record["finished"]:
            return record
        set_seed(seed)
        model, processor = load_model(run.model)
        if hasattr(processor, "check_words"):  # the testbed's: all words at once, before any is learned
            processor.check_words(_list_texts(splits.values()))
        if digests["model"] is None:  # of the hub, and here only now
            digests["model"] = model_identity(run.model)
            check_unchanged(record, run, digests, out)
        adapters = attach(model, run.method)
        record["digests"] = digests
        record["examples"] = {part: len(rows) for part, rows in examples.items()}
        write_run(record, out)
        progress = _ProgressRecorder(record, out, on_step)
        if fitted:
            fit_examples(adapters, Collator(processor), examples["train"], examples.get("dev"))
        else:
            record |= _train(run, model, processor, examples, progress)
        tensors = [tensor for part in adapters["default"] for tensor in part.state_dict().values()]
        if not all(tensor.isfinite().all() for tensor in tensors):
            raise ValueError("the adapter has numbers that are not finite: a lower training.learning_rate may help")
        adapters.save_pretrained(out)
        parameters = sum(tensor.numel() for tensor in tensors)
        record |= {"finished": True, "parameters": parameters, "seconds": round(progress.seconds, 2)}
        record["files"] = digest_adapter(out)
        write_run(record, out)  # last: what is said to be finished is there
        remove_checkpoints(out)
    return record


def _check_run(run: TrainingRun) -> None:
    """Raise ``ValueError`` for methods that cannot be learned, or not together."""
    if len({config.fitted for config in run.method}) > 1:
        names = ", ".join(config.method for config in run.method)
        raise ValueError(f"method: {names} are partly fitted and partly trained: make a run of each")
    if any(config.method == "hierarchy_bias" for config in run.method):
        raise ValueError("method: hierarchy_bias is told where demonstrations are, in Python: see icl.adapters")
    if run.data.shots == 0 and run.aim.needs_teacher:
        raise ValueError("data.shots must be at least 1: the objective compares with a teacher, which sees them")


def _list_texts(splits: Iterable[Split]) -> Iterator[str]:
    """Return all that the rows of files ask and answer."""
    for split in splits:
        if isinstance(split, FileSplit):
            for row, answer in enumerate(split.records.answers):
                yield format_query(split.records, row, split.demonstrations.prompt)
                yield answer or ""


def _new_record(run: TrainingRun) -> dict[str, Any]:
    """Return what run.json says of a run before it begins."""
    versions = {name: metadata.version(name) for name in ("torch", "transformers")}
    return {
        "format": FORMAT,
        "run": run.to_dict(),
        "finished": False,
        "seconds": 0.0,
        "versions": {"hyperbolic-icl": __version__, "python": platform.python_version(), **versions},
    }


class _ProgressRecorder(TrainerCallback):
    """Record the seconds of all sessions of a run, and look after its checkpoints."""

    def __init__(self, record: dict[str, Any], out: Path, on_step: StepCallback | None):
        self.record, self.out, self.on_step = record, out, on_step
        self.before, self.start = record["seconds"], perf_counter()
        self.dev: float | None = None

    @property
    def seconds(self) -> float:
        return float(self.before + perf_counter() - self.start)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.best_global_step:  # the state has a path, which is another one if the folder was moved
            state.best_model_checkpoint = str(self.out / CHECKPOINTS / f"checkpoint-{state.best_global_step}")

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.on_step is not None:
            self.on_step(state.global_step, state.max_steps, self.dev)

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        control.should_log = True

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any = None, **kwargs: Any) -> None:
        self.dev = metrics[args.metric_for_best_model]

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if args.should_save:
            write_run({**self.record, "seconds": round(self.seconds, 2)}, self.out)
            prune(self.out / CHECKPOINTS)


def _train(
    run: TrainingRun, model: Any, processor: Any, examples: Mapping[str, Examples], progress: _ProgressRecorder
) -> dict[str, Any]:
    """Train the adapter of ``model``, and return the history, and which epoch was chosen by what."""
    settings, dev, record = run.training, examples.get("dev"), progress.record
    folder = progress.out / CHECKPOINTS
    newest, faults = find_newest_whole(folder)
    for checkpoint, reason in faults.items():
        _LOGGER.warning(f"{checkpoint} is left out: {reason}")
        shutil.rmtree(checkpoint, ignore_errors=True)
    if faults:
        _LOGGER.warning(
            f"training goes on from {newest}" if newest else "there is no earlier checkpoint: training starts anew"
        )
    options = {
        "model": model,
        "objective": run.aim,
        "train_dataset": examples["train"],
        "data_collator": Collator(processor),
        "teacher_cache": progress.out / "teacher" if settings.cache else None,
        "keep_in_memory": isinstance(examples["train"], list),  # they are already, the testbed's
    }
    arguments: dict[str, Any] = {
        "output_dir": folder,
        "per_device_train_batch_size": settings.batch_size,
        "per_device_eval_batch_size": settings.batch_size,
        "gradient_accumulation_steps": settings.accumulation,
        internals.CHECKPOINTING: settings.checkpointing,
        "bf16": settings.bf16,
        "seed": settings.seed,
        "disable_tqdm": True,
    }
    if "learning_rate" not in record:
        rate = settings.learning_rate
        record["learning_rate"] = {"value": rate} if rate else _search_rate(run, examples, options, arguments)
        write_run(record, progress.out)
    args = training_arguments(
        **arguments,
        num_train_epochs=settings.epochs,
        max_steps=settings.steps or -1,
        learning_rate=record["learning_rate"]["value"],
        logging_steps=10,
        logging_first_step=True,
        save_strategy="epoch",
        eval_strategy="epoch" if dev else "no",
        eval_on_start=bool(dev) and newest is None,
        load_best_model_at_end=dev is not None,
        metric_for_best_model=f"eval_{settings.choose_by}",
        greater_is_better=settings.choose_by == "accuracy",
    )
    trainer = DistillTrainer(
        **options, args=args, eval_dataset=dev, compute_metrics=answer_accuracy, callbacks=[progress]
    )
    trainer.remove_callback(PrinterCallback)
    try:
        trainer.train(resume_from_checkpoint=None if newest is None else str(newest))
    except FloatingPointError as error:
        rate = record["learning_rate"]["value"]
        raise ValueError(f"training.learning_rate {rate:g} may be too high: {error}") from error
    return _summarize(trainer.state, settings.choose_by if dev else None)


def _summarize(state: Any, choose_by: str | None) -> dict[str, Any]:
    """Return what run.json says of a training: its history, and which epoch was chosen by which measure of dev."""
    history = [entry for entry in state.log_history if "eval_loss" in entry or "loss" in entry]
    losses = [entry["loss"] for entry in history if "loss" in entry]
    summary: dict[str, Any] = {"history": history, "training_loss": {"first": losses[0], "last": losses[-1]}}
    if choose_by is None:
        return {"chosen": {"by": None, "epoch": state.epoch, "step": state.global_step}, **summary}
    evaluations = {entry["step"]: entry for entry in history if "eval_loss" in entry}
    step = state.best_global_step
    if step is None:
        raise ValueError(f"dev {choose_by} is never a number: there is nothing to choose an epoch by")
    for name, entry in (("untrained", evaluations[0]), ("trained", evaluations[step])):
        summary[name] = {measure: entry[f"eval_{measure}"] for measure in ("loss", "accuracy")}
    before, after = summary["untrained"][choose_by], summary["trained"][choose_by]
    if after <= before if choose_by == "accuracy" else after >= before:
        _LOGGER.warning(f"no epoch is better than the untrained adapter: dev {choose_by} is {after:.4g}")
    best = {"epoch": evaluations[step]["epoch"], "step": step, "value": state.best_metric}
    return {"chosen": {"by": f"dev {choose_by}", **best}, **summary}


def _search_rate(
    run: TrainingRun, examples: Mapping[str, Examples], options: Mapping[str, Any], arguments: Mapping[str, Any]
) -> dict[str, Any]:
    """Return a learning rate and the trials that chose it. The adapter stays as it was."""
    settings, adapters = run.training, options["model"].icl_adapters
    batches = math.ceil(len(examples["train"]) / settings.batch_size)
    all_steps = settings.steps or math.ceil(settings.epochs * math.ceil(batches / settings.accumulation))
    steps = learning_rate.count_trial_steps(all_steps)
    part = "dev" if "dev" in examples else "train"
    judged = sample_examples(examples[part], min(len(examples[part]), _TRIAL_EXAMPLES), settings.seed)
    start = {name: value.clone() for name, value in adapters.state_dict().items()}
    _LOGGER.info(f"looking for a learning rate by trainings of {steps} steps; give one to do without")

    def loss_after(rate: float, steps: int = steps) -> float:
        args = training_arguments(**arguments, max_steps=steps or 1, learning_rate=rate, save_strategy="no")
        trainer = DistillTrainer(**options, args=args, eval_dataset=judged)
        trainer.remove_callback(PrinterCallback)
        try:
            if steps:
                trainer.train()
            return float(trainer.evaluate()["eval_loss"])
        except FloatingPointError:
            return math.inf
        finally:
            adapters.load_state_dict(start)

    value, losses = learning_rate.search(loss_after, untrained=loss_after(0.0, steps=0))
    trials = {f"{rate:g}": loss if math.isfinite(loss) else None for rate, loss in sorted(losses.items())}
    _LOGGER.info(
        f"learning rate {value:g}, by the loss of {part} after {steps} steps: "
        + ", ".join(f"{loss if loss is None else round(loss, 4)} at {rate}" for rate, loss in trials.items())
    )
    return {"value": value, "steps": steps, f"{part}_losses": trials}
