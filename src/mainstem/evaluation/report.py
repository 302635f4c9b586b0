"""An evaluation as JSON, and as a table to print."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Hashable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from mainstem.contracts import Array, Json, Prediction, Value
from mainstem.errors import MainstemError
from mainstem.evaluation import alarms, baseline, forecasts, intervals, metrics

BY_CLASS = ("precision", "recall", "f1")
# Which constant suits which figure of numbers best.
_MEDIAN = ("mae", "mape")


def evaluate(
    task_name: str,
    predictions: Sequence[Prediction | MainstemError],
    targets: Sequence[Value],
    labels: Sequence[str],
    *,
    groups: Sequence[Hashable] | None = None,
    train_targets: Sequence[Value] | None = None,
    seed: int = 0,
    resamples: int = 1000,
) -> dict[str, Json]:
    """Metrics with 95 % bootstrap intervals beside a trivial baseline, as JSON.

    {"task", "rows", "metrics": {NAME: {"value", "low", "high"}}, "baseline": {NAME: {"value"}}, "classes": {LABEL: {"rows",
    "precision": {"value", "low", "high"}, "recall", "f1"}}}; a figure is null where it is undefined, and says "resamples"
    where the size of the data allowed fewer than asked. "failed" counts rows that were answered by an error, which no
    figure includes. targets: empty where the predictions say all that is counted. groups: what rows are resampled by.
    train_targets: what the baseline is fitted on, else on `targets`.
    """
    kind, names = metrics.kind_of(task_name)
    kind = kind if len(targets) or kind == "text" else ""  # labels of anomalies may be there or not
    targets = targets if len(targets) else [None] * len(predictions)
    good = [i for i, p in enumerate(predictions) if not isinstance(p, MainstemError)]
    answered, targets = _answered(predictions), [targets[i] for i in good if kind]
    report: dict[str, Json] = {"task": task_name, "rows": len(good), "metrics": {}, "baseline": {}}
    if len(good) < len(predictions):
        report["failed"] = len(predictions) - len(good)
    if not kind or not good:
        report["metrics"] = {name: {"value": None, "low": None, "high": None} for name in names}
        report["baseline"] = {name: {"value": None} for name in names}
        return report
    groups = None if groups is None else [groups[i] for i in good]
    arrays = metrics.answers(kind, answered, targets, labels)
    found = intervals.bootstrap(metrics.FAMILIES[kind], arrays, groups, resamples, seed)
    report["metrics"] = {name: _entry(*found[name], resamples) for name in names if name in found}
    if kind == "text":  # the model holds its own baseline, over its own tokens
        trivial = _points(kind, [replace(p, more={**p.more, "nats": p.more["baseline"]}) for p in answered], targets, labels)
    else:
        trivial = _baseline(kind, targets, train_targets if train_targets is not None and len(train_targets) else targets, labels)
    report["baseline"] = {name: {"value": trivial[name]} for name in report["metrics"]}
    if arrays.classes:
        report["classes"] = {label: _class(found, i, arrays, resamples) for i, label in enumerate(arrays.classes)}
    return report


def point_metrics(
    task_name: str, predictions: Sequence[Prediction | MainstemError], targets: Sequence[Value], labels: Sequence[str]
) -> dict[str, float | None]:
    """The metrics of a task by name without intervals, None where undefined; rows answered by an error are left out."""
    kind, names = metrics.kind_of(task_name)
    if not kind or not (len(targets) or kind == "text"):
        return dict.fromkeys(names)
    targets = targets if len(targets) else [None] * len(predictions)
    kept = [t for p, t in zip(predictions, targets, strict=True) if not isinstance(p, MainstemError)]
    values = _points(kind, _answered(predictions), kept, labels) if kept else {}
    return {name: values.get(name) for name in names}


def _answered(predictions: Sequence[Prediction | MainstemError]) -> list[Prediction]:
    return [p for p in predictions if not isinstance(p, MainstemError)]


def _points(kind: str, predictions: Sequence[Prediction], targets: Sequence[Value], labels: Sequence[str]) -> dict[str, float | None]:
    arrays, values = metrics.answers(kind, predictions, targets, labels), {}
    for family in metrics.FAMILIES[kind]:
        found = family.figures(family.rows(arrays), np.ones((1, len(targets))))
        values.update({name: _plain(found[name][0]) for name in family.names})
    return values


def _baseline(kind: str, targets: Sequence[Value], fitted_on: Sequence[Value], labels: Sequence[str]) -> dict[str, float | None]:
    def points(middle: str) -> dict[str, float | None]:
        if kind == "series":
            return _points(kind, [forecasts.seasonal_naive(target) for target in targets], targets, labels)
        if kind == "anomaly":
            return _points(kind, alarms.constant(targets), targets, labels)
        answer = baseline.constant(kind, fitted_on, labels, middle=middle)
        return _points(kind, [answer] * len(targets), targets, labels)

    values = points("mean")
    if kind == "number":
        values.update({name: value for name, value in points("median").items() if name in _MEDIAN})
    return values


def _class(found: dict[str, tuple[Array, Array, Array, int]], i: int, arrays: metrics.Answers, resamples: int) -> dict[str, Json]:
    """The figures of class i."""
    rows = int(arrays.true[:, i].sum() if arrays.true.ndim == 2 else (arrays.true == i).sum())
    entry: dict[str, Json] = {"rows": rows}
    for name in BY_CLASS:
        *figures, most = found[name]
        value, low, high = (each[i] if i < len(each) else np.array(np.nan) for each in figures)
        entry[name] = _entry(value, low, high, most, resamples)
    return entry


def _entry(value: Array, low: Array, high: Array, most: int, asked: int) -> dict[str, Json]:
    entry: dict[str, Json] = {"value": _plain(value), "low": _plain(low), "high": _plain(high)}
    return entry if most == asked else {**entry, "resamples": most}


def _plain(value: Array) -> float | None:
    number = float(value)
    return number if math.isfinite(number) else None


# --- as text ----------------------------------------------------------------------------------------------------------


def table(report: dict[str, Json]) -> str:
    """The report as aligned plain text; full-width characters (Chinese labels) count two columns."""
    title = f"{report['task']}, {report['rows']:,} rows"
    title += f", {report['failed']:,} without an answer" if report.get("failed") else ""
    lines = [["metric", "value", "95 % interval", "baseline"]]
    for name, entry in report["metrics"].items():
        lines.append([name, _text(entry["value"]), _range(entry), _text(report["baseline"][name]["value"])])
    parts = [title, *_aligned(lines)]
    if report.get("classes"):
        lines = [["class", "rows", *BY_CLASS]]
        for label, entry in report["classes"].items():
            lines.append([_shown(label), f"{entry['rows']:,}", *(_text(entry[name]["value"]) for name in BY_CLASS)])
        parts += ["", *_aligned(lines)]
    return "\n".join(parts)


def _shown(label: str) -> str:
    """A label on one line, without what would steer a terminal."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in str(label))


def _text(value: float | None) -> str:
    if value is None:
        return "-"
    value = 0.0 if abs(value) < 1e-12 else value  # what rounding leaves of 0
    return f"{value:.4f}" if value == 0 or 1e-3 <= abs(value) < 1e4 else f"{value:.4g}"


def _range(entry: dict[str, Any]) -> str:
    return "-" if entry["low"] is None else f"{_text(entry['low'])} to {_text(entry['high'])}"


def _aligned(lines: list[list[str]]) -> list[str]:
    """First column to the left, the others to the right."""
    widths = [max(map(width, column)) for column in zip(*lines, strict=True)]
    return ["  ".join(_padded(cell, widths[i], left=i == 0) for i, cell in enumerate(line)).rstrip() for line in lines]


def _padded(text: str, to: int, *, left: bool) -> str:
    space = " " * (to - width(text))
    return text + space if left else space + text


def width(text: str) -> int:
    """Columns that a text takes in a terminal: two for full-width characters, none for combining marks (UAX #11)."""
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)
