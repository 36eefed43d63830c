"""A Trainer of transformers that distils: what the base makes of demonstrations, an adapter learns to make without.

Batches, schedules, mixed precision, processes and logs are transformers'. Here are the loss, whose terms are averages
over tokens however batches are cut, and checkpoints that hold the adapter alone, sealed so that a damaged one shows.
"""

from __future__ import annotations

import copy
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import EvalPrediction, Trainer, TrainingArguments

from icl.adapters import attached, read_adapter, restore_adapter
from icl.attention import internals
from icl.losses import ModelStates, Objective, ObjectiveLoss, QueryTokens
from icl.prompts import IGNORED, BatchMerger, CollatedExamples, Collator
from icl.training.arguments import check_arguments
from icl.training.checkpoints import find_fault, find_newest_whole, seal
from icl.training.teacher import Teacher, TeacherStates, observe_states

LOSSES_FILE = "objective.safetensors"
# The name of the losses as a part of the model while it is trained.
_LOSSES = "icl_losses"


def answer_accuracy(prediction: EvalPrediction) -> dict[str, float]:
    """Return the share of answers whose tokens are all the most likely ones, which greedy decoding gives in full.

    For ``compute_metrics``. Queries without a known answer do not count.

    >>> predictions, labels = np.array([[5, 7], [5, 6], [1, 1]]), np.array([[5, 7], [5, 7], [-100, -100]])
    >>> answer_accuracy(EvalPrediction(predictions, labels))
    {'accuracy': 0.5}
    """
    predictions, labels = np.asarray(prediction.predictions), np.asarray(prediction.label_ids)
    hits = ((predictions == labels) | (labels == IGNORED)).all(1)[(labels != IGNORED).any(1)]
    return {"accuracy": float(hits.mean()) if len(hits) else 0.0}


class DistillTrainer(Trainer):
    """Train an adapter of a model, and what is learned in its losses, and nothing else.

    Where the objective asks for it, the base sees the teacher's prompts first. Everything else is as in
    :class:`transformers.Trainer`.

    Args:
        model: with adapters (:func:`icl.adapters.attach`).
        args: such as :func:`icl.training.training_arguments`.
        objective: by default that of the adapter's method.
        adapter: the name of the adapter that is trained.
        data_collator: :class:`icl.prompts.Collator` with the model's processor.
        teacher_cache: folder where the teacher's states are kept (:class:`icl.training.Teacher`), so that each is
            computed once; or a dict, which several trainers can share.
        keep_in_memory: whether examples are collated once, and held in memory: for small data. Datasets may be
            :class:`icl.prompts.CollatedExamples` then, which several trainers share.
        options: of :class:`transformers.Trainer`. ``train_dataset`` and ``eval_dataset`` are sequences of
            :class:`icl.data.Example`. ``compute_metrics`` gets token ids (N, P): those that are most likely at each
            place of the answer, and the answer's own, -100 where there is none (:func:`answer_accuracy`).

    Each term of the loss is an average over all tokens it is taken at (:meth:`icl.losses.ObjectiveLoss.counts`),
    however these are spread over the batches of an accumulated step and over processes. Those that compare tokens with
    each other do so within a batch. Logs and :meth:`evaluate` have the terms before weighting: ``loss_ce`` and so on.

    Checkpoints hold the adapter in the files of ``save_pretrained``, the parameters of the losses, what Trainer needs
    to go on, and checksums of all of these (:mod:`icl.training.checkpoints`). :meth:`save_model` writes the adapter
    alone.

    Raises:
        ValueError: the model has no adapters, or arguments do not go with them.
        FloatingPointError: a loss is no longer finite.
        OSError: a checkpoint cannot be written.
    """

    loss_is_scaled_for_ga = True
    objective: Objective

    def __init__(
        self,
        model: nn.Module,
        args: TrainingArguments,
        *,
        objective: Objective | None = None,
        adapter: str = "default",
        data_collator: Collator,
        teacher_cache: str | Path | dict[str, TeacherStates] | None = None,
        keep_in_memory: bool = False,
        **options: Any,
    ):
        adapters = attached(model)
        if adapters is None:
            raise ValueError("DistillTrainer: model must have adapters, and has none: icl.adapters.attach adds one")
        methods = adapters[adapter]
        if objective is None:
            objective, *others = {method.config.objective for method in methods}
            if others:
                raise ValueError(f"DistillTrainer: methods of {adapter!r} differ in their objectives: give objective")
        count = len(adapters.decoder.layers)
        if any(not 0 <= layer < count for layer in objective.layers or ()):
            raise ValueError(f"DistillTrainer: layers of objective must be below {count}, got {objective.layers}")
        if not isinstance(data_collator, Collator):
            raise ValueError(f"DistillTrainer: data_collator must be a Collator, got {type(data_collator).__name__}")
        check_arguments(args)
        args.ddp_find_unused_parameters = False  # compute_loss sees to it that all are used
        self.adapters, self.adapter, self.objective = adapters, adapter, objective
        collator = copy.copy(data_collator)
        collator.teacher = objective.needs_teacher
        if keep_in_memory:
            names = ("train_dataset", "eval_dataset")
            options |= {name: _collate_once(options[name], collator) for name in names if name in options}
        with internals.as_with_peft(model):
            super().__init__(
                model, args, data_collator=BatchMerger(collator) if keep_in_memory else collator, **options
            )
        self.losses = ObjectiveLoss(objective, adapters.decoder.layers[0].shape.width).to(args.device)
        self.teacher = Teacher(adapters, objective, teacher_cache, self.accelerator.mixed_precision)
        self._weights = weights = torch.tensor(list(objective.terms.values()), device=args.device)
        self._parameters: list[nn.Parameter] = []
        self._until_backward: ExitStack | None = None
        # Terms since the last log and steps that they are of; terms times counts in an evaluation, and counts.
        self._logged, self._steps = torch.zeros_like(weights), 0.0
        self._totals = weights.new_zeros(2, len(weights))

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """Train, from the start or from a checkpoint: the newest that is whole for ``True``.

        Raises:
            ValueError: the checkpoint is not whole, or there is none.
        """
        if resume_from_checkpoint is True:
            newest, faults = find_newest_whole(str(self.args.output_dir))
            if newest is None:
                reasons = "".join(f"; {path.name}: {reason}" for path, reason in faults.items())
                raise ValueError(f"resume_from_checkpoint: no whole checkpoint in {self.args.output_dir}{reasons}")
            resume_from_checkpoint = str(newest)
        elif resume_from_checkpoint and (reason := find_fault(resume_from_checkpoint)):
            raise ValueError(f"resume_from_checkpoint: {resume_from_checkpoint} is not whole: {reason}")
        self._logged, self._steps = torch.zeros_like(self._weights), 0.0
        self.teacher.look_again()
        with self._joined_losses():
            return super().train(resume_from_checkpoint, *args, **kwargs)

    @contextmanager
    def _joined_losses(self) -> Iterator[None]:
        """Make the losses a part of the model and freeze other adapters, for optimizer, clipping and DDP to see."""
        methods = [method for name in self.adapters.names if name != self.adapter for method in self.adapters[name]]
        others = [p for method in methods for p in method.parameters() if p.requires_grad]
        self.adapters.model.add_module(_LOSSES, self.losses)
        try:
            for p in others:
                p.requires_grad_(False)
            self._parameters = [p for p in self.adapters.model.parameters() if p.requires_grad]
            yield
        finally:
            self._parameters = []
            for p in others:
                p.requires_grad_(True)
            del self.adapters.model._modules[_LOSSES]

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: torch.device) -> tuple[list[Any], Any]:
        """Return the batches of a step, and how many tokens each term is an average over, in all processes."""
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        if not batches:
            return batches, None
        counts = torch.stack([self.losses.counts(batch) for batch in batches]).sum(0).to(device)
        return batches, self.accelerator.reduce(counts, "sum")

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        """Take a step, in which layers do the same in the backward as in the pass before."""
        with ExitStack() as stack:
            self._until_backward = stack
            stack.callback(setattr, self, "_until_backward", None)
            return super().training_step(*args, **kwargs)

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Return this batch's part of the loss of the step, times the processes, over which Trainer and DDP average."""
        with ExitStack() as own:
            terms, student = self._terms(model, inputs, QueryTokens.from_batch(inputs), self._until_backward or own)
        counts = self.losses.counts(inputs)
        whole = counts if num_items_in_batch is None else num_items_in_batch
        shares = terms * counts / whole.clamp(min=1) * self.accelerator.num_processes
        loss = (self._weights * shares).sum()
        if not torch.isfinite(loss):
            values = ", ".join(f"{name} {value:.3g}" for name, value in zip(self.objective.terms, terms.tolist()))
            raise FloatingPointError(
                f"DistillTrainer: the loss is not finite at step {self.state.global_step}: {values}. A lower "
                "learning_rate or max_grad_norm may help"
            )
        if model.training:
            self._logged += shares.detach()
            self._steps += 1 / self.current_gradient_accumulation_steps
        if self.accelerator.num_processes > 1:
            # DDP waits for a gradient of every parameter, also of those that this objective does not reach
            loss = loss + 0 * sum(p.sum() for p in self._parameters)
        return (loss, student) if return_outputs else loss

    def _terms(
        self, model: nn.Module, inputs: Mapping[str, Any], query: QueryTokens, stack: ExitStack, logits: bool = False
    ) -> tuple[Tensor, ModelStates]:
        """Return the terms of the objective, in its order, and the student's states."""
        # Not for the length of the pass alone: with checkpointing, the backward runs layers again.
        if self.adapters.active != (self.adapter,):
            self.adapters.activate(self.adapter)
        self.losses.train(model.training)
        teacher = self.teacher(self.adapters.model, inputs, query) if self.objective.needs_teacher else None
        logits = logits or not {"ce", "logits"}.isdisjoint(self.objective.terms)
        student = observe_states(model, self.adapters, inputs, "student", query, self.objective, logits, stack)
        terms = self.losses(student, teacher, query)
        return torch.stack([terms[name].float() for name in self.objective.terms]), student

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log what Trainer does, and the terms of the loss since the last time."""
        if "loss" in logs and self._steps:
            terms = self.accelerator.reduce(self._logged, "mean") / self._steps
            logs.update(self._name_terms(terms, "loss"))
            self._logged, self._steps = torch.zeros_like(self._weights), 0.0
        super().log(logs, start_time)

    def prediction_step(
        self, model: nn.Module, inputs: dict[str, Any], prediction_loss_only: bool, ignore_keys: Any = None
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Return a batch's loss, the most likely tokens at the places of its answers, and the answers' own."""
        inputs = self._prepare_inputs(inputs)
        query = QueryTokens.from_batch(inputs)
        with torch.no_grad(), self.compute_loss_context_manager(), ExitStack() as stack:
            terms, student = self._terms(model, inputs, query, stack, logits=not prediction_loss_only)
        counts = self.losses.counts(inputs)
        self._totals += torch.stack([terms * counts, counts])
        loss = (self._weights * terms).sum()
        if prediction_loss_only or student.logits is None:
            return loss, None, None
        labels = query.labels[:, 1:]
        return loss, student.logits[:, :-1].argmax(-1).masked_fill(labels == IGNORED, IGNORED), labels

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> Any:
        """Evaluate as Trainer does, with losses that are averages over tokens and not over batches."""
        if not self.is_in_train:
            self.teacher.look_again()
        self._totals.zero_()
        output = super().evaluation_loop(*args, **kwargs)
        prefix = kwargs.get("metric_key_prefix", "eval")
        sums, counts = self.accelerator.reduce(self._totals, "sum")
        terms = sums / counts.clamp(min=1)
        metrics: Any = output.metrics
        metrics[f"{prefix}_loss"] = float((self._weights * terms).sum())
        metrics.update(self._name_terms(terms, f"{prefix}_loss"))
        return output

    def _name_terms(self, terms: Tensor, prefix: str) -> dict[str, float]:
        return {f"{prefix}_{name}": value for name, value in zip(self.objective.terms, terms.tolist())}

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        folder = Path(str(self.args.output_dir)) / f"checkpoint-{self.state.global_step}"
        try:
            super()._save_checkpoint(*args, **kwargs)
            self.accelerator.wait_for_everyone()  # each process writes its own random state
            if self.args.should_save:
                seal(folder)
        except (OSError, RuntimeError, SafetensorError) as error:
            free = shutil.disk_usage(folder.parent).free / 1e6
            raise OSError(
                f"DistillTrainer: {folder} cannot be written: {error}. {free:.1f} MB are free there. Earlier "
                "checkpoints are whole, and training can go on from them"
            ) from error

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Write the adapter into a folder; into a checkpoint also the parameters of the losses."""
        super().save_model(output_dir, _internal_call)
        tensors = {name: value.detach().cpu() for name, value in self.losses.state_dict().items()}
        if _internal_call and tensors and self.args.should_save:
            save_file(tensors, Path(output_dir or str(self.args.output_dir)) / LOSSES_FILE)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        if self.args.should_save:
            folder = Path(output_dir or str(self.args.output_dir))
            self.adapters.save_pretrained(folder, self.adapter)
            (folder / "training_args.json").write_text(self.args.to_json_string() + "\n")

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        folder = Path(resume_from_checkpoint)
        configs, tensors = read_adapter(folder, self.adapters.decoder)
        methods = self.adapters[self.adapter]
        if configs != (own := [method.config for method in methods]):
            raise ValueError(f"resume_from_checkpoint: {folder} must be of {own}, got {configs}")
        restore_adapter(methods, tensors, folder)
        if self.losses.state_dict():
            try:
                self.losses.load_state_dict(load_file(folder / LOSSES_FILE))
            except (OSError, RuntimeError, SafetensorError) as error:
                raise ValueError(
                    f"resume_from_checkpoint: {folder / LOSSES_FILE} must hold the losses of {self.objective}: {error}"
                ) from error

    def _load_best_model(self) -> None:
        best = self.state.best_model_checkpoint
        assert best is not None
        if reason := find_fault(best, needed=()):
            raise ValueError(f"DistillTrainer: {best}, the best checkpoint, is not whole: {reason}")
        self._load_from_checkpoint(best)


def _collate_once(examples: Any, collator: Collator) -> Any:
    """Return examples as :class:`icl.prompts.CollatedExamples`; of a dictionary of them, each."""
    if isinstance(examples, dict):
        return {name: _collate_once(each, collator) for name, each in examples.items()}
    if not isinstance(examples, CollatedExamples):
        return None if examples is None else CollatedExamples(examples, collator)
    if collator.teacher and not examples.collator.teacher:
        raise ValueError("DistillTrainer: the objective needs a teacher, and examples are collated without one")
    return examples
