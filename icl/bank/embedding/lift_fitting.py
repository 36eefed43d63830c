"""The fit of a lift to pairs that belong together: near each other, far from the rest, the general one above."""

from __future__ import annotations

import copy
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from annotated_doc import Doc
from torch import Tensor, nn

from hyperbolic import lorentz, pairwise
from icl.bank.embedding import lift_metrics
from icl.bank.embedding.lift import HyperbolicLift
from icl.common.bounded import TEMPERATURE_BOUNDS
from icl.common.configuration import Bounds, PositiveFloat, PositiveInt, Seed, Weight, configuration

RECALL_AT = (1, 5, 10)
WEIGHT_DECAY = 0.01  # Of AdamW, its default.


@configuration
class LiftTraining:
    """How a lift is learned from pairs, with AdamW."""

    epochs: Annotated[PositiveInt, Doc("At most.")] = 50
    entailment: Annotated[
        Weight, Doc("Weight of the cones' loss, in which the second of a pair is the general one.")
    ] = 0.0
    temperature: Annotated[float, Bounds(ge=0.01, le=1.0), Doc("Of the contrastive loss, where it starts.")] = 0.1
    batch_size: Annotated[int, Bounds(ge=2), Doc("Pairs in a step.")] = 512
    learning_rate: PositiveFloat = 3e-3
    dev_fraction: Annotated[float, Bounds(gt=0, le=0.5), Doc("Share of the pairs that decide when to stop.")] = 0.1
    patience: Annotated[PositiveInt, Doc("Epochs without a lower dev loss, after which the fit stops.")] = 5
    seed: Annotated[Seed, Doc("Of the order of the pairs.")] = 0


@dataclass
class LiftQuality:
    """The quality of a lift: how it ranks held-out pairs, and how tree-like and deep its points are."""

    loss: float
    recall: dict[int, float]
    mean_rank: float
    gromov_delta: float
    depth_against_specificity: float | None = None


@dataclass
class FitReport:
    """The quality on the dev pairs before and after, and the loss of every epoch."""

    before: LiftQuality
    after: LiftQuality
    best_epoch: int
    """Counted from 1; 0 if no epoch was better than the start."""
    c: float
    temperature: float
    train_loss: list[float]
    dev_loss: list[float]


def same_label_pairs(labels: Sequence[Any] | Tensor, seed: int = 0) -> Tensor:
    """Return index pairs (P, 2): for every row another of the same label, none for labels that stand alone.

    >>> same_label_pairs(["a", "b", "a"])
    tensor([[0, 2],
            [2, 0]])
    """
    generator = torch.Generator().manual_seed(seed)
    rows: dict[Any, list[int]] = {}
    for i, label in enumerate(labels.tolist() if isinstance(labels, Tensor) else labels):
        rows.setdefault(label, []).append(i)
    pairs = []
    for members in rows.values():
        # A cycle through a shuffled class pairs every row with another.
        order = [members[i] for i in torch.randperm(len(members), generator=generator)]
        pairs += [(a, b) for a, b in zip(order, order[1:] + order[:1]) if a != b]
    return torch.tensor(sorted(pairs), dtype=torch.int64).reshape(-1, 2)


def entailment_loss(general: Tensor, specific: Tensor, c: Tensor) -> Tensor:
    """Return how far each specific point is outside the cone of its general one, averaged: 0 inside.

    ``max(0, exterior_angle(general, specific) - half_aperture(general))``. Ganea et al., 2018; Desai et al., 2023,
    equation 6.
    """
    angle = lorentz.exterior_angle(general, specific, c=c)
    return torch.relu(angle - lorentz.half_aperture(general, c=c)).mean()


def disjoint_batches(pairs: Tensor, groups: Tensor | None, size: int, generator: torch.Generator) -> list[Tensor]:
    """Return pairs in random order, cut so that no batch has two of one group: no positive serves as a negative.

    A batch of one pair has no negatives and teaches nothing; it is left out.
    """
    order = pairs[torch.randperm(len(pairs), generator=generator)]
    if groups is None:
        return [batch for batch in order.split(size) if len(batch) > 1]
    batches = defaultdict[int, list[int]](list)
    next_batch = defaultdict[int, int](int)  # The first batch that may have a group.
    free = 0  # The first batch with room.
    for i, group in enumerate(groups[order[:, 0]].tolist()):
        number = max(free, next_batch[group])
        while len(batches[number]) >= size:
            number += 1
        batches[number].append(i)
        next_batch[group] = number + 1
        while len(batches[free]) >= size:
            free += 1
    return [order[batch] for _, batch in sorted(batches.items()) if len(batch) > 1]


class _LiftLoss(nn.Module):
    """The contrastive loss of pairs, and the entailment loss with its weight, if it has one."""

    def __init__(self, lift: HyperbolicLift, temperature: float, entailment: float):
        super().__init__()
        self.lift, self.entailment = lift, entailment
        self.log_temperature = nn.Parameter(torch.tensor(math.log(temperature)))

    @property
    def temperature(self) -> Tensor:
        return self.log_temperature.exp().clamp(*TEMPERATURE_BOUNDS)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        c, x, y = self.lift.c, self.lift(first), self.lift(second)
        loss = pairwise.contrastive_loss(x, y, self.temperature, c=c, symmetric=True)
        if self.entailment:
            loss = loss + self.entailment * entailment_loss(y, x, c)
        return loss


@torch.no_grad()
def measure_quality(
    lift: HyperbolicLift, embeddings: Tensor, pairs: Tensor, loss: float, specificity: Tensor | None = None
) -> LiftQuality:
    """Return how the second of each pair ranks among the seconds of all, from the first; ``loss`` is taken over."""
    seconds, labels = pairs[:, 1].unique(return_inverse=True)
    x, y = lift(embeddings[pairs[:, 0]]), lift(embeddings[seconds])
    ranks = lift_metrics.ranks(x, y, labels, c=lift.c)
    correlation = None
    if specificity is not None:
        from scipy.stats import spearmanr  # Slow to import, and seldom needed.

        rows = pairs.unique()
        depth = lorentz.dist0(lift(embeddings[rows]), c=lift.c)
        correlation = float(spearmanr(depth.numpy(), specificity[rows].numpy()).statistic)
    return LiftQuality(
        loss=loss,
        recall={k: (ranks <= k).double().mean().item() for k in RECALL_AT},
        mean_rank=ranks.double().mean().item(),
        gromov_delta=lift_metrics.gromov_delta(y, c=lift.c),
        depth_against_specificity=correlation,
    )


def fit_lift(
    lift: HyperbolicLift,
    embeddings: Tensor,
    pairs: Tensor,
    training: LiftTraining | None = None,
    *,
    groups: Tensor | None = None,
    specificity: Tensor | None = None,
) -> FitReport:
    """Train ``lift`` in place so that the two of a pair are near and others far, and report what changed.

    Some pairs are held out; the parameters of the epoch that is best on these are kept. Deterministic by the seed.

    Args:
        lift: from embeddings to points.
        embeddings: (N, width).
        pairs: (P, 2) int64, rows of ``embeddings`` that belong together: an image and its text, two of one label
            (:func:`same_label_pairs`), a node and its parent, the specific one first.
        training: epochs, rate, weight of the entailment, and the rest; by default :class:`LiftTraining` as it is.
        groups: (N,) int64; no two pairs of one group meet in a batch, where they would be each other's negatives.
        specificity: (N,), compared with the depth of the points in the report.
    """
    training = LiftTraining() if training is None else training
    _check_arguments(len(embeddings), pairs, groups, specificity)
    generator = torch.Generator().manual_seed(training.seed)
    order = pairs[torch.randperm(len(pairs), generator=generator)]
    held_out = min(len(pairs) - 2, max(2, round(training.dev_fraction * len(pairs))))
    dev, train = order[:held_out], order[held_out:]
    objective = _LiftLoss(lift, training.temperature, training.entailment)
    # Single numbers, such as the curvature, do not decay.
    parameters = [{"params": [p], "weight_decay": WEIGHT_DECAY if p.dim() > 1 else 0.0} for p in objective.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=training.learning_rate)
    dev_batches = disjoint_batches(dev, groups, training.batch_size, torch.Generator().manual_seed(training.seed)) or [
        dev
    ]

    @torch.no_grad()
    def measure_dev_loss() -> float:
        losses = [objective(*embeddings[batch.T]) * len(batch) for batch in dev_batches]
        return (torch.stack(losses).sum() / sum(map(len, dev_batches))).item()

    best, best_epoch = measure_dev_loss(), 0
    before = measure_quality(lift, embeddings, dev, best, specificity)
    best_weights = copy.deepcopy(objective.state_dict())
    train_losses, dev_losses = [], []
    for epoch in range(1, training.epochs + 1):
        total, count = 0.0, 0
        for batch in disjoint_batches(train, groups, training.batch_size, generator):
            loss = objective(*embeddings[batch.T])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total, count = total + loss.item() * len(batch), count + len(batch)
        train_losses.append(total / max(1, count))
        dev_losses.append(measure_dev_loss())
        if dev_losses[-1] < best:
            best, best_epoch = dev_losses[-1], epoch
            best_weights = copy.deepcopy(objective.state_dict())
        elif epoch - best_epoch >= training.patience:
            break
    objective.load_state_dict(best_weights)
    return FitReport(
        before=before,
        after=measure_quality(lift, embeddings, dev, best, specificity),
        best_epoch=best_epoch,
        c=lift.c.item(),
        temperature=objective.temperature.item(),
        train_loss=train_losses,
        dev_loss=dev_losses,
    )


def _check_arguments(rows: int, pairs: Tensor, groups: Tensor | None, specificity: Tensor | None) -> None:
    if pairs.dim() != 2 or pairs.shape[1] != 2 or pairs.dtype != torch.int64:
        raise ValueError(f"fit_lift: pairs must be int64 of shape (N, 2), got {pairs.dtype} {tuple(pairs.shape)}")
    if len(pairs) < 4:
        raise ValueError(
            f"fit_lift: there must be 4 pairs of rows or more, to learn from and hold out, got {len(pairs)}"
        )
    if bool(((pairs < 0) | (pairs >= rows)).any()):
        raise ValueError(f"fit_lift: pairs must name rows of embeddings, 0 to {rows - 1}")
    for name, values in (("groups", groups), ("specificity", specificity)):
        if values is not None and values.shape != (rows,):
            raise ValueError(f"fit_lift: {name} must have shape ({rows},) as embeddings, got {tuple(values.shape)}")
