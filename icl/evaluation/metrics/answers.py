"""Scores of short answers, one a row: VQA accuracy as its official evaluator computes it, and exact match.

The mean of the rows is the score of a data set; :func:`icl.evaluation.mean_interval` bounds it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

# In this order, and without the full stop, which numbers need, and apostrophe and colon, which words and times need.
_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_COMMA_IN_NUMBER = re.compile(r"\d,\d")
_FULL_STOP = re.compile(r"\.(?!\d)")
# The evaluator means re.UNICODE, but passes it where the number of replacements stands, and its value is 32.
_FULL_STOPS = 32
_NUMBERS = {
    "none": "0", "zero": "0", "one": "1", "two": "2", "three": "3", "four": "4", "five": "5", "six": "6", "seven": "7",
    "eight": "8", "nine": "9", "ten": "10",
}  # fmt: skip
_ARTICLES = ("a", "an", "the")
_APOSTROPHES = """
    'ow's'at 'twas ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't
    he'd he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am might've mightn't mightn't've must've mustn't
    needn't not've o'clock oughtn't shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll
    somebody's someone'd someone'd've someone'll someone's something'd something'd've something'll that's there'd
    there'd've there're there's they'd they'd've they'll they're they've wasn't we'd've we've weren't what'll what're
    what's what've when's where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't would've
    wouldn't wouldn't've y'all y'all'd've y'all'll you'd you'd've you'll you're you've
"""
# A contraction that lacks one apostrophe, as the evaluator has them all; one of its entries is the wrong way round.
_CONTRACTIONS = {"somebody'd": "somebodyd"} | {
    whole[: place.start()] + whole[place.end() :]: whole
    for whole in _APOSTROPHES.split()
    for place in re.finditer("'", whole)
}


def normalize_answer(answer: str) -> str:
    """Return an answer as the VQA evaluator compares it: without punctuation and articles, numbers as digits.

    After https://visualqa.org/evaluation.html: lower case; no full stops but those before a digit; "none" and "zero" to
    "ten" as digits; no "a", "an", "the"; contractions with their apostrophe ("dont" is "don't"); other punctuation,
    apostrophe and colon excepted, a space. Where the evaluator does not do what that page says, this does as the
    evaluator:

    * A mark goes without a space if somewhere in the answer it stands beside one; and every mark does if somewhere a
      comma stands between digits: "2,000 hot-dogs" has "hotdogs".
    * Full stops past the 32nd stay.
    * An article is one after numbers are digits, a contraction is one after articles are gone; both only as a whole
      word.

    >>> normalize_answer("The two dogs, and a cat-like thing. It isnt 3.50!")
    "2 dogs and cat like thing it isn't 3.50"
    """
    text = answer
    in_number = _COMMA_IN_NUMBER.search(answer)
    for mark in _PUNCTUATION:
        beside_space = f"{mark} " in answer or f" {mark}" in answer
        text = text.replace(mark, "" if beside_space or in_number else " ")
    text = _FULL_STOP.sub("", text, count=_FULL_STOPS)
    words = (_NUMBERS.get(word, word) for word in text.lower().split())
    return " ".join(_CONTRACTIONS.get(word, word) for word in words if word not in _ARTICLES)


def vqa_accuracy(predictions: Sequence[str], answers: Sequence[Sequence[str]]) -> list[float]:
    """Return the share of people who gave the same answer, three being enough, by row (Antol et al., 2015).

    Of a row with ten answers it is the mean over the ten subsets of nine of min(1, matches/3), as ``vqaEval.py`` of
    VQAv2 (Goyal et al., 2017) has it and OK-VQA (Marino et al., 2019) takes it over; rows may have any number of
    answers from two on, and with fewer than four nothing is worth 1.

    Answers are compared after :func:`normalize_answer`, prediction and people's alike. Not so where all people gave the
    same answer: then the evaluator compares as it stands, with nothing but the spaces around it cut off, and "Two" is
    not the "2" of ten people. Published figures have this in them, so it stays.

    Args:
        predictions: one answer a row, which may be empty.
        answers: people's answers, row by row.

    Raises:
        TypeError, ValueError: a row is no string, or has fewer than two answers; the message names it.

    >>> vqa_accuracy(["Two.", "dog"], [["2", "2", "2", "3", "3", "3", "3", "3", "3", "3"], ["cat"] * 10])
    [0.9, 0.0]
    """
    scores = []
    for row, (prediction, references) in enumerate(pair_rows(predictions, answers, "answers")):
        if len(references) == 1:
            raise ValueError(f"answers[{row}] must have two answers or more, got 1: exact_match compares with one")
        prediction, *references = map(_trim, (prediction, *references))
        if len(set(references)) > 1:
            prediction, *references = map(normalize_answer, (prediction, *references))
        count, matches = len(references), references.count(prediction)
        # leaving out one that matches, and one that does not
        shares = matches * min(1.0, (matches - 1) / 3) + (count - matches) * min(1.0, matches / 3)
        scores.append(shares / count)
    return scores


def exact_match(predictions: Sequence[str], answers: Sequence[Sequence[str]]) -> list[float]:
    """Return 1 for rows whose prediction is one of the answers after :func:`normalize_answer`, else 0.

    >>> exact_match(["A cat.", "three", ""], [["cat"], ["2", "4"], ["cat"]])
    [1.0, 0.0, 0.0]
    """
    rows = pair_rows(predictions, answers, "answers")
    return [float(normalize_answer(prediction) in map(normalize_answer, references)) for prediction, references in rows]


def pair_rows(
    predictions: Sequence[str], references: Sequence[Iterable[str]], name: str
) -> list[tuple[str, list[str]]]:
    """Return each prediction with what it is compared with, one reference at least.

    Raises:
        TypeError, ValueError: names the argument, the row, what it got and what it wanted.
    """
    for argument, value in (("predictions", predictions), (name, references)):
        if isinstance(value, str):
            raise TypeError(f"{argument} must have one entry a row, got the string {value!r}")
    if len(predictions) != len(references):
        raise ValueError(f"{name} must have one entry a prediction, got {len(references)} for {len(predictions)}")
    rows = []
    for row, (prediction, texts) in enumerate(zip(predictions, references)):
        if not isinstance(prediction, str):
            raise TypeError(f"predictions[{row}] must be a string, got {prediction!r}")
        if isinstance(texts, str) or not isinstance(texts, Iterable):
            raise TypeError(f"{name}[{row}] must be a list of strings, got {texts!r}")
        texts = list(texts)
        if not texts:
            raise ValueError(f"{name}[{row}] must not be empty")
        if strange := [text for text in texts if not isinstance(text, str)]:
            raise TypeError(f"{name}[{row}] must be a list of strings, got {strange[0]!r} in it")
        rows.append((prediction, texts))
    return rows


def _trim(answer: str) -> str:
    return answer.replace("\n", " ").replace("\t", " ").strip()
