"""Methods without training, together: until they are fitted, in generation, saved, and on the testbed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
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
from icl.adapters.fitting import answer_log_probabilities
from icl.testbed.tasks import load_split
from tests.icl import zoo
from tests.icl.hooked import (
    FITTED,
    LENGTH,
    arguments,
    decoder_layers,
    hooked,
    live_formula,
    logits,
    prompts,
    randomise,
)


def test_published_sizes() -> None:
    sizes = {"hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32, "intermediate_size": 8}
    with torch.device("meta"):
        model = zoo.make("idefics2", **sizes, num_key_value_heads=8, vocab_size=100)
    adapters = attach(model, LIVEConfig())
    assert sum(p.numel() for p in adapters.parameters()) == 131_104
    adapters.add([*FITTED], "fitted")
    assert not [p for part in adapters["fitted"] for p in part.parameters()]
    assert list(adapters["fitted"][1].layers) == ["10"]  # a third of the way down


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
        answers = model.generate(**x, max_new_tokens=4, do_sample=False, **settings)
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
    assert torch.equal(answers, wanted)


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
    with pytest.raises(ValueError, match="heads must be a whole number of 1 or more, got 0"):
        FunctionVectorConfig(heads=0)
    with pytest.raises(ValueError, match="strength must be a finite number above 0"):
        InContextVectorConfig(strength=float("nan"))


def test_vectors_make_answers_of_a_task_likelier() -> None:
    """One direction for all queries cannot name a digit, but tells the words of the task from others."""
    model, processor = testbed.load()
    rows = {split: load_split("fixed_map", split).select(range(20)) for split in ("train", "dev")}

    def batch(split: str, prompt: str, shuffled: bool = False) -> Any:
        messages = list(rows[split][prompt])
        if shuffled:
            for row in messages:
                replies = [message for message in row if message["role"] == "assistant"]
                words = [message["content"] for message in replies]
                for message, word in zip(replies, words[1:] + words[:1]):
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
            after = answer_log_probabilities(adapters, *dev["student"][0])[0].mean()
            with adapters.off():
                before = answer_log_probabilities(adapters, *dev["student"][0])[0].mean()
        gains[config.method] = float(after - before)
        adapters.detach()
    assert min(gains.values()) > 0.5, gains
