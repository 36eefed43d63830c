"""Training of the testbed: its images and episodes are what docs/testbed.md says, and it is the same every time."""

import io
import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from icl.testbed import episodes, images, pretrain
from icl.testbed.vocabulary import DIGITS, END, STYLES, WORDS, build_processor


def test_splits_share_no_image() -> None:
    parts = {name: images.load_digits(name) for name in ("train", "dev", "test")}
    assert {name: len(part) for name, part in parts.items()} == {"train": 1437, "dev": 120, "test": 240}
    for name, each in (("dev", 12), ("test", 24)):
        assert parts[name].labels.bincount().tolist() == [each] * 10
    files = [part.png(i) for part in parts.values() for i in range(len(part))]
    assert len(set(files)) == len(files) == 1797
    held_out = images.load_digits("held_out")
    assert {held_out.png(i) for i in range(360)} == set(files[1437:])
    with pytest.raises(ValueError, match="'validation'"):
        images.load_digits("validation")


def test_png_and_processor_give_the_pixels_of_training() -> None:
    dev = images.load_digits("dev")
    read = np.stack([np.asarray(Image.open(io.BytesIO(dev.png(i)))) for i in range(len(dev))])
    assert np.array_equal(read, dev.pixels.numpy())
    rows = [[Image.fromarray(x)] for x in read]
    processed = build_processor(STYLES["base"]).image_processor(rows, return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(processed, images.pixel_values(dev.pixels), rtol=0, atol=1e-6)
    assert (processed.min(), processed.max()) == (-1, 1)


def test_augmentation_shifts_by_a_pixel_at_most() -> None:
    pixels = torch.zeros(2000, 8, 8, dtype=torch.uint8)
    pixels[:, 3, 4] = 255
    values = images.augment(pixels, torch.Generator().manual_seed(0))[:, 0, 0]
    at = values.flatten(1).argmax(1)
    moves = Counter(zip((at // 8 - 3).tolist(), (at % 8 - 4).tolist()))
    assert set(moves) == {(i, j) for i in (-1, 0, 1) for j in (-1, 0, 1)}
    assert abs(moves[0, 0] / 2000 - (1 / 2 + 1 / 18)) < 0.04
    peak = values.flatten(1).amax(1)  # 2 ink - 1, ink uniform on .8 to 1.2, and noise of .1
    assert abs(peak.mean() - 1) < 0.02
    assert abs(peak.var() - ((2 * 0.4) ** 2 / 12 + 0.01)) < 0.006
    background = values.flatten(1).kthvalue(32, 1).values
    assert abs(background.mean() + 1) < 0.02


def drawn(
    style: str, fewest: int, digit_names: float, seed: int = 0
) -> tuple[episodes.EpisodeBatch, torch.Tensor, Any]:
    processor = build_processor(STYLES[style])
    labels = images.load_digits("train").labels[torch.arange(0, 1437, 3)]
    sampler = episodes.EpisodeSampler(processor, labels)
    layouts = episodes.EpisodeLayout.chat(processor, "image"), episodes.EpisodeLayout.chat(processor, "text")
    batch = sampler.batch(*layouts, fewest, digit_names, torch.Generator().manual_seed(seed))
    return batch, labels, processor.tokenizer


@pytest.mark.parametrize(("style", "maps", "captions", "symbols"), [("base", 20, 6, 6), ("long", 6, 2, 2)])
def test_episodes(style: str, maps: int, captions: int, symbols: int) -> None:
    names, merged, sizes = Counter[str](), [], []
    for seed in range(8):
        batch, pool, tokenizer = drawn(style, fewest=2, digit_names=0.5, seed=seed)
        again, _, _ = drawn(style, fewest=2, digit_names=0.5, seed=seed)
        assert all(torch.equal(a, b) for a, b in zip(batch, again))
        assert len(batch.input_ids) == maps + captions + symbols
        pictures = iter(batch.images.view(-1, 24).tolist())
        for e, (ids, weights, judged) in enumerate(zip(batch.input_ids, batch.weights, batch.judged)):
            tokens = tokenizer.convert_ids_to_tokens(ids)
            assert tokens[0] == "<s>"
            lead = [i for i, token in enumerate(tokens) if token == ("is" if style == "base" else "Assistant:")]
            at = [i + (1 if style == "base" else 4) for i in lead]
            labels = [tokens[i] for i in at]
            assert len(labels) == 24
            assert all(tokens[i + 1] == END and weights[i + 1] == pytest.approx(0.1) for i in at)
            if e < maps + captions:
                shown = next(pictures)
                assert len(set(shown)) == 24
                keys = pool[shown].tolist()
            else:
                at_keys = [i - (1 if style == "base" else 7) for i in lead]
                keys = [tokens[i] for i in at_keys]
                assert set(keys) <= set(WORDS)
                assert not set(keys) & set(labels)
                assert all(weights[i] == pytest.approx(0.3) for i in at_keys)
            named = dict(zip(keys, labels))
            assert [named[key] for key in keys] == labels, "a label changed within the episode"
            first = [key not in keys[:n] for n, key in enumerate(keys)]
            if maps <= e < maps + captions:
                assert labels == [DIGITS[key] for key in keys]
                first = [False] * 24
            assert [weights[i].item() for i in at] == pytest.approx([0.1 if f else 1.0 for f in first])
            others = set(range(len(ids))) - set(at) - {i + 1 for i in at} - set(at_keys if e >= maps + captions else [])
            assert not weights[list(others)].any()
            assert judged.nonzero()[:, 0].tolist() == ([i for i, f in zip(at, first) if not f] if e < maps else [])
            if e < maps:
                names.update(
                    {"digits" if set(labels) <= set(DIGITS) else "words" if set(labels) <= set(WORDS) else "?"}
                )
                sizes.append(len(named))
                merged.append(len(set(labels)) < len(named))
    assert set(names) == {"digits", "words"}
    assert 0.35 < names["digits"] / sum(names.values()) < 0.65
    assert (min(sizes), max(sizes)) == (2, 10)
    assert 0.1 < np.mean(merged) < 0.4


def test_bare_episodes_are_one_token_an_image() -> None:
    processor = build_processor(STYLES["long"])
    image = processor.tokenizer.convert_tokens_to_ids("<image>")
    sampler = episodes.EpisodeSampler(processor, images.load_digits("dev").labels)
    layouts = episodes.EpisodeLayout.bare([image]), episodes.EpisodeLayout.bare([0])
    batch = sampler.batch(*layouts, 6, 0.0, torch.Generator().manual_seed(0))
    assert batch.input_ids.shape == (32, 49)
    assert (batch.input_ids[:26, 1::2] == image).all()
    assert (batch.input_ids[26:, 1::2] != image).all()


def test_objective_by_hand() -> None:
    predicted = torch.tensor([[[2.0, 0.0], [0.0, 1.0], [0.0, 3.0], [9.0, 9.0]]])
    batch = episodes.EpisodeBatch(
        input_ids=torch.tensor([[0, 0, 0, 1]]),
        images=torch.tensor([]),
        weights=torch.tensor([[0.0, 1.0, 0.1, 0.5]]),
        judged=torch.tensor([[False, True, False, True]]),
    )
    losses = [math.log(1 + math.exp(-2)), math.log(1 + math.exp(1)), math.log(1 + math.exp(-3))]
    loss, accuracy = pretrain.objective(predicted, batch)
    assert loss.item() == pytest.approx((losses[0] + 0.1 * losses[1] + 0.5 * losses[2]) / 1.6, rel=1e-6)
    assert accuracy == 1
    assert pretrain.objective(predicted.flip(2), batch)[1] == 0


def test_learning_rate() -> None:
    phase = pretrain.PretrainingPhase("any", 1000, 2e-3, warm_up=100, decay=0.25)
    got = [pretrain.learning_rate(phase, step) for step in (0, 49, 99, 500, 750, 875, 999)]
    assert got == pytest.approx([2e-5, 1e-3, 2e-3, 2e-3, 2e-3, 1e-3, 8e-6])


SHORT = (
    pretrain.PretrainingPhase("bare", 8, 3e-3, warm_up=4, until=0.0001, chat=False, fewest_classes=6),
    pretrain.PretrainingPhase("chat", 5, 2e-3, decay=0.3, digit_names=0.5),
)


class KilledError(Exception):
    pass


def test_a_run_that_was_killed_ends_with_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pretrain, "PHASES", SHORT)
    monkeypatch.setattr(pretrain, "_CHECKPOINT_EVERY", 3)
    whole = pretrain.Pretraining("base", 1, tmp_path / "whole")
    states: list[tuple[int, int, float]] = []
    pictures: list[list[int]] = []
    objective = pretrain.objective

    def recorded(predicted: torch.Tensor, batch: episodes.EpisodeBatch) -> tuple[torch.Tensor, torch.Tensor]:
        pictures.append(batch.images.tolist())
        return objective(predicted, batch)

    monkeypatch.setattr(pretrain, "objective", recorded)
    want = whole.run(lambda state: states.append((state.phase, state.step, state.loss)))
    assert states[-1][:2] == (1, 5)
    assert all(a != b for i, a in enumerate(pictures) for b in pictures[:i]), "data came twice"

    def die(state: pretrain.PretrainingState) -> None:
        if (state.phase, state.step) == (1, 4):
            raise KilledError

    with pytest.raises(KilledError):
        pretrain.Pretraining("base", 1, tmp_path / "cut").run(die)
    later: list[tuple[int, int, float]] = []
    cut = pretrain.Pretraining("base", 1, tmp_path / "cut")
    got = cut.run(lambda state: later.append((state.phase, state.step, state.loss)))
    assert later == states[-2:], "two steps were left after the checkpoint"
    for (name, a), (_, b) in zip(want.state_dict().items(), got.state_dict().items()):
        assert torch.equal(a, b), name
    assert cut.state.total == whole.state.total
    with pytest.raises(ValueError, match="style 'base' and seed 1"):
        pretrain.Pretraining("base", 2, tmp_path / "cut")


def test_no_breakthrough_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pretrain, "PHASES", (pretrain.PretrainingPhase("bare", 2, 1e-3, until=0.99, chat=False),))
    with pytest.raises(pretrain.NoBreakthroughError, match="try a seed other than 5"):
        pretrain.Pretraining("base", 5, tmp_path).run(lambda state: None)
