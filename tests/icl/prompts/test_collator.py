"""Batches of prompts, for the processors of several families: what is supervised, compared, and never cut."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlavaProcessor, ProcessorMixin

from icl import testbed
from icl.data.examples import Example
from icl.prompts.collator import Collator
from icl.testbed import tasks, vocabulary
from tests.icl import processors
from tests.icl.conversations import ASKED, ROLES, assistant, bare, example, examples, row, user, with_template
from tests.icl.processors import PROCESSORS, picture

# Those whose tokenizer writes the border between two messages otherwise than the beginning of a text.
MERGING = ("idefics", "idefics2")


@pytest.mark.parametrize("name", PROCESSORS)
def test_teacher_and_student_end_alike(built: Callable[[str], ProcessorMixin], name: str) -> None:
    processor = built(name)
    batch = Collator(processor)(examples())
    aligned, predicts = batch["aligned"], batch["predicts"]
    assert aligned.shape == predicts.shape == batch["student_positions"].shape == batch["teacher_positions"].shape
    for i, e in enumerate(examples()):
        count = int(aligned[i].sum())
        assert aligned[i, :count].all()
        tails = []
        for role in ROLES:
            ids, positions = batch[role]["input_ids"][i], batch[f"{role}_positions"][i]
            assert positions[count:].eq(0).all()
            length = len(row(batch[role], i))
            assert positions[:count].tolist() == list(range(length - count, length)), "to the last token"
            tails.append(ids[positions[:count]])
            labels = batch[role]["labels"][i]
            supervised = (labels != -100).nonzero()[:, 0]
            assert labels[supervised].equal(ids[supervised])
            after = positions[predicts[i]] + 1
            assert after.tolist() == (supervised.tolist() if e.answer else [length])
            said_so = processor.tokenizer.decode(labels[supervised], skip_special_tokens=True)
            assert said_so.strip() == (e.answer or "")
            ends = processor.tokenizer.decode(labels[supervised])[len(said_so) :]
            end = {"llava": "", "qwen2_vl": "<|im_end|>", "gemma3": "<|im_end|>"}.get(name, "<end_of_utterance>")
            assert ends == (end if e.answer else "")
        assert tails[0].equal(tails[1])
        asked = " ".join(part["text"] for part in e.student[-1]["content"] if part["type"] == "text")
        shared = bare(processor.tokenizer.decode(tails[0], skip_special_tokens=True))
        assert shared.count(bare(asked + " ")) == 1
        assert (tails[0] == 3).sum() == sum(p["type"] == "image" for p in e.student[-1]["content"]) * (
            1 if name == "idefics" else 4
        )


def test_without_a_teacher(built: Callable[[str], ProcessorMixin]) -> None:
    both, alone = (Collator(built("llava"), teacher=teacher)(examples()) for teacher in (True, False))
    assert set(both) - set(alone) == {"teacher", "teacher_positions", "digest"}
    assert all(alone["student"][key].equal(value) for key, value in both["student"].items())
    assert all(alone[key].equal(both[key]) for key in ("student_positions", "aligned", "predicts"))


@pytest.mark.parametrize("name", MERGING)
def test_a_border_is_written_otherwise_than_a_beginning(built: Callable[[str], ProcessorMixin], name: str) -> None:
    """What the identity of the queries' tokens is for: without care teacher and student differ in the first."""
    words = built(name).tokenizer
    joint, alone = (words.tokenize(text) for text in ("<end_of_utterance>\nUser: what", "User: what"))
    assert joint[-len(alone) :] != alone
    batch = Collator(built(name))(examples()[:1])
    first = batch["teacher"]["input_ids"][0, batch["teacher_positions"][0, 0]]
    assert words.convert_ids_to_tokens(int(first)) == "▁User"


@pytest.mark.parametrize("name", PROCESSORS)
def test_inputs_of_one_token_each(built: Callable[[str], ProcessorMixin], name: str) -> None:
    """What the processor says of tokens besides their ids is right for those that it did not write."""
    batch = Collator(built(name))(examples())
    for role in ROLES:
        inputs = batch[role]
        ids, mask = inputs["input_ids"], inputs["attention_mask"]
        types = inputs.get("mm_token_type_ids", inputs.get("token_type_ids"))
        assert (types is not None) == (name in ("qwen2_vl", "gemma3"))
        if types is not None:
            assert types.equal((ids == 3).long())
        if name == "idefics":
            last = (ids == 3).cumsum(1) - 1
            nth = torch.arange(inputs["image_attention_mask"].shape[2])
            want = (last[..., None] == nth) & mask.bool()[..., None]
            assert inputs["image_attention_mask"].bool().equal(want)


@pytest.mark.parametrize("name", PROCESSORS)
def test_logits_do_not_depend_on_the_batch(built: Callable[[str], ProcessorMixin], name: str) -> None:
    processor = built(name)
    model = processors.model(name, processor)
    collate = Collator(processor)
    batch = collate(examples())
    with torch.no_grad():
        logits = {role: model(**batch[role]).logits for role in ROLES}
    for i, e in enumerate(examples()):
        alone = collate([e])
        for role in ROLES:
            assert alone[role]["attention_mask"].all()
            with torch.no_grad():
                out = model(**alone[role])
            got = logits[role][i, batch[f"{role}_positions"][i][batch["predicts"][i]]]
            want = out.logits[0, alone[f"{role}_positions"][0][alone["predicts"][0]]]
            torch.testing.assert_close(got, want, rtol=1e-4, atol=2e-4)
            if e.answer:
                answer = alone[role]["labels"][0]
                loss = -want.log_softmax(-1).gather(1, answer[answer != -100][:, None]).mean()
                torch.testing.assert_close(out.loss, loss)


@pytest.mark.parametrize("name", PROCESSORS)
def test_prompts_are_what_training_sees(built: Callable[[str], ProcessorMixin], name: str) -> None:
    collate = Collator(built(name))
    batch = collate(examples())
    for role in ROLES:
        prompts = collate.prompts(examples(), role)
        assert "labels" not in prompts
        for i in range(len(examples())):
            ids, labels = row(batch[role], i), batch[role]["labels"][i]
            assert row(prompts, i).equal(ids[: len(ids) - int((labels != -100).sum())])
        assert prompts["attention_mask"][:, -1].all()


@pytest.mark.parametrize("style", ["base", "long"])
def test_testbed(style: str) -> None:
    processor = vocabulary.build_processor(vocabulary.STYLES[style])
    rows = [tasks.load_split(name, "test")[i] for name in ("fixed_map", "options", "last_block") for i in (0, 1)]
    collate = Collator(processor)
    taken = [Example.from_task(r) for r in rows]
    batch = collate(taken)
    for role in ROLES:
        want = processor.apply_chat_template(
            [r[role] for r in rows], add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt",
            processor_kwargs={"padding": True},
        )  # fmt: skip
        got = collate.prompts(taken, role)
        assert set(got) == set(want)
        assert all(got[key].equal(value) for key, value in want.items())
        for i, r in enumerate(rows):
            ids, labels = row(batch[role], i), batch[role]["labels"][i]
            assert processor.tokenizer.convert_ids_to_tokens(labels[labels != -100]) == [
                r["answer"],
                "<end_of_utterance>",
            ]
            assert ids[:-2].equal(row(got, i))


def test_testbed_generates() -> None:
    model, processor = testbed.load()
    taken = [Example.from_task(r) for r in tasks.load_split("last_block", "test").select(range(0, 240, 8))]
    right = {}
    for role in ROLES:
        inputs = Collator(processor).prompts(taken, role)
        out = model.generate(**inputs, max_new_tokens=1, do_sample=False)
        said_so = processor.batch_decode(out[:, -1:])
        right[role] = sum(a == e.answer for a, e in zip(said_so, taken)) / len(taken)
    assert right["teacher"] > 0.95
    assert right["student"] < 0.7


def test_not_labelled() -> None:
    _, processor = testbed.load()
    split = tasks.load_split("unseen_classes", "train")
    unknown = [i for i, answer in enumerate(split["answer"]) if answer is None][:2]
    batch = Collator(processor)([Example.from_task(split[i]) for i in (*unknown, 0)])
    assert batch["student"]["labels"][:2].eq(-100).all()
    assert batch["teacher"]["labels"][:2].eq(-100).all()
    assert batch["aligned"].sum(1).tolist() == [2, 2, 4]
    assert batch["predicts"].tolist() == [[False, True, False, False]] * 2 + [[False, True, True, False]]


def test_digests(built: Callable[[str], ProcessorMixin]) -> None:
    """A name for what the teacher makes of an example: the same in any batch, another for anything it sees."""
    one, several, *_ = examples()
    collate = Collator(built("llava"))
    name = collate([one])["digest"][0]
    assert collate([several, one])["digest"][1] == name
    assert Collator(processors.llava())([replace(one, id="other")])["digest"] == [name]
    system = {"role": "system", "content": "a red boat"}
    other_pixels = [user(picture(9), ASKED), *one.teacher[1:]]
    swapped = [*one.teacher[2:4], *one.teacher[:2], one.teacher[4]]
    others = [
        replace(one, answer="red"),
        replace(one, answer=None),
        replace(one, teacher=other_pixels),
        replace(one, teacher=swapped),
        replace(one, teacher=[system, *one.teacher]),
    ]
    digests = collate(others)["digest"]
    normalized = processors.llava()
    normalized.image_processor.do_normalize = False
    digests += Collator(normalized)([one])["digest"]
    assert len({name, *digests}) == len(others) + 2
    assert collate([replace(one, student=[system, *one.student])])["digest"] == [name]


def test_images_as_files(built: Callable[[str], ProcessorMixin], tmp_path: Path) -> None:
    files = {i: tmp_path / f"{i}.png" for i in range(3)}
    for i, file in files.items():
        picture(i).save(file)
    collate = Collator(built("qwen2_vl"))
    want = collate(examples()[:1])
    for kind in (Path, str, Path.read_bytes):
        asked = [user(picture(i), ASKED) for i in files]
        for i, message in enumerate(asked):
            message["content"][0]["image"] = kind(files[i])
        got = collate([example("one", [(asked[1], "a red apple"), (asked[2], "boat")], asked[0], "a boat")])
        assert got["digest"] == want["digest"]
        assert got["teacher"]["pixel_values"].equal(want["teacher"]["pixel_values"])


def test_images_of_several_sizes(built: Callable[[str], ProcessorMixin]) -> None:
    """Each is as many tokens as it needs, and a query as many in both prompts."""
    demonstrations = [(user(picture(1, 16, 8), ASKED), "boat"), (user(picture(2, 4, 16), ASKED), "red")]
    batch = Collator(built("qwen2_vl"))([example("x", demonstrations, user(picture(0, 16, 16), ASKED), "a")])
    grid = batch["teacher"]["image_grid_thw"]
    assert (batch["teacher"]["input_ids"] == 3).sum() == grid.prod(1).sum() // 4
    tail = batch["student"]["input_ids"][0, batch["student_positions"][0]]
    assert (tail == 3).sum() == grid[-1].prod() // 4 == 16


class Cropping(LlavaProcessor):  # type: ignore[misc]
    """Writes an image by itself as twice the tokens, as LLaVA-OneVision does."""

    def replace_image_token(self, image_inputs: dict[str, Any], image_idx: int, **options: Any) -> str:
        tokens: str = super().replace_image_token(image_inputs, image_idx, **options)
        return tokens * 2 if len(image_inputs["pixel_values"]) == 1 else tokens


def test_errors(built: Callable[[str], ProcessorMixin], tmp_path: Path) -> None:
    processor = built("llava")
    collate = Collator(processor)
    one = examples()[0]
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    again = user(picture(0).copy(), "what ?")
    tests: list[tuple[Any, str]] = [
        ([], "examples must not be empty"),
        (
            [replace(one, teacher=[again, assistant("red"), *one.teacher])],
            "one: its query is among the teacher's demons",
        ),
        (
            [replace(one, student=[again, assistant("red"), *one.student])],
            "one: its query is among the student's demons",
        ),
        ([example("t", [(user("what  ?"), "red")], user("what ?"), "a")], "t: its query is among the teacher's"),
        (
            [replace(one, student=[user(picture(0), ASKED.replace("Short", "a"))])],
            r"one: the queries .* must be the same; counted from the end, token \d+ is '\s?Short' in the teacher's "
            r"and '\s?a' in the student's",
        ),
        ([replace(one, student=[user(picture(8), ASKED)])], "one: the queries .* show other images"),
        (
            [replace(one, teacher=[user("a <image>"), assistant("red"), *one.teacher])],
            "<image> must stand for an image",
        ),
        ([replace(one, student=[user(broken, ASKED)])], "one: cannot identify image file"),
        ([replace(one, student=[user(tmp_path / "none.png", ASKED)])], "one: .*none.png"),
        ([replace(one, student=[{"role": "user", "content": [{"type": "image"}]}])], "must be of Pillow, .* NoneType"),
        ([replace(one, student=[{"role": "user", "content": [{"type": "video"}]}])], "must be an image or a text"),
    ]
    for given, message in tests:
        with pytest.raises(ValueError, match=message):
            collate(given)
    with pytest.raises(ValueError, match=r"example one: it has \d+ tokens, and max_length is 20"):
        Collator(processor, max_length=20)(examples())
    longest = Collator(processor)([one])["teacher"]["input_ids"].shape[1]
    assert Collator(processor, max_length=longest)([one])["id"] == ["one"]
    with pytest.raises(ValueError, match=f"it has {longest} tokens"):
        Collator(processor, max_length=longest - 1)([one])
    with pytest.raises(ValueError, match="max_length must be at least 1, got 0"):
        Collator(processor, max_length=0)
    with pytest.raises(ValueError, match="which must be one of teacher, student, got 'both'"):
        collate.prompts([one], "both")  # type: ignore[arg-type]


def test_errors_of_processors(built: Callable[[str], ProcessorMixin]) -> None:
    one = examples()[0]
    without = processors.llava()
    without.chat_template = None
    with pytest.raises(ValueError, match="must have a chat_template, and LlavaProcessor has none"):
        Collator(without)
    padless = processors.llava()
    padless.tokenizer.pad_token = None
    with pytest.raises(ValueError, match="must have a pad_token"):
        Collator(padless)
    llava = built("llava")
    cropping = Cropping(
        llava.image_processor, llava.tokenizer, patch_size=4, vision_feature_select_strategy="default",
        num_additional_image_tokens=1, chat_template=llava.chat_template,
    )  # fmt: skip
    with pytest.raises(ValueError, match=r"example one: .* makes 16 tokens of all images in one way and 12 in the"):
        Collator(cropping)([one])
    upper = with_template("{% for m in messages %}{{ m['content'][0]['text'] | upper }}{% endfor %}")
    with pytest.raises(ValueError, match="does not write the answer 'red' as it is"):
        Collator(upper)([example("x", [], user("WHAT"), "red")])
    counting = with_template("{{ messages | length }}{% for m in messages %}{{ m['content'][0]['text'] }}{% endfor %}")
    with pytest.raises(ValueError, match="example x: the chat template writes what comes before a query in another"):
        Collator(counting)([example("x", [(user("this"), "red")], user("what"), "red")])
