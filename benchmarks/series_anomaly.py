"""Anomalies of series: learned from the ordinary steps of the first part, judged on the rest by average precision.

Peers in the same run: distance from the rolling median in rolling median absolute deviations, and an isolation forest on windows. All
scores are compared on the same rows. `--made` takes made series instead, which settings are chosen on.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import tempfile
import time
from pathlib import Path

import numpy as np

LEARNED = 0.3  # of each series: what is learned from
ROLLED, WINDOW = 100, 24  # steps of the rolling median, and of the forest's windows
ALLOWED = 1e-3  # false alarms where events are counted


def read(folder: Path) -> dict[str, dict[str, list]]:
    """Series by name: time, value, anomaly."""
    found: dict[str, dict[str, list]] = {}
    for path in sorted(folder.glob("*.csv.gz")):
        with gzip.open(path, "rt", newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                series = found.setdefault(row["series"], {"time": [], "value": [], "anomaly": []})
                series["time"].append(row["time"])
                series["value"].append(float(row["value"]))
                series["anomaly"].append(int(row["anomaly"]))
    return found


def made(seed: int = 0, count: int = 12, length: int = 3000) -> dict[str, dict[str, list]]:
    """Made series with a day, a week and noise that remembers; anomalies are shifts, spikes, more noise, a frozen value, a lost rhythm."""
    rng = np.random.default_rng(seed)
    found = {}
    for number in range(count):
        t = np.arange(length)
        noise = np.zeros(length)
        shocks = rng.normal(size=length) * rng.uniform(0.1, 0.5)
        memory = rng.choice([0.0, 0.6, 0.95])
        for i in range(1, length):
            noise[i] = memory * noise[i - 1] + shocks[i]
        day, week = (rng.choice([0.0, 1.0, 2.0]) * np.sin(2 * np.pi * t / period + rng.uniform(0, 6)) for period in (24, 168))
        values, labels = day + week + noise, np.zeros(length, int)
        for place in rng.choice(np.arange(8, 20), 3, replace=False) * length // 20:
            span = slice(place, place + int(rng.integers(20, 120)))
            kind = rng.integers(5)
            size = values.std()
            if kind == 0:
                values[span] += rng.choice([-1, 1]) * rng.uniform(1, 3) * size
            elif kind == 1:
                values[rng.integers(span.start, span.stop, 4)] += rng.choice([-1, 1]) * rng.uniform(3, 6) * size
            elif kind == 2:
                values[span] += rng.normal(size=span.stop - span.start) * size
            elif kind == 3:
                values[span] = values[place]
            else:
                values[span] = values[span].mean() + rng.permutation(values[span] - values[span].mean())
            labels[span] = 1
        times = (np.datetime64("2024-01-01T00:00:00") + t * np.timedelta64(3600, "s")).astype(str).tolist()
        found[f"made {number + 1}"] = {"time": times, "value": values.round(4).tolist(), "anomaly": labels.tolist()}
    return found


# --- scores by row ----------------------------------------------------------------------------------------------------


def mainstem_scores(series: dict, first: int, folder: Path, seed: int) -> np.ndarray:
    """Of every row: the score of the step that it belongs to."""
    import mainstem as ms

    rows = [{name: series[name][i] for name in ("time", "value", "anomaly")} for i in range(len(series["time"]))]
    run = ms.train(rows[:first], "anomaly", task="anomaly", time="time", out=folder, seed=seed, split__test=0, split__allow_leak=True)
    answers = run.model.predict([{name: row[name] for name in ("time", "value")} for row in rows])
    times, steps = (np.array(held, "datetime64[s]").astype(np.int64) for held in (series["time"], [a["time"] for a in answers]))
    scores = np.array([answer["score"] for answer in answers])
    right = np.clip(np.searchsorted(steps, times), 0, len(steps) - 1)
    left = np.maximum(right - 1, 0)
    nearest = np.where(np.abs(steps[left] - times) <= np.abs(steps[right] - times), left, right)
    return scores[nearest]


def rolling_scores(values: np.ndarray) -> np.ndarray:
    """Distance from the median of the last steps, in their median absolute deviation."""
    padded = np.concatenate([np.full(ROLLED - 1, values[0]), values])
    windows = np.lib.stride_tricks.sliding_window_view(padded, ROLLED)
    middle = np.median(windows, axis=1)
    spread = np.median(np.abs(windows - middle[:, None]), axis=1)
    return np.abs(values - middle) / (spread + 1e-9 + 1e-3 * values.std())


def forest_scores(values: np.ndarray, labels: np.ndarray, first: int, seed: int) -> np.ndarray:
    """An isolation forest on windows, learned from those of the first part that hold no anomaly."""
    from sklearn.ensemble import IsolationForest

    padded = np.concatenate([np.full(WINDOW - 1, values[0]), values])
    windows = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)
    clean = np.array([not labels[max(0, i - WINDOW + 1) : i + 1].any() for i in range(first)])
    model = IsolationForest(n_estimators=200, random_state=seed).fit(windows[:first][clean])
    return -model.score_samples(windows)


def figures(scores: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Average precision; share of events found at one false alarm in a thousand ordinary rows, and the delay in rows."""
    from sklearn.metrics import average_precision_score

    threshold = np.quantile(scores[labels == 0], 1 - ALLOWED, method="higher")
    starts = np.flatnonzero((labels == 1) & (np.concatenate([[0], labels[:-1]]) == 0))
    ends = [start + int(np.argmin(np.append(labels[start:], 0))) for start in starts]
    delays = [
        int(np.argmax(scores[a:b] > threshold)) if (scores[a:b] > threshold).any() else None for a, b in zip(starts, ends, strict=True)
    ]
    hit = [delay for delay in delays if delay is not None]
    precision = float(average_precision_score(labels, scores))
    return {"average_precision": precision, "events": len(starts), "found": len(hit), "delay": float(np.mean(hit)) if hit else None}


def main() -> None:
    """Measure every series."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--made", action="store_true", help="made series instead of DATA")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="written after each series; what is in it is not done again")
    options = parser.parse_args()
    report = (
        json.loads(options.json.read_text(encoding="utf-8"))
        if options.json and options.json.exists()
        else {"learned": LEARNED, "series": {}}
    )
    for name, series in (made(options.seed) if options.made else read(options.data)).items():
        if name in report["series"]:
            continue
        values, labels = np.array(series["value"]), np.array(series["anomaly"])
        first, started = int(LEARNED * len(values)), time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            ours = mainstem_scores(series, first, Path(folder) / "run", options.seed)
        seconds = round(time.perf_counter() - started, 1)
        scores = {"mainstem": ours, "rolling": rolling_scores(values), "forest": forest_scores(values, labels, first, options.seed)}
        if not labels[first:].any():
            continue
        found = {model: figures(each[first:], labels[first:]) for model, each in scores.items()}
        report["series"][name] = {**found, "seconds": seconds}
        told = " ".join(f"{model} {entry['average_precision']:.3f} ({entry['found']}/{entry['events']})" for model, entry in found.items())
        print(f"{name:38s} {told}", flush=True)
        save(report, options.json)
    models = ("mainstem", "rolling", "forest")
    report["mean_average_precision"] = {m: float(np.mean([s[m]["average_precision"] for s in report["series"].values()])) for m in models}
    report["events_found"] = {m: sum(s[m]["found"] for s in report["series"].values()) for m in models}
    report["events"] = sum(s["mainstem"]["events"] for s in report["series"].values())
    save(report, options.json)
    print(report["mean_average_precision"], report["events_found"], "of", report["events"])


def save(report: dict, path: Path | None) -> None:
    """Write what was found."""
    if path:
        path.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
