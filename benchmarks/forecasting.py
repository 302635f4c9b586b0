"""Forecasts of the last three windows of 16 sets, against the seasonal naive.

Data: FOLDER/index.json ({set: {"season", "horizon"}}) and FOLDER/SET.csv (series, time, value). For a model of one's own:

    from forecasting import read, score
    score(lambda history, horizon: quantiles, read(FOLDER))        # quantiles [horizon, len(LEVELS)], history [n] with NaN

By set: MASE (Hyndman & Koehler 2006, the scale is the mean error of the seasonal naive within the history) and the weighted quantile
loss of 0.1, 0.5, 0.9, each as a ratio to the seasonal naive's; then the geometric mean over the sets. Coverage of the 80 % interval
is the mean over the sets. The seasonal naive's quantiles are normal, its deviation that of the seasonal differences times √k in the
k-th season ahead.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist

import numpy as np

LEVELS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
SCORED = (0.1, 0.5, 0.9)
WINDOWS, MOST_SERIES = 3, 6

Forecast = Callable[[np.ndarray, int], np.ndarray]  # (history [n], horizon) → quantiles [horizon, levels]


@dataclass(frozen=True)
class Set:
    """One set: its series as (times, values float64 with NaN where missing)."""

    name: str
    season: int
    horizon: int
    series: tuple[tuple[list[str], np.ndarray], ...]

    def windows(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """(history, future) of the last windows of each series; all that lies before a window is its history."""
        for _, values in self.series:
            for end in range(len(values) - (WINDOWS - 1) * self.horizon, len(values) + 1, self.horizon):
                yield values[: end - self.horizon], values[end - self.horizon : end]


def read(folder: Path | str) -> list[Set]:
    """The sets of a folder."""
    folder = Path(folder)
    index = json.loads((folder / "index.json").read_text(encoding="utf-8"))
    return [Set(name, entry["season"], entry["horizon"], tuple(_series(folder / f"{name}.csv"))) for name, entry in index.items()]


def _series(path: Path) -> list[tuple[list[str], np.ndarray]]:
    found: dict[str, tuple[list[str], list[float]]] = {}
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            times, values = found.setdefault(row["series"], ([], []))
            times.append(row["time"])
            values.append(float(row["value"] or "nan"))
    return [(times, np.array(values)) for times, values in list(found.values())[:MOST_SERIES]]


# --- scores -----------------------------------------------------------------------------------------------------------


def seasonal_naive(season: int, levels: Sequence[float] = LEVELS) -> Forecast:
    """The last season again and again."""
    deviates = np.array([NormalDist().inv_cdf(level) for level in levels])

    def forecast(history: np.ndarray, horizon: int) -> np.ndarray:
        step = np.arange(horizon)
        point = history[len(history) - season + step % season]
        deviation = np.sqrt(np.nanmean((history[season:] - history[:-season]) ** 2) * (step // season + 1))
        return point[:, None] + deviation[:, None] * deviates

    return forecast


def sums(history: np.ndarray, future: np.ndarray, quantiles: np.ndarray, season: int, levels: Sequence[float] = LEVELS) -> np.ndarray:
    """Of one window: MASE, summed quantile loss, summed size of the truth, how many steps the 80 % interval holds, steps."""
    known = ~np.isnan(future)
    truth, quantiles = future[known], np.asarray(quantiles, np.float64)[known]
    at = {level: quantiles[:, int(np.argmin(np.abs(np.array(levels) - level)))] for level in SCORED}
    scale = np.nanmean(np.abs(history[season:] - history[:-season]))
    loss = sum(2 * np.maximum(level * (truth - q), (level - 1) * (truth - q)).sum() for level, q in at.items()) / len(SCORED)
    inside = ((truth >= at[0.1]) & (truth <= at[0.9])).sum()
    return np.array([np.abs(truth - at[0.5]).mean() / scale, loss, np.abs(truth).sum(), inside, len(truth)])


def of_set(each: Set, forecasts: Sequence[np.ndarray], levels: Sequence[float] = LEVELS) -> dict[str, float]:
    """MASE, weighted quantile loss and coverage of a set, from quantiles [horizon, levels] by window in the order of `windows`."""
    found = np.array([sums(h, f, q, each.season, levels) for (h, f), q in zip(each.windows(), forecasts, strict=True)])
    total = found.sum(axis=0)
    return {"mase": float(found[:, 0].mean()), "wql": float(total[1] / total[2]), "coverage": float(total[3] / total[4])}


def naive_of_set(each: Set) -> dict[str, float]:
    """The same of the seasonal naive."""
    forecast = seasonal_naive(each.season)
    return of_set(each, [forecast(history, each.horizon) for history, _ in each.windows()])


def summary(sets: dict[str, dict[str, float]], naive: dict[str, dict[str, float]]) -> dict[str, float]:
    """Geometric means of the ratios to the seasonal naive, and mean coverage."""
    ratios = {name: np.array([sets[each][name] / naive[each][name] for each in sets]) for name in ("mase", "wql")}
    means = {name: float(np.exp(np.log(values).mean())) for name, values in ratios.items()}
    return {**means, "coverage": float(np.mean([figures["coverage"] for figures in sets.values()]))}


def score(forecast: Forecast, sets: Sequence[Set], levels: Sequence[float] = LEVELS) -> dict:
    """{"mase", "wql", "coverage"} relative to the seasonal naive, and "sets": the same by set with "mase_ratio" and "wql_ratio"."""
    found = {each.name: of_set(each, [forecast(h, each.horizon) for h, _ in each.windows()], levels) for each in sets}
    naive = {each.name: naive_of_set(each) for each in sets}
    ratios = {n: {f"{m}_ratio": found[n][m] / naive[n][m] for m in ("mase", "wql")} for n in found}
    return {**summary(found, naive), "sets": {name: {**found[name], **ratios[name]} for name in found}}
