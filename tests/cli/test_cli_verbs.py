"""Each verb through `main`, on real models: what it prints, what it writes, what it refuses."""

import csv
import io
import json
import re
import signal

import pytest

from mainstem.cli import main, overview, serve, train
from mainstem.errors import MainstemError
from mainstem.modalities import table
from mainstem.training.run import Stop


@pytest.fixture
def call(capfdbinary):
    """Runs one command line; returns (exit code, standard output, standard error)."""

    def run(*arguments):
        capfdbinary.readouterr()
        code = main([str(a) for a in arguments])
        out, err = capfdbinary.readouterr()
        assert b"Traceback" not in err
        assert b"\x1b" not in out + err  # no colours into a pipe
        return code, out.decode(), err.decode()

    return run


# --- the whole -----------------------------------------------------------------------------------------------------------


def test_every_verb_that_is_listed_has_a_help(call):
    verbs = re.findall(r"^  (\w+)  ", overview(), re.MULTILINE)
    assert {"train", "evaluate", "predict", "verify", "serve", "inspect", "example", "list", "doctor"} <= set(verbs)
    for verb in verbs:
        code, out, _ = call(verb, "--help")
        assert code == 0
        assert f"mainstem {verb}" in out
    assert call("--help")[1] == call()[1] == f"{overview()}\n"


@pytest.mark.parametrize(
    ("line", "parts"),
    [
        ("trian x", ["'trian'", "Did you mean 'train'"]),
        ("--hlep", ["'--hlep'", "Did you mean '--help'"]),
        ("train x.csv --tagret y", ["'--tagret'", "--target"]),
        ("train --epochs many", ["--epochs"]),
        ("train a b", ["unexpected extra argument"]),
        ("evaluate", ["MODEL"]),
        ("train x.csv --target y --batch-size big", ["--batch-size takes a number or 'full', not 'big'"]),
        ("train x.csv --target y --lr fast", ["--lr takes a number or 'auto'"]),
        ("train x.csv --target y --time-limit soon", ["60s, 5m or 1h"]),
        ("train x.csv --target y --column zip", ["NAME=KIND"]),
        ("train x.csv --target y --set training", ["path=value"]),
        ("train x.csv --target y --set training.epohcs=3", ["training.epohcs", "Did you mean 'epochs'"]),
        ("pretrain --objective tabels -o x", ["'tabels'", "Did you mean 'tables'"]),
        ("pretrain -o x", ["'objective'"]),
        ("pretrain --objective tables --set settings.widht=3 -o x", ["'widht'", "Did you mean 'width'"]),
        ("pretrain --objective tables -o x", ["never end", "steps"]),
        ("train x.csv --target y --learning-rate", ["--learning-rate takes a value"]),
        ("train nowhere.csv --target y", ["nowhere.csv", "no such file"]),
        ("train", ["no data to train on"]),
        ("predict no/model rows.csv", ["no such model"]),
        ("serve a=x a=y", ["two models are called 'a'"]),
        ("list backbone", ["Did you mean 'backbones'"]),
        ("example linaer", ["Did you mean 'linear'"]),
        ("inspect nowhere", ["no such file"]),
    ],
)
def test_a_mistake_is_one_sentence_and_exit_code_2(call, tmp_path, monkeypatch, line, parts):
    monkeypatch.chdir(tmp_path)
    code, out, err = call(*line.split())
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    for part in parts:
        assert part in err
    assert list(tmp_path.iterdir()) == []  # nothing half-written


# --- train ---------------------------------------------------------------------------------------------------------------


def test_train_says_how_good_it_is_and_what_comes_next(call, table_data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    inputs = ["--input", "area", "--input", "城区"]
    code, out, err = call("train", table_data, "--target", "dear", *inputs, "--backbone", "linear")
    assert code == 0, err
    assert "Chosen: linear" in out
    assert "Chosen: linear" not in err
    assert "便宜" in out
    assert "accuracy" in out
    assert "--column NAME=KIND" in err
    commands = re.findall(r"^  mainstem (.+)$", out, re.MULTILINE)
    assert [c.split()[0] for c in commands] == ["evaluate", "predict", "serve"]
    assert call(*commands[0].split())[0] == 0
    assert call(*commands[1].split())[0] == 0
    assert (tmp_path / "predictions.csv").is_file()
    assert commands[2] == "serve flats=runs/flats"
    again = call("train", table_data, "--target", "dear", *inputs, "--backbone", "linear", "-o", "runs/flats")
    assert (again[0], "exists already" in again[2]) == (2, True)


def test_flags_reach_the_config(monkeypatch, call):
    from mainstem import api

    seen = {}

    def fake(data, target, **settings):
        seen.update(api.configure(data, target, settings.pop("config"), {k: v for k, v in settings.items() if k not in RUN}).model_dump())
        raise MainstemError("enough")

    RUN = ("out", "resume", "say", "report", "stop")
    monkeypatch.setattr(api, "train", fake)
    line = (
        "train d.csv --target a --target b --input x --column x=number --column p=q=text --backbone text=ngram --backbone mlp --adapt lora "
        "--steps 7 --batch-size full --lr auto --optimizer adam --tol 0.1 --patience 3 --time-limit 1.5m --seed 5 --allow-leak "
        "--class-weight balanced --set training.l2=0.5 --num_train_epochs 3 --weight-decay=0.25 --replay hashes --separator ;"
    )
    assert call(*line.split())[0] == 2
    data, training = seen["data"], seen["training"]
    assert (data["targets"], data["inputs"], data["separator"]) == (("a", "b"), ("x",), ";")
    assert [(c["name"], c["kind"]) for c in data["columns"]] == [("x", "number"), ("p=q", "text")]
    assert (seen["backbones"], seen["adapt"], seen["seed"], seen["replay"]) == (("text=ngram", "mlp"), "lora", 5, "hashes")
    assert (training["steps"], training["batch_size"], training["lr"], training["time_limit"]) == (7, "full", "auto", 90)
    assert (training["l2"], training["epochs"], training["weight_decay"], training["patience"]) == (0.5, 3, 0.25, 3)
    assert (seen["split"]["allow_leak"], data["class_weight"], training["optimizer"], training["tol"]) == (True, "balanced", "adam", 0.1)


def test_the_bar_changes_with_the_fit_and_prints_what_is_asked(capsys):
    reporter = train._Reporter()
    with reporter:
        for epoch in (1, 100):
            reporter({"candidate": "linear", "part": "refit", "log_every": 100, "step": epoch, "rows": 8, "lr": 0.1, "loss": 0.5})
            reporter({"candidate": "linear", "part": "refit", "step": epoch, "epoch": epoch, "loss": 0.25, "valid": None, "ended": True})
        reporter({"candidate": "probe", "part": "refit", "features": 32, "of": 64, "rows": 32})
        reporter({"warning": "a checkpoint was torn"})
        reporter.say("Chosen: printed at the end")
        reporter.say("a note")
    err = capsys.readouterr().err
    assert re.findall(r"epoch \d+.*", err) == ["epoch 100  loss 0.25"]
    assert "a checkpoint was torn\na note\n" in err
    assert "Chosen" not in err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_asks_to_stop_and_the_second_stops(number, capsys):
    before = signal.getsignal(number)
    stop = Stop()
    with train.interruptible(stop):
        signal.raise_signal(number)
        assert stop.interrupted
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(number)
    assert signal.getsignal(number) is before
    assert "the best so far" in capsys.readouterr().err


# --- predict, evaluate, verify -------------------------------------------------------------------------------------------


def test_predict_writes_each_format_in_the_order_of_the_rows(call, table_run, table_data, tmp_path, monkeypatch):
    import pandas

    expected = [p["prediction"] for p in table_run.model.predict(str(table_data))]
    code, out, err = call("predict", table_run.path, table_data)
    rows = list(csv.DictReader(io.StringIO(out)))
    assert (code, err) == (0, "")
    assert list(rows[0]) == ["prediction", "score", "score.便宜", "score.贵"]
    assert [row["prediction"] for row in rows] == expected
    assert float(rows[0]["score"]) == max(float(rows[0]["score.便宜"]), float(rows[0]["score.贵"]))
    readers = {
        "a.csv": pandas.read_csv,
        "a.tsv": lambda path: pandas.read_csv(path, sep="\t"),
        "a.json": pandas.read_json,
        "a.jsonl": lambda path: pandas.read_json(path, lines=True),
        "a.parquet": pandas.read_parquet,
    }
    for name, read in readers.items():
        code, out, err = call("predict", table_run.path, table_data, "-o", tmp_path / name)
        assert (code, out) == (0, "")
        frame = read(tmp_path / name)
        assert list(frame["prediction"]) == expected
        assert list(frame.columns) == ["prediction", "score", "score.便宜", "score.贵"]
    code, _, err = call("predict", table_run.path, table_data, "-o", tmp_path / "a.docx")
    assert (code, "do not know how to write .docx" in err) == (2, True)


def test_predict_numbers_have_an_interval(call, number_run, table_data):
    rows = list(csv.DictReader(io.StringIO(call("predict", number_run.path, table_data)[1])))
    assert list(rows[0]) == ["prediction", "low", "high"]
    assert all(float(row["low"]) < float(row["prediction"]) < float(row["high"]) for row in rows)


def test_bad_rows_are_named_and_cost_nothing_else(call, table_run, tmp_path):
    lines = ["area,rooms,城区", "50,2,海淀", *["wide,2,朝阳"] * 7, "60,x,浦东", "70,3,朝阳"]
    data, out = tmp_path / "new.csv", tmp_path / "out.csv"
    data.write_text("\n".join(lines), encoding="utf-8")
    code, _, err = call("predict", table_run.path, data, "-o", out)
    assert (code, out.exists()) == (2, False)
    assert "8 of 10 rows" in err
    assert f"{data}:3 column 'area': expected a number, found 'wide'" in err
    assert f"{data}:7 " in err
    assert f"{data}:8 " not in err
    assert "And 3 more" in err
    code, _, err = call("predict", table_run.path, data, "-o", out, "--on-error", "skip")
    assert code == 0
    assert "8 of 10 rows left out" in err
    assert len(out.read_text().splitlines()) == 3


def test_evaluate_prints_a_table_or_json(call, table_run, table_data):
    code, out, _ = call("evaluate", table_run.path, table_data)
    assert code == 0
    assert "便宜" in out
    code, out, _ = call("evaluate", table_run.path / "model", table_data, "--json", "--group", "城区")
    report = json.loads(out)
    assert (report["task"], report["rows"]) == ("classification", 160)
    accuracy = report["metrics"]["accuracy"]
    assert accuracy["low"] <= accuracy["value"] <= accuracy["high"]
    assert report["baseline"]["accuracy"]["value"] < accuracy["value"]
    code, _, err = call("evaluate", table_run.path, table_data, "--group", "区")
    assert (code, "no column '区'" in err) == (2, True)


def test_verify_says_the_worst_difference_by_stage(call, table_run):
    code, out, _ = call("verify", table_run.path)
    assert code == 0
    assert out.startswith("verified: ")
    assert [line.split("  ")[1].strip() for line in out.splitlines()[1:]] == ["parse", "encode", "call head", "decode"]


def test_verify_refuses_with_row_stage_and_size(call, table_run, monkeypatch):
    real = table.encode
    monkeypatch.setattr(table, "encode", lambda *a, **k: _shifted(*real(*a, **k)))
    code, out, err = call("verify", table_run.path)
    assert (code, out) == (2, "")
    assert "replay row" in err
    assert re.search(r"^  stage  encode table/numbers$", err, re.MULTILINE)
    assert re.search(r"^  size   differs by up to", err, re.MULTILINE)


def _shifted(arrays, meta):
    return {name: array + 0.25 if array.dtype.kind == "f" else array for name, array in arrays.items()}, meta


def test_a_changed_byte_is_refused_before_use(call, table_run, table_data, tmp_path):
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(table_run.path / "model", copy)
    graph = copy / "onnx/head.onnx"
    data = bytearray(graph.read_bytes())
    data[len(data) // 2] ^= 1
    graph.write_bytes(data)
    for verb, rest in (("verify", ()), ("predict", (table_data,)), ("evaluate", (table_data,))):
        code, out, err = call(verb, copy, *rest)
        assert (code, out) == (2, "")
        assert "onnx/head.onnx: changed" in err
    code, out, _ = call("inspect", copy)
    assert "onnx/head.onnx: changed" in out
    assert call("serve", f"a={copy}", "--port", "0")[0] == 2


# --- inspect, list, doctor, example, serve ---------------------------------------------------------------------------------


def test_inspect_shows_data_its_plan_and_its_leaks(call, tmp_path):
    data = tmp_path / "flats.csv"
    lines = ["面积,城区,copy,answer", *(f"{i * 1.5},{'海淀' if i % 3 else '朝阳'},{i % 2},{i % 2}" for i in range(100))]
    data.write_text("\n".join(lines), encoding="gb18030")
    code, out, _ = call("inspect", data)
    assert code == 0
    assert "100 rows, 4 columns" in out
    assert "GB18030" in out
    assert re.search(r"^面积 +number", out, re.MULTILINE)
    assert re.search(r"^城区 +category", out, re.MULTILINE)
    code, out, _ = call("inspect", data, "--target", "answer")
    assert "task: classification of answer" in out
    assert "candidates: linear" in out
    assert "'copy'" in out.partition("what looks wrong")[2]


def test_inspect_of_series_takes_the_flags_of_train(call, tmp_path):
    data = tmp_path / "sales.csv"
    months = [f"20{year}-{month:02d}" for year in range(10, 20) for month in range(1, 13)]
    lines = ["shop,month,sold", *(f"a,{name},{i % 12}" for i, name in enumerate(months) if i != 50)]
    data.write_text("\n".join(lines))
    code, out, _ = call("inspect", data, "--target", "sold", "--series", "shop", "--time", "month", "--horizon", "6", "--season", "12")
    assert code == 0
    assert "task: forecasting of sold" in out
    assert "1 steps without a row count as missing" in out
    code, _, err = call("inspect", data, "--target", "sold", "--series", "shp", "--time", "month", "--horizon", "6")
    assert code == 2
    assert "Did you mean 'shop'?" in err


def test_inspect_shows_a_model_and_a_run(call, table_run):
    for path in (table_run.path, table_run.path / "model"):
        code, out, _ = call("inspect", path)
        assert code == 0
        assert "task: classification of dear (便宜, 贵)" in out
        assert "predictor: linear" in out
        assert "every file is as it was sealed" in out


def test_pretrain_says_its_losses_by_step_and_where_the_backbone_lies(call, tmp_path):
    small = {"width": 16, "heads": 1, "layers": 1, "cells": 200, "context": "[8, 12]", "asked": 4, "columns": "[1, 3]"}
    line = ["pretrain", "--objective", "tables", "--steps", "4", "--set", "evaluate_every=2", "-o", tmp_path / "run"]
    line += [part for name, value in small.items() for part in ("--set", f"settings.{name}={value}")]
    code, out, err = call(*line)
    assert code == 0
    assert out.startswith(f"Backbone: {tmp_path / 'run' / 'backbone'} (4 steps, held-out loss ")
    assert re.findall(r"^step (\d)  loss [\d.-]+  held-out [\d.-]+$", err, re.MULTILINE) == ["2", "4"]
    code, out, err = call(*line)
    assert (code, out) == (2, "")
    assert "--resume" in err
    assert call(*line, "--resume")[0] == 0


def test_list_and_doctor(call):
    code, out, _ = call("list", "tasks")
    assert {line.split()[0] for line in out.splitlines()} >= {"classification", "labels", "regression"}
    code, out, _ = call("list", "backbones")
    rows = {line.split()[0]: line for line in out.splitlines()}
    assert {"linear", "mlp", "ngram", "cnn", "hf", "timm"} <= set(rows)
    assert "text" in rows["ngram"]
    for kind in ("modalities", "runtimes"):
        assert call("list", kind)[0] == 0
    code, out, _ = call("doctor")
    assert code == 0
    assert re.search(r"onnxruntime \d", out)
    assert "cores" in out


def test_example_writes_data_and_prints_a_command_that_parses(call, tmp_path):
    code, out, _ = call("example", "linear", "-o", tmp_path)
    assert code == 0
    assert out.startswith(f"mainstem train {tmp_path / 'data.csv'} --target output")
    assert call("inspect", tmp_path / "data.csv")[0] == 0
    assert call("example", "linear", "-o", tmp_path)[0] == 2  # never overwritten


def test_models_are_named_by_their_folder(tmp_path):
    (tmp_path / "Reviews 2" / "model").mkdir(parents=True)
    assert list(serve.named([str(tmp_path / "Reviews 2")])) == ["reviews-2"]
    assert list(serve.named([str(tmp_path / "Reviews 2" / "model")])) == ["reviews-2"]
    assert list(serve.named(["a=x", "b=y"])) == ["a", "b"]
