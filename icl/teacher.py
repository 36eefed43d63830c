"""The teacher: the base alone on demonstrations and query, and what it makes of them, computed once if it may be kept.

States of a teacher do not change while a student learns. Each example's have a name, made of the base, the prompt and
what was asked; on disk they are a file of their own, so that runs, workers and processes can share a folder.
"""

from __future__ import annotations

import inspect
import json
import os
import uuid
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import cache as cached
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from icl import internals
from icl.adapters import Adapters, attached
from icl.adapters.passes import Prompt
from icl.embed import digest
from icl.objective import Objective, Query, Seen

FORMAT = 1
# What the teacher makes of an example.
States = dict[str, Tensor]
# Values taken of each tensor of the base, to tell it from others.
_VALUES = 8


def observe(
    model: nn.Module,
    adapters: Adapters,
    batch: Mapping[str, Any],
    role: str,
    query: Query,
    objective: Objective,
    logits: bool,
    stack: ExitStack,
) -> Seen:
    """What the pass of ``model`` over the prompts of "student" or "teacher" puts out at the query.

    ``model`` is that of the adapters, or wraps it. Logits are computed at the window alone, or at one token if none
    are asked for: for a prompt of thousands of tokens they would be the largest tensor of all. Layers are recorded
    until ``stack`` is closed, which with checkpointing must be after the backward: it runs them again, and they must
    do the same.
    """
    positions: Tensor = batch[f"{role}_positions"]
    inputs = {name: value for name, value in batch[role].items() if name != "labels"}
    places = positions.gather(1, query.window)
    if keeps := "logits_to_keep" in _parameters(type(adapters.model).forward):
        inputs["logits_to_keep"] = places if logits else 1
    hidden: bool | Tensor = positions if objective.compares_states else False
    attention = positions if objective.attention else None
    # where the first token of the answer is read from, which labels would tell
    prompt = Prompt(inputs["attention_mask"].shape[1], places[:, 0], masked=True)
    stack.enter_context(adapters.local.setting("prompt", prompt))
    record = stack.enter_context(adapters.record(hidden=hidden, attention=attention))
    found: Tensor = model(**inputs, use_cache=False).logits
    if not keeps:
        found = found.take_along_dim(places[..., None], 1)
    elif found.ndim == 4:
        # before transformers 5.21 each row is read at the places of all rows
        own = torch.arange(len(found), device=found.device)
        found = found[own, own]
    layers = range(len(adapters.decoder.layers)) if objective.layers is None else objective.layers
    # from wherever the layer is, of a model on several devices
    states = [record.hidden[i].to(positions.device) for i in layers if objective.compares_states]
    weights = [record.attention[i].to(positions.device) for i in layers if objective.attention]
    columns = positions[:, None, None]
    return Seen(states, [w.take_along_dim(columns, 3) for w in weights], found if logits else None)


@cached
def _parameters(function: Callable[..., Any]) -> Mapping[str, Any]:
    return inspect.signature(function).parameters


class Teacher:
    """Calls give what the base without adapters makes of the teacher's prompts, without a gradient.

    Args:
        adapters: of the model.
        objective: says what is asked.
        cache: folder that it is kept in, and taken from where it is, or a dict, for small data. Prompts that change
            with every epoch are better not kept.
        precision: of autocast, in which the passes run.
    """

    def __init__(
        self,
        adapters: Adapters,
        objective: Objective,
        cache: str | Path | dict[str, States] | None = None,
        precision: str = "no",
    ):
        self.adapters, self.objective, self.precision = adapters, objective, precision
        self.cache = _Folder(Path(cache)) if isinstance(cache, str | Path) else cache
        self._name: str | None = None

    def __call__(self, model: nn.Module, batch: Mapping[str, Any], query: Query) -> Seen:
        """``model`` is that of the adapters; its mode is left as it was."""
        if self.cache is None:
            return self._run(model, batch, query)
        names = [self._name_of(model, prompt) for prompt in batch["digest"]]
        entries = [self.cache.get(name) for name in names]
        found = [entry for entry in entries if entry is not None]
        if len(found) == len(entries):
            return self._joined(found, query)
        seen = self._run(model, batch, query)
        for name, entry, new in zip(names, entries, _rows(seen, query)):
            if entry is None:
                self.cache[name] = new
        return seen

    def _run(self, model: nn.Module, batch: Mapping[str, Any], query: Query) -> Seen:
        with torch.no_grad(), self.adapters.off(), _evaluating(model), ExitStack() as stack:
            wants_logits = self.objective.logits > 0
            return observe(model, self.adapters, batch, "teacher", query, self.objective, wants_logits, stack)

    def _name_of(self, model: nn.Module, prompt: str) -> str:
        if self._name is None:
            o = self.objective
            asked = [o.compares_states, o.attention > 0, o.logits > 0, o.layers, self.precision]
            self._name = digest(json.dumps([FORMAT, fingerprint(model), *asked]))
        return digest(self._name + prompt)

    def _joined(self, entries: Sequence[States], query: Query) -> Seen:
        """The entries as one batch, padded as it is; what padding holds counts nowhere."""
        B, S = query.aligned.shape
        device = query.aligned.device

        def stacked(name: str, *shape: int) -> Tensor:
            first = entries[0][name]
            out = first.new_zeros(B, *shape, *first.shape[len(shape) :])
            for row, entry in zip(out, entries):
                row[tuple(map(slice, entry[name].shape))] = entry[name]
            return out.to(device)

        hidden = attention = Tensor()
        logits = None
        if self.objective.compares_states:
            hidden = stacked("hidden", len(entries[0]["hidden"]), S).transpose(0, 1)
        if self.objective.attention:
            layers, heads = entries[0]["attention"].shape[:2]
            attention = stacked("attention", layers, heads, S, S).transpose(0, 1)
        if self.objective.logits:
            logits = stacked("logits", query.window.shape[1])
        return Seen(list(hidden), list(attention), logits)


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Without dropout: there is one teacher, not one a step."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


def fingerprint(model: nn.Module) -> str:
    """What tells a base from others as far as its states go: some values of each of its tensors, and the precision.

    Those of adapters are not among them, wherever they stand.
    """
    own = attached(model)
    ours = set() if own is None else {id(parameter) for parameter in own.parameters()}
    shapes: list[Any] = []
    values = []
    for name, parameter in model.named_parameters():
        if id(parameter) in ours or name.startswith("icl_"):
            continue
        flat = internals.value_of(model, name).detach().reshape(-1)
        shapes.append([str(parameter.dtype), *parameter.shape])
        values.append(flat[:: max(1, len(flat) // _VALUES)][:_VALUES].double().cpu())
    return digest(json.dumps([type(model).__name__, shapes]).encode() + torch.cat(values).numpy().tobytes())


def _rows(seen: Seen, query: Query) -> Iterator[States]:
    """What was seen of each example, without padding, on the CPU."""
    hidden = torch.stack(list(seen.hidden), 1).cpu() if seen.hidden else None
    attention = torch.stack(list(seen.attention), 1).cpu() if seen.attention else None
    logits = None if seen.logits is None else seen.logits.cpu()
    tokens, steps = query.aligned.sum(1).tolist(), query.predicts.sum(1).tolist()
    for i, (n, p) in enumerate(zip(tokens, steps)):
        row = {}
        if hidden is not None:
            row["hidden"] = hidden[i, :, :n].contiguous()
        if attention is not None:
            row["attention"] = attention[i, :, :, :n, :n].contiguous()
        if logits is not None:
            row["logits"] = logits[i, :p].contiguous()
        yield row


class _Folder:
    """States of each name in a file."""

    def __init__(self, folder: Path):
        self.folder = folder

    def get(self, name: str) -> States | None:
        """``None`` where there are none, or they are damaged."""
        try:
            with safe_open(self._file(name), "pt") as entry:
                tensors = {name: entry.get_tensor(name) for name in entry.keys()}  # noqa: SIM118
                return tensors if (entry.metadata() or {}).get("crc") == _crc(tensors) else None
        except (OSError, SafetensorError):
            return None

    def __setitem__(self, name: str, tensors: States) -> None:
        """At once, or not at all: of several that write the same, one is last."""
        file = self._file(name)
        file.parent.mkdir(parents=True, exist_ok=True)
        draft = file.with_name(f".{uuid.uuid4().hex}")
        try:
            save_file(tensors, draft, metadata={"crc": _crc(tensors)})
            os.replace(draft, file)
        finally:
            draft.unlink(missing_ok=True)

    def _file(self, name: str) -> Path:
        return self.folder / name[:2] / f"{name}.safetensors"


def _crc(tensors: States) -> str:
    crc = 0
    for name in sorted(tensors):
        values: Any = tensors[name].view(torch.uint8).numpy()
        crc = zlib.crc32(values, crc)
    return str(crc)
