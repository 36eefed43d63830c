"""Episodes of the testbed's training are what docs/testbed.md says."""

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch

from icl.testbed import episodes, images
from icl.testbed.vocabulary import DIGITS, END, STYLES, WORDS, build_processor


def sample_batch(
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
        batch, pool, tokenizer = sample_batch(style, fewest=2, digit_names=0.5, seed=seed)
        again, _, _ = sample_batch(style, fewest=2, digit_names=0.5, seed=seed)
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
