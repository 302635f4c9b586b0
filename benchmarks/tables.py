"""Tables: `mainstem train --target` and nothing else, beside scikit-learn's defaults, in the same folds.

    python benchmarks/tables.py --data FOLDER [--develop] [--tables a,b] [--json FILE]
    python benchmarks/tables.py --data FOLDER --seconds PYTHON [--json FILE]

FOLDER holds index.json ({table: {"target", "task", "group", "develop"}}) and TABLE.csv. Five folds (by the group where there is
one); a fold's rows are written as two CSV files, the second given as --test so that all of the first is learned from. ROC-AUC (one
against rest) or R²; the number after ± is the standard error of the mean over the folds of the difference to the table's best peer.

The second form times the command on each whole table once, by the PYTHON of an environment that holds mainstem[tables] and no PyTorch.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.compose import make_column_transformer
from sklearn.ensemble import (
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import r2_score, roc_auc_score
from sklearn.model_selection import GroupKFold, KFold, StratifiedGroupKFold, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

import mainstem as ms
from mainstem.modalities.category import canonical

FOLDS = 5
LIMIT = 60  # seconds a fit


def read(folder, name, entry):
    """(inputs as a frame, answers, groups or None); columns of numbers stay numbers, all others are categories."""
    frame = pd.read_csv(folder / f"{name}.csv")
    answer = frame.pop(entry["target"])
    groups = frame.pop(entry["group"]).to_numpy() if entry["group"] else None
    for column in frame.columns:
        if not pd.api.types.is_numeric_dtype(frame[column]) or frame[column].dtype == bool:
            frame[column] = frame[column].astype("category")
    if entry["task"] == "classification":
        return frame, np.unique(answer.astype(str), return_inverse=True)[1], groups
    return frame, answer.to_numpy(float), groups


def folds(answer, groups, task, seed):
    """(training rows, test rows) five times."""
    many = task == "classification"
    if groups is None:
        split = (StratifiedKFold if many else KFold)(FOLDS, shuffle=True, random_state=seed)
    else:
        split = (StratifiedGroupKFold if many else GroupKFold)(FOLDS, shuffle=True, random_state=seed)
    return list(split.split(np.zeros(len(answer)), answer, groups))


def peers(frame, task):
    """Peer → a function that builds it, all with the defaults of scikit-learn."""
    words = list(frame.select_dtypes("category").columns)
    numbers = [c for c in frame.columns if c not in words]
    many = task == "classification"

    def prepared(model):
        columns = make_column_transformer(
            (make_pipeline(SimpleImputer(strategy="median"), StandardScaler()), numbers), (OneHotEncoder(handle_unknown="ignore"), words)
        )
        return make_pipeline(columns, model)

    return {
        "boosting": lambda: (HistGradientBoostingClassifier if many else HistGradientBoostingRegressor)(random_state=0),
        "forest": lambda: prepared((RandomForestClassifier if many else RandomForestRegressor)(random_state=0)),
        "regression": lambda: prepared(LogisticRegression() if many else Ridge()),
    }


def peer_answers(build, frame, answer, train, test, task):
    model = build().fit(frame.iloc[train], answer[train])
    return model.predict(frame.iloc[test]) if task == "regression" else model.predict_proba(frame.iloc[test])


def our_answers(path, entry, classes, train, test, seed, work):
    """Answers of a model trained on CSV files with nothing but the target, and the run's sentence about its choice."""
    whole = pd.read_csv(path, dtype=str, keep_default_na=False)
    for name, rows in (("train", train), ("test", test)):
        whole.iloc[rows].to_csv(work / f"{name}.csv", index=False)
    group = {"group": entry["group"]} if entry["group"] else {}
    run = ms.train(work / "train.csv", entry["target"], test=str(work / "test.csv"), time_limit=LIMIT, seed=seed, out=work / "run", **group)
    answers = run.model.predict(work / "test.csv")
    if entry["task"] == "regression":
        return np.array([a["prediction"] for a in answers]), run.chosen
    return np.array([[a["scores"].get(c, 0.0) for c in classes] for a in answers]), run.chosen


def timed(python, path, entry):
    """Wall-clock seconds of `mainstem train` on a whole table, its start included."""
    with tempfile.TemporaryDirectory() as work:
        group = ["--group", entry["group"]] if entry["group"] else []
        command = [python, "-m", "mainstem", "train", str(path), "--target", entry["target"], *group, "-o", f"{work}/run"]
        start = time.monotonic()
        subprocess.run(command, check=True, capture_output=True)
        return round(time.monotonic() - start, 2)


def score(answer, found, task):
    if task == "regression":
        return r2_score(answer, found)
    if found.shape[1] == 2:
        return roc_auc_score(answer, found[:, 1])
    return roc_auc_score(answer, found, multi_class="ovr", labels=np.arange(found.shape[1]))


def measure(folder, name, entry, seed):
    """Everything about one table: scores by fold of ours and of each peer, seconds and choices of ours."""
    frame, answer, groups = read(folder, name, entry)
    task = entry["task"]
    classes = (
        [] if task == "regression" else [canonical(v) for v in np.unique(pd.read_csv(folder / f"{name}.csv")[entry["target"]].astype(str))]
    )
    result = {"task": task, "metric": "r2" if task == "regression" else "roc_auc", "scores": {}, "seconds": [], "chosen": []}
    for train, test in folds(answer, groups, task, seed):
        with tempfile.TemporaryDirectory() as work:
            start = time.monotonic()
            values, chosen = our_answers(folder / f"{name}.csv", entry, classes, train, test, seed, Path(work))
            result["seconds"].append(round(time.monotonic() - start, 2))
            result["chosen"].append(chosen)
        found = {"mainstem": values}
        for peer, build in peers(frame, task).items():
            found[peer] = peer_answers(build, frame, answer, train, test, task)
        for model, values in found.items():
            result["scores"].setdefault(model, []).append(float(score(answer[test], values, task)))
    return result


def summary(result):
    """One table's means, and the difference to its best peer with its standard error."""
    means = {model: float(np.mean(scores)) for model, scores in result["scores"].items()}
    best = max((m for m in means if m != "mainstem"), key=means.__getitem__)
    difference = np.subtract(result["scores"]["mainstem"], result["scores"][best])
    error = float(difference.std(ddof=1) / np.sqrt(len(difference)))
    return {
        "means": means,
        "best_peer": best,
        "difference": float(difference.mean()),
        "error": error,
        "worse": bool(difference.mean() < -error),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--develop", action="store_true", help="the tables to develop on, instead of those that figures are quoted for")
    parser.add_argument("--tables", default="", help="only these")
    parser.add_argument("--seconds", default="", metavar="PYTHON", help="only time the command, by this interpreter")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="written after each table; tables that are in it already are not done again")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    index = json.loads((options.data / "index.json").read_text(encoding="utf-8"))
    names = options.tables.split(",") if options.tables else [n for n, entry in index.items() if entry["develop"] == options.develop]
    report = {"folds": FOLDS, "seed": options.seed, "limit_seconds": LIMIT, "versions": versions(), "tables": {}}
    if options.json and options.json.exists():
        report = json.loads(options.json.read_text())
    if options.seconds:
        report["seconds_without_torch"] = {name: timed(options.seconds, options.data / f"{name}.csv", index[name]) for name in names}
        print(report["seconds_without_torch"])
        names = []
    for name in names:
        if name not in report["tables"]:
            report["tables"][name] = measure(options.data, name, index[name], options.seed)
        told = summary(report["tables"][name])
        report["tables"][name].update(told)
        cells = " | ".join(f"{m} {v:.4f}" for m, v in told["means"].items())
        seconds = np.mean(report["tables"][name]["seconds"])
        print(
            f"{name:14s} {cells} | {told['difference']:+.4f} ± {told['error']:.4f} {'WORSE' if told['worse'] else ''} {seconds:.0f} s",
            flush=True,
        )
        done = [report["tables"][n] for n in names if n in report["tables"]]
        models = done[0]["means"]
        report["mean"] = {model: float(np.mean([t["means"][model] for t in done])) for model in models}
        report["worse_than_best_peer"] = sum(t["worse"] for t in done)
        write(report, options.json)
    write(report, options.json)
    if names:
        print(f"{'mean':14s} {' | '.join(f'{m} {v:.4f}' for m, v in report['mean'].items())} | worse: {report['worse_than_best_peer']}")


def write(report, path):
    if path:
        path.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def versions():
    import sklearn

    return {"mainstem": ms.__version__, "scikit-learn": sklearn.__version__, "numpy": np.__version__}


if __name__ == "__main__":
    main()
