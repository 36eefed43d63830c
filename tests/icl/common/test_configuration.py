"""Settings check their values when they are made and when they are parsed, and errors say name, got and wanted."""

from dataclasses import FrozenInstanceError, asdict, replace
from typing import Annotated, Any, ClassVar, Literal

import pytest
from annotated_doc import Doc

from icl.common.configuration import PositiveFloat, PositiveInt, Seed, configuration, documented, parse, schema


@configuration
class Sizes:
    rank: Annotated[PositiveInt, Doc("Of both factors.")] = 3
    rate: PositiveFloat = 1.0
    start: Literal["paper", "identity"] = "paper"
    layers: tuple[int, ...] | None = None
    gated: bool = False
    label: str | None = None
    seed: Seed = 0
    kind: ClassVar[str] = "sizes"


@configuration
class MoreSizes(Sizes):
    factor: float = 0.5

    def __post_init__(self) -> None:
        if self.factor > self.rate:
            raise ValueError(f"MoreSizes: factor must be at most rate, got {self.factor}")


@configuration
class Study:
    sizes: Sizes
    others: tuple[Sizes, ...] = ()
    title: str = "none"


def test_values_that_are_right() -> None:
    assert Sizes(rate=2, layers=[0, 1], label="x") == Sizes(3, 2.0, "paper", (0, 1), False, "x")  # type: ignore[arg-type]
    assert Sizes(rate="5e-3").rate == 0.005  # type: ignore[arg-type]
    assert type(Sizes(rate=2).rate) is float
    assert replace(MoreSizes(rate=4.0), factor=3).factor == 3.0
    with pytest.raises(FrozenInstanceError):
        Sizes().rank = 4  # type: ignore[misc]


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        ("rank", 0, "a whole number of 1 or more"),
        ("rank", True, "a whole number of 1 or more"),
        ("rank", 2.0, "a whole number of 1 or more"),
        ("rank", "2", "a whole number of 1 or more"),
        ("rate", float("nan"), "a finite number above 0"),
        ("rate", 10**400, "a finite number above 0"),
        ("rate", "fast", "a finite number above 0"),
        ("rate", True, "a finite number above 0"),
        ("start", "papre", r"one of paper, identity, got 'papre'; did you mean paper\?"),
        ("layers", [1, "2"], "a list, each a whole number or nothing"),
        ("layers", 3, "a list, each a whole number or nothing"),
        ("gated", 1, "true or false"),
        ("label", 3, "text or nothing"),
        ("seed", 2**32, "a whole number from 0 up to 4294967295"),
    ],
)
def test_values_that_are_wrong(name: str, value: Any, wanted: str) -> None:
    with pytest.raises(ValueError, match=f"^MoreSizes: {name} must be {wanted}"):
        MoreSizes(**{name: value})
    with pytest.raises(ValueError, match=rf"^study\.sizes\.{name} must be {wanted}"):
        parse("study", Study, {"sizes": {name: value}})


def test_own_checks_follow() -> None:
    """The class's own check sees values of the right types, once."""
    with pytest.raises(ValueError, match=r"factor must be at most rate, got 2\.0"):
        MoreSizes(factor="2")  # type: ignore[arg-type]


def test_parsed_as_made() -> None:
    study = Study(MoreSizes(rank=2), (Sizes(),))
    assert study.sizes == MoreSizes(rank=2)
    parsed = parse("study", Study, {"sizes": asdict(Sizes(layers=(1,))), "title": "x"})
    assert parsed == Study(Sizes(layers=(1,)), title="x")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"sizes": {"ranks": 2}}, r"study.sizes: there is no 'ranks'; did you mean rank\?"),
        ({}, "study: sizes is missing"),
        ({"sizes": 3}, "study.sizes must be Sizes, got 3"),
        ({"sizes": None}, "study.sizes must be Sizes, got None"),
        ({"sizes": {}, "others": [3]}, "study.others must be a list, each Sizes"),
        ([], r"study must have fields, got \[\]"),
        ({"sizes": {}, 3: 4}, "study: there is no 3, only others, sizes, title"),
    ],
)
def test_files_that_are_wrong(values: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        parse("study", Study, values)


def test_schema_says_types_bounds_and_purpose() -> None:
    described = schema(Study)
    assert described["required"] == ["sizes"]
    rank = described["$defs"]["Sizes"]["properties"]["rank"]
    assert (rank["type"], rank["minimum"], rank["default"], rank["description"]) == (
        "integer",
        1,
        3,
        "Of both factors.",
    )
    assert described["$defs"]["Sizes"]["properties"]["start"]["enum"] == ["paper", "identity"]


def test_purpose_of_a_field() -> None:
    assert documented(Annotated[int, Doc("Why.")]) == "Why."
    assert documented(int) is None
