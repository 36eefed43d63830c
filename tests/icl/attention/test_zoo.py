"""What tests with the zoo take for granted: inputs matter, padding and caches do not."""

from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from tests.icl import zoo

LENGTH = 12
"""Of inputs, unless something else is asked for."""


@pytest.fixture(scope="module", params=zoo.FAMILIES)
def family(request: pytest.FixtureRequest) -> tuple[str, PreTrainedModel]:
    return request.param, zoo.make(request.param)


def logits(model: PreTrainedModel, x: zoo.Inputs) -> torch.Tensor:
    with torch.no_grad():
        out: torch.Tensor = model(**x, **zoo.positions(x)).logits
    return out


@pytest.mark.parametrize("images", [1, 2])
def test_text_and_images_matter(family: tuple[str, PreTrainedModel], images: int) -> None:
    name, model = family
    x = zoo.inputs(name, length=LENGTH * images, padding="none", images=images)
    assert x["input_ids"].shape == (2, LENGTH * images)
    assert x["attention_mask"].all()
    out = logits(model, x)
    assert out.shape == (2, LENGTH * images, zoo.VOCABULARY)
    assert out.isfinite().all()
    changed = {
        "pixels": {**x, "pixel_values": x["pixel_values"] + 1},
        "last image": {**x, "pixel_values": torch.cat([x["pixel_values"][:-1], x["pixel_values"][-1:].roll(1, -1)])},
        "first word": {**x, "input_ids": x["input_ids"].where(torch.arange(LENGTH * images) != 1, 50)},
    }
    for what, other in changed.items():
        assert (out - logits(model, other))[-1, -1].abs().max() > 1e-3, what


def test_padding_changes_nothing(family: tuple[str, PreTrainedModel]) -> None:
    name, model = family
    x = zoo.inputs(name, batch=3, length=21, images=2)
    out = logits(model, x)
    lengths = x["attention_mask"].sum(1).tolist()
    assert len(set(lengths)) == 3
    for row, length in enumerate(lengths):
        one = zoo.alone(x, row)
        assert one["input_ids"].shape == (1, length)
        assert zoo.PAD not in one["input_ids"]
        torch.testing.assert_close(out[row, -length:], logits(model, one)[0], rtol=0, atol=1e-4)


@pytest.mark.parametrize("settings", [{}, {"cache_implementation": "static"}, {"num_beams": 2}])
def test_cached_generation_is_uncached_generation(
    family: tuple[str, PreTrainedModel], settings: dict[str, Any]
) -> None:
    name, model = family
    x = zoo.inputs(name)
    greedy = {"max_new_tokens": 4, "do_sample": False}
    with torch.no_grad():
        out = model.generate(**x, **greedy, **settings)
        uncached = model.generate(**x, **greedy, num_beams=settings.get("num_beams", 1), use_cache=False)
    assert out.shape == (2, LENGTH + 4)
    assert (out[:, LENGTH:] >= zoo.WORDS).all()
    assert torch.equal(out, uncached)


def test_weights_are_the_same_every_time(family: tuple[str, PreTrainedModel]) -> None:
    name, model = family
    torch.rand(3)
    again = zoo.make(name)
    assert not again.training
    for (key, a), b in zip(model.named_parameters(), again.parameters()):
        assert a.dtype == torch.float32
        assert torch.equal(a, b), key


def test_text_config_can_be_changed(family: tuple[str, PreTrainedModel]) -> None:
    name, _ = family
    model = zoo.make(name, hidden_size=64, num_hidden_layers=2)
    decoder = model.get_decoder()
    assert len(decoder.layers) == 2
    assert model.get_input_embeddings().weight.shape[1] == 64
    assert logits(model, zoo.inputs(name)).isfinite().all()


def test_labels_are_words_after_the_last_image(family: tuple[str, PreTrainedModel]) -> None:
    name, model = family
    x = zoo.inputs(name, length=24, images=2)
    labels = zoo.labels(x)
    for ids, wanted in zip(x["input_ids"].tolist(), labels.tolist()):
        last = max(i for i, token in enumerate(ids) if token == zoo.END)
        assert wanted == [-100] * (last + 1) + ids[last + 1 :]
        assert min(ids[last + 1 :]) >= zoo.WORDS
    loss = model.train()(**x, **zoo.positions(x), labels=labels).loss
    assert 1 < float(loss.detach()) < 20
    model.eval()


def test_no_room() -> None:
    with pytest.raises(ValueError, match="length must be at least 14 for 2 images of llava, got 12"):
        zoo.inputs("llava", images=2)
