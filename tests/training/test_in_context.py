"""An in-context model from the run to the server: it says that it holds rows, and is left out where it must hold none."""

import shutil

import numpy as np
import pytest

import mainstem as ms
from mainstem import cli
from mainstem.config import Config
from mainstem.errors import MainstemError
from mainstem.training import plan, preparing
from mainstem.training.run import HOLDS


def table(rows=90):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(rows, 2))
    city, y = rng.choice(["Bern", "苏州"], rows), np.where(x[:, 0] > 0, "yes", "no")
    return {"a": list(x[:, 0]), "b": list(x[:, 1]), "city": list(city), "y": list(y)}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    said = []
    made = ms.train(table(), "y", out=tmp_path_factory.mktemp("context") / "run", backbones=["incontext"], say=said.append)
    return made, said


def test_output_card_and_inspect_say_that_rows_are_held(run, capsys):
    made, said = run
    assert HOLDS in said
    assert HOLDS in (made.path / "model/card.md").read_text(encoding="utf-8")
    cli.main(["inspect", str(made.path)])
    assert HOLDS in capsys.readouterr().out


def test_it_verifies_and_answers_alike_alone_and_among_others(run):
    model = ms.load(run[0].path)
    assert model.verify()["rows"] == 14
    rows = table(7)
    rows.pop("y")
    among = model.predict(rows)
    alone = [model.predict({name: [cells[i]] for name, cells in rows.items()})[0] for i in range(7)]
    for a, b in zip(among, alone, strict=True):
        assert a["scores"] == pytest.approx(b["scores"], abs=1e-5)


def test_a_changed_byte_of_the_rows_is_refused(run, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(run[0].path / "model", folder)
    place = folder / "onnx/head.shared.onnx"
    data = bytearray(place.read_bytes())
    data[len(data) // 2] ^= 1
    place.write_bytes(bytes(data))
    with pytest.raises(MainstemError, match=r"head\.shared\.onnx"):
        ms.load(folder)


def names(**settings):
    config = Config.model_validate({"data": {"targets": ("y",)}, **settings})
    return [c.name for c in plan.candidates(config, preparing.prepare(config, table()))[0]]


def test_a_model_that_is_to_hold_no_data_is_not_in_context():
    assert "incontext" in names()
    assert "incontext" not in names(replay="hashes")
    with pytest.raises(MainstemError, match="'incontext' keeps training rows"):
        names(replay="hashes", backbones=("incontext",))


def test_many_rows_are_left_to_others(monkeypatch):
    monkeypatch.setattr(plan, "IN_CONTEXT", 80)
    assert "incontext" not in names()
