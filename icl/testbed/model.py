"""The testbed's model: Idefics2 as it is in transformers, with a third of a million parameters."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.functional import normalize
from transformers import GenerationConfig, Idefics2Config, Idefics2ForConditionalGeneration, Idefics2Processor

from icl.testbed.images import SIZE
from icl.testbed.vocabulary import END, STYLES, ChatStyle, build_processor

_SHIPPED = Path(__file__).parent / "weights"
_WIDTH, _LAYERS = 64, 4
# With transformers' 0.02, or with latents that are all the same, in-context learning did not set in.
_COMMON: dict[str, Any] = {"hidden_size": _WIDTH, "initializer_range": 0.1}


def build_config(style: ChatStyle) -> Idefics2Config:
    """Return the configuration of the model for chats of this style."""
    vocabulary = style.vocabulary
    text = {
        **_COMMON,
        "model_type": "mistral",
        "vocab_size": len(vocabulary),
        "intermediate_size": 2 * _WIDTH,
        "num_hidden_layers": _LAYERS,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4},
        "max_position_embeddings": 1024,
        "sliding_window": None,
        "pad_token_id": vocabulary.index("<pad>"),
        "bos_token_id": vocabulary.index("<s>"),
        "eos_token_id": vocabulary.index("</s>"),
    }
    vision = {
        **_COMMON,
        "intermediate_size": 2 * _WIDTH,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "image_size": SIZE,
        "patch_size": SIZE // 2,
    }
    perceiver = {
        **_COMMON,
        "resampler_n_latents": style.image_tokens,
        "resampler_depth": 1,
        "resampler_n_heads": 4,
        "resampler_head_dim": 16,
        "num_key_value_heads": 4,
    }
    image = vocabulary.index("<image>")
    return Idefics2Config(text_config=text, vision_config=vision, perceiver_config=perceiver, image_token_id=image)


def build_model(style: ChatStyle, seed: int) -> Idefics2ForConditionalGeneration:
    """Return the model before training, the same for the same seed."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        model = Idefics2ForConditionalGeneration(build_config(style))
        model.model.connector.perceiver_resampler.latents.normal_()
        for layer in model.model.text_model.layers:
            for projection in (layer.self_attn.o_proj, layer.mlp.down_proj):
                projection.weight /= math.sqrt(2 * _LAYERS)
    bos, eos, end, padding = map(style.vocabulary.index, ("<s>", "</s>", END, "<pad>"))
    model.generation_config = GenerationConfig(bos_token_id=bos, eos_token_id=[eos, end], pad_token_id=padding)
    model.eval()
    return model


def weights_folder(weights: str | Path) -> Path:
    """Return the folder of weights: one that ``icl testbed pretrain`` has made, or the name of one in the package.

    ``FileNotFoundError`` if there are no weights.
    """
    folder = _SHIPPED / weights if (_SHIPPED / weights).is_dir() else Path(weights)
    if not (folder / "model.safetensors").exists():
        raise FileNotFoundError(
            f"there are no weights in {folder}, and none of this name come with icl: icl testbed pretrain makes them"
        )
    return folder


def load(weights: str | Path = "base") -> tuple[Idefics2ForConditionalGeneration, Idefics2Processor]:
    """Return the model with these weights (:func:`weights_folder`), and its processor.

    >>> model, processor = load()
    >>> model.num_parameters()
    335808
    """
    file = weights_folder(weights) / "model.safetensors"
    with safe_open(file, "pt") as tensors:
        name = (tensors.metadata() or {}).get("style")
    if name not in STYLES:
        raise ValueError(f"load: {file} is not of the testbed: its metadata name no style")
    style = STYLES[name]
    model = build_model(style, seed=0)
    model.load_state_dict(load_file(file))
    return model, build_processor(style)


def encode_images(model: Idefics2ForConditionalGeneration, pixel_values: Tensor) -> Tensor:
    """Return what the text model sees of N images (N, 1, 3, 8, 8): (N, image tokens, width)."""
    # They are one row of N images here: an image is looked at by itself.
    features: list[Tensor] = model.get_image_features(pixel_values.transpose(0, 1), return_dict=True).pooler_output
    encoded: Tensor = torch.cat(features).unflatten(0, (len(pixel_values), -1))
    return encoded


@torch.no_grad()
def embed_images(model: Idefics2ForConditionalGeneration, pixel_values: Tensor) -> Tensor:
    """Return the mean states of the vision encoder, as unit vectors (N, width), which CLIP's embeddings are."""
    mean: Tensor = model.get_image_features(pixel_values.transpose(0, 1)).last_hidden_state.mean(1)
    return normalize(mean, dim=-1)


def embed_tokens(model: Any, input_ids: Tensor, images: Tensor) -> Tensor:
    """Return the embeddings (N, T, width) of tokens (N, T), those of image tokens, in order, the rows of ``images``."""
    is_image = (input_ids == model.config.image_token_id).unsqueeze(-1)
    embeddings: Tensor = model.get_input_embeddings()(input_ids)
    return embeddings.masked_scatter(is_image, images)


def compute_logits(model: Idefics2ForConditionalGeneration, input_ids: Tensor, images: Tensor) -> Tensor:
    """Return the logits (N, T, vocabulary) of tokens (N, T) whose image tokens, in order, are the rows of ``images``.

    An image in many sequences is encoded once this way, which is what makes training a matter of minutes.
    """
    logits: Tensor = model(inputs_embeds=embed_tokens(model, input_ids, images), use_cache=False).logits
    return logits
