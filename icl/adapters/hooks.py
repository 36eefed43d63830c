"""What adapters put on a model: hooks that start, change and check a pass, and two methods that they stand in front of.

The decoder's hooks are the ones that count: however a model is wrapped and called, its decoder runs. The model's own
only keep what the decoder is not told, labels and the mask as the caller gave it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from icl.adapters.forward_pass import PromptLayout, left_padding
from icl.attention import internals

if TYPE_CHECKING:
    from icl.adapters.container import Adapters

# Left on a cache by the pass in which a prompt ended: its length. Copies of the cache have it too.
_ENDED = "_icl_prompt_length"


def install(adapters: Adapters, wrappers: list[nn.Module]) -> list[RemovableHandle]:
    """Hooks on a model, on what wraps it, on its decoder and on the decoder's layers."""
    decoder, model = adapters.decoder.module, adapters.model
    handles = [
        # before hooks that look at outputs, as those do that transformers puts there for output_hidden_states
        layer.module.register_forward_hook(partial(_after_layer, adapters, layer.index), prepend=True)
        for layer in adapters.decoder.layers
    ]
    for module in [*wrappers, model]:
        handles.append(module.register_forward_pre_hook(partial(_before_model, adapters), with_kwargs=True))
    handles.append(model.register_forward_hook(partial(_after_model, adapters), always_call=True))
    handles.append(decoder.register_forward_pre_hook(partial(_before_decoder, adapters), with_kwargs=True))
    handles.append(decoder.register_forward_hook(partial(_after_decoder, adapters)))
    for name, run in _METHODS.items():
        if hasattr(model, name):
            model.__dict__[name] = _Method(adapters, name, run)
    return handles


def uninstall(adapters: Adapters) -> None:
    """The methods; hooks are removed by their handles."""
    for name in _METHODS:
        method = adapters.model.__dict__.pop(name, None)
        if isinstance(method, _Method) and method.before is not None:
            adapters.model.__dict__[name] = method.before


class _Method:
    """Stands in front of a method of the model, on the model itself; a copy of the model gets a copy."""

    def __init__(self, adapters: Adapters, name: str, run: Callable[..., Any]):
        self.adapters, self.name, self.run = adapters, name, run
        # What somebody else put there.
        self.before = adapters.model.__dict__.get(name)
        self.__doc__ = getattr(adapters.model, name).__doc__

    @property
    def method(self) -> Callable[..., Any]:
        model = self.adapters.model
        found: Callable[..., Any] = self.before or getattr(type(model), self.name).__get__(model)
        return found

    @property
    def __signature__(self) -> inspect.Signature:
        return inspect.signature(self.method)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.run(self.adapters, self.method, *args, **kwargs)


def _generate(adapters: Adapters, generate: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """``generate``, with what only it knows: where the prompt ends, in whatever passes it is read.

    What is in use is what was when it began, until it ends.
    """
    adapters.scoped.check()
    given = internals.arguments(generate, args, kwargs)
    tokens = given.get("inputs_embeds")
    for name in ("inputs", "input_ids"):
        ids = given.get(name)
        if tokens is None and isinstance(ids, Tensor) and ids.ndim == 2 and not ids.is_floating_point():
            tokens = ids
    guidance = internals.generation_setting(adapters.model, given, "guidance_scale")
    if guidance not in (None, 1) and adapters.needs_end():
        raise ValueError(
            "generate: guidance_scale runs the model over a prompt of its own, and where that ends cannot be told: a "
            "vector acts at the last token of the prompt"
        )
    if tokens is None:
        # as generate itself starts, from the token that begins a text
        prompt = PromptLayout(1)
    else:
        mask = given.get(internals.MASK)
        if mask is None and tokens.ndim == 2:
            mask = internals.inferred_mask(adapters.model, given, tokens)
        prompt = PromptLayout.from_mask(tokens.shape[1], mask)
    with (
        adapters.scoped.setting("prompt", prompt),
        adapters.scoped.setting("requests", adapters.requests()),
    ):
        return generate(*args, **kwargs)


def _prepare(adapters: Adapters, prepare: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """What ``generate`` calls before each pass, also one that was taken from the model before adapters were there."""
    if adapters.scoped.get("prompt") is None and adapters.needs_end():
        raise ValueError(
            "generate: it was taken from the model or its class before adapters were attached, and does not tell where "
            "the prompt ends: call model.generate"
        )
    return prepare(*args, **kwargs)


def _refuse(adapters: Adapters, method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    raise ValueError("generate_batch: continuous batching packs prompts in one row, which adapters cannot tell apart")


def _save(adapters: Adapters, save: Callable[..., Any], folder: str | Path, *args: Any, **kwargs: Any) -> Any:
    """``save_pretrained`` of the base alone, with each adapter in a folder of its own beside it."""
    state = kwargs.get("state_dict")
    if state is not None:
        kwargs["state_dict"] = {k: v for k, v in state.items() if not k.startswith(f"{adapters.KEY}.")}
    with adapters.hidden():
        result = save(folder, *args, **kwargs)
    for name in adapters.names:
        adapters.save_pretrained(Path(folder) / "adapters" / name, name)
    return result


_METHODS: dict[str, Callable[..., Any]] = {
    internals.GENERATE: _generate,
    internals.PREPARE: _prepare,
    internals.SAVE: _save,
    **dict.fromkeys(internals.PACKED, _refuse),
}
"""Methods of a model, and what stands in front of each."""

# A pass, from its start to its end.


def _before_model(adapters: Adapters, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
    adapters.passes.call = internals.named(module, args, kwargs)


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
    given = internals.named(module, args, kwargs)
    call, adapters.passes.call = adapters.passes.call, None
    tokens = next((given[name] for name in internals.TOKENS if given.get(name) is not None), None)
    if tokens is None:
        raise internals.incompatible(module, f"it was called without {' or '.join(internals.TOKENS)}")
    cache = internals.cache_in(given.values())
    batch, length = tokens.shape[:2]
    started = adapters.new_pass()
    started.batch, started.past, started.cached = batch, internals.cached_tokens(cache), cache is not None
    adapters.passes.start(started)
    told = {"tokens": tokens, **_told(call or given, batch, length)}
    prompt: PromptLayout | None = adapters.scoped.get("prompt")
    if prompt is not None and not prompt.masked and "mask" in told:
        prompt = PromptLayout.from_mask(prompt.length, told["mask"])
    ended = getattr(cache, _ENDED, None)
    # A cache may have been emptied, or cut back to before that place.
    started.place(batch, length, prompt, told, None if ended is None or ended > started.past else ended)
    if call is None and prompt is None:
        # It may have had labels, which say where the prompt ends.
        started.unplaced = "the decoder was called past its model: attach to what wraps it (peft's get_peft_model)"
    used = [layer for layers in started.plan for layer, _ in layers]
    needs_end = any(layer.needs_end for layer in used)
    if needs_end and _packed((call or given).get(internals.POSITIONS), told.get("mask")):
        started.unplaced = "positions begin anew within a row, so that it holds several prompts"
    if needs_end and started.unplaced is not None:
        raise ValueError(
            f"adapters: a vector acts at the last token of the prompt, and where that is cannot be told: "
            f"{started.unplaced}. Give generate the whole prompt and an empty cache, or say `with "
            "adapters.prompt(length)` around passes by hand"
        )
    return _positions(module, given, started.past, prompt, told) if any(e.sees_rotation for e in used) else None


# What a pass starts with is read from where a compiled graph cannot look.
_start_outside_graphs: Callable[..., Tensor | None] = torch.compiler.disable(_start)


def _told(call: Mapping[str, Any], batch: int, length: int) -> dict[str, Tensor]:
    """Labels (batch, length) of the call, and a mask (batch, ...), if it has them in two dimensions."""
    labels, mask = call.get(internals.LABELS), call.get(internals.MASK)
    told = {}
    if isinstance(labels, Tensor) and labels.shape == (batch, length):
        told["labels"] = labels
    # For a static cache generate makes masks itself: of four dimensions, or one for each kind of layer.
    if isinstance(mask, Tensor) and mask.ndim == 2 and len(mask) == batch:
        told["mask"] = mask
    return told


def _positions(
    decoder: nn.Module,
    given: Mapping[str, Any],
    past: int,
    prompt: PromptLayout | None,
    told: Mapping[str, Tensor],
) -> Tensor | None:
    """(B, T), counted from the first token of each row, where the decoder would count from the padding before it.

    Rotations are relative, so that the base gives the same; but adapters see queries and keys by themselves. Some
    families pass no positions in ``generate`` either (EXAONE 4.5), and models called by hand count in one row for all.
    """
    positions, (batch, length) = given.get(internals.POSITIONS), told["tokens"].shape[:2]
    kind: Any = type(decoder)
    if internals.POSITIONS not in internals.parameters_of(internals.forward_of(kind)):
        return None
    if positions is not None and (positions.ndim != 2 or len(positions) > 1):
        return None  # a row of their own for each, or places in an image
    if prompt is not None:
        padding = prompt.padding
        padding = None if padding is None else padding.repeat_interleave(batch // len(padding))
    else:
        mask = told.get("mask")
        padding = None if mask is None else left_padding(mask)
    if padding is None or not bool(padding.any()):
        return None
    device = told["tokens"].device
    counted = torch.arange(past, past + length, device=device)
    if positions is not None:
        if batch == 1 and not _counts_padding(positions[0], counted, int(padding), past, prompt):
            return None
        counted = positions[0]
    return (counted - padding.to(device)[:, None]).clamp(min=0)


def _counts_padding(positions: Tensor, counted: Tensor, padding: int, past: int, prompt: PromptLayout | None) -> bool:
    """Whether the positions of a single row are counted from its padding, and not from its first token."""
    if past == 0 and len(positions) > 1:
        # else those of the padding are all the same
        counts = bool((positions - positions[0] == counted).all())
        if prompt is not None:
            prompt.counts_padding = counts
        return counts
    if prompt is not None and prompt.counts_padding is not None:
        return prompt.counts_padding
    # from 0, or in PaliGemma from 1
    return int(positions[0]) in ((past, past + 1) if padding > 1 else (past,))


def _packed(positions: Any, mask: Tensor | None) -> bool:
    """Whether positions (B, T) fall within what is no padding."""
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
    now = adapters.passes.now
    now.reached.add(("layer", index))
    changed = hidden
    for layer, rows in now.uses(index, len(hidden), hidden.device):
        new = layer.residual(changed, now)
        if new is not changed:
            new = new.to(hidden.dtype)
            changed = new if rows is None else torch.where(rows[:, None, None], new, changed)
    if now.record is not None:
        now.record.hidden_of(index, changed)
    if changed is hidden:
        return None
    return (changed, *output[1:]) if isinstance(output, tuple) else changed


def _after_decoder(adapters: Adapters, module: nn.Module, args: Any, output: Any) -> None:
    now = adapters.passes.now
    if (now.plan or now.record is not None) and (missing := sorted(adapters.expected(now) - now.reached)):
        kind, index = missing[0]
        raise internals.incompatible(
            adapters.model, f"the {kind} of decoder layer {index} ran in a way that adapters do not see, or not at all"
        )
    if now.acted and now.length:
        cache = internals.cache_in(internals.outputs_of(output))
        if cache is not None:
            cast(Any, cache).__dict__[_ENDED] = now.length
