"""The teacher: the base alone on demonstrations and query, and its states there, computed once if they may be kept.

The states of a teacher do not change while a student learns. Each example's have a name, made of the base, the prompt
and what was asked; on disk they are a file of their own, so that runs, workers and processes can share a folder.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from icl.adapters import Adapters, PromptLayout, attached
from icl.attention import internals
from icl.common.files import digest, replacing
from icl.losses import ModelStates, Objective, QueryTokens

FORMAT = 2
TeacherStates = dict[str, Tensor]
"""A teacher's states for one example, by name: ``hidden`` (layers, S, D), ``attention`` (layers, H, S, S) and
``logits`` (P, V), as far as the objective compares them."""


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
    """Run a model over a batch's prompts, and return its states at the query as far as the objective compares them.

    Args:
        model: that of the adapters, or one that wraps it.
        adapters: record what its layers do.
        batch: of :class:`icl.prompts.Collator`.
        role: whose prompts, "student" or "teacher".
        query: the tokens of the batch that states are taken at.
        objective: says what is compared.
        logits: whether logits are wanted. They are computed at the window alone, or at one token if not: for a prompt
            of thousands of tokens they would be the largest tensor of all.
        stack: layers are recorded until it is closed. With checkpointing this must be after the backward, which runs
            layers again: they must do the same.
    """
    positions: Tensor = batch[f"{role}_positions"]
    inputs = {name: value for name, value in batch[role].items() if name != "labels"}
    places = positions.gather(1, query.window)
    if selects := "logits_to_keep" in _parameters(type(adapters.model).forward):
        inputs["logits_to_keep"] = places if logits else 1
    # the first token of the answer is read from the first place, which labels would tell
    prompt = PromptLayout(inputs["attention_mask"].shape[1], places[:, 0], masked=True)
    stack.enter_context(adapters.scoped.setting("prompt", prompt))
    hidden: bool | Tensor = positions if objective.compares_states else False
    attention = positions if objective.attention else None
    record = stack.enter_context(adapters.record(hidden=hidden, attention=attention))
    output: Tensor = model(**inputs, use_cache=False).logits
    if not selects:
        output = output.take_along_dim(places[..., None], 1)
    elif output.ndim == 4:
        # before transformers 5.21 each row is read at the places of all rows
        rows = torch.arange(len(output), device=output.device)
        output = output[rows, rows]
    layers = range(len(adapters.decoder.layers)) if objective.layers is None else objective.layers
    # from wherever the layer is, of a model on several devices
    states = [record.hidden[i].to(positions.device) for i in layers if objective.compares_states]
    weights = [record.attention[i].to(positions.device) for i in layers if objective.attention]
    columns = positions[:, None, None]
    return ModelStates(states, [w.take_along_dim(columns, 3) for w in weights], output if logits else None)


@cache
def _parameters(function: Callable[..., Any]) -> Mapping[str, Any]:
    return inspect.signature(function).parameters


class Teacher:
    """Calls return the states of the base without adapters at the teacher's prompts, without a gradient.

    Args:
        adapters: of the model.
        objective: says what is compared.
        cache: a folder where states are kept, and taken from where they are, or a dict, for small data. States of
            prompts that change with every epoch are better not kept.
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
        self.cache = _StatesFolder(Path(cache)) if isinstance(cache, str | Path) else cache
        self.look_again()

    def look_again(self) -> None:
        """Have the base looked at before the next pass, whose weights may be others than at the last one."""
        self._name, self._versions = "", list[tuple[int, int]]()

    def __call__(self, model: nn.Module, batch: Mapping[str, Any], query: QueryTokens) -> ModelStates:
        """Return the states of a batch. ``model`` is that of the adapters; its mode is left as it was."""
        if self.cache is None:
            return self._run(model, batch, query)
        name = self._name_states(model)
        names = [digest(name + prompt) for prompt in batch["digest"]]
        entries = [self.cache.get(each) for each in names]
        complete = [entry for entry in entries if entry is not None]
        if len(complete) == len(names):
            return _join_states(complete, query)
        states = self._run(model, batch, query)
        for each, entry, fresh in zip(names, entries, _split_states(states, query)):
            if entry is None:
                self.cache[each] = fresh
        return states

    def _run(self, model: nn.Module, batch: Mapping[str, Any], query: QueryTokens) -> ModelStates:
        with torch.no_grad(), self.adapters.off(), evaluating(model), ExitStack() as stack:
            logits = "logits" in self.objective.terms
            return observe_states(model, self.adapters, batch, "teacher", query, self.objective, logits, stack)

    def _name_states(self, model: nn.Module) -> str:
        """Return a digest of the base and of what is asked of it."""
        if self._versions != (versions := _read_versions(model)):
            o = self.objective
            asked = [o.compares_states, "attention" in o.terms, "logits" in o.terms, o.layers, self.precision]
            self._name, self._versions = digest(json.dumps([FORMAT, fingerprint(model), *asked])), versions
        return self._name


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Keep a model in evaluation mode inside ``with``: without dropout there is one teacher, not one a step."""
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
        for name, value in _base_weights(model).items()
    }
    config = getattr(model, "config", None)
    settings = {} if config is None else json.loads(config.to_json_string())
    settings.pop("_name_or_path", None)
    with ThreadPoolExecutor() as pool:  # hashing lets other threads run
        digests = list(zip(weights, pool.map(_digest_tensor, weights.values())))
    return digest(json.dumps([type(model).__name__, settings, digests], sort_keys=True))


def _base_weights(model: nn.Module) -> dict[str, Tensor]:
    """Return parameters and buffers of the base, and scales of weights of 4 bits, which are neither."""
    adapters = attached(model)
    ours = set() if adapters is None else {id(value) for value in adapters.state_dict(keep_vars=True).values()}
    return {
        name: value
        for name, value in model.state_dict(keep_vars=True).items()
        if isinstance(value, Tensor) and id(value) not in ours and not name.startswith("icl_")
    }


def _read_versions(model: nn.Module) -> list[tuple[int, int]]:
    """Return what changes when weights are replaced, or written to in place; a write to ``.data`` does not show."""
    weights = _base_weights(model).values()
    return [(value.data_ptr(), 0 if value.is_inference() else value._version) for value in weights]


def _digest_tensor(tensor: Tensor) -> str:
    values: Any = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    checksum = hashlib.sha256(repr((tensor.dtype, tuple(tensor.shape))).encode())
    checksum.update(values)
    return checksum.hexdigest()


def _split_states(states: ModelStates, query: QueryTokens) -> Iterator[TeacherStates]:
    """Split the states of a batch into those of each example, without padding and on the CPU."""
    tensors = {"hidden": states.hidden, "attention": states.attention}
    batch = {name: torch.stack(list(layers), 1).cpu() for name, layers in tensors.items() if layers}
    if states.logits is not None:
        batch["logits"] = states.logits.cpu()
    for i, (S, P) in enumerate(zip(query.aligned.sum(1).tolist(), query.predicts.sum(1).tolist())):
        ends: dict[str, Any] = {"hidden": np.s_[:, :S], "attention": np.s_[..., :S, :S], "logits": np.s_[:P]}
        yield {name: tensor[i][ends[name]].contiguous() for name, tensor in batch.items()}


def _join_states(entries: Sequence[TeacherStates], query: QueryTokens) -> ModelStates:
    """Join the states of examples into those of their batch, padded as it is; what padding holds counts nowhere."""
    S, P = query.aligned.shape[1], query.window.shape[1]
    batch: dict[str, Tensor] = {}
    for name, first in entries[0].items():
        length, width = P if name == "logits" else S, S if name == "attention" else first.shape[-1]
        rows = first.new_zeros(len(entries), *first.shape[:-2], length, width)
        for row, entry in zip(rows, entries):
            row[..., : entry[name].shape[-2], : entry[name].shape[-1]] = entry[name]
        batch[name] = rows.to(query.aligned.device)
    hidden, attention = (list(batch[name].unbind(1)) if name in batch else [] for name in ("hidden", "attention"))
    return ModelStates(hidden, attention, batch.get("logits"))


class _StatesFolder:
    """A folder with a file of states for each name."""

    def __init__(self, folder: Path):
        self.folder = folder

    def get(self, name: str) -> TeacherStates | None:
        """Return the states, or ``None`` where there are none, or they are damaged."""
        try:
            with safe_open(self._path(name), "pt") as entry:
                tensors = {name: entry.get_tensor(name) for name in entry.keys()}  # noqa: SIM118
                return tensors if (entry.metadata() or {}).get("crc") == _checksum(tensors) else None
        except (OSError, SafetensorError):
            return None

    def __setitem__(self, name: str, tensors: TeacherStates) -> None:
        """Write the states at once, or not at all: of several that write the same, one is last."""
        file = self._path(name)
        file.parent.mkdir(parents=True, exist_ok=True)
        with replacing(file) as draft:
            save_file(tensors, draft, metadata={"crc": _checksum(tensors)})

    def _path(self, name: str) -> Path:
        return self.folder / name[:2] / f"{name}.safetensors"


def _checksum(tensors: TeacherStates) -> str:
    crc = 0
    for name in sorted(tensors):
        values: Any = tensors[name].view(torch.uint8).numpy()
        crc = zlib.crc32(values, crc)
    return str(crc)
