"""The objective that a method is trained on: a weighted sum of losses.

:class:`Objective` names weights and options, :class:`ObjectiveLoss` computes the terms, from the :class:`ModelStates`
of student and teacher at the :class:`QueryTokens` of a batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, get_args

import torch
from torch import Tensor, nn

from icl.common.choices import FeatureScale, StateMetric, Term
from icl.common.configuration import PositiveFloat, PositiveInt, Weight, configuration
from icl.losses.outputs import IGNORED, answer_cross_entropy, attention_kl, logit_kl
from icl.losses.states import AnchorLoss, ContrastiveLoss, RelationalLoss, StateLoss

TERMS = get_args(Term)
_OF_STATES = ("anchor", "alignment", "relational", "contrastive")


@configuration
class Objective:
    """Weights of the losses, and how states are compared. The weights that are named count, and nothing else.

    With none named it is the cross-entropy alone, ``ce=1``.

    ``ce`` is the cross-entropy of the answer. The others hold the student to a teacher that sees demonstrations:
    ``anchor`` geodesic and ``alignment`` Euclidean distance of decoder-layer outputs, ``relational`` of the distances
    among them, ``contrastive`` of each to its own among all, ``logits`` and ``attention`` by Kullback-Leibler
    divergence.

    Args:
        feature_scale: of :class:`icl.losses.StateLoss`. ``None`` is "raw" for the alignment, as MimIC has it, and
            "unit" for the others.
        metric: of ``relational`` and ``contrastive``.
        c: curvature, where distances are geodesic, or where a learned one starts.
        learn_curvature: for all that are geodesic.
        dim: of the lift, for ``feature_scale`` "lift".
        layers: of the decoder, whose outputs and attention are compared; ``None`` for all.
        temperature: of ``logits``.

    >>> Objective(anchor=1.0, ce=0.5).terms, Objective(anchor=1.0).terms, Objective().terms
    ({'ce': 0.5, 'anchor': 1.0}, {'anchor': 1.0}, {'ce': 1.0})
    """

    ce: Weight | None = None
    anchor: Weight | None = None
    alignment: Weight | None = None
    relational: Weight | None = None
    contrastive: Weight | None = None
    logits: Weight | None = None
    attention: Weight | None = None

    feature_scale: FeatureScale | None = None
    metric: StateMetric = "geodesic"
    c: PositiveFloat = 0.1
    learn_curvature: bool = False
    dim: PositiveInt | None = None
    layers: tuple[int, ...] | None = None
    temperature: PositiveFloat = 1.0

    def __post_init__(self) -> None:
        named = [name for name in TERMS if getattr(self, name) is not None]
        for name in TERMS:
            # A weight that is not named is zero, and the cross-entropy's is one where none is named.
            weight = getattr(self, name) if named else float(name == "ce")
            object.__setattr__(self, name, 0.0 if weight is None else weight)
        if not self.terms:
            raise ValueError("Objective: at least one weight must be positive, got none")

    @property
    def terms(self) -> dict[str, float]:
        """The weights that are not zero."""
        return {name: getattr(self, name) for name in TERMS if getattr(self, name)}

    @property
    def needs_teacher(self) -> bool:
        """True where a term holds the student to a teacher."""
        return set(self.terms) != {"ce"}

    @property
    def compares_states(self) -> bool:
        """True where a term compares outputs of decoder layers."""
        return not set(_OF_STATES).isdisjoint(self.terms)


class QueryTokens(NamedTuple):
    """The tokens of a batch (:class:`icl.prompts.Collator`) that losses are taken at.

    ``aligned`` (B, S) are the tokens of query and answer, which both prompts end with. Of these the P at ``window``
    (B, P) are the last of the query and the answer's, in order: ``predicts`` (B, P) where one is answered, ``labels``
    (B, P) with what, each at its own place, as :func:`icl.losses.answer_cross_entropy` takes them.
    """

    aligned: Tensor
    window: Tensor
    predicts: Tensor
    labels: Tensor

    @classmethod
    def from_batch(cls, batch: Mapping[str, Any]) -> QueryTokens:
        """Return the tokens of a collated batch."""
        aligned, predicts = batch["aligned"], batch["predicts"]
        steps = predicts.sum(1, keepdim=True)
        offset = torch.arange(int(steps.max()) + 1, device=predicts.device)
        # Rows with shorter answers repeat their last token, which does not count.
        window = (predicts.int().argmax(1, keepdim=True) + offset).clamp(max=predicts.shape[1] - 1)
        labels = batch["student"]["labels"].gather(1, batch["student_positions"].gather(1, window))
        return cls(aligned, window, offset < steps, labels.masked_fill((offset > steps) | (offset == 0), IGNORED))


class ModelStates(NamedTuple):
    """Outputs of a pass through the model at the :class:`QueryTokens`, as far as an objective compares them.

    By layer, ``hidden`` (B, S, D) and the ``attention`` of the S tokens on each other (B, H, S, S); and ``logits`` at
    the window (B, P, V).
    """

    hidden: Sequence[Tensor]
    attention: Sequence[Tensor]
    logits: Tensor | None


class ObjectiveLoss(nn.Module):
    """The terms of an objective, each an average, with the parameters of those that are learned."""

    def __init__(self, objective: Objective, width: int):
        super().__init__()
        self.objective = objective
        self.state_losses = nn.ModuleDict(
            {name: _make_state_loss(name, objective, width) for name in _OF_STATES if name in objective.terms}
        )

    def forward(self, student: ModelStates, teacher: ModelStates | None, query: QueryTokens) -> dict[str, Tensor]:
        """Return the terms before weighting, scalars by name; without a teacher the cross-entropy alone."""
        terms = {}
        if self.objective.ce:
            assert student.logits is not None
            terms["ce"] = answer_cross_entropy(student.logits, query.labels)
        if teacher is None:
            return terms
        for name, loss in self.state_losses.items():
            terms[name] = loss(student.hidden, teacher.hidden, query.aligned)
        if self.objective.logits:
            assert student.logits is not None
            assert teacher.logits is not None
            terms["logits"] = logit_kl(student.logits, teacher.logits, query.predicts, self.objective.temperature)
        if self.objective.attention:
            pairs = zip(student.attention, teacher.attention)
            layers = [attention_kl(s, t, query.aligned, query.aligned) for s, t in pairs]
            terms["attention"] = torch.stack(layers).mean()
        return terms

    def counts(self, batch: Mapping[str, Any]) -> Tensor:
        """Return how many tokens each term is an average over, in the order of ``objective.terms``.

        The cross-entropy over answer tokens, that of ``logits`` over the tokens these are predicted from and the last
        of queries without an answer, all others over the tokens of query and answer.
        """
        tokens = batch["aligned"].sum()
        special = {"ce": (batch["student"]["labels"] != IGNORED).sum(), "logits": batch["predicts"].sum()}
        return torch.stack([special.get(name, tokens) for name in self.objective.terms])


def _make_state_loss(name: str, objective: Objective, width: int) -> StateLoss:
    kind = {"relational": RelationalLoss, "contrastive": ContrastiveLoss}.get(name, AnchorLoss)
    metric = {"anchor": "geodesic", "alignment": "l2"}.get(name, objective.metric)
    scale = objective.feature_scale or ("raw" if name == "alignment" else "unit")
    return kind(
        metric,
        scale,
        objective.c,
        learn_curvature=objective.learn_curvature and metric == "geodesic",
        width=width if scale == "lift" else None,
        dim=objective.dim,
    )
