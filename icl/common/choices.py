"""Names that options choose from, apart from the code behind them: help about them imports nothing heavy."""

from __future__ import annotations

from typing import Literal

Strategy = Literal["random", "rices", "topk_clip", "hyperbolic"]
"""How demonstrations are ranked (:mod:`icl.bank.selection.strategies`)."""
Order = Literal["nearest_last", "nearest_first", "random"]
"""How demonstrations stand in the prompt (:mod:`icl.bank.selection.select_rows`)."""
Pairing = Literal["text", "label", "parent"]
"""Rows that belong together (:mod:`icl.bank.embedding.pairs`)."""
Metric = Literal["exact", "vqa", "cider", "bleu4", "chair_s", "chair_i"]
"""Scores of answers (:data:`icl.evaluation.metrics.scoring.METRICS`)."""
Method = Literal[
    "function_vector", "hierarchy_bias", "hificl", "hyper_icl", "in_context_vector", "live", "lora", "mimic",
    "task_vector",
]  # fmt: skip
"""Adapters by name (:data:`icl.adapters.METHODS`)."""
Style = Literal["base", "long"]
"""Ways of writing the testbed's chats (:data:`icl.testbed.vocabulary.STYLES`)."""
Term = Literal["ce", "anchor", "alignment", "relational", "contrastive", "logits", "attention"]
"""Losses that an objective has weights of (:class:`icl.losses.Objective`)."""
FeatureScale = Literal["unit", "paper", "layer", "lift", "raw"]
"""How hidden states are scaled before they are compared (:class:`icl.losses.StateLoss`)."""
StateMetric = Literal["geodesic", "l2"]
"""Distances between hidden states (:class:`icl.losses.StateLoss`)."""
