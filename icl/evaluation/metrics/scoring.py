"""Metrics by name, and whether a test set has what they compare answers with."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from icl.evaluation.metrics.answers import exact_match, vqa_accuracy
from icl.evaluation.metrics.captions import bleu4, chair, cider_d, mentioned
from icl.evaluation.metrics.intervals import mean_interval, wilson_interval

References = Sequence[Sequence[str]]
# CIDEr-D, the largest of the metrics, ends at 10.
_LARGEST = 100


@dataclass(frozen=True)
class MetricScore:
    """A metric's value on a test set."""

    value: float
    rows: tuple[float, ...] | None
    """By example, where ``value`` is their mean."""

    def __post_init__(self) -> None:
        values = (self.value, *(self.rows or ()))
        if not all(abs(value) <= _LARGEST for value in values):
            raise ValueError(f"MetricScore: all values must be from -{_LARGEST} to {_LARGEST}, got {values!r:.100}")

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95 % interval over examples: Wilson's of answers that are right or wrong, else Student's."""
        if self.rows is None or len(self.rows) < 2:
            return None
        if set(self.rows) <= {0.0, 1.0}:
            return wilson_interval(int(sum(self.rows)), len(self.rows))
        return mean_interval(self.rows)


def _mean(rows: Sequence[float]) -> MetricScore:
    return MetricScore(fmean(rows), tuple(rows))


def _chair(answers: Sequence[str], references: References) -> Any:
    objects = [{name for text in row for name in mentioned(text)} for row in references]
    return chair(answers, objects)


METRICS: Mapping[str, Callable[[Sequence[str], References], MetricScore]] = {
    "exact": lambda answers, references: _mean(exact_match(answers, references)),
    "vqa": lambda answers, references: _mean(vqa_accuracy(answers, references)),
    "cider": lambda answers, references: _mean(cider_d(answers, references)),
    "bleu4": lambda answers, references: MetricScore(bleu4(answers, references), None),
    "chair_s": lambda answers, references: _mean(
        [float(bool(row)) for row in _chair(answers, references).hallucinated]
    ),
    "chair_i": lambda answers, references: MetricScore(_chair(answers, references).instance, None),
}
"""By name, from answers and all references of each. The objects in an image, for CHAIR, are those that its reference
captions mention: where labels of segments are at hand too, :func:`icl.evaluation.metrics.captions.chair` takes both, as
the paper does."""

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
            wanted = f"{least} answers or more" if least > 1 else "an answer"
            first, count = few[0]
            hint = "; exact takes one" if count else unanswered
            raise ValueError(
                f"metric {metric} compares with {wanted}, and {len(few)} of {len(rows)} rows have fewer: "
                f"{first} has {count}{hint}"
            )
