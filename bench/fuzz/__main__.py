"""``python -m fuzz``: rounds of every surface in turns, each in a process of its own, until the time is over.

A process that dies or hangs is run again with the same seed and each call in a fork, so that the input is named and
made small. Faults go to ``corpus/``, one recipe a kind, and the exit code is 1 if there were any. ``--replay`` runs the
corpus alone.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import count, cycle
from pathlib import Path
from typing import Any

from fuzz import STATE, SURFACES
from fuzz.isolation import Fault, death
from fuzz.rounds import SECONDS, judge, surface

CORPUS = Path(__file__).parent / "corpus"
# The kernels that are compiled with sanitizers serve these; the others would find in them nothing of ours.
SANITIZED = ("functions", "operators")
SILENCE = 150.0
"""Seconds without a new call after which a process hangs."""
PREPARATION = 900.0
"""Seconds that imports, the workspace and shrinking take at the most, on a machine that is busy with other things."""
_writing = threading.Lock()


@dataclass
class Tally:
    """The calls and faults of a surface."""

    calls: int = 0
    faults: dict[str, dict[str, Any]] = field(default_factory=dict)


def main() -> int:
    """Run the fuzzer; return the exit status."""
    parser = argparse.ArgumentParser(prog="fuzz", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--only", choices=SURFACES, action="append", help="can be repeated")
    parser.add_argument("--seed", type=int, default=0, help="of the first round; the others follow")
    parser.add_argument("--replay", action="store_true", help="run the corpus and nothing else")
    parser.add_argument("--sanitized", type=Path, metavar="FOLDER", help="packages with sanitized kernels (make fuzz)")
    options = parser.parse_args()
    surfaces = options.only or list(SURFACES)
    with tempfile.TemporaryDirectory(prefix="fuzz-") as state:
        os.environ[STATE] = state
        # Nothing is downloaded, and no thread is started that a fork would lack.
        os.environ |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
        if options.replay:
            tallies = {name: replay(name) for name in surfaces}
        else:
            tallies = fuzz(surfaces, options.minutes, options.seed, options.sanitized, Path(state))
    for name, tally in tallies.items():
        print(f"{name}: {tally.calls} calls, {len(tally.faults)} faults")
    for name, tally in tallies.items():
        for kind, fault in sorted(tally.faults.items()):
            print(f"\n{name}: {kind}\n{json.dumps(fault['recipe'])[:1000]}\n{fault['detail'][-1500:]}")
    return int(any(tally.faults for tally in tallies.values()))


def replay(name: str) -> Tally:
    """Run what is kept of a surface, each call in a fork."""
    tally = Tally()
    surface(name).prepare()
    for line in read(name):
        tally.calls += 1
        try:
            judge(surface(name), line["recipe"], apart=True)
        except Fault as fault:
            tally.faults[fault.kind] = {"recipe": line["recipe"], "detail": fault.detail}
    return tally


def fuzz(surfaces: list[str], minutes: float, seed: int, sanitized: Path | None, state: Path) -> dict[str, Tally]:
    """Rounds of each surface in turns, as many at a time as there are cores, until the time is over."""
    tallies = {name: Tally() for name in surfaces}
    end = time.monotonic() + 60 * minutes
    # Rounds are long enough to be worth their imports, and short enough that every surface has its share.
    length = max(5.0, min(90.0, 60 * minutes * (os.cpu_count() or 1) / len(surfaces) / 2))
    turns, numbers = cycle(surfaces), count(seed)

    def work(_: int) -> None:
        while (left := end - time.monotonic()) > 2:
            name, number = next(turns), next(numbers)
            folder = Path(tempfile.mkdtemp(dir=state))
            one_round(name, number, min(length, left), tallies[name], folder, sanitized)

    workers = min(os.cpu_count() or 1, len(surfaces))
    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(work, range(workers)))
    return tallies


def one_round(name: str, number: int, seconds: float, tally: Tally, folder: Path, sanitized: Path | None) -> None:
    """A round; where its process dies, the same again with the last calls in forks of their own."""
    report = watched(name, number, seconds, tally, folder / "together", None, sanitized)
    calls = folder / "together" / "calls"
    done = int(calls.read_text() or 0) if calls.exists() else 0
    tally.calls += done
    if report is not None:
        again = watched(name, number, 2 * seconds + SECONDS, tally, folder / "apart", done, sanitized)
        if again is not None or not (folder / "apart" / "faults.jsonl").exists():
            now = folder / "together" / "now.json"
            recipe = json.loads(now.read_text()) if now.exists() else None
            tally.faults[report.kind] = {"recipe": recipe, "detail": report.detail}  # not seen again, so not kept
    print(f"{name}, round {number}: {tally.calls} calls, {len(tally.faults)} faults", flush=True)


def watched(
    name: str, number: int, seconds: float, tally: Tally, trace: Path, apart: int | None, sanitized: Path | None
) -> Fault | None:
    """Run a round in a process and keep its faults. What it died of, or None."""
    trace.mkdir()
    options = {"name": name, "number": number, "seconds": seconds, "known": sorted(tally.faults)}
    options |= {"folder": str(trace), "apart": apart}
    environment = dict(os.environ)
    if sanitized is not None and name in SANITIZED:
        environment |= sanitizers(sanitized)
    command = [sys.executable, "-m", "fuzz.rounds", json.dumps(options)]
    with (trace / "stderr").open("w") as stream:
        process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=stream)
        started = time.monotonic()
        while process.poll() is None:
            time.sleep(0.1)
            now = trace / "now.json"
            quiet = time.time() - now.stat().st_mtime if now.exists() else 0.0
            if quiet > SILENCE or time.monotonic() - started > seconds + PREPARATION:
                process.kill()
                process.wait()
                return Fault("hang", f"no new call for {SILENCE} s")
    faults = trace / "faults.jsonl"
    for line in faults.read_text().splitlines() if faults.exists() else ():
        keep(name, tally, json.loads(line))
    report = (trace / "stderr").read_text(errors="replace")
    return death(process.returncode, report) if process.returncode else None


def sanitizers(folder: Path) -> dict[str, str]:
    """The environment of a process that loads libraries compiled with them."""
    commands = (["gcc", f"-print-file-name=lib{name}.so"] for name in ("asan", "stdc++"))
    where = [subprocess.run(command, capture_output=True, text=True, check=True).stdout for command in commands]
    paths = os.environ.get("PYTHONPATH", "")
    return {
        "LD_PRELOAD": ":".join(path.strip() for path in where),
        "ASAN_OPTIONS": "detect_leaks=0:allocator_may_return_null=1",
        "UBSAN_OPTIONS": "print_stacktrace=1:halt_on_error=1",
        "PYTHONPATH": f"{folder.resolve()}{os.pathsep}{paths}",
    }


def read(name: str) -> list[dict[str, Any]]:
    """What is kept of a surface: the recipe, and the kind of the fault that it showed once."""
    file = CORPUS / f"{name}.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def keep(name: str, tally: Tally, fault: dict[str, Any]) -> None:
    """Count a fault and put its recipe into the corpus, in place of a larger one of its kind."""
    tally.faults[fault["kind"]] = fault
    with _writing:
        lines = {line["kind"]: line for line in read(name)}
        lines[fault["kind"]] = {"kind": fault["kind"], "recipe": fault["recipe"]}
        text = "".join(json.dumps(line) + "\n" for _, line in sorted(lines.items()))
        (CORPUS / f"{name}.jsonl").write_text(text)


if __name__ == "__main__":
    sys.exit(main())
