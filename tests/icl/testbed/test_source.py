"""The testbed as a source of data: its tasks, and their last demonstrations."""

from icl.testbed.source import TaskSplit


def test_task_keeps_the_last_demonstrations() -> None:
    split = TaskSplit("options", "dev")
    whole, some = (split.examples(shots)[0] for shots in (None, 3))
    assert len(whole.teacher) == 33
    assert some.teacher == whole.teacher[-7:]
    assert some.student == whole.student
    assert split.digest(0) != split.digest(1)
