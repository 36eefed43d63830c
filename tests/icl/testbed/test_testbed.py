"""The testbed: its model is a real Idefics2, and its figures are those of the card."""

import csv
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoProcessor, Idefics2ForConditionalGeneration, Idefics2Processor
from typer.testing import CliRunner

from icl.cli import testbed as commands
from icl.testbed import TASKS, accuracy, episodes, images, load, model, pretrain, report
from icl.testbed.vocabulary import DIGITS, END, STYLES, WORDS, build_processor

Loaded = tuple[Idefics2ForConditionalGeneration, Idefics2Processor]


@pytest.fixture(scope="module")
def base() -> Loaded:
    return load()


def picture(i: int, split: str = "test") -> Image.Image:
    return Image.fromarray(images.load_digits(split).pixels[i].numpy())


def chat(shown: list[tuple[int, str]], query: int) -> list[dict[str, Any]]:
    messages = []
    for i, word in shown:
        messages.append({"role": "user", "content": [{"type": "image", "image": picture(i)}]})
        messages.append({"role": "assistant", "content": [{"type": "text", "text": word}]})
    return [*messages, {"role": "user", "content": [{"type": "image", "image": picture(query)}]}]


def inputs_of(processor: Idefics2Processor, chats: list[list[dict[str, Any]]]) -> dict[str, torch.Tensor]:
    return dict(
        processor.apply_chat_template(
            chats,
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            processor_kwargs={"padding": True},
        )
    )


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


@pytest.mark.parametrize(("style", "per_image"), [("base", ["<image>"]), ("long", None)])
def test_chat_as_tokens(style: str, per_image: list[str] | None) -> None:
    processor = build_processor(STYLES[style])
    boundary = "<fake_token_around_image>"
    per_image = per_image or [boundary, *["<image>"] * 4, boundary]
    ids = inputs_of(processor, [chat([(0, "apple"), (30, "seven")], 50)])["input_ids"]
    ask, lead = ([], ["is"]) if style == "base" else (["what", "is", "this", "called", "?", END], None)
    lead = lead or ["Assistant:", "this", "is", "called"]
    question = [*(["User:"] if style == "long" else []), *per_image, *ask, *lead]
    want = ["<s>", *question, "apple", END, *question, "seven", END, *question]
    assert processor.tokenizer.convert_ids_to_tokens(ids[0]) == want
    assert "<unk>" not in processor.tokenizer.convert_ids_to_tokens(processor.tokenizer(" ".join(WORDS))["input_ids"])


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


def test_wilson_interval_solves_its_equation() -> None:
    for right, prompts in ((0, 30), (7, 30), (354, 360)):
        score = accuracy.TestbedScore("any", "0", right, prompts)
        for bound in score.interval:
            p = right / prompts
            deviation = (p - bound) ** 2 - 1.959963985**2 * bound * (1 - bound) / prompts
            assert deviation == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("choice", ["class present", "nearest", "random", "class absent"])
def test_choices(choice: accuracy.Choice) -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(10).repeat_interleave(9)
    similarity = torch.randn(90, 90, generator=generator).fill_diagonal_(-torch.inf)
    shown = accuracy.choose_rows(choice, 5, labels, similarity, torch.Generator().manual_seed(1))
    assert shown.shape == (90, 5)
    assert not (shown == torch.arange(90)[:, None]).any()
    assert all(len(set(row)) == 5 for row in shown.tolist())
    present = (labels[shown] == labels[:, None]).any(1).float().mean()
    if choice == "nearest":
        want = [sorted((x.item(), i) for i, x in enumerate(row))[-5:] for row in similarity]
        assert shown.tolist() == [[i for _, i in row] for row in want]
    elif choice == "random":
        assert abs(present - (1 - math.comb(81, 5) / math.comb(89, 5))) < 0.15
    else:
        assert present == (choice == "class present")


SHIPPED = ("base", "base-0", "base-2")


def claimed(weights: str = "base") -> dict[tuple[str, str], accuracy.TestbedScore]:
    """What the card says of weights that come with the package."""
    scores = [accuracy.TestbedScore(**score) for score in report.read_card(weights)["scores"]]
    return {(score.what, score.prompt): score for score in scores}


@pytest.mark.parametrize("weights", SHIPPED)
def test_shipped_weights_give_the_figures_of_their_card(weights: str, tmp_path: Path) -> None:
    result = CliRunner().invoke(commands.app, ["eval", weights, "--out", str(tmp_path)])
    assert result.exit_code == 0, result.output
    with (tmp_path / "testbed.csv").open() as file:
        measured = {(row["what"], row["prompt"]): row for row in csv.DictReader(file)}
    assert claimed(weights).keys() == measured.keys()
    page = (tmp_path / "testbed.md").read_text()
    for key, score in claimed(weights).items():
        # exact but for ties that another processor rounds another way
        row = measured[key]
        assert int(row["prompts"]) == score.prompts
        assert abs(int(row["right"]) / int(row["prompts"]) - score.accuracy) <= 0.01, key
        assert f"{float(row['accuracy']):.3f} ({float(row['low']):.2f}-" in page
    assert (tmp_path / "testbed.png").stat().st_size > 10_000


def test_without_demonstrations_it_names_the_digit(base: Loaded) -> None:
    built, processor = base
    inputs = inputs_of(processor, [chat([], query) for query in range(0, 240, 2)])
    said = processor.batch_decode(built.generate(**inputs, max_new_tokens=1, do_sample=False)[:, -1:])
    digits = images.load_digits("test").labels[::2].tolist()
    assert np.mean([word == DIGITS[digit] for word, digit in zip(said, digits)]) >= 0.95


@pytest.mark.parametrize("weights", SHIPPED)
def test_card(weights: str) -> None:
    card, folder = report.read_card(weights), model.weights_folder(weights)
    assert card["parameters"] == 335_808
    assert (folder / "model.safetensors").stat().st_size < 2e6
    assert report.card_markdown(card) == (folder / "card.md").read_text()
    assert card["command"] in " ".join(CliRunner().invoke(commands.app, ["card", weights]).output.split())


@pytest.mark.parametrize("weights", SHIPPED)
def test_it_learns_in_context(weights: str) -> None:
    """What the frozen model has to reach for the tasks to tell methods apart."""
    accuracy = {key: score.accuracy for key, score in claimed(weights).items()}
    assert accuracy["class present", "0"] <= 0.05
    for k in ("1", "2", "4", "8", "16"):
        assert accuracy["class present", k] >= 0.95
        assert accuracy["nearest", k] >= 0.95
        assert accuracy["class absent", k] <= 0.05
    assert accuracy["random", "1"] < accuracy["random", "4"] < accuracy["random", "16"] < 0.9
    for task in ("fixed_map", "parity", "many_to_one", "successor", "unseen_classes"):
        assert accuracy[task, "student"] <= 0.05
    assert accuracy["options", "student"] <= 0.40
    assert accuracy["last_block", "student"] <= 0.55
    assert accuracy["set_conflict", "student"] <= 0.60
    for task in TASKS:
        assert accuracy[task, "teacher"] >= 0.95, task
    assert accuracy["options", "teacher"] >= 0.97


def test_commands_start_without_transformers() -> None:
    code = "import sys, icl.cli.testbed; sys.exit('transformers' in sys.modules or 'datasets' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_pretrain_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pretrain, "PHASES", (pretrain.PretrainingPhase("chat", 2, 1e-3),))
    score = accuracy.TestbedScore("random", "1", 3, 7)
    monkeypatch.setattr("icl.testbed.measure_scores", lambda model, processor, seed: iter([score]))
    out = tmp_path / "long"
    result = CliRunner().invoke(commands.app, ["pretrain", "--style", "long", "--seed", "1", "--out", str(out)])
    assert result.exit_code == 0, result.output
    card = json.loads((out / "card.json").read_text())
    assert card["command"] == "icl testbed pretrain --style long --seed 1"
    assert card["scores"] == [{"what": "random", "prompt": "1", "right": 3, "prompts": 7}]
    built, processor = load(out)
    saved = load_file(out / "model.safetensors")
    assert all(torch.equal(value, saved[name]) for name, value in built.state_dict().items())
    assert processor.image_seq_len == 4
    wrong = CliRunner().invoke(commands.app, ["pretrain", "--style", "short"])
    assert wrong.exit_code == 2
    with pytest.raises(FileNotFoundError, match="icl testbed pretrain makes them"):
        load(tmp_path)
    save_file(saved, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="metadata name no style"):
        load(tmp_path)
