"""Methods without training, fitted to examples."""

from icl.testbed.source import TaskSplit
from icl.training.fitting import shuffle_answers


def test_shuffled_demonstrations_have_the_answers_of_others() -> None:
    example = TaskSplit("options", "dev").examples(4)[0]
    pair = example, shuffle_answers(example)
    answers, others = ([m["content"] for m in e.teacher if m["role"] == "assistant"] for e in pair)
    assert others == answers[1:] + answers[:1]
    assert shuffle_answers(example).teacher[::2] == example.teacher[::2]
