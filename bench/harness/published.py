"""Published tables as data: each figure, and the configuration that is to give it again.

Figures and settings are those of the papers: Hyper-ICL (arXiv 2606.04434), whose table has all rows but HiFICL's, and
HiFICL (arXiv 2603.12760). What they do not print is chosen here, and named in ``Row.ours``; for all rows these are the
prompts, 5 epochs of steps of 8 examples, the epoch by the loss on held-out rows, and answers of at most so many tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from icl.adapters import (
    AdapterConfig,
    FunctionVectorConfig,
    HiFICLConfig,
    HyperICLConfig,
    LIVEConfig,
    LoRAConfig,
    MimICConfig,
    TaskVectorConfig,
)
from icl.common.choices import Metric, Strategy

EPOCHS, STEP = 5.0, 8


@dataclass(frozen=True)
class Task:
    """A data set: how its rows are asked about, and how answers are scored, times 100."""

    title: str
    metric: Metric
    prompt: str
    max_new_tokens: int


_SHORT = "Question: {question} Short answer:"
TASKS = {
    "vqav2": Task("VQAv2", "vqa", _SHORT, 10),
    "okvqa": Task("OK-VQA", "vqa", _SHORT, 10),
    "coco": Task("COCO", "cider", "Caption:", 30),
}

TEMPLATES = {
    # Of a model that was not trained to chat: one demonstration a line.
    "idefics-9b": (
        "{% for message in messages %}{% for part in message['content'] %}"
        "{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}{% endif %}{% endfor %}"
        "{% if message['role'] == 'assistant' %}{{ '\\n' }}{% else %}{{ ' ' }}{% endif %}{% endfor %}"
    ),
}
"""Chat templates for bases whose processor has none."""


@dataclass(frozen=True)
class Row:
    """A row of a table: a way to answer, and what came out, by task.

    Args:
        base: the model, by its short name.
        figures: VQA accuracy in percent, CIDEr-D times 100.
        shots: demonstrations in the prompt, or in the teacher's for a method that has one.
        strategy: how these are chosen.
        config: of the adapter; ``None`` for the base alone.
        samples: rows that it learns from.
        dev: whether held-out rows choose the epoch, or the layer of a task vector.
        parameters: in millions, as printed.
        milliseconds, flops: of an answer, as printed; FLOPs in units of zero-shot's.
        ours: settings that the papers do not print.
    """

    base: str
    name: str
    figures: Mapping[str, float]
    shots: int = 0
    strategy: Strategy = "random"
    config: AdapterConfig | None = None
    learning_rate: float = 5e-3
    samples: int = 1000
    dev: bool = True
    parameters: float | None = None
    milliseconds: float | None = None
    flops: float | None = None
    ours: tuple[str, ...] = ()


def _three(vqav2: float, okvqa: float, coco: float) -> dict[str, float]:
    return {"vqav2": vqav2, "okvqa": okvqa, "coco": coco}


_I1, _I2, _LLAVA = "idefics-9b", "idefics2-8b", "llava-interleave"
_RATE, _SAMPLES, _RANK = "learning rate", "samples", "rank and targets"

ROWS = (
    Row(_I1, "zero-shot", _three(29.25, 30.54, 63.06), milliseconds=56.7, flops=1.0),
    Row(_I1, "32-shot", _three(56.18, 48.48, 105.89), 32, milliseconds=468.6, flops=25.0),
    Row(_I1, "RICES", _three(58.07, 51.11, 110.64), 32, "rices"),
    Row(_I1, "TV", {"vqav2": 43.68}, 32, config=TaskVectorConfig(), samples=100, ours=(_SAMPLES,)),
    # Its heads are chosen by a pass for each of them and each row, so by few rows.
    Row(_I1, "FV", {"vqav2": 30.21}, 32, config=FunctionVectorConfig(), samples=25, dev=False, ours=(_SAMPLES,)),
    # The rank for which all projections of self-attention come nearest to what is printed.
    Row(_I1, "LoRA", _three(55.60, 47.06, 97.75), 0, "random", LoRAConfig(rank=24), 1e-3, parameters=25.0,
        ours=(_RATE, _RANK)),
    Row(_I1, "LIVE", _three(53.71, 46.05, 112.76), 32, config=LIVEConfig(), parameters=0.13, ours=(_RATE,)),
    Row(_I1, "MimIC", _three(59.64, 52.05, 114.89), 32, config=MimICConfig(), parameters=0.26),
    Row(_I1, "Hyper-ICL", _three(62.08, 55.31, 117.44), 32, config=HyperICLConfig(), parameters=1.18,
        milliseconds=59.3, flops=1.02),
    Row(_I2, "8-shot", _three(66.20, 57.68, 122.51), 8),
    Row(_I2, "LoRA", {"vqav2": 66.54}, 0, "random", LoRAConfig(rank=24), 1e-3, ours=(_RATE, _RANK)),
    Row(_I2, "LIVE", {"vqav2": 67.60}, 8, config=LIVEConfig(), ours=(_RATE,)),
    Row(_I2, "MimIC", _three(69.29, 58.74, 132.87), 8, config=MimICConfig()),
    Row(_I2, "Hyper-ICL", _three(71.17, 62.24, 135.66), 8, config=HyperICLConfig()),
    Row(_I2, "HiFICL", _three(72.08, 59.56, 129.5), config=HiFICLConfig(), ours=(_SAMPLES,)),
    Row(_LLAVA, "HiFICL", _three(74.66, 54.19, 133.15), config=HiFICLConfig(), ours=(_SAMPLES,)),
)  # fmt: skip

BASES = tuple(dict.fromkeys(row.base for row in ROWS))


def rows_of(base: str, task: str) -> list[Row]:
    """Those of a table that have a figure for the task."""
    return [row for row in ROWS if row.base == base and task in row.figures]
