"""The scikit-learn estimators: scikit-learn's own checks, and what people do with estimators."""

import pickle

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.datasets import load_diabetes, load_iris
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

import mainstem as ms
from mainstem.sklearn import TableClassifier, TableRegressor


@parametrize_with_checks([TableClassifier("linear"), TableRegressor("linear")])
def test_the_checks_of_scikit_learn(estimator, check):
    check(estimator)


@pytest.mark.torture
@parametrize_with_checks([TableClassifier("incontext"), TableRegressor("incontext"), TableClassifier(), TableRegressor()])
def test_the_checks_of_scikit_learn_on_slower_ones(estimator, check):
    check(estimator)


@pytest.fixture(scope="module")
def flowers():
    x, y = load_iris(return_X_y=True, as_frame=True)
    names = np.array(["setosa", "versicolor", "杂色"])
    return x.assign(wide=(x.iloc[:, 1] > 3).map({True: "yes", False: "no"})), names[y]


def test_in_pipelines_searches_and_folds(flowers):
    x, y = flowers
    numbers = x.drop(columns="wide")
    made = make_pipeline(StandardScaler(), TableClassifier("incontext", {"members": 2}))
    assert cross_val_score(made, numbers, y, cv=3).mean() > 0.9
    search = GridSearchCV(TableClassifier("linear"), {"settings": [{"l2": 1.0}, {"l2": 1e-3}]}, cv=3).fit(numbers, y)
    assert search.best_params_["settings"] in ({"l2": 1.0}, {"l2": 1e-3})
    assert search.score(numbers, y) > 0.9


def test_frames_with_categories_and_gaps(flowers):
    x, y = flowers
    x = x.mask(np.random.default_rng(0).random(x.shape) < 0.1)
    model = TableClassifier("incontext", {"members": 2}).fit(x, y)
    chances = model.predict_proba(x)
    assert chances.shape == (150, 3)
    np.testing.assert_allclose(chances.sum(axis=1), 1.0)
    assert (model.predict(x) == y).mean() > 0.9
    assert set(model.classes_) == set(y)


def test_copies_answer_alike_and_folders_are_models(flowers, tmp_path):
    x, y = flowers
    model = TableClassifier("linear").fit(x, y)
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(again.predict_proba(x), model.predict_proba(x))
    assert not hasattr(clone(model), "files_")
    model.save(tmp_path / "model")
    frame = x.rename(columns={name: f"x{i}" for i, name in enumerate(x.columns)})
    assert [answer["prediction"] for answer in ms.load(tmp_path / "model").predict(frame)] == model.predict(x).tolist()


def test_classes_that_read_alike_stay_apart(flowers):
    x, _ = flowers
    y = np.array(["1", "01", ""])[np.repeat([0, 1, 2], 50)]
    assert (TableClassifier("linear").fit(x, y).predict(x) == y).mean() > 0.9


def test_regression_with_intervals():
    x, y = load_diabetes(return_X_y=True)
    model = TableRegressor("incontext", {"members": 2}).fit(x[:300], y[:300])
    assert model.score(x[300:], y[300:]) > 0.3
    low, high = model.predict_interval(x[300:]).T
    assert 0.8 < np.mean((low <= y[300:]) & (y[300:] <= high)) <= 1.0


def test_what_cannot_be_is_a_sentence(flowers):
    x, y = flowers
    with pytest.raises(ValueError, match="settings are those of one backbone"):
        TableClassifier(settings={"l2": 1.0}).fit(x, y)
    with pytest.raises(ValueError, match="has no setting 'memberz'"):
        TableClassifier("incontext", {"memberz": 2}).fit(x, y)
    with pytest.raises(ValueError, match="no backbone is named 'treez'"):
        TableClassifier("treez").fit(x, y)
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        TableClassifier("linear").fit(x, y[:-1])


def test_auto_compares(flowers):
    x, y = flowers
    model = TableClassifier().fit(x[::3], y[::3])
    assert model.chosen_.startswith("Chosen: ")
    assert "incontext" in model.chosen_
    assert (model.predict(x) == y).mean() > 0.8
