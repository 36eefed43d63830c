"""Settings of a training run: the data, what is shown before a query, and how an adapter is trained.

They know neither torch nor pydantic before one is made, so that the command line takes its options from them.
"""

from __future__ import annotations

from typing import Annotated, Literal

from annotated_doc import Doc

from icl.common.choices import Strategy
from icl.common.configuration import Bounds, Count, PositiveFloat, PositiveInt, Seed, configuration

Rate = Annotated[float, Bounds(gt=0, le=1)]
Pool = Annotated[str | None, Doc("Rows that demonstrations are taken from.")]
Bank = Annotated[str | None, Doc("Bank of the pool, for strategies other than random.")]
Prompt = Annotated[str, Doc('How a row is asked about: "{question} Short answer:".')]
System = Annotated[str | None, Doc("A message before all others.")]


@configuration
class DemonstrationSettings:
    """Where demonstrations before a query come from, and how the query is asked."""

    pool: Pool = None
    bank: Bank = None
    prompt: Prompt = "{question}"
    system: System = None


@configuration
class DataSettings:
    """Rows to learn from, and what is shown before each."""

    train: Annotated[str, Doc("Rows to learn from, or testbed: and a task.")]
    dev: Annotated[str | None, Doc("Rows that the epoch is chosen by; without them the last epoch is taken.")] = None
    samples: Annotated[PositiveInt | None, Doc("How many rows are used, drawn by the seed; default: all.")] = None
    shots: Annotated[
        Count | None, Doc("Demonstrations that the teacher sees; default: 8, or all that a task of the testbed brings.")
    ] = None
    strategy: Annotated[Strategy, Doc("How demonstrations are chosen; random draws anew in every epoch.")] = "random"
    pool: Pool = None
    bank: Bank = None
    prompt: Prompt = "{question}"
    system: System = None

    @property
    def demonstrations(self) -> DemonstrationSettings:
        """The demonstrations before each query. The default pool is ``train``."""
        return DemonstrationSettings(self.pool or self.train, self.bank, self.prompt, self.system)


@configuration
class TrainingSettings:
    """How an adapter is trained, beyond the papers' defaults (:func:`icl.training.training_arguments`)."""

    epochs: Annotated[PositiveFloat, Doc("Passes over the rows; at the end of each, dev is looked at.")] = 5.0
    steps: Annotated[PositiveInt | None, Doc("Of the optimiser, instead of epochs.")] = None
    learning_rate: Annotated[
        Rate | None, Doc("Of AdamW, at the height of a cosine; default: the best in a few short trainings.")
    ] = None
    batch_size: Annotated[
        PositiveInt, Doc("Examples in memory at a time; a step takes accumulation times as many.")
    ] = 8
    accumulation: Annotated[PositiveInt, Doc("Batches that a step of the optimiser sums over.")] = 1
    choose_by: Annotated[
        Literal["loss", "accuracy"],
        Doc("By what of dev the epoch is chosen: the least loss, or the most answers whose tokens are all right."),
    ] = "loss"
    seed: Annotated[Seed, Doc("Of parameters, order and demonstrations.")] = 0
    bf16: Annotated[bool, Doc("Compute in bfloat16.")] = False
    checkpointing: Annotated[bool, Doc("Recompute activations in the backward pass, to save memory.")] = False
    cache: Annotated[
        bool, Doc("Keep the teacher's states on disk, for demonstrations that are the same in each epoch.")
    ] = False
