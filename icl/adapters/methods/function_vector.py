"""Function vectors (Todd et al., 2024): what the heads that carry a task add to the residual stream.

    h_l[last] += sum over the chosen heads of (mean output with demonstrations) W_o

Heads are chosen by their causal indirect effect: how much likelier the answer becomes when demonstrations have the
answers of others, and the head puts out its mean of proper prompts instead at the last token.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from icl.adapters.base import Adapter, AdapterConfig, AdapterLayer, positive
from icl.adapters.container import Adapters
from icl.adapters.fitting import (
    FittedAdapter,
    FittingPrompts,
    LastToken,
    ModelInputs,
    Progress,
    at_end,
    heads,
    log_probabilities,
    mean,
)
from icl.attention import AttentionScores, AttentionSite, Decoder, DecoderLayer, LayerShape, put_site, remove_site


@dataclass(frozen=True)
class FunctionVectorConfig(AdapterConfig):
    """No parameters to train: :func:`icl.adapters.fit` sets one vector of width d.

    Args:
        layers: whose outputs it is added to; ``None`` for one, a third of the way down, as in the paper.
        heads: how many are summed, from whichever layers.
    """

    heads: int = 10

    method: ClassVar[str] = "function_vector"
    fitted: ClassVar[bool] = True
    needs_attention: ClassVar[bool] = False

    def __post_init__(self) -> None:
        positive("FunctionVectorConfig", heads=self.heads)

    def build(self, decoder: Decoder) -> Adapter:
        return FunctionVector(self, decoder)

    def chosen(self, decoder: Decoder) -> list[DecoderLayer]:
        layers = super().chosen(decoder)
        return layers if self.layers is not None else [layers[len(layers) // 3]]

    def layer(self, shape: LayerShape) -> AdapterLayer:
        return _Layer(shape.width)


class _Layer(LastToken):
    def change(self, state: Tensor) -> Tensor:
        return state + self.vector


class FunctionVector(FittedAdapter):
    config: FunctionVectorConfig

    def fit(self, adapters: Adapters, name: str, prompts: FittingPrompts, progress: Progress) -> None:
        means = mean(heads(adapters, prompts.teacher, progress))
        count = means.shape[0] * means.shape[1]
        if self.config.heads > count:
            got = self.config.heads
            raise ValueError(f"fit: heads of a function vector must be at most the {count} there are, got {got}")
        effects = indirect_effects(adapters, means, prompts, progress)
        chosen = torch.zeros(count, dtype=torch.bool)
        chosen[effects.flatten().topk(self.config.heads).indices] = True
        outputs = means * chosen.view(*effects.shape, 1)
        vector = _projected(adapters, outputs, next(iter(prompts.teacher)))
        for layer in self.layers.values():
            cast(_Layer, layer).vector.copy_(vector)


def indirect_effects(adapters: Adapters, means: Tensor, prompts: FittingPrompts, progress: Progress) -> Tensor:
    """(L, H): how much likelier answers to the dev prompts become by a head's mean (L, H, dh), on the base alone."""
    total, rows = torch.zeros(means.shape[:2]), 0
    for inputs, answers in prompts.dev:
        plain = log_probabilities(adapters, inputs, answers)[0].exp()
        progress(len(answers))
        for at, target in enumerate(_attentive(adapters)):
            for head, output in enumerate(means[at]):
                with _patched(target, partial(_replace, adapters, head, output)):
                    patched = log_probabilities(adapters, inputs, answers)[0].exp()
                total[at, head] += (patched - plain).sum().cpu()
                progress(len(answers))
        rows += len(answers)
    if not rows:
        raise ValueError("fit: dev must have prompts to choose the heads of a function vector by, got none")
    return total / rows


def _attentive(adapters: Adapters) -> list[DecoderLayer]:
    """The layers that have heads."""
    return [layer for layer in adapters.decoder.layers if layer.attention is not None]


def _replace(adapters: Adapters, head: int, value: Tensor, output: Tensor) -> Tensor:
    changed, end = output.clone(), cast(Tensor, adapters.step.end).to(output.device)
    changed[torch.arange(len(output), device=output.device), end, head] = value.to(output)
    return changed


def _projected(adapters: Adapters, outputs: Tensor, inputs: ModelInputs) -> Tensor:
    """What attention adds to the residual stream when its heads put out (L, H, dh), without its bias, over all layers.

    Found by having them put it out, whatever the projection is called and however it is stored. Where a norm stands
    between attention and the residual stream, it is not applied.
    """
    sums = []
    for value in (outputs, torch.zeros_like(outputs)):
        added: list[Tensor] = []
        with ExitStack() as stack:
            for target, constant in zip(_attentive(adapters), value):
                stack.enter_context(_patched(target, partial(_constant, constant)))
                hook = cast(nn.Module, target.attention).register_forward_hook(partial(_collect, adapters, added))
                stack.callback(hook.remove)
            adapters.model(**inputs, use_cache=False)
        sums.append(torch.stack(added).sum(0))
    return sums[0] - sums[1]


def _constant(value: Tensor, output: Tensor) -> Tensor:
    return value.to(output).expand_as(output)


def _collect(adapters: Adapters, added: list[Tensor], module: nn.Module, args: Any, output: Any) -> None:
    hidden = output[0] if isinstance(output, tuple) else output
    added.append(at_end(adapters, hidden)[0].cpu())


class _Patch(AdapterLayer):
    """Stands on an attention module in place of the adapters, and changes what its heads put out, (B, T, H, dh)."""

    def __init__(self, site: AttentionSite, change: Callable[[Tensor], Tensor]):
        super().__init__()
        self.site: AttentionSite
        self.__dict__["site"] = site
        self.change = change

    @property
    def model(self) -> nn.Module:
        return self.site.model

    def uses(self, query: Tensor, key: Tensor) -> list[tuple[AdapterLayer, Tensor | None]]:
        self.site.uses(query, key)
        return [(self, None)]

    def observe(self, scores: AttentionScores, output: Tensor) -> None:
        pass

    def shift(self, query: Tensor, output: Tensor, mass: Callable[[Tensor], Tensor]) -> Tensor:
        return self.change(output)


@contextmanager
def _patched(target: DecoderLayer, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
    module = cast(nn.Module, target.attention)
    site = cast(AttentionSite, remove_site(module))
    put_site(module, _Patch(site, change))
    try:
        yield
    finally:
        put_site(module, site)
