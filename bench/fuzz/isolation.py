"""One call in a forked process, so that a crash or a hang becomes an exception that hypothesis can shrink."""

from __future__ import annotations

import contextlib
import faulthandler
import importlib.util
import json
import os
import re
import select
import signal
import tempfile
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

# The order matters: a sanitizer's report says more than the signal that follows it.
_REPORTS = (
    r"ERROR: AddressSanitizer: ([\w-]+)",
    r"runtime error: (.+)",
    r"Fatal Python error: ([\w ]+)",
    r"(Timeout) \(",
)
_ROOT = re.escape(str(Path(importlib.util.find_spec("hyperbolic").origin).parent.parent))  # type: ignore
_FRAME = re.compile(rf'File "{_ROOT}/((?:hyperbolic|icl)/[\w/]+\.py)", line \d+,? in (\w+)')
_GRACE = 10.0


class Fault(AssertionError):  # noqa: N818
    """A broken promise. ``kind`` is the same for every input that breaks it in the same place."""

    def __init__(self, kind: str, detail: str = ""):
        super().__init__(f"{kind}\n{detail}".strip())
        self.kind, self.detail = kind, detail


def place(text: str, last: bool = True) -> str:
    """The function of ours that a traceback ends in; ``last`` where the innermost frame is printed last."""
    frames = _FRAME.findall(text)
    return " in {} of {}".format(*reversed(frames[-1 if last else 0])) if frames else ""


def unexpected(error: BaseException) -> Fault:
    """The fault of an exception that no caller was promised."""
    text = "".join(traceback.format_exception(error))
    return Fault(f"{type(error).__name__}{place(text)}", text[-4000:])


@contextlib.contextmanager
def only(*allowed: type[BaseException]) -> Iterator[None]:
    """Let pass the exceptions that are promised for bad input; any other is a fault."""
    try:
        yield
    except BaseException as error:
        if isinstance(error, (Fault, KeyboardInterrupt, *allowed)):
            raise
        raise unexpected(error) from error


def isolated(judge: Callable[[], None], seconds: float) -> None:
    """Run ``judge`` in a fork. ``Fault`` if it raises one, dies, or does not end in time."""
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        verdict, errors = Path(folder, "verdict"), Path(folder, "stderr")
        child = os.fork()
        if child == 0:
            _child(judge, seconds, verdict, errors)
        status = wait(child, seconds + _GRACE)
        report = errors.read_text(errors="replace") if errors.exists() else ""
        if verdict.exists():
            found = json.loads(verdict.read_text())
            if found is not None:
                raise Fault(*found)
        elif status is None:
            raise Fault("hang", report[-4000:])
        else:
            raise death(status, report)


def death(status: int, report: str) -> Fault:
    """The fault of a process that ended without a verdict."""
    for pattern in _REPORTS:
        if found := re.search(pattern, report):
            kind = found[1].strip().replace("Timeout", "hang")
            return Fault(f"{kind}{place(report, last=False)}", report[:5000])
    how = f"exit status {status}" if status >= 0 else signal.Signals(-status).name
    return Fault(f"crash, {how}", report[-4000:])


def wait(child: int, seconds: float) -> int | None:
    """The exit status of a child, negative for a signal; None where it had to be killed."""
    descriptor = os.pidfd_open(child)
    try:
        ended = select.select([descriptor], [], [], seconds)[0]
    finally:
        os.close(descriptor)
    if not ended:
        os.kill(child, signal.SIGKILL)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return status if ended else None


def _child(judge: Callable[[], None], seconds: float, verdict: Path, errors: Path) -> None:
    try:
        stream = os.open(errors, os.O_WRONLY | os.O_CREAT)
        os.dup2(stream, 2)
        faulthandler.enable(2)
        faulthandler.dump_traceback_later(seconds, exit=True, file=2)
        found = None
        try:
            judge()
        except Fault as fault:
            found = (fault.kind, fault.detail)
        verdict.write_text(json.dumps(found))
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        os._exit(1)
