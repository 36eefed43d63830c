"""Scores of answers, against worked values and the definition of VQA accuracy by subsets."""

import hashlib
import itertools
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from icl.evaluation.metrics import answers
from icl.evaluation.metrics.answers import exact_match, normalize_answer, vqa_accuracy

WORDS = ("yes", "no", "2", "red bus", "")


@pytest.mark.parametrize(
    ("answer", "want"),
    [
        ("", ""),
        ("  Yes \n", "yes"),
        ("The Dog", "dog"),
        ("an apple and a pear", "apple and pear"),
        ("a", ""),
        ("theater", "theater"),  # articles are whole words
        ("two", "2"),
        ("none", "0"),
        ("Zero", "0"),
        ("ten", "10"),
        ("eleven", "eleven"),
        ("twenty-one", "twenty 1"),
        # full stops
        ("yes.", "yes"),
        ("3.50", "3.50"),
        ("$3.50.", "$3.50"),
        ("p.m.", "pm"),
        (".5", ".5"),
        ("5.", "5"),
        ("." * 40, "." * 8),
        # marks: a space where none is beside them, none where one is
        ("hot-dog", "hot dog"),
        ("black/white", "black white"),
        ("red, white", "red white"),
        ("red,white", "red white"),
        ("stop (sign)", "stop sign"),
        ("[stop]", "stop"),
        ("really?!", "really"),
        ("well-known t-shirt - red", "wellknown tshirt red"),
        ("1,000", "1000"),
        ("2,000 hot-dogs", "2000 hotdogs"),
        ("1,000, and 2-3", "1000 and 23"),
        ("2:50 pm", "2:50 pm"),
        ("girl's", "girl's"),
        ("50% & #1", "50% & #1"),
        # contractions
        ("dont", "don't"),
        ("Couldn'tve", "couldn't've"),
        ("couldnt've", "couldn't've"),
        ("couldntve", "couldntve"),
        ("it's", "it's"),
        ("4 oclock", "4 o'clock"),
        ("somebody'd", "somebodyd"),
        ("ive", "ive"),  # in the evaluator's table in upper case, where it is never found
        # beyond ASCII
        ("Café", "café"),
        ("日本", "日本"),
        ("un été", "un été"),
    ],
)
def test_normalized_by_hand(answer: str, want: str) -> None:
    assert normalize_answer(answer) == want


def test_contractions_are_the_published_table() -> None:
    """The digest is of the 114 entries of vqaEval.py that are in lower case and change the word, a line each."""
    lines = [f"{lacking} {whole}" for lacking, whole in sorted(answers._CONTRACTIONS.items())]
    assert len(lines) == 114
    digest = hashlib.sha256("\n".join(lines).encode()).hexdigest()
    assert digest == "f2c800b1132e79302dd72686ce8bba16120f1873f98a85561222e89317336e7a"


@pytest.mark.parametrize(("matches", "want"), [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (9, 1.0), (10, 1.0)])
def test_accuracy_of_ten(matches: int, want: float) -> None:
    """The values that the evaluation page of VQA lists."""
    assert vqa_accuracy(["red"], [["red"] * matches + ["blue"] * (10 - matches)]) == [pytest.approx(want)]


@given(st.sampled_from(WORDS), st.lists(st.sampled_from(WORDS), min_size=2, max_size=11))
def test_accuracy_is_the_mean_over_subsets(said: str, people: list[str]) -> None:
    subsets = list(itertools.combinations(people, len(people) - 1))
    shares = [min(Fraction(1), Fraction(sum(one == said for one in subset), 3)) for subset in subsets]
    assert vqa_accuracy([said], [people])[0] == pytest.approx(float(sum(shares) / len(shares)))


def test_accuracy_normalizes_where_people_differ() -> None:
    people = ["Two.", "2", "the two", "a 2", *["three"] * 6]
    assert vqa_accuracy(["TWO", "3.", "2", "4"], [people] * 4) == [1.0, 1.0, 1.0, 0.0]


def test_accuracy_compares_as_it_stands_where_people_agree() -> None:
    said = ["yes", "Yes", "yes.", " yes\n", "\tyes "]
    assert vqa_accuracy(said, [["yes"] * 10] * 5) == [1.0, 0.0, 0.0, 1.0, 1.0]
    # they agree once what is around their answers is cut off, and do not if one is in upper case
    assert vqa_accuracy(["Yes", "Yes"], [["yes", "yes ", "yes\n"] * 3, ["yes"] * 9 + ["Yes"]]) == [0.0, 1.0]


def test_exact_match() -> None:
    said = ["The cat!", "cats", "", "Deux", "isnt"]
    right = [["dog", "a cat"], ["cat"], ["cat"], ["deux"], ["isn't"]]
    assert exact_match(said, right) == [1.0, 0.0, 0.0, 1.0, 1.0]
    assert exact_match([], []) == vqa_accuracy([], []) == []


def test_arguments_stay_as_they_are() -> None:
    people = [["Two.", "3", "A dog"]]
    vqa_accuracy(["Two"], people)
    exact_match(["Two"], people)
    assert people == [["Two.", "3", "A dog"]]


def test_arguments() -> None:
    for score in (vqa_accuracy, exact_match):
        with pytest.raises(ValueError, match=r"answers\[1\] must not be empty"):
            score(["a", "b"], [["a", "b"], []])
        with pytest.raises(ValueError, match="answers must have one entry a prediction, got 1 for 2"):
            score(["a", "b"], [["a", "b"]])
        with pytest.raises(TypeError, match=r"answers\[0\] must be a list of strings, got 'yes'"):
            score(["a"], ["yes"])
        with pytest.raises(TypeError, match=r"answers\[0\] must be a list of strings, got None in it"):
            score(["a"], [["a", None]])
        with pytest.raises(TypeError, match=r"predictions\[1\] must be a string, got None"):
            score(["a", None], [["a", "b"]] * 2)
        with pytest.raises(TypeError, match="predictions must have one entry a row, got the string 'ab'"):
            score("ab", [["a", "b"]] * 2)
    with pytest.raises(ValueError, match=r"answers\[1\] must have two answers or more, got 1: exact_match"):
        vqa_accuracy(["a", "a"], [["a", "a"], ["a"]])
