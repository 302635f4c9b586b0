"""The in-context table network beside scikit-learn's defaults: 20 tables, three folds, few rows to learn from.

    python benchmarks/in_context.py --data FOLDER [--rows 500] [--tables develop|quoted|all|a,b] [--json FILE]
    python benchmarks/in_context.py --data FOLDER --json FILE --markdown   # the tables of docs/pretrained.md

FOLDER as for tables.py. Of a fold's training rows at most --rows are kept, the same for every model. ROC-AUC (one against rest) and
log-loss (nats), or R² and the share of answers within the 90 % interval. The model is chosen on the tables marked "develop".
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from pathlib import Path

import numpy as np
import tables
from sklearn.metrics import log_loss, r2_score, roc_auc_score

from mainstem.sklearn import TableClassifier, TableRegressor

FOLDS = 3
SEED = 0


def fits(frame, task):
    """Model → a function that builds it."""
    ours = TableClassifier if task == "classification" else TableRegressor
    return {"incontext": lambda: ours("incontext"), **tables.peers(frame, task)}


def measure(model, frame, answer, train, test, task):
    """The figures of one model on one fold."""
    start = time.monotonic()
    model = model().fit(frame.iloc[train], answer[train])
    if task == "regression":
        found = {"r2": r2_score(answer[test], model.predict(frame.iloc[test]))}
        if hasattr(model, "predict_interval"):
            low, high = model.predict_interval(frame.iloc[test]).T
            found["coverage"] = np.mean((low <= answer[test]) & (answer[test] <= high))
    else:
        classes = np.unique(answer)
        chances = np.full((len(test), len(classes)), 1e-6)
        chances[:, np.searchsorted(classes, model.classes_)] = np.maximum(model.predict_proba(frame.iloc[test]), 1e-6)
        chances /= chances.sum(axis=1, keepdims=True)
        several = {"multi_class": "ovr", "labels": classes} if len(classes) > 2 else {}
        found = {"roc_auc": roc_auc_score(answer[test], chances if several else chances[:, 1], **several)}
        found["log_loss"] = log_loss(answer[test], chances, labels=classes)
    return {**{name: float(value) for name, value in found.items()}, "seconds": round(time.monotonic() - start, 2)}


def table(folder, name, entry, rows):
    """Model → figures, each the mean over the folds."""
    frame, answer, groups = tables.read(folder, name, entry)
    tables.FOLDS = FOLDS
    found = {}
    for fold, (train, test) in enumerate(tables.folds(answer, groups, entry["task"], SEED)):
        train = np.sort(np.random.default_rng((SEED, fold)).permutation(train)[:rows])
        for model, build in fits(frame, entry["task"]).items():
            found.setdefault(model, []).append(measure(build, frame, answer, train, test, entry["task"]))
    return {model: {key: float(np.mean([f[key] for f in folds])) for key in folds[0]} for model, folds in found.items()}


def summary(done, index):
    """Over the tables of each task: means, mean ranks by the first figure, and the best peer."""
    told = {}
    for task, figures in (("classification", ("roc_auc", "log_loss")), ("regression", ("r2", "coverage"))):
        names = [name for name in done if index[name]["task"] == task]
        if not names:
            continue
        models = list(done[names[0]])
        ranks = np.mean(
            [[sorted(-done[n][m][figures[0]] for m in models).index(-done[n][m][figures[0]]) + 1 for m in models] for n in names], axis=0
        )
        told[task] = {
            model: {
                **{f: float(np.mean([done[n][model][f] for n in names])) for f in figures if f in done[names[0]][model]},
                "rank": float(rank),
            }
            for model, rank in zip(models, ranks, strict=True)
        }
    return told


def markdown(report, index):
    """Every table, the losers too, as Markdown; the best figure of a row is bold."""
    lines = []
    for task, figure, name in (
        ("classification", "roc_auc", "ROC-AUC (log-loss)"),
        ("regression", "r2", "R² (coverage of 90 % intervals)"),
    ):
        names = [n for n in report["tables"] if index[n]["task"] == task]
        models = list(report["tables"][names[0]])
        lines += [f"| {task}: {name} | rows × columns | {' | '.join(models)} |", "|---" * (len(models) + 2) + "|"]
        for n in names:
            found = report["tables"][n]
            best = max(found[m][figure] for m in models)
            more = {m: next((f" ({found[m][k]:.3f})" for k in ("log_loss", "coverage") if k in found[m]), "") for m in models}
            cells = [("**{:.3f}**" if found[m][figure] == best else "{:.3f}").format(found[m][figure]) + more[m] for m in models]
            star = " (developed on)" if index[n]["develop"] else ""
            lines.append(f"| {n}{star} | {index[n]['rows']} × {index[n]['columns']} | {' | '.join(cells)} |")
        for label, part in (("mean of all", report["all"]), ("mean of those not developed on", report["quoted"])):
            told = part[task]
            more = {m: next((f" ({told[m][k]:.3f})" for k in ("log_loss", "coverage") if k in told[m]), "") for m in models}
            lines.append(f"| {label} | | {' | '.join(f'{told[m][figure]:.4f}{more[m]}' for m in models)} |")
            lines.append(f"| mean rank | | {' | '.join('{:.2f}'.format(told[m]['rank']) for m in models)} |")
        lines.append("")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--markdown", action="store_true", help="print what --json holds, and measure nothing")
    parser.add_argument("--rows", type=int, default=500)
    parser.add_argument("--tables", default="all")
    parser.add_argument("--json", type=Path, help="written after each table; tables that are in it already are not done again")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    index = json.loads((options.data / "index.json").read_text(encoding="utf-8"))
    groups = {
        "all": list(index),
        "develop": [name for name, entry in index.items() if entry["develop"]],
        "quoted": [name for name, entry in index.items() if not entry["develop"]],
    }
    names = groups.get(options.tables) or options.tables.split(",")
    whole = json.loads(options.json.read_text()) if options.json and options.json.exists() else {}
    report = whole.setdefault(str(options.rows), {"folds": FOLDS, "seed": SEED, "versions": tables.versions(), "tables": {}})
    done = report["tables"]
    if options.markdown:
        print(*(f"At most {rows} rows to learn from:\n\n{markdown(each, index)}" for rows, each in whole.items()), sep="\n")
        return
    for name in names:
        if name not in done:
            done[name] = table(options.data, name, index[name], options.rows)
        print(f"{name:14s}", " | ".join(f"{m} " + " ".join(f"{v:.3f}" for v in f.values()) for m, f in done[name].items()), flush=True)
        report["all"] = summary(done, index)
        report["quoted"] = summary({n: f for n, f in done.items() if not index[n]["develop"]}, index)
        if options.json:
            options.json.write_text(json.dumps(whole, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    for task, models in summary({n: done[n] for n in names}, index).items():
        for model, figures in models.items():
            print(f"{task:15s} {model:10s}", " ".join(f"{key} {value:.4f}" for key, value in figures.items()))


if __name__ == "__main__":
    main()
