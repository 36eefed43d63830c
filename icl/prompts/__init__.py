"""Prompts as a model reads them: a chat template fills in messages, and a collator pads and aligns them.

The prompts of teacher and student end with the same tokens, query and answer, and a batch says where these are.
"""

from typing import TYPE_CHECKING

from icl.common.lazy import attach

if TYPE_CHECKING:
    from icl.prompts.batches import BatchMerger as BatchMerger
    from icl.prompts.batches import CollatedBatch as CollatedBatch
    from icl.prompts.batches import CollatedExamples as CollatedExamples
    from icl.prompts.chat_template import Role as Role
    from icl.prompts.collator import IGNORED as IGNORED
    from icl.prompts.collator import Collator as Collator

__getattr__, __dir__, __all__ = attach(__name__)
