"""Series that are classified are compared on folds like any rows, series that are forecast never."""

import json

import numpy as np
import pytest

import mainstem as ms
from mainstem.api import configure
from mainstem.errors import MainstemError
from mainstem.training import preparing


def waves(count=40, length=40):
    rng = np.random.default_rng(0)
    rows = []
    for i in range(count):
        label = ("走", "跑")[i % 2]
        values = np.sin(np.arange(length) * (0.4 if i % 2 else 0.9) + rng.uniform(0, 6)) + 0.2 * rng.normal(size=length)
        rows += [{"id": f"s{i}", "t": t, "x": round(float(v), 3), "label": label} for t, v in enumerate(values)]
    return rows


def test_labels_of_series_are_learned_on_folds(tmp_path):
    settings = {"series": "id", "time": "t", "backbone": ["kernels", "statistics"]}
    run = ms.train(waves(), "label", out=tmp_path / "run", **settings)
    assert "on 5 folds" in run.chosen
    assert run.report["metrics"]["accuracy"]["value"] > 0.8
    asked = [{name: row[name] for name in ("id", "t", "x")} for row in waves()[: 3 * 40]]
    answers = run.model.predict(asked)
    assert [answer["prediction"] for answer in answers] == ["走", "跑", "走"]
    assert run.model.verify()["rows"] > 0
    again = ms.train(waves(), config=str(run.path / "config.yaml"), out=tmp_path / "again")
    assert again.model.predict(asked) == answers


def prepared(rows, target, **settings):
    return preparing.prepare(configure(rows, target, None, settings), rows)


def test_parts_of_labelled_series_are_drawn_and_those_of_forecasts_follow_each_other():
    labelled = prepared(waves(), "label", series="id", time="t")
    assert not labelled.by_time
    assert len(labelled.table) == 40
    forecast = prepared(waves(), "x", series="id", time="t", horizon=4, inputs=["x"])
    assert forecast.by_time
    first, last = (forecast.times[forecast.parts[part]] for part in ("train", "test"))
    assert first.max() + 4 <= last.min()


def test_a_label_that_changes_within_a_series():
    rows = waves(4)
    rows[3]["label"] = "站"
    with pytest.raises(MainstemError, match="several values of 'label'"):
        prepared(rows, "label", series="id", time="t")


def test_a_file_of_its_own_is_the_test_part(tmp_path):
    held = [row for row in waves() if row["id"] in ("s0", "s1")]
    path = tmp_path / "test.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in held), encoding="utf-8")
    rows = [row for row in waves() if row["id"] not in ("s0", "s1")]
    given = prepared(rows, "x", series="id", time="t", horizon=4, inputs=["x"], test=str(path))
    names = {given.table.columns["history"][i].name for i in given.parts["test"]}
    assert names == {"s0", "s1"}
    assert {given.table.columns["history"][i].name for i in given.parts["train"]}.isdisjoint(names)
