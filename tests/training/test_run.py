"""A training run as a whole, through the Python API, on small tables that the tests make."""

import itertools
import json

import numpy as np
import pytest
import yaml

import mainstem as ms
from mainstem import api, artifact
from mainstem.training.run import Stop


def made_table(rows=240, seed=0):
    rng = np.random.default_rng(seed)
    age, income = rng.normal(40, 12, rows), rng.lognormal(3, 0.5, rows)
    city = rng.choice(["Bern", "Basel", "苏州"], rows)
    score = 0.08 * (age - 40) + 0.05 * (income - 22) + (city == "苏州") + rng.normal(0, 0.6, rows)
    table = {"age": list(age), "income": list(income), "city": list(city), "buys": list(np.where(score > 0.3, "yes", "no"))}
    for i in range(0, rows, 17):
        table["age"][i] = None
    return table


QUICK = {"epochs": 3, "config": {"training": {"batch_size": 64}}}


def weights(run):
    return {name: spec.weights_id for name, spec in artifact.read(run.path / "model").graphs.items()}, (
        run.path / "model/head.safetensors"
    ).read_bytes()


def test_candidates_are_compared_and_the_choice_is_explained(tmp_path):
    said = []
    run = ms.train(made_table(), "buys", out=tmp_path / "run", backbones=["linear", "mlp"], say=said.append, **QUICK)
    assert "5 folds" in run.chosen
    assert "linear" in run.chosen
    assert "mlp" in run.chosen
    compared = json.loads((tmp_path / "run/report.json").read_text())["compared"]
    assert [c["name"] for c in compared] == ["linear", "mlp"]
    assert all(c["metrics"]["cross_entropy"] < 0.75 for c in compared)
    assert run.report["metrics"]["accuracy"]["value"] > run.report["baseline"]["accuracy"]["value"]
    assert run.model.verify()["rows"] == 32


def test_the_resolved_config_alone_reproduces_the_model(tmp_path):
    table = made_table()
    first = ms.train(table, "buys", out=tmp_path / "a", backbones=["linear", "mlp"], seed=3, **QUICK)
    again = ms.train(table, config=tmp_path / "a/config.yaml", out=tmp_path / "b")
    assert weights(first) == weights(again)
    assert (tmp_path / "a/model/MANIFEST.json").read_text() != ""
    other = ms.train(table, "buys", out=tmp_path / "c", backbones=["linear", "mlp"], seed=4, **QUICK)
    assert weights(first) != weights(other)


def test_ctrl_c_seals_the_best_so_far(tmp_path):
    stop, steps = Stop(), []

    def report(figures):
        if "step" in figures:
            steps.append(figures["step"])
            stop.interrupted = len(steps) > 40

    config = {"training": {"batch_size": 16, "epochs": 500, "patience": 500}}
    run = ms.train(made_table(), "buys", out=tmp_path / "run", backbone="mlp", config=config, stop=stop, report=report)
    assert run.interrupted
    assert len(steps) < 60
    assert run.model.verify()["rows"] == 32
    cuts = yaml.safe_load((tmp_path / "run/config.yaml").read_text())["cuts"]
    assert 0 < cuts["mlp/0"] < 60
    assert cuts["refit"] == 0
    again = ms.train(made_table(), config=tmp_path / "run/config.yaml", out=tmp_path / "again")
    assert weights(run) == weights(again)


def test_ctrl_c_before_anything_is_fitted_seals_nothing(tmp_path):
    stop = Stop(interrupted=True)
    with pytest.raises(KeyboardInterrupt):
        ms.train(made_table(), "buys", out=tmp_path / "run", backbone="mlp", stop=stop, epochs=3)
    assert not (tmp_path / "run/model").exists()


def test_a_time_limit_cuts_the_end_of_the_plan(tmp_path):
    said = []
    config = {"training": {"time_limit": 0.001, "epochs": 300}}
    run = ms.train(made_table(), "buys", out=tmp_path / "run", backbones=["linear", "mlp"], config=config, say=said.append)
    resolved = yaml.safe_load((tmp_path / "run/config.yaml").read_text())
    assert [c["name"] for c in resolved["candidates"]] == ["linear"]
    assert any("for lack of time: mlp" in text for text in said)
    assert run.model.verify()["rows"] == 32


def test_an_infinite_learning_rate_stops_the_run_and_writes_no_model(tmp_path):
    with pytest.raises(ms.MainstemError, match=r"(?s)step \d+.*rate"):
        ms.train(made_table(), "buys", out=tmp_path / "run", backbone="mlp", optimizer="sgd", lr=1e30, epochs=5)
    assert not (tmp_path / "run/model").exists()


def test_balanced_weights_raise_the_recall_of_a_rare_class(tmp_path):
    rng = np.random.default_rng(1)
    x = rng.normal(size=600)
    table = {
        "x": list(x),
        "z": list(rng.normal(size=600)),
        "label": ["rare" if v > 1.6 + e else "common" for v, e in zip(x, rng.normal(0, 0.8, 600), strict=True)],
    }
    plain = ms.train(table, "label", out=tmp_path / "plain", backbone="linear")
    even = ms.train(table, "label", out=tmp_path / "even", backbone="linear", class_weight="balanced")
    assert even.report["classes"]["rare"]["recall"]["value"] > plain.report["classes"]["rare"]["recall"]["value"]


def test_groups_stay_together(tmp_path):
    table = made_table(300)
    table["house"] = [f"h{i // 3}" for i in range(300)]
    run = ms.train(table, "buys", out=tmp_path / "run", backbone="linear", group="house")
    assert "house" not in [c.name for c in run.model.pipeline.artifact.schema.columns]
    split = json.loads((tmp_path / "run/split.json").read_text())
    table = {k: v for k, v in table.items() if k != "buys"}
    parsed, _ = run.model.pipeline.parse(run.model.read(table))
    part = {h: name for name in ("train", "valid", "test") for h in split[name]}
    homes = {}
    for house, row in zip(table["house"], parsed.hashes, strict=True):
        homes.setdefault(house, set()).add(part[row])
    assert all(len(parts) == 1 for parts in homes.values())
    assert len(set().union(*homes.values())) == 3


def test_an_existing_run_folder_is_not_overwritten(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/notes.txt").write_text("mine")
    with pytest.raises(ms.MainstemError, match="exists already"):
        ms.train(made_table(), "buys", out=tmp_path / "run", backbone="linear")
    assert (tmp_path / "run/notes.txt").read_text() == "mine"


def test_a_run_resumes_where_another_config_is_refused(tmp_path):
    table, seen = made_table(), []

    class Crash(Exception):
        pass

    def report(figures):
        seen.append(figures)
        if figures.get("part") == 3 and figures.get("step") == 2:
            raise Crash

    config = {"training": {"checkpoint_every": 0}}
    whole = ms.train(table, "buys", out=tmp_path / "whole", backbones=["mlp", "linear"], epochs=2, config=config)
    with pytest.raises(Crash):
        ms.train(table, "buys", out=tmp_path / "run", backbones=["mlp", "linear"], epochs=2, config=config, report=report)
    before = {p.name: p.read_bytes() for p in (tmp_path / "run").glob("*.json")}
    exported = api.export(tmp_path / "run", tmp_path / "exported", table)
    assert exported.verify()["rows"] == 32
    assert before == {p.name: p.read_bytes() for p in (tmp_path / "run").glob("*.json")}
    with pytest.raises(ms.MainstemError, match="config differs"):
        ms.train(table, "buys", out=tmp_path / "run", backbones=["mlp", "linear"], epochs=4, config=config, resume=True)
    with pytest.raises(ms.MainstemError, match="data differs"):
        ms.train(made_table(seed=9), "buys", out=tmp_path / "run", backbones=["mlp", "linear"], epochs=2, config=config, resume=True)
    run = ms.train(table, "buys", out=tmp_path / "run", backbones=["mlp", "linear"], epochs=2, config=config, resume=True)
    assert weights(run) == weights(whole)
    with pytest.raises(ms.MainstemError, match="finished"):
        api.export(tmp_path / "run", tmp_path / "other", table)


def test_a_private_replay_keeps_no_rows_and_verifies_against_the_data(tmp_path):
    table = made_table()
    run = ms.train(table, "buys", out=tmp_path / "run", backbone="linear", replay="hashes")
    kept = json.loads((tmp_path / "run/model/replay/replay.json").read_text())
    assert kept["columns"] is None
    assert "苏州" not in (tmp_path / "run/model/replay/replay.json").read_text()
    with pytest.raises(ms.MainstemError, match="hashes"):
        run.model.verify()
    assert run.model.verify(table)["rows"] == 32


def test_given_test_and_validation_files_are_the_parts(tmp_path):
    for name, rows, seed in (("train", 120, 0), ("valid", 40, 1), ("test", 50, 2)):
        table = made_table(rows, seed)
        lines = [",".join(table), *(",".join("" if v is None else str(v) for v in row) for row in zip(*table.values(), strict=True))]
        (tmp_path / f"{name}.csv").write_text("\n".join(lines), encoding="utf-8")
    files = {name: tmp_path / f"{name}.csv" for name in ("valid", "test")}
    run = ms.train(tmp_path / "train.csv", "buys", out=tmp_path / "run", backbone="linear", **{k: str(v) for k, v in files.items()})
    assert run.report["rows"] == 50
    split = json.loads((tmp_path / "run/split.json").read_text())
    assert {name: len(split[name]) for name in ("train", "valid", "test")} == {"train": 120, "valid": 40, "test": 50}
    assert run.model.evaluate(tmp_path / "test.csv")["metrics"]["accuracy"]["value"] == run.report["metrics"]["accuracy"]["value"]


def test_a_time_limit_within_a_later_candidate_drops_it(tmp_path):
    stop = Stop()

    def report(figures):
        if figures.get("candidate") == "mlp":
            stop.deadline = 0.0

    run = ms.train(made_table(), "buys", out=tmp_path / "run", backbones=["linear", "mlp"], stop=stop, report=report, **QUICK)
    resolved = yaml.safe_load((tmp_path / "run/config.yaml").read_text())
    assert [c["name"] for c in resolved["candidates"]] == ["linear"]
    assert "cuts" not in resolved
    assert run.chosen.startswith("Chosen: linear")


def test_early_stopping_never_watches_the_rows_that_are_scored(tmp_path, monkeypatch):
    from mainstem.training import fitting

    seen, fit, answers = [], fitting.fit, fitting.answers

    def fitted(candidate, problem, train, valid, **more):
        seen.append(("learned", set(train.source), set(valid.source) if valid is not None else set()))
        return fit(candidate, problem, train, valid, **more)

    def answered(made, table):
        seen.append(("scored", set(table.source), set()))
        return answers(made, table)

    monkeypatch.setattr(fitting, "fit", fitted)
    monkeypatch.setattr(fitting, "answers", answered)
    config = {"training": {"epochs": 2, "patience": 1}}
    ms.train(made_table(), "buys", out=tmp_path / "run", backbones=["linear", "mlp"], config=config)
    pairs = [(a, b) for a, b in itertools.pairwise(seen) if a[0] == "learned" and b[0] == "scored"]
    watching = [(learned, watched, scored) for (_, learned, watched), (_, scored, _) in pairs if watched]
    assert len(watching) == 5
    assert all(not scored & (learned | watched) and not learned & watched for learned, watched, scored in watching)
