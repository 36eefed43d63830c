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

from hyperbolic.plot.pictures import load_image as load_image
from icl.common import hub
from icl.common.failures import RowFailure


@dataclass(frozen=True)
class EmbeddingBatch:
    """Unit vectors (rows that worked, width), which rows these are, and those that failed."""

    embeddings: Tensor
    rows: Tensor
    failures: list[RowFailure]


class Embedder:
    """A model with ``get_image_features`` and ``get_text_features``, by its name on the hub or its local path.

    Args:
        name: for ``AutoModel`` and ``AutoProcessor``; code that comes with the model is not run.
        device: default: a GPU if there is one.
        dtype: of the model; default: bfloat16 on a GPU, else float32. Embeddings are float32.
    """

    def __init__(
        self, name: str | Path, device: str | None = None, dtype: torch.dtype | None = None, batch_size: int = 64
    ):
        from transformers import AutoModel, AutoProcessor

        if batch_size < 1:
            raise ValueError(f"Embedder: batch_size must be at least 1, got {batch_size}")
        self.name, self.batch_size = str(name), batch_size
        self.device = _device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        if dtype is None:
            dtype = torch.bfloat16 if self.device.type == "cuda" else torch.float32
        self.dtype = dtype
        if self.name.partition(":")[0] == "testbed":
            raise ValueError("Embedder: the testbed embeds nothing: name a model such as openai/clip-vit-base-patch32")
        where = hub.locate(self.name)
        with hub.loading(self.name):
            self.model = AutoModel.from_pretrained(self.name, dtype=dtype, **where).to(self.device).eval()
        missing = [f for f in ("get_image_features", "get_text_features") if not hasattr(self.model, f)]
        if missing:
            raise ValueError(f"Embedder: {self.name} is a {type(self.model).__name__}, which has no {missing[0]}")
        with hub.loading(self.name):
            self.processor = AutoProcessor.from_pretrained(self.name, **where)
        self.text_length = getattr(self.model.config, "text_config", self.model.config).max_position_embeddings

    @cached_property
    def width(self) -> int:
        """Of the embeddings; configurations call it by many names, so it is measured."""
        return self.texts([""]).embeddings.shape[1]

    def images(self, images: Sequence[str | Path | Image.Image]) -> EmbeddingBatch:
        """One that does not decode is skipped and reported."""

        def load(image: str | Path | Image.Image) -> dict[str, Tensor]:
            # pixels one by one, so that no batch of full-size images is held
            return dict(self.processor(images=[load_image(image)], return_tensors="pt"))

        def features(batch: list[dict[str, Tensor]]) -> Any:
            stacked = {key: torch.cat([item[key] for item in batch]).to(self.device) for key in batch[0]}
            inputs = {k: v.to(self.model.dtype) if v.is_floating_point() else v for k, v in stacked.items()}
            return self.model.get_image_features(**inputs)

        return self._embed(images, load, features)

    def texts(self, texts: Sequence[str]) -> EmbeddingBatch:
        """Longer texts than the model reads are cut."""

        def load(text: str) -> str:
            if not isinstance(text, str):
                raise TypeError(f"not a text but {type(text).__name__}")
            return text

        def features(batch: list[str]) -> Any:
            # to the full length, because some models (SigLIP) were trained so and others do not mind
            inputs = self.processor(
                text=batch, return_tensors="pt", padding="max_length", max_length=self.text_length, truncation=True
            ).to(self.device)
            keys = ("input_ids", "attention_mask")
            return self.model.get_text_features(**{key: inputs[key] for key in keys if key in inputs})

        return self._embed(texts, load, features)

    def _embed(
        self, items: Sequence[Any], load: Callable[[Any], Any], features: Callable[[list[Any]], Any]
    ) -> EmbeddingBatch:
        results, rows, failures = [], [], []
        with ThreadPoolExecutor() as pool:

            def submit(start: int) -> list[Future[Any]]:
                return [pool.submit(load, item) for item in items[start : start + self.batch_size]]

            ahead = submit(0)
            for start in range(0, len(items), self.batch_size):
                # the next batch is decoded while this one is embedded
                loading, ahead = ahead, submit(start + self.batch_size)
                batch = []
                for row, loaded in enumerate(loading, start):
                    error = loaded.exception()  # decoders raise whatever a broken file makes them raise
                    if error is None:
                        batch.append(loaded.result())
                        rows.append(row)
                    else:
                        failures.append(RowFailure(row, str(items[row]), f"{type(error).__name__}: {error}"))
                if batch:
                    with torch.no_grad():
                        out = features(batch)
                    # tensors in older versions of transformers
                    pooled = out if isinstance(out, Tensor) else out.pooler_output
                    results.append(normalize(pooled.float(), dim=-1).cpu())
        embeddings = torch.cat(results) if results else torch.zeros(0, self.width)
        return EmbeddingBatch(embeddings, torch.tensor(rows, dtype=torch.int64), failures)


def _device(name: str) -> torch.device:
    try:
        torch.zeros(1, device=name).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(f"Embedder: device {name!r} cannot be used: {hub.brief(error)}") from error
    return torch.device(name)
