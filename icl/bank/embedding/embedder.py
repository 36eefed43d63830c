"""Embeddings of images and texts by any CLIP-like model of transformers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import normalize

from hyperbolic.plot.pictures import load_image
from icl.common import hub
from icl.common.failures import RowFailure


@dataclass(frozen=True)
class EmbeddingBatch:
    """Unit vectors (embedded items, width), which items these are, and those that failed."""

    embeddings: Tensor
    rows: Tensor
    failures: list[RowFailure]


class Embedder:
    """A model with ``get_image_features`` and ``get_text_features``, by its name on the hub or its local path.

    Args:
        name: for ``AutoModel`` and ``AutoProcessor``; code that comes with the model is not run.
        device: default: a GPU if there is one.
        dtype: of the model; default: bfloat16 on a GPU, else float32. Embeddings are float32.
        batch_size: images or texts that the model embeds at a time.
    """

    def __init__(
        self, name: str | Path, device: str | None = None, dtype: torch.dtype | None = None, batch_size: int = 64
    ):
        from transformers import AutoModel, AutoProcessor

        if batch_size < 1:
            raise ValueError(f"Embedder: batch_size must be at least 1, got {batch_size}")
        self.name, self.batch_size = str(name), batch_size
        self.device = _check_device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.dtype = dtype or (torch.bfloat16 if self.device.type == "cuda" else torch.float32)
        if self.name.partition(":")[0] == "testbed":
            raise ValueError("Embedder: the testbed embeds nothing: name a model such as openai/clip-vit-base-patch32")
        location = hub.locate(self.name)
        with hub.loading(self.name):
            self.model = AutoModel.from_pretrained(self.name, dtype=self.dtype, **location).to(self.device).eval()
        for feature in ("get_image_features", "get_text_features"):
            if not hasattr(self.model, feature):
                raise ValueError(f"Embedder: {self.name} is a {type(self.model).__name__}, which has no {feature}")
        with hub.loading(self.name):
            self.processor = AutoProcessor.from_pretrained(self.name, **location)
        self.text_length = getattr(self.model.config, "text_config", self.model.config).max_position_embeddings

    @cached_property
    def width(self) -> int:
        """The width of the embeddings; configurations call it by many names, so it is measured."""
        return self.texts([""]).embeddings.shape[1]

    def images(self, images: Sequence[str | Path | Image.Image]) -> EmbeddingBatch:
        """Embed images. One that does not decode is among the failures."""

        def load(image: str | Path | Image.Image) -> dict[str, Tensor]:
            # Each image becomes pixels by itself, so that no batch of full-size images is held.
            return dict(self.processor(images=[load_image(image)], return_tensors="pt"))

        def embed(batch: list[dict[str, Tensor]]) -> Any:
            pixels = {key: torch.cat([item[key] for item in batch]).to(self.device) for key in batch[0]}
            inputs = {k: v.to(self.model.dtype) if v.is_floating_point() else v for k, v in pixels.items()}
            return self.model.get_image_features(**inputs)

        return self._embed(images, load, embed)

    def texts(self, texts: Sequence[str]) -> EmbeddingBatch:
        """Embed texts. Longer ones than the model reads are cut."""

        def load(text: str) -> str:
            if not isinstance(text, str):
                raise TypeError(f"not a text but {type(text).__name__}")
            return text

        def embed(batch: list[str]) -> Any:
            # Some models (SigLIP) were trained on texts that are padded to the full length; others do not mind.
            inputs = self.processor(
                text=batch, return_tensors="pt", padding="max_length", max_length=self.text_length, truncation=True
            ).to(self.device)
            keys = ("input_ids", "attention_mask")
            return self.model.get_text_features(**{key: inputs[key] for key in keys if key in inputs})

        return self._embed(texts, load, embed)

    @torch.no_grad()
    def _embed(
        self, items: Sequence[Any], load: Callable[[Any], Any], embed: Callable[[list[Any]], Any]
    ) -> EmbeddingBatch:
        embeddings, rows, failures = [], [], []
        with ThreadPoolExecutor() as pool:

            def submit(start: int) -> list[Future[Any]]:
                return [pool.submit(load, item) for item in items[start : start + self.batch_size]]

            ahead = submit(0)
            for start in range(0, len(items), self.batch_size):
                # The next batch is decoded while this one is embedded.
                loading, ahead = ahead, submit(start + self.batch_size)
                batch = []
                for row, future in enumerate(loading, start):
                    error = future.exception()  # Decoders raise whatever a broken file makes them raise.
                    if error is None:
                        batch.append(future.result())
                        rows.append(row)
                    else:
                        failures.append(RowFailure(row, str(items[row]), f"{type(error).__name__}: {error}"))
                if batch:
                    output = embed(batch)
                    # Older versions of transformers return the tensor itself.
                    pooled = output if isinstance(output, Tensor) else output.pooler_output
                    embeddings.append(normalize(pooled.float(), dim=-1).cpu())
        vectors = torch.cat(embeddings) if embeddings else torch.zeros(0, self.width)
        return EmbeddingBatch(vectors, torch.tensor(rows, dtype=torch.int64), failures)


def _check_device(name: str) -> torch.device:
    try:
        torch.zeros(1, device=name).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(f"Embedder: device {name!r} cannot be used: {hub.brief(error)}") from error
    return torch.device(name)
