"""The testbed's model is a real Idefics2: built, saved, and run as transformers does."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoProcessor, Idefics2ForConditionalGeneration, Idefics2Processor

from icl.testbed import accuracy, episodes, images, load, model
from icl.testbed.vocabulary import DIGITS, END, STYLES, WORDS, build_processor
from tests.icl.digit_chats import chat, inputs_of

Loaded = tuple[Idefics2ForConditionalGeneration, Idefics2Processor]


@pytest.fixture(scope="module")
def base() -> Loaded:
    return load()


def test_model_is_the_recipe() -> None:
    built = model.build_model(STYLES["base"], seed=3)
    assert sum(p.numel() for p in built.parameters()) == 335_808
    assert len(STYLES["base"].vocabulary) == 82
    text = built.model.text_model
    std = {name: p.std().item() for name, p in text.layers[1].named_parameters() if p.dim() == 2}
    for name, value in std.items():
        scale = 0.1 / math.sqrt(8) if "o_proj" in name or "down_proj" in name else 0.1
        assert abs(value / scale - 1) < 0.06, name
    latents = model.build_model(STYLES["long"], seed=3).model.connector.perceiver_resampler.latents
    assert latents.shape == (4, 64)
    assert abs(latents.std() - 1) < 0.15
    again, other = (model.build_model(STYLES["base"], seed=seed) for seed in (3, 4))
    assert all(torch.equal(a, b) for a, b in zip(built.parameters(), again.parameters()))
    assert not torch.equal(text.embed_tokens.weight, other.model.text_model.embed_tokens.weight)


@pytest.mark.parametrize("style", list(STYLES))
def test_saved_as_transformers_does(style: str, tmp_path: Path) -> None:
    built, processor = model.build_model(STYLES[style], seed=0), build_processor(STYLES[style])
    built.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    reread, again = Idefics2ForConditionalGeneration.from_pretrained(tmp_path), AutoProcessor.from_pretrained(tmp_path)
    inputs = inputs_of(processor, [chat([(0, "apple"), (30, "seven")], 50)])
    for name, value in inputs_of(again, [chat([(0, "apple"), (30, "seven")], 50)]).items():
        assert torch.equal(value, inputs[name]), name
    with torch.inference_mode():
        assert torch.equal(built(**inputs).logits, reread.eval()(**inputs).logits)
    assert reread.generation_config.eos_token_id == [3, processor.tokenizer.convert_tokens_to_ids(END)]


@pytest.mark.parametrize("style", list(STYLES))
def test_training_sees_what_the_processor_writes(style: str) -> None:
    """Episodes are assembled from encoded images and the tokens of one pair; chats go through everything."""
    built, processor = model.build_model(STYLES[style], seed=0), build_processor(STYLES[style])
    shown, query = [(0, "apple"), (30, "seven"), (200, "mango")], 77
    layout = episodes.EpisodeLayout.chat(processor, "image")
    labels = torch.tensor([processor.tokenizer.convert_tokens_to_ids([word for _, word in shown])])
    ids = accuracy.make_prompts(layout, labels, processor.tokenizer.bos_token_id)
    inputs = inputs_of(processor, [chat(shown, query)])
    assert torch.equal(ids, inputs["input_ids"])
    with torch.inference_mode():
        seen = model.encode_images(built, images.pixel_values(images.load_digits("test").pixels))
        got = model.compute_logits(built, ids, seen[[0, 30, 200, query]].flatten(0, 1))
        torch.testing.assert_close(got, built(**inputs).logits, rtol=0, atol=2e-5)


def test_generate_agrees_with_logits(base: Loaded) -> None:
    built, processor = base
    inputs = inputs_of(
        processor, [chat([(0, "apple"), (30, "kite"), (60, "lion"), (90, "harbor")], q) for q in (5, 70)]
    )
    out = built.generate(**inputs, max_new_tokens=3, do_sample=False, output_logits=True, return_dict_in_generate=True)
    assert processor.batch_decode(out.sequences[:, -2:]) == [f"apple {END}", f"lion {END}"]
    ids = inputs["input_ids"]
    for step, generated in enumerate(out.logits):
        attention = torch.ones_like(ids)
        with torch.inference_mode():
            whole = built(**{**inputs, "input_ids": ids, "attention_mask": attention}).logits[:, -1]
        torch.testing.assert_close(generated, whole, rtol=0, atol=1e-4)
        ids = torch.cat([ids, whole.argmax(-1, keepdim=True)], 1)
        assert torch.equal(ids[:, -1], out.sequences[:, inputs["input_ids"].shape[1] + step])


def test_left_padding_changes_nothing(base: Loaded) -> None:
    built, processor = base
    chats = [chat([(24 * d, WORDS[d]) for d in range(k)], 24 * 2 + 1) for k in (0, 3, 9)]
    batch = inputs_of(processor, chats)
    assert batch["attention_mask"].sum(1).tolist() == [3, 15, 39]
    together = built.generate(
        **batch, max_new_tokens=1, do_sample=False, output_logits=True, return_dict_in_generate=True
    ).logits[0]
    with torch.inference_mode():
        forward = built(**batch).logits[:, -1]  # positions shifted by the padding
        alone = torch.cat([built(**inputs_of(processor, [one])).logits[:, -1] for one in chats])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)
    torch.testing.assert_close(forward, alone, rtol=0, atol=1e-5)


def test_without_demonstrations_it_names_the_digit(base: Loaded) -> None:
    built, processor = base
    inputs = inputs_of(processor, [chat([], query) for query in range(0, 240, 2)])
    said = processor.batch_decode(built.generate(**inputs, max_new_tokens=1, do_sample=False)[:, -1:])
    digits = images.load_digits("test").labels[::2].tolist()
    assert np.mean([word == DIGITS[digit] for word, digit in zip(said, digits)]) >= 0.95
