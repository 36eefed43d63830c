"""The testbed's model: Idefics2 as it is in transformers, with a third of a million parameters."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor
from transformers import GenerationConfig, Idefics2Config, Idefics2ForConditionalGeneration, Idefics2Processor

from icl.testbed.images import SIZE
from icl.testbed.vocabulary import END, STYLES, ChatStyle, build_processor

_SHIPPED = Path(__file__).parent / "weights"
_WIDTH, _LAYERS = 64, 4
# With transformers' 0.02, or with latents that are all the same, in-context learning did not set in.
_STD = 0.1


def build_config(style: ChatStyle) -> Idefics2Config:
    vocabulary = style.vocabulary
    text = {
        "model_type": "mistral",
        "vocab_size": len(vocabulary),
        "hidden_size": _WIDTH,
        "intermediate_size": 2 * _WIDTH,
        "num_hidden_layers": _LAYERS,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4},
        "max_position_embeddings": 1024,
        "sliding_window": None,
        "initializer_range": _STD,
        "pad_token_id": vocabulary.index("<pad>"),
        "bos_token_id": vocabulary.index("<s>"),
        "eos_token_id": vocabulary.index("</s>"),
    }
    vision = {
        "hidden_size": _WIDTH,
        "intermediate_size": 2 * _WIDTH,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "image_size": SIZE,
        "patch_size": SIZE // 2,
        "initializer_range": _STD,
    }
    perceiver = {
        "hidden_size": _WIDTH,
        "resampler_n_latents": style.image_tokens,
        "resampler_depth": 1,
        "resampler_n_heads": 4,
        "resampler_head_dim": 16,
        "num_key_value_heads": 4,
        "initializer_range": _STD,
    }
    return Idefics2Config(
        text_config=text,
        vision_config=vision,
        perceiver_config=perceiver,
        image_token_id=vocabulary.index("<image>"),
    )


def build_model(style: ChatStyle, seed: int) -> Idefics2ForConditionalGeneration:
    """The model before training, the same for the same seed."""
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
    """A folder that ``icl testbed pretrain`` has made, or the name of one that comes with the package."""
    folder = _SHIPPED / weights if (_SHIPPED / weights).is_dir() else Path(weights)
    if not (folder / "model.safetensors").exists():
        raise FileNotFoundError(
            f"there are no weights in {folder}, and none of this name come with icl: icl testbed pretrain makes them"
        )
    return folder


def load(weights: str | Path = "base") -> tuple[Idefics2ForConditionalGeneration, Idefics2Processor]:
    """The model with these weights (:func:`weights_folder`), and its processor.

    >>> model, processor = load()
    >>> model.num_parameters()
    335808
    """
    file = weights_folder(weights) / "model.safetensors"
    with safe_open(file, "pt") as saved:
        name = (saved.metadata() or {}).get("style")
    if name not in STYLES:
        raise ValueError(f"load: {file} is not of the testbed: its metadata name no style")
    style = STYLES[name]
    model = build_model(style, seed=0)
    model.load_state_dict(load_file(file))
    return model, build_processor(style)


def encode_images(model: Idefics2ForConditionalGeneration, pixel_values: Tensor) -> Tensor:
    """What the text model sees of N images, (N, image tokens, width)."""
    # as one row of N images: an image is looked at by itself
    features: list[Tensor] = model.get_image_features(pixel_values.transpose(0, 1), return_dict=True).pooler_output
    out: Tensor = torch.cat(features).unflatten(0, (len(pixel_values), -1))
    return out


def compute_logits(model: Idefics2ForConditionalGeneration, input_ids: Tensor, images: Tensor) -> Tensor:
    """Of token sequences (N, T) whose image tokens, in order, are the rows of ``images``: (N, T, vocabulary).

    An image in many sequences is encoded once this way, which is what makes training a matter of minutes.
    """
    embeddings = model.get_input_embeddings()(input_ids)
    at = (input_ids == model.config.image_token_id).unsqueeze(-1)
    out: Tensor = model(inputs_embeds=embeddings.masked_scatter(at, images), use_cache=False).logits
    return out
