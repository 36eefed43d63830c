"""Scores of captions against references: CIDEr and BLEU-4 as the COCO evaluator computes them, and CHAIR.

Words are :func:`icl.evaluation.metrics.ptb.words`. The mean of CIDEr's rows is the score of a data set, which
:func:`icl.evaluation.mean_interval` bounds; BLEU and CHAIR_i are no means of rows.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from functools import cache
from importlib import resources
from types import MappingProxyType
from typing import NamedTuple

from icl.evaluation.metrics import ptb
from icl.evaluation.metrics.answers import pair_rows

_ORDERS = 4
_SIGMA = 6.0
# The evaluator's BLEU adds these where a count may be 0.
_TINY, _SMALL = 1e-15, 1e-9

Ngrams = Counter[tuple[str, ...]]
Objects = Mapping[str, str | None]


def cider_d(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
    """Return CIDEr-D of each row, from 0 to 10, whose mean the COCO caption evaluator prints under the name CIDEr.

    Vedantam et al., 2015, eq. 4 and 5: the cosine of the tf-idf weights of prediction and reference, a weight of the
    prediction no larger than that of the reference, times exp(-(l - l')^2/(2 sigma^2)) of the lengths, sigma = 6;
    the mean over references and over 1- to 4-grams, times 10. Published tables print 100 times the mean.

    Document frequencies count the rows that have an n-gram in a reference, so a score depends on all rows, and of a
    single row it is 0. As in the evaluator, term frequencies are counts, not divided by the length.

    Raises:
        TypeError, ValueError: a row is no string, or has no references; the message names it.

    >>> rows = cider_d(["a dog runs in the park", "two cats"], [["a dog runs in the park"], ["a red bus"]])
    >>> [round(score, 6) for score in rows]
    [10.0, 0.0]
    """
    rows = _count_rows(predictions, references)
    frequency = Counter(ngram for _, texts in rows for ngram in set().union(*texts))
    rarity = {ngram: math.log(len(rows) / count) for ngram, count in frequency.items()}
    unseen = math.log(len(rows)) if rows else 0.0

    def weights(ngrams: Ngrams) -> list[dict[tuple[str, ...], float]]:
        """Return the tf-idf weights of each order, the smallest first."""
        orders: list[dict[tuple[str, ...], float]] = [{} for _ in range(_ORDERS)]
        for ngram, count in ngrams.items():
            orders[len(ngram) - 1][ngram] = count * rarity.get(ngram, unseen)
        return orders

    def similarity(prediction: Ngrams, reference: Ngrams) -> float:
        cosines = (_clipped_cosine(x, y) for x, y in zip(weights(prediction), weights(reference)))
        penalty = math.exp(-((_count_words(prediction) - _count_words(reference)) ** 2) / (2 * _SIGMA**2))
        return 10 * (penalty * sum(cosines) / _ORDERS)

    return [sum(similarity(prediction, text) for text in texts) / len(texts) for prediction, texts in rows]


def _clipped_cosine(x: dict[tuple[str, ...], float], y: dict[tuple[str, ...], float]) -> float:
    """Return the cosine of the weights x, none larger than that of y, and y; 0 where one has no weights at all."""
    norms = math.hypot(*x.values()) * math.hypot(*y.values())
    shared = ((weight, y[ngram]) for ngram, weight in x.items() if ngram in y)
    return sum(min(a, b) * b for a, b in shared) / norms if norms else 0.0


def bleu4(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """Return BLEU-4 of all rows together, from 0 to 1, as the COCO caption evaluator computes it.

    Papineni et al., 2002: the geometric mean of the precisions of 1- to 4-grams, clipped to their largest count in a
    reference, times exp(1 - r/l) if all predictions have fewer words, l, than references, r; of each row the reference
    of the closest length counts, of two the shorter. Precisions are (matches + 1e-15)/(count + 1e-9) and the ratio
    l/r alike, so nothing is divided by 0.

    Raises:
        TypeError, ValueError: there are no rows, a row is no string, or it has no references; the message names it.

    >>> f"{bleu4(['a dog runs in the park'], [['a dog runs in a park', 'a dog']]):.4f}"
    '0.5373'
    """
    rows = _count_rows(predictions, references)
    if not rows:
        raise ValueError("bleu4: predictions must not be empty")
    matches, counts, length, reference_length = Counter[int](), Counter[int](), 0, 0
    for prediction, texts in rows:
        most: Ngrams = Counter()
        for text in texts:
            most |= text
        for ngram, count in prediction.items():
            counts[len(ngram)] += count
            matches[len(ngram)] += min(count, most[ngram])
        size = _count_words(prediction)
        length += size
        reference_length += min(map(_count_words, texts), key=lambda other: (abs(other - size), other))
    precisions = ((matches[n] + _TINY) / (counts[n] + _SMALL) for n in range(1, _ORDERS + 1))
    ratio = (length + _TINY) / (reference_length + _SMALL)
    return math.prod(precisions) ** (1 / _ORDERS) * (math.exp(1 - 1 / ratio) if ratio < 1 else 1.0)


def _count_rows(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> list[tuple[Ngrams, list[Ngrams]]]:
    rows = pair_rows(predictions, references, "references")
    return [(_count_ngrams(prediction), [_count_ngrams(text) for text in texts]) for prediction, texts in rows]


def _count_ngrams(caption: str) -> Ngrams:
    words = ptb.words(caption)
    return Counter(tuple(words[i : i + n]) for n in range(1, _ORDERS + 1) for i in range(len(words) - n + 1))


def _count_words(ngrams: Ngrams) -> int:
    return sum(count for ngram, count in ngrams.items() if len(ngram) == 1)


class ChairScore(NamedTuple):
    """The two shares of objects that are not in the image, and these objects.

    ``instance``, CHAIR_i, is a share of all objects that captions mention, 0 if none mentions any, and ``sentence``,
    CHAIR_s, of all captions. ``hallucinated`` are the objects by caption, each as often as it is mentioned.
    """

    instance: float
    sentence: float
    hallucinated: list[list[str]]


def chair(captions: Sequence[str], objects: Sequence[Collection[str]], words: Objects | None = None) -> ChairScore:
    """Return how often captions mention objects that are not there (Rohrbach et al., 2018): lower is better.

    Args:
        captions: one of each image.
        objects: what is in each image, by the names that ``words`` maps to. The paper unites the labels of the image's
            segments with what :func:`mentioned` finds in its reference captions.
        words: see :func:`mentioned`. The paper's table can be passed; the default is another one for the same objects,
            so figures are near the published ones and not the same.

    Raises:
        TypeError, ValueError: there are no captions, a row is not of these types, or ``objects`` has a name that
            ``words`` does not lead to; the message names it.

    >>> chair(["A man with two dogs.", "A red bus"], [{"person", "cat"}, {"bus"}])
    ChairScore(instance=0.333..., sentence=0.5, hallucinated=[['dog'], []])
    """
    if len(captions) == 0:
        raise ValueError("chair: captions must not be empty")
    if len(captions) != len(objects):
        raise ValueError(f"objects must have one entry a caption, got {len(objects)} for {len(captions)}")
    for row, caption in enumerate(captions):
        if not isinstance(caption, str):
            raise TypeError(f"captions[{row}] must be a string, got {caption!r}")
    table = _add_plurals(words)
    mentions = [_find_objects(caption, table) for caption in captions]
    names = set(table.values())
    for row, present in enumerate(objects):
        if isinstance(present, str):
            raise TypeError(f"objects[{row}] must be a collection of names, got the string {present!r}")
        if strange := sorted(set(present) - names):
            raise ValueError(f"objects[{row}] must have names that words maps to, got {', '.join(map(repr, strange))}")
    hallucinated = [[name for name in row if name not in present] for row, present in zip(mentions, objects)]
    instance = sum(map(len, hallucinated)) / max(1, sum(map(len, mentions)))
    return ChairScore(instance, sum(map(bool, hallucinated)) / len(captions), hallucinated)


def mentioned(caption: str, words: Objects | None = None) -> list[str]:
    """Return the objects that a caption mentions, in its order, as often as it does.

    Args:
        caption: any text.
        words: the object that a word or phrase of lower-case letters stands for, None for one that stands for none
            although a part of it does ("train station"). Of several that fit the longest counts; a regular plural
            stands for the same. Default: the 80 objects of COCO (``icl/evaluation/metrics/coco_objects.json``).

    >>> mentioned("Two puppies on a sofa by the train station, eating a hot-dog")
    ['dog', 'couch', 'hot dog']
    """
    if not isinstance(caption, str):
        raise TypeError(f"caption must be a string, got {caption!r}")
    return _find_objects(caption, _add_plurals(words))


@cache
def coco_objects() -> Objects:
    """Return the default words of :func:`mentioned`: names, synonyms, young and kinds of the 80 objects of COCO.

    >>> coco_objects()["kitten"], coco_objects()["train station"]
    ('cat', None)
    """
    data = json.loads(resources.files(__package__).joinpath("coco_objects.json").read_text(encoding="utf-8"))
    words = {word: name for name, synonyms in data["objects"].items() for word in (name, *synonyms)}
    return MappingProxyType(words | dict.fromkeys(data["none"]))


def _find_objects(caption: str, table: Objects) -> list[str]:
    words = _split_words(caption)
    longest = max(phrase.count(" ") for phrase in table) + 1
    names, i = [], 0
    while i < len(words):
        phrases = (" ".join(words[i : i + n]) for n in range(min(longest, len(words) - i), 0, -1))
        phrase = next((phrase for phrase in phrases if phrase in table), words[i])
        if name := table.get(phrase):
            names.append(name)
        i += phrase.count(" ") + 1
    return names


def _add_plurals(words: Objects | None) -> Objects:
    """Return a table with regular plurals, which give way to words that stand in it; the default is COCO's."""
    if words is None:
        return _add_plurals(coco_objects())
    if not words:
        raise ValueError("words must not be empty")
    singular = {" ".join(_split_words(word)): name for word, name in words.items()}
    return {_make_plural(word): name for word, name in singular.items()} | singular


def _make_plural(word: str) -> str:
    if re.search(r"(s|x|z|ch|sh)$", word):
        return f"{word}es"
    if re.search(r"[^aeiou]y$", word):
        return f"{word[:-1]}ies"
    return f"{word}s"


def _split_words(text: str) -> list[str]:
    """Return words of letters alone: "hot-dogs" is two, "dog's" begins with a dog."""
    return re.findall(r"[^\W\d_]+", text.lower())
