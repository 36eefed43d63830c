"""The corpus of the fuzz job, whose faults stay mended, and that the job sees what it is there to see."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from fuzz import SURFACES, commands, functions, operators
from fuzz.isolation import Fault

from hyperbolic.testing import CASES

ROOT = Path(__file__).parent.parent


def call(name: str, mode: str = "plain", **arguments: Any) -> dict[str, Any]:
    return {"call": name, "mode": mode, "arguments": arguments}


def point(*values: float, **more: Any) -> dict[str, Any]:
    return {"shape": [len(values)], "dtype": "float32", "values": list(values), **more}


def test_faults_once_found_stay_mended() -> None:
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'bench'}{os.pathsep}{ROOT}"}
    command = [sys.executable, "-m", "fuzz", "--replay"]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert run.returncode == 0, run.stdout + run.stderr
    folder = ROOT / "bench" / "fuzz" / "corpus"
    kept = {name: len((folder / f"{name}.jsonl").read_text().splitlines()) for name in SURFACES}
    assert run.stdout == "".join(f"{name}: {count} calls, 0 faults\n" for name, count in kept.items())


def test_every_function_and_operator_is_fuzzed() -> None:
    geometry = {str(case) for case in CASES if "_to_" not in case.name or "ambient" in case.name}
    assert geometry - {"lorentz.log_prob", "poincare.log_prob"} <= set(functions.functions())
    assert {"pairwise.nearest", "pairwise.contrastive_loss", "models.klein_to_lorentz"} <= set(functions.functions())
    assert {"manifolds.Lorentz.dist", "manifolds.PoincareBall.projx"} <= set(functions.functions())
    assert {"lorentz_dist", "poincare_nearest", "lorentz_contrast_backward"} <= set(operators.operators())
    assert {"bank build", "select", "train", "eval", "adapters info", "demo"} <= set(commands.commands())


def test_a_wrong_sign_on_a_view_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    def careless(x: torch.Tensor) -> torch.Tensor:
        return -x.detach().sum(-1) if x.is_neg() else x.sum(-1)

    monkeypatch.setitem(functions.functions(), "lorentz.time", careless)
    functions.judge(call("lorentz.time", x=point(1.0, 2.0)))
    with pytest.raises(Fault, match=r"^lorentz.time: sign"):
        functions.judge(call("lorentz.time", x=point(1.0, 2.0, layout="negative")))


def test_a_foreign_exception_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(functions.functions(), "lorentz.time", lambda x: {}[x])
    with pytest.raises(Fault, match=r"^KeyError"):
        functions.judge(call("lorentz.time", x=point(1.0)))


def python(code: str, *paths: Path) -> str:
    """What a process prints that has the fuzz job on its path; it forks, which one that runs tests should not."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (*paths, ROOT / "bench", ROOT)))}
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout.strip()


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        ("os.abort()", "Aborted"),
        ("time.sleep(60)", "hang"),
        ("os._exit(3)", "crash, exit status 3"),
        ("Fault.throw()", "crash, exit status 1"),
        ("None", "none"),
    ],
)
def test_a_process_that_dies_or_hangs_is_a_fault(body: str, kind: str) -> None:
    code = f"""
import os, time
from fuzz.isolation import Fault, isolated
try:
    isolated(lambda: {body}, 0.5 if "sleep" in {body!r} else 60)
    print("none")
except Fault as fault:
    print(fault.kind)
"""
    assert python(code) == kind


def test_a_round_makes_a_crash_small(tmp_path: Path) -> None:
    """The smallest list of numbers up to 5000 whose sum is above 1000 is [1001]."""
    (tmp_path / "planted.py").write_text(PLANTED)
    code = f"""
import fuzz.__main__ as job
folder = job.CORPUS = job.Path({str(tmp_path)!r})
tally = job.Tally()
job.one_round("planted", 0, 20.0, tally, folder, None)
print(list(tally.faults))
"""
    assert python(code, tmp_path).endswith("['Aborted']")
    assert '"recipe": {"numbers": [1001]}' in (tmp_path / "planted.jsonl").read_text()


PLANTED = """
import os
from hypothesis import strategies as st
def prepare(recipe=None):
    pass
def recipes():
    return st.fixed_dictionaries({"numbers": st.lists(st.integers(0, 5000))})
def judge(recipe):
    if sum(recipe["numbers"]) > 1000:
        os.abort()
"""
