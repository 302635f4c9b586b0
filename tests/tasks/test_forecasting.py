import json
import sys

import numpy as np
import pytest
from starlette.testclient import TestClient

import mainstem as ms
from mainstem.api import configure
from mainstem.cli import main
from mainstem.contracts import Batch, Prediction, State
from mainstem.errors import MainstemError
from mainstem.serve.app import build
from mainstem.serve.models import Models
from mainstem.tasks.forecasting import LEVELS, Forecasting
from mainstem.training import plan, preparing


def sales(months=96, stores=("北京", "上海"), seed=0):
    rng = np.random.default_rng(seed)
    rows = []
    for number, store in enumerate(stores):
        for t in range(months):
            price = float(rng.uniform(8, 12))
            value = (50 + 30 * number + 0.3 * t) * (1 + 0.3 * np.sin(2 * np.pi * t / 12)) * 10 / price + rng.normal()
            rows.append({"store": store, "date": f"{2014 + t // 12}-{t % 12 + 1:02d}", "value": round(value, 2), "price": round(price, 2)})
    return rows


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    settings = {"series": "store", "time": "date", "horizon": 6, "future": "price", "backbone": ["naive", "linear", "trees"]}
    return ms.train(sales(), "value", out=tmp_path_factory.mktemp("sales") / "run", **settings)


# --- the whole way ----------------------------------------------------------------------------------------------------


def test_it_is_better_than_the_seasonal_naive(run):
    report = json.loads((run.path / "report.json").read_bytes())
    assert [each["name"] for each in report["compared"]] == ["naive", "linear", "trees"]
    evaluation = report["evaluation"]
    assert evaluation["metrics"]["mase"]["value"] < 0.8 * evaluation["baseline"]["mase"]["value"]
    assert evaluation["metrics"]["weighted_quantile_loss"]["value"] < 0.8 * evaluation["baseline"]["weighted_quantile_loss"]["value"]
    assert 0.5 < evaluation["metrics"]["coverage"]["value"] <= 1
    assert report["rows"]["test"] == 2 * 2  # 0.15 of 96 months are two half years, in each store


def test_it_is_sealed(run):
    sealed = json.loads((run.path / "model" / "seal.json").read_bytes())
    assert sealed["rows"] > 0
    assert max(sealed["worst"].values()) < 1e-3
    assert run.model.verify()["rows"] == sealed["rows"]


def ahead(rows, steps=6, price=10.0):
    stores = dict.fromkeys(row["store"] for row in rows)
    return rows + [{"store": s, "date": f"2022-{m:02d}", "value": None, "price": price} for s in stores for m in range(1, steps + 1)]


def test_a_forecast_a_series_with_times_and_quantiles(run):
    first, second = run.model.predict(ahead(sales()))
    assert (first["series"], second["series"]) == ("北京", "上海")
    assert first["time"] == [f"2022-{m:02d}-01" for m in range(1, 7)]
    assert [*first["quantiles"]] == [f"{level:g}" for level in LEVELS]
    bands = np.array(list(first["quantiles"].values()))
    assert (np.diff(bands, axis=0) >= 0).all()
    assert first["prediction"] == first["quantiles"]["0.5"]
    assert 0.5 < np.mean(first["prediction"]) / 78 < 1.5


def test_what_is_known_in_advance_matters(run):
    cheap, dear = (np.array(run.model.predict(ahead(sales(), price=p))[0]["prediction"]).mean() for p in (8.5, 11.5))
    assert cheap > 1.1 * dear


def test_rows_for_the_steps_ahead_are_asked_for(run):
    with pytest.raises(MainstemError, match="'price' is not known for the 6 steps to forecast"):
        run.model.predict(sales())


def test_evaluation_goes_back_over_rolling_origins(run):
    report = run.model.evaluate(sales(months=60), group="store")
    assert report["rows"] == 2 * 8  # from a year on, six months apart
    assert report["baseline"]["mase"]["value"] > report["metrics"]["mase"]["value"]


def test_the_config_of_a_run_makes_the_same_model(run, tmp_path):
    again = ms.train(sales(), config=str(run.path / "config.yaml"), out=tmp_path / "run")
    assert again.model.predict(ahead(sales())) == run.model.predict(ahead(sales()))


def test_values_of_the_test_part_change_no_model(run, tmp_path):
    rows = sales()
    for row in rows:
        if row["date"] >= "2021":
            row["value"] = 3 * row["value"]
    settings = {"series": "store", "time": "date", "horizon": 6, "future": "price", "backbone": ["naive", "linear", "trees"]}
    again = ms.train(rows, "value", out=tmp_path / "run", **settings)
    assert again.model.predict(ahead(sales())) == run.model.predict(ahead(sales()))


def test_it_is_served_in_both_forms(run):
    with TestClient(build(Models({"sales": run.model.path})), base_url="http://127.0.0.1") as client:
        assert client.app.state.models.done.wait(30)
        long = client.post("/predict/sales", json={"rows": ahead(sales())})
        assert long.status_code == 200, long.text
        assert long.json()["predictions"] == json.loads(json.dumps(run.model.predict(ahead(sales()))))
        one = [row for row in ahead(sales()) if row["store"] == "上海"]
        cell = {"store": "上海", **{name: [row[name] for row in one] for name in ("date", "value", "price")}}
        options = {"quantiles": [0.25, 0.5]}
        nested = client.post("/predict/sales", json={"rows": [{"history": cell}], "options": options}).json()["predictions"][0]
        assert nested["prediction"] == long.json()["predictions"][1]["prediction"]
        assert [*nested["quantiles"]] == ["0.25", "0.5"]
        low, high = (long.json()["predictions"][1]["quantiles"][q][0] for q in ("0.2", "0.3"))
        assert low <= nested["quantiles"]["0.25"][0] <= high
        refused = client.post("/predict/sales", json={"rows": ahead(sales()), "options": {"quantiles": [0.99]}})
        assert refused.status_code == 422
        assert "quantiles from 0.1 to 0.9" in refused.json()["error"]
        page, described = client.get("/docs").text, client.get("/openapi.json").json()["components"]["schemas"]
        assert "<td>price</td><td>number</td>" in page
        assert described["sales.row"]["required"] == ["store", "date", "value", "price"]
        assert described["sales.prediction"]["properties"]["prediction"]["type"] == "array"


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, "how many steps are to be forecast?"),
        ({"horizon": 60}, "the series are too short"),
        ({"horizon": 6, "series": "shop"}, "there is no column 'shop'"),
        ({"horizon": 6, "backbone": "mlp"}, "the backbone 'mlp' reads table"),
        ({"horizon": 6, "task_settings__quantiles": [0.5, 1.5]}, "'quantiles' is a list of numbers between 0 and 1"),
        ({"horizon": 6, "task": "regression"}, "--horizon says how far to forecast, and the task is regression"),
    ],
)
def test_mistakes(settings, expected, tmp_path):
    with pytest.raises(MainstemError) as raised:
        ms.train(sales(), "value", out=tmp_path / "run", **{"series": "store", "time": "date", "task": "forecasting", **settings})
    assert expected in str(raised.value)


def test_the_command_line_writes_a_row_a_step(run, tmp_path, capsys):
    data, out = tmp_path / "rows.jsonl", tmp_path / "forecast.csv"
    data.write_text("\n".join(json.dumps(row) for row in ahead(sales())), encoding="utf-8")
    assert main(["predict", str(run.path), str(data), "-o", str(out), "--set", "quantiles=[0.25,0.75]"]) == 0
    header, first, *rest = out.read_text(encoding="utf-8").splitlines()
    assert header == "series,time,prediction,q0.25,q0.75"
    assert first.startswith("北京,2022-01-01,")
    assert len(rest) + 1 == 2 * 6
    assert main(["evaluate", str(run.path), str(data)]) == 0
    assert "weighted_quantile_loss" in capsys.readouterr().out


def test_the_latest_forecasts_are_drawn(run):
    assert (run.path / "forecast.png").read_bytes().startswith(b"\x89PNG")


def test_without_pytorch_the_networks_are_left_out(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    config = configure(sales(), "value", None, {"series": "store", "time": "date", "horizon": 6})
    made, _ = plan.candidates(config, preparing.prepare(config, sales()))
    assert [candidate.name for candidate in made if candidate.name != "incontext-series"] == ["naive", "linear", "trees"]


# --- parts of it ------------------------------------------------------------------------------------------------------


def outputs(rows, horizon=3, spread=1.0):
    deviates = np.array([-1.28155, -0.84162, -0.5244, -0.25335, 0, 0.25335, 0.5244, 0.84162, 1.28155])
    return {"quantiles": np.broadcast_to(spread * deviates, (rows, horizon, 9)).copy(), "units": np.tile([10.0, 2.0], (rows, 1))}


@pytest.mark.parametrize("rows", [400, 12])
def test_calibrated_quantiles_hold_what_they_say(rows):
    task, rng = Forecasting(), np.random.default_rng(0)
    truth = 3 * rng.normal(size=(rows + 2000, 3))  # three times as far as the model thinks
    targets = {"values": truth[:rows], "known": np.ones((rows, 3))}
    state = task.calibrate(outputs(rows), targets, State({"horizon": 3, "levels": task.levels}))
    answers = task.decode(outputs(1), Batch({}, np.arange(1), 1), state)[0].more["quantiles"]
    for level in (0.1, 0.3, 0.7, 0.9):
        share = np.mean(10 + 2 * truth[rows:] <= np.array(answers[f"{level:g}"]))
        assert share == pytest.approx(level, abs=0.05 if rows > 100 else 0.15)


def test_few_scores_hardly_move_the_widths():
    task = Forecasting()
    targets = {"values": np.full((1, 3), 9.0), "known": np.array([[1.0, 0.0, 0.0]])}
    widths = np.array(task.calibrate(outputs(1), targets, State({"horizon": 3})).json["widths"])
    assert widths.max() < 1.2
    assert widths.min() > 0.8


def test_quantiles_that_cross_are_put_in_order():
    made = outputs(1)
    made["quantiles"] = made["quantiles"][:, :, ::-1]
    answer = Forecasting().decode(made, Batch({}, np.arange(1), 1), State({"horizon": 3}))[0]
    assert answer.more["quantiles"]["0.1"][0] < answer.value[0] < answer.more["quantiles"]["0.9"][0]


def test_a_series_of_nothing_is_an_error_of_its_row():
    made = outputs(2)
    made["units"][0, 1] = np.nan
    first, second = Forecasting().decode(made, Batch({}, np.arange(2), 2), State({"horizon": 3}))
    assert isinstance(first, MainstemError)
    assert isinstance(second, Prediction)


def test_levels_of_ones_own_stand_beside_the_usual_ones():
    assert Forecasting({"quantiles": [0.95, 0.05, 0.5]}).levels == [0.05, *LEVELS, 0.95]
    with pytest.raises(MainstemError, match="unknown setting 'levels'"):
        Forecasting({"levels": [0.5]})


def test_difference_counts_in_widths():
    task, state = Forecasting(), State({"horizon": 3})
    first = task.decode(outputs(1), Batch({}, np.arange(1), 1), state)[0]
    moved = outputs(1)
    moved["quantiles"] += 0.05
    assert 1e-3 < task.differ(first, task.decode(moved, Batch({}, np.arange(1), 1), state)[0]) < 0.1
    assert task.differ(first, first) == 0
    assert task.differ(first, Prediction(first.value, more={**first.more, "series": "b"})) == np.inf


def test_lines_are_one_a_step():
    answer = {"prediction": [1.0, 2.0], "series": "a", "time": ["2024-01-01", "2024-01-02"], "quantiles": {"0.1": [0.5, 1.5]}}
    assert Forecasting().lines(answer) == [
        {"series": "a", "time": "2024-01-01", "prediction": 1.0, "q0.1": 0.5},
        {"series": "a", "time": "2024-01-02", "prediction": 2.0, "q0.1": 1.5},
    ]
