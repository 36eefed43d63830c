"""``log sum_j exp(-d(x_i, y_j)/temperature)``: what the contrastive loss streams over, with its own backward."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch._functorch.utils import enable_single_level_autograd_function
from torch.autograd.function import _SingleLevelFunction

from hyperbolic.ops.dispatch import declare, library, map_in_turn
from hyperbolic.ops.pairs import PairsOp


class LogSumExp:
    """``(x, y, c, temperature)``, matrices and numbers, to (N,).

    The operator and its backward never hold the N x M matrix. Derivatives of the backward and forward derivatives
    are those of the composition with ``pairwise_dist``, which does.
    """

    def __init__(self, model: str, pairwise_dist: PairsOp):
        self.dist = pairwise_dist
        name = f"{model}_logsumexp"
        arguments = "Tensor x, Tensor y, Tensor c, Tensor temperature"
        self.operator = declare(name, f"({arguments}) -> Tensor", self.evaluate, self.fake)
        self.backward = declare(
            name + "_backward",
            f"({arguments}, Tensor value, Tensor g) -> (Tensor, Tensor, Tensor, Tensor)",
            self.evaluate_backward,
            self.fake_backward,
        )
        map_in_turn(name, self.operator)
        map_in_turn(name + "_backward", self.backward)
        owner = self

        class Autograd(_SingleLevelFunction):
            @staticmethod
            def forward(*args: Tensor) -> Any:
                with torch._C._AutoDispatchBelowAutograd():
                    return owner.operator(*args)

            @staticmethod
            def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Any) -> None:
                ctx.save_for_backward(*inputs, output)
                ctx.save_for_forward(*inputs)

            @staticmethod
            def backward(ctx: Any, *cotangents: Tensor) -> Any:
                return owner.backward(*ctx.saved_tensors, *cotangents)

            @staticmethod
            def jvp(ctx: Any, *tangents: Tensor | None) -> Any:
                return owner.jvp(ctx.saved_tensors[:4], tangents)

        def forward_kernel(*args: Tensor) -> Any:
            with enable_single_level_autograd_function():
                return Autograd.apply(*args)  # type: ignore[attr-defined]

        def backward_kernel(*args: Tensor) -> Any:
            if torch.is_grad_enabled() and any(a.requires_grad for a in args):
                return owner.compose_backward(*args)
            with torch._C._AutoDispatchBelowAutograd():
                return owner.backward(*args)

        library.impl(name, forward_kernel, "Autograd")
        library.impl(name + "_backward", backward_kernel, "Autograd")

    @staticmethod
    def _dtype(x: Tensor, y: Tensor) -> torch.dtype:
        return torch.promote_types(torch.promote_types(x.dtype, y.dtype), torch.float32)

    def fake(self, x: Tensor, y: Tensor, c: Tensor, temperature: Tensor) -> Tensor:
        return x.new_empty(x.shape[:1], dtype=self._dtype(x, y))

    def fake_backward(self, *args: Tensor) -> tuple[Tensor, ...]:
        return tuple(a.new_empty(a.shape) for a in args[:4])

    def evaluate(self, x: Tensor, y: Tensor, c: Tensor, temperature: Tensor) -> Tensor:
        d = self.dist.level.evaluate(x, y, c)
        value: Tensor = (-d / temperature.to(d.dtype)).logsumexp(-1)
        return value

    def evaluate_backward(self, *args: Tensor) -> tuple[Tensor, ...]:
        return self._pull(self.dist.level.evaluate, self.dist.level.derivative.evaluate, *args)

    def compose_backward(self, *args: Tensor) -> tuple[Tensor, ...]:
        """The backward of differentiable operators."""
        return self._pull(self.dist.operator, self.dist.backward, *args)

    @staticmethod
    def _pull(
        dist: Any, backward: Any, x: Tensor, y: Tensor, c: Tensor, temperature: Tensor, value: Tensor, g: Tensor
    ) -> tuple[Tensor, ...]:
        d = dist(x, y, c)
        t = temperature.to(d.dtype)
        weights = -g[:, None] * (-d / t).softmax(-1) / t
        by_temperature = -(weights * d).sum().to(torch.float64) / temperature.to(torch.float64)
        return *backward(x, y, c, weights), by_temperature.to(temperature.dtype)

    def jvp(self, args: tuple[Tensor, ...], tangents: tuple[Tensor | None, ...]) -> Tensor:
        x, y, c, temperature = args
        d = self.dist.operator(x, y, c)
        t = temperature.to(d.dtype)
        moved = -self.dist.level.jvp((x, y, c), tangents[:3]) / t
        if tangents[3] is not None:
            moved = moved + d * tangents[3].to(d.dtype) / (t * t)
        out: Tensor = ((-d / t).softmax(-1) * moved).sum(-1)
        return out
