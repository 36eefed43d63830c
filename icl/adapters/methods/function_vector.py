"""Function vectors (Todd et al., 2024): the output of the heads that carry a task, added to the residual stream.

    h_l[last] += sum over the selected heads of (mean output with demonstrations) W_o

Heads are selected by their causal indirect effect: how much likelier the answer becomes when demonstrations have the
answers of others, and the head puts out its mean of proper prompts instead at the last token.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from icl.adapters.base import Adapter, AdapterConfig, AdapterLayer
from icl.adapters.container import Adapters
from icl.adapters.fitting import (
    FittedAdapter,
    FittingPrompts,
    LastTokenLayer,
    ModelInputs,
    Progress,
    answer_log_probabilities,
    at_last_token,
    last_token_outputs,
    mean_over_prompts,
)
from icl.attention import Decoder, DecoderLayer
from icl.common.configuration import PositiveInt, configuration


class _Layer(LastTokenLayer):
    def change(self, state: Tensor) -> Tensor:
        return state + self.vector


class FunctionVector(FittedAdapter):
    """One vector, the same at all of its layers."""

    config: FunctionVectorConfig

    def fit(self, adapters: Adapters, name: str, prompts: FittingPrompts, progress: Progress) -> None:
        """Set the vector to what the heads of the largest indirect effects add, each at its mean."""
        means = mean_over_prompts(last_token_outputs(adapters, prompts.teacher, progress, heads=True))
        count = means.shape[0] * means.shape[1]
        if self.config.heads > count:
            got = self.config.heads
            raise ValueError(f"fit: heads of a function vector must be at most the {count} there are, got {got}")
        effects = indirect_effects(adapters, means, prompts, progress)
        selected = torch.zeros(count, dtype=torch.bool)
        selected[effects.flatten().topk(self.config.heads).indices] = True
        vector = _project(adapters, means * selected.view(*effects.shape, 1), next(iter(prompts.teacher)))
        for layer in self.acting():
            cast(_Layer, layer).vector.copy_(vector)


def indirect_effects(adapters: Adapters, means: Tensor, prompts: FittingPrompts, progress: Progress) -> Tensor:
    """Return how much likelier answers to the dev prompts become by each head's mean (L, H, dh), (L, H)."""
    effects, rows = torch.zeros(means.shape[:2]), 0
    for inputs, answers in prompts.dev:
        plain = answer_log_probabilities(adapters, inputs, answers)[0].exp()
        progress(len(answers))
        for at, target in enumerate(_attentive_layers(adapters)):
            for head, output in enumerate(means[at]):
                with adapters.patched({target.index: _HeadPatch(partial(_replace_head, adapters, head, output))}):
                    patched = answer_log_probabilities(adapters, inputs, answers)[0].exp()
                effects[at, head] += (patched - plain).sum().cpu()
                progress(len(answers))
        rows += len(answers)
    if not rows:
        raise ValueError("fit: dev must have prompts to choose the heads of a function vector by, got none")
    return effects / rows


def _attentive_layers(adapters: Adapters) -> list[DecoderLayer]:
    return [layer for layer in adapters.decoder.layers if layer.attention is not None]


def _replace_head(adapters: Adapters, head: int, value: Tensor, output: Tensor) -> Tensor:
    changed, end = output.clone(), cast(Tensor, adapters.step.end).to(output.device)
    changed[torch.arange(len(output), device=output.device), end, head] = value.to(output)
    return changed


def _project(adapters: Adapters, outputs: Tensor, inputs: ModelInputs) -> Tensor:
    """Return what attention adds to the residual stream when its heads put out (L, H, dh), without its bias, (D,).

    Its heads are made to put it out, whatever the projection is called and however it is stored. Where a norm stands
    between attention and the residual stream, it is not applied.
    """
    targets, sums = _attentive_layers(adapters), []
    for values in (outputs, torch.zeros_like(outputs)):
        added: list[Tensor] = []
        collect = partial(_collect, adapters, added)
        hooks = [cast(nn.Module, target.attention).register_forward_hook(collect) for target in targets]
        try:
            with adapters.patched(
                {t.index: _HeadPatch(partial(_expand_to, value)) for t, value in zip(targets, values)}
            ):
                adapters.model(**inputs, use_cache=False)
        finally:
            for hook in hooks:
                hook.remove()
        sums.append(torch.stack(added).sum(0))
    return sums[0] - sums[1]


def _expand_to(value: Tensor, output: Tensor) -> Tensor:
    return value.to(output).expand_as(output)


def _collect(adapters: Adapters, added: list[Tensor], module: nn.Module, args: Any, output: Any) -> None:
    hidden = output[0] if isinstance(output, tuple) else output
    added.append(at_last_token(adapters, hidden)[0].cpu())


class _HeadPatch(AdapterLayer):
    """Changes what the heads of a layer put out, (B, T, H, dh)."""

    def __init__(self, change: Callable[[Tensor], Tensor]):
        super().__init__()
        self.change = change

    def shift(self, query: Tensor, output: Tensor, mass: Callable[[Tensor], Tensor]) -> Tensor:
        return self.change(output)


@configuration
class FunctionVectorConfig(AdapterConfig):
    """No parameters to train: :func:`icl.adapters.fit` sets one vector of width d.

    Args:
        layers: whose outputs it is added to; ``None`` for one, a third of the way down, as in the paper.
        heads: how many are summed, from whichever layers.
    """

    heads: PositiveInt = 10

    method: ClassVar[str] = "function_vector"
    adapter_type: ClassVar[type[Adapter]] = FunctionVector
    layer_type: ClassVar[type] = _Layer
    fitted: ClassVar[bool] = True
    needs_attention: ClassVar[bool] = False

    def select_layers(self, decoder: Decoder) -> list[DecoderLayer]:
        """Return the layers of ``layers``, or the one a third of the way down."""
        layers = super().select_layers(decoder)
        return layers if self.layers is not None else [layers[len(layers) // 3]]
