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
from icl.evaluation.metrics.answers import checked

_ORDERS = 4
_SIGMA = 6.0
# Of the evaluator's BLEU, which adds them where a count may be 0.
_TINY, _SMALL = 1e-15, 1e-9

Ngrams = Counter[tuple[str, ...]]
Objects = Mapping[str, str | None]


def cider_d(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
    """CIDEr-D of each row, from 0 to 10: what the COCO caption evaluator prints, as a mean, under the name CIDEr.

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
    return [10 * score for score in _cider(predictions, references, clipped=True)]


def cider(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
    """CIDEr of each row, from 0 to 1, as first defined; what evaluators print under that name is :func:`cider_d`.

    Vedantam et al., 2015, eq. 2 and 3: the mean over references and over 1- to 4-grams of the cosine of the tf-idf
    weights. Words are not stemmed.

    >>> [round(score, 6) for score in cider(["dog", "two cats"], [["dog", "a cat"], ["a red bus"]])]
    [0.125, 0.0]
    """
    return _cider(predictions, references, clipped=False)


def _cider(predictions: Sequence[str], references: Sequence[Sequence[str]], clipped: bool) -> list[float]:
    rows = _ngram_rows(predictions, references)
    frequency = Counter(ngram for _, given in rows for ngram in set().union(*given))
    rarity = {ngram: math.log(len(rows) / count) for ngram, count in frequency.items()}
    unseen = math.log(len(rows)) if rows else 0.0

    def weights(ngrams: Ngrams) -> list[dict[tuple[str, ...], float]]:
        """By order, the smallest first."""
        orders: list[dict[tuple[str, ...], float]] = [{} for _ in range(_ORDERS)]
        for ngram, count in ngrams.items():
            orders[len(ngram) - 1][ngram] = count * rarity.get(ngram, unseen)
        return orders

    def similarity(said: Ngrams, given: Ngrams) -> float:
        cosines = (_cosine(x, y, clipped) for x, y in zip(weights(said), weights(given)))
        penalty = math.exp(-((_length(said) - _length(given)) ** 2) / (2 * _SIGMA**2)) if clipped else 1.0
        return penalty * sum(cosines) / _ORDERS

    return [sum(similarity(said, reference) for reference in given) / len(given) for said, given in rows]


def _cosine(x: dict[tuple[str, ...], float], y: dict[tuple[str, ...], float], clipped: bool) -> float:
    """0 where one has no weights at all."""
    norms = math.hypot(*x.values()) * math.hypot(*y.values())
    shared = ((weight, y[ngram]) for ngram, weight in x.items() if ngram in y)
    return sum((min(a, b) if clipped else a) * b for a, b in shared) / norms if norms else 0.0


def bleu4(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """BLEU-4 of all rows together, from 0 to 1, as the COCO caption evaluator computes it.

    Papineni et al., 2002: the geometric mean of the precisions of 1- to 4-grams, clipped to their largest count in a
    reference, times exp(1 - r/l) if all predictions have fewer words, l, than references, r; of each row the reference
    of the closest length counts, of two the shorter. Precisions are (matches + 1e-15)/(count + 1e-9) and the ratio
    l/r alike, so nothing is divided by 0.

    Raises:
        TypeError, ValueError: there are no rows, a row is no string, or it has no references; the message names it.

    >>> f"{bleu4(['a dog runs in the park'], [['a dog runs in a park', 'a dog']]):.4f}"
    '0.5373'
    """
    rows = _ngram_rows(predictions, references)
    if not rows:
        raise ValueError("bleu4: predictions must not be empty")
    matches, counts, length, wanted = Counter[int](), Counter[int](), 0, 0
    for said, given in rows:
        most: Ngrams = Counter()
        for reference in given:
            most |= reference
        for ngram, count in said.items():
            counts[len(ngram)] += count
            matches[len(ngram)] += min(count, most[ngram])
        size = _length(said)
        length += size
        wanted += min((_length(reference) for reference in given), key=lambda other: (abs(other - size), other))
    precisions = ((matches[n] + _TINY) / (counts[n] + _SMALL) for n in range(1, _ORDERS + 1))
    ratio = (length + _TINY) / (wanted + _SMALL)
    return math.prod(precisions) ** (1 / _ORDERS) * (math.exp(1 - 1 / ratio) if ratio < 1 else 1.0)


def _ngram_rows(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> list[tuple[Ngrams, list[Ngrams]]]:
    rows = checked(predictions, references, "references")
    return [(_ngrams(said), [_ngrams(reference) for reference in given]) for said, given in rows]


def _ngrams(caption: str) -> Ngrams:
    words = ptb.words(caption)
    return Counter(tuple(words[i : i + n]) for n in range(1, _ORDERS + 1) for i in range(len(words) - n + 1))


def _length(ngrams: Ngrams) -> int:
    """In words."""
    return sum(count for ngram, count in ngrams.items() if len(ngram) == 1)


class ChairScore(NamedTuple):
    """What :func:`chair` returns."""

    instance: float
    """CHAIR_i: of all objects that captions mention, the share that is not in the image; 0 if none mentions any."""
    sentence: float
    """CHAIR_s: of all captions, the share that mentions an object that is not in the image."""
    hallucinated: list[list[str]]
    """By caption, the objects that are not in the image, each as often as it is mentioned."""


def chair(captions: Sequence[str], objects: Sequence[Collection[str]], words: Objects | None = None) -> ChairScore:
    """How often captions mention objects that are not there (Rohrbach et al., 2018): lower is better.

    Args:
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
    table = _table(words)
    found = [_mentioned(caption, table) for caption in captions]
    known = set(table.values())
    for row, present in enumerate(objects):
        if isinstance(present, str):
            raise TypeError(f"objects[{row}] must be a collection of names, got the string {present!r}")
        if strange := sorted(set(present) - known):
            raise ValueError(f"objects[{row}] must have names that words maps to, got {', '.join(map(repr, strange))}")
    hallucinated = [[name for name in row if name not in present] for row, present in zip(found, objects)]
    mentions = sum(map(len, found))
    return ChairScore(
        sum(map(len, hallucinated)) / mentions if mentions else 0.0,
        sum(map(bool, hallucinated)) / len(captions),
        hallucinated,
    )


def mentioned(caption: str, words: Objects | None = None) -> list[str]:
    """The objects that the caption mentions, in its order, as often as it does.

    Args:
        words: the object that a word or phrase of lower-case letters stands for, None for one that stands for none
            although a part of it does ("train station"). Of several that fit the longest counts; a regular plural
            stands for the same. Default: the 80 objects of COCO (``icl/evaluation/metrics/coco_objects.json``).

    >>> mentioned("Two puppies on a sofa by the train station, eating a hot-dog")
    ['dog', 'couch', 'hot dog']
    """
    if not isinstance(caption, str):
        raise TypeError(f"caption must be a string, got {caption!r}")
    return _mentioned(caption, _table(words))


@cache
def coco_objects() -> Objects:
    """The default of :func:`mentioned`: names, synonyms, young and kinds of the 80 objects that COCO has labels for.

    >>> coco_objects()["kitten"], coco_objects()["train station"]
    ('cat', None)
    """
    data = json.loads(resources.files(__package__).joinpath("coco_objects.json").read_text(encoding="utf-8"))
    words = {word: name for name, synonyms in data["objects"].items() for word in (name, *synonyms)}
    return MappingProxyType(words | dict.fromkeys(data["none"]))


def _mentioned(caption: str, table: Objects) -> list[str]:
    words = _letters(caption)
    longest = max(phrase.count(" ") for phrase in table) + 1
    found, i = [], 0
    while i < len(words):
        phrases = (" ".join(words[i : i + n]) for n in range(min(longest, len(words) - i), 0, -1))
        phrase = next((phrase for phrase in phrases if phrase in table), words[i])
        if name := table.get(phrase):
            found.append(name)
        i += phrase.count(" ") + 1
    return found


def _table(words: Objects | None) -> Objects:
    """With regular plurals, which give way to words that are given."""
    if words is None:
        return _table(coco_objects())
    if not words:
        raise ValueError("words must not be empty")
    given = {" ".join(_letters(word)): name for word, name in words.items()}
    return {_plural(word): name for word, name in given.items()} | given


def _plural(word: str) -> str:
    if re.search(r"(s|x|z|ch|sh)$", word):
        return f"{word}es"
    if re.search(r"[^aeiou]y$", word):
        return f"{word[:-1]}ies"
    return f"{word}s"


def _letters(text: str) -> list[str]:
    """Words of letters alone: "hot-dogs" is two, "dog's" begins with a dog."""
    return re.findall(r"[^\W\d_]+", text.lower())
