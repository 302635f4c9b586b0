"""What a run tells while it trains: a bar on the terminal, lines at an interval, log.jsonl, TensorBoard scalars. No torch."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from mainstem import files

_EVERY = 0.1  # seconds between two drawings of the bar


class Progress:
    """A bar with loss, speed (rows/s) and time left; where `console` is no terminal, nothing but the lines of `log_every`.

    total: steps of the whole run, None where it is not known. log_every: epochs between two lines "epoch 100  loss 0.25",
    None for no lines. units: what the lines and the speed count. console: a rich Console, by default on standard error.
    """

    def __init__(
        self,
        name: str,
        total: int | None,
        *,
        done: int = 0,
        log_every: int | None = None,
        units: tuple[str, str] = ("epoch", "rows"),
        console: Any = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        from rich.console import Console

        self.console = console or Console(stderr=True)
        self.log_every, self.units, self._clock = log_every, units, clock
        self._rows, self._started, self._drawn = 0, clock(), -math.inf
        self._bar = self._made(name, total, done) if self.console.is_terminal else None

    def _made(self, name: str, total: int | None, done: int) -> Any:
        from rich import progress

        columns = (
            progress.TextColumn("{task.description}"),
            progress.BarColumn(),
            progress.TaskProgressColumn(),
            progress.TextColumn(f"loss {{task.fields[loss]}}  {{task.fields[speed]}} {self.units[1]}/s"),
            progress.TimeRemainingColumn(),
        )
        bar = progress.Progress(*columns, console=self.console, transient=True, auto_refresh=False)
        self._task = bar.add_task(name, total=total, completed=done, loss="-", speed="-")
        return bar

    def __enter__(self) -> Progress:
        self._started = self._clock()
        if self._bar:
            self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._bar:
            self._bar.stop()

    def step(self, steps: int, loss: float, rows: int) -> None:
        """`steps` are done by now; the last one was over `rows` rows and had this loss."""
        self._rows += rows
        now = self._clock()
        if self._bar and now - self._drawn >= _EVERY:
            self._drawn = now
            speed = self._rows / max(now - self._started, 1e-9)
            self._bar.update(self._task, completed=steps, loss=f"{loss:.4g}", speed=f"{speed:,.0f}", refresh=True)

    def epoch(self, epochs: int, figures: Mapping[str, float | None]) -> None:
        """`epochs` are done by now: one line every `log_every` of them."""
        if self.log_every and epochs % self.log_every == 0:
            told = "  ".join(f"{name} {value:.6g}" for name, value in figures.items() if value is not None)
            self.console.print(f"{self.units[0]} {epochs}  {told}", highlight=False)


class Log:
    """log.jsonl of a run: one JSON object a line (step, epoch, loss, lr, seconds, …)."""

    def __init__(self, path: Path | str, size: int | None = None) -> None:
        """size: bytes to go on from (what size() said at the checkpoint resumed from); lines after that are dropped."""
        self.path = Path(path)
        if size is not None:
            files.truncate(self.path, size)

    def write(self, **fields: Any) -> None:
        """Append one line; numbers that are NaN or Inf become null. Raises MainstemError on a full disk."""
        known = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in fields.items()}
        files.append_line(self.path, json.dumps(known, ensure_ascii=False, allow_nan=False))

    def forget(self, *, candidate: Any, part: Any, after: int) -> None:
        """Drop the lines of this fit on epochs after `after`: a resumed run does them again."""
        lines = self.path.read_text(encoding="utf-8", errors="replace").splitlines() if self.path.exists() else []
        kept = [line for line in lines if not _is_after(line, candidate, part, after)]
        if len(kept) < len(lines):
            files.write_text(self.path, "".join(f"{line}\n" for line in kept))

    def size(self) -> int:
        """Its length in bytes, for a checkpoint."""
        return self.path.stat().st_size if self.path.exists() else 0


def _is_after(line: str, candidate: Any, part: Any, after: int) -> bool:
    try:
        told = json.loads(line)
        return bool(told["candidate"] == candidate and told["part"] == part and told["epoch"] > after)
    except (ValueError, KeyError, TypeError, RecursionError):
        return True  # half a line


def tensorboard(folder: Path | str) -> Any:
    """A writer with add_scalar(tag, value, step), flush() and close(), or None where TensorBoard is not installed.

    TensorBoard opens its event file in `folder` itself: the one file of a run that files.py does not write. It is for
    looking at alone, nothing reads it back, and after a kill its last lines may be lost.
    """
    try:
        from tensorboard.summary import Writer  # type: ignore[import-untyped]
    except ImportError:
        return None
    return Writer(str(folder))
