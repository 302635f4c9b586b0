"""Tables: the predictors beside scikit-learn's, in the same folds. python benchmarks/tables.py --data FOLDER [--all] [--models blend]

FOLDER holds index.json ({table: {"target", "task", "group", "develop"}}) and TABLE.csv. ROC-AUC (one against rest) or R²; the number
after ± is the standard error of the mean over the folds of the difference to the table's best peer.
"""

from __future__ import annotations

import argparse
import json
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

from mainstem import registry
from mainstem.modalities import table
from mainstem.schema import Column

FOLDS = 5


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


def our_answers(name, frame, answer, train, test, task, groups, seed):
    """Answers of one predictor, through the encoder of tables."""
    predictor = registry.load("backbones", name).predictor
    columns = [Column(c, "category" if frame[c].dtype == "category" else "number") for c in frame.columns]
    cells = {c.name: [None if pd.isna(v) else (str(v) if c.kind == "category" else float(v)) for v in frame[c.name]] for c in columns}
    state = table.fit(columns, {c: [v[i] for i in train] for c, v in cells.items()}, {"scaling": "none"})
    encoded = [table.encode({c: [v[i] for i in part] for c, v in cells.items()}, {}, state)[0] for part in (train, test)]
    outputs = 1 if task == "regression" else int(answer.max()) + 1
    kinds = {"task": task, "outputs": outputs, "categories": [len(c["values"]) + 2 for c in state.json["categories"]]}
    if groups is not None:
        kinds["groups"] = groups[train]
    center, scale = (answer[train].mean(), answer[train].std()) if task == "regression" else (0.0, 1.0)
    target = {"value": (answer[train] - center) / scale} if task == "regression" else {"index": answer[train]}
    fitted = predictor.fit(encoded[0], target, kinds, None, {}, seed)
    result = predictor.run(fitted, encoded[1])
    if task == "regression":
        return result["value"][:, 0] * scale + center, fitted
    logits = result["logits"]
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    return odds / odds.sum(axis=1, keepdims=True), fitted


def score(answer, found, task):
    if task == "regression":
        return r2_score(answer, found)
    if found.shape[1] == 2:
        return roc_auc_score(answer, found[:, 1])
    return roc_auc_score(answer, found, multi_class="ovr", labels=np.arange(found.shape[1]))


def measure(folder, name, entry, models, seeds, with_peers):
    """Model → scores by fold, and model → seconds a fold."""
    frame, answer, groups = read(folder, name, entry)
    task, scores, seconds, members = entry["task"], {}, {}, {}
    for seed in range(seeds):
        for train, test in folds(answer, groups, task, seed):
            found = {}
            for model in models:
                start = time.process_time()
                found[model], fitted = our_answers(model, frame, answer, train, test, task, groups, seed)
                seconds.setdefault(model, []).append(time.process_time() - start)
                for member, chosen in fitted.json["members"].items():
                    members.setdefault(model, {}).setdefault(member, []).append(chosen)
            for peer, build in peers(frame, task).items() if with_peers else ():
                found[peer] = peer_answers(build, frame, answer, train, test, task)
            for model, values in found.items():
                scores.setdefault(model, []).append(score(answer[test], values, task))
    return scores, seconds, members


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--all", action="store_true", help="also the tables that are not marked `develop`")
    parser.add_argument("--tables", default="")
    parser.add_argument("--models", default="linear,trees,blend")
    parser.add_argument("--seeds", type=int, default=1, help="how often the five folds are drawn")
    parser.add_argument("--no-peers", action="store_true")
    parser.add_argument("--verbose", action="store_true", help="also what each member chose")
    parser.add_argument("--json", type=Path, help="write all scores there")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    index = json.loads((options.data / "index.json").read_text(encoding="utf-8"))
    names = options.tables.split(",") if options.tables else [n for n, entry in index.items() if options.all or entry["develop"]]
    ours = options.models.split(",")
    results = {}
    for name in names:
        scores, seconds, members = measure(options.data, name, index[name], ours, options.seeds, not options.no_peers)
        results[name] = scores
        others = [m for m in scores if m not in ours]
        best = max(others, key=lambda m: np.mean(scores[m]), default=None)
        cells = [f"{m} {np.mean(scores[m]):.4f}" for m in others]
        for model in ours:
            spread = ""
            if best:
                difference = np.subtract(scores[model], scores[best])
                spread = f" ({difference.mean():+.4f} ± {difference.std(ddof=1) / np.sqrt(len(difference)):.4f})"
            cells.append(f"{model} {np.mean(scores[model]):.4f}{spread} {np.mean(seconds[model]):.2f} s")
        print(f"{name:14s} {' | '.join(cells)}", flush=True)
        for model, chosen in members.items() if options.verbose else ():
            for member, choices in chosen.items():
                means = {key: f"{np.mean([c[key] for c in choices]):.3g}" for key in choices[0]}
                print(f"{'':16s}{model}.{member} × {len(choices)}: {means}")
    means = {model: np.mean([np.mean(scores[model]) for scores in results.values()]) for model in next(iter(results.values()))}
    print(f"{'mean':14s} {' | '.join(f'{model} {mean:.4f}' for model, mean in means.items())}")
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
