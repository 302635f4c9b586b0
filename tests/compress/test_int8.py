"""A small text model and its int8 form: one graph for all tasks, answers that depend on nothing else, tampering and saturation caught."""

import json
import random

import numpy as np
import pytest

import mainstem as ms
from mainstem import artifact, files, seal
from mainstem.cli import main
from mainstem.compress import _model, _samples, _windows, int8
from mainstem.compress._graph import Graph

onnx = pytest.importorskip("onnx")
pytest.importorskip("torch")

GOOD, BAD = "fine lovely great warm bright".split(), "bad dull cold broken slow".split()
BACKBONE = "backbone.text"


def rows(seed=0, count=120):
    rng = random.Random(seed)
    made = []
    for i in range(count):
        words = rng.choices(GOOD if i % 2 else BAD, k=rng.randint(1, 9)) + rng.choices("the film a room we it".split(), k=3)
        rng.shuffle(words)
        made.append({"text": " ".join(words), "label": "good" if i % 2 else "bad", "long": "yes" if len(words) > 7 else "no"})
    return made


def trained(target, backbone, folder, **settings):
    return ms.train(rows(), target, input="text", backbone=backbone, epochs=1, out=folder, allow_leak=True, **settings)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("int8")


@pytest.fixture(scope="module")
def model(folder):
    return trained("label", "bert-tiny", folder / "first").model


@pytest.fixture(scope="module")
def small(model, folder):
    return ms.api.compress(model.path, folder / "first-int8")


def graph_of(model):
    return (model.path / "onnx" / f"{BACKBONE}.onnx").read_bytes()


def run(graph, arrays):
    from mainstem.runtimes import onnx as runtime

    return runtime.function(runtime.session(graph))(arrays, ("mean",))["mean"]


def encoded(model, texts):
    return dict(model.pipeline.encode(model.pipeline.parse(model.read(texts))[0]).inputs["text"])


def test_a_compressed_model_is_a_model_like_any_other(model, small):
    assert small.verify()["rows"] == len(seal.read(small.path))
    texts = [row["text"] for row in rows(1, 40)]
    same = [a["prediction"] == b["prediction"] for a, b in zip(model.predict(texts), small.predict(texts), strict=True)]
    assert np.mean(same) >= 0.95
    assert len(graph_of(model)) > 3 * len(graph_of(small))
    assert not list(small.path.rglob("model.safetensors"))


def test_the_seal_says_what_was_found_and_what_was_allowed(small):
    told = json.loads((small.path / "seal.json").read_bytes())["compressed"]
    assert told["allowed"] == {"same": _model.SAME, "calls": _model.NEAR}
    assert told["found"]["same"] >= _model.SAME
    assert 0 < told["found"]["calls"][BACKBONE] <= _model.NEAR


def test_an_answer_depends_neither_on_its_batch_nor_on_padding(small):
    texts = [row["text"] for row in rows(2, 12)]
    together = run(graph_of(small), encoded(small, texts))
    for i, text in enumerate(texts):
        arrays = encoded(small, [text])
        assert np.array_equal(run(graph_of(small), arrays)[0], together[i])
        padded = {name: np.pad(array, ((0, 0), (0, 21))) for name, array in arrays.items()}
        assert np.array_equal(run(graph_of(small), padded)[0], together[i])


def test_tasks_on_one_backbone_share_one_graph(model, folder, small):
    backbone = model.path / "backbones" / "text"
    made = []
    for target in ("label", "long"):
        run_ = trained(target, f"bert:{backbone}", folder / f"probe-{target}", adapt="probe")
        made.append(ms.api.compress(run_.path, folder / f"probe-{target}-int8"))
    assert graph_of(made[0]) == graph_of(made[1])
    ids = [m.pipeline.artifact.graphs[BACKBONE].weights_id for m in made]
    assert ids[0] == ids[1]
    assert ids[0] != artifact.read(folder / "probe-label" / "model").graphs[BACKBONE].weights_id


# --- saturation -------------------------------------------------------------------------------------------------------


def saturating(data):
    """The graph as a processor without VNNI computes it: pairs of products are added in 16 bits, which are cut off (vpmaddubsw)."""
    made = Graph(data)
    for node in made.nodes:
        if node.op_type != "MatMulIntegerToFloat":
            continue
        q, w, scale, each, zero, _, bias = node.input
        weights = made.constants[w].astype(np.float32)
        odd = len(weights) % 2
        pairs = np.pad(weights, ((0, odd), (0, 0))).reshape(-1, 2, weights.shape[1])
        nodes = []
        numbers = made.node(nodes, "Cast", [q], to=1)
        if odd:
            numbers = made.node(nodes, "Pad", [numbers, made.constant(np.array([0] * 5 + [1]))])
        numbers = made.node(nodes, "Reshape", [numbers, made.constant(np.array([0, 0, -1, 2, 1]))])
        products = made.node(nodes, "Mul", [numbers, made.constant(pairs)])
        added = made.node(nodes, "ReduceSum", [products, made.constant(np.array([3]))], keepdims=0)
        cut = made.node(nodes, "Clip", [added, made.constant(np.float32(-32768)), made.constant(np.float32(32767))])
        total = made.node(nodes, "ReduceSum", [cut, made.constant(np.array([2]))], keepdims=0)
        zeros = made.constant(made.constants[zero].astype(np.float32) * weights.sum(0))
        scaled = made.node(
            nodes, "Mul", [made.node(nodes, "Sub", [total, zeros]), made.constant(made.constants[scale] * made.constants[each])]
        )
        made.node(nodes, "Add", [scaled, bias], node.output[0])
        made.replace(node, nodes)
    return made.written()


def moved(small, graph, place):
    """The folder as it lies on a machine that computes like this graph."""
    with files.folder(place, {"format": artifact.FORMAT}) as folder:
        for path in small.path.rglob("*"):
            name = path.relative_to(small.path).as_posix()
            if path.is_file() and name not in (files.MANIFEST, f"onnx/{BACKBONE}.onnx"):
                folder.add(name, path)
        folder.add(f"onnx/{BACKBONE}.onnx", graph)
    return place


def test_seven_bits_answer_alike_where_a_processor_saturates(small, tmp_path):
    seal.verify(moved(small, saturating(graph_of(small)), tmp_path / "elsewhere"))


def test_verify_catches_weights_of_eight_bits_where_a_processor_saturates(model, tmp_path, monkeypatch):
    monkeypatch.setattr(_windows.rounded_for, "__defaults__", (127, 64))
    wide = ms.api.compress(model.path, tmp_path / "wide")
    seal.verify(wide.path)
    with pytest.raises(seal.Mismatch) as caught:
        seal.verify(moved(wide, saturating(graph_of(wide)), tmp_path / "elsewhere"))
    assert caught.value.stage.startswith(f"call {BACKBONE}")


def test_no_weight_of_a_product_has_more_than_seven_bits(small):
    made = Graph(graph_of(small))
    weights = [made.constants[node.input[1]] for node in made.nodes if node.op_type == "MatMulIntegerToFloat"]
    assert len(weights) >= 12
    assert max(int(np.abs(w.astype(int)).max()) for w in weights) <= _windows.WEIGHT


# --- refusals ---------------------------------------------------------------------------------------------------------


def test_what_cannot_be_compressed_is_told_in_a_sentence(small, table_run, tmp_path, capsys):
    cases = [
        ([str(small.path)], "compressed already, by int8"),
        ([str(table_run.path)], "nothing that int8 compresses"),
        ([str(table_run.path), "--method", "int9"], "no method of compression is named 'int9'. Did you mean 'int8'"),
    ]
    for arguments, told in cases:
        assert main(["compress", *arguments, "-o", str(tmp_path / "out")]) == 2
        assert told in capsys.readouterr().err
        assert not (tmp_path / "out").exists()


def test_the_command_measures_both_models_on_rows_with_answers(model, tmp_path, capsys):
    asked = rows(3, 50)
    data = tmp_path / "test.csv"
    data.write_text("text,label\n" + "".join(f"{row['text']},{row['label']}\n" for row in asked))
    assert main(["compress", str(model.path), str(data), "--method", "int8", "-o", str(tmp_path / "out")]) == 0
    out, err = capsys.readouterr()
    assert f"Sealed: {tmp_path / 'out'}" in out
    tested = json.loads((tmp_path / "out/seal.json").read_bytes())["compressed"]["tested"]
    made = ms.load(tmp_path / "out")
    texts, right = [row["text"] for row in asked], [row["label"] for row in asked]
    before, after = ([answer["prediction"] for answer in each.predict(texts)] for each in (model, made))
    assert (tested["rows"], tested["same"]) == (50, pytest.approx(np.mean([a == b for a, b in zip(before, after, strict=True)])))
    expected = [np.mean([a == b for a, b in zip(each, right, strict=True)]) for each in (before, after)]
    assert tested["metrics"]["accuracy"] == pytest.approx(expected)
    assert "of 50 rows of the data" in err
    assert made.verify(data)["rows"] > 0


@pytest.mark.parametrize(
    ("text", "part"),
    [("text\nfine\n", "label"), ("", "test.csv"), (None, "test.csv")],
    ids=["no answers", "empty", "missing"],
)
def test_rows_that_cannot_be_measured_on_are_told_in_a_sentence(model, tmp_path, capsys, text, part):
    data = tmp_path / "test.csv"
    if text is not None:
        data.write_text(text)
    assert main(["compress", str(model.path), str(data), "-o", str(tmp_path / "out")]) == 2
    err = capsys.readouterr().err
    assert part in err.splitlines()[-1]
    assert "Traceback" not in err
    assert not (tmp_path / "out").exists()


def test_a_model_with_an_adapter_is_refused(model, tmp_path, capsys):
    backbone = f"bert:{model.path / 'backbones' / 'text'}"
    run_ = trained("label", backbone, tmp_path / "adapted", adapt="lora")
    assert main(["compress", str(run_.path), "--method", "int8", "-o", str(tmp_path / "out")]) == 2
    err = capsys.readouterr().err
    assert "adapts its backbone by LoRA" in err
    assert "Train with --adapt probe or full, and compress that." in err
    assert not (tmp_path / "out").exists()


def test_a_result_that_answers_otherwise_is_not_written(model, tmp_path, monkeypatch):
    monkeypatch.setattr(_model, "NEAR", 1e-6)
    with pytest.raises(ms.MainstemError, match="int8 changes this model too much"):
        ms.api.compress(model.path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_inspect_and_card_say_what_it_is(small, capsys):
    assert main(["inspect", str(small.path)]) == 0
    assert "Compressed by int8: backbone.text from weights" in capsys.readouterr().out
    assert "Compressed by int8" in (small.path / "card.md").read_text(encoding="utf-8")


def test_a_graph_without_products_is_left_alone():
    node = onnx.helper.make_node("Relu", ["x"], ["y"])
    ports = [onnx.helper.make_tensor_value_info(name, 1, [None, 4]) for name in "xy"]
    graph = onnx.helper.make_model(onnx.helper.make_graph([node], "g", ports[:1], ports[1:]))
    assert int8.compress(graph.SerializeToString(), []) is None


def test_pictures_made_here_are_the_same_every_time():
    a, b = (_samples.picture(np.random.default_rng(3)) for _ in range(2))
    assert np.array_equal(a, b)
    assert a.std() > 20
