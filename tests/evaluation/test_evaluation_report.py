import json
import time

import numpy as np
import pytest

from mainstem.contracts import Prediction
from mainstem.errors import MainstemError
from mainstem.evaluation import report


def classified(n=300, k=3, seed=0, names=("好", "中", "差")):
    rng = np.random.default_rng(seed)
    labels = list(names) if k == len(names) else [f"label {i:02}" for i in range(k)]
    true = rng.integers(0, k, n)
    z = rng.normal(size=(n, k)) + 1.5 * (np.arange(k) == true[:, None])
    p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    predictions = [Prediction(labels[r.argmax()], float(r.max()), dict(zip(labels, r.tolist(), strict=True))) for r in p]
    return predictions, [labels[i] for i in true], labels


def test_the_form():
    made = report.evaluate("classification", *classified())
    assert list(made) == ["task", "rows", "metrics", "baseline", "classes"]
    assert made["task"] == "classification"
    assert made["rows"] == 300
    for entry in made["metrics"].values():
        assert list(entry) == ["value", "low", "high"]
        assert entry["low"] <= entry["value"] <= entry["high"]
        assert all(type(v) is float for v in entry.values())
    assert made["baseline"].keys() == made["metrics"].keys()
    assert {"accuracy", "balanced_accuracy", "f1_micro", "roc_auc", "average_precision", "cross_entropy", "brier", "ece"} <= set(
        made["metrics"]
    )
    assert list(made["classes"]) == ["好", "中", "差"]
    assert sum(entry["rows"] for entry in made["classes"].values()) == 300
    f1 = [entry["f1"]["value"] for entry in made["classes"].values()]
    assert np.mean(f1) == pytest.approx(made["metrics"]["f1_macro"]["value"])
    assert json.loads(json.dumps(made, allow_nan=False)) == made


def test_the_baseline_is_fitted_on_training_answers_where_they_are_known():
    predictions, targets, labels = classified()
    own = report.evaluate("classification", predictions, targets, labels)["baseline"]
    assert own["accuracy"]["value"] == max(targets.count(x) for x in labels) / 300
    given = report.evaluate("classification", predictions, targets, labels, train_targets=["差"] * 9 + ["好"])["baseline"]
    assert given["accuracy"]["value"] == targets.count("差") / 300
    assert given["cross_entropy"]["value"] > own["cross_entropy"]["value"]
    assert given["roc_auc"]["value"] == 0.5


def test_regression_beside_mean_and_median():
    true = [1.0, 2.0, 3.0, 50.0]
    made = report.evaluate("regression", [Prediction(v + 1) for v in true], true, ())
    assert made["metrics"]["mae"]["value"] == 1.0
    assert made["baseline"]["r2"]["value"] == 0.0
    assert made["baseline"]["mae"]["value"] == np.mean(np.abs(np.array(true) - 2.5))
    assert "classes" not in made


def test_labels_and_their_baseline():
    predictions = [Prediction(["x"], scores={"x": 0.9, "y": 0.2}), Prediction([], scores={"x": 0.4, "y": 0.3})] * 10
    made = report.evaluate("labels", predictions, [("x",), ("y",)] * 10, ["x", "y"])
    assert made["metrics"]["exact_match"]["value"] == 0.5
    assert made["metrics"]["f1_micro"]["value"] == pytest.approx(2 / 3)
    assert made["classes"]["y"]["precision"] == {"value": None, "low": None, "high": None}
    assert made["classes"]["y"]["recall"]["value"] == 0.0
    assert made["baseline"]["f1_micro"]["value"] == pytest.approx(2 / 3)  # both labels, always


def test_errors_are_counted_and_left_out():
    predictions, targets, labels = classified()
    bad = [MainstemError("no number"), *predictions[1:]]
    made = report.evaluate("classification", bad, targets, labels, groups=list(range(300)))
    assert (made["rows"], made["failed"]) == (299, 1)
    rest = report.evaluate("classification", predictions[1:], targets[1:], labels)
    assert made["metrics"]["accuracy"]["value"] == rest["metrics"]["accuracy"]["value"]
    assert "1 without an answer" in report.table(made)
    points = report.point_metrics("classification", bad, targets, labels)
    assert points == {name: entry["value"] for name, entry in made["metrics"].items()}


@pytest.mark.parametrize("keep", [0, 1])
def test_hardly_any_rows(keep):
    predictions, targets, labels = classified()
    made = report.evaluate("classification", predictions[:keep], targets[:keep], labels)
    assert made["rows"] == keep
    assert made["metrics"]["roc_auc"] == {"value": None, "low": None, "high": None}
    assert made["metrics"]["accuracy"]["low"] is None
    json.dumps(made, allow_nan=False)
    assert "roc_auc" in report.table(made)


def test_one_class_in_the_test_part():
    predictions, targets, labels = classified()
    rows = [i for i, t in enumerate(targets) if t == "中"]
    made = report.evaluate("classification", [predictions[i] for i in rows], ["中"] * len(rows), labels)
    assert made["metrics"]["roc_auc"]["value"] is None
    assert made["metrics"]["accuracy"]["low"] < made["metrics"]["accuracy"]["high"]
    assert made["classes"]["好"]["recall"]["value"] is None
    json.dumps(made, allow_nan=False)


def test_groups_widen_intervals():
    predictions, targets, labels = classified(60)
    many = [x for x in predictions for _ in range(20)], [x for x in targets for _ in range(20)], labels
    plain, grouped = (report.evaluate("classification", *many, groups=g) for g in (None, [i // 20 for i in range(1200)]))
    spans = [r["metrics"]["roc_auc"]["high"] - r["metrics"]["roc_auc"]["low"] for r in (plain, grouped)]
    assert spans[1] > 3 * spans[0]


def test_the_table_lines_up_with_chinese_labels():
    text = report.table(report.evaluate("classification", *classified(names=("差", "非常好", "ok"))))
    lines = text.splitlines()
    assert lines[0] == "classification, 300 rows"
    empty = lines.index("")
    for part in (lines[1:empty], lines[empty + 1 :]):
        assert len({report.width(line) for line in part}) == 1
    assert report.width("ok 非常好") == 9


def test_ten_thousand_rows_of_twenty_classes_in_seconds():
    start = time.process_time()
    made = report.evaluate("classification", *classified(10_000, 20))
    assert time.process_time() - start < 10
    assert "resamples" not in made["metrics"]["roc_auc"]


def test_fewer_resamples_are_said(monkeypatch):
    monkeypatch.setattr(report.intervals, "CELLS", 300_000)
    made = report.evaluate("classification", *classified())["metrics"]
    assert made["roc_auc"]["resamples"] == 300_000 // (300 * 6)
    assert made["accuracy"]["resamples"] == 300_000 // (300 * 2)
    asked = report.evaluate("classification", *classified(), resamples=166)["metrics"]["roc_auc"]
    assert made["roc_auc"] == {**asked, "resamples": 166}


def test_a_label_cannot_steer_the_terminal():
    text = report.table(report.evaluate("classification", *classified(names=("a\nb", "\x1b[31m", "c"))))
    assert "\x1b" not in text
    assert "a\ufffdb" in text


def test_texts_bring_their_own_baseline_and_need_no_targets():
    told = [{"nats": 10.0 + i, "tokens": 5, "bytes": 20, "baseline": 30.0 + i} for i in range(40)]
    made = report.evaluate("generation", [Prediction(None, more=each) for each in told], [], [])
    assert made["rows"] == 40
    assert made["metrics"]["bits_per_byte"]["low"] < made["metrics"]["bits_per_byte"]["value"] < made["metrics"]["bits_per_byte"]["high"]
    assert made["baseline"]["bits_per_byte"]["value"] == pytest.approx(sum(each["baseline"] for each in told) / np.log(2) / 800)
    assert "classes" not in made
    assert "perplexity" in report.table(made)
