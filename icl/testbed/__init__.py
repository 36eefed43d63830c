"""A small vision-language model that really learns in context, and tasks that tell methods apart.

It is a named source of models and data (:mod:`icl.common.sources`), which nothing imports but the demo and the
command line. ``pretrain`` makes the model, ``accuracy`` measures it, and ``trials`` say what each adapter method can do
with it; docs/testbed.md says how it was made.
"""

from typing import TYPE_CHECKING

from icl.common.lazy import attach

if TYPE_CHECKING:
    from icl.testbed.accuracy import SCORE_COUNT as SCORE_COUNT
    from icl.testbed.accuracy import TestbedScore as TestbedScore
    from icl.testbed.accuracy import count_right as count_right
    from icl.testbed.accuracy import draw_words as draw_words
    from icl.testbed.accuracy import measure_scores as measure_scores
    from icl.testbed.images import DigitImages as DigitImages
    from icl.testbed.images import load_digits as load_digits
    from icl.testbed.images import pixel_values as pixel_values
    from icl.testbed.model import embed_images as embed_images
    from icl.testbed.model import encode_images as encode_images
    from icl.testbed.model import load as load
    from icl.testbed.model import weights_folder as weights_folder
    from icl.testbed.prepared_task import BASES as BASES
    from icl.testbed.prepared_task import PreparedTask as PreparedTask
    from icl.testbed.prepared_task import load_examples as load_examples
    from icl.testbed.pretrain import NoBreakthroughError as NoBreakthroughError
    from icl.testbed.pretrain import Pretraining as Pretraining
    from icl.testbed.pretrain import PretrainingState as PretrainingState
    from icl.testbed.report import card_markdown as card_markdown
    from icl.testbed.report import read_card as read_card
    from icl.testbed.report import rich_tables as rich_tables
    from icl.testbed.report import save_weights as save_weights
    from icl.testbed.report import write_report as write_report
    from icl.testbed.tasks import TASKS as TASKS
    from icl.testbed.tasks import load_task as load_task
    from icl.testbed.trials import ANCHOR as ANCHOR
    from icl.testbed.trials import ANCHOR_CE as ANCHOR_CE
    from icl.testbed.trials import CE as CE
    from icl.testbed.trials import L2_CE as L2_CE
    from icl.testbed.trials import LOGITS_CE as LOGITS_CE
    from icl.testbed.trials import TRIALS as TRIALS
    from icl.testbed.trials import AccuracyBound as AccuracyBound
    from icl.testbed.trials import Trial as Trial
    from icl.testbed.trials import TrialOutcome as TrialOutcome
    from icl.testbed.trials import run_trial as run_trial
    from icl.testbed.vocabulary import DIGITS as DIGITS
    from icl.testbed.vocabulary import END as END
    from icl.testbed.vocabulary import WORDS as WORDS

__getattr__, __dir__, __all__ = attach(__name__)
