"""The harness of the published tables, end to end: data sets as they are published, with the testbed's images."""

import io
import json
from pathlib import Path
from typing import Any

import published
import pytest
import typer
from harness import coco
from harness.comparison import compare, markdown
from harness.published import BASES, ROWS, TASKS, Row, Task, rows_of
from PIL import Image
from typer.testing import CliRunner, Result

from hyperbolic.plot.pictures import load_image
from icl.adapters import HiFICLConfig, HyperICLConfig, MimICConfig
from icl.data.records import Records
from icl.evaluation.results import Results
from icl.testbed import images as digits
from icl.testbed.model import load

WORDS = ["apple", "bell", "boat", "bridge", "camel", "chair", "crown", "drum", "fern", "goat"]
TESTBED = Task("digits", "vqa", "{question}", 2)
"""Asked as the testbed's model was trained to be: the image alone."""


def save(part: str, i: int, image_id: int, folder: Path) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    name = f"COCO_{folder.name}_{image_id:012d}.jpg"
    Image.open(io.BytesIO(digits.load_digits(part).png(i))).save(folder / name, "jpeg", quality=100)
    return name


def write_vqa(root: Path, task: str, sizes: dict[str, int], question: str = "") -> None:
    """Questions and annotations as visualqa.org has them; the word of the digit is what most of ten people say."""
    (root / task).mkdir(parents=True, exist_ok=True)
    for part, ours in (("train", "train"), ("val", "test")):
        labels = digits.load_digits(ours).labels
        chosen = range(0, len(labels), len(labels) // sizes[part])[: sizes[part]]
        questions, annotations = [], []
        for number, i in enumerate(chosen):
            save(ours, i, 100 + number, root / "images" / f"{part}2014")
            word = WORDS[int(labels[i])]
            said = [word] * 8 + ["lemon"] * 2
            key = {"image_id": 100 + number, "question_id": 1000 + number}
            questions.append({**key, "question": question})
            answers = [{"answer": a, "answer_confidence": "yes", "answer_id": n} for n, a in enumerate(said, 1)]
            annotations.append({**key, "answers": answers, "multiple_choice_answer": word, "answer_type": "other"})
        head: dict[str, Any] = {"info": {"year": 2017}, "license": {}, "data_type": "mscoco"}
        head["data_subtype"] = f"{part}2014"
        names = [root / task / name.format(part=part) for name in coco.QUESTIONS[task]]
        names[0].write_text(json.dumps({**head, "task_type": "Open-Ended", "questions": questions}))
        names[1].write_text(json.dumps({**head, "annotations": annotations}))


def write_karpathy(root: Path) -> Path:
    entries = []
    for number, split in enumerate(["train", "restval", "val", "test", "test"]):
        folder = "train2014" if split == "train" else "val2014"
        name = save("train", number, number, root / "images" / folder)
        sentences = [{"raw": f" A {word} \n", "tokens": ["a", word], "sentid": n} for n, word in enumerate(WORDS[:5])]
        told = {"filepath": folder, "filename": name, "split": split, "cocoid": number, "sentids": [0, 1, 2, 3, 4]}
        entries.append({**told, "imgid": number, "sentences": sentences})
    file = root / "dataset_coco.json"
    file.write_text(json.dumps({"images": entries, "dataset": "coco"}))
    return file


def test_figures_as_printed() -> None:
    """Where the papers print both, parameters are those of the configuration: L = H = 32 and dh = 128."""
    shown = {(row.base, row.name): row for row in ROWS}
    assert len(shown) == len(ROWS)
    assert shown["idefics-9b", "Hyper-ICL"].figures == {"vqav2": 62.08, "okvqa": 55.31, "coco": 117.44}
    assert shown["llava-interleave", "HiFICL"].figures == {"vqav2": 74.66, "okvqa": 54.19, "coco": 133.15}
    heads, width = 32 * 32, 128
    counts = {
        "Hyper-ICL": heads * (2 * width * 4 + width + 1),
        "MimIC": heads * (2 * width + 1),
        "LIVE": 32 * (32 * width + 1),
        "LoRA": 32 * 4 * 24 * 2 * 32 * width,
    }
    for name, count in counts.items():
        row = shown["idefics-9b", name]
        assert row.parameters is not None
        assert row.config is not None
        assert abs(count / 1e6 / row.parameters - 1) < 0.02, name
        if name != "LoRA":  # whose rank is not printed
            assert "rank and targets" not in row.ours
    assert shown["idefics-9b", "Hyper-ICL"].config == HyperICLConfig(rank=4)
    assert shown["idefics2-8b", "HiFICL"].config == HiFICLConfig(tokens=8, rank=8)
    assert {row.shots for row in rows_of("idefics2-8b", "vqav2") if row.name != "HiFICL" and row.name != "LoRA"} == {8}


def test_vqa_rows(tmp_path: Path) -> None:
    write_vqa(tmp_path, "vqav2", {"train": 20, "val": 5}, "what is this ?")
    parts = coco.splits("vqav2", tmp_path / "vqav2", tmp_path / "images")
    assert [len(parts[part]) for part in ("train", "dev", "test")] == [18, 2, 5]
    assert not {row["image"] for row in parts["train"]} & {row["image"] for row in parts["dev"]}
    coco.write(parts["test"], tmp_path / "test.jsonl")
    records = Records(tmp_path / "test.jsonl")
    labels = digits.load_digits("test").labels
    for i in range(5):
        record, word = records[i], WORDS[int(labels[48 * i])]
        assert record.id == str(1000 + i)
        assert record.question == "what is this ?"
        assert record.answer == word
        assert record.references == (*[word] * 8, "lemon", "lemon")
        assert load_image(record.images[0]).size == (8, 8)


def test_caption_rows(tmp_path: Path) -> None:
    parts = coco.splits("coco", write_karpathy(tmp_path), tmp_path / "images")
    assert {part: [row["id"] for row in rows] for part, rows in parts.items()} == {
        "train": ["0", "1"],
        "dev": ["2"],
        "test": ["3", "4"],
    }
    coco.write(parts["train"], tmp_path / "train.jsonl")
    record = Records(tmp_path / "train.jsonl")[1]
    assert record.answer == "A apple"
    assert record.references == tuple(f"A {word}" for word in WORDS[:5])


def damaged(root: Path, task: str, file: int, change: Any) -> None:
    path = root / task / coco.QUESTIONS[task][file].format(part="val")
    found = json.loads(path.read_text())
    change(found)
    path.write_text(json.dumps(found))


@pytest.mark.parametrize(
    ("file", "change", "told"),
    [
        (0, lambda found: found.pop("data_subtype"), "data_subtype must name the images' folder"),
        (0, lambda found: found["questions"][1].pop("question"), r"questions\[1\] has no question"),
        (1, lambda found: found["annotations"].pop(2), "question 1002 of .* is not annotated"),
        (1, lambda found: found.update(annotations=[]), "annotations must be a list of entries"),
        (1, lambda found: found["annotations"][0].update(image_id=7), "question 1000 of .* is not annotated"),
    ],
)
def test_what_is_not_of_the_format(tmp_path: Path, file: int, change: Any, told: str) -> None:
    write_vqa(tmp_path, "okvqa", {"train": 10, "val": 4})
    damaged(tmp_path, "okvqa", file, change)
    with pytest.raises(ValueError, match=told):
        coco.splits("okvqa", tmp_path / "okvqa", tmp_path / "images")


def test_measured(tmp_path: Path) -> None:
    """Demonstrations and an adapter answer fixed words that the base cannot know; a second run does nothing again."""
    write_vqa(tmp_path, "vqav2", {"train": 240, "val": 40})
    files = published.prepare("vqav2", tmp_path / "vqav2", tmp_path / "images", tmp_path / "out")
    with pytest.raises(ValueError, match="made of other files"):
        published.prepare("vqav2", tmp_path / "vqav2", tmp_path, tmp_path / "out")
    setting = published.Setting("testbed", tmp_path / "out", batch=4)
    rows = [
        Row("idefics2-8b", "zero-shot", {"vqav2": 10.0}, milliseconds=50.0, flops=1.0),
        Row("idefics2-8b", "16-shot", {"vqav2": 66.2}, 16, milliseconds=100.0),
        Row("idefics2-8b", "RICES", {"vqav2": 70.0}, 16, "rices"),
        Row("idefics2-8b", "HiFICL", {"vqav2": 72.08}, config=HiFICLConfig(), learning_rate=2e-2, samples=128),
        Row("idefics2-8b", "MimIC", {"vqav2": 69.29}, 8, config=MimICConfig()),
    ]
    seen: list[tuple[str, int, int | None]] = []
    published.measure(setting, "vqav2", TESTBED, rows[:4], files, lambda *told: seen.append(told))
    file = tmp_path / "out" / "results" / "vqav2.json"
    found = compare("vqav2", TESTBED, rows, Results(file), files["test"])
    zero, shown, rices, hificl, mimic = found
    assert zero["measured"] == 0
    assert zero["difference"] == -10
    assert shown["measured"] > 40  # of 16 random demonstrations .82 have the query's digit among them
    assert hificl["measured"] > 60
    assert hificl["difference"] == pytest.approx(hificl["measured"] - 72.08)
    assert hificl["parameters"] == 4 * 2 * 2 * (8 * 8 + 8 * 32)
    assert shown["published time"] == 2
    assert shown["FLOP"] > 2
    assert zero["FLOP"] == 1
    assert "measured" not in rices  # without --clip
    assert "measured" not in mimic
    table = markdown(found)
    assert f"| digits | HiFICL | 72.08 | {hificl['measured']:.2f} (" in table
    assert "| digits | MimIC | 69.29 |  |" in table

    # each step of eight examples, whatever is in memory at a time
    told = json.loads((tmp_path / "out/adapters/vqav2/hificl-0/run.json").read_text())
    assert told["examples"]["train"] == 128
    assert told["history"][-1]["step"] == 5 * 128 / 8
    assert {"HiFICL", "16-shot: answers", "HiFICL: answers"} <= {what for what, _, _ in seen}
    assert max(done for what, done, _ in seen if what == "16-shot: answers") == 40

    before, seen[:] = file.stat().st_mtime_ns, []
    published.measure(setting, "vqav2", TESTBED, rows[:4], files, lambda *told: seen.append(told))
    assert seen == []
    assert file.stat().st_mtime_ns == before


def test_bank_for_rices(tmp_path: Path) -> None:
    from tests.icl.models import tiny_model

    clip = tiny_model("clip", tmp_path / "clip")
    write_vqa(tmp_path, "okvqa", {"train": 20, "val": 4})
    files = published.prepare("okvqa", tmp_path / "okvqa", tmp_path / "images", tmp_path / "out", limit=3)
    setting = published.Setting("testbed", tmp_path / "out", str(clip))
    rows = [Row("idefics-9b", "RICES", {"okvqa": 50.0}, 2, "rices")]
    published.measure(setting, "okvqa", TESTBED, rows, files, lambda *told: None)
    (line,) = compare("okvqa", TESTBED, rows, Results(tmp_path / "out/results/okvqa.json"), files["test"])
    assert line["examples"] == 3
    assert 0 <= line["measured"] <= 100


def test_chat_template_where_there_is_none(tmp_path: Path) -> None:
    """The first Idefics has no chat template: it gets one, beside its own files."""
    model, processor = load()
    template = processor.chat_template
    model.save_pretrained(tmp_path / "given")
    processor.save_pretrained(tmp_path / "given")
    assert published.templated("idefics-9b", str(tmp_path / "given"), tmp_path / "out") == str(tmp_path / "given")
    (tmp_path / "given" / "chat_template.jinja").unlink()
    assert published.templated("idefics2-8b", str(tmp_path / "given"), tmp_path / "out") == str(tmp_path / "given")
    made = published.templated("idefics-9b", str(tmp_path / "given"), tmp_path / "out")
    from icl.attention.models import load_model

    loaded, other = load_model(made)
    assert loaded.num_parameters() == model.num_parameters()
    chat = [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Question: who ? Short answer:"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "a boat"}]},
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Caption:"}]},
    ]
    text = other.apply_chat_template(chat, add_generation_prompt=True)
    assert text == "<image>Question: who ? Short answer: a boat\n<image>Caption: "
    assert template != other.chat_template


def command(*args: Any) -> Result:
    app = typer.Typer()
    app.command()(published.main)
    return CliRunner().invoke(app, list(map(str, args)), env={"TERM": "dumb"})


def test_command(tmp_path: Path) -> None:
    write_vqa(tmp_path, "vqav2", {"train": 20, "val": 4}, "what is this ?")
    for part in load():  # from files, as a model whose processor takes any words
        part.save_pretrained(tmp_path / "model")
    data = (
        "--model",
        tmp_path / "model",
        "--images",
        tmp_path / "images",
        "--vqav2",
        tmp_path / "vqav2",
        "--out",
        tmp_path / "out",
    )
    ran = command("idefics2-8b", *data, "--method", "8-shot")
    assert ran.exit_code == 0, ran.stderr
    assert ran.stdout.count("\n| VQAv2 |") == len(rows_of("idefics2-8b", "vqav2"))
    told = json.loads((tmp_path / "out/idefics2-8b/published.json").read_text())
    by_method = {line["method"]: line for line in told}
    assert by_method["8-shot"]["examples"] == 4
    assert "measured" not in by_method["MimIC"]
    assert (tmp_path / "out/idefics2-8b/published.md").read_text() in ran.stdout

    for image in (tmp_path / "images/val2014").iterdir():
        image.unlink()
    ran = command("idefics2-8b", *data, "--limit", "3", "--method", "8-shot")
    assert ran.exit_code == 1
    assert "line 1: there is no image" in ran.stderr
    assert ran.stderr.count("\n") == 1
    ran = command("idefics2-8b", "--vqav2", tmp_path / "vqav2", "--method", "nothing")
    assert ran.exit_code == 2
    assert ran.stdout == ""


@pytest.mark.parametrize("base", BASES)
def test_published_alone(base: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    published.main(base, out=tmp_path)
    text = capsys.readouterr().out
    for name, task in TASKS.items():
        for row in rows_of(base, name):
            assert f"| {task.title} | {row.name} | {row.figures[name]:.2f} |" in text
    assert not list(tmp_path.iterdir())
