"""The plan of an evaluation, without torch and pydantic: the command line takes its options from here."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from annotated_doc import Doc

from icl.common.choices import Metric, Strategy
from icl.common.configuration import Count, PositiveInt, Seed, configuration

_AS_TRAINED = "; default: as in the first adapter's run."


@configuration
class EvaluationPlan:
    """Zero-shot, these numbers of demonstrations chosen by these strategies, and these adapters, on ``data``."""

    data: Annotated[str, Doc("Rows to be tested by, or testbed: and a task.")]
    model: Annotated[str | None, Doc(f"Path or name of a vision-language model, or testbed{_AS_TRAINED}")] = None
    adapters: Annotated[tuple[Path, ...], Doc("Folder of an adapter, measured for the seed it was trained with.")] = ()
    shots: Annotated[tuple[Count, ...], Doc("Demonstrations in the prompt.")] = (0,)
    strategies: Annotated[tuple[Strategy, ...], Doc("How demonstrations are chosen.")] = ("random",)
    seeds: Annotated[
        tuple[Seed, ...], Doc("Of demonstrations, and of what tasks of the testbed hide; default: the adapters'.")
    ] = ()
    pool: Annotated[
        str | None, Doc(f"Rows that demonstrations are taken from, none of them a row of data{_AS_TRAINED}")
    ] = None
    bank: Annotated[str | None, Doc(f"Bank of the pool, for strategies other than random{_AS_TRAINED}")] = None
    prompt: Annotated[str | None, Doc(f'How a row is asked about: "{{question}} Short answer:"{_AS_TRAINED}')] = None
    system: Annotated[str | None, Doc(f"A message before all others{_AS_TRAINED}")] = None
    metrics: Annotated[tuple[Metric, ...], Doc("How answers are scored.")] = ("exact",)
    max_new_tokens: Annotated[PositiveInt, Doc("Of an answer.")] = 32
    batch_size: Annotated[PositiveInt, Doc("Prompts answered at a time.")] = 16

    def __post_init__(self) -> None:
        if not self.metrics:
            raise ValueError("EvaluationPlan: metrics must be one or more, got none")
