"""The files that jobs leave."""

from dataclasses import replace
from pathlib import Path

from icl.demo.demo_plan import FULL
from icl.demo.jobs import read_result, result_file, write_result


def test_results_of_another_job_do_not_count(tmp_path: Path) -> None:
    job = next(job for job in FULL.jobs() if job.kind == "trial")
    write_result(tmp_path, job, {"correct": [True]})
    assert read_result(tmp_path, job) == {"correct": [True]}
    assert read_result(tmp_path, replace(job, subject=replace(job.subject, learning_rate=1.0))) is None
    file = result_file(tmp_path, job)
    file.write_text(file.read_text()[:20])
    assert read_result(tmp_path, job) is None
