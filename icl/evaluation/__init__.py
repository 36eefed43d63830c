"""How well a model answers, at what cost: with demonstrations, without, and with adapters in their place.

A test set is read once for each choice of weights and prompts, and :class:`Results` keeps every answer. ``metrics`` are
the scores of answers and their intervals.
"""

from typing import TYPE_CHECKING

from icl.common.lazy import attach

if TYPE_CHECKING:
    from icl.evaluation.cost import greedy as greedy
    from icl.evaluation.evaluator import Evaluation as Evaluation
    from icl.evaluation.metrics.intervals import interval as interval
    from icl.evaluation.metrics.intervals import wilson as wilson
    from icl.evaluation.plan import Plan as Plan
    from icl.evaluation.plan import evaluate as evaluate
    from icl.evaluation.result_tables import columns_of as columns_of
    from icl.evaluation.result_tables import for_terminal as for_terminal
    from icl.evaluation.result_tables import markdown as markdown
    from icl.evaluation.results import Results as Results

__getattr__, __dir__, __all__ = attach(__name__)
