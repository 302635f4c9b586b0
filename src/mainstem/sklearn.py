"""mainstem's models for tables as scikit-learn estimators: for `Pipeline`, `cross_val_score`, `GridSearchCV`, `clone`.

    from mainstem.sklearn import TableClassifier
    TableClassifier(backbone="incontext").fit(X, y).predict_proba(X_new)

What is fitted is kept as the files of a model, and answers come from its graphs by ONNX Runtime; an estimator can be pickled, copied and
sent to other processes, and nothing in it is a pickle of ours. `save` leaves a folder that mainstem.load and `mainstem serve` take.
"""

from __future__ import annotations

import tempfile
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_consistent_length, check_is_fitted, validate_data

from mainstem import files
from mainstem.errors import MainstemError
from mainstem.modalities import category

__all__ = ["TableClassifier", "TableRegressor"]

_TARGET = "y"
_OPENED: weakref.WeakKeyDictionary[Any, Any] = weakref.WeakKeyDictionary()  # sessions of fitted estimators: they are no part of them


class _Table(BaseEstimator):  # type: ignore[misc]
    """What both estimators share.

    backbone: "auto" compares what `mainstem train` compares for tables; else a name ("incontext", "blend", "linear", "mlp", …).
    settings: of the backbone. random_state: the seed.
    """

    def __init__(self, backbone: str = "auto", settings: Mapping[str, Any] | None = None, random_state: int = 0) -> None:
        self.backbone = backbone
        self.settings = settings
        self.random_state = random_state

    def fit(self, X: Any, y: Any) -> Any:
        """X: a DataFrame, or an array of numbers [n, columns], NaN where missing; y: [n]. Raises ValueError where they do not do."""
        if _is_frame(X):
            X, y = validate_data(self, X, y, skip_check_array=True)
            check_consistent_length(X, y)
        else:
            X, y = validate_data(self, X, y, ensure_min_samples=2, **_CHECKS)
        self._fit(X, self._answers(y))
        return self

    def _answers(self, y: Any) -> Any:
        raise NotImplementedError

    def _fit(self, X: Any, y: list[Any]) -> None:
        from mainstem import api
        from mainstem.training import run

        if self.settings and self.backbone == "auto":
            raise ValueError("settings are those of one backbone: name it, as in backbone='incontext'")
        frame, kinds = _frame(X)
        candidate = {} if self.backbone == "auto" else {"backbones": [self.backbone]}
        asked = {
            "task": self._task,
            "columns": kinds,
            "seed": self.random_state,
            "split.test": 0.0,
            "split.allow_leak": True,
            **candidate,
        }
        frame = frame.assign(**{_TARGET: y})
        try:
            config = api.configure(frame, _TARGET, None, asked)
            with tempfile.TemporaryDirectory() as folder:
                model = Path(folder) / "model"
                self.chosen_ = run.fit(config, frame, model, self.settings or {})
                self.files_ = {p.relative_to(model).as_posix(): p.read_bytes() for p in sorted(model.rglob("*")) if p.is_file()}
        except MainstemError as error:
            raise ValueError(str(error)) from error
        _OPENED.pop(self, None)

    def _predictions(self, X: Any) -> list[Any]:
        from mainstem.data import sources

        check_is_fitted(self, "files_")
        X = validate_data(self, X, reset=False, skip_check_array=True) if _is_frame(X) else validate_data(self, X, reset=False, **_CHECKS)
        frame, _ = _frame(X)
        if self not in _OPENED:
            from mainstem import seal

            with tempfile.TemporaryDirectory() as folder:
                self.save(Path(folder) / "model")
                _OPENED[self] = seal.open_folder(Path(folder) / "model")
        pipeline, runner = _OPENED[self]
        answers, _ = pipeline.predict(sources.read(frame, like=pipeline.artifact.schema), runner)
        for answer in answers:
            if isinstance(answer, MainstemError):
                raise ValueError(str(answer)) from answer
        return list(answers)

    def save(self, path: Path | str) -> None:
        """Write the model to a folder."""
        check_is_fitted(self, "files_")
        with files.folder(path, {"format": 1}) as folder:
            for name, content in self.files_.items():
                if name != files.MANIFEST:
                    folder.add(name, content)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        return tags


class TableClassifier(ClassifierMixin, _Table):  # type: ignore[misc]
    """A classifier for tables. Attributes: classes_, labels_ (how the model calls them), chosen_ (which model, and why)."""

    _task = "classification"

    def _answers(self, y: Any) -> list[str]:
        check_classification_targets(y)
        self.classes_, codes = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(f"This classifier needs two classes at least; y holds one class alone: {self.classes_.tolist()}")
        names = [category.canonical(each.item() if hasattr(each, "item") else each) for each in self.classes_]
        if None in names or len(set(names)) < len(names):  # what mainstem takes for one class, or for none
            names = [f"class {i}" for i in range(len(names))]
        self.labels_ = names
        return [names[code] for code in codes]

    def predict_proba(self, X: Any) -> Any:
        """Probabilities float64 [n, classes], in the order of classes_."""
        check_is_fitted(self, "files_")
        scores = [[p.scores[label] for label in self.labels_] for p in self._predictions(X)]
        return np.array(scores).reshape(-1, len(self.classes_))

    def predict(self, X: Any) -> Any:
        """The likeliest class of each row."""
        best = self.predict_proba(X).argmax(axis=1)
        return self.classes_[best]


class TableRegressor(RegressorMixin, _Table):  # type: ignore[misc]
    """A regressor for tables. Attribute: chosen_ (which model, and why)."""

    _task = "regression"

    def _answers(self, y: Any) -> list[float]:
        return [float(each) for each in y]

    def predict(self, X: Any) -> Any:
        """Numbers float64 [n]."""
        return np.array([p.value for p in self._predictions(X)], np.float64)

    def predict_interval(self, X: Any) -> Any:
        """Where 90 % of new answers lie: float64 [n, 2], NaN where too few rows were there to say."""
        return np.array([[np.nan if p.low is None else p.low, np.nan if p.high is None else p.high] for p in self._predictions(X)])


_CHECKS = {"dtype": np.float64, "ensure_all_finite": "allow-nan"}


def _is_frame(X: Any) -> bool:
    return hasattr(X, "iloc") and hasattr(X, "columns")


def _frame(X: Any) -> tuple[Any, dict[str, str]]:
    """A DataFrame with names of its own for the columns, and the kind of each by its dtype."""
    import pandas as pd

    frame = X.copy() if _is_frame(X) else pd.DataFrame(X)
    frame.columns = [f"x{i}" for i in range(frame.shape[1])]
    return frame, {name: _kind(frame[name]) for name in frame.columns}


def _kind(column: Any) -> str:
    from pandas.api import types

    if types.is_bool_dtype(column) or not (types.is_numeric_dtype(column) or types.is_datetime64_any_dtype(column)):
        return "category"
    return "number" if types.is_numeric_dtype(column) else "date"
