"""Losses that make a student do as its teacher, and their weighted sum, the objective.

A student is the model on the query alone with an adapter, its teacher the model on the demonstrations and the query:
they are compared by hidden states in ``states``, by answers and attention in ``outputs``.
"""

from typing import TYPE_CHECKING

from icl.common.lazy import attach

if TYPE_CHECKING:
    from icl.losses.objective import TERMS as TERMS
    from icl.losses.objective import ModelStates as ModelStates
    from icl.losses.objective import Objective as Objective
    from icl.losses.objective import ObjectiveLoss as ObjectiveLoss
    from icl.losses.objective import QueryTokens as QueryTokens
    from icl.losses.outputs import answer_cross_entropy as answer_cross_entropy
    from icl.losses.outputs import answer_positions as answer_positions
    from icl.losses.outputs import attention_kl as attention_kl
    from icl.losses.outputs import logit_kl as logit_kl
    from icl.losses.states import AnchorLoss as AnchorLoss
    from icl.losses.states import ContrastiveLoss as ContrastiveLoss
    from icl.losses.states import RelationalLoss as RelationalLoss
    from icl.losses.states import StateLoss as StateLoss

__getattr__, __dir__, __all__ = attach(__name__)
