"""ETTh1, horizon 96: mean squared and absolute error in standardised units on the usual split (12, 4, 4 months), every channel by itself.

The train and validation months are learned from, each channel a series; of the test months every STRIDE-th window is forecast. Published
figures take every window of the same months and lie at about 0.37 to 0.40 of squared error.
"""

from __future__ import annotations

import argparse
import csv
import json
import tempfile
import time
from pathlib import Path

import numpy as np

HORIZON, MONTH = 96, 30 * 24
LEARNED, VALID, TEST = 12 * MONTH, 4 * MONTH, 4 * MONTH


def read(path: Path) -> tuple[list[str], dict[str, np.ndarray]]:
    """Times, and standardised values by channel: mean and deviation of the train months."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))[: LEARNED + VALID + TEST]
    values = {name: np.array([float(row[name]) for row in rows]) for name in rows[0] if name != "date"}
    scaled = {name: (v - v[:LEARNED].mean()) / v[:LEARNED].std() for name, v in values.items()}
    return [row["date"] for row in rows], scaled


def measure(times: list[str], channels: dict[str, np.ndarray], backbone: str, stride: int, folder: Path, seed: int) -> dict:
    """Errors of one model, trained once."""
    import mainstem as ms
    from mainstem.contracts import Prediction, Table
    from mainstem.modalities.series import Layout, Whole

    known = LEARNED + VALID
    rows = [
        {"channel": n, "date": t, "value": float(x)} for n, v in channels.items() for t, x in zip(times[:known], v[:known], strict=True)
    ]
    settings = {"backbone": backbone} if backbone else {}
    run = ms.train(rows, "value", series="channel", time="date", horizon=HORIZON, out=folder, seed=seed, split__test=0, **settings)
    model = run.model
    (column,) = model.pipeline.artifact.schema.columns
    layout = Layout.of(column.settings)
    squared, absolute = [], []
    for name, values in channels.items():
        whole = Whole({"date": times, "value": values.tolist()}, layout, name)
        origins = range(known, known + TEST - HORIZON + 1, stride)
        table = Table(
            {column.name: [whole.window(origin) for origin in origins]}, hashes=[str(o) for o in origins], source=range(len(origins))
        )
        for origin, answer in zip(origins, model.pipeline.predict_table(table, model.runner), strict=True):
            assert isinstance(answer, Prediction)
            error = np.array(answer.value) - values[origin : origin + HORIZON]
            squared.append((error**2).mean())
            absolute.append(np.abs(error).mean())
    return {"mse": float(np.mean(squared)), "mae": float(np.mean(absolute)), "windows": len(squared), "chosen": run.chosen}


def main() -> None:
    """Measure the models named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--models", default="naive,linear,trees")
    parser.add_argument("--stride", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    times, channels = read(options.data)
    report: dict = {"stride": options.stride, "models": {}}
    for model in options.models.split(","):
        started = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            found = measure(times, channels, "" if model == "default" else model, options.stride, Path(folder) / "run", options.seed)
        report["models"][model] = {**found, "seconds": round(time.perf_counter() - started, 1)}
        print(model, report["models"][model], flush=True)
        if options.json:
            options.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
