"""Every plug-in of the registry through its contract: a new one has no test to write, and none to be left out of."""

import io

import numpy as np
import pytest
from PIL import Image
from small_gpt import sentences, writing

from mainstem import registry
from mainstem.modalities.image import plugin as image
from mainstem.modalities.series import Channel, Layout
from mainstem.modalities.series import plugin as series
from mainstem.testing.contracts import check_backbone, check_cold, check_modality, check_predictor, check_task

RNG = np.random.default_rng(0)


def picture(*size):
    stream = io.BytesIO()
    Image.fromarray(np.random.default_rng(len(size)).integers(0, 255, (*size, 3), np.uint8)).save(stream, "PNG")
    return stream.getvalue()


TABLE = {
    "a": [1.0, None, 3.5, -2.0, 0.25, 8.0] * 4,
    "b": ["x", "y", None, "x", "海淀", "y"] * 4,
}
KINDS = {"a": "number", "b": "category", "text": "text", "picture": "image", "history": "series"}
LAYOUT = Layout(
    time="t", channels=(Channel("v"), Channel("w")), future=(Channel("p", "category", ("x", "y")),), season=3, window=24, horizon=4
)
TEXTS = {"text": ["a", None, "a rather longer text, with a comma", "汉字也可以", "two words", "x" * 40]}
PICTURES = {"picture": [image.parse(picture(20, 30), {}), None, image.parse(picture(64, 64), {})]}


def series_cell(steps, seed):
    drawn = np.random.default_rng(seed).normal(size=steps).round(3).tolist()
    drawn[steps // 2] = None
    ahead = [None] * 4
    return {"t": [*range(steps + 4)], "v": drawn + ahead, "w": [1.5] * steps + ahead, "p": (["x", "y", None] * steps)[: steps + 4]}


HISTORIES = {"history": [series.parse(series_cell(steps, i), LAYOUT.json()) for i, steps in enumerate((40, 9, 30, 24, 60, 35) * 4)]}
SMALL_TEXT = {"vocab_size": 280, "max_length": 32}

# name in the registry: (reference, its input, settings that make it small)
NETWORKS = {
    "linear": ("linear", TABLE, {}),
    "mlp": ("mlp", TABLE, {"width": 8}),
    "ngram": ("ngram", TEXTS, {"buckets": 512, "dim": 8}),
    "rnn": ("rnn", TEXTS, {**SMALL_TEXT, "dim": 8, "width": 8}),
    "lstm": ("lstm", TEXTS, {**SMALL_TEXT, "dim": 8, "width": 8, "layers": 2}),
    "gru": ("gru", TEXTS, {**SMALL_TEXT, "dim": 8, "width": 8}),
    "cnn_series": ("cnn_series", HISTORIES, {"width": 8}),
    "gru_series": ("gru_series", HISTORIES, {"width": 8, "length": 12}),
    "bert": ("bert-tiny", TEXTS, SMALL_TEXT),
    "gpt": ("gpt", TEXTS, {**SMALL_TEXT, "width": 32, "layers": 2, "heads": 4}),
    "cnn": ("cnn", PICTURES, {"size": 16, "width": 8}),
    "resnet": ("resnet18", PICTURES, {"size": 32}),
    "vit": ("vit-tiny", PICTURES, {"size": 28}),
    "vgg": ("vgg11", PICTURES, {"size": 32}),
    "alexnet": ("alexnet", PICTURES, {"size": 63}),
}
FOLDERS = {"hf": "bert", "timm": "resnet"}  # these read folders: what a family from scratch has saved
PREDICTORS = ("linear", "trees", "blend", "incontext")
ALARMS = {"neighbours": TABLE, "neighbours_series": HISTORIES}
LABELLERS = ("kernels_series", "statistics_series")
FORECASTERS = ("naive_series", "linear_series", "trees_series", "incontext_series")
UNTRAINED = ("embedding",)  # nothing is trained for it (tests/tasks/test_embedding.py)
CELLS = {
    "number": (["1,200", "", "3.5", "－２"], {}),
    "category": (["x", "y", None, 3, 3.0, True], {}),
    "date": (["2024-01-31", "N/A", "2020-02-29", "1999-12-31"], {}),
    "text": (["a", "", "longer text", "汉字"], {"buckets": 512}),
    "image": ([picture(8, 8), None, picture(12, 9)], {"size": [8, 8]}),
    "series": ([series_cell(12, 0), None, series_cell(40, 1)], LAYOUT.json()),
    "labels": (["a|b", "b", "", "c|a"], {"separator": "|"}),
}
ANSWERS = {"number": CELLS["number"], "category": CELLS["category"], "labels": CELLS["labels"]}
ANSWERS["text"] = (CELLS["text"][0], {"form": "tokens", "train": {"vocab_size": 280}})


def test_no_plug_in_is_left_out():
    assert set(registry.names("backbones")) == {*NETWORKS, *FOLDERS, *PREDICTORS, *FORECASTERS, *LABELLERS, *ALARMS}
    # the table encoder takes several columns: it is gone through with every network and predictor of tables
    assert {n for n in registry.names("modalities") if not n.startswith("probe_")} == {*CELLS, "table"}
    assert {n for n in registry.names("tasks") if not n.startswith("probe_")} == {
        *TASKS,
        *TEXTS_TASKS,
        "embedding",
    }  # which nothing is trained for (tests/tasks/test_embedding.py)
    assert registry.names("runtimes") == ["onnx", "torch"]  # both sides of every check of a network


def test_describing_imports_no_torch():
    check_cold([*(text for text, _, _ in NETWORKS.values()), *PREDICTORS, *FORECASTERS, *LABELLERS, *ALARMS])


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Family → the folder that it saved once it passed."""
    folders = {}

    def check(name):
        if name not in folders:
            text, columns, settings = NETWORKS[name]
            folders[name] = check_backbone(text, columns, KINDS, tmp_path_factory.mktemp(name), settings)
        return folders[name]

    return check


@pytest.fixture
def narrow_vgg(monkeypatch):
    """Two narrow layers before its 4,096 features: the true ones take half a gigabyte."""
    from timm.models.vgg import ConvMlp

    real = ConvMlp.__init__
    monkeypatch.setattr(ConvMlp, "__init__", lambda self, *args, **more: real(self, *args, **{**more, "mlp_ratio": 1 / 256}))


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.usefixtures("narrow_vgg")
def test_network(name, saved):
    assert (saved(name) / "config.json").is_file()


@pytest.mark.parametrize(("name", "saver"), FOLDERS.items())
def test_network_of_a_folder(name, saver, saved, tmp_path):
    check_backbone(f"{name}:{saved(saver)}", NETWORKS[saver][1], KINDS, tmp_path)


@pytest.mark.parametrize("name", PREDICTORS)
def test_predictor(name):
    index = np.arange(len(TABLE["a"])) % 3
    hot = np.eye(3, dtype=np.float32)[index]
    answers = {"classification": {"index": index}, "regression": {"value": RNG.normal(size=len(index))}, "labels": {"hot": hot}}
    check_predictor(name, TABLE, KINDS, answers)


@pytest.mark.parametrize("name", FORECASTERS)
def test_forecaster(name):
    answers = {"values": RNG.normal(size=(24, 4)), "known": np.ones((24, 4))}
    check_predictor(name, HISTORIES, KINDS, {"forecasting": answers}, {"quantiles": [0.1, 0.5, 0.9]})


@pytest.mark.parametrize(("name", "columns"), ALARMS.items())
def test_alarm(name, columns):
    check_predictor(name, columns, KINDS, {"anomaly": {}})


@pytest.mark.parametrize("name", LABELLERS)
def test_labeller(name):
    check_predictor(name, HISTORIES, KINDS, {"classification": {"index": np.arange(24) % 3}})


@pytest.mark.parametrize("name", CELLS)
def test_modality(name):
    cells, settings = CELLS[name]
    check_modality(name, cells, settings)


@pytest.mark.parametrize("name", ANSWERS)
def test_modality_of_answers(name):
    cells, settings = ANSWERS[name]
    check_modality(name, cells, settings, answer=True)


def rows():
    drawn = np.random.default_rng(0).normal(size=(120, 2)).round(3).tolist()
    return [
        {"a": a, "b": b, "sign": "up" if a > b else "down", "sum": a + 2 * b, "tags": "|".join(["x"] * (a > 0) + ["y"] * (b > 0)) or "none"}
        for a, b in drawn
    ]


TEXTS_TASKS = {"generation": None}  # each gone through on small texts below


def steps():
    drawn = np.random.default_rng(0).normal(size=(3, 60)).round(3)
    return [{"id": "abc"[i], "t": t, "v": v + t % 3} for i, row in enumerate(drawn.tolist()) for t, v in enumerate(row)]


TABLE_TASK = {"inputs": ["a", "b"], "backbone": "mlp", "epochs": 2, "separator": "|"}
TASKS = {
    "classification": (rows, "sign", TABLE_TASK),
    "regression": (rows, "sum", TABLE_TASK),
    "labels": (rows, "tags", TABLE_TASK),
    "anomaly": (rows, (), {"inputs": ["a", "b"]}),
    "forecasting": (steps, "v", {"series": "id", "time": "t", "horizon": 4, "backbone": "gru", "epochs": 2}),
}


@pytest.mark.parametrize("task", TASKS)
def test_task(task, tmp_path):
    make, target, settings = TASKS[task]
    run = check_task(task, make(), target, tmp_path / "run", **settings)
    assert run.model.pipeline.artifact.task == task


@pytest.mark.parametrize(("task", "target"), TEXTS_TASKS.items())
def test_task_over_texts(task, target, tmp_path):
    run = check_task(task, [{"text": text} for text in sentences(60)], target, tmp_path / "run", config=writing("text", epochs=2))
    assert run.model.pipeline.artifact.task == task


# --- a plug-in that breaks its contract is refused -----------------------------------------------------------------------


def test_padding_that_shows_is_found(monkeypatch, tmp_path):
    plugin = registry.load("backbones", "ngram").plugin
    real = type(plugin).forward
    monkeypatch.setattr(
        type(plugin), "forward", lambda self, module, arrays: {"mean": real(self, module, arrays)["mean"] + arrays["ids"].shape[1]}
    )
    with pytest.raises(AssertionError, match="alone and in a batch"):
        check_backbone("ngram", TEXTS, KINDS, tmp_path, {"buckets": 512, "dim": 8})


def test_weights_that_are_not_saved_are_found(monkeypatch, tmp_path):
    plugin = registry.load("backbones", "mlp").plugin
    real = type(plugin).save
    monkeypatch.setattr(type(plugin), "save", lambda self, module, ref: real(self, plugin.build(ref), ref))
    with pytest.raises(AssertionError, match="saved and built again"):
        check_backbone("mlp", TABLE, KINDS, tmp_path, {"width": 8})


def test_a_width_that_is_not_as_described_is_found(monkeypatch, tmp_path):
    plugin = registry.load("backbones", "mlp").plugin
    real = type(plugin).forward
    monkeypatch.setattr(type(plugin), "forward", lambda self, module, arrays: {"hidden": real(self, module, arrays)["hidden"][:, :3]})
    with pytest.raises(AssertionError, match="has shape"):
        check_backbone("mlp", TABLE, KINDS, tmp_path, {"width": 8})


def test_a_value_that_depends_on_its_neighbours_is_found(monkeypatch):
    plugin = registry.load("modalities", "number").plugin
    monkeypatch.setattr(type(plugin), "encode", lambda self, values, *_: ({"value": np.full(len(values), float(len(values)))}, {}))
    with pytest.raises(AssertionError, match="depends on the others"):
        check_modality("number", ["1", "", "2"])
