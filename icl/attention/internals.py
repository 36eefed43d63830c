"""Every name of transformers, accelerate, peft and torch that is theirs to change, in one file, with its checks.

A release that renames one of them must raise an error, and never give another answer in silence. So what can be read
off a model is probed when adapters are attached (:func:`probe`, once a model class), and what only a pass can show is
checked in every pass: see ``icl/adapters/hooks.py`` for hooks that were not called and caches that did not arrive, and
``icl/attention/primitives.py`` for shapes. All of these raise :class:`IncompatibleModelError`.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache as cached
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, Cache, TrainingArguments
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

# Keywords of a model's forward.
TOKENS = ("input_ids", "inputs_embeds")
MASK, LABELS, POSITIONS = "attention_mask", "labels", "position_ids"
# "cache" from transformers 5.24 on.
CACHES = ("cache", "past_key_values", "cache_params")
# Methods of a model that adapters stand in front of.
GENERATE, PREPARE, SAVE = "generate", "prepare_inputs_for_generation", "save_pretrained"
PACKED = ("generate_batch", "init_continuous_batching", "continuous_batching_context_manager")
# Arguments of every attention function, by keyword or in this order, and how a scaling is called.
ATTENTION_ARGUMENTS = ("module", "query", "key", "value", "attention_mask")
SCALING = "scaling"
# Keywords of attention functions that our own formulas take into account, or that change no score.
KNOWN_TO_SCORES = {*ATTENTION_ARGUMENTS, SCALING, "dropout", "is_causal", "sliding_window", "cache", "kwargs"}
# Those that change a score somewhere, whether or not a function names them.
CHANGE_SCORES = {"softcap", "position_bias", "s_aux"}
# A setting of Trainer, a method and an attribute of models, of another name before transformers 5.23. Trainer refuses a
# setting that it does not know.
CHECKPOINTING = (
    "activation_checkpointing"
    if "activation_checkpointing" in TrainingArguments.__dataclass_fields__
    else "gradient_checkpointing"
)
# By which Trainer tells that weights of 4 bits are not what is trained.
TRAINS_OTHER_WEIGHTS = "_hf_peft_config_loaded"

_TESTED = "docs/compatibility.md lists the versions that are tested"


class IncompatibleModelError(ValueError):
    """A model that does not behave as adapters have to assume, on the versions that are installed."""


def incompatible(model: nn.Module | type, what: str) -> IncompatibleModelError:
    """Return an error that says what is wrong with a model, on which versions, and what to do."""
    name = model.__name__ if isinstance(model, type) else type(model).__name__
    return IncompatibleModelError(
        f"{name}: {what}. Adapters cannot work on it with transformers {transformers.__version__} and torch "
        f"{torch.__version__}: {_TESTED}; use one of these, or report this model"
    )


# A model, and what stands around it.


def unwrapped(model: nn.Module) -> list[nn.Module]:
    """Return ``model`` and what it wraps, one in the other, the last of them transformers' own.

    ``ValueError`` for peft's prompt learning, which puts tokens before the prompt where no adapter sees them.
    """
    models = [model]
    while True:
        inner = model._modules.get("_orig_mod")  # of torch.compile
        peft = sys.modules.get("peft")
        if peft is not None and isinstance(model, peft.PeftModel | peft.PeftMixedModel):
            if model.active_peft_config.is_prompt_learning:
                raise ValueError("attach: model must not have prompts of peft, whose tokens adapters cannot place")
            inner = model.get_base_model()
        if inner is None or inner is model:
            return models
        model = inner
        models.append(model)


def wrapped_by_peft(model: nn.Module) -> bool:
    """Return whether peft has put adapters of its own into a model."""
    return "peft_config" in model.__dict__


def projection_types() -> tuple[type[nn.Module], ...]:
    """Return the types of linear maps: torch's, those derived from it (4 and 8 bits), and peft's around one."""
    peft = sys.modules.get("peft.tuners.tuners_utils")
    return (nn.Linear,) if peft is None else (nn.Linear, peft.BaseTunerLayer)


def execution_device(module: nn.Module) -> torch.device:
    """Return where the module computes, which is not where an offloaded weight lies."""
    device = next(module.parameters()).device
    # The hooks are accelerate's; a model that is on meta itself, to be counted only, has none.
    hooks = [each.__dict__.get("_hf_hook") for each in module.modules()] if device.type == "meta" else []
    places = [place for hook in hooks if (place := getattr(hook, "execution_device", None)) is not None]
    return torch.device(places[0]) if places else device


def value_of(module: nn.Module, name: str) -> Tensor:
    """Return a parameter by its dotted name, read from where accelerate has offloaded it to, if it has."""
    owner, _, leaf = name.rpartition(".")
    holder = module.get_submodule(owner)
    hook = holder.__dict__.get("_hf_hook")
    # A SequentialHook holds several.
    maps = [getattr(each, "weights_map", None) for each in (hook, *getattr(hook, "hooks", ()))]
    weights = next((each for each in maps if each is not None), None)
    parameter = holder.get_parameter(leaf)
    value: Tensor = weights[leaf] if parameter.is_meta and weights is not None else parameter
    return value


# Arguments of a pass.


@cached
def parameters_of(forward: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    """Return the parameters of a function by name."""
    return inspect.signature(forward).parameters


@cached
def forward_of(kind: Any) -> Callable[..., Any]:
    """Return the forward method of a class that names its arguments: subclasses may hand theirs on as they are."""
    for each in kind.__mro__:
        forward = each.__dict__.get("forward")
        if forward is not None and set(parameters_of(forward)) & {*TOKENS, "hidden_states", "pixel_values"}:
            return forward  # type: ignore[no-any-return]
    return kind.forward  # type: ignore[no-any-return]


def name_arguments(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return all arguments of a module's call by name."""
    kind: Any = type(module)
    names = list(parameters_of(forward_of(kind)))[1:] if args else ()
    return {**dict(zip(names, args)), **kwargs}


def bind_arguments(function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a function's call by name, those included that it takes as further keywords."""
    signature = inspect.signature(function)
    bound = signature.bind_partial(*args, **kwargs).arguments
    for name, parameter in signature.parameters.items():
        if parameter.kind is parameter.VAR_KEYWORD:
            bound |= bound.pop(name, {})
    return dict(bound)


def cache_in(values: Iterable[Any]) -> Any:
    """Return the cache among arguments or results, whatever it is called, or ``None``."""
    return next((value for value in values if isinstance(value, Cache)), None)


def outputs_of(result: Any) -> Iterable[Any]:
    """Return the parts of what a model puts out, whether in a mapping, in a tuple or alone."""
    if isinstance(result, Mapping):
        return result.values()
    return result if isinstance(result, tuple) else (result,)


def generation_setting(model: Any, arguments: Mapping[str, Any], name: str) -> Any:
    """Return a setting of ``generate``, from its arguments, the configuration among them, or the model's own."""
    configs = (arguments.get("generation_config"), model.generation_config)
    values = (arguments.get(name), *(getattr(config, name) for config in configs if config is not None))
    return next((value for value in values if value is not None), None)


def cached_tokens(cache: Cache | None) -> int:
    """Return how many tokens a cache holds."""
    return 0 if cache is None else int(cache.get_seq_length())


# Attention.


def register_attention(name: str, function: Callable[..., Any], base: str) -> None:
    """Register ``function`` under ``name``, with the masks that transformers makes for ``base``, if it has that."""
    if base in ALL_MASK_ATTENTION_FUNCTIONS:  # flash_attention_4 is of later releases
        AttentionInterface.register(name, function)
        AttentionMaskInterface.register(name, ALL_MASK_ATTENTION_FUNCTIONS[base])


def stock_attention(name: str, module: nn.Module) -> Callable[..., Any]:
    """Return the function that transformers calls. ``ValueError`` for a family without an eager one."""
    if name != "eager":
        function: Callable[..., Any] = ALL_ATTENTION_FUNCTIONS[name]
        return function
    # Each family has its own, in the file of its attention.
    files = (sys.modules.get(kind.__module__) for kind in type(module).__mro__)
    functions = (getattr(file, "eager_attention_forward", None) for file in files)
    eager: Callable[..., Any] | None = next((each for each in functions if each is not None), None)
    if eager is not None:
        return eager
    raise ValueError(f"attention: {type(module).__name__} has no eager_attention_forward; use sdpa")


def attention_of(config: Any) -> str:
    """Return the implementation of attention that a configuration asks for."""
    name = config._attn_implementation
    if not isinstance(name, str):
        raise IncompatibleModelError(f"attach: {type(config).__name__} names no implementation of attention: {name!r}")
    return name


def set_attention(config: Any, name: str) -> None:
    """Have a configuration ask for another implementation of attention."""
    # Not of what is in it: in Idefics it is the configuration of the whole model, the vision tower's included.
    config._attn_implementation = {"": name}
    if config._attn_implementation != name:
        raise IncompatibleModelError(
            f"attach: {type(config).__name__} was told to use the attention {name!r}, and has "
            f"{config._attn_implementation!r}: transformers {transformers.__version__} takes this otherwise; {_TESTED}"
        )


@cached
def may_change_scores(function: Callable[..., Any]) -> frozenset[str]:
    """Return the keywords of an attention function that our own formula of its scores leaves out."""
    return frozenset(parameters_of(function)) - KNOWN_TO_SCORES | CHANGE_SCORES


class AttributeView:
    """An object as it is, but for some attributes: a module as a function of transformers should see it."""

    def __init__(self, target: Any, **attributes: Any):
        self.__dict__.update(attributes, _target=target)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._target, name)


def with_attention(module: Any, name: str) -> AttributeView:
    """Return an attention module whose configuration asks for another implementation."""
    return AttributeView(module, config=AttributeView(module.config, _attn_implementation=name))


def scaling_of(module: nn.Module, query: Tensor, kwargs: Mapping[str, Any], model: nn.Module) -> float:
    """Return the factor of the scores, as the layer hands it to attention."""
    if kwargs.get(SCALING) is not None:
        return float(kwargs[SCALING])
    usual: float = query.shape[-1] ** -0.5
    # Functions of transformers take the usual one then; a layer that has another hands it on under another name.
    own = getattr(module, SCALING, None)
    if own is not None and abs(float(own) - usual) > 1e-6 * usual:
        raise incompatible(model, f"its attention scales by {float(own)} and does not hand {SCALING!r} on")
    return usual


def window_of(function: Callable[..., Any], kwargs: Mapping[str, Any]) -> int | None:
    """Return how far back a query sees in flash attention, which takes it beside the mask."""
    if "sliding_window" not in parameters_of(function):
        raise IncompatibleModelError(f"attention: {function!r} takes no sliding_window; use sdpa. {_TESTED}")
    return kwargs.get("sliding_window")


def is_self_attention(module: nn.Module) -> bool:
    """Return whether a module is the self-attention of a decoder layer."""
    # Whatever is_causal says: that of PaliGemma, which sees its prompt both ways, is False. Cross-attention has none,
    # or says what it is.
    return (
        isinstance(getattr(module, "layer_idx", None), int)
        and hasattr(module, "is_causal")
        and not getattr(module, "is_cross_attention", False)
        and hasattr(module, "config")
    )


def heads_of(attention: Any) -> tuple[int, int]:
    """Return query heads and their width, which families hold on the module, the configuration, or both."""
    config = attention.config
    heads = getattr(attention, "num_heads", None) or config.num_attention_heads
    return heads, getattr(attention, "head_dim", None) or config.hidden_size // heads


# Decoders.


def decoder_of(model: nn.Module) -> Any:
    """Return the text decoder. ``ValueError`` for a model without one, or with an encoder out of adapters' reach."""
    find = getattr(model, "get_decoder", None)
    decoder = find() if find is not None else None
    if decoder is None or not hasattr(decoder, "set_attn_implementation"):
        raise ValueError(f"attach: model must be one of transformers with a text decoder, got {type(model).__name__}")
    if any(getattr(config, "is_encoder_decoder", False) for config in (getattr(model, "config", None), decoder.config)):
        raise ValueError(
            f"attach: model must be a decoder alone, and {type(model).__name__} has an encoder, which reads the prompt "
            "before adapters could act on it"
        )
    return decoder


def probe(model: nn.Module, decoder: nn.Module) -> None:
    """Raise :class:`IncompatibleModelError` where a class of models differs from what adapters assume."""
    kinds: tuple[Any, ...] = (type(model), type(decoder))
    has_head = getattr(model, "get_output_embeddings", lambda: None)() is not None
    _probe_class(*kinds, has_head=has_head, rotates=any("rotary" in name for name, _ in decoder.named_modules()))


@cached
def _probe_class(model: type, decoder: type, *, has_head: bool, rotates: bool) -> None:
    for kind, required in ((model, (MASK, LABELS) if has_head else (MASK,)), (decoder, (MASK,))):
        names = parameters_of(forward_of(kind))
        missing = [name for name in required if name not in names]
        missing += [" or ".join(either) for either in (TOKENS, CACHES) if not names.keys() & set(either)]
        if missing:
            raise incompatible(kind, f"its forward takes no {', no '.join(missing)}")
    for name in ("sdpa", "eager"):
        if name not in ALL_MASK_ATTENTION_FUNCTIONS:
            raise incompatible(model, f"transformers has no function that makes masks for {name!r}")
    arguments = parameters_of(ALL_ATTENTION_FUNCTIONS["sdpa"])
    if missing := [name for name in (*ATTENTION_ARGUMENTS, SCALING, "dropout") if name not in arguments]:
        raise incompatible(model, f"attention functions of transformers take no {', '.join(missing)}")
    if not callable(getattr(Cache, "get_seq_length", None)):
        raise incompatible(model, "caches of transformers do not tell how many tokens they hold (get_seq_length)")
    if rotates and POSITIONS not in parameters_of(forward_of(decoder)):
        raise incompatible(model, f"its decoder rotates queries and keys, and its forward takes no {POSITIONS}")
    for method in (GENERATE, PREPARE) if has_head else ():
        if not callable(getattr(model, method, None)):
            raise incompatible(model, f"it has no method {method!r}")


# Training, and counting.


@contextmanager
def as_with_peft(model: nn.Module) -> Iterator[None]:
    """Put the mark of peft on a model, without which Trainer refuses weights of 4 bits."""
    before = model.__dict__.get(TRAINS_OTHER_WEIGHTS)
    model.__dict__[TRAINS_OTHER_WEIGHTS] = True
    try:
        yield
    finally:
        del model.__dict__[TRAINS_OTHER_WEIGHTS]
        if before is not None:
            model.__dict__[TRAINS_OTHER_WEIGHTS] = before


def cpu_attention() -> Any:
    """Return the operator that attention on a CPU ends in, which torch's counter of operations does not know."""
    return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
