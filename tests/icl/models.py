"""Tiny random CLIP-like models, saved as those on the hub are."""

from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing

_WORDS = ["<pad>", "<s>", "</s>", "<unk>", "a", "red", "blue", "green", "square", "circle", "very", "long", "sentence"]


def tiny_model(kind: str, folder: Path) -> Path:
    """A "clip" or "siglip" with a tokenizer of a few words, images of 16 pixels and vectors of 24 numbers."""
    torch.manual_seed(0)
    tokenizer = Tokenizer(WordLevel({word: i for i, word in enumerate(_WORDS)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = Whitespace()
    pair = [("<s>", 1), ("</s>", 2)]
    tokenizer.post_processor = TemplateProcessing(single="<s> $A </s>", pair=None, special_tokens=pair)
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>",
        model_input_names=["input_ids", "attention_mask"] if kind == "clip" else ["input_ids"],
    )  # fmt: skip
    size = {"hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {**size, "vocab_size": len(_WORDS), "max_position_embeddings": 12, "pad_token_id": 0, "bos_token_id": 1}
    vision = {**size, "image_size": 16, "patch_size": 8}
    model: Any
    images: Any
    processor: Any
    if kind == "clip":
        text["eos_token_id"] = 2
        config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=24)
        model = transformers.CLIPModel(config)
        images = transformers.CLIPImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
        processor = transformers.CLIPProcessor(images, fast)
    else:
        text["projection_size"] = 24
        model = transformers.SiglipModel(transformers.SiglipConfig(text_config=text, vision_config=vision))
        images = transformers.SiglipImageProcessor(size={"height": 16, "width": 16})
        processor = transformers.SiglipProcessor(images, fast)
    with torch.no_grad():
        for weight in model.parameters():  # not all alike, as small random models are
            weight.add_(torch.randn_like(weight) * 0.2)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
