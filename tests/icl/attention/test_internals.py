"""The future: models that differ from what adapters assume, as a release of transformers could make them differ.

Each raises when adapters are attached or in the first calls. None answers in silence.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import Cache, LlamaForCausalLM, LlamaModel, PreTrainedModel
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.llama import modeling_llama
from transformers.models.llama.modeling_llama import LlamaAttention, LlamaDecoderLayer

from icl.adapters import AdapterConfig, HiFICLConfig, HyperICLConfig, LIVEConfig, TaskVectorConfig, attach, attached
from icl.attention import internals
from icl.attention import primitives as attention
from icl.attention.internals import IncompatibleModelError
from tests.icl import decoders
from tests.icl.decoders import CACHE

METHODS: tuple[AdapterConfig, ...] = (
    HyperICLConfig(), HiFICLConfig(), LIVEConfig(), TaskVectorConfig(layers=(1,)),
)  # fmt: skip


def call(model: Any) -> None:
    """What a user does first: a pass with labels, and an answer with a cache."""
    x = decoders.prompt(2)
    model(**x, labels=x["input_ids"].masked_fill(torch.arange(14) < 9, -100), use_cache=True)
    decoders.answer(model, x)


# Mutations: each changes one thing in a copy of a model, whose own answers stay what they were.


class Box:
    """A cache that is none of transformers' Cache."""

    def __init__(self, cache: Any):
        self.cache = cache


def renamed(old: str, new: str) -> type[LlamaForCausalLM]:
    """``forward`` with a keyword renamed."""

    class Renamed(LlamaForCausalLM):
        def forward(self, **kwargs: Any) -> Any:  # type: ignore[override]
            return super().forward(**{old if name == new else name: value for name, value in kwargs.items()})

    parameters = inspect.signature(LlamaForCausalLM.forward).parameters.values()
    names = [p.replace(name=new) if p.name == old else p for p in parameters]
    Renamed.forward.__signature__ = inspect.Signature(names)  # type: ignore[attr-defined]
    return Renamed


def keyword(old: str, new: str) -> Callable[[Any, pytest.MonkeyPatch], None]:
    def mutate(model: Any, patch: pytest.MonkeyPatch) -> None:
        model.__class__ = renamed(old, new)

    return mutate


def boxed_cache(model: Any, patch: pytest.MonkeyPatch) -> None:
    """The decoder gets its cache in something else."""

    class Decoder(LlamaModel):
        def forward(self, input_ids: Any = None, attention_mask: Any = None, **kwargs: Any) -> Any:  # type: ignore[override]
            given = kwargs.get(CACHE)
            kwargs[CACHE] = given.cache if isinstance(given, Box) else given
            return super().forward(input_ids, attention_mask, **kwargs)

    Decoder.forward.__signature__ = inspect.signature(LlamaModel.forward)  # type: ignore[attr-defined]

    class Model(LlamaForCausalLM):
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            if kwargs.get(CACHE) is not None:
                kwargs[CACHE] = Box(kwargs[CACHE])
            return super().forward(*args, **kwargs)

    model.__class__, model.model.__class__ = Model, Decoder


def dropped_layer_hooks(model: Any, patch: pytest.MonkeyPatch) -> None:
    """Layers are run by their forward, past what torch calls around it."""

    class Layer(LlamaDecoderLayer):
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            return self.forward(*args, **kwargs)

    for layer in model.model.layers:
        layer.__class__ = Layer


def dropped_decoder_hooks(model: Any, patch: pytest.MonkeyPatch) -> None:
    class Decoder(LlamaModel):
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            return self.forward(*args, **kwargs)

    model.model.__class__ = Decoder


def states_in_a_dict(model: Any, patch: pytest.MonkeyPatch) -> None:
    """Layers put out another type, which the decoder takes apart."""

    class Layer(LlamaDecoderLayer):
        def forward(self, hidden_states: Any, **kwargs: Any) -> Any:
            states = hidden_states["states"] if isinstance(hidden_states, dict) else hidden_states
            return {"states": super().forward(states, **kwargs)}

    for layer in model.model.layers:
        layer.__class__ = Layer
    norm = model.model.norm
    patch.setattr(norm, "forward", lambda hidden, before=norm.forward: before(hidden["states"]))


def attention_of_its_own(model: Any, patch: pytest.MonkeyPatch) -> None:
    """Attention without the interface."""

    class Attention(LlamaAttention):
        def forward(
            self, hidden_states: Tensor, position_embeddings: Any, attention_mask: Any = None, **kwargs: Any
        ) -> Any:  # type: ignore[override]
            def heads(projection: Any) -> Tensor:
                return projection(hidden_states).view(*hidden_states.shape[:-1], -1, self.head_dim).transpose(1, 2)

            query, key, value = heads(self.q_proj), heads(self.k_proj), heads(self.v_proj)
            query, key = modeling_llama.apply_rotary_pos_emb(query, key, *position_embeddings)
            if kwargs.get(CACHE) is not None:
                key, value = kwargs[CACHE].update(key, value, self.layer_idx)
            out = scaled_dot_product_attention(
                query, key, value, attn_mask=attention_mask, enable_gqa=True,
                is_causal=attention_mask is None and query.shape[2] > 1,
            )  # fmt: skip
            return self.o_proj(out.transpose(1, 2).flatten(2)), None

    for layer in model.model.layers:
        layer.self_attn.__class__ = Attention


def function(change: Callable[..., Any]) -> Callable[[Any, pytest.MonkeyPatch], None]:
    """Attention functions that are called otherwise, or give something else: ``change`` stands before all of them."""

    def mutate(model: Any, patch: pytest.MonkeyPatch) -> None:
        interface = type(ALL_ATTENTION_FUNCTIONS)
        before = interface.get_interface

        def get_interface(self: Any, name: str, default: Any) -> Any:
            stock = before(self, name, default)
            return lambda *args, **kwargs: change(stock, *args, **kwargs)

        patch.setattr(interface, "get_interface", get_interface)

    return mutate


def other_layout(attend: Any, module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Any, **kwargs: Any) -> Any:
    """(B, T, H, dh) as flash has it."""
    return attend(module, query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2), mask, **kwargs)


def flat_mask(attend: Any, module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Any, **kwargs: Any) -> Any:
    full = torch.ones(len(query), query.shape[2], key.shape[2], dtype=torch.bool)
    return attend(module, query, key, value, full if mask is None else mask[:, 0], **kwargs)


def whole_numbers_for_a_mask(
    attend: Any, module: Any, query: Any, key: Any, value: Any, mask: Any, **kwargs: Any
) -> Any:
    full = torch.ones(len(query), 1, query.shape[2], key.shape[2], dtype=torch.long)
    return attend(module, query, key, value, full, **kwargs)


def renamed_scaling(attend: Any, module: Any, *args: Any, scaling: float, **kwargs: Any) -> Any:
    return attend(module, *args, scale=scaling, **kwargs)


def odd_scaling(model: Any, patch: pytest.MonkeyPatch) -> None:
    """A scaling that is not the usual one, under another name."""
    for layer in model.model.layers:
        layer.self_attn.scaling = 0.2
    function(renamed_scaling)(model, patch)


def transposed_output(model: Any, patch: pytest.MonkeyPatch) -> None:
    stock = ALL_ATTENTION_FUNCTIONS["sdpa"]

    def forward(*args: Any, **kwargs: Any) -> Any:
        output, weights = stock(*args, **kwargs)
        return output.transpose(1, 2), weights

    forward.__signature__ = inspect.signature(stock)  # type: ignore[attr-defined]
    patch.setitem(ALL_ATTENTION_FUNCTIONS, "sdpa", forward)


def renamed_argument(model: Any, patch: pytest.MonkeyPatch) -> None:
    """Attention functions that name what they take otherwise."""
    stock = ALL_ATTENTION_FUNCTIONS["sdpa"]

    def forward(module: Any, q: Any, k: Any, v: Any, attention_mask: Any, scale: float | None = None, **kw: Any) -> Any:
        return stock(module, q, k, v, attention_mask, scaling=scale, **kw)

    patch.setitem(ALL_ATTENTION_FUNCTIONS, "sdpa", forward)


def deaf_configuration(model: Any, patch: pytest.MonkeyPatch) -> None:
    """The implementation of attention is no longer chosen by the attribute that it was."""
    kind = type(model.config)
    before = kind._attn_implementation

    patch.setattr(kind, "_attn_implementation", property(before.fget, lambda self, value: None))


def cache_without_length(model: Any, patch: pytest.MonkeyPatch) -> None:
    patch.delattr(Cache, "get_seq_length")


def without_decoder(model: Any, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(model, "get_decoder", lambda: None)


MUTATIONS: dict[str, tuple[Callable[[Any, pytest.MonkeyPatch], None], str]] = {
    "cache renamed": (keyword(CACHE, "memory"), "its forward takes no cache or past_key_values"),
    "mask renamed": (keyword("attention_mask", "visible"), "its forward takes no attention_mask"),
    "labels renamed": (keyword("labels", "targets"), "its forward takes no labels"),
    "cache in a box": (boxed_cache, "reads a cache, and none was among the arguments"),
    "layers called past their hooks": (dropped_layer_hooks, "layer of decoder layer 0 ran in a way"),
    "decoder called past its hooks": (dropped_decoder_hooks, "it ran without a call of its decoder"),
    "states in a dict": (states_in_a_dict, "layer 0 puts out .*dict"),
    "attention of its own": (attention_of_its_own, "attention of decoder layer 0 ran in a way"),
    "queries laid out otherwise": (function(other_layout), "gets queries of shape"),
    "mask of three dimensions": (function(flat_mask), "gets a mask that is torch.bool of shape"),
    "mask of integers": (function(whole_numbers_for_a_mask), "gets a mask that is torch.int64 of shape"),
    "scaling renamed": (odd_scaling, "scales by 0.2 and does not hand 'scaling' on"),
    "output laid out otherwise": (transposed_output, "attention puts out"),
    "arguments of attention renamed": (renamed_argument, "attention functions of transformers take no query"),
    "configuration that does not listen": (deaf_configuration, "was told to use the attention"),
    "cache that does not tell its length": (cache_without_length, "do not tell how many tokens they hold"),
    "no decoder": (without_decoder, "model must be one of transformers with a text decoder"),
}


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> PreTrainedModel:
    internals._probe_class.cache_clear()
    return decoders.make()


@pytest.mark.parametrize("config", METHODS, ids=decoders.method)
@pytest.mark.parametrize("what", MUTATIONS)
def test_a_model_of_the_future_is_refused(
    model: PreTrainedModel, what: str, config: AdapterConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    mutate, message = MUTATIONS[what]
    try:
        with monkeypatch.context() as patch:
            mutate(model, patch)

            def use() -> None:
                decoders.fill(attach(model, config))
                call(model)

            with pytest.raises(ValueError, match=message) as raised:
                use()
            if what != "no decoder":
                assert isinstance(raised.value, IncompatibleModelError)
                # which model, which versions, and what to do
                named = type(model.config if "configuration" in what else model).__name__
                for word in (named, f"transformers {transformers.__version__}", "docs/compatibility.md"):
                    assert word in str(raised.value)
    finally:
        internals._probe_class.cache_clear()


@pytest.mark.parametrize("config", METHODS, ids=decoders.method)
def test_the_model_itself_is_not(model: PreTrainedModel, config: AdapterConfig) -> None:
    """Else the test above could not fail; nor is a subclass that hands all on."""

    class Handing(LlamaForCausalLM):
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            return super().forward(*args, **kwargs)

    model.__class__ = Handing
    decoders.fill(attach(model, config))
    call(model)


def test_mutations_change_no_answer_of_a_model_without_adapters(
    model: PreTrainedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They play a release that works."""
    x = decoders.prompt(2)
    wanted = decoders.answer(model, x)[1]
    for what in ("cache in a box", "layers called past their hooks", "states in a dict", "attention of its own"):
        twin = decoders.make()
        with monkeypatch.context() as patch:
            MUTATIONS[what][0](twin, patch)
            torch.testing.assert_close(decoders.answer(twin, x)[1], wanted)


def test_a_failed_attach_leaves_the_model_as_it_was(model: PreTrainedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    x = decoders.prompt(2)
    wanted, before = decoders.answer(model, x)[1], dict(model.__dict__)
    with monkeypatch.context() as patch:
        cache_without_length(model, patch)
        with pytest.raises(IncompatibleModelError):
            attach(model, HyperICLConfig())
    assert attached(model) is None
    assert model.__dict__.keys() == before.keys()
    assert torch.equal(decoders.answer(model, x)[1], wanted)


def test_unknown_scores_are_left_to_the_function_that_knows_them(
    model: PreTrainedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A release whose sdpa takes something more into its scores: one decoded token is not computed by our formula."""
    stock = ALL_ATTENTION_FUNCTIONS["sdpa"]

    def forward(
        module: Any, query: Any, key: Any, value: Any, attention_mask: Any, dropout: float = 0.0,
        scaling: float | None = None, is_causal: bool | None = None, temperature: float | None = None, **kwargs: Any,
    ) -> Any:  # fmt: skip
        scaling = scaling if temperature is None else scaling / temperature
        return stock(module, query, key, value, attention_mask, dropout, scaling, is_causal=is_causal, **kwargs)

    def cool(attend: Any, *args: Any, **kwargs: Any) -> Any:
        return attend(*args, temperature=2.0, **kwargs)

    x = decoders.prompt(2)
    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS, "sdpa", forward)
    function(cool)(model, monkeypatch)
    decoders.fill(attach(model, HiFICLConfig()))
    cached = decoders.answer(model, x)
    uncached = decoders.answer(model, x, use_cache=False)
    torch.testing.assert_close(cached[1], uncached[1], rtol=1e-4, atol=1e-4)


def test_attention_is_registered_for_what_transformers_has() -> None:
    masked = set(ALL_MASK_ATTENTION_FUNCTIONS)
    assert masked & set(attention.ATTENTION_NAMES) >= {"eager", "sdpa", "flash_attention_2"}
    for base, ours in attention.ATTENTION_NAMES.items():
        assert (ours in ALL_ATTENTION_FUNCTIONS) == (base in masked)


def test_private_names_stand_in_one_file() -> None:
    """Modules and attributes that others may rename are known to ``icl/attention/internals.py`` alone."""
    folder = Path(internals.__file__).parents[1]
    private = (
        "transformers.modeling_utils",
        "transformers.masking_utils",
        "peft.tuners",
        "_hf_",
        "_attn_implementation",
    )
    for file in folder.rglob("*.py"):
        if file.name != "internals.py":
            text = file.read_text()
            assert not [name for name in private if name in text], file
