"""Adapters on a model: attached, switched, swapped, saved, and taken off again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from icl.adapters import hooks, model_methods
from icl.adapters.activations import ActivationRecord
from icl.adapters.base import Adapter, AdapterConfig, AdapterLayer
from icl.adapters.forward_pass import AdapterNames, ForwardPass, HookPoint, PassTracker, PromptLayout
from icl.adapters.scoped_values import ScopedValues
from icl.adapters.storage import read_adapter, restore_adapter, save_adapter
from icl.attention import ATTENTION_NAMES, Decoder, base_of, internals, put_site, site_of


def attach(model: nn.Module, config: AdapterConfig | Sequence[AdapterConfig], name: str = "default") -> Adapters:
    """Return the adapters of ``model``, with a new one that is in use from now on, alone.

    ``model`` may be wrapped by peft or torch.compile; the adapters are then on the model inside. The base is frozen
    until the last adapter is gone. Several configurations make one adapter of several methods, which act together:
    transformations of the query one after the other, all virtual keys in one softmax.

    Raises:
        ValueError: if the model has no text decoder that transformers' attention interface reaches, or an encoder, or
            if the name is taken; :class:`icl.attention.internals.IncompatibleModelError`, which is one too, if the
            model does not behave as adapters have to assume, then or in the first pass.

    >>> from icl import testbed
    >>> from icl.adapters import HyperICLConfig
    >>> model, _ = testbed.load()
    >>> adapters = attach(model, HyperICLConfig(rank=4))
    >>> sum(p.numel() for p in adapters.parameters())
    2312
    >>> adapters.detach()
    """
    with _container(model) as adapters:
        adapters.add([config] if isinstance(config, AdapterConfig) else list(config), name)
    return adapters


def attached(model: nn.Module) -> Adapters | None:
    """Return the adapters of ``model``, or of what it wraps, if it has some."""
    adapters = internals.unwrapped(model)[-1]._modules.get(Adapters.KEY)
    return adapters if isinstance(adapters, Adapters) else None


@contextmanager
def _container(model: nn.Module) -> Iterator[Adapters]:
    """Yield the adapters of ``model``, to add one; if that fails and there were none, the model is what it was."""
    before = attached(model)
    adapters = before or Adapters(model)
    try:
        yield adapters
    except BaseException:
        if before is None:
            adapters.detach()
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
        if any(layer.attention is not None and site_of(layer.attention) for layer in decoder.layers):
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
        self._handles = hooks.install(self, wrappers)
        model_methods.install(self)
        self.intercept()

    def intercept(self) -> None:
        """Have the decoder call our attention, also after someone gave it another implementation."""
        name = internals.attention_of(self.decoder.config)
        base = base_of(name)
        if name == base:
            internals.set_attention(self.decoder.config, ATTENTION_NAMES[base])

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        """Move with the model, and stay float32 over any base: ``model.half()`` is for the base."""

        def move(value: Tensor) -> Tensor:
            changed: Tensor = fn(value)
            return value.to(changed.device) if changed.dtype != value.dtype else changed

        return super()._apply(move, recurse)

    # Adapters that are loaded, and those in use.

    @property
    def names(self) -> AdapterNames:
        """Names of all that are loaded."""
        return tuple(self.loaded)

    @property
    def active(self) -> AdapterNames | list[AdapterNames]:
        """Names in use; a list of them, one entry a request, inside ``use(rows=...)``."""
        requests = self.requests()
        return requests[0] if len(requests) == 1 else list(requests)

    def __getitem__(self, name: str) -> Sequence[Adapter]:
        """Return the methods of an adapter."""
        self._check_names([(name,)])
        return cast("Sequence[Adapter]", self.loaded[name])

    def add(self, configs: Sequence[AdapterConfig], name: str = "default") -> None:
        """Load another adapter, and use it alone from now on."""
        if not configs or not all(isinstance(config, AdapterConfig) for config in configs):
            raise ValueError(f"attach: config must be one or several configurations of icl.adapters, got {configs}")
        self._load([config.build(self.decoder) for config in configs], name)

    def _load(self, parts: Sequence[Adapter], name: str) -> None:
        if not name or "." in name or name in self.loaded:
            raise ValueError(f"attach: name must be new and without dots, got {name!r} with {list(self.names)} loaded")
        for part in parts:
            part.install(self)
        self.loaded[name] = nn.ModuleList(parts)
        self._requests = ((name,),)
        self.activate(name)

    def activate(self, *names: str) -> None:
        """Use these from now on, together; none if there are none. Inside a :meth:`use` until it ends."""
        requests = self._check_names([tuple(names)])
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
            requests = self._check_names([tuple(names)])
        elif names or not rows:
            raise ValueError("use: give names for all requests, or rows with one choice a request, not both")
        else:
            requests = self._check_names([(row,) if isinstance(row, str) else tuple(row or ()) for row in rows])
        with self.scoped.setting("requests", requests, by="use"):
            yield

    def off(self) -> AbstractContextManager[None]:
        """Run the base alone: ``with adapters.off():``."""
        return self.use()

    @contextmanager
    def prompt(self, length: int) -> Iterator[None]:
        """Have passes inside the block, called by hand, read prompts of ``length`` tokens, in the cache or not.

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
        """Take all off; the model is as it was, to the bit."""
        for name in self.names:
            self.remove(name)
        for handle in self._handles:
            handle.remove()
        model_methods.uninstall(self)
        for layer in self.decoder.layers:
            if layer.attention is not None:
                put_site(layer.attention, None)
        config = self.decoder.config
        internals.set_attention(config, base_of(internals.attention_of(config)))
        for p in self._trainable:
            p.requires_grad_(True)
        del self.model._modules[self.KEY]

    def _check_names(self, requests: list[AdapterNames]) -> Sequence[AdapterNames]:
        for name in (name for request in requests for name in request):
            if name not in self.loaded:
                raise ValueError(f"adapters: there is no {name!r}, but {', '.join(self.names) or 'none'}")
        return tuple(requests)

    def requests(self) -> Sequence[AdapterNames]:
        """Return the names in use here, by request, without what has been removed since."""
        requests: Sequence[AdapterNames] = self.scoped.get("requests", self._requests)
        return [tuple(name for name in request if name in self.loaded) for request in requests]

    def needs_end(self) -> bool:
        """Return whether something in use acts at the end of the prompt alone."""
        parts = [part for request in self.requests() for name in request for part in self[name]]
        return any(layer.needs_end for part in parts for layer in part.acting())

    # Passes, as layers see them.

    @property
    def step(self) -> ForwardPass:
        """The pass that runs in this thread, or ran last."""
        return self.passes.now

    def new_pass(self) -> ForwardPass:
        """Return a pass with what is in use here. ``ValueError`` where adapters have been frozen or offloaded."""
        self.scoped.check()
        requests = self.requests()
        if self.scoped.get("prompt") is not None and requests != (before := self.scoped.get("requests", requests)):
            lost = {name for request in before for name in request} - set(self.names)
            if lost:
                raise ValueError(f"adapters: {', '.join(sorted(lost))} was removed while it was in use by generate")
        used = {name for request in requests for name in request}
        parts = [(part, name) for name in self.names if name in used for part in self[name]]
        patches: Mapping[int, AdapterLayer] = self.scoped.get("patches", {})
        plan = [
            [(layer, name) for part, name in parts if (layer := part.at(each.index)) is not None]
            + [(patch, None) for index, patch in patches.items() if index == each.index]
            for each in self.decoder.layers
        ]
        self._check_parameters([parameter for part, _ in parts for parameter in part.parameters()])
        notes = {part.key: note for part, _ in parts if (note := self.scoped.get(part.key)) is not None}
        return ForwardPass(requests, plan if parts or patches else (), notes, self.scoped.get("record"))

    def patched(self, layers: Mapping[int, AdapterLayer]) -> AbstractContextManager[None]:
        """Have these layers act as well in passes inside the block, by layer of the decoder, for all requests."""
        return self.scoped.setting("patches", layers)

    def _check_parameters(self, parameters: Sequence[nn.Parameter]) -> None:
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

    def expected(self, step: ForwardPass) -> set[HookPoint]:
        """Return what a pass has to reach: attention and the layers around it, and what methods hook themselves."""
        attentive = [layer.index for layer in self.decoder.layers if layer.attention is not None]
        own = [layer.hook_points for layers in step.plan for layer, _ in layers]
        return {(kind, index) for index in attentive for kind in ("layer", "attention")}.union(*own)

    @contextmanager
    def record(
        self, *, hidden: bool | Tensor = True, heads: bool = False, attention: Tensor | None = None
    ) -> Iterator[ActivationRecord]:
        """Record what the layers put out in the passes inside the block; the last pass stays."""
        record = ActivationRecord(hidden, heads, attention)
        with self.scoped.setting("record", record):
            try:
                yield record
            finally:
                self.passes.forget(record)

    def save_pretrained(self, path: str | Path, name: str = "default") -> None:
        """Write configuration and weights of one adapter to the folder ``path``, files named as peft does."""
        save_adapter(Path(path), self[name], self.decoder, getattr(self.model.config, "name_or_path", ""))

    @staticmethod
    def from_pretrained(model: nn.Module, path: str | Path, name: str = "default") -> Adapters:
        """Return the adapters of ``model`` with the one saved in ``path``, in use.

        Raises:
            ValueError: if the folder holds none, if its files do not fit each other, or if it was trained on another
                base.
        """
        with _container(model) as adapters:
            configs, tensors = read_adapter(Path(path), adapters.decoder)
            parts = [config.build(adapters.decoder) for config in configs]
            restore_adapter(parts, tensors, Path(path))
            adapters._load(parts, name)
        return adapters
