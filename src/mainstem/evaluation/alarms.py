"""Figures of alarms against labels: average precision, and what is found at one false alarm in a thousand ordinary rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from mainstem.contracts import Array, Prediction, Value

ALLOWED = 1e-3  # share of ordinary rows that may raise an alarm where events are counted


def statistics(predictions: Sequence[Prediction], ordinary: Sequence[bool]) -> Array:
    """By row, float64 [n, 4]: score, whether it is an anomaly, the event it belongs to (a run of anomalies of one series; -1 none), whether
    an alarm was raised."""
    score = np.array([np.nan if p.score is None else p.score for p in predictions], np.float64)
    truth = ~np.asarray(ordinary, bool)
    series = [str(p.more.get("series", "")) for p in predictions]
    change = np.array([i == 0 or series[i] != series[i - 1] or not truth[i - 1] for i in range(len(truth))], bool)
    event = np.where(truth, np.cumsum(truth & change) - 1, -1)
    raised = np.array([p.value == "anomaly" for p in predictions], np.float64)
    return np.column_stack([score, truth, event, raised]).reshape(-1, 4)


class Alarms:
    """False alarms as raised, and events at the threshold that one ordinary row in a thousand exceeds. Statistics: those above.

    false_alarm_rate: share of ordinary rows with an alarm. events_found: share of events with a row above the threshold. delay: rows from
    the beginning of an event that is found to the first above it, the mean.
    """

    names = ("false_alarm_rate", "events_found", "delay")

    def rows(self, answers: Any) -> Array:
        """[n, 4]."""
        return np.asarray(answers.scores)

    def figures(self, stats: Array, counts: Array) -> dict[str, Array]:
        """Every figure for resamples that draw row i counts[:, i] times; an event counts where one of its rows is drawn."""
        score, truth, event, raised = stats.T
        ordinary = truth == 0
        total = counts[:, ordinary].sum(axis=1)
        rate = np.divide(counts[:, ordinary] @ raised[ordinary], total, out=np.full(len(counts), np.nan), where=total > 0)
        found = np.array([_events(score, event, ordinary, count) for count in counts]).reshape(-1, 2)
        return {"false_alarm_rate": rate, "events_found": found[:, 0], "delay": found[:, 1]}


def _events(score: Array, event: Array, ordinary: Array, count: Array) -> tuple[float, float]:
    """(share of events found, mean delay in rows) of one resample."""
    events = int(event.max(initial=-1)) + 1
    usual = np.repeat(score[ordinary], count[ordinary].astype(int))
    if not events or not len(usual):
        return float("nan"), float("nan")
    threshold = np.quantile(usual, 1 - ALLOWED, method="higher")
    places = np.flatnonzero((event >= 0) & (count > 0))
    start = np.full(events, len(event))
    np.minimum.at(start, event[event >= 0].astype(int), np.flatnonzero(event >= 0))
    drawn = np.unique(event[places]).astype(int)
    above = places[score[places] > threshold]
    first = np.full(events, -1)
    first[event[above[::-1]].astype(int)] = above[::-1]
    hit = drawn[first[drawn] >= 0]
    delay = float((first[hit] - start[hit]).mean()) if len(hit) else float("nan")
    return (len(hit) / len(drawn) if len(drawn) else float("nan")), delay


class Order:
    """How scores order anomalies before ordinary rows: the figures of two classes. Statistics: score and truth."""

    names = ("roc_auc", "average_precision")

    def __init__(self, ranks: Any) -> None:
        self.ranks = ranks

    def rows(self, answers: Any) -> Array:
        """[n, 2]."""
        return np.asarray(answers.scores)[:, :2]

    def figures(self, stats: Array, counts: Array) -> dict[str, Array]:
        """As of the second of two classes."""
        found: dict[str, Array] = self.ranks.figures(stats, counts)
        return found


def constant(targets: Sequence[Value]) -> list[Prediction]:
    """An alarm at random: every row has the same score, and none raises one."""
    return [Prediction("normal", 0.0)] * len(targets)
