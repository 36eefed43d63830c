"""CIDEr and BLEU against the evaluator's figures and against the papers' formulas written out; CHAIR by hand."""

import json
import math
from importlib import resources

import pytest
from hypothesis import given
from hypothesis import strategies as st

from icl.evaluation.metrics.captions import bleu4, chair, cider_d, coco_objects, mentioned

# What pycocoevalcap 1.2 printed for these, its Java tokenizer included.
PREDICTIONS = [
    "A man riding a wave on top of a surfboard.",
    "a man and a woman are sitting on a bench",
    "A clock that reads 10:25.",
    "a dog",
    "",
    "a bus on the street a bus on the street",
    "two giraffes standing next to each other",
]
REFERENCES = [
    ["A man riding a wave on a surfboard in the ocean.", "A surfer is on a wave; he's wearing a wetsuit.",
     "Man surfing (alone) on a big wave"],
    ["Two people sit on a park bench.", 'A couple on a bench, reading "The Times".',
     "A man and a woman sitting on a bench near St. Paul's."],
    ["A clock tower with the time 10:25 a.m.", "The clock doesn't show the right time"],
    ["A black-and-white dog isn't on the couch!", "Dog sleeping on a couch.."],
    ["A red bus on the street.", "A double-decker bus"],
    ["A red bus on the street.", "A double-decker bus on a street"],
    ["Two giraffes standing next to each other.", "Two giraffes standing next to each other."],
]  # fmt: skip
CIDER = [
    2.216538923980239, 2.192985701366459, 0.8957090046102312, 1.0215993205897524, 0.0, 1.5047265142222677, 10.0,
]  # fmt: skip
BLEU = 0.5347477610144693

CAPTION = st.lists(st.sampled_from(["a", "dog", "cat", "on", "the"]), max_size=7).map(" ".join)
ROWS = st.lists(st.tuples(CAPTION, st.lists(CAPTION, min_size=1, max_size=3)), min_size=1, max_size=5)


def grams(caption: str, n: int) -> list[tuple[str, ...]]:
    words = caption.split()
    return [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]


def naive_cider(rows: list[tuple[str, list[str]]], row: int) -> float:
    """The printed formulas, over the whole vocabulary, an order at a time."""
    said, given_ = rows[row]
    total = 0.0
    for n in (1, 2, 3, 4):
        vocabulary = {gram for one, many in rows for text in (one, *many) for gram in grams(text, n)}
        idf = {
            gram: math.log(len(rows) / max(1, sum(any(gram in grams(text, n) for text in many) for _, many in rows)))
            for gram in vocabulary
        }
        g = {text: {gram: grams(text, n).count(gram) * idf[gram] for gram in vocabulary} for text in (said, *given_)}
        for text in given_:
            a, b = g[said], g[text]
            norms = math.sqrt(sum(v * v for v in a.values())) * math.sqrt(sum(v * v for v in b.values()))
            dot = sum(min(a[gram], b[gram]) * b[gram] for gram in vocabulary)
            difference = len(grams(said, 2)) - len(grams(text, 2))
            penalty = 10 * math.exp(-(difference**2) / (2 * 6**2))
            total += penalty * dot / norms / len(given_) / 4 if norms else 0
    return total


def naive_bleu4(rows: list[tuple[str, list[str]]]) -> float:
    product, length, wanted = 1.0, 0, 0
    for n in (1, 2, 3, 4):
        matches = count = 0
        for said, given_ in rows:
            count += len(grams(said, n))
            for gram in set(grams(said, n)):
                matches += min(grams(said, n).count(gram), max(grams(text, n).count(gram) for text in given_))
        product *= (matches + 1e-15) / (count + 1e-9)
    for said, given_ in rows:
        size = len(said.split())
        length += size
        wanted += sorted((len(text.split()) for text in given_), key=lambda other: (abs(size - other), other))[0]
    ratio = (length + 1e-15) / (wanted + 1e-9)
    return product**0.25 * min(1.0, math.exp(1 - 1 / ratio))


def test_figures_of_the_evaluator() -> None:
    assert cider_d(PREDICTIONS, REFERENCES) == pytest.approx(CIDER, rel=1e-12, abs=1e-12)
    assert bleu4(PREDICTIONS, REFERENCES) == pytest.approx(BLEU, rel=1e-12)


@given(ROWS)
def test_against_the_formulas(rows: list[tuple[str, list[str]]]) -> None:
    said, given_ = [row[0] for row in rows], [row[1] for row in rows]
    want = [naive_cider(rows, row) for row in range(len(rows))]
    assert cider_d(said, given_) == pytest.approx(want, rel=1e-10, abs=1e-12)
    assert bleu4(said, given_) == pytest.approx(naive_bleu4(rows), rel=1e-10, abs=1e-300)


def test_cider_by_hand() -> None:
    """Two rows, so idf is log 2 or 0. "dog" and "bus" are rare, "a" is not: weights are log 2 times counts."""
    references = [["a dog"], ["a bus"]]
    # 1-grams: dog, weight log 2, cosine 1; 2-grams: "a dog", cosine 1; no longer ones
    assert cider_d(["a dog", "dog"], references) == pytest.approx([5.0, 0.0])
    # dog twice: the cosine stays, the clipped one is halved; of 2-grams one of two is right: 1/sqrt 2
    penalty = math.exp(-1 / 72)
    assert cider_d(["a dog dog", "bus"], references) == pytest.approx(
        [10 * penalty * (0.5 + 0.5**0.5) / 4, 10 * penalty * 0.25]
    )


def test_cider_of_one_row_is_zero() -> None:
    assert cider_d(["a dog"], [["a dog"]]) == [0.0]
    assert cider_d([], []) == []


def test_bleu_by_hand() -> None:
    # Papineni et al., 2002, example 1: candidate 1 has 17 of 18 words of its references
    said = "It is a guide to action which ensures that the military always obeys the commands of the party"
    given_ = [
        "It is a guide to action that ensures that the military will forever heed Party commands",
        "It is the guiding principle which guarantees the military forces always being under the command of the Party",
        "It is the practical guide for the army always to heed the directions of the party",
    ]
    precisions = 17 / 18, 10 / 17, 7 / 16, 4 / 15
    assert bleu4([said], [given_]) == pytest.approx(math.prod(precisions) ** 0.25, rel=1e-8)
    # of equally close references the shorter; a shorter prediction pays exp(1 - r/l)
    rows = ["a b c d", "a b c d e f"], [["a b c d e f", "a b"], ["a b c d e f g h"]]
    assert bleu4(*rows) == pytest.approx(1.0)
    assert bleu4(rows[0], [rows[1][0][:1], rows[1][1]]) == pytest.approx(math.exp(1 - 14 / 10))
    assert bleu4([""], [["a dog"]]) == pytest.approx(0.0)


def test_chair_by_hand() -> None:
    said = ["A man and two dogs on a couch", "A kitten", "Nothing here", "A dog, a dog and a dog"]
    present = [{"person", "dog"}, {"cat"}, set(), ["cat"]]
    got = chair(said, present)
    assert got.hallucinated == [["couch"], [], [], ["dog"] * 3]
    assert (got.instance, got.sentence) == (4 / 7, 2 / 4)
    assert chair(["", "sky"], [set(), {"cat"}]) == (0.0, 0.0, [[], []])


@pytest.mark.parametrize(
    ("caption", "want"),
    [
        ("Three women, two men and children riding elephants", ["person", "person", "person", "elephant"]),
        ("A baby elephant with an adult giraffe", ["elephant", "giraffe"]),
        ("a hot-dog and a hot dog; a dog's bowl", ["hot dog", "hot dog", "dog", "bowl"]),
        ("wine glasses and knives on a dining table", ["wine glass", "knife", "dining table"]),
        ("buses, couches, puppies and mice", ["bus", "couch", "dog", "mouse"]),
        ("a passenger train at the train station", ["train"]),
        ("a toilet seat in a car's back seat", ["toilet", "car", "chair"]),
        ("a man in a bow tie near home plate", ["person", "tie"]),
        ("a teddy bear, a bear and stuffed bears", ["teddy bear", "bear", "teddy bear"]),
        ("A CELL PHONE next to TVs\nand laptops", ["cell phone", "tv", "laptop"]),
        ("scattered catalogues, dogma, carpet", []),
        ("", []),
    ],
)
def test_mentioned(caption: str, want: list[str]) -> None:
    assert mentioned(caption) == want


def test_own_words() -> None:
    words = {"T-shirt": "shirt", "shirt": "shirt", "sheep dog": "dog", "sheep": "sheep", "night shirt": None}
    assert mentioned("a t-shirt, shirts, night shirts and a sheep-dog, sheeps", words) == [
        "shirt", "shirt", "dog", "sheep",
    ]  # fmt: skip
    assert chair(["a shirt and a cat"], [{"dog"}], words).hallucinated == [["shirt"]]


def test_the_table_of_objects() -> None:
    data = json.loads(
        resources.files("icl.evaluation.metrics").joinpath("coco_objects.json").read_text(encoding="utf-8")
    )
    names = list(data["objects"])
    # the first, the last, and the number of categories of COCO
    assert (len(names), names[0], names[-1]) == (80, "person", "toothbrush")
    spoken = [word for name in names for word in (name, *data["objects"][name])] + data["none"]
    assert len(set(spoken)) == len(spoken)
    words = coco_objects()
    for name, synonyms in data["objects"].items():
        for word in (name, *synonyms):
            assert words[word] == name
            assert mentioned(f"the {word} here") == [name]
    assert all(mentioned(f"a {word}") == [] for word in data["none"])


def test_arguments() -> None:
    for score in (cider_d, bleu4):
        with pytest.raises(ValueError, match=r"references\[1\] must not be empty"):
            score(["a", "b"], [["a"], []])
        with pytest.raises(TypeError, match=r"references\[0\] must be a list of strings, got 'a dog'"):
            score(["a"], ["a dog"])
        with pytest.raises(ValueError, match="references must have one entry a prediction, got 2 for 1"):
            score(["a"], [["a"], ["b"]])
        with pytest.raises(TypeError, match=r"predictions\[0\] must be a string, got 3"):
            score([3], [["a"]])
    with pytest.raises(ValueError, match="predictions must not be empty"):
        bleu4([], [])
    with pytest.raises(ValueError, match="captions must not be empty"):
        chair([], [])
    with pytest.raises(ValueError, match="objects must have one entry a caption, got 1 for 2"):
        chair(["a", "b"], [{"cat"}])
    with pytest.raises(TypeError, match=r"objects\[0\] must be a collection of names, got the string 'cat'"):
        chair(["a"], ["cat"])
    with pytest.raises(ValueError, match=r"objects\[1\] must have names that words maps to, got 'kitten', 'sky'"):
        chair(["a", "b"], [{"cat"}, {"sky", "kitten"}])
    with pytest.raises(TypeError, match=r"captions\[1\] must be a string, got None"):
        chair(["a", None], [set(), set()])
    with pytest.raises(ValueError, match="words must not be empty"):
        mentioned("a cat", {})
    with pytest.raises(TypeError, match="caption must be a string, got None"):
        mentioned(None)
