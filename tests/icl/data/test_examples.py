"""Examples: made of rows of the testbed, and refused without a query or an answer."""

import pytest

from icl.data.examples import Example
from icl.testbed import tasks


def test_task_of_the_testbed() -> None:
    row = tasks.load_split("options", "test")[3]
    example = Example.from_task(row)
    assert (example.id, example.answer, example.references) == (row["id"], row["answer"], (row["answer"],))
    assert example.teacher[-1] == example.student[-1]
    parts = [part for message in (*example.teacher, *example.student) for part in message["content"]]
    assert all(set(part) == {"type", part["type"]} for part in parts), "no field that is empty"
    messages = [part for message in row["teacher"] for part in message["content"]]
    assert [part[part["type"]] for part in parts[: len(messages)]] == [part[part["type"]] for part in messages]


def test_examples_end_with_a_query() -> None:
    asked, reply = ({"role": role, "content": "what ?"} for role in ("user", "assistant"))
    for teacher, student, message in [
        ([asked, reply], [asked], "Example x: teacher must end with the user's query, got assistant"),
        ([asked], [], "Example x: student must end with the user's query, got no message"),
    ]:
        with pytest.raises(ValueError, match=message):
            Example("x", teacher, student, "a")
    with pytest.raises(ValueError, match="Example x: answer must have text"):
        Example("x", [asked], [asked], " ")
