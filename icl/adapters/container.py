"""Adapters on a model: attached, switched, swapped, saved, and taken off again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from icl.adapters import hooks
from icl.adapters.activations import ActivationRecord
from icl.adapters.base import Adapter, AdapterConfig, AdapterLayer
from icl.adapters.forward_pass import AdapterNames, ForwardPass, HookPoint, PassTracker, PromptLayout, ScopedValues
from icl.adapters.storage import read_adapter, restore_adapter, save_adapter
from icl.attention import ATTENTION_NAMES, AttentionScores, Decoder, base_of, has_site, internals, put_site, remove_site


def attach(model: nn.Module, config: AdapterConfig | Sequence[AdapterConfig], name: str = "default") -> Adapters:
    """The adapters of ``model``, with a new one that is in use from now on, alone.

    ``model`` may be wrapped by peft or torch.compile; the adapters are then on the model inside. The base is frozen
    until the last adapter is gone. Several configurations make one adapter of several methods, which act together:
    transformations of the query one after the other, all virtual keys in one softmax.

    Raises ``ValueError`` if the model has no text decoder that transformers' attention interface reaches, or an
    encoder, or if the name is taken; :class:`icl.attention.internals.IncompatibleModelError`, which is one too, if
    the model does not behave as adapters have to assume, then or in the first pass.

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
    """The adapters of ``model``, or of what it wraps, if it has some."""
    container = internals.unwrapped(model)[-1]._modules.get(Adapters.KEY)
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
    """Made by :func:`attach`; a submodule of the model, so that its parameters move and train with the model's.

    What :meth:`use`, :meth:`record` and :meth:`prompt` choose holds for the thread or task that calls them;
    :meth:`activate` outside of such a block chooses for all that do not.
    """

    KEY = "icl_adapters"

    model: Any
    decoder: Decoder
    scoped: ScopedValues
    passes: PassTracker

    def __init__(self, model: nn.Module):
        super().__init__()
        *wrappers, model = internals.unwrapped(model)
        decoder = Decoder(model)
        if any(layer.attention is not None and has_site(layer.attention) for layer in decoder.layers):
            raise ValueError(
                "attach: layers of this model have adapters already, attached to a model that shares them or has this "
                "one inside: attach to that one, or detach there first"
            )
        base_of(internals.attention_of(decoder.config))
        # Not as submodules: the model holds these, and holds us.
        self.__dict__.update(model=model, decoder=decoder)
        self.loaded = nn.ModuleDict()
        self.scoped, self.passes = ScopedValues(), PassTracker([ForwardPass()])
        self._requests: Sequence[AdapterNames] = ((),)
        self._peft = internals.wrapped_by_peft(model)
        self._trainable = [p for p in model.parameters() if p.requires_grad]
        for p in self._trainable:
            p.requires_grad_(False)
        model.add_module(self.KEY, self)
        for layer in decoder.layers:
            if layer.attention is not None:
                put_site(layer.attention, _Site(self, layer.index))
        self._handles = hooks.install(self, wrappers)
        self.intercept()

    def intercept(self) -> None:
        """Has the decoder call our attention, also after someone gave it another implementation."""
        name = internals.attention_of(self.decoder.config)
        base = base_of(name)
        if name == base:
            internals.set_attention(self.decoder.config, ATTENTION_NAMES[base])

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        """Moved with the model, and float32 over any base: ``model.half()`` is for the base."""

        def moved(value: Tensor) -> Tensor:
            changed: Tensor = fn(value)
            return value.to(changed.device) if changed.dtype != value.dtype else changed

        return super()._apply(moved, recurse)

    # Which are there, and which are in use.

    @property
    def names(self) -> AdapterNames:
        return tuple(self.loaded)

    @property
    def active(self) -> AdapterNames | list[AdapterNames]:
        """Names in use; a list of them, one entry a request, inside ``use(rows=...)``."""
        requests = self.requests()
        return requests[0] if len(requests) == 1 else list(requests)

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
            part.install(self)
        self.loaded[name] = nn.ModuleList(parts)
        self._requests = ((name,),)
        self.activate(name)

    def activate(self, *names: str) -> None:
        """Use these from now on, together; none if there are none. Inside a :meth:`use` until it ends."""
        self._choose(self._checked([tuple(names)]))

    def _choose(self, requests: Sequence[AdapterNames]) -> None:
        if self.scoped.has("requests"):
            self.scoped.assign("requests", requests)
        else:
            self._requests = requests

    @contextmanager
    def use(self, *names: str, rows: Sequence[str | Sequence[str] | None] | None = None) -> Iterator[None]:
        """Use these inside the block, or with ``rows`` a choice for each request of the batch: a name, several or none.

        A batch of a multiple of that size, as beam search makes it, repeats each choice. Threads and tasks choose for
        themselves. One that runs the model without having chosen, while a block is open in another, raises
        ``RuntimeError``: it may have been meant.
        """
        if rows is None:
            requests = self._checked([tuple(names)])
        elif names or not rows:
            raise ValueError("use: give names for all requests, or rows with one choice a request, not both")
        else:
            requests = self._checked([(row,) if isinstance(row, str) else tuple(row or ()) for row in rows])
        with self.scoped.setting("requests", requests, by="use"):
            yield

    def off(self) -> Any:
        """``with adapters.off():`` runs the base alone."""
        return self.use()

    @contextmanager
    def prompt(self, length: int) -> Iterator[None]:
        """Passes inside the block, called by hand, read prompts of ``length`` tokens, those in the cache included.

        ``generate`` knows that by itself. Otherwise the first pass on an empty cache is taken for the whole prompt,
        and task and function vectors, which act at its last token, refuse passes that do not tell.
        """
        if length < 1:
            raise ValueError(f"prompt: length must be at least 1, got {length}")
        with self.scoped.setting("prompt", PromptLayout(length), by="prompt"):
            yield

    def remove(self, name: str) -> None:
        """Unload one."""
        for part in self[name]:
            part.uninstall()
        del self.loaded[name]

    def detach(self) -> None:
        """Take all off; the model is what it was, to the bit."""
        for name in self.names:
            self.remove(name)
        for handle in self._handles:
            handle.remove()
        hooks.uninstall(self)
        for layer in self.decoder.layers:
            if layer.attention is not None:
                remove_site(layer.attention)
        config = self.decoder.config
        internals.set_attention(config, base_of(internals.attention_of(config)))
        for p in self._trainable:
            p.requires_grad_(True)
        del self.model._modules[self.KEY]

    @contextmanager
    def hidden(self) -> Iterator[None]:
        """The model without the adapters' parameters among its own."""
        del self.model._modules[self.KEY]
        try:
            yield
        finally:
            self.model._modules[self.KEY] = self

    def _checked(self, requests: list[AdapterNames]) -> Sequence[AdapterNames]:
        for name in {name for request in requests for name in request}:
            self._known(name)
        return tuple(requests)

    def _known(self, name: str) -> None:
        if name not in self.loaded:
            raise ValueError(f"adapters: there is no {name!r}, but {', '.join(self.names) or 'none'}")

    def requests(self) -> Sequence[AdapterNames]:
        """What is in use here, by request, without what has been removed since."""
        requests: Sequence[AdapterNames] = self.scoped.get("requests", self._requests)
        return [tuple(name for name in request if name in self.loaded) for request in requests]

    def needs_end(self) -> bool:
        """Whether something in use acts at the end of the prompt alone."""
        used = {name for request in self.requests() for name in request}
        return any(layer.needs_end for name in used for part in self[name] for layer in part.acting())

    # What layers see.

    @property
    def step(self) -> ForwardPass:
        """The pass that runs in this thread, or ran last."""
        return self.passes.now

    def new_pass(self) -> ForwardPass:
        """A pass with what is in use here. ``ValueError`` where adapters have been frozen or moved under it."""
        self.scoped.check()
        requests = self.requests()
        if self.scoped.get("prompt") is not None and requests != (before := self.scoped.get("requests", requests)):
            lost = {name for request in before for name in request} - set(self.names)
            if lost:
                raise ValueError(f"adapters: {', '.join(sorted(lost))} was removed while it was in use by generate")
        used = {name for request in requests for name in request}
        parts = [(part, name) for name in self.names if name in used for part in self[name]]
        plan = [
            [(layer, name) for part, name in parts if (layer := part.at(each.index)) is not None]
            for each in self.decoder.layers
        ]
        self._usable([part for part, _ in parts])
        notes = {part.key: note for part, _ in parts if (note := self.scoped.get(part.key)) is not None}
        return ForwardPass(requests, plan if parts else (), notes, self.scoped.get("record"))

    def _usable(self, parts: Sequence[Adapter]) -> None:
        parameters = [p for part in parts for p in part.parameters()]
        if any(p.is_meta for p in parameters[:1]):
            raise ValueError(
                "adapters: their parameters have been offloaded, and layers do not bring them back: offload or "
                "dispatch the model first (accelerate, device_map), then attach"
            )
        frozen = parameters and torch.is_grad_enabled() and not any(p.requires_grad for p in parameters)
        if frozen and not self._peft and internals.wrapped_by_peft(self.model):
            raise ValueError(
                "adapters: peft has frozen them, since it was put on the model after them: call get_peft_model first, "
                "then attach to what it returns"
            )

    def expected(self, running: ForwardPass) -> set[HookPoint]:
        """What has to be reached in a pass: attention and the layers around it, and what methods hook themselves."""
        places: set[HookPoint] = set()
        for layer in self.decoder.layers:
            if layer.attention is not None:
                places |= {("layer", layer.index), ("attention", layer.index)}
        for layers in running.plan:
            for adapted, _ in layers:
                places |= adapted.places
        return places

    @contextmanager
    def record(
        self, *, hidden: bool | Tensor = True, heads: bool = False, attention: Tensor | None = None
    ) -> Iterator[ActivationRecord]:
        """Record what the layers put out in the passes inside the block; the last pass stays."""
        kept = ActivationRecord(hidden, heads, attention)
        with self.scoped.setting("record", kept):
            try:
                yield kept
            finally:
                self.passes.forget(kept)

    def save_pretrained(self, path: str | Path, name: str = "default") -> None:
        """Write configuration and weights of one adapter to the folder ``path``, files named as peft does."""
        save_adapter(Path(path), self[name], self.decoder, getattr(self.model.config, "name_or_path", ""))

    @staticmethod
    def from_pretrained(model: nn.Module, path: str | Path, name: str = "default") -> Adapters:
        """``model`` with the adapter saved in ``path``, in use.

        ``ValueError`` if the folder holds none, if its files do not fit each other, or if it was trained on another
        base.
        """
        configs, tensors = read_adapter(Path(path), Decoder(internals.unwrapped(model)[-1]))
        with _container(model) as container:
            before = container.requests()
            container.add(configs, name)
            try:
                restore_adapter(container[name], tensors, Path(path))
            except ValueError:
                container.remove(name)
                container._choose(before)
                raise
        return container


class _Site:
    """On an attention module: what adapters do there in the pass that runs."""

    def __init__(self, adapters: Adapters, index: int):
        self.adapters, self.index = adapters, index

    @property
    def model(self) -> nn.Module:
        model: nn.Module = self.adapters.model
        return model

    def uses(self, query: Tensor, key: Tensor) -> list[tuple[AdapterLayer, Tensor | None]]:
        now, heads = self.adapters.passes.now, self.adapters.decoder.layers[self.index].shape
        now.reached.add(("attention", self.index))
        if query.ndim != 4 or (query.shape[1], query.shape[3]) != (heads.heads, heads.head_dim):
            raise internals.incompatible(
                self.model,
                f"attention of layer {self.index} gets queries of shape {tuple(query.shape)} where (B, {heads.heads}, "
                f"T, {heads.head_dim}) belongs",
            )
        if not now.cached and key.shape[2] != query.shape[2]:
            raise internals.incompatible(
                self.model, f"layer {self.index} reads a cache, and none was among the arguments of the decoder"
            )
        return now.uses(self.index, len(query), query.device)

    def observe(self, scores: AttentionScores, output: Tensor) -> None:
        record = self.adapters.passes.now.record
        if record is not None:
            record.attention_of(self.index, scores, output)
