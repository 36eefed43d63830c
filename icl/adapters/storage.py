"""An adapter on disk: its configuration and base in JSON, its weights in safetensors, in files named as peft does.

:func:`save_adapter` writes the files, :func:`read_adapter` and :func:`restore_adapter` read and load them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from icl.adapters.base import Adapter, AdapterConfig
from icl.attention import Decoder, LayerShape
from icl.common.configuration import brief
from icl.common.files import read_json, replacing, same_format, write_json

FORMAT = 1
CONFIG_FILE, WEIGHTS_FILE = "adapter_config.json", "adapter_model.safetensors"


def save_adapter(folder: Path, parts: Sequence[Adapter], decoder: Decoder, base_name: str) -> None:
    """Write the methods of an adapter, and the fingerprint of their base.

    ``OSError`` if they cannot be written; an adapter that was there before is left then.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {key: value.detach().contiguous().cpu() for key, value in _collect_state(parts).items()}
    try:
        with replacing(folder / WEIGHTS_FILE) as draft:
            save_file(tensors, draft, metadata={"format": "pt"})
    except SafetensorError as error:
        raise OSError(f"save_pretrained: {folder / WEIGHTS_FILE} cannot be written: {error}") from error
    described = {
        "format": FORMAT,
        "parts": [part.config.to_dict() for part in parts],
        "base": decoder.fingerprint(),
        "base_model_name_or_path": base_name,
    }
    write_json(folder / CONFIG_FILE, described)


def read_adapter(folder: Path, decoder: Decoder) -> tuple[list[AdapterConfig], dict[str, Tensor]]:
    """Return configurations and weights of an adapter. ``ValueError`` if they are none, or for another base."""
    described = read_config(folder)
    configs = [AdapterConfig.from_dict(part) for part in described["parts"]]
    reason = decoder.mismatch(described["base"])
    if reason is not None:
        raise ValueError(f"from_pretrained: {folder} was trained on another base: {reason}")
    try:
        return configs, load_file(folder / WEIGHTS_FILE)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"from_pretrained: {folder / WEIGHTS_FILE} cannot be read: {error}") from error


def read_config(folder: Path) -> dict[str, Any]:
    """Return the description that :func:`save_adapter` wrote beside the weights. ``ValueError`` if it is not that."""
    file = folder / CONFIG_FILE
    try:
        described = read_json(file)
    except (OSError, ValueError) as error:
        raise ValueError(f"from_pretrained: {file} cannot be read: {error}") from error
    if not isinstance(described, dict) or not same_format(described.get("format"), FORMAT):
        raise ValueError(f"from_pretrained: {file} must be of format {FORMAT}, the one that this version reads")
    parts = described.get("parts")
    if not isinstance(parts, list) or not all(isinstance(p, dict) for p in parts) or not parts:
        raise ValueError(f"from_pretrained: {file} must have a list of parts, got {brief(parts)}")
    name = described.get("base_model_name_or_path", "")
    if not isinstance(name, str):
        raise ValueError(f"from_pretrained: {file}: base_model_name_or_path must be a text, got {brief(name)}")
    _check_base(file, described.get("base"))
    return described


def _check_base(file: Path, base: Any) -> None:
    """Raise ``ValueError`` for what is not as :meth:`icl.attention.Decoder.fingerprint` describes a base."""
    sizes = {"architecture": str, "layers": int} | {f.name: int for f in fields(LayerShape)}
    if not isinstance(base, dict) or not all(type(base.get(name)) is kind for name, kind in sizes.items()):
        raise ValueError(f"from_pretrained: {file} must describe its base by {', '.join(sizes)}, got {brief(base)}")
    samples = base.get("values")
    if not isinstance(samples, dict) or not all(
        isinstance(numbers, list) and all(type(number) is float for number in numbers) for numbers in samples.values()
    ):
        raise ValueError(f"from_pretrained: {file}: values of its base must be lists of numbers, got {brief(samples)}")


def count_parameters(folder: Path) -> int:
    """Return how many numbers an adapter's weights have, which are not read. ``ValueError`` if they are damaged."""
    file = folder / WEIGHTS_FILE
    try:
        with safe_open(file, "pt") as weights:
            return sum(math.prod(weights.get_slice(name).get_shape()) for name in weights.keys())  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{file} cannot be read: {error}") from error


def restore_adapter(parts: Sequence[Adapter], tensors: dict[str, Tensor], folder: Path) -> None:
    """Load the weights into the methods. ``ValueError`` if names or shapes are not those of the configuration."""
    expected = _collect_state(parts)
    if wrong := sorted(set(expected) ^ set(tensors)):
        raise ValueError(f"from_pretrained: weights of {folder} do not match their configuration, first {wrong[0]}")
    for key, value in expected.items():
        if value.shape != tensors[key].shape:
            raise ValueError(
                f"from_pretrained: {key} of {folder} must be {tuple(value.shape)}, got {tuple(tensors[key].shape)}"
            )
        if not (tensors[key].is_floating_point() and tensors[key].isfinite().all()):
            raise ValueError(f"from_pretrained: {key} of {folder} must be finite numbers in floating point")
    for i, part in enumerate(parts):
        part.load_state_dict({key.partition(".")[2]: v for key, v in tensors.items() if key.startswith(f"{i}.")})


def _collect_state(parts: Sequence[Adapter]) -> dict[str, Tensor]:
    return {f"{i}.{key}": value for i, part in enumerate(parts) for key, value in part.state_dict().items()}
