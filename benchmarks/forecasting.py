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

import argparse
import csv
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
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


# --- models -----------------------------------------------------------------------------------------------------------

CANDIDATES = ("naive", "linear", "trees", "gru")  # those that are compared when none is named, one at a time


def mainstem_forecasts(each: Set, backbone: str, folder: Path, seed: int) -> tuple[list[np.ndarray], str]:
    """A model that is trained once, on what lies before the last windows; it forecasts each of them from what lies before that."""
    import mainstem as ms

    left = WINDOWS * each.horizon
    rows = [
        [{"series": str(i), "time": time, "value": value} for time, value in zip(times, values, strict=True)]
        for i, (times, values) in enumerate(each.series)
    ]
    known = [row for own in rows for row in own[:-left]]
    settings = {"backbone": backbone} if backbone else {}
    run = ms.train(known, "value", series="series", time="time", horizon=each.horizon, out=folder, seed=seed, **settings)
    found = []
    for own in rows:
        for end in range(len(own) - left, len(own), each.horizon):
            (answer,) = run.model.predict(own[:end])
            found.append(np.array(list(answer["quantiles"].values())).T)
    return found, run.chosen


def zero_shot_forecasts(each: Set) -> list[np.ndarray]:
    """The pretrained network as it lies in the package: nothing is fitted, chosen or calibrated on the set."""
    from mainstem.backbones._zeroshot import forecast

    return [forecast(history[None], each.horizon, LEVELS)[0] for history, _ in each.windows()]


def rules_forecasts(each: Set) -> list[np.ndarray]:
    """The mixture of rules that the network weighs and corrects, by itself: a point, no quantiles."""
    from mainstem.modalities._continuations import Reading

    points = [Reading.of(history[None], each.horizon).base[0, : each.horizon] for history, _ in each.windows()]
    return [np.repeat(point[:, None], len(LEVELS), axis=1) for point in points]


def peer_forecasts(each: Set, most: int = 1500) -> list[np.ndarray]:
    """AutoETS of statsforecast, fitted anew before each window on at most `most` last steps."""
    from statsforecast.models import AutoETS

    found = []
    for history, _ in each.windows():
        model = AutoETS(season_length=each.season).fit(history[-most:])
        answer = model.predict(each.horizon, level=[20, 40, 60, 80])
        sides = [answer[f"lo-{level}"] for level in (80, 60, 40, 20)], [answer[f"hi-{level}"] for level in (20, 40, 60, 80)]
        found.append(np.column_stack([*sides[0], answer["mean"], *sides[1]]))
    return found


DIRECT = {"autoets": peer_forecasts, "zero-shot": zero_shot_forecasts, "rules": rules_forecasts}  # forecast without a model of their own


def measure(sets: Sequence[Set], model: str, seed: int, report: dict, save: Callable[[], None]) -> None:
    """The figures of one model, set by set; sets that are in the report already are not done again."""
    import tempfile
    import time

    done = report["models"].setdefault(model, {"sets": {}})
    for each in sets:
        if each.name in done["sets"]:
            continue
        started, chosen = time.perf_counter(), ""
        if model in DIRECT:
            forecasts = DIRECT[model](each)
        else:
            with tempfile.TemporaryDirectory() as folder:
                forecasts, chosen = mainstem_forecasts(each, "" if model == "default" else model, Path(folder) / "run", seed)
        naive, found = report["naive"][each.name], of_set(each, forecasts)
        ratios = {f"{name}_ratio": found[name] / naive[name] for name in ("mase", "wql")}
        done["sets"][each.name] = {**found, **ratios, "seconds": round(time.perf_counter() - started, 1), "chosen": chosen}
        print(
            f"{model:10s} {each.name:16s} " + " ".join(f"{n} {v:.3f}" for n, v in {**ratios, "coverage": found["coverage"]}.items()),
            flush=True,
        )
        save()
    mine = {each.name: done["sets"][each.name] for each in sets}
    done.update(summary(mine, report["naive"]), seconds=round(sum(s["seconds"] for s in mine.values()), 1))
    print(f"{model:10s} {'all':16s} mase {done['mase']:.3f} wql {done['wql']:.3f} coverage {done['coverage']:.3f}", flush=True)
    save()


def main() -> None:
    """Measure the models named, and write what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument(
        "--models",
        default=",".join((*CANDIDATES, "default")),
        help="by name; also zero-shot, rules, autoets (needs statsforecast)",
    )
    parser.add_argument("--sets", default="", help="only these")
    parser.add_argument("--before", type=int, default=0, metavar="N", help="leave out the last N windows of each: to choose settings on")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="written after each set; what is in it is not done again")
    options = parser.parse_args()
    sets = [each for each in read(options.data) if not options.sets or each.name in options.sets.split(",")]
    if options.before:
        sets = [made for each in sets if len((made := earlier(each, options.before)).series[0][1]) > 2 * WINDOWS * each.horizon]
    report = {"windows": WINDOWS, "seed": options.seed, "models": {}}
    if options.json and options.json.exists():
        report = json.loads(options.json.read_text(encoding="utf-8"))
    report["naive"] = {each.name: naive_of_set(each) for each in sets}

    def save() -> None:
        if options.json:
            options.json.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")

    for model in options.models.split(","):
        measure(sets, model, options.seed, report, save)
    save()


def earlier(each: Set, windows: int) -> Set:
    """The set as it was so many windows ago."""
    cut = windows * each.horizon
    return replace(each, series=tuple((times[:-cut], values[:-cut]) for times, values in each.series))


if __name__ == "__main__":
    main()
