"""Methods of a model that adapters stand in front of: ``generate``, ``save_pretrained``, and those that they refuse."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from icl.adapters.forward_pass import PromptLayout
from icl.attention import internals

if TYPE_CHECKING:
    from icl.adapters.container import Adapters


def install(adapters: Adapters) -> None:
    """Stand in front of those methods that the model has."""
    for name, run in _METHODS.items():
        if hasattr(adapters.model, name):
            adapters.model.__dict__[name] = _Method(adapters, name, run)


def uninstall(adapters: Adapters) -> None:
    """Give the model its methods back."""
    for name in _METHODS:
        method = adapters.model.__dict__.pop(name, None)
        if isinstance(method, _Method) and method.before is not None:
            adapters.model.__dict__[name] = method.before


class _Method:
    """Stands in front of a method of the model, on the model itself; a copy of the model gets a copy."""

    def __init__(self, adapters: Adapters, name: str, run: Callable[..., Any]):
        self.adapters, self.name, self.run = adapters, name, run
        # Somebody else may have put a method on the model before.
        self.before = adapters.model.__dict__.get(name)
        self.__doc__ = getattr(adapters.model, name).__doc__

    @property
    def method(self) -> Callable[..., Any]:
        model = self.adapters.model
        method: Callable[..., Any] = self.before or getattr(type(model), self.name).__get__(model)
        return method

    @property
    def __signature__(self) -> inspect.Signature:
        return inspect.signature(self.method)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.run(self.adapters, self.method, *args, **kwargs)


def _generate(adapters: Adapters, generate: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Run ``generate``, and tell its passes what only it knows, where the prompt ends, and what was in use at first."""
    adapters.scoped.check()
    arguments = internals.bind_arguments(generate, args, kwargs)
    guidance = internals.generation_setting(adapters.model, arguments, "guidance_scale")
    if guidance not in (None, 1) and adapters.needs_end():
        raise ValueError(
            "generate: guidance_scale runs the model over a prompt of its own, and where that ends cannot be told: a "
            "vector acts at the last token of the prompt"
        )
    with (
        adapters.scoped.setting("prompt", _find_prompt(adapters.model, arguments)),
        adapters.scoped.setting("requests", adapters.requests()),
    ):
        return generate(*args, **kwargs)


def _find_prompt(model: Any, arguments: Mapping[str, Any]) -> PromptLayout:
    """Return the layout of the prompts among the arguments of ``generate``."""
    tokens, mask = arguments.get("inputs_embeds"), arguments.get(internals.MASK)
    for name in ("inputs", "input_ids"):
        ids = arguments.get(name)
        if tokens is None and isinstance(ids, Tensor) and ids.ndim == 2 and not ids.is_floating_point():
            tokens = ids
    if tokens is None:
        return PromptLayout(1)  # as generate itself starts, from the token that begins a text
    if mask is None and tokens.ndim == 2:
        # The mask that generate takes then: all but padding, unless that ends answers as well.
        pad, end = (internals.generation_setting(model, arguments, f"{name}_token_id") for name in ("pad", "eos"))
        ends = end if isinstance(end, list | tuple) else [end]
        if pad is not None and not isinstance(end, Tensor) and pad not in ends:
            mask = tokens.ne(pad)
    return PromptLayout.from_mask(tokens.shape[1], mask)


def _prepare(adapters: Adapters, prepare: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Run before each pass of ``generate``, also of one that was taken from the model before adapters were there."""
    if adapters.scoped.get("prompt") is None and adapters.needs_end():
        raise ValueError(
            "generate: it was taken from the model or its class before adapters were attached, and does not tell where "
            "the prompt ends: call model.generate"
        )
    return prepare(*args, **kwargs)


def _refuse(adapters: Adapters, method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    raise ValueError("generate_batch: continuous batching packs prompts in one row, which adapters cannot tell apart")


def _save(adapters: Adapters, save: Callable[..., Any], folder: str | Path, *args: Any, **kwargs: Any) -> Any:
    """Save the base alone, with each adapter in a folder of its own beside it."""
    state = kwargs.get("state_dict")
    if state is not None:
        kwargs["state_dict"] = {k: v for k, v in state.items() if not k.startswith(f"{adapters.KEY}.")}
    del adapters.model._modules[adapters.KEY]
    try:
        result = save(folder, *args, **kwargs)
    finally:
        adapters.model._modules[adapters.KEY] = adapters
    for name in adapters.names:
        adapters.save_pretrained(Path(folder) / "adapters" / name, name)
    return result


_METHODS: dict[str, Callable[..., Any]] = {
    internals.GENERATE: _generate,
    internals.PREPARE: _prepare,
    internals.SAVE: _save,
    **dict.fromkeys(internals.PACKED, _refuse),
}
"""Functions by the name of the method that each stands in front of."""
