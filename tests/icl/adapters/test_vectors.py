"""LIVE, task, function and in-context vectors against the same written as hooks on a model without adapters."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from icl import testbed
from icl.adapters import (
    Adapters,
    FunctionVectorConfig,
    HiFICLConfig,
    HyperICLConfig,
    InContextVectorConfig,
    LIVEConfig,
    TaskVectorConfig,
    attach,
    fit,
)
from icl.adapters.base import AdapterConfig
from icl.adapters.fitting import log_probabilities
from icl.adapters.methods.live import turned
from icl.attention.decoder import Decoder
from icl.testbed.tasks import load_split
from tests.icl import zoo
from tests.icl.adapted import FAMILIES

FITTED = (TaskVectorConfig(), FunctionVectorConfig(heads=3), InContextVectorConfig())
LENGTH = 20
Change = Callable[[int, Tensor], Tensor]


def arguments(name: str, **asked: Any) -> zoo.Inputs:
    x = zoo.inputs(name, length=LENGTH, **asked)
    return {**x, **zoo.positions(x)}


@torch.no_grad()
def logits(model: PreTrainedModel, x: zoo.Inputs) -> Tensor:
    out: Tensor = model(**x).logits
    return out


def decoder_layers(model: PreTrainedModel) -> list[nn.Module]:
    return [layer.module for layer in Decoder(model).layers]


@contextmanager
def hooked(modules: Sequence[nn.Module], change: Change, inputs: bool = False) -> Iterator[None]:
    """The modules' outputs, or inputs, changed: what the methods do, without the library."""

    def after(i: int, module: nn.Module, args: Any, output: Any) -> Any:
        if isinstance(output, tuple):
            return (change(i, output[0]), *output[1:])
        return change(i, output)

    def before(i: int, module: nn.Module, args: Any) -> Any:
        return (change(i, args[0]), *args[1:])

    hooks = [
        m.register_forward_pre_hook(partial(before, i)) if inputs else m.register_forward_hook(partial(after, i))
        for i, m in enumerate(modules)
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@torch.no_grad()
def states(model: PreTrainedModel, x: zoo.Inputs) -> Tensor:
    """(L, B, T, D)"""
    seen: dict[int, Tensor] = {}
    with hooked(decoder_layers(model), lambda i, h: seen.setdefault(i, h)):
        model(**x)
    return torch.stack([seen[i] for i in sorted(seen)])


def randomise(adapters: Adapters, name: str = "default", scale: float = 0.3) -> None:
    generator = torch.Generator().manual_seed(1)
    for part in adapters[name]:
        for tensor in part.state_dict().values():
            tensor.add_(torch.randn(tensor.shape, generator=generator), alpha=scale)


def prompts(name: str) -> dict[str, list[Any]]:
    """Batches of two lengths."""
    teacher = [arguments(name, seed=1), zoo.inputs(name, length=24, padding="none", seed=2)]
    student = [arguments(name, seed=3), zoo.inputs(name, length=14, padding="none", seed=4)]
    generator = torch.Generator().manual_seed(0)
    dev = [(x, torch.randint(zoo.WORDS, zoo.VOCABULARY, (2,), generator=generator)) for x in student]
    return {"teacher": teacher, "student": student, "dev": dev}


# LIVE


def live_formula(h: Tensor, direction: Tensor, alpha: Tensor) -> Tensor:
    h, shifted = h.double(), h.double() + alpha.double() * direction.double()
    return (shifted * (h.square().sum(-1) / shifted.square().sum(-1)).sqrt()[..., None]).float()


def test_live_is_its_formula(family: tuple[str, PreTrainedModel]) -> None:
    name, model = family
    x = arguments(name)
    adapters = attach(model, LIVEConfig())
    randomise(adapters, scale=1.0)
    layers = [(layer.direction.detach(), layer.alpha.detach()) for layer in adapters["default"][0].layers.values()]
    out = logits(model, x)
    adapters.detach()
    plain = logits(model, x)
    with hooked(decoder_layers(model), lambda i, h: live_formula(h, *layers[i])):
        wanted = logits(model, x)
    torch.testing.assert_close(out, wanted, rtol=1e-5, atol=1e-5)
    assert (wanted - plain).abs().max() > 0.1


def test_live_starts_near_the_identity() -> None:
    model = zoo.make("idefics2")
    x = arguments("idefics2")
    plain = logits(model, x)
    adapters = attach(model, LIVEConfig())
    assert 0 < (logits(model, x) - plain).abs().max() < 0.05
    assert all(layer.alpha.item() == pytest.approx(0.1) for layer in adapters["default"][0].layers.values())
    assert LIVEConfig().objective.logits == 1
    assert LIVEConfig().objective.ce == 0.5


def test_turned_keeps_the_norm_and_has_finite_gradients() -> None:
    hidden = torch.randn(5, 8)
    hidden[1] = 0
    shift = torch.randn(8)
    hidden[2] = -shift
    hidden[3] *= 1e4
    hidden[4] *= 1e-12
    hidden, shift = hidden.requires_grad_(), shift.requires_grad_()
    out = turned(hidden, shift)
    torch.testing.assert_close(out.norm(dim=-1)[[0, 1, 3, 4]], hidden.norm(dim=-1)[[0, 1, 3, 4]])
    assert torch.equal(out[1:3], torch.zeros(2, 8))
    assert torch.equal(turned(hidden, torch.zeros(8)), hidden)
    for gradient in torch.autograd.grad(out.square().sum() + out.sum(), [hidden, shift]):
        assert gradient.isfinite().all()


def test_published_sizes() -> None:
    sizes = {"hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32, "intermediate_size": 8}
    with torch.device("meta"):
        model = zoo.make("idefics2", **sizes, num_key_value_heads=8, vocab_size=100)
    adapters = attach(model, LIVEConfig())
    assert sum(p.numel() for p in adapters.parameters()) == 131_104
    adapters.add([*FITTED], "fitted")
    assert not [p for part in adapters["fitted"] for p in part.parameters()]
    assert list(adapters["fitted"][1].layers) == ["10"]  # a third of the way down


# Methods without training


@pytest.mark.parametrize("config", FITTED, ids=lambda config: config.method)
def test_the_identity_until_fitted(family: tuple[str, PreTrainedModel], config: AdapterConfig) -> None:
    name, model = family
    x = arguments(name)
    plain = logits(model, x)
    adapters = attach(model, config)
    assert torch.equal(logits(model, x), plain)
    fit(adapters, **prompts(name))
    assert not torch.equal(logits(model, x), plain)
    with adapters.off():
        assert torch.equal(logits(model, x), plain)
    adapters.detach()
    assert torch.equal(logits(model, x), plain)


def replaced(vectors: Tensor, layer: int, ends: Sequence[int], i: int, h: Tensor) -> Tensor:
    if i != layer:
        return h
    h = h.clone()
    for row, end in enumerate(ends):
        h[row, end] = vectors[layer]
    return h


def test_task_vector_is_the_mean_at_the_best_layer(family: tuple[str, PreTrainedModel]) -> None:
    name, model = family
    given = prompts(name)
    vectors = torch.cat([states(model, x)[:, :, -1] for x in given["teacher"]], 1).mean(1)
    likelihoods = []
    for layer in range(len(vectors)):
        with hooked(decoder_layers(model), partial(replaced, vectors, layer, [-1, -1])):
            scores = [logits(model, x)[:, -1].log_softmax(-1)[[0, 1], answer] for x, answer in given["dev"]]
        likelihoods.append(float(torch.cat(scores).sum()))
    best = int(np.argmax(likelihoods))
    adapters = attach(model, TaskVectorConfig())
    done: list[int] = []
    fit(adapters, **given, progress=done.append)
    assert done == [2] * (2 + 2 * len(vectors))
    assert adapters["default"][0].config.layers == (best,)

    # Right-padded, so that prompts end in different places.
    x = zoo.inputs(name, length=LENGTH, padding="none")
    x["attention_mask"][0, -3:] = 0
    ends = [LENGTH - 4, LENGTH - 1]
    before = states(model, x)
    adapters.detach()
    plain = states(model, x)
    with hooked(decoder_layers(model), partial(replaced, vectors, best, ends)):
        wanted = logits(model, x)
    adapters = attach(model, TaskVectorConfig(layers=(best,)))
    fit(adapters, teacher=given["teacher"])
    torch.testing.assert_close(logits(model, x), wanted, rtol=1e-5, atol=1e-5)
    changed = (states(model, x)[best] != plain[best]).any(-1)
    assert changed.nonzero().tolist() == [[0, ends[0]], [1, ends[1]]]
    assert torch.equal(before, states(model, x))
    adapters.detach()


def test_right_answers_come_before_their_likelihood() -> None:
    model = zoo.make("llava")
    given = prompts("llava")
    vectors = torch.cat([states(model, x)[:, :, -1] for x in given["teacher"]], 1).mean(1)
    for layer in range(len(vectors)):
        with hooked(decoder_layers(model), partial(replaced, vectors, layer, [-1, -1])):
            said = [logits(model, x)[:, -1].argmax(-1) for x, _ in given["dev"]]
        # Two of four as this layer has it, two as likely as can be without being right.
        adapters = attach(model, TaskVectorConfig())
        dev = [(given["dev"][0][0], said[0]), given["dev"][1]]
        fit(adapters, teacher=given["teacher"], dev=dev)
        (chosen,) = adapters["default"][0].config.layers or ()
        with hooked(decoder_layers(model), partial(replaced, vectors, chosen, [-1, -1])):
            assert torch.equal(logits(model, dev[0][0])[:, -1].argmax(-1), said[0])
        adapters.detach()


@pytest.mark.parametrize(
    ("name", "text"), [*((name, {}) for name in FAMILIES), ("llava", {"attention_bias": True})], ids=str
)
def test_function_vector_is_what_the_heads_with_most_effect_add(name: str, text: dict[str, Any]) -> None:
    model = zoo.make(name, **text)
    given, layers = prompts(name), Decoder(model).layers
    H, width = layers[0].shape.heads, layers[0].shape.head_dim
    projections: list[Any] = [layer.attention.o_proj for layer in layers]
    seen: dict[int, list[Tensor]] = {}

    def keep(i: int, out: Tensor) -> Tensor:
        seen.setdefault(i, []).append(out[:, -1])
        return out

    with hooked(projections, keep, inputs=True):
        for x in given["teacher"]:
            logits(model, x)
    means = torch.stack([torch.cat(seen[i]).mean(0) for i in sorted(seen)]).view(len(layers), H, width)

    def patched(layer: int, head: int, i: int, out: Tensor) -> Tensor:
        out = out.clone()
        if i == layer:
            out[:, -1, head * width : (head + 1) * width] = means[layer, head]
        return out

    def likely() -> Tensor:
        return torch.cat([logits(model, x)[:, -1].softmax(-1)[[0, 1], answer] for x, answer in given["dev"]])

    effects, plain = torch.zeros(len(layers), H), likely()
    for layer in range(len(layers)):
        for head in range(H):
            with hooked(projections, partial(patched, layer, head), inputs=True):
                effects[layer, head] = (likely() - plain).mean()
    vector = torch.zeros(layers[0].shape.width)
    for index in effects.flatten().argsort(descending=True)[:3].tolist():
        layer, head = divmod(index, H)
        vector += projections[layer].weight[:, head * width : (head + 1) * width].detach() @ means[layer, head]

    adapters = attach(model, FunctionVectorConfig(heads=3))
    done: list[int] = []
    fit(adapters, **given, progress=done.append)
    assert done == [2] * (2 + 2 * (1 + len(layers) * H))
    (place,) = adapters["default"][0].layers
    assert place == str(len(layers) // 3)
    found = adapters["default"][0].state_dict()[f"layers.{place}.vector"]
    torch.testing.assert_close(found, vector, rtol=1e-4, atol=1e-5)

    x = arguments(name)
    out = logits(model, x)
    adapters.detach()

    def added(i: int, h: Tensor) -> Tensor:
        h = h.clone()
        h[:, -1] += vector * (i == len(layers) // 3)
        return h

    with hooked(decoder_layers(model), added):
        torch.testing.assert_close(out, logits(model, x), rtol=1e-4, atol=1e-4)


def test_in_context_vector_is_the_main_direction(family: tuple[str, PreTrainedModel]) -> None:
    name, model = family
    given = prompts(name)
    pairs = zip(given["teacher"], given["student"])
    moved = torch.cat([states(model, a)[:, :, -1] - states(model, b)[:, :, -1] for a, b in pairs], 1)
    rows = moved.transpose(0, 1).flatten(1).double().numpy()
    direction = np.linalg.eigh(rows.T @ rows)[1][:, -1]
    direction *= np.sign(direction @ rows.mean(0))
    parts = torch.from_numpy(direction).view(len(moved), -1)
    parts /= parts.norm(dim=1, keepdim=True)

    adapters = attach(model, InContextVectorConfig(strength=0.4))
    fit(adapters, teacher=given["teacher"], student=given["student"])
    found = torch.stack([layer.vector for layer in adapters["default"][0].layers.values()])
    torch.testing.assert_close(found.double(), parts, rtol=0, atol=1e-4)
    x = arguments(name)
    out = logits(model, x)
    adapters.detach()

    def formula(i: int, h: Tensor) -> Tensor:
        h = h.double()
        norm = h.norm(dim=-1, keepdim=True)
        direction = h / norm + 0.4 * parts[i]
        return (direction / direction.norm(dim=-1, keepdim=True) * norm).float()

    with hooked(decoder_layers(model), formula):
        torch.testing.assert_close(out, logits(model, x), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("settings", [{}, {"cache_implementation": "static"}, {"num_beams": 2}], ids=str)
@pytest.mark.parametrize("config", [FITTED[0], FITTED[1]], ids=lambda config: config.method)
def test_generation_changes_the_last_prompt_token_alone(
    family: tuple[str, PreTrainedModel], config: AdapterConfig, settings: dict[str, Any]
) -> None:
    name, model = family
    x = zoo.inputs(name, length=LENGTH)
    adapters = attach(model, config)
    fit(adapters, **prompts(name))
    with torch.no_grad():
        said = model.generate(**x, max_new_tokens=4, do_sample=False, **settings)
    vectors = {int(i): layer.vector for i, layer in adapters["default"][0].layers.items()}
    adapters.detach()

    def change(i: int, h: Tensor) -> Tensor:
        h = h.clone()
        if i in vectors:
            h[:, LENGTH - 1] = vectors[i] + (h[:, LENGTH - 1] if config.method == "function_vector" else 0)
        return h

    # Without a cache the place stays where the prompt ended.
    with hooked(decoder_layers(model), change), torch.no_grad():
        wanted = model.generate(
            **x, max_new_tokens=4, do_sample=False, use_cache=False, num_beams=settings.get("num_beams", 1)
        )
    assert torch.equal(said, wanted)


def test_rows_choose_and_methods_compose(family: tuple[str, PreTrainedModel]) -> None:
    name, model = family
    x = arguments(name, batch=4)
    adapters = attach(model, LIVEConfig(), "live")
    adapters.add([TaskVectorConfig(layers=(1,))], "task")
    adapters.add([InContextVectorConfig(), FunctionVectorConfig()], "both")
    for each in adapters.names:
        randomise(adapters, each)
    choices = ["live", None, ("task", "live"), "both"]
    with adapters.use(rows=choices):
        out = logits(model, x)
    for row, chosen in enumerate(choices):
        names = (chosen,) if isinstance(chosen, str) else chosen or ()
        with adapters.use(*names):
            torch.testing.assert_close(out[row], logits(model, x)[row], rtol=1e-5, atol=1e-5)
    assert (out[0] - out[1]).abs().max() > 0.01
    adapters.detach()

    adapters = attach(model, [HyperICLConfig(), HiFICLConfig(), LIVEConfig()])
    randomise(adapters)
    together, parameters = logits(model, x), [part.state_dict() for part in adapters["default"]]
    adapters.detach()
    adapters = attach(model, [HyperICLConfig(), HiFICLConfig()])
    for part, values in zip(adapters["default"], parameters):
        part.load_state_dict(values)
    live = [(parameters[2][f"layers.{i}.direction"], parameters[2][f"layers.{i}.alpha"]) for i in range(3)]
    with hooked(decoder_layers(model), lambda i, h: live_formula(h, *live[i])):
        torch.testing.assert_close(together, logits(model, x), rtol=1e-4, atol=1e-4)
    adapters.detach()


def test_saved_and_loaded_to_the_bit(family: tuple[str, PreTrainedModel], tmp_path: Path) -> None:
    name, model = family
    x = arguments(name)
    adapters = attach(model, [*FITTED, LIVEConfig()])
    fit(adapters, **prompts(name))
    out = logits(model, x)
    adapters.save_pretrained(tmp_path)
    adapters.detach()
    again = Adapters.from_pretrained(zoo.make(name), tmp_path)
    assert torch.equal(logits(again.model, x), out)
    assert len(again["default"][0].layers) == 1


def test_half_precision_base() -> None:
    model = zoo.make("idefics2").bfloat16()
    x = zoo.inputs("idefics2", length=LENGTH)
    x["pixel_values"] = x["pixel_values"].bfloat16()
    adapters = attach(model, [*FITTED, LIVEConfig()])
    given = {"teacher": [x], "student": [x], "dev": [(x, torch.tensor([9, 9]))]}
    given["student"] = [{**x, "input_ids": x["input_ids"].flip(0)}]
    fit(adapters, **given)
    out = logits(model, x)
    assert out.dtype == torch.bfloat16
    assert out.isfinite().all()
    assert all(value.dtype == torch.float32 for part in adapters["default"] for value in part.state_dict().values())


def test_errors() -> None:
    model = zoo.make("llava")
    given = prompts("llava")
    adapters = attach(model, LIVEConfig(), "live")
    for config in FITTED:
        adapters.add([config], config.method)
    with pytest.raises(ValueError, match="adapter 'live' is live, and nothing that is fitted"):
        fit(adapters, "live", **given)
    with pytest.raises(ValueError, match="there is no 'other'"):
        fit(adapters, "other", **given)
    with pytest.raises(ValueError, match="teacher must have prompts, got none"):
        fit(adapters, "task_vector", teacher=[])
    with pytest.raises(ValueError, match="dev must be a list"):
        fit(adapters, "task_vector", teacher=given["teacher"], dev=iter(given["dev"]))
    with pytest.raises(ValueError, match="dev must have prompts to choose the layer"):
        fit(adapters, "task_vector", teacher=given["teacher"])
    with pytest.raises(ValueError, match="dev must have prompts to choose the heads"):
        fit(adapters, "function_vector", teacher=given["teacher"])
    for student in (given["student"][:1], [arguments("llava", batch=3), given["student"][1]]):
        with pytest.raises(ValueError, match="student must have the queries of teacher"):
            fit(adapters, "in_context_vector", teacher=given["teacher"], student=student)
    adapters.add([FunctionVectorConfig(heads=13)], "many")
    with pytest.raises(ValueError, match="at most the 12 there are, got 13"):
        fit(adapters, "many", **given)
    with pytest.raises(ValueError, match="heads must be a positive int, got 0"):
        FunctionVectorConfig(heads=0)
    with pytest.raises(ValueError, match="strength must be positive"):
        InContextVectorConfig(strength=float("nan"))


# On the testbed


def test_vectors_make_answers_of_a_task_likelier() -> None:
    """One direction for all queries cannot name a digit, but tells the words of the task from others."""
    model, processor = testbed.load()
    rows = {split: load_split("fixed_map", split).select(range(40)) for split in ("train", "dev")}

    def batch(split: str, prompt: str, shuffled: bool = False) -> Any:
        messages = list(rows[split][prompt])
        if shuffled:
            for row in messages:
                shown = [message for message in row if message["role"] == "assistant"]
                words = [message["content"] for message in shown]
                for message, word in zip(shown, words[1:] + words[:1]):
                    message["content"] = word
        return processor.apply_chat_template(
            messages, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
        )

    answers = torch.tensor(processor.tokenizer.convert_tokens_to_ids(list(rows["dev"]["answer"])))
    dev = {"student": [(batch("dev", "student"), answers)], "teacher": [(batch("dev", "teacher", True), answers)]}
    teacher, student = [batch("train", "teacher")], [batch("train", "student")]
    gains = {}
    for config in (TaskVectorConfig(), FunctionVectorConfig(heads=4), InContextVectorConfig()):
        adapters = attach(model, config)
        prompt = "teacher" if config.method == "function_vector" else "student"
        fit(adapters, teacher=teacher, student=student, dev=dev[prompt])
        with torch.no_grad():
            after = log_probabilities(adapters, *dev["student"][0])[0].mean()
            with adapters.off():
                before = log_probabilities(adapters, *dev["student"][0])[0].mean()
        gains[config.method] = float(after - before)
        adapters.detach()
    assert min(gains.values()) > 0.5, gains
