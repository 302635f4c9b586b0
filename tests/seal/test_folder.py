"""A model folder on its travels: moved, copied, opened by another version, kept without its data, asked at a server."""

import csv
import json
import re
import shutil
import subprocess
import sys

import pytest
from onnx import TensorProto, helper

import mainstem as ms
from mainstem import seal
from mainstem.cli import main
from mainstem.errors import MainstemError
from mainstem.modalities import number


@pytest.mark.parametrize("kind", ["table", "tokens", "pictures"])
def test_it_can_be_moved(made, kind, tmp_path, monkeypatch):
    shutil.copytree(made[kind].path / "model", tmp_path / "far/away")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    moved = ms.load("../far/away")
    assert moved.verify() == made[kind].model.verify()
    assert str(made.folder) not in "".join(p.read_text(errors="ignore") for p in moved.path.rglob("*.json"))


def test_another_format_is_one_sentence(made, tmp_path, anew, capsys):
    copy = tmp_path / "model"
    shutil.copytree(made["table"].path / "model", copy)
    contents = json.loads((copy / "mainstem.json").read_bytes())
    anew(copy, "mainstem.json", json.dumps({**contents, "format": 2}).encode())
    assert main(["verify", str(copy)]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "this model has format 2, and this version of mainstem reads format 1" in err


def test_a_graph_with_tensors_outside_its_file_is_refused(made, tmp_path, anew, monkeypatch, capsys):
    """ONNX Runtime would read them from the working directory."""
    copy = tmp_path / "model"
    shutil.copytree(made["table"].path / "model", copy)
    tensor = TensorProto(name="w", dims=[1], data_type=TensorProto.FLOAT, data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="w.bin")
    (tmp_path / "w.bin").write_bytes(b"\0\0\x80?")
    monkeypatch.chdir(tmp_path)
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
    graph = helper.make_graph([helper.make_node("Add", ["x", "w"], ["y"])], "g", [value], [out], [tensor])
    anew(copy, "onnx/head.onnx", helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]).SerializeToString())
    assert main(["verify", str(copy)]) == 2
    err = capsys.readouterr().err
    assert "keeps tensors outside its file" in err
    assert "head.onnx" in err


@pytest.mark.parametrize("place", ["../../secret", "/etc/hostname", "a/../../secret"])
def test_a_path_that_leaves_the_folder_is_refused(made, tmp_path, anew, place, capsys):
    copy = tmp_path / "model"
    shutil.copytree(made["tokens"].path / "model", copy)
    (tmp_path / "secret").write_text("{}")
    contents = json.loads((copy / "mainstem.json").read_bytes())
    files = next(i["state"]["files"] for i in contents["inputs"] if i["state"]["files"])
    files[next(iter(files))] = place
    anew(copy, "mainstem.json", json.dumps(contents).encode())
    assert main(["verify", str(copy)]) == 2
    assert f"the path '{place}' leaves the model folder" in capsys.readouterr().err


def test_a_link_out_of_the_folder_is_refused(made, tmp_path, capsys):
    copy = tmp_path / "model"
    shutil.copytree(made["table"].path / "model", copy)
    (tmp_path / "state").write_bytes((copy / "state.safetensors").read_bytes())
    (copy / "state.safetensors").unlink()
    (copy / "state.safetensors").symlink_to(tmp_path / "state")
    assert main(["verify", str(copy)]) == 2
    assert "state.safetensors: a link, not a file" in capsys.readouterr().err


# --- what a replay holds ---------------------------------------------------------------------------------------------


def test_a_replay_shows_what_data_may_hold(made):
    replay = seal.read(made["table"].path / "model")
    assert len(replay) == 30
    prices = replay.rows().columns["price"]
    assert {None, "", "N/A", "-"} <= set(prices)  # as the data spells it, and as requests do
    assert "unseen in training" in replay.rows().columns["district"]
    assert any(str(cell).endswith("+08:00") for cell in replay.rows().columns["since"])
    pictures = seal.read(made["pictures"].path / "model").rows().columns["image"]
    assert None in pictures


def test_hashes_keep_no_data(made, tmp_path, monkeypatch):
    data = made.settings["table"][0]
    run = made.train("table", tmp_path / "run", replay="hashes")
    kept = "".join(p.read_text(errors="ignore") for p in (run.path / "model/replay").iterdir())
    with data.open(encoding="utf-8") as stream:
        cells = {row["price"] for row in csv.DictReader(stream)} - {"", "N/A", "-"}
    assert [cell for cell in cells if f'"{cell}"' in kept] == []
    with pytest.raises(MainstemError, match="keeps only the hashes") as raised:
        run.model.verify()
    assert "mainstem verify MODEL DATA" in str(raised.value)
    assert run.model.verify(data)["rows"] == made["table"].model.verify()["rows"]
    lines = data.read_text(encoding="utf-8").splitlines()
    (tmp_path / "few.csv").write_text("\n".join(lines[:20]), encoding="utf-8")
    with pytest.raises(MainstemError, match="replay rows are not in this data"):
        run.model.verify(tmp_path / "few.csv")
    real = number.Number.encode
    monkeypatch.setattr(number.Number, "encode", lambda self, *rest: ({"value": real(self, *rest)[0]["value"] * 1.001}, {}))
    with pytest.raises(seal.Mismatch) as raised:
        run.model.verify(data)
    assert raised.value.stage == "encode table/numbers"


# --- at a live server ------------------------------------------------------------------------------------------------


def test_a_server_is_held_against_the_model_one_has(made, capsys):
    with subprocess.Popen(
        [sys.executable, "-m", "mainstem", "serve", f"flats={made['table'].path}", "--port", "0"], stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            said = ""
            for line in process.stderr:
                said += line
                if line.startswith("ready"):
                    break
            url = re.search(r"http://\S+", said)[0]
            assert main(["verify", str(made["table"].path), "--url", url]) == 0
            assert "served" in capsys.readouterr().out
            assert main(["verify", str(made["mlp"].path), "--url", url]) == 2  # the same columns, another model
            err = capsys.readouterr().err
            assert "stage  served" in err
            assert re.search(r"row    \d+\n", err)
            assert main(["verify", str(made["table"].path), "--url", url + "x"]) == 2
            assert "the server answered 404" in capsys.readouterr().err
        finally:
            process.terminate()
    assert main(["verify", str(made["table"].path), "--url", url]) == 2
    err = capsys.readouterr().err
    assert "cannot be asked" in err
    assert err.count("\n") == 1
