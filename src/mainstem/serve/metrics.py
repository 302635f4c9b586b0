"""Figures of a running server in Prometheus's text format 0.0.4 (`/metrics`)."""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
SHARES = (0.0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.75)
MOST_SERIES = 2000  # label combinations of one metric: a scraper must not be drowned

HELP: Mapping[str, tuple[str, str, Sequence[float]]] = {  # name → (type, what it says, upper bounds of a histogram)
    "requests": ("counter", "Requests answered, by route and status.", ()),
    "request_seconds": ("histogram", "From the first byte of a request to the last of its answer.", SECONDS),
    "stage_seconds": ("histogram", "A request's time by stage: read, queue, encode, compute, decode; answer: all but read.", SECONDS),
    "rows": ("counter", "Rows answered, by model and whether they had a prediction.", ()),
    "batch_rows": ("histogram", "Rows of one run of a graph.", ROWS),
    "padding_share": ("histogram", "The share of a run's steps that are padding.", SHARES),
    "rejected": ("counter", "Requests turned away, by reason.", ()),
    "in_flight": ("gauge", "Requests under way.", ()),
    "ready": ("gauge", "1 for a model that answers.", ()),
    "model_info": ("gauge", "1, with the version and digest of each model.", ()),
}
Key = tuple[tuple[str, str], ...]


class Watch(Protocol):
    """What the parts of a server may tell of their work. All methods are cheap and may be called from any thread."""

    def took(self, stage: str, model: str, seconds: float) -> None:
        """A stage of one request: "queue", "encode", "compute", "decode"."""

    def batch(self, graph: str, rows: int, padding: float) -> None:
        """One run of a graph: its rows, and the share of its steps that are padding."""

    def rejected(self, reason: str) -> None:
        """A request was turned away: "overload", "rate", "token", "size", "timeout"."""


class Metrics:
    """A Watch that counts, and writes what it counted."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._values: dict[str, dict[Key, Any]] = {name: {} for name in HELP}

    def took(self, stage: str, model: str, seconds: float) -> None:
        """A stage of one request."""
        self._observe("stage_seconds", seconds, (("model", model), ("stage", stage)))

    def batch(self, graph: str, rows: int, padding: float) -> None:
        """One run of a graph."""
        self._observe("batch_rows", rows, (("graph", graph),))
        self._observe("padding_share", padding, (("graph", graph),))

    def rejected(self, reason: str) -> None:
        """A request was turned away."""
        self.add("rejected", 1, reason=reason)

    def add(self, name: str, amount: float = 1, **labels: str) -> None:
        """Count upwards (a gauge also down)."""
        key = tuple(sorted(labels.items())) if len(labels) > 1 else tuple(labels.items())
        with self._lock:
            held = self._values[name]
            if key in held or len(held) < MOST_SERIES:
                held[key] = held.get(key, 0) + amount

    def put(self, name: str, rows: Sequence[tuple[Mapping[str, str], float]]) -> None:
        """All values of a gauge at once: what is not named is gone."""
        with self._lock:
            self._values[name] = {tuple(sorted(labels.items())): value for labels, value in rows}

    def observe(self, name: str, value: float, **labels: str) -> None:
        """One value of a histogram."""
        self._observe(name, value, tuple(sorted(labels.items())))

    def _observe(self, name: str, value: float, key: Key) -> None:
        bounds, all_held = HELP[name][2], self._values[name]
        with self._lock:
            held = all_held.get(key)
            if held is None:
                if len(all_held) >= MOST_SERIES:
                    return
                held = all_held[key] = [[0] * (len(bounds) + 1), 0.0]
            held[0][bisect_left(bounds, value)] += 1
            held[1] += value

    def render(self) -> str:
        """Everything, as text."""
        with self._lock:
            return "".join(f"{line}\n" for name in HELP for line in self._lines(name))

    def _lines(self, name: str) -> Iterator[str]:
        kind, said, bounds = HELP[name]
        full = f"mainstem_{name}" + "_total" * (kind == "counter")
        yield f"# HELP {full} {said}"
        yield f"# TYPE {full} {kind}"
        for key, value in sorted(self._values[name].items()):
            if kind != "histogram":
                yield f"{full}{_labels(key)} {value:g}"
                continue
            counts, total = value
            seen = 0
            for bound, count in zip((*bounds, float("inf")), counts, strict=True):
                seen += count
                shown = "+Inf" if bound == float("inf") else f"{bound:g}"
                yield f"{full}_bucket{_labels((*key, ('le', shown)))} {seen}"
            yield f"{full}_sum{_labels(key)} {total:.9g}"
            yield f"{full}_count{_labels(key)} {seen}"


def _labels(key: Key) -> str:
    """{a="b"}, with what the format escapes escaped."""
    escaped = ((name, value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")) for name, value in key)
    inner = ",".join(f'{name}="{value}"' for name, value in escaped)
    return f"{{{inner}}}" if inner else ""
