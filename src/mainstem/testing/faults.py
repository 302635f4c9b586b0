"""Faults in what `mainstem.files` asks of the system: count its operations, fail at the N-th, be killed at the N-th.

    with counting() as calls:
        save()
    for n in range(1, len(calls) + 1):
        assert trial(save, lambda: killing(n)).kind == "killed"
        …what was there before still loads

The N-th write fails as a real disk does: half of the data arrives. Runs where there is os.fork (Linux, macOS).
"""

from __future__ import annotations

import errno
import json
import os
import select
import signal
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mainstem import files
from mainstem.errors import MainstemError

OPERATIONS = frozenset({"open", "write", "fsync", "rename", "replace", "mkdir", "makedirs", "link", "unlink", "truncate", "ftruncate"})
LIMIT = 300.0  # seconds of a trial
_TAKES_SPACE = frozenset({"write", "mkdir", "makedirs", "link"})


class _System:
    """Stands in for `os` in files.py. `strike(n, name)` is called at each operation, numbered from 1, and may not return."""

    def __init__(self, strike: Callable[[int, str], OSError | int | None]) -> None:
        self.calls: list[str] = []
        self._strike = strike

    def __getattr__(self, name: str) -> Any:
        real = getattr(os, name)
        if name not in OPERATIONS:
            return real

        def call(*args: Any, **kwargs: Any) -> Any:
            self.calls.append(name)
            fault = self._strike(len(self.calls), name)
            if fault is not None and name == "write":
                real(args[0], memoryview(args[1])[: len(args[1]) // 2])
            if isinstance(fault, OSError):
                raise fault
            if fault is not None:
                os.kill(os.getpid(), fault)
            return real(*args, **kwargs)

        return call


@contextmanager
def _swapped(strike: Callable[[int, str], OSError | int | None]) -> Iterator[list[str]]:
    system, names = _System(strike), vars(files)
    before = names["os"]
    names["os"] = system
    try:
        yield system.calls
    finally:
        names["os"] = before


def counting() -> AbstractContextManager[list[str]]:
    """No fault; yields the names of the operations as they are made."""
    return _swapped(lambda n, name: None)


def failing(at: int, error: int = errno.ENOSPC, *, lasting: bool = False) -> AbstractContextManager[list[str]]:
    """The operation numbered `at` (from 1) raises OSError(error); `lasting`: so does whatever takes space after it."""

    def strike(n: int, name: str) -> OSError | None:
        return OSError(error, os.strerror(error)) if n == at or (lasting and n > at and name in _TAKES_SPACE) else None

    return _swapped(strike)


def killing(at: int) -> AbstractContextManager[list[str]]:
    """The process is killed (SIGKILL) at the operation numbered `at` (from 1), before it happens; a write is half done."""
    return _swapped(lambda n, name: int(signal.SIGKILL) if n == at else None)


@dataclass(frozen=True)
class Outcome:
    """How a trial ended: "done", "refused" (a MainstemError), "crashed" (any other error) or "killed"."""

    kind: str
    message: str = ""
    """the text of the MainstemError, or the traceback"""
    calls: tuple[str, ...] = ()
    """the operations that were asked for; unknown after a kill"""


def trial(
    function: Callable[[], object], fault: Callable[[], AbstractContextManager[list[str]]] | None = None, *, after: float | None = None
) -> Outcome:
    """Run `function` under `fault` in a forked child, so that what it imported is imported once for all trials.

    after: seconds until the child is killed (SIGKILL), whatever it is doing then.
    The child shares no thread with this process: `function` must not wait for one (run torch with one thread).
    """
    ours, theirs = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # python 3.12: fork beside threads
        child = os.fork()
    if child == 0:
        try:
            os.close(ours)
            report = json.dumps(_outcome(function, fault)).encode()
            while report:
                report = report[os.write(theirs, report) :]
        finally:  # also where nobody listens any more: a child must never go on as its parent
            os._exit(0)
    os.close(theirs)
    hung = not select.select([ours], [], [], LIMIT if after is None else after)[0]
    if hung:
        os.kill(child, signal.SIGKILL)
    with os.fdopen(ours, "rb") as stream:
        said = stream.read()
    _, status = os.waitpid(child, 0)
    if hung and after is None:
        return Outcome("crashed", f"the child was still at work after {LIMIT:g} seconds")
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
        return Outcome("killed")
    if not said:
        return Outcome("crashed", f"the child ended with status {status}")
    kind, message, calls = json.loads(said)
    return Outcome(kind, message, tuple(calls))


def _outcome(function: Callable[[], object], fault: Callable[[], AbstractContextManager[list[str]]] | None) -> tuple[str, str, list[str]]:
    calls: list[str] = []
    try:
        with fault() if fault else nullcontext(calls) as seen:
            calls = seen
            function()
    except MainstemError as error:
        return "refused", str(error), calls
    except BaseException:
        return "crashed", traceback.format_exc(), calls
    return "done", "", calls


def relist(folder: Path, **fields: Any) -> None:
    """Write MANIFEST.json anew over what a folder holds now, as someone would who means to deceive; `fields` are set in it."""
    told = json.loads((folder / files.MANIFEST).read_bytes())
    kept = {key: value for key, value in told.items() if key not in ("files", "sha256")}
    found = {p.relative_to(folder).as_posix(): p for p in folder.rglob("*") if p.is_file() and p.name != files.MANIFEST}
    hashes = {name: files.hash_file(path) for name, path in found.items()}
    files.write_bytes(folder / files.MANIFEST, files.listing({**kept, **fields}, hashes))
