"""Vision-language models of every family, tiny and with random weights, and inputs for them.

A family here is a ``model_type`` of transformers. All share one text: ``<s>``, words, an image between two boundaries,
words. An image is 8 x 8 pixels, which most families read as 4 tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForImageTextToText, GenerationConfig, PreTrainedModel

Inputs = dict[str, Tensor]

VOCABULARY = 100
PAD, BOS, EOS, IMAGE, START, END, VIDEO = range(7)
WORDS = 8
"""The first id of a word; those before are special."""
SIZE = 8
TEXT = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
    "pad_token_id": PAD,
    "bos_token_id": BOS,
    "eos_token_id": EOS,
}
VISION = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": SIZE,
}
SIGLIP = {"model_type": "siglip_vision_model", **VISION, "vision_use_head": False}
PERCEIVER = {"resampler_n_latents": 4, "resampler_depth": 1, "resampler_n_heads": 2, "resampler_head_dim": 8}
# Of an input's arguments, those of shape (B, T, ...).
_BY_TOKEN = {"input_ids", "attention_mask", "position_ids", "labels", "token_type_ids", "mm_token_type_ids"}
_BY_TOKEN |= {"image_attention_mask", "cross_attention_mask"}


class Family(NamedTuple):
    config: Callable[[dict[str, Any]], dict[str, Any]]
    """The model's configuration, from what is asked of the text decoder's."""
    pixels: Callable[[Tensor, Tensor], Inputs]
    """What the model needs besides text, from images (B, N, 3, 8, 8) and ids (B, T)."""
    image_tokens: int = 4
    """Tokens of an image, between its boundaries."""


def make(name: str, **text: Any) -> PreTrainedModel:
    """The model, float32 and in eval mode, always with the same weights; ``text`` changes the text decoder's config."""
    config = AutoConfig.for_model(name, **FAMILIES[name].config(text))
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        model: PreTrainedModel = AutoModelForImageTextToText.from_config(config, dtype=torch.float32)
        # Gates start at zero, norms at one and matrices small: as they are, hardly anything would depend on an input.
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight), alpha=0.2)
    # Words only: answers do not end early, and no image is announced that is not there.
    model.generation_config = GenerationConfig(
        pad_token_id=PAD, bos_token_id=BOS, eos_token_id=EOS, suppress_tokens=list(range(WORDS))
    )
    model.eval()
    return model


def inputs(
    name: str,
    batch: int = 2,
    length: int = 12,
    seed: int = 0,
    padding: Literal["left", "none"] = "left",
    images: int = 1,
) -> Inputs:
    """Arguments of ``model(...)`` and ``model.generate(...)``.

    Rows are ``length`` tokens with ``padding`` "none". With "left", which makes it (B, length) all the same, row i is
    3 i tokens shorter, as long as that leaves every image and a word after it.
    """
    family, generator = FAMILIES[name], torch.Generator().manual_seed(seed)
    block = [START, *[IMAGE] * family.image_tokens, END]
    shortest = 1 + images * len(block) + 1
    if length < shortest:
        raise ValueError(f"inputs: length must be at least {shortest} for {images} images of {name}, got {length}")
    rows = []
    for i in range(batch):
        tokens = max(length - 3 * i, shortest) if padding == "left" else length
        words = torch.randint(WORDS, VOCABULARY, (tokens - shortest + 1,), generator=generator).tolist()
        before = (len(words) - 1) // (images + 1)
        words_and_images = [token for n in range(images) for token in (*words[n * before : (n + 1) * before], *block)]
        row = [BOS, *words_and_images, *words[images * before :]]
        rows.append([PAD] * (length - len(row)) + row)
    ids = torch.tensor(rows)
    pixels = torch.randn(batch, images, 3, SIZE, SIZE, generator=generator)
    return {"input_ids": ids, "attention_mask": (ids != PAD).long(), **family.pixels(pixels, ids)}


def answer(ids: Tensor) -> Tensor:
    """Which tokens are words after the last image."""
    ends = ids == END
    return (ends.cumsum(1) == ends.sum(1, keepdim=True)) & (ids >= WORDS)


def labels(inputs: Inputs) -> Tensor:
    """The words after the last image, (B, T), and -100 elsewhere."""
    ids = inputs["input_ids"]
    return ids.where(answer(ids), -100)


def positions(inputs: Inputs) -> Inputs:
    """``position_ids`` as ``generate`` makes them, or nothing where the model makes them in three dimensions itself.

    Without them padding on the left shifts most families' positions. Rotations are relative, so logits stay; but what
    an adapter sees, queries and keys by themselves, does not.
    """
    if "image_grid_thw" in inputs:
        return {}
    mask = inputs["attention_mask"]
    return {"position_ids": (mask.cumsum(1) - 1).masked_fill(mask == 0, 0)}


def alone(inputs: Inputs, row: int) -> Inputs:
    """One row, a batch of its own without padding."""
    batch, length = inputs["input_ids"].shape
    padding = length - int(inputs["attention_mask"][row].sum())
    chosen = {key: value.chunk(batch)[row] for key, value in inputs.items()}
    return {key: value[:, padding:] if key in _BY_TOKEN else value for key, value in chosen.items()}


def idefics(text: dict[str, Any]) -> dict[str, Any]:
    vision = {**VISION, "embed_dim": VISION["hidden_size"], "patch_size": 4}
    perceiver = {**PERCEIVER, "use_resampler": True}
    cross = {"cross_layer_interval": 1, "qk_layer_norms": True, "use_resampler": True}
    return {**TEXT, **cross, **text, "vision_config": vision, "perceiver_config": perceiver}


def grouped(text: dict[str, Any], **own: Any) -> dict[str, Any]:
    """A text decoder with two heads to each key and value."""
    return {**TEXT, "num_key_value_heads": 2, **own, **text}


def idefics2(text: dict[str, Any]) -> dict[str, Any]:
    text = grouped(text, model_type="mistral", sliding_window=None)
    vision = {**VISION, "patch_size": 4}
    perceiver = {**PERCEIVER, "hidden_size": text["hidden_size"], "num_key_value_heads": 1}
    return {"text_config": text, "vision_config": vision, "perceiver_config": perceiver, "image_token_id": IMAGE}


def idefics3(text: dict[str, Any]) -> dict[str, Any]:
    text, vision = grouped(text, model_type="llama"), {**VISION, "patch_size": 2}
    return {"text_config": text, "vision_config": vision, "image_token_id": IMAGE}


def llava(text: dict[str, Any]) -> dict[str, Any]:
    vision = {"model_type": "clip_vision_model", **VISION, "patch_size": 4, "projection_dim": 16}
    text = grouped(text, model_type="llama")
    return {"text_config": text, "vision_config": vision, "image_token_index": IMAGE}


def llava_next(text: dict[str, Any]) -> dict[str, Any]:
    # Of an image twice as high as wide, three crops of one patch, and the token after a row, twice.
    config = llava(text)
    config["vision_config"]["patch_size"] = SIZE
    return {**config, "image_grid_pinpoints": [[2 * SIZE, SIZE]]}


def llava_onevision(text: dict[str, Any]) -> dict[str, Any]:
    return {
        "text_config": grouped(text, model_type="qwen2"),
        "vision_config": {**SIGLIP, "patch_size": SIZE},
        "image_grid_pinpoints": [[2 * SIZE, SIZE]],
        "image_token_index": IMAGE,
        "video_token_index": VIDEO,
    }


def qwen2_vl(text: dict[str, Any]) -> dict[str, Any]:
    text = grouped(text)
    half = text.get("head_dim", text["hidden_size"] // text["num_attention_heads"]) // 2
    section = [half // 2, half // 4, half // 4]
    text["rope_parameters"] = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": section}
    return {
        "text_config": text,
        "vision_config": {**VISION, "embed_dim": 16, "hidden_size": text["hidden_size"], "patch_size": 2},
        "image_token_id": IMAGE,
        "video_token_id": VIDEO,
        "vision_start_token_id": START,
        "vision_end_token_id": END,
    }


def qwen2_5_vl(text: dict[str, Any]) -> dict[str, Any]:
    config = qwen2_vl(text)
    own = {"window_size": 4, "fullatt_block_indexes": [1], "out_hidden_size": config["text_config"]["hidden_size"]}
    return {**config, "vision_config": {**VISION, "patch_size": 2, **own}}


def qwen3_vl(text: dict[str, Any]) -> dict[str, Any]:
    # heads twice as wide as the model's width over their number
    config = qwen2_vl({"head_dim": 16, **text})
    config["text_config"]["rope_parameters"]["mrope_interleaved"] = True
    own = {"num_position_embeddings": 16, "deepstack_visual_indexes": [0]}
    own["out_hidden_size"] = config["text_config"]["hidden_size"]
    return {**config, "vision_config": {**VISION, "patch_size": 2, **own}}


def gemma3(text: dict[str, Any]) -> dict[str, Any]:
    # a scale that is not of the head's width, and a window that ends within the text
    own = {"head_dim": 16, "query_pre_attn_scalar": 12, "sliding_window": 6, "sliding_window_pattern": 2}
    tokens = {"image_token_index": IMAGE, "boi_token_index": START, "eoi_token_index": END}
    vision = {**SIGLIP, "patch_size": 2}
    return {"text_config": grouped(text, **own), "vision_config": vision, "mm_tokens_per_image": 4, **tokens}


def internvl(text: dict[str, Any]) -> dict[str, Any]:
    text, vision = grouped(text, model_type="qwen2"), {**VISION, "patch_size": 2}
    return {"text_config": text, "vision_config": vision, "image_token_id": IMAGE, "image_seq_length": 4}


def paligemma(text: dict[str, Any]) -> dict[str, Any]:
    text = grouped(text, model_type="gemma", head_dim=16)
    widths = {"hidden_size": text["hidden_size"], "projection_dim": text["hidden_size"]}
    vision = {**SIGLIP, "patch_size": 4}
    return {"text_config": text, "vision_config": vision, "image_token_index": IMAGE, **widths}


def mistral3(text: dict[str, Any]) -> dict[str, Any]:
    text = grouped(text, model_type="mistral", head_dim=16, sliding_window=None)
    vision = {"model_type": "pixtral", **VISION, "patch_size": 2}
    return {"text_config": text, "vision_config": vision, "image_token_index": IMAGE}


def mllama(text: dict[str, Any]) -> dict[str, Any]:
    layers = {"num_global_layers": 1, "intermediate_layers_indices": [0], "vision_output_dim": 32}
    one_tile = {"max_num_tiles": 1, "supported_aspect_ratios": [[1, 1]]}
    text, vision = grouped(text, cross_attention_layers=[1]), {**VISION, "patch_size": 4, **layers, **one_tile}
    return {"text_config": text, "vision_config": vision, "image_token_index": IMAGE}


def aria(text: dict[str, Any]) -> dict[str, Any]:
    text = grouped(text, moe_num_experts=4, moe_topk=2, moe_num_shared_experts=1)
    vision = {"model_type": "idefics3_vision", **VISION, "patch_size": 2}
    queries = {"projector_patch_to_query_dict": {16: 4}}
    return {"text_config": text, "vision_config": vision, "image_token_index": IMAGE, **queries}


def by_row(images: Tensor, ids: Tensor) -> Inputs:
    return {"pixel_values": images}


def flat(images: Tensor, ids: Tensor) -> Inputs:
    return {"pixel_values": images.flatten(0, 1)}


def flat_with_types(images: Tensor, ids: Tensor) -> Inputs:
    """Image tokens see each other in both directions."""
    return {**flat(images, ids), "token_type_ids": (ids == IMAGE).long()}


def flat_with_prefix(images: Tensor, ids: Tensor) -> Inputs:
    """All before the answer does."""
    return {**flat(images, ids), "token_type_ids": answer(ids).long()}


def flat_with_sizes(images: Tensor, ids: Tensor) -> Inputs:
    frames = images.flatten(0, 1)
    return {"pixel_values": frames, "image_sizes": torch.tensor([[SIZE, SIZE]]).expand(len(frames), -1)}


def crops(images: Tensor, ids: Tensor) -> Inputs:
    """The whole and two halves; here they need not be of one picture."""
    whole = images.flatten(0, 1)
    sizes = torch.tensor([[2 * SIZE, SIZE]]).expand(len(whole), -1)
    return {"pixel_values": torch.stack([whole, whole.flip(-1), whole.flip(-2)], 1), "image_sizes": sizes}


def patches(images: Tensor, ids: Tensor) -> Inputs:
    """One patch of 2 x 2 pixels and two frames a row; the four that become a token stand together."""
    frames = images.flatten(0, 1)
    blocks = frames.reshape(len(frames), 3, 2, 2, 2, 2, 2, 2).permute(0, 2, 5, 3, 6, 1, 4, 7)
    rows = blocks.reshape(-1, 3, 1, 2, 2).expand(-1, -1, 2, -1, -1).flatten(1)
    grid = torch.tensor([[1, 4, 4]]).expand(len(frames), -1)
    return {"pixel_values": rows, "image_grid_thw": grid, "mm_token_type_ids": (ids == IMAGE).long()}


def image_mask(images: Tensor, ids: Tensor) -> Tensor:
    """Which images stand before a token, (B, T, N)."""
    return ((ids == START).cumsum(1)[..., None] > torch.arange(images.shape[1])).long()


def cross(images: Tensor, ids: Tensor) -> Inputs:
    return {**by_row(images, ids), "image_attention_mask": image_mask(images, ids)}


def tiles(images: Tensor, ids: Tensor) -> Inputs:
    one = torch.ones(images.shape[:2], dtype=torch.long)
    return {
        "pixel_values": images[:, :, None],
        "aspect_ratio_ids": one,
        "aspect_ratio_mask": one[..., None],
        "cross_attention_mask": image_mask(images, ids)[..., None],
    }


FAMILIES = {
    "idefics": Family(idefics, cross, 1),
    "idefics2": Family(idefics2, by_row),
    "idefics3": Family(idefics3, by_row),
    "smolvlm": Family(idefics3, by_row),
    "llava": Family(llava, flat),
    "llava_next": Family(llava_next, crops, 5),
    "llava_onevision": Family(llava_onevision, crops, 5),
    "qwen2_vl": Family(qwen2_vl, patches),
    "qwen2_5_vl": Family(qwen2_5_vl, patches),
    "qwen3_vl": Family(qwen3_vl, patches),
    "gemma3": Family(gemma3, flat_with_types),
    "internvl": Family(internvl, flat),
    "paligemma": Family(paligemma, flat_with_prefix),
    "mistral3": Family(mistral3, flat_with_sizes),
    "mllama": Family(mllama, tiles, 1),
    "aria": Family(aria, flat),
}
