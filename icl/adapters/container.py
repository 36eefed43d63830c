"""Adapters on a model: attached, switched, swapped, saved, and taken off again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from icl import attention
from icl.adapters import storage
from icl.adapters.base import Adapter, AdapterConfig, Layer, Step
from icl.adapters.decoder import Decoder
from icl.adapters.record import Record
from icl.scores import Scores

_NAME = "icl_adapters"

Names = tuple[str, ...]


def attach(model: nn.Module, config: AdapterConfig | Sequence[AdapterConfig], name: str = "default") -> Adapters:
    """The adapters of ``model``, with a new one that is in use from now on, alone.

    The base is frozen until the last adapter is gone. Several configurations make one adapter of several methods, which
    act together: transformations of the query one after the other, all virtual keys in one softmax.

    Raises ``ValueError`` if the model has no text decoder that transformers' attention interface reaches, or if the
    name is taken.

    >>> from icl import testbed
    >>> from icl.adapters import HyperICLConfig
    >>> model, _ = testbed.load()
    >>> adapters = attach(model, HyperICLConfig(rank=4))
    >>> sum(p.numel() for p in adapters.parameters())
    2312
    >>> adapters.detach()
    """
    with _container(model) as container:
        container.add([config] if isinstance(config, AdapterConfig) else list(config), name)
    return container


def attached(model: nn.Module) -> Adapters | None:
    """The adapters of ``model``, if it has some."""
    container = model._modules.get(_NAME)
    return container if isinstance(container, Adapters) else None


@contextmanager
def _container(model: nn.Module) -> Iterator[Adapters]:
    """The adapters of ``model``, for another one; if that fails and there were none, the model is what it was."""
    found = attached(model)
    container = Adapters(model) if found is None else found
    try:
        yield container
    except BaseException:
        if found is None:
            container.detach()
        raise


class Adapters(nn.Module):
    """Made by :func:`attach`; a submodule of the model, so that its parameters move and train with the model's."""

    model: Any
    decoder: Decoder

    def __init__(self, model: nn.Module):
        super().__init__()
        decoder = Decoder(model)
        implementation = decoder.config._attn_implementation
        attention.base_of(implementation)
        # Not as submodules: the model holds these, and holds us.
        self.__dict__.update(model=model, decoder=decoder)
        self.loaded = nn.ModuleDict()
        self._use([()])
        self.step = Step()
        self._record: Record | None = None
        self._trainable = [p for p in model.parameters() if p.requires_grad]
        for p in self._trainable:
            p.requires_grad_(False)
        model.add_module(_NAME, self)
        for layer in decoder.layers:
            attention.put(layer.attention, _Site(self, layer.index))
        self._handles = [
            layer.module.register_forward_hook(partial(_after_layer, self, layer.index)) for layer in decoder.layers
        ]
        self._handles.append(model.register_forward_pre_hook(partial(_before_model, self), with_kwargs=True))
        self._intercept()

    def _intercept(self) -> None:
        """Has the decoder call our attention, also after someone gave it another implementation."""
        base = attention.base_of(self.decoder.config._attn_implementation)
        if self.decoder.config._attn_implementation == base:
            # Not of what is in it: in Idefics it is the configuration of the whole model, the vision tower's included.
            self.decoder.config._attn_implementation = {"": attention.NAMES[base]}

    # Which are there, and which are in use.

    @property
    def names(self) -> Names:
        return tuple(self.loaded)

    @property
    def active(self) -> Names | list[Names]:
        """Names in use; a list of them, one entry a request, inside ``use(rows=...)``."""
        return self._requests[0] if len(self._requests) == 1 else list(self._requests)

    def __getitem__(self, name: str) -> Sequence[Adapter]:
        """The methods of an adapter."""
        self._known(name)
        return cast("Sequence[Adapter]", self.loaded[name])

    def add(self, configs: Sequence[AdapterConfig], name: str = "default") -> None:
        """Load another adapter, and use it alone from now on."""
        if not name or "." in name or name in self.loaded:
            raise ValueError(f"attach: name must be new and without dots, got {name!r} with {list(self.names)} loaded")
        if not configs or not all(isinstance(config, AdapterConfig) for config in configs):
            raise ValueError(f"attach: config must be one or several configurations of icl.adapters, got {configs}")
        parts = [config.build(self.decoder) for config in configs]
        for part in parts:
            part.install(self.model)
        self.loaded[name] = nn.ModuleList(parts)
        self.activate(name)

    def activate(self, *names: str) -> None:
        """Use these from now on, together; none if there are none."""
        self._use([tuple(names)])

    @contextmanager
    def use(self, *names: str, rows: Sequence[str | Sequence[str] | None] | None = None) -> Iterator[None]:
        """Use these inside the block, or with ``rows`` a choice for each request of the batch: a name, several or none.

        A batch of a multiple of that size, as beam search makes it, repeats each choice.
        """
        before = self._requests
        if rows is None:
            self._use([tuple(names)])
        elif names or not rows:
            raise ValueError("use: give names for all requests, or rows with one choice a request, not both")
        else:
            self._use([(row,) if isinstance(row, str) else tuple(row or ()) for row in rows])
        try:
            yield
        finally:
            self._use([tuple(n for n in request if n in self.loaded) for request in before])

    def off(self) -> Any:
        """``with adapters.off():`` runs the base alone."""
        return self.use()

    def remove(self, name: str) -> None:
        """Unload one."""
        parts = self[name]
        self._use([tuple(n for n in request if n != name) for request in self._requests])
        for part in parts:
            part.uninstall(self.model)
        del self.loaded[name]

    def detach(self) -> None:
        """Take all off; the model is what it was, to the bit."""
        for name in self.names:
            self.remove(name)
        for handle in self._handles:
            handle.remove()
        for layer in self.decoder.layers:
            attention.remove(layer.attention)
        base = attention.base_of(self.decoder.config._attn_implementation)
        self.decoder.config._attn_implementation = {"": base}
        for p in self._trainable:
            p.requires_grad_(True)
        del self.model._modules[_NAME]

    def _known(self, name: str) -> None:
        if name not in self.loaded:
            raise ValueError(f"adapters: there is no {name!r}, but {', '.join(self.names) or 'none'}")

    def _use(self, requests: list[Names]) -> None:
        used = {name for request in requests for name in request}
        for name in used:
            self._known(name)
        self._requests, self._shared = requests, set.intersection(*map(set, requests))
        self._rows: dict[tuple[str, int, torch.device], Tensor] = {}
        for name in self.names:
            for part in self[name]:
                part.switch([name in request for request in requests])
        # By layer, so that a pass looks nothing up.
        self._plan = [
            [(at, name) for name in self.names if name in used for part in self[name] if (at := part.at(layer.index))]
            for layer in self.decoder.layers
        ]

    # What layers see.

    def uses(self, index: int, batch: int, device: torch.device) -> list[tuple[Layer, Tensor | None]]:
        return [(layer, self._seen(name, batch, device)) for layer, name in self._plan[index]]

    def _seen(self, name: str, batch: int, device: torch.device) -> Tensor | None:
        if name in self._shared:
            return None
        key = (name, batch, device)
        if key not in self._rows:
            if batch % len(self._requests):
                raise ValueError(f"use: rows has {len(self._requests)} choices for a batch of {batch}")
            chosen = torch.tensor([name in request for request in self._requests], device=device)
            self._rows[key] = chosen.repeat_interleave(batch // len(self._requests))
        return self._rows[key]

    @contextmanager
    def record(
        self, *, hidden: bool | Tensor = True, heads: bool = False, attention: Tensor | None = None
    ) -> Iterator[Record]:
        """What the layers put out in the passes inside the block: see :class:`Record`. The last pass stays."""
        before, self._record = self._record, Record(hidden, heads, attention)
        try:
            yield self._record
        finally:
            self._record = before

    def save_pretrained(self, path: str | Path, name: str = "default") -> None:
        """Write configuration and weights of one adapter to the folder ``path``, files named as peft does."""
        storage.save(Path(path), self[name], self.decoder, getattr(self.model.config, "name_or_path", ""))

    @staticmethod
    def from_pretrained(model: nn.Module, path: str | Path, name: str = "default") -> Adapters:
        """``model`` with the adapter saved in ``path``, in use.

        ``ValueError`` if the folder holds none, if its files do not fit each other, or if it was trained on another
        base.
        """
        configs, tensors = storage.read(Path(path), Decoder(model))
        with _container(model) as container:
            before = container._requests
            container.add(configs, name)
            try:
                storage.restore(container[name], tensors, Path(path))
            except ValueError:
                container.remove(name)
                container._use(before)
                raise
        return container


class _Site:
    def __init__(self, adapters: Adapters, index: int):
        self.adapters, self.index = adapters, index

    def uses(self, batch: int, device: torch.device) -> list[tuple[Layer, Tensor | None]]:
        return self.adapters.uses(self.index, batch, device)

    def observe(self, scores: Scores, output: Tensor) -> None:
        if self.adapters._record is not None:
            self.adapters._record.attention_of(self.index, scores, output)


def _after_layer(adapters: Adapters, index: int, module: nn.Module, args: Any, output: Any) -> Any:
    hidden = output[0] if isinstance(output, tuple) else output
    changed = hidden
    for layer, rows in adapters.uses(index, len(hidden), hidden.device):
        new = layer.residual(changed, adapters.step)
        if new is not changed:
            new = new.to(hidden.dtype)
            changed = new if rows is None else torch.where(rows[:, None, None], new, changed)
    if adapters._record is not None:
        adapters._record.hidden_of(index, changed)
    if changed is hidden:
        return None
    return (changed, *output[1:]) if isinstance(output, tuple) else changed


def _before_model(adapters: Adapters, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
    adapters._intercept()
    past = kwargs.get("past_key_values")
    seen = 0 if past is None else int(past.get_seq_length())
    adapters.step = Step(seen, None if seen else _prompt_end(args, kwargs))


def _prompt_end(args: Any, kwargs: dict[str, Any]) -> Tensor | None:
    labels, mask = kwargs.get("labels"), kwargs.get("attention_mask")
    if labels is not None:
        answered = labels != -100
        if answered.any(1).all():
            return cast(Tensor, answered.int().argmax(1) - 1)
    # For a static cache generate makes masks itself: of four dimensions, or one for each kind of layer.
    if isinstance(mask, Tensor) and mask.ndim == 2:
        places = torch.arange(mask.shape[1], device=mask.device)
        return (mask.bool() * places).argmax(1)
    tokens = kwargs.get("input_ids", args[0] if args else None)
    tokens = kwargs.get("inputs_embeds") if tokens is None else tokens
    if tokens is None:
        return None
    return torch.full((len(tokens),), tokens.shape[1] - 1, device=tokens.device)
