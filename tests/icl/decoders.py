"""Text decoders without images, tiny and with random weights: plain, hybrid, and of families that count padding."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers import (
    CONFIG_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    GenerationConfig,
    LlamaModel,
    PreTrainedModel,
)

from icl.adapters import (
    AdapterConfig,
    Adapters,
    FunctionVectorConfig,
    HiFICLConfig,
    HyperICLConfig,
    LIVEConfig,
    LoRAConfig,
    MimICConfig,
    TaskVectorConfig,
    attach,
)
from icl.attention import internals
from tests.icl import zoo

TEXT = {**zoo.TEXT, "num_hidden_layers": 4, "num_key_value_heads": 2}
LINEAR = {
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "head_dim": 16,
}
PARTIAL = {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.25}
SECTIONS = {**PARTIAL, "mrope_section": [1, 1, 0], "mrope_interleaved": True}
IMAGES = {"image_token_id": zoo.IMAGE, "video_token_id": zoo.VIDEO}
BORDERS = {**IMAGES, "vision_start_token_id": zoo.START, "vision_end_token_id": zoo.END}
TOWER = {"depth": 1, "hidden_size": 16, "intermediate_size": 24, "num_heads": 2, "patch_size": 2, "out_hidden_size": 32}
WINDOWS = {**TOWER, "window_size": 4, "fullatt_block_indexes": [0]}
FULL = ["full_attention"] * 4
CONVOLUTIONS = ["conv", "full_attention"] * 2
BLOCKS = ["linear_attention", "full_attention", "mlp", "full_attention"]
MAMBA = {"mamba_num_heads": 4, "mamba_head_dim": 16, "n_groups": 1, "ssm_state_size": 8, "chunk_size": 16}
HYBRID_TEXT = {k: v for k, v in TEXT.items() if k not in ("num_hidden_layers", "max_position_embeddings")}

CONFIGS: dict[str, dict[str, Any]] = {
    "llama": TEXT,
    "gpt2": {"vocab_size": zoo.VOCABULARY, "n_embd": 32, "n_layer": 4, "n_head": 4, "n_positions": 256},
    # layers of another kind than attention, in decoders of text alone and of vision-language models
    "lfm2": {**TEXT, "layer_types": CONVOLUTIONS},
    "nemotron_h": {**HYBRID_TEXT, **MAMBA, "head_dim": 8, "layers_block_type": BLOCKS},
    "qwen3_5": {
        "text_config": {**TEXT, **LINEAR, "rope_parameters": SECTIONS},
        "vision_config": {**TOWER, "num_position_embeddings": 16},
        **BORDERS,
    },
    "minicpmv4_6": {
        "text_config": {**TEXT, **LINEAR, "model_type": "qwen3_5_text", "rope_parameters": PARTIAL},
        "vision_config": {**zoo.VISION, "patch_size": 2},
        "insert_layer_id": 1,
        **IMAGES,
    },
    # whose generate hands on no positions
    "exaone4_5": {
        "text_config": {**TEXT, "model_type": "exaone4", "sliding_window": None, "layer_types": FULL},
        "vision_config": {**WINDOWS, "num_key_value_heads": 2},
        **IMAGES,
    },
    "hyperclovax_vision_v2": {
        "text_config": {**TEXT, "model_type": "hyperclovax"},
        "vision_config": {**WINDOWS, "model_type": "qwen2_5_vl_vision"},
        **IMAGES,
    },
}
FAMILIES = [name for name in CONFIGS if name in CONFIG_MAPPING]
"""Those that this release of transformers has."""
HYBRIDS = {
    name: attentive
    for name, attentive in {"lfm2": (1, 3), "nemotron_h": (1, 3), "qwen3_5": (3,), "minicpmv4_6": (3,)}.items()
    if name in FAMILIES
}
"""And which of their four layers have softmax attention."""

CACHE = next(name for name in internals.CACHES if name in inspect.signature(LlamaModel.forward).parameters)
"""What this release calls the cache among the arguments of a model."""

AT_THE_END: tuple[AdapterConfig, ...] = (TaskVectorConfig(layers=(1,)), FunctionVectorConfig(layers=(1,)))
ROTATED: tuple[AdapterConfig, ...] = (HyperICLConfig(), HiFICLConfig(), MimICConfig())
METHODS: tuple[AdapterConfig, ...] = (*AT_THE_END, *ROTATED, LIVEConfig(), LoRAConfig())
TOLERANCE = {"rtol": 1e-4, "atol": 1e-4}
GREEDY = {"do_sample": False, "return_dict_in_generate": True, "output_logits": True}


def method(config: AdapterConfig) -> str:
    """Name a parameter of a test."""
    return config.method


def make(name: str = "llama", seed: int = 0, **changes: Any) -> PreTrainedModel:
    """The model, float32, frozen and in eval mode."""
    config = AutoConfig.for_model(name, **{**CONFIGS[name], **changes})
    kind = AutoModelForImageTextToText if hasattr(config, "vision_config") else AutoModelForCausalLM
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        model: PreTrainedModel = kind.from_config(config, dtype=torch.float32)
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight), alpha=0.15)
    model.generation_config = GenerationConfig(
        pad_token_id=zoo.PAD, bos_token_id=zoo.BOS, eos_token_id=zoo.EOS, suppress_tokens=list(range(zoo.WORDS))
    )
    model.requires_grad_(False)
    model.eval()
    return model


def prompt(batch: int = 1, length: int = 14, seed: int = 3, padding: int = 0) -> dict[str, Tensor]:
    """Words, in the first row after ``padding`` on the left, which is then as much longer."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(zoo.WORDS, zoo.VOCABULARY, (batch, length + padding), generator=generator)
    ids[0, :padding] = zoo.PAD
    return {"input_ids": ids, "attention_mask": (ids != zoo.PAD).long()}


def fill(adapters: Adapters, seed: int = 5, scale: float = 3.0) -> Adapters:
    """Parameters far from the identity, and vectors as fitting would set them."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in [*adapters.named_parameters(), *adapters.named_buffers()]:
            value.copy_(torch.randn(value.shape, generator=generator) * (scale if name.endswith("vector") else 0.5))
    return adapters


def answer(model: Any, x: dict[str, Tensor], new: int = 5, **options: Any) -> tuple[Tensor, Tensor]:
    """Tokens (B, new) and logits (new, B, V) of exactly ``new`` greedy steps."""
    with torch.no_grad():
        out = model.generate(**x, max_new_tokens=new, min_new_tokens=new, **GREEDY, **options)
    return out.sequences[:, -new:], torch.stack(out.logits)


def labelled(x: dict[str, Tensor]) -> Tensor:
    """Labels of a prompt of 14 tokens, whose last 5 are an answer."""
    return x["input_ids"].masked_fill(torch.arange(14) < 9, -100)


def load_two(config: AdapterConfig) -> tuple[Any, Adapters]:
    """A model with two adapters, "a" and "b", neither of them in use."""
    model = make()
    adapters = attach(model, config, "a")
    adapters.add([config], "b")
    fill(adapters)
    adapters.activate()
    return model, adapters


def in_thread(call: Callable[[], Any]) -> BaseException | Any:
    """The result of a call in another thread, or its error."""
    results: list[Any] = []

    def run() -> None:
        try:
            results.append(call())
        except BaseException as error:
            results.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return results[0]
