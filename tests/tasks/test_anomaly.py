import json

import numpy as np
import pytest
from PIL import Image

import mainstem as ms
from mainstem.contracts import Batch, Prediction, State
from mainstem.errors import MainstemError
from mainstem.evaluation import alarms, report
from mainstem.tasks.anomaly import Anomaly


def machines(rows=600, seed=0):
    """Two numbers that go together, but in every 40th row."""
    rng = np.random.default_rng(seed)
    load = rng.normal(size=rows)
    fault = np.arange(rows) % 40 == 39
    heat = 2 * load + 0.2 * rng.normal(size=rows) + 4 * fault
    return {
        "load": load.round(3).tolist(),
        "heat": heat.round(3).tolist(),
        "mode": [("day", "night")[i % 2] for i in range(rows)],
        "fault": ["yes" if f else "no" for f in fault],
    }


def sensor(steps=1500, seed=0):
    """A daily rhythm with a shift of thirty hours towards the end."""
    rng = np.random.default_rng(seed)
    values = np.sin(2 * np.pi * np.arange(steps) / 24) + 0.1 * rng.normal(size=steps)
    labels = np.zeros(steps, int)
    labels[1350:1380] = 1
    values[1350:1380] += 1.5
    times = (np.datetime64("2024-01-01T00:00:00") + np.arange(steps) * np.timedelta64(3600, "s")).astype(str)
    return {"time": times.tolist(), "value": values.round(3).tolist(), "bad": labels.tolist()}


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    said = []
    run = ms.train(machines(), "fault", task="anomaly", out=tmp_path_factory.mktemp("table") / "run", say=said.append)
    return run, said


@pytest.fixture(scope="module")
def series(tmp_path_factory):
    return ms.train(sensor(), "bad", task="anomaly", time="time", out=tmp_path_factory.mktemp("series") / "run")


def test_rows_that_go_otherwise_are_found(table):
    run, said = table
    assert run.report["metrics"]["average_precision"]["value"] > 0.95
    assert run.report["baseline"]["average_precision"]["value"] < 0.3
    fresh = machines(seed=1)
    answers = run.model.predict({name: cells for name, cells in fresh.items() if name != "fault"})
    alarm = [answer["prediction"] == "anomaly" for answer in answers]
    assert np.mean([a for a, f in zip(alarm, fresh["fault"], strict=True) if f == "yes"]) > 0.9
    assert np.mean([a for a, f in zip(alarm, fresh["fault"], strict=True) if f == "no"]) < 0.05
    assert any("of ordinary rows" in text and "raise an alarm" in text for text in said)
    assert any("holds them" in text for text in said)  # rows that were learned from lie in the model
    assert run.model.verify()["rows"] > 0


def test_faults_are_not_learned_from(table):
    split = json.loads((table[0].path / "split.json").read_text())
    model, data = table[0].model, machines()
    hashes = model.pipeline.parse(model.read({name: cells for name, cells in data.items() if name != "fault"}))[0].hashes
    faults = {h for h, fault in zip(hashes, data["fault"], strict=True) if fault == "yes"}
    assert not faults & {*split["train"], *split["valid"]}
    assert faults <= {*split["test"]}


def test_a_value_that_was_never_seen_is_unusual(table):
    model = table[0].model
    usual, never = ({"load": 0.0, "heat": 0.0, "mode": mode} for mode in ("day", "dusk"))
    first, second = model.predict([usual, never])
    assert second["score"] > 3 * first["score"]
    assert second["prediction"] == "anomaly"


def test_labels_are_optional(tmp_path):
    rows = {name: cells for name, cells in machines(200).items() if name != "fault"}
    run = ms.train(rows, task="anomaly", out=tmp_path / "run")
    assert run.report["metrics"]["average_precision"]["value"] is None
    assert {answer["prediction"] for answer in run.model.predict(rows)} >= {"normal"}


def test_steps_of_a_series(series):
    data = sensor()
    answers = series.model.predict({name: data[name] for name in ("time", "value")})
    assert [answer["time"] for answer in answers[-2:]] == data["time"][-2:]
    raised = {answer["time"] for answer in answers if answer["prediction"] == "anomaly"}
    inside = set(data["time"][1350:1380])
    assert len(raised & inside) > 20
    before = set(data["time"][: 1350 - 1])
    assert len(raised & before) < 0.03 * 1350
    assert series.report["metrics"]["events_found"]["value"] == 1
    assert series.model.verify()["rows"] > 0


def test_the_latest_step_alone_is_judged_alike(series):
    data = sensor()
    part = {name: data[name][1000:1360] for name in ("time", "value")}
    whole = {a["time"]: a["score"] for a in series.model.predict({name: data[name] for name in ("time", "value")})}
    last = series.model.predict(part)[-1]
    assert last["score"] == pytest.approx(whole[last["time"]])


def test_what_cannot_be_judged_is_said(tmp_path):
    rows = [{"text": f"a longer sentence about number {i} that is not like another one"} for i in range(60)]
    with pytest.raises(MainstemError, match="reads numbers, categories and dates"):
        ms.train(rows, task="anomaly", out=tmp_path / "run")
    with pytest.raises(MainstemError, match=r"keeps training rows|no candidate"):
        ms.train(machines(100), task="anomaly", out=tmp_path / "run", replay="hashes", backbone="neighbours")


# --- parts of it ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [0.1, 0.01])
def test_the_threshold_keeps_its_rate(rate):
    rng, task, rates, held = np.random.default_rng(0), Anomaly({"false_alarms": rate}), [], 0
    for _ in range(300):
        state = task.calibrate({"score": rng.normal(size=(199, 1))}, {}, State())
        actual = np.mean(rng.normal(size=20_000) > state.json["threshold"])
        rates.append(actual)
        held += state.json["rate"]["low"] <= actual <= state.json["rate"]["high"]
    assert np.mean(rates) == pytest.approx(rate, rel=0.15)
    assert 0.9 < held / 300 < 0.99


def test_too_few_rows_for_the_rate_are_told():
    task = Anomaly({"false_alarms": 0.001})
    state = task.calibrate({"score": np.arange(50.0)[:, None]}, {}, State())
    assert state.json["threshold"] == 49
    assert "for the 0.10% asked for, 999 are needed" in task.told(state)[0]
    assert "no alarm is ever raised" in task.told(State())[0]


def test_which_label_is_the_ordinary_one():
    assert Anomaly().ordinary(["0", "1", "1"]).tolist() == [True, False, False]
    assert Anomaly().ordinary(["正常", "故障"]).tolist() == [True, False]
    assert Anomaly().ordinary(["a", "b", "a"]).tolist() == [True, False, True]
    assert Anomaly({"normal": "b"}).ordinary(["a", "b", "a"]).tolist() == [False, True, False]
    with pytest.raises(MainstemError, match="no row has the label 'c'"):
        Anomaly({"normal": "c"}).ordinary(["a", "b"])


@pytest.mark.parametrize("settings", [{"false_alarms": 0}, {"false_alarms": "few"}, {"rate": 0.1}])
def test_settings_that_make_no_sense(settings):
    with pytest.raises(MainstemError, match="settings of the task 'anomaly'"):
        Anomaly(settings)


def test_decode_says_normal_up_to_the_threshold():
    state = State({"threshold": 2.0})
    answers = Anomaly().decode({"score": np.array([[2.0], [2.1], [np.nan]])}, Batch({}, np.arange(3), 3), state)
    assert [a.value if isinstance(a, Prediction) else "error" for a in answers] == ["normal", "anomaly", "error"]


def test_events_by_hand():
    scores = [0, 0, 5, 9, 0, 1, 1, 0] + [0] * 12
    labels = ["0", "0", "1", "1", "0", "1", "1", "0"] + ["0"] * 12
    predictions = [Prediction("anomaly" if s > 4 else "normal", float(s)) for s in scores]
    figures = report.point_metrics("anomaly", predictions, labels, [])
    assert figures["events_found"] == 1  # both events are above all ordinary scores (0)
    assert figures["delay"] == 0
    assert figures["false_alarm_rate"] == 0
    scores[4] = 7  # an ordinary row that scores high
    predictions = [Prediction("anomaly" if s > 4 else "normal", float(s)) for s in scores]
    figures = report.point_metrics("anomaly", predictions, labels, [])
    assert figures["events_found"] == 0.5
    assert figures["delay"] == 1  # the first event is seen at its second row
    assert figures["false_alarm_rate"] == 1 / 16


def test_events_end_with_their_series():
    predictions = [Prediction("normal", 1.0, more={"series": name}) for name in "aabb"]
    assert alarms.statistics(predictions, [True, False, False, True])[:, 2].tolist() == [-1, 0, 1, -1]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Grey gradients, some of them upside down; and a folder as timm keeps them."""
    import timm
    import torch
    from safetensors.torch import save_file

    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    rows = []
    for i in range(160):
        unusual = i % 20 == 19
        ramp = np.linspace(40, 215, 32)[:, None] + 6 * rng.normal(size=(32, 32))
        path = folder / f"{i:03d}.png"
        Image.fromarray(np.clip(ramp[::-1] if unusual else ramp, 0, 255).astype(np.uint8)).convert("RGB").save(path)
        rows.append({"picture": str(path), "state": "broken" if unusual else "normal"})
    torch.manual_seed(0)
    module = timm.create_model("resnet10t", num_classes=0)
    backbone = folder / "backbone"
    backbone.mkdir()
    save_file({name: tensor.contiguous() for name, tensor in module.state_dict().items()}, str(backbone / "model.safetensors"))
    settings = {**module.pretrained_cfg, "input_size": [3, 32, 32], "num_classes": 0}
    config = {"architecture": "resnet10t", "num_classes": 0, "num_features": module.num_features, "pretrained_cfg": settings}
    (backbone / "config.json").write_text(json.dumps(config, default=str))
    return rows, backbone


def test_pictures_that_look_otherwise_are_found(pictures, tmp_path):
    rows, backbone = pictures
    said = []
    run = ms.train(rows, "state", task="anomaly", backbones=[f"timm:{backbone}"], out=tmp_path / "run", say=said.append, allow_leak=True)
    assert run.report["metrics"]["average_precision"]["value"] > 0.9
    assert run.model.verify()["rows"]
    assert any("of ordinary rows" in text for text in said)
    answers = run.model.predict([{"picture": row["picture"]} for row in rows])
    score = np.array([answer["score"] for answer in answers])
    unusual = np.array([row["state"] == "broken" for row in rows])
    assert score[unusual].min() > np.median(score[~unusual])


def test_pictures_without_a_backbone_are_told_what_they_need(pictures, tmp_path):
    with pytest.raises(MainstemError, match="bring a backbone with weights"):
        ms.train(pictures[0], "state", task="anomaly", out=tmp_path / "run", allow_leak=True)
