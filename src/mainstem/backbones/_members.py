"""The models that predictors are made of: linear, boosted trees, a random forest. Each turns rows into scores [n, s] (see _problem.py).

A member has `tune` (what to choose, and scores of rows held out), `fit`, `run` and `nodes` (the same in numpy and in ONNX).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Protocol

import numpy as np

from mainstem.backbones import _design, _forest
from mainstem.backbones._design import Design
from mainstem.backbones._forest import Forest
from mainstem.backbones._problem import Problem
from mainstem.contracts import Array, Arrays

Folds = Sequence[tuple[Array, Array]]
Settings = Mapping[str, Any]
Graph = tuple[list[Any], list[Any]]  # nodes, initializers


class Member(Protocol):
    """One model of a mixture."""

    name: str
    defaults: ClassVar[Settings]

    def tune(self, problem: Problem, folds: Folds, settings: Settings, seed: int) -> tuple[dict[str, Any], Array]:
        """→ what was chosen, and float64 [n, s]: scores of the held-out rows by models that did not see them."""

    def fit(self, problem: Problem, chosen: Settings, settings: Settings, seed: int) -> dict[str, Array]:
        """Fitted arrays."""

    def run(self, fitted: Arrays, arrays: Arrays, kind: str) -> Array:
        """Arrays of the table → scores float64 [n, s]."""

    def nodes(self, fitted: Arrays, name: str, kind: str) -> Graph:
        """The same in ONNX: scores float64 under `name`, all other names begin with `name`."""


class Linear:
    """Scores linear in standardised numbers, one-hot categories and, where training had gaps, a 0/1 column "is missing".

    Mean loss + l2/2·|w|², the intercept free: least squares in closed form, logistic and multinomial regression by L-BFGS.
    """

    name = "linear"
    defaults: ClassVar[Settings] = {"l2": None}
    strengths = np.logspace(1, -5, 13)  # from strong to weak
    patience = 3  # steps along `strengths` without improvement

    def tune(self, problem: Problem, folds: Folds, settings: Settings, seed: int) -> tuple[dict[str, Any], Array]:
        """Chooses l2 by the loss on held-out rows."""
        strengths = self.strengths if settings["l2"] is None else np.array([settings["l2"]], float)
        parts = []
        for train, held in folds:
            part = problem.take(train)
            design = self._expand(part)
            fresh = _standardised(design, problem.take(held).arrays)
            parts.append((held, fresh, _path(part, _standardised(design, part.arrays), strengths)))
        search = _Search(problem, folds, self.patience)
        for strength in strengths:
            for held, fresh, path in parts:
                weight, bias = next(path)
                search.scores[held] = fresh @ weight + bias
            if search.ends(float(strength)):
                break
        return {"l2": search.best}, search.found

    def fit(self, problem: Problem, chosen: Settings, settings: Settings, seed: int) -> dict[str, Array]:
        """Tables of the design, center, scale, gaps, weight [columns, s], bias [s]."""
        fitted = self._expand(problem)
        ((weight, bias),) = _path(problem, _standardised(fitted, problem.arrays), np.array([chosen["l2"]]))
        return {**fitted, "weight": weight, "bias": bias}

    def run(self, fitted: Arrays, arrays: Arrays, kind: str) -> Array:
        """Scores [n, s]."""
        scores: Array = _standardised(fitted, arrays) @ fitted["weight"] + fitted["bias"]
        return scores

    def _expand(self, problem: Problem) -> dict[str, Array]:
        design = _design.one_hot(problem.arrays, problem.sizes)
        x = design.matrix(problem.arrays)
        known = ~np.isnan(x)
        count = np.maximum(known.sum(axis=0), 1)
        center = np.where(known, x, 0.0).sum(axis=0) / count
        scale = np.sqrt((np.where(known, x - center, 0.0) ** 2).sum(axis=0) / count)
        scale = np.where(scale > 1e-12 * np.abs(center), scale, 1.0)  # a constant says nothing
        gaps = np.flatnonzero(~known.all(axis=0))
        return {**design.arrays(), "numbers": np.array(design.numbers), "center": center, "scale": scale, "gaps": gaps}

    def nodes(self, fitted: Arrays, name: str, kind: str) -> Graph:
        """Gather, standardise, one matrix product (two where there are gaps)."""
        from onnx import TensorProto, helper, numpy_helper

        x = f"{name}.x"
        nodes, constants = Design.of(fitted, int(fitted["numbers"])).nodes(x)
        width = len(fitted["center"])
        values = {
            "center": fitted["center"],
            "scale": fitted["scale"],
            "zero": np.zeros(1),
            "weight": fitted["weight"][:width],
            "bias": fitted["bias"],
            "gaps": fitted["gaps"].astype(np.int64),
            "gap_weight": fitted["weight"][width:],
        }
        constants += [numpy_helper.from_array(array, f"{name}.{key}") for key, array in values.items()]

        def add(operation: str, inputs: str, output: str, **attributes: Any) -> None:
            names = [f"{name}.{word}" for word in inputs.split()]
            nodes.append(helper.make_node(operation, names, [f"{name}.{output}" if output else name], **attributes))

        add("IsNaN", "x", "missing")
        add("Sub", "x center", "centred")
        add("Div", "centred scale", "scaled")
        add("Where", "missing zero scaled", "known")
        add("MatMul", "known weight", "product")
        add("Gather", "missing gaps", "absent", axis=1)
        add("Cast", "absent", "absent_number", to=TensorProto.DOUBLE)
        add("MatMul", "absent_number gap_weight", "gap_product")
        add("Sum", "product gap_product bias", "")
        if not len(fitted["gaps"]):  # a product over no columns is not worth its nodes
            del nodes[-4:]
            add("Add", "product bias", "")
            constants = [c for c in constants if c.name not in (f"{name}.gaps", f"{name}.gap_weight")]
        return nodes, constants


class _Search:
    """A walk along one setting, from simple to complex, that ends once the loss of the held-out rows no longer falls."""

    def __init__(self, problem: Problem, folds: Folds, patience: int, least: float = 0.0) -> None:
        self.rows = np.concatenate([held for _, held in folds]) if folds else np.zeros(0, int)
        self.judged, self.patience, self.least = problem.take(self.rows), patience, least
        self.scores, self.found = np.zeros(problem.y.shape), np.zeros(problem.y.shape)
        self.loss, self.best, self.since = np.inf, None, 0

    def ends(self, value: Any) -> bool:
        """Judges `scores`, which the walk filled at `value`; `best` and `found` hold the best so far."""
        loss = self.judged.loss(self.scores[self.rows])
        self.since = 0 if self.best is None or loss < self.loss * (1.0 - self.least) else self.since + 1
        if self.since == 0:
            self.loss, self.best, self.found = loss, value, self.scores.copy()
        return self.since >= self.patience


def _standardised(fitted: Arrays, arrays: Arrays) -> Array:
    """The matrix that the weights multiply: 0 where a number is missing, then a 0/1 column for each of the gaps."""
    x = Design.of(fitted, int(fitted["numbers"])).matrix(arrays)
    missing = np.isnan(x)
    known = np.where(missing, 0.0, (x - fitted["center"]) / fitted["scale"])
    return np.concatenate([known, missing[:, fitted["gaps"]].astype(np.float64)], axis=1)


def _path(problem: Problem, x: Array, strengths: Array) -> Iterator[tuple[Array, Array]]:
    """(weight [columns, s], bias [s]) for each strength of the penalty, each when it is asked for."""
    return _least_squares(problem, x, strengths) if problem.kind == "value" else _logistic(problem, x, strengths)


def _least_squares(problem: Problem, x: Array, strengths: Array) -> Iterator[tuple[Array, Array]]:
    """Ridge regression in the eigenbasis of the covariance (Hoerl and Kennard 1970): one decomposition for all strengths."""
    share = problem.weights / problem.weights.sum()
    mean, center = share @ x, share @ problem.y
    scaled = np.sqrt(share)[:, None]
    inner, outer = scaled * (x - mean), scaled * (problem.y - center)
    values, vectors = np.linalg.eigh(inner.T @ inner)
    values = np.where(values > 1e-12 * max(values.max(initial=0.0), 1e-300), values, np.inf)  # directions without any spread
    turned = vectors.T @ (inner.T @ outer)
    for strength in strengths:
        weight = vectors @ (turned / (values + strength)[:, None])
        yield weight, center - mean @ weight


def _logistic(problem: Problem, x: Array, strengths: Array) -> Iterator[tuple[Array, Array]]:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    total = problem.weights.sum()
    data = [(LogisticRegression(warm_start=True, max_iter=200), *rows) for rows in problem.labelled(x)]
    for strength in strengths:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # the last iterations of a weak penalty change no answer
            for model, *rows in data:
                model.set_params(C=1.0 / (max(strength, 1e-12) * total)).fit(*rows)
        yield np.concatenate([m.coef_.T for m, *_ in data], axis=1), np.concatenate([m.intercept_ for m, *_ in data])


class Boosting:
    """Gradient-boosted trees (scikit-learn's histogram boosting) over numbers and ordered categories.

    `iterations` None: as many as suit held-out rows. `features`: the share of columns that a split may choose among.
    """

    name = "boosting"
    defaults: ClassVar[Settings] = {"iterations": None, "learning_rate": 0.2, "leaves": 12, "min_leaf": 10, "features": 0.4}
    counts = (10, 14, 20, 28, 40, 56, 80, 112, 160, 224, 320)
    patience = 1  # steps along `counts` without improvement by more than `least`, a share of the loss
    least = 0.004

    def tune(self, problem: Problem, folds: Folds, settings: Settings, seed: int) -> tuple[dict[str, Any], Array]:
        """Chooses the number of iterations by the loss on held-out rows."""
        parts = []
        for train, held in folds:
            part = problem.take(train)
            design = _ordered(part)
            fresh = design.matrix(problem.take(held).arrays)
            parts.append((held, fresh, _boosters(part, settings, seed), _targets(part, design.matrix(part.arrays))))
        search = _Search(problem, folds, self.patience, self.least)
        for count in self.counts if settings["iterations"] is None else (settings["iterations"],):
            for held, fresh, models, data in parts:
                for model, rows in zip(models, data, strict=True):
                    _boost(model, count, *rows)
                search.scores[held] = np.column_stack([_raw(model, fresh) for model in models])
            if search.ends(int(count)):
                break
        return {"iterations": search.best}, search.found

    def fit(self, problem: Problem, chosen: Settings, settings: Settings, seed: int) -> dict[str, Array]:
        """Tables of the design, the trees, and what they add to: baseline [s]."""
        design = _ordered(problem)
        models = _boosters(problem, settings, seed)
        forests, baselines = [], []
        for i, (model, rows) in enumerate(zip(models, _targets(problem, design.matrix(problem.arrays)), strict=True)):
            _boost(model, chosen["iterations"], *rows)
            forests.append(_forest.boosted(model, i))
            baselines.append(np.ravel(model._baseline_prediction))
        forest = _forest.join(forests, [1.0] * len(forests))
        numbers = np.array(design.numbers)
        return {**design.arrays(), "numbers": numbers, **forest.arrays(), "baseline": np.concatenate(baselines).astype(np.float64)}

    def run(self, fitted: Arrays, arrays: Arrays, kind: str) -> Array:
        """Scores [n, s]."""
        x = Design.of(fitted, int(fitted["numbers"])).matrix(arrays)
        return fitted["baseline"] + Forest.of(fitted).run(x, len(fitted["baseline"]))

    def nodes(self, fitted: Arrays, name: str, kind: str) -> Graph:
        """Gather, the trees, the baseline."""
        from onnx import helper, numpy_helper

        nodes, constants = _trees(fitted, name, len(fitted["baseline"]))
        constants.append(numpy_helper.from_array(fitted["baseline"], f"{name}.baseline"))
        return [*nodes, helper.make_node("Add", [f"{name}.sum", f"{name}.baseline"], [name])], constants


def _ordered(problem: Problem) -> Design:
    return _design.ordered(problem.arrays, problem.sizes, problem.y, problem.weights)


def _trees(fitted: Arrays, name: str, outputs: int) -> Graph:
    """The design and the trees on it: NAME.sum [n, outputs] float64."""
    from onnx import TensorProto, helper

    nodes, constants = Design.of(fitted, int(fitted["numbers"])).nodes(f"{name}.x")
    nodes.append(_forest.node(Forest.of(fitted), f"{name}.x", f"{name}.single", outputs))
    return [*nodes, helper.make_node("Cast", [f"{name}.single"], [f"{name}.sum"], to=TensorProto.DOUBLE)], constants


def _targets(problem: Problem, x: Array) -> list[tuple[Array, Array, Array]]:
    """(x, y, weights) of each booster. A column without a single value, which scikit-learn cannot bin, is 0 throughout."""
    x = np.where(np.isnan(x).all(axis=0), 0.0, x)
    return [(x, problem.y[:, 0], problem.weights)] if problem.kind == "value" else problem.labelled(x)


def _boosters(problem: Problem, settings: Settings, seed: int) -> list[Any]:
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

    build = HistGradientBoostingRegressor if problem.kind == "value" else HistGradientBoostingClassifier
    many = problem.y.shape[1] if problem.kind == "margin" else 1
    return [
        build(
            learning_rate=settings["learning_rate"],
            max_leaf_nodes=settings["leaves"],
            min_samples_leaf=settings["min_leaf"],
            max_features=settings["features"],
            early_stopping=False,
            warm_start=True,
            random_state=seed + i,
        )
        for i in range(many)
    ]


def _boost(model: Any, iterations: int, x: Array, y: Array, weights: Array) -> None:
    """Fit, or go on fitting. Equal weights are left out: scikit-learn 1.9 sorts every column anew to bin it by weight."""
    model.set_params(max_iter=iterations).fit(x, y, None if np.ptp(weights) == 0 else weights)


def _raw(model: Any, x: Array) -> Array:
    scores: Array = model.decision_function(x) if hasattr(model, "decision_function") else model.predict(x)
    return scores


class RandomForest:
    """A random forest (Breiman 2001) on numbers and ordered categories; classes by squared error on 0 and 1, which is Gini's index.

    `trees`: how many. Scores are log odds, or logs, of the mean probability of the trees.
    """

    name = "forest"
    defaults: ClassVar[Settings] = {"trees": 100}
    tuned = 40  # trees are enough to see how good the forest is
    most_rows = 20000  # that a tree is grown on
    most_leaves = 500  # a tree; keeps the graph in megabytes
    floor = 0.01  # added to probabilities, so that a leaf without a class is no proof

    def tune(self, problem: Problem, folds: Folds, settings: Settings, seed: int) -> tuple[dict[str, Any], Array]:
        """Chooses nothing."""
        scores = np.zeros(problem.y.shape)
        for train, held in folds:
            part = problem.take(train)
            design = _ordered(part)
            model = self._grow(part, design, min(self.tuned, settings["trees"]), seed)
            mean = model.predict(design.matrix(problem.take(held).arrays))
            scores[held] = self._scores(mean.reshape(len(held), -1), problem.kind)
        return {}, scores

    def fit(self, problem: Problem, chosen: Settings, settings: Settings, seed: int) -> dict[str, Array]:
        """Tables of the design and the trees."""
        design = _ordered(problem)
        forest = _forest.averaged(self._grow(problem, design, settings["trees"], seed))
        return {**design.arrays(), "numbers": np.array(design.numbers), **forest.arrays()}

    def _grow(self, problem: Problem, design: Design, trees: int, seed: int) -> Any:
        from sklearn.ensemble import RandomForestRegressor

        x = design.matrix(problem.arrays)
        classes = problem.kind != "value"
        model = RandomForestRegressor(
            trees,
            min_samples_leaf=3 if classes else 1,
            max_features="sqrt" if classes else 0.5,
            max_leaf_nodes=self.most_leaves,
            max_samples=min(self.most_rows, len(x)),
            random_state=seed,
            n_jobs=1,  # threads would add up the trees in any order, and lose scikit-learn's settings
        )
        return model.fit(x, problem.y if problem.y.shape[1] > 1 else problem.y[:, 0], problem.weights)

    def _scores(self, mean: Array, kind: str) -> Array:
        if kind == "value":
            return mean
        return np.log(mean + self.floor) - (np.log(1.0 - mean + self.floor) if kind == "margin" else 0.0)

    def run(self, fitted: Arrays, arrays: Arrays, kind: str) -> Array:
        """Scores [n, s]."""
        x = Design.of(fitted, int(fitted["numbers"])).matrix(arrays)
        return self._scores(Forest.of(fitted).run(x, fitted["value"].shape[1]), kind)

    def nodes(self, fitted: Arrays, name: str, kind: str) -> Graph:
        """Gather, the trees, logarithms."""
        from onnx import helper, numpy_helper

        nodes, constants = _trees(fitted, name, fitted["value"].shape[1])
        if kind == "value":
            return [*nodes, helper.make_node("Identity", [f"{name}.sum"], [name])], constants
        constants.append(numpy_helper.from_array(np.array([self.floor]), f"{name}.floor"))
        if kind == "margin":
            constants.append(numpy_helper.from_array(np.array([1.0 + self.floor]), f"{name}.top"))
        yes = [
            helper.make_node("Add", [f"{name}.sum", f"{name}.floor"], [f"{name}.yes"]),
            helper.make_node("Log", [f"{name}.yes"], [f"{name}.log_yes" if kind == "margin" else name]),
        ]
        no = [
            helper.make_node("Sub", [f"{name}.top", f"{name}.sum"], [f"{name}.no"]),
            helper.make_node("Log", [f"{name}.no"], [f"{name}.log_no"]),
            helper.make_node("Sub", [f"{name}.log_yes", f"{name}.log_no"], [name]),
        ]
        return nodes + yes + (no if kind == "margin" else []), constants
