"""A small vision-language model that really learns in context, and tasks that tell methods apart.

It is a named source of models and data (:mod:`icl.common.sources`), which nothing imports but the demo and the
command line. docs/testbed.md says how it was made.
"""

from typing import TYPE_CHECKING

from icl.common.lazy import attach

if TYPE_CHECKING:
    from icl.testbed.episodes import Layout as Layout
    from icl.testbed.evaluate import SCORES as SCORES
    from icl.testbed.evaluate import Score as Score
    from icl.testbed.evaluate import make_prompts as make_prompts
    from icl.testbed.evaluate import measure_scores as measure_scores
    from icl.testbed.images import DigitImages as DigitImages
    from icl.testbed.images import load_digits as load_digits
    from icl.testbed.images import pixel_values as pixel_values
    from icl.testbed.model import encode as encode
    from icl.testbed.model import folder_of as folder_of
    from icl.testbed.model import load as load
    from icl.testbed.model import logits as logits
    from icl.testbed.prepared_task import BASES as BASES
    from icl.testbed.prepared_task import Ground as Ground
    from icl.testbed.prepared_task import examples as examples
    from icl.testbed.pretrain import PHASES as PHASES
    from icl.testbed.pretrain import NoBreakthroughError as NoBreakthroughError
    from icl.testbed.pretrain import Pretraining as Pretraining
    from icl.testbed.pretrain import State as State
    from icl.testbed.report import card_markdown as card_markdown
    from icl.testbed.report import make_card as make_card
    from icl.testbed.report import read_card as read_card
    from icl.testbed.report import rich_tables as rich_tables
    from icl.testbed.report import write_report as write_report
    from icl.testbed.tasks import TASKS as TASKS
    from icl.testbed.tasks import load_task as load_task
    from icl.testbed.trials import ANCHOR as ANCHOR
    from icl.testbed.trials import BOTH as BOTH
    from icl.testbed.trials import CE as CE
    from icl.testbed.trials import EUCLIDEAN as EUCLIDEAN
    from icl.testbed.trials import LOGITS as LOGITS
    from icl.testbed.trials import TRIALS as TRIALS
    from icl.testbed.trials import Mark as Mark
    from icl.testbed.trials import Outcome as Outcome
    from icl.testbed.trials import Trial as Trial
    from icl.testbed.trials import run as run
    from icl.testbed.vocabulary import DIGITS as DIGITS
    from icl.testbed.vocabulary import END as END
    from icl.testbed.vocabulary import WORDS as WORDS

__getattr__, __dir__, __all__ = attach(__name__)
