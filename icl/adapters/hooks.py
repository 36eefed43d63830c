"""Hooks that adapters put on a model, which start, change and check each pass.

The decoder's hooks are the ones that count: however a model is wrapped and called, its decoder runs. The model's own
only keep what the decoder is not told, labels and the mask as the caller gave it. On each attention module stands a
site, which attention looks for (:mod:`icl.attention.primitives`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from icl.adapters.forward_pass import PassInputs, PromptLayout, left_padding
from icl.attention import AttentionScores, internals, put_site

if TYPE_CHECKING:
    from icl.adapters.base import AdapterLayer
    from icl.adapters.container import Adapters

_PROMPT_LENGTH = "_icl_prompt_length"
"""Left on a cache by the pass in which a prompt of this length ended. Copies of the cache have it too."""


def install(adapters: Adapters, wrappers: list[nn.Module]) -> list[RemovableHandle]:
    """Put hooks on a model, on what wraps it, on its decoder and on the decoder's layers, and sites on attention."""
    decoder, model = adapters.decoder.module, adapters.model
    handles = []
    for layer in adapters.decoder.layers:
        # Before hooks that look at outputs, as those do that transformers puts there for output_hidden_states.
        handles.append(layer.module.register_forward_hook(partial(_after_layer, adapters, layer.index), prepend=True))
        if layer.attention is not None:
            put_site(layer.attention, _Site(adapters, layer.index))
    for module in [*wrappers, model]:
        handles.append(module.register_forward_pre_hook(partial(_before_model, adapters), with_kwargs=True))
    handles.append(model.register_forward_hook(partial(_after_model, adapters), always_call=True))
    handles.append(decoder.register_forward_pre_hook(partial(_before_decoder, adapters), with_kwargs=True))
    handles.append(decoder.register_forward_hook(partial(_after_decoder, adapters)))
    return handles


class _Site:
    """Stands on an attention module, and hands it the layers of adapters in the pass that runs."""

    def __init__(self, adapters: Adapters, index: int):
        self.adapters, self.index = adapters, index
        self.model: nn.Module = adapters.model

    def uses(self, query: Tensor, key: Tensor) -> list[tuple[AdapterLayer, Tensor | None]]:
        step, shape = self.adapters.step, self.adapters.decoder.layers[self.index].shape
        step.reached.add(("attention", self.index))
        if query.ndim != 4 or (query.shape[1], query.shape[3]) != (shape.heads, shape.head_dim):
            raise internals.incompatible(
                self.model,
                f"attention of layer {self.index} gets queries of shape {tuple(query.shape)} where (B, {shape.heads}, "
                f"T, {shape.head_dim}) belongs",
            )
        if not step.cached and key.shape[2] != query.shape[2]:
            raise internals.incompatible(
                self.model, f"layer {self.index} reads a cache, and none was among the arguments of the decoder"
            )
        return step.uses(self.index, len(query), query.device)

    def observe(self, scores: AttentionScores, output: Tensor) -> None:
        record = self.adapters.step.record
        if record is not None:
            record.add_attention(self.index, scores, output)


def _before_model(adapters: Adapters, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
    adapters.passes.call = internals.name_arguments(module, args, kwargs)


def _after_model(adapters: Adapters, module: nn.Module, args: Any, output: Any) -> None:
    call, adapters.passes.call = adapters.passes.call, None
    if call is not None and output is not None:  # nothing comes out where an error was raised
        raise internals.incompatible(module, "it ran without a call of its decoder")


def _before_decoder(adapters: Adapters, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
    positions = _start_outside_graphs(adapters, module, args, kwargs)
    return None if positions is None else (args, {**kwargs, internals.POSITIONS: positions})


def _start(adapters: Adapters, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> Tensor | None:
    """Start a pass, and return the positions of its tokens where the model would take others for padded rows."""
    adapters.intercept()
    arguments = internals.name_arguments(module, args, kwargs)
    call, adapters.passes.call = adapters.passes.call, None
    inputs = _read_inputs(module, arguments, call or arguments)
    cache = internals.cache_in(arguments.values())
    step = adapters.new_pass()
    step.batch, step.past, step.cached = len(inputs.tokens), internals.cached_tokens(cache), cache is not None
    adapters.passes.start(step)
    prompt: PromptLayout | None = adapters.scoped.get("prompt")
    if prompt is not None and not prompt.masked and inputs.mask is not None:
        prompt = PromptLayout.from_mask(prompt.length, inputs.mask)
    cached_prompt = getattr(cache, _PROMPT_LENGTH, None)
    # A cache may have been emptied, or cut back to before the end of that prompt.
    step.locate_end(inputs, prompt, None if cached_prompt is None or cached_prompt > step.past else cached_prompt)
    if call is None and prompt is None:
        # It may have had labels, which say where the prompt ends.
        step.unplaced = "the decoder was called past its model: attach to what wraps it (peft's get_peft_model)"
    layers = [layer for layers in step.plan for layer, _ in layers]
    needs_end = any(layer.needs_end for layer in layers)
    if needs_end and _is_packed((call or arguments).get(internals.POSITIONS), inputs.mask):
        step.unplaced = "positions begin anew within a row, so that it holds several prompts"
    if needs_end and step.unplaced is not None:
        raise ValueError(
            f"adapters: a vector acts at the last token of the prompt, and where that is cannot be told: "
            f"{step.unplaced}. Give generate the whole prompt and an empty cache, or say `with "
            "adapters.prompt(length)` around passes by hand"
        )
    if any(layer.sees_rotation for layer in layers):
        return _count_positions(module, arguments.get(internals.POSITIONS), step.past, prompt, inputs)
    return None


# What a pass starts with is read from where a compiled graph cannot look.
_start_outside_graphs: Callable[..., Tensor | None] = torch.compiler.disable(_start)


def _read_inputs(module: nn.Module, arguments: Mapping[str, Any], call: Mapping[str, Any]) -> PassInputs:
    """Return tokens of the decoder's arguments, and of the model's labels and mask those of two dimensions."""
    tokens = next((arguments[name] for name in internals.TOKENS if arguments.get(name) is not None), None)
    if tokens is None:
        raise internals.incompatible(module, f"it was called without {' or '.join(internals.TOKENS)}")
    labels, mask = call.get(internals.LABELS), call.get(internals.MASK)
    if not isinstance(labels, Tensor) or labels.shape != tokens.shape[:2]:
        labels = None
    # For a static cache generate makes masks itself: of four dimensions, or one for each kind of layer.
    if not isinstance(mask, Tensor) or mask.ndim != 2 or len(mask) != len(tokens):
        mask = None
    return PassInputs(tokens, labels, mask)


def _count_positions(
    decoder: nn.Module, positions: Any, past: int, prompt: PromptLayout | None, inputs: PassInputs
) -> Tensor | None:
    """Return positions (B, T) from the first token of each row, where the decoder would count from padding before it.

    Rotations are relative, so that the base gives the same; but adapters see queries and keys by themselves. Some
    families pass no positions in ``generate`` either (EXAONE 4.5), and models called by hand count in one row for all.
    """
    kind: Any = type(decoder)
    if internals.POSITIONS not in internals.parameters_of(internals.forward_of(kind)):
        return None
    if positions is not None and (positions.ndim != 2 or len(positions) > 1):
        return None  # a row of their own for each, or positions in an image
    (batch, length), device = inputs.tokens.shape[:2], inputs.tokens.device
    if prompt is not None:
        padding = prompt.padding
        padding = None if padding is None else padding.repeat_interleave(batch // len(padding))
    else:
        padding = None if inputs.mask is None else left_padding(inputs.mask)
    if padding is None or not bool(padding.any()):
        return None
    counted = torch.arange(past, past + length, device=device)
    if positions is not None:
        if batch == 1 and not _counts_padding(positions[0], counted, int(padding), past, prompt):
            return None
        counted = positions[0]
    return (counted - padding.to(device)[:, None]).clamp(min=0)


def _counts_padding(positions: Tensor, counted: Tensor, padding: int, past: int, prompt: PromptLayout | None) -> bool:
    """Return whether the positions of a single row are counted from its padding, and not from its first token."""
    if past == 0 and len(positions) > 1:
        # Else those of the padding are all the same.
        counts = bool((positions - positions[0] == counted).all())
        if prompt is not None:
            prompt.counts_padding = counts
        return counts
    if prompt is not None and prompt.counts_padding is not None:
        return prompt.counts_padding
    # From 0, or in PaliGemma from 1.
    return int(positions[0]) in ((past, past + 1) if padding > 1 else (past,))


def _is_packed(positions: Any, mask: Tensor | None) -> bool:
    """Return whether positions (B, T) fall within what is no padding."""
    if not isinstance(positions, Tensor) or positions.ndim != 2 or positions.shape[1] < 2:
        return False
    falls = positions[:, 1:] < positions[:, :-1]
    if mask is not None and mask.shape[1] >= positions.shape[1] and len(mask) == len(positions):
        falls = falls & mask[:, -positions.shape[1] :][:, :-1].bool()
    return bool(falls.any())


def _after_layer(adapters: Adapters, index: int, module: nn.Module, args: Any, output: Any) -> Any:
    hidden = output[0] if isinstance(output, tuple) else output
    if not isinstance(hidden, Tensor) or hidden.ndim != 3:
        kind = f"{type(hidden).__name__} of shape {tuple(hidden.shape)}" if isinstance(hidden, Tensor) else type(hidden)
        raise internals.incompatible(
            adapters.model, f"its layer {index} puts out {kind} where hidden states (B, T, D) belong"
        )
    step = adapters.step
    step.reached.add(("layer", index))
    changed = hidden
    for layer, rows in step.uses(index, len(hidden), hidden.device):
        new = layer.residual(changed, step)
        if new is not changed:
            new = new.to(hidden.dtype)
            changed = new if rows is None else torch.where(rows[:, None, None], new, changed)
    if step.record is not None:
        step.record.add_hidden(index, changed)
    if changed is hidden:
        return None
    return (changed, *output[1:]) if isinstance(output, tuple) else changed


def _after_decoder(adapters: Adapters, module: nn.Module, args: Any, output: Any) -> None:
    step = adapters.step
    if (step.plan or step.record is not None) and (missing := sorted(adapters.expected(step) - step.reached)):
        kind, index = missing[0]
        raise internals.incompatible(
            adapters.model, f"the {kind} of decoder layer {index} ran in a way that adapters do not see, or not at all"
        )
    if step.acted and step.length:
        cache = internals.cache_in(internals.outputs_of(output))
        if cache is not None:
            cast(Any, cache).__dict__[_PROMPT_LENGTH] = step.length
