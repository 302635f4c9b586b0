import warnings

import numpy as np
import pytest
from sklearn import metrics as sk

from mainstem.contracts import Prediction
from mainstem.errors import MainstemError
from mainstem.evaluation import metrics
from mainstem.evaluation.calibration import ece
from mainstem.evaluation.report import point_metrics

LABELS = ["a", "b", "c", "d", "e"]


def made(seed, k, n=200, present=None, ties=False):
    """Scores [n, k] that know something of the truth [n]; ties: rounded; present: the classes that occur."""
    rng = np.random.default_rng(seed)
    true = rng.choice(present or k, n)
    z = rng.normal(size=(n, k)) + 1.5 * (np.arange(k) == true[:, None])
    z = np.round(z) if ties else z
    p = np.exp(z)
    return true, p / p.sum(1, keepdims=True)


def as_answers(true, p):
    labels = LABELS[: p.shape[1]]
    predictions = [Prediction(labels[r.argmax()], r.max(), dict(zip(labels, r.tolist(), strict=True))) for r in p]
    return predictions, [labels[i] for i in true], labels


CASES = [
    dict(k=2),
    dict(k=2, ties=True),
    dict(k=5),
    dict(k=5, ties=True),
    dict(k=5, present=[0, 2, 3]),
    dict(k=4, present=[1, 3], n=12, ties=True),
]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("seed", [0, 1])
def test_classification_is_scikit_learns(case, seed):
    true, p = made(seed, **case)
    chosen, k = p.argmax(1), p.shape[1]
    found = point_metrics("classification", *as_answers(true, p))
    both = [i for i in range(k) if 0 < (true == i).sum() < len(true)] if k > 2 else [1]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        expected = {
            "accuracy": sk.accuracy_score(true, chosen),
            "balanced_accuracy": sk.balanced_accuracy_score(true, chosen),
            "cross_entropy": sk.log_loss(true, p, labels=range(k)),
            "brier": sk.brier_score_loss(true, p if k > 2 else p[:, 1], **({"labels": range(k)} if k > 2 else {})),
            "roc_auc": np.mean([sk.roc_auc_score(true == i, p[:, i]) for i in both]),
            "average_precision": np.mean([sk.average_precision_score(true == i, p[:, i]) for i in both]),
            "ece": ece(p.max(1), chosen == true),
        }
        for name in ("precision", "recall", "f1"):
            score = getattr(sk, f"{name}_score")
            for how in ("micro", "macro"):
                expected[f"{name}_{how}"] = score(true, chosen, average=how, zero_division=0)
    assert found == pytest.approx(expected, rel=1e-9)


def test_multiclass_auc_is_scikit_learns_own_average():
    true, p = made(3, 5)
    found = point_metrics("classification", *as_answers(true, p))
    assert found["roc_auc"] == pytest.approx(sk.roc_auc_score(true, p, multi_class="ovr"))
    assert found["average_precision"] == pytest.approx(sk.average_precision_score(true, p, average="macro"))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("ties", [False, True])
def test_labels_are_scikit_learns(seed, ties):
    rng = np.random.default_rng(seed)
    hot = rng.random((150, 5)) < [0.5, 0.3, 0.1, 0.05, 0.02]
    hot[0] = True
    scores = rng.random((150, 5)) * 0.7 + 0.3 * hot
    scores = np.round(scores, 1) if ties else scores
    chosen = scores >= 0.6
    predictions = [
        Prediction([x for x, yes in zip(LABELS, row, strict=True) if yes], scores=dict(zip(LABELS, s.tolist(), strict=True)))
        for row, s in zip(chosen, scores, strict=True)
    ]
    targets = [tuple(x for x, yes in zip(LABELS, row, strict=True) if yes) for row in hot]
    expected = {
        "average_precision": sk.average_precision_score(hot, scores, average="macro"),
        "exact_match": sk.accuracy_score(hot, chosen),
    }
    for name in ("precision", "recall", "f1"):
        for how in ("micro", "macro"):
            expected[f"{name}_{how}"] = getattr(sk, f"{name}_score")(hot, chosen, average=how, zero_division=0)
    assert point_metrics("labels", predictions, targets, LABELS) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("shift", [0.0, 1e6])
def test_regression_is_scikit_learns(shift):
    rng = np.random.default_rng(0)
    true = rng.normal(size=300) + shift
    value = true + rng.normal(size=300)
    found = point_metrics("regression", [Prediction(float(v)) for v in value], true.tolist(), ())
    expected = {
        "r2": sk.r2_score(true, value),
        "rmse": sk.root_mean_squared_error(true, value),
        "mae": sk.mean_absolute_error(true, value),
        "mape": sk.mean_absolute_percentage_error(true, value),
    }
    assert found == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("kind", "case"), [("category", CASES[0]), ("category", CASES[3]), ("category", CASES[4])])
def test_counts_are_the_same_as_drawn_rows(kind, case):
    true, p = made(0, **case)
    predictions, targets, labels = as_answers(true, p)
    rng = np.random.default_rng(1)
    drawn = rng.integers(0, len(true), (4, len(true)))
    counts = np.stack([np.bincount(d, minlength=len(true)) for d in drawn]).astype(float)
    for name, metric in metrics.metrics("classification", labels).items():
        stats = metric.rows(predictions, targets)
        at_once = metric.family.figures(stats, counts)[name]
        assert at_once == pytest.approx([metric.reduce(stats[d]) for d in drawn], rel=1e-9), name


def test_regression_counts_are_the_same_as_drawn_rows():
    rng = np.random.default_rng(0)
    true, value = rng.normal(size=(2, 50))
    for name, metric in metrics.metrics("regression").items():
        stats = metric.rows([Prediction(float(v)) for v in value], true.tolist())
        drawn = rng.integers(0, 50, 50)
        counts = np.bincount(drawn, minlength=50)[None].astype(float)
        assert metric.family.figures(stats, counts)[name][0] == pytest.approx(metric.reduce(stats[drawn])), name


def test_what_is_undefined_is_none():
    one = point_metrics("classification", *as_answers(np.array([0]), np.array([[0.9, 0.1]])))
    assert one["accuracy"] == 1.0
    assert one["roc_auc"] is None
    assert one["average_precision"] is None
    assert point_metrics("regression", [Prediction(1.0)], [1.5], ())["r2"] is None
    constant = point_metrics("regression", [Prediction(float(i)) for i in range(5)], [0.1] * 5, ())
    assert constant["r2"] is None
    assert constant["mae"] is not None
    assert point_metrics("regression", [Prediction(1.0), Prediction(2.0)], [0.0, 1.0], ())["mape"] is None
    assert set(point_metrics("labels", [], [], LABELS).values()) == {None}


def test_without_scores_only_what_needs_none_is_defined():
    found = point_metrics("classification", [Prediction("a"), Prediction("b")], ["a", "a"], ["a", "b"])
    assert found["accuracy"] == 0.5
    for name in ("roc_auc", "average_precision", "cross_entropy", "brier", "ece"):
        assert found[name] is None


def test_a_class_unseen_in_training_counts_as_wrong():
    predictions, targets, labels = as_answers(*made(0, 2, n=20))
    found = point_metrics("classification", predictions, [*targets[:-1], "new"], labels)
    assert found["accuracy"] == np.mean([p.value == t for p, t in zip(predictions, [*targets[:-1], "new"], strict=True)])
    assert found["cross_entropy"] > 36 / 20


def test_unknown_metric_names_the_nearest():
    with pytest.raises(MainstemError, match="'roc_auc'"):
        metrics.Figure("category", "roc_auk").rows([], [])


def test_every_metric_of_every_task_exists():
    for task in ("classification", "labels", "regression"):
        kind, names = metrics.kind_of(task)
        assert set(names) == {name for family in metrics.FAMILIES[kind] for name in family.names} - (
            {"roc_auc"} if task == "labels" else set()
        )


def test_a_resample_of_one_row_many_times_has_no_r2():
    family, true = metrics.FAMILIES["number"][0], np.random.default_rng(0).normal(size=49)
    assert np.isnan(family.figures(np.column_stack([true, true + 1]), 49 * np.eye(49))["r2"]).all()


def test_likelihoods_are_summed_before_they_are_divided():
    told = [{"nats": 8.0, "tokens": 4, "bytes": 10, "baseline": 12.0}, {"nats": 1.0, "tokens": 5, "bytes": 2, "baseline": 9.0}]
    found = point_metrics("generation", [Prediction(None, more=each) for each in told], [], [])
    assert found == {"bits_per_byte": pytest.approx(9 / np.log(2) / 12), "perplexity": pytest.approx(np.exp(1.0))}
    empty = {"nats": 0.0, "tokens": 0, "bytes": 0, "baseline": 0.0}
    assert point_metrics("generation", [Prediction(None, more=empty)], [], []) == {"bits_per_byte": None, "perplexity": None}
