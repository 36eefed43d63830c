"""From embeddings to points of the hyperboloid, and how that map is learned from pairs."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from hyperbolic import lorentz, pairwise
from icl.bank.embedding import lift_metrics as metrics
from icl.common.bounded import TEMPERATURE_BOUNDS, bounded, unbounded
from icl.common.files import read_json

CURVATURE_BOUNDS = (0.1, 10.0)
"""A learned curvature stays inside: below, the space is flat at the radii of embeddings; above, float32 points at
these radii lose their digits."""
RECALL_AT = (1, 5, 10)
WEIGHT_DECAY = 0.01  # of AdamW, its default


class HyperbolicLift(nn.Module):
    """``expmap0(W e)`` for embeddings e (..., width), a Lorentz point (..., dim).

    W is a learned scale or, with ``dim``, a linear head without bias. Embeddings are brought to unit length first, so
    that the radius is what W makes of it: with the initial scale, about 1. A scale alone puts all points at one depth,
    where the distance orders as the cosine does; a head that was learned (:func:`fit_lift`) gives them different ones.
    ``c`` is where the curvature starts; it is learned inside ``CURVATURE_BOUNDS`` unless ``learn_curvature`` is false.
    METHODS: expmap0 with the factor sqrt(c); the literature often prints c.

    >>> lift = HyperbolicLift(4, dim=2)
    >>> lift(torch.eye(4)).shape
    torch.Size([4, 2])
    """

    def __init__(self, width: int, dim: int | None = None, c: float = 1.0, learn_curvature: bool = True):
        super().__init__()
        low, high = CURVATURE_BOUNDS
        if not low < c < high:
            raise ValueError(f"HyperbolicLift: c must be between {low} and {high}, got {c}")
        if width < 1 or (dim is not None and dim < 1):
            raise ValueError(f"HyperbolicLift: width and dim must be positive, got {width} and {dim}")
        self.config = {"width": width, "dim": dim, "c": c, "learn_curvature": learn_curvature}
        self.width, self.dim = width, dim or width
        self.log_scale = nn.Parameter(torch.zeros(()))
        self.head = None if dim is None else nn.Linear(width, dim, bias=False)
        if self.head is not None and dim is not None:
            # rows orthogonal, lengths kept on average: a random projection
            nn.init.orthogonal_(self.head.weight, gain=math.sqrt(max(1.0, width / dim)))
        self.raw_c = nn.Parameter(unbounded(c, CURVATURE_BOUNDS), requires_grad=learn_curvature)

    @property
    def c(self) -> Tensor:
        """The curvature, a positive number in float64."""
        return bounded(self.raw_c, CURVATURE_BOUNDS)

    def forward(self, embedding: Tensor) -> Tensor:
        if embedding.shape[-1] != self.width:
            raise ValueError(f"HyperbolicLift: embedding must have width {self.width}, got {tuple(embedding.shape)}")
        e = nn.functional.normalize(embedding.float(), dim=-1) * self.log_scale.exp()
        return lorentz.expmap0(e if self.head is None else self.head(e), c=self.c)

    def save(self, folder: str | Path) -> None:
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        save_file({k: v.contiguous() for k, v in self.state_dict().items()}, folder / "lift.safetensors")
        (folder / "lift.json").write_text(json.dumps(self.config, indent=2) + "\n")

    @classmethod
    def load(cls, folder: str | Path) -> HyperbolicLift:
        folder = Path(folder)
        if not folder.is_dir():
            raise ValueError(f"there is no lift at {folder}: icl lift fit learns one")
        try:
            config = read_json(folder / "lift.json")
            lift = cls(**config)
            lift.load_state_dict(load_file(folder / "lift.safetensors"))
        except (OSError, TypeError, ValueError, RuntimeError, SafetensorError) as error:
            raise ValueError(f"{folder} holds no lift that this version reads: {error}") from error
        return lift.eval()


@dataclass
class LiftQuality:
    """What a lift makes of held-out pairs."""

    loss: float
    recall: dict[int, float]
    mean_rank: float
    gromov_delta: float
    depth_against_specificity: float | None = None


@dataclass
class FitReport:
    """What moved: quality on the dev pairs before and after, and the loss of every epoch."""

    before: LiftQuality
    after: LiftQuality
    best_epoch: int
    """Counted from 1; 0 if no epoch was better than the start."""
    c: float
    temperature: float
    train_loss: list[float]
    dev_loss: list[float]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def same_label_pairs(labels: Sequence[Any] | Tensor, seed: int = 0) -> Tensor:
    """Index pairs (P, 2): for every row another of the same label, none for labels that stand alone.

    >>> same_label_pairs(["a", "b", "a"])
    tensor([[0, 2],
            [2, 0]])
    """
    values = labels.tolist() if isinstance(labels, Tensor) else list(labels)
    generator = torch.Generator().manual_seed(seed)
    rows: dict[Any, list[int]] = {}
    for i, value in enumerate(values):
        rows.setdefault(value, []).append(i)
    pairs = []
    for members in rows.values():
        # a cycle through a shuffled class pairs every row with another
        order = [members[i] for i in torch.randperm(len(members), generator=generator)]
        pairs += [(a, b) for a, b in zip(order, order[1:] + order[:1]) if a != b]
    return torch.tensor(sorted(pairs), dtype=torch.int64).reshape(-1, 2)


def entailment_loss(general: Tensor, specific: Tensor, c: Tensor) -> Tensor:
    """How far each specific point is outside the cone of its general one, averaged: 0 inside.

    ``max(0, exterior_angle(general, specific) - half_aperture(general))``. Ganea et al., 2018; Desai et al., 2023,
    equation 6.
    """
    angle = lorentz.exterior_angle(general, specific, c=c)
    return torch.relu(angle - lorentz.half_aperture(general, c=c)).mean()


def disjoint_batches(pairs: Tensor, groups: Tensor | None, size: int, generator: torch.Generator) -> list[Tensor]:
    """Pairs in random order, cut so that a batch has each group once at most: others' positives are no negatives.

    A batch of one pair has no negatives and teaches nothing; it is left out.
    """
    order = pairs[torch.randperm(len(pairs), generator=generator)]
    if groups is None:
        return [batch for batch in order.split(size) if len(batch) > 1]
    batches: list[list[int]] = []
    free = 0  # the first batch with room
    later: dict[int, int] = {}  # the first batch that may have this group
    for i, group in enumerate(groups[order[:, 0]].tolist()):
        turn = max(free, later.get(group, 0))
        while turn < len(batches) and len(batches[turn]) >= size:
            turn += 1
        if turn == len(batches):
            batches.append([])
        batches[turn].append(i)
        later[group] = turn + 1
        while free < len(batches) and len(batches[free]) >= size:
            free += 1
    return [order[batch] for batch in batches if len(batch) > 1]


class _Objective(nn.Module):
    def __init__(self, lift: HyperbolicLift, temperature: float, entailment: float):
        super().__init__()
        self.lift, self.entailment = lift, entailment
        self.log_temperature = nn.Parameter(torch.tensor(math.log(temperature)))

    @property
    def temperature(self) -> Tensor:
        low, high = TEMPERATURE_BOUNDS
        return self.log_temperature.exp().clamp(low, high)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        c, x, y = self.lift.c, self.lift(first), self.lift(second)
        loss = pairwise.contrastive_loss(x, y, self.temperature, c=c, symmetric=True)
        if self.entailment:
            loss = loss + self.entailment * entailment_loss(y, x, c)
        return loss


@torch.no_grad()
def quality(
    lift: HyperbolicLift,
    embeddings: Tensor,
    pairs: Tensor,
    loss: float,
    specificity: Tensor | None = None,
) -> LiftQuality:
    """How the second of each pair ranks among the seconds of all, seen from the first; ``loss`` is taken over."""
    seconds, labels = pairs[:, 1].unique(return_inverse=True)
    x, y = lift(embeddings[pairs[:, 0]]), lift(embeddings[seconds])
    found = metrics.ranks(x, y, labels, c=lift.c)
    correlation = None
    if specificity is not None:
        rows = pairs.unique()
        correlation = metrics.rank_correlation(metrics.depth(lift(embeddings[rows]), c=lift.c), specificity[rows])
    return LiftQuality(
        loss=loss,
        recall={k: metrics.recall(found, k) for k in RECALL_AT},
        mean_rank=found.double().mean().item(),
        gromov_delta=metrics.gromov_delta(y, c=lift.c),
        depth_against_specificity=correlation,
    )


def fit_lift(
    lift: HyperbolicLift,
    embeddings: Tensor,
    pairs: Tensor,
    *,
    groups: Tensor | None = None,
    specificity: Tensor | None = None,
    entailment: float = 0.0,
    temperature: float = 0.1,
    epochs: int = 50,
    batch_size: int = 512,
    lr: float = 3e-3,
    dev_fraction: float = 0.1,
    patience: int = 5,
    seed: int = 0,
) -> FitReport:
    """Trains ``lift`` in place so that the two of a pair are near and others far, and says what moved.

    Args:
        embeddings: (N, width).
        pairs: (P, 2) int64, rows of ``embeddings`` that belong together: an image and its text, two of one label
            (:func:`same_label_pairs`), a node and its parent, the specific one first.
        groups: (N,) int64; no two pairs of one group meet in a batch, where they would be each other's negatives.
        specificity: (N,), compared with the depth of the points in the report.
        entailment: weight of the cones' loss, in which the second of a pair is the general one.
        dev_fraction: share of the pairs that decide when to stop; the parameters of their best epoch are kept.

    AdamW; stops after ``patience`` epochs without a lower dev loss. Deterministic by ``seed``.
    """
    _check(len(embeddings), pairs, groups, specificity)
    if epochs < 1 or batch_size < 2 or not 0 < dev_fraction < 1:
        given = f"{epochs}, {batch_size} and {dev_fraction}"
        raise ValueError(f"fit_lift: epochs must be positive, batch_size over 1, dev_fraction in (0, 1), got {given}")
    if not TEMPERATURE_BOUNDS[0] <= temperature <= TEMPERATURE_BOUNDS[1]:
        raise ValueError(f"fit_lift: temperature must be inside {TEMPERATURE_BOUNDS}, got {temperature}")
    generator = torch.Generator().manual_seed(seed)
    order = pairs[torch.randperm(len(pairs), generator=generator)]
    held_out = min(len(pairs) - 2, max(2, round(dev_fraction * len(pairs))))
    dev, train = order[:held_out], order[held_out:]
    objective = _Objective(lift, temperature, entailment)
    # single numbers, such as the curvature, do not decay
    each = [{"params": [p], "weight_decay": WEIGHT_DECAY if p.dim() > 1 else 0.0} for p in objective.parameters()]
    optimizer = torch.optim.AdamW(each, lr=lr)
    dev_batches = disjoint_batches(dev, groups, batch_size, torch.Generator().manual_seed(seed)) or [dev]

    def dev_loss() -> float:
        with torch.no_grad():
            losses = [objective(embeddings[b[:, 0]], embeddings[b[:, 1]]) * len(b) for b in dev_batches]
        return (torch.stack(losses).sum() / sum(map(len, dev_batches))).item()

    best, best_epoch = dev_loss(), 0
    before = quality(lift, embeddings, dev, best, specificity)
    kept = {k: v.clone() for k, v in objective.state_dict().items()}
    train_losses, dev_losses = [], []
    for epoch in range(1, epochs + 1):
        total, count = 0.0, 0
        for batch in disjoint_batches(train, groups, batch_size, generator):
            loss = objective(embeddings[batch[:, 0]], embeddings[batch[:, 1]])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total, count = total + loss.item() * len(batch), count + len(batch)
        train_losses.append(total / max(1, count))
        dev_losses.append(dev_loss())
        if dev_losses[-1] < best:
            best, best_epoch = dev_losses[-1], epoch
            kept = {k: v.clone() for k, v in objective.state_dict().items()}
        elif epoch - best_epoch >= patience:
            break
    objective.load_state_dict(kept)
    return FitReport(
        before=before,
        after=quality(lift, embeddings, dev, best, specificity),
        best_epoch=best_epoch,
        c=lift.c.item(),
        temperature=objective.temperature.item(),
        train_loss=train_losses,
        dev_loss=dev_losses,
    )


def _check(rows: int, pairs: Tensor, groups: Tensor | None, specificity: Tensor | None) -> None:
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
