"""Vision-language models by name, each with its processor, and what tells one from another of the same name."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

from icl.common import hub
from icl.common.files import digest, digest_file
from icl.common.sources import find_source


def load_model(name: str) -> tuple[Any, Any]:
    """Return a vision-language model and its processor, on a GPU if there is one.

    Args:
        name: a path or a name on the hub for transformers' auto classes, "testbed", or "testbed:" and what
            :func:`icl.testbed.load` takes. Code that comes with a model is not run.

    Raises:
        ValueError: for a model that is not there or cannot be loaded, for one that writes no text about images, and
            for one whose processor takes packages that are not installed: those that read videos as well (Qwen2-VL,
            SmolVLM) take the extra "video".
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if (named := find_source(name)) is not None:
        source, rest = named
        source_model, source_processor = source.load_model(rest)
        return source_model.to(device), source_processor
    where = hub.locate(name)
    with hub.loading(name):
        kind = transformers.AutoConfig.from_pretrained(name, **where).model_type
    if kind not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES:
        raise ValueError(
            f"model: {name} is a {kind}, which writes no text about images: name a vision-language model such as "
            "HuggingFaceM4/idefics2-8b. Models that embed, such as CLIP, are for banks (icl bank build --model)"
        )
    processor = _load_processor(name, where)
    if not isinstance(processor, transformers.ProcessorMixin):
        raise ValueError(f"model: {name} has no processor of images and text, but a {type(processor).__name__}")
    with hub.loading(name):
        model: Any = transformers.AutoModelForImageTextToText.from_pretrained(name, dtype="auto", **where)
    return model.to(device).eval(), processor


# Weights, configurations, tokenizers and templates; not what else may lie in a folder.
_READ = (".safetensors", ".bin", ".json", ".jinja", ".model", ".txt")


def model_identity(name: str) -> str | None:
    """Return a digest of all bytes of a model's files, or its commit on the hub, without loading it.

    It tells the model of this name from another that took its place. ``None`` for a model of the hub that is not on
    this machine yet.
    """
    named = find_source(name)
    folder = Path(name) if named is None else named[0].model_folder(named[1])
    if not folder.is_dir():
        file = hub.cached(name)  # .../snapshots/COMMIT/config.json
        return None if file is None else file.parent.name
    files = sorted(path for path in folder.iterdir() if path.suffix in _READ and path.is_file())
    with ThreadPoolExecutor() as pool:
        return digest(repr(list(zip([path.name for path in files], pool.map(digest_file, files)))))


# Packages that some processors import when they are loaded, by how their errors call them.
_FOR_VIDEO = ("torchvision", "num2words")


def _load_processor(name: str, where: dict[str, bool]) -> Any:
    try:
        return transformers.AutoProcessor.from_pretrained(name, **where)
    except Exception as error:
        missing = [package for package in _FOR_VIDEO if package in str(error).lower()]
        if not missing:
            raise ValueError(f"model: the processor of {name} cannot be loaded: {hub.brief(error)}") from error
        raise ValueError(
            f"model: the processor of {name} needs {missing[0]}, which is not installed: "
            "pip install 'hyperbolic-icl[video]', with a torchvision for the torch that is there"
        ) from error
