"""The contrastive loss streams over this: ``log sum_j exp(-d(x_i, y_j)/temperature)`` and the positives' distances."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hyperbolic import validation
from hyperbolic.ops import torch_internals
from hyperbolic.ops.dispatch import declare, library, map_in_turn
from hyperbolic.ops.pairs import PairsOp


class Contrast:
    """``(x, y, labels, c, temperature)``, matrices, positive rows of y and numbers, to two results (N,).

    They are ``log sum_j exp(-d(x_i, y_j)/temperature)``, the partition, and ``d(x_i, y_labels_i)``. One operator for
    both, so that there is one gradient to hold.

    The operator and its backward never hold the N x M matrix. Derivatives of the backward and forward derivatives
    are those of the composition with ``pairwise_dist``, which does.
    """

    def __init__(self, model: str, pairwise_dist: PairsOp):
        self.dist = pairwise_dist
        name = f"{model}_contrast"
        arguments = "Tensor x, Tensor y, Tensor labels, Tensor c, Tensor temperature"
        self.name = name
        self.operator = declare(name, f"({arguments}) -> (Tensor, Tensor)", self.check, self.evaluate, self.fake)
        self.backward = declare(
            name + "_backward",
            f"({arguments}, Tensor partition, Tensor g, Tensor h) -> (Tensor, Tensor, Tensor, Tensor)",
            self.check,
            self.evaluate_backward,
            self.fake_backward,
        )
        map_in_turn(name, self.operator, self.fake)
        map_in_turn(name + "_backward", self.backward, self.fake_backward)
        owner = self

        class Autograd(torch_internals.SingleLevelFunction):
            @staticmethod
            def forward(*args: Tensor) -> Any:
                with torch_internals.below_autograd():
                    return owner.operator(*args)

            @staticmethod
            def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Any) -> None:
                ctx.save_for_backward(*inputs, output[0])
                ctx.save_for_forward(*inputs)

            @staticmethod
            def backward(ctx: Any, *cotangents: Tensor) -> Any:
                gx, gy, gc, by_temperature = owner.backward(*ctx.saved_tensors, *cotangents)
                return gx, gy, None, gc, by_temperature

            @staticmethod
            def jvp(ctx: Any, *tangents: Tensor | None) -> Any:
                return owner.jvp(ctx.saved_tensors[:5], tangents)

        def forward_kernel(*args: Tensor) -> Any:
            return torch_internals.apply(Autograd, *args)

        def backward_kernel(*args: Tensor) -> Any:
            if torch.is_grad_enabled() and any(a.requires_grad for a in args):
                return owner.compose_backward(*args)
            with torch_internals.below_autograd():
                return owner.backward(*args)

        library.impl(name, forward_kernel, "Autograd")
        library.impl(name + "_backward", backward_kernel, "Autograd")

    def check(self, x: Tensor, y: Tensor, labels: Tensor, c: Tensor, temperature: Tensor, *rows: Tensor) -> None:
        """``rows`` are the partition and the cotangents of both results, those of the backward."""
        names = ("x", "y", "c", "temperature", "partition", "g", "h")
        ranks = (("N", "D"), ("M", "D"), (), (), ("N",), ("N",), ("N",))
        args = (x, y, c, temperature, *rows)
        validation.matrices(self.name, names[: len(args)], ranks[: len(args)], args)
        check_labels(self.name, labels, x)

    @staticmethod
    def _dtype(x: Tensor, y: Tensor) -> torch.dtype:
        return torch.promote_types(torch.promote_types(x.dtype, y.dtype), torch.float32)

    def fake(self, x: Tensor, y: Tensor, labels: Tensor, c: Tensor, temperature: Tensor) -> tuple[Tensor, Tensor]:
        """Return empty results."""
        dtype = self._dtype(x, y)
        return x.new_empty(x.shape[:1], dtype=dtype), x.new_empty(x.shape[:1], dtype=dtype)

    def fake_backward(
        self, x: Tensor, y: Tensor, labels: Tensor, c: Tensor, temperature: Tensor, *rest: Tensor
    ) -> tuple[Tensor, ...]:
        """Return empty cotangents."""
        return tuple(a.new_empty(a.shape) for a in (x, y, c, temperature))

    def evaluate(self, x: Tensor, y: Tensor, labels: Tensor, c: Tensor, temperature: Tensor) -> tuple[Tensor, Tensor]:
        """Evaluate the reference, by way of the matrix of distances."""
        d = self.dist.level.evaluate(x, y, c)
        return (-d / validation.positive_or_nan(temperature).to(d.dtype)).logsumexp(-1), _at(d, labels)

    def evaluate_backward(self, *args: Tensor) -> tuple[Tensor, ...]:
        """Evaluate the reference of the backward."""
        return self._pull(self.dist.level.evaluate, self.dist.level.derivative.evaluate, *args)

    def compose_backward(self, *args: Tensor) -> tuple[Tensor, ...]:
        """The backward of differentiable operators."""
        return self._pull(self.dist.operator, self.dist.backward, *args)

    @staticmethod
    def _pull(dist: Any, backward: Any, *args: Tensor) -> tuple[Tensor, ...]:
        x, y, labels, c, temperature, _, g, h = args
        d = dist(x, y, c)
        t = validation.positive_or_nan(temperature).to(d.dtype)
        weights = -g[:, None] * (-d / t).softmax(-1) / t
        by_temperature = -(weights * d).sum().to(torch.float64) / temperature.to(torch.float64)
        weights = weights.scatter_add(-1, labels[:, None], h[:, None].to(weights.dtype))
        return *backward(x, y, c, weights), by_temperature.to(temperature.dtype)

    def jvp(self, args: tuple[Tensor, ...], tangents: tuple[Tensor | None, ...]) -> tuple[Tensor, Tensor]:
        """Return the directional derivatives of both results."""
        x, y, labels, c, temperature = args
        d = self.dist.operator(x, y, c)
        t = validation.positive_or_nan(temperature).to(d.dtype)
        moved = self.dist.level.jvp((x, y, c), (tangents[0], tangents[1], tangents[3]))
        exponent = -moved / t
        if tangents[4] is not None:
            exponent = exponent + d * tangents[4].to(d.dtype) / (t * t)
        return ((-d / t).softmax(-1) * exponent).sum(-1), _at(moved, labels)


def check_labels(title: str, labels: Tensor, x: Tensor) -> None:
    """Raise ``TypeError`` or ``ValueError`` unless ``labels`` can name a row of y for each row of ``x``."""
    wanted = f"{title}: labels must be a tensor of int64 of shape ({x.shape[0]},) on {x.device}"
    if not isinstance(labels, Tensor):
        raise TypeError(f"{wanted}, got {type(labels).__name__}")
    if labels.dtype != torch.int64 or labels.shape != x.shape[:1] or labels.device != x.device:
        dtype = str(labels.dtype).removeprefix("torch.")
        raise ValueError(f"{wanted}, got {dtype} of shape {tuple(labels.shape)} on {labels.device}")


def _at(d: Tensor, labels: Tensor) -> Tensor:
    return d.gather(-1, labels[:, None])[:, 0]
