"""Metrics by name, and whether a test set has what they compare answers with."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import fmean
from typing import Annotated

from pydantic import ConfigDict, Field, Strict
from pydantic.dataclasses import dataclass

from icl.evaluation.metrics.answers import exact_match, vqa_accuracy
from icl.evaluation.metrics.captions import ChairScore, bleu4, chair, cider_d, mentioned
from icl.evaluation.metrics.intervals import mean_interval, wilson_interval

References = Sequence[Sequence[str]]
# CIDEr-D, the largest of the metrics, ends at 10.
_Value = Annotated[float, Strict(), Field(ge=-100, le=100, allow_inf_nan=False)]


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class MetricScore:
    """A metric's value on a test set, and its values by example, where ``value`` is their mean."""

    value: _Value
    rows: tuple[_Value, ...] | None

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95 % interval over examples: Wilson's of answers that are right or wrong, else Student's."""
        if self.rows is None or len(self.rows) < 2:
            return None
        if set(self.rows) <= {0.0, 1.0}:
            return wilson_interval(int(sum(self.rows)), len(self.rows))
        return mean_interval(self.rows)


def _average(rows: Sequence[float]) -> MetricScore:
    return MetricScore(fmean(rows), tuple(rows))


def _compute_chair(answers: Sequence[str], references: References) -> ChairScore:
    objects = [{name for text in row for name in mentioned(text)} for row in references]
    return chair(answers, objects)


METRICS: Mapping[str, Callable[[Sequence[str], References], MetricScore]] = {
    "exact": lambda answers, references: _average(exact_match(answers, references)),
    "vqa": lambda answers, references: _average(vqa_accuracy(answers, references)),
    "cider": lambda answers, references: _average(cider_d(answers, references)),
    "bleu4": lambda answers, references: MetricScore(bleu4(answers, references), None),
    "chair_s": lambda answers, references: _average(
        [float(bool(row)) for row in _compute_chair(answers, references).hallucinated]
    ),
    "chair_i": lambda answers, references: MetricScore(_compute_chair(answers, references).instance, None),
}
"""The metrics by name, as functions of answers and all references of each.

The objects in an image, for CHAIR, are those that its reference captions mention: where labels of segments are at hand
too, :func:`icl.evaluation.metrics.captions.chair` takes both, as the paper does.
"""

# References that a metric needs of each example, where one is not enough.
_LEAST = {"vqa": 2}


def check_references(
    metrics: Iterable[str], examples: Iterable[tuple[str, Sequence[str]]], unanswered: str = ""
) -> None:
    """Raise ``ValueError`` if a metric cannot score an example; an example is its name, for messages, and references.

    ``unanswered`` ends the message about an example without any.

    >>> check_references(["exact"], [("row 0", ["cat"])])
    >>> check_references(["exact", "vqa"], [("row 0", ["cat"]), ("row 1", ["cat", "a cat"])])
    Traceback (most recent call last):
    ...
    ValueError: metric vqa compares with 2 answers or more, and 1 of 2 rows have fewer: row 0 has 1; exact takes one
    """
    rows = [(name, len(references)) for name, references in examples]
    if not rows:
        raise ValueError("the test set must have rows, got none")
    for metric in metrics:
        least = _LEAST.get(metric, 1)
        few = [(name, count) for name, count in rows if count < least]
        if few:
            needed = f"{least} answers or more" if least > 1 else "an answer"
            first, count = few[0]
            hint = "; exact takes one" if count else unanswered
            raise ValueError(
                f"metric {metric} compares with {needed}, and {len(few)} of {len(rows)} rows have fewer: "
                f"{first} has {count}{hint}"
            )
