"""The lift: a map from embeddings to points of the hyperboloid. How it is learned is in ``lift_fitting``."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from hyperbolic import lorentz
from icl.common.bounded import bounded, unbounded
from icl.common.files import read_json, replacing, write_json

CURVATURE_BOUNDS = (0.1, 10.0)
"""A learned curvature stays inside: below, the space is flat at the radii of embeddings; above, float32 points at
these radii lose their digits."""


class HyperbolicLift(nn.Module):
    """``expmap0(W e)`` for embeddings e (..., width), a Lorentz point (..., dim).

    Embeddings are brought to unit length first, so that the radius is what W makes of it: with the initial scale, about
    1. A scale alone puts all points at one depth, where the distance orders as the cosine does; a head that was learned
    (:func:`icl.bank.fit_lift`) gives them different ones. ``expmap0`` has the factor sqrt(c), and the literature often
    prints c.

    Args:
        width: of the embeddings.
        dim: of the points. W is a linear head without bias, by default a learned scale.
        c: where the curvature starts.
        learn_curvature: inside ``CURVATURE_BOUNDS``.

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
        if self.head is not None:
            # Orthogonal rows that keep lengths on average are a random projection.
            nn.init.orthogonal_(self.head.weight, gain=math.sqrt(max(1.0, width / self.dim)))
        self.raw_c = nn.Parameter(unbounded(c, CURVATURE_BOUNDS), requires_grad=learn_curvature)

    @property
    def c(self) -> Tensor:
        """The curvature, a positive number in float64."""
        return bounded(self.raw_c, CURVATURE_BOUNDS)

    def forward(self, embedding: Tensor) -> Tensor:
        """Return the points (..., dim) of embeddings (..., width)."""
        if embedding.shape[-1] != self.width:
            raise ValueError(f"HyperbolicLift: embedding must have width {self.width}, got {tuple(embedding.shape)}")
        e = nn.functional.normalize(embedding.float(), dim=-1) * self.log_scale.exp()
        return lorentz.expmap0(e if self.head is None else self.head(e), c=self.c)

    def save(self, folder: str | Path) -> None:
        """Write the lift into a folder, made if need be."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        with replacing(folder / "lift.safetensors") as draft:
            save_file({name: values.contiguous() for name, values in self.state_dict().items()}, draft)
        write_json(folder / "lift.json", self.config)

    @classmethod
    def load(cls, folder: str | Path) -> HyperbolicLift:
        """Return the lift that was written into a folder. ``ValueError`` if there is none, or none that is whole."""
        folder = Path(folder)
        if not folder.is_dir():
            raise ValueError(f"there is no lift at {folder}: icl lift fit learns one")
        try:
            lift = cls(**read_json(folder / "lift.json"))
            lift.load_state_dict(load_file(folder / "lift.safetensors"))
        except (OSError, TypeError, ValueError, RuntimeError, SafetensorError) as error:
            raise ValueError(f"{folder} holds no lift that this version reads: {error}") from error
        return lift.eval()
