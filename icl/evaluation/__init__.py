"""How well a model answers, at what cost: with demonstrations, without, and with adapters in their place.

A test set is read once for each choice of weights and prompts, and :class:`Results` keeps every answer. ``metrics`` are
the scores of answers and their intervals.
"""

from typing import TYPE_CHECKING

from icl.common.lazy import attach

if TYPE_CHECKING:
    from icl.evaluation.cost import greedy_config as greedy_config
    from icl.evaluation.evaluation_plan import evaluate as evaluate
    from icl.evaluation.evaluator import AnsweringMode as AnsweringMode
    from icl.evaluation.evaluator import Evaluation as Evaluation
    from icl.evaluation.metrics.intervals import mean_interval as mean_interval
    from icl.evaluation.metrics.intervals import wilson_interval as wilson_interval
    from icl.evaluation.result_rows import K_SHOT as K_SHOT
    from icl.evaluation.result_rows import ZERO_SHOT as ZERO_SHOT
    from icl.evaluation.result_rows import csv_table as csv_table
    from icl.evaluation.result_tables import markdown_tables as markdown_tables
    from icl.evaluation.result_tables import parse_columns as parse_columns
    from icl.evaluation.result_tables import terminal_tables as terminal_tables
    from icl.evaluation.results import Results as Results
    from icl.evaluation.settings import EvaluationPlan as EvaluationPlan

__getattr__, __dir__, __all__ = attach(__name__)
