"""The demo's plans: which jobs they have, and what decides the results of one."""

from dataclasses import replace

from icl.demo.demo_plan import FULL, QUICK, STANDARD
from tests.icl.demos import TINY


def test_keys_and_fingerprints_tell_jobs_apart() -> None:
    for plan in (FULL, STANDARD, QUICK, TINY):
        jobs = plan.jobs()
        assert len({job.key for job in jobs}) == len(jobs)
    assert len(FULL.seeds) == 3
    # one base of three, and nothing else less
    assert replace(FULL, name=STANDARD.name, seeds=(1,)) == STANDARD
    job = next(job for job in FULL.jobs() if job.kind == "trial")
    assert job.fingerprint == replace(job, cost=1.0).fingerprint
    others = [replace(job, seed=2), replace(job, subject=replace(job.subject, steps=3)), replace(job, task="parity")]
    assert len({other.fingerprint for other in [job, *others]}) == 4
