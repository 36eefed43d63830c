"""The teacher: the base alone on demonstrations and query, and what it makes of them, computed once if it may be kept.

States of a teacher do not change while a student learns. Each example's have a name, made of the base, the prompt and
what was asked; on disk they are a file of their own, so that runs, workers and processes can share a folder.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import uuid
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import cache as cached
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from icl.adapters import Adapters, PromptLayout, attached
from icl.attention import internals
from icl.common.files import digest
from icl.losses import ModelStates, Objective, QueryTokens

FORMAT = 2
# What the teacher makes of an example.
TeacherStates = dict[str, Tensor]


def observe_states(
    model: nn.Module,
    adapters: Adapters,
    batch: Mapping[str, Any],
    role: str,
    query: QueryTokens,
    objective: Objective,
    logits: bool,
    stack: ExitStack,
) -> ModelStates:
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
    prompt = PromptLayout(inputs["attention_mask"].shape[1], places[:, 0], masked=True)
    stack.enter_context(adapters.scoped.setting("prompt", prompt))
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
    return ModelStates(states, [w.take_along_dim(columns, 3) for w in weights], found if logits else None)


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
        cache: str | Path | dict[str, TeacherStates] | None = None,
        precision: str = "no",
    ):
        self.adapters, self.objective, self.precision = adapters, objective, precision
        self.cache = _Folder(Path(cache)) if isinstance(cache, str | Path) else cache
        self.look_again()

    def look_again(self) -> None:
        """Have the base looked at before the next pass, whose weights may be others than at the last one."""
        self._name, self._stamp = "", list[tuple[int, int]]()

    def __call__(self, model: nn.Module, batch: Mapping[str, Any], query: QueryTokens) -> ModelStates:
        """``model`` is that of the adapters; its mode is left as it was."""
        if self.cache is None:
            return self._run(model, batch, query)
        own = self._own_name(model)
        names = [digest(own + prompt) for prompt in batch["digest"]]
        entries = [self.cache.get(name) for name in names]
        found = [entry for entry in entries if entry is not None]
        if len(found) == len(entries):
            return self._joined(found, query)
        seen = self._run(model, batch, query)
        for name, entry, new in zip(names, entries, _rows(seen, query)):
            if entry is None:
                self.cache[name] = new
        return seen

    def _run(self, model: nn.Module, batch: Mapping[str, Any], query: QueryTokens) -> ModelStates:
        with torch.no_grad(), self.adapters.off(), _evaluating(model), ExitStack() as stack:
            wants_logits = self.objective.logits > 0
            return observe_states(model, self.adapters, batch, "teacher", query, self.objective, wants_logits, stack)

    def _own_name(self, model: nn.Module) -> str:
        """A digest of the base and of what is asked of it."""
        if self._stamp != (stamp := _stamp(model)):
            o = self.objective
            asked = [o.compares_states, o.attention > 0, o.logits > 0, o.layers, self.precision]
            self._name, self._stamp = digest(json.dumps([FORMAT, fingerprint(model), *asked])), stamp
        return self._name

    def _joined(self, entries: Sequence[TeacherStates], query: QueryTokens) -> ModelStates:
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
        return ModelStates(list(hidden), list(attention), logits)


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
    """Return a digest of all that a base's states depend on: class, configuration, and every byte of its weights.

    Adapters are not among these, wherever they stand.
    """
    parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    weights = {
        name: internals.value_of(model, name) if name in parameters else value
        for name, value in _weights(model).items()
    }
    config = getattr(model, "config", None)
    settings = {} if config is None else json.loads(config.to_json_string())
    settings.pop("_name_or_path", None)
    with ThreadPoolExecutor() as pool:  # hashing lets other threads run
        digests = list(zip(weights, pool.map(_digest, weights.values())))
    return digest(json.dumps([type(model).__name__, settings, digests], sort_keys=True))


def _weights(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers of the base, and scales of weights of 4 bits, which are neither; as they stand there."""
    adapters = attached(model)
    ours = set() if adapters is None else {id(value) for value in adapters.state_dict(keep_vars=True).values()}
    return {
        name: value
        for name, value in model.state_dict(keep_vars=True).items()
        if isinstance(value, Tensor) and id(value) not in ours and not name.startswith("icl_")
    }


def _stamp(model: nn.Module) -> list[tuple[int, int]]:
    """What changes when weights are replaced, or written to in place; a write to ``.data`` does not show."""
    return [(value.data_ptr(), 0 if value.is_inference() else value._version) for value in _weights(model).values()]


def _digest(tensor: Tensor) -> str:
    values: Any = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    checksum = hashlib.sha256(repr((tensor.dtype, tuple(tensor.shape))).encode())
    checksum.update(values)
    return checksum.hexdigest()


def _rows(seen: ModelStates, query: QueryTokens) -> Iterator[TeacherStates]:
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

    def get(self, name: str) -> TeacherStates | None:
        """``None`` where there are none, or they are damaged."""
        try:
            with safe_open(self._file(name), "pt") as entry:
                tensors = {name: entry.get_tensor(name) for name in entry.keys()}  # noqa: SIM118
                return tensors if (entry.metadata() or {}).get("crc") == _crc(tensors) else None
        except (OSError, SafetensorError):
            return None

    def __setitem__(self, name: str, tensors: TeacherStates) -> None:
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


def _crc(tensors: TeacherStates) -> str:
    crc = 0
    for name in sorted(tensors):
        values: Any = tensors[name].view(torch.uint8).numpy()
        crc = zlib.crc32(values, crc)
    return str(crc)
