"""ETTh1 at horizon 96, zero-shot: the pretrained network as it lies in the package, each of the seven columns by itself.

As published (Zhou et al. 2021, Informer, and after it): 12 months to learn from, 4 to validate, 4 to test, months of 30 days; columns
standardised by the first 12; a forecast from every hour of the test part; mean squared and mean absolute error over all steps and
columns. Here nothing is learned; the history of a forecast is the 1,024 hours before it. The point is the median.

    python benchmarks/ett.py --data FOLDER/ETTh1.csv --json benchmarks/ett.json
"""

from __future__ import annotations

import argparse
import csv
import json
import time
from pathlib import Path

import numpy as np

MONTH, HORIZON, HISTORY, AT_ONCE = 30 * 24, 96, 1024, 256
PUBLISHED = {  # horizon 96, (squared, absolute) error, of networks trained on these 12 months
    "PatchTST/64 (Nie et al. 2023)": (0.370, 0.400),
    "DLinear (Zeng et al. 2023)": (0.375, 0.399),
    "iTransformer (Liu et al. 2024)": (0.386, 0.405),
}


def measure(table: np.ndarray) -> dict[str, float]:
    """The errors of the network and of the seasonal naive on a table [hours, columns]."""
    from mainstem.backbones._zeroshot import forecast

    train = table[: 12 * MONTH]
    table = (table - train.mean(axis=0)) / train.std(axis=0)
    first, last = 16 * MONTH, 20 * MONTH - HORIZON
    sums = np.zeros(4)
    started = time.perf_counter()
    for column in table.T:
        for start in range(first, last + 1, AT_ONCE):
            origins = np.arange(start, min(start + AT_ONCE, last + 1))
            history = column[origins[:, None] + np.arange(-HISTORY, 0)]
            truth = column[origins[:, None] + np.arange(HORIZON)]
            told = forecast(history, HORIZON, [0.5])[:, :, 0]
            naive = history[:, -24:][:, np.arange(HORIZON) % 24]
            for place, missed in enumerate((told - truth, naive - truth)):
                sums[2 * place : 2 * place + 2] += (missed**2).sum(), np.abs(missed).sum()
    count = table.shape[1] * (last + 1 - first)
    names = ("squared", "absolute", "naive_squared", "naive_absolute")
    errors = {name: round(float(value), 4) for name, value in zip(names, sums / count / HORIZON, strict=True)}
    return {**errors, "forecasts": count, "seconds": round(time.perf_counter() - started, 1)}


def main() -> None:
    """Measure, print, and write what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with options.data.open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))[1:]
    report = {**measure(np.array([row[1:] for row in rows], np.float64)), "published": PUBLISHED}
    print(json.dumps(report, indent=1))
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
