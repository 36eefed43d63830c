"""Losses that make a student, the model on the query alone with an adapter, do as its teacher, the model on the
demonstrations and the query: on hidden states in ``states``, on answers and attention in ``outputs``.
"""

from icl.losses.outputs import answer_cross_entropy, answer_positions, attention_kl, logit_kl
from icl.losses.states import AnchorLoss, ContrastiveLoss, RelationalLoss, StateLoss

__all__ = [
    "AnchorLoss",
    "ContrastiveLoss",
    "RelationalLoss",
    "StateLoss",
    "answer_cross_entropy",
    "answer_positions",
    "attention_kl",
    "logit_kl",
]
