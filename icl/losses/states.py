"""Losses between the hidden states of a student and those of its teacher at the same tokens.

States are sequences over layers of tensors (B, S, D), gathered at the S query tokens that both have, and ``mask``
(B, S) is true at the valid ones; the others may hold anything. Everything is computed in float32 at least, gradients
reach the student alone, and where no token is valid the loss is 0. :class:`StateLoss` turns states into features, and
its subclasses compare these.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple, get_args

import torch
from torch import Tensor, nn

from hyperbolic import lorentz, pairwise
from icl.common.bounded import TEMPERATURE_BOUNDS, bounded, unbounded
from icl.common.choices import FeatureScale, StateMetric

METRICS = get_args(StateMetric)
FEATURE_SCALES = get_args(FeatureScale)
COMPACT = ("unit", "layer", "lift")
"""Scales of radius about 1. Points at the radius of the others have no coordinates in float32, so between them there is
the distance of a pair of tangents, but no matrix of distances."""
CURVATURE_BOUNDS = (1e-3, 10.0)
"""Of a learned curvature. Below, the space is flat at radius 1; above, distances hardly depend on the angle."""
TEMPERATURE = 0.1  # of InfoNCE, as in icl.bank.fit_lift
DROPOUT = 0.1  # between two views of a state; SimCSE's
EPS = 1e-5  # beside a variance, as in torch's layer norm


class Geometry(NamedTuple):
    """The lift, a matrix (dim, width), and the numbers of a comparison."""

    lift: Tensor | None
    c: float | Tensor
    temperature: float | Tensor


class StateLoss(nn.Module, ABC):
    """A loss on states: features of student and teacher, compared by :meth:`compare`, averaged over layers.

    What is learned here, the lift and the curvature, is not learned from the comparison. That would be least for a lift
    that sends everything to 0, for one that sees nothing of what the student lacks, and for the smallest curvature. So
    the comparison takes them as fixed, and in training mode a term is added that fits them to the teacher alone:
    InfoNCE between two views of each of its tokens under dropout (SimCSE: Gao et al., 2021), with a temperature that
    is learned too. A lift that tells no tokens apart is the worst for it, and scale is of no use to it, because
    features are divided by the teacher's. In evaluation mode the value is that of the comparison.

    Args:
        metric: "geodesic", between ``expmap0`` of the features on the hyperboloid of curvature ``-c``, or "l2",
            between the features themselves: its limit for small c, so that the two differ in nothing else.
        feature_scale: how the feature u of a state h is made; LN is the layer norm without affine.

            * "unit": LN(h)/sqrt(D), of radius 1.
            * "paper": LN(h), of radius sqrt(D), as Hyper-ICL has it. Squared distances are in the thousands.
            * "layer": h centred as by LN, but divided by one number for the layer, so that the teacher's radii have
              the root mean square 1 over its valid tokens, and each token keeps its own.
            * "lift": a linear map of the centred h to ``dim`` numbers, divided likewise. The map is learned.
            * "raw": h/sqrt(D): a squared L2 distance is the squared error averaged over the width, as MimIC has it.

            With the first two all radii are equal, so that the geodesic distance is a function of the cosine alone, as
            the Euclidean one is: the metric can only matter with the others, or between more than two tokens.
        c: the curvature, or where a learned one starts.
        learn_curvature: inside ``CURVATURE_BOUNDS``.
        width: of the states, for "lift" alone.
        dim: of the lift, for "lift" alone.

    Raises:
        ValueError: for a value that is none of these, or one that does not go with another.
    """

    all_pairs = False
    """True for a loss of the distances between all tokens, not those of a pair alone."""

    def __init__(
        self,
        metric: str = "geodesic",
        feature_scale: str = "unit",
        c: float = 0.1,
        learn_curvature: bool = False,
        width: int | None = None,
        dim: int | None = None,
    ):
        super().__init__()
        if metric not in METRICS:
            raise self._make_error(f"metric must be one of {', '.join(METRICS)}, got {metric!r}")
        if feature_scale not in FEATURE_SCALES:
            raise self._make_error(f"feature_scale must be one of {', '.join(FEATURE_SCALES)}, got {feature_scale!r}")
        if metric == "l2" and feature_scale == "paper":
            # Summed over thousands of coordinates it drowns the cross-entropy that it is trained with.
            raise self._make_error("l2 is averaged over the width: feature_scale must be 'unit' for LN(h), got 'paper'")
        if learn_curvature and metric == "l2":
            raise self._make_error("learn_curvature is of the metric 'geodesic', got 'l2'")
        if metric == "geodesic" and (self.all_pairs or learn_curvature) and feature_scale not in COMPACT:
            raise self._make_error(f"feature_scale must be one of {', '.join(COMPACT)} here, got {feature_scale!r}")
        low, high = CURVATURE_BOUNDS if learn_curvature else (0.0, math.inf)
        if not low < c < high:
            raise self._make_error(f"c must be between {low} and {high}, got {c}")
        self.metric, self.feature_scale = metric, feature_scale
        self._c = c
        self.raw_c = nn.Parameter(unbounded(c, CURVATURE_BOUNDS)) if learn_curvature else None
        self.head: nn.Linear | None = None
        if feature_scale == "lift":
            if width is None or dim is None or not 1 <= dim <= width:
                raise self._make_error(f"'lift' needs 1 <= dim <= width, got dim {dim} and width {width}")
            self.head = nn.Linear(width, dim, bias=False)
            nn.init.orthogonal_(self.head.weight)
        elif width is not None or dim is not None:
            raise self._make_error(f"width and dim are of feature_scale 'lift', got them with {feature_scale!r}")
        self.learned = learn_curvature or self.head is not None
        self.raw_temperature = nn.Parameter(unbounded(TEMPERATURE, TEMPERATURE_BOUNDS)) if self.learned else None

    @property
    def c(self) -> float | Tensor:
        """The curvature; a learned one is a tensor in float64."""
        return self._c if self.raw_c is None else bounded(self.raw_c, CURVATURE_BOUNDS)

    @property
    def temperature(self) -> float | Tensor:
        """The temperature of InfoNCE; a learned one is a tensor in float64."""
        return TEMPERATURE if self.raw_temperature is None else bounded(self.raw_temperature, TEMPERATURE_BOUNDS)

    def forward(self, student: Sequence[Tensor], teacher: Sequence[Tensor], mask: Tensor) -> Tensor:
        """Return the loss, a scalar.

        Raises:
            ValueError: where shapes do not fit or layers are missing.
            TypeError: for states that are not floating point, or a mask that is not bool.
        """
        self._check_states(student, teacher, mask)
        lift = None if self.head is None else self.head.weight
        geometry = Geometry(lift, self.c, self.temperature)
        with torch.no_grad():
            fixed = Geometry(None if lift is None else lift.detach(), self.c, self.temperature)
        losses = []
        # Autocast would run the lift in half precision.
        with torch.autocast(mask.device.type, enabled=False):
            for s, t in zip(student, teacher):
                x, y = self._scale_tokens(s, mask), self._scale_tokens(t.detach(), mask)
                loss = self.compare(*self._make_features(x, y, mask, fixed), mask, fixed)
                if self.training and self.learned:
                    first, second = (nn.functional.dropout(y, DROPOUT) for _ in range(2))
                    loss = loss + self.contrast(*self._make_features(first, second, mask, geometry), mask, geometry)
                losses.append(loss)
        return torch.stack(losses).mean()

    @abstractmethod
    def compare(self, u: Tensor, v: Tensor, mask: Tensor, geometry: Geometry) -> Tensor:
        """Return the loss of a layer, a scalar, from features u of the student and v of the teacher (B, S, D)."""

    def contrast(self, u: Tensor, v: Tensor, mask: Tensor, geometry: Geometry) -> Tensor:
        """Return InfoNCE: each valid row of u against all of v, of which that of the same token is the positive."""
        u, v = u[mask], v[mask]
        if len(u) == 0:
            return u.sum()
        if self.metric == "l2":
            similarity, own = -_distance_matrix(u, v) / geometry.temperature, torch.arange(len(u), device=u.device)
            return nn.functional.cross_entropy(similarity, own)
        x, y = lorentz.expmap0(u, c=geometry.c), lorentz.expmap0(v, c=geometry.c)
        return pairwise.contrastive_loss(x, y, geometry.temperature, c=geometry.c)

    def _scale_tokens(self, h: Tensor, mask: Tensor) -> Tensor:
        """Return the features, but for the factor that the tokens of a layer have in common."""
        # Before anything else: what stands at masked tokens may be no number, and 0 times that is none either.
        h = h.masked_fill(~mask[..., None], 0)
        h = h.to(torch.promote_types(h.dtype, torch.float32))
        width = h.shape[-1]
        if self.feature_scale == "raw":
            return h / math.sqrt(width)
        if self.feature_scale == "paper":
            return nn.functional.layer_norm(h, (width,), eps=EPS)
        if self.feature_scale == "unit":
            # As weights, so that the division is no pass of its own.
            return nn.functional.layer_norm(h, (width,), h.new_full((width,), 1 / math.sqrt(width)), eps=EPS)
        return (h - h.mean(-1, keepdim=True)) / math.sqrt(width)

    def _make_features(self, x: Tensor, y: Tensor, mask: Tensor, geometry: Geometry) -> tuple[Tensor, Tensor]:
        """Lift the scaled tokens, and divide both sides by the root mean square of the teacher's radii."""
        if self.feature_scale not in ("layer", "lift"):
            return x, y
        if geometry.lift is not None:
            x, y = (nn.functional.linear(a, geometry.lift.to(a.dtype)) for a in (x, y))
        scale = torch.rsqrt(y.square().sum() / _count_tokens(mask) + EPS)
        return x * scale, y * scale

    def _check_states(self, student: Sequence[Tensor], teacher: Sequence[Tensor], mask: Tensor) -> None:
        if len(student) != len(teacher) or len(student) == 0:
            got = f"{len(student)} and {len(teacher)}"
            raise self._make_error(f"student and teacher must have the same layers, at least one, got {got}")
        if mask.dtype != torch.bool:
            raise self._make_error(f"mask must be bool, got {mask.dtype}", TypeError)
        for i, (s, t) in enumerate(zip(student, teacher)):
            if s.dim() == 0 or s.shape != t.shape or s.shape[:-1] != mask.shape:
                got = f"{tuple(s.shape)}, {tuple(t.shape)} and {tuple(mask.shape)}"
                raise self._make_error(
                    f"student, teacher and mask must be (B, S, D) twice and (B, S), got {got} in layer {i}"
                )
            if not (s.is_floating_point() and t.is_floating_point()):
                raise self._make_error(f"states must be floating point, got {s.dtype} and {t.dtype}", TypeError)
            if self.head is not None and s.shape[-1] != self.head.in_features:
                raise self._make_error(
                    f"states must have width {self.head.in_features}, got {s.shape[-1]} in layer {i}"
                )

    def _make_error(self, text: str, kind: type[Exception] = ValueError) -> Exception:
        return kind(f"{type(self).__name__}: {text}")


class AnchorLoss(StateLoss):
    """The squared distance between the student's and the teacher's feature, averaged over valid tokens and layers.

    Exactly 0, with a gradient that is exactly 0, where the states are equal. The loss of Hyper-ICL; with metric "l2"
    and feature_scale "raw" the alignment of MimIC. It is an average over the width, because a sum over thousands of
    coordinates would drown the cross-entropy beside it. The geodesic distance is taken straight from the tangents
    (``lorentz.dist_exp0``), because at "paper" scale points have no coordinates in float32.

    >>> student, teacher = torch.tensor([[[1.0, 0.0, 2.0]]]), torch.tensor([[[1.0, 0.5, 2.0]]])
    >>> AnchorLoss()([student], [teacher], torch.tensor([[True]]))
    tensor(0.0372)
    """

    def compare(self, u: Tensor, v: Tensor, mask: Tensor, geometry: Geometry) -> Tensor:
        """Return the mean of the squared distances between u and v, a scalar."""
        if self.metric == "l2":
            return nn.functional.mse_loss(u, v, reduction="sum") / _count_tokens(mask)
        return lorentz.dist_exp0(u, v, c=geometry.c).square().sum() / _count_tokens(mask)


class RelationalLoss(StateLoss):
    """How far the distances between the student's tokens are from those between the teacher's, squared and averaged.

    All pairs of the batch's valid tokens, in units of the teacher's mean distance: 0 for a student whose states are
    the teacher's, 1 for one whose states are all the same, up to the spread of the distances. Relational knowledge
    distillation (Park et al., 2019, equation 4), with a squared error instead of Huber's, and one unit for both, so
    that a student that shrinks everything is not forgiven.

    For the relations of tokens to demonstrations, which the student has not seen, append the teacher's states at
    the demonstrations to both.

    >>> states = [torch.randn(2, 4, 8)]
    >>> RelationalLoss()(states, states, torch.ones(2, 4, dtype=torch.bool))
    tensor(0.)
    """

    all_pairs = True

    def compare(self, u: Tensor, v: Tensor, mask: Tensor, geometry: Geometry) -> Tensor:
        """Return the mean squared error of the distances within u and within v, a scalar."""
        ours, teachers = (self._distances(a[mask], geometry) for a in (u, v))
        pairs = max(1, len(ours) * (len(ours) - 1))  # a token is at distance 0 from itself in both
        unit = teachers.sum() / pairs
        return (ours - teachers).square().sum() / (pairs * torch.where(unit > 0, unit, 1).square())

    def _distances(self, rows: Tensor, geometry: Geometry) -> Tensor:
        """Return the distances (N, N) between rows (N, D)."""
        if self.metric == "l2":
            return _distance_matrix(rows, rows)
        points = lorentz.expmap0(rows, c=geometry.c)
        return pairwise.pairwise_dist(points, points, c=geometry.c)


class ContrastiveLoss(StateLoss):
    """InfoNCE over minus the distance: the teacher's state at the same token against those at all other tokens.

    Tokens of the whole batch are the negatives of each other. ``pairwise.contrastive_loss``, averaged over layers.

    >>> states, mask = [torch.zeros(1, 4, 8)], torch.ones(1, 4, dtype=torch.bool)
    >>> ContrastiveLoss()(states, states, mask)  # log 4: nothing to tell them apart by
    tensor(1.3863)
    """

    all_pairs = True

    def compare(self, u: Tensor, v: Tensor, mask: Tensor, geometry: Geometry) -> Tensor:
        """Return InfoNCE of the rows of u among those of v, a scalar."""
        return self.contrast(u, v, mask, geometry)


def _count_tokens(mask: Tensor) -> Tensor:
    return mask.sum().clamp(min=1)


def _distance_matrix(x: Tensor, y: Tensor) -> Tensor:
    # By differences: by a matrix product, distances of close rows lose half their digits.
    return torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist")
