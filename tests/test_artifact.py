"""The model folder: ids that do not change by themselves, paths that do not leave it, contents that make sense or are refused."""

import json

import numpy as np
import pytest

from mainstem import artifact, files
from mainstem.artifact import Artifact, Input
from mainstem.contracts import GraphSpec, Port, State
from mainstem.errors import MainstemError
from mainstem.schema import Column, Schema

TEXT = State({"pad": 0}, {"idf": np.arange(3, dtype=np.float32)}, {"tokenizer.json": b"{}"})
WHOLE = Artifact(
    task="classification",
    settings={"hidden": [4]},
    schema=Schema((Column("评论", "text"),), (Column("label", "category", {"order": "sorted"}),)),
    inputs=(Input("text", "text", ("评论",), {"form": "tokens"}, TEXT, "ngram", {"dim": 4}, "full"),),
    target=State({"values": ["a", "b"]}, files={"tokenizer.json": b"[]"}),
    state=State({"labels": ["a", "b"]}, {"context": np.eye(2)}, {"x.bin": bytes(range(256))}),
    graphs={"head": GraphSpec((Port("text.mean", "float32", ("row", "4")),), (Port("logits", "float32", ("row", "2")),), weights_id="w")},
)


@pytest.fixture
def folder(tmp_path):
    with files.folder(tmp_path / "model", {"format": artifact.FORMAT}) as made:
        artifact.write_contents(made, WHOLE)
    return tmp_path / "model"


def alter(folder, **changes):
    contents = json.loads((folder / "mainstem.json").read_bytes())
    (folder / "mainstem.json").write_text(json.dumps({**contents, **changes}))


def test_what_is_written_is_read(folder):
    read = artifact.read(folder)
    assert (read.task, read.settings, read.schema, read.graphs) == (WHOLE.task, WHOLE.settings, WHOLE.schema, WHOLE.graphs)
    for a, b in ((read.state, WHOLE.state), (read.target, WHOLE.target), (read.inputs[0].state, TEXT)):
        assert (a.json, a.files) == (b.json, b.files)
        assert {k: v.tolist() for k, v in a.arrays.items()} == {k: v.tolist() for k, v in b.arrays.items()}
    assert read.inputs[0].encode_id == WHOLE.inputs[0].encode_id
    artifact.check(folder)


@pytest.mark.parametrize("name", ["mainstem.json", "state.safetensors", "state/x.bin", "backbones/text/tokenizer.json"])
def test_a_changed_byte_is_found_and_named(folder, name):
    data = bytearray((folder / name).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / name).write_bytes(data)
    with pytest.raises(MainstemError, match=f"{name}: changed"):
        artifact.check(folder)


def test_missing_and_added_files_are_named(folder):
    (folder / "state/x.bin").unlink()
    (folder / "more.py").write_text("")
    with pytest.raises(MainstemError, match=r"more\.py: not listed; state/x\.bin: missing"):
        artifact.check(folder)


@pytest.mark.parametrize("found", [2, "1", None])
def test_another_format_is_refused(folder, found):
    alter(folder, format=found)
    with pytest.raises(MainstemError, match="and this version of mainstem reads format 1"):
        artifact.read(folder)


@pytest.mark.parametrize(
    "changes", [{"inputs": [{}]}, {"graphs": []}, {"target": {"json": {}, "arrays": ["x"], "files": {}}}, {"schema": 3}]
)
def test_contents_that_make_no_sense_are_one_sentence(folder, changes):
    alter(folder, **changes)
    with pytest.raises(MainstemError, match="does not describe a model"):
        artifact.read(folder)


@pytest.mark.parametrize("name", ["../x", "a/../../x", "/etc/passwd", "a\\b", "", "a\0b"])
def test_names_do_not_leave_the_folder(tmp_path, name):
    with pytest.raises(MainstemError, match="leaves the model folder"):
        artifact.inside(tmp_path, name)


def test_links_do_not_leave_the_folder(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "secret").write_text("s")
    (tmp_path / "model/link").symlink_to(tmp_path / "secret")
    (tmp_path / "model/up").symlink_to(tmp_path)
    for name in ("link", "up/secret"):
        with pytest.raises(MainstemError, match="through a link"):
            artifact.inside(tmp_path / "model", name)
    assert artifact.inside(tmp_path / "model", "a/b") == tmp_path / "model/a/b"


@pytest.mark.parametrize("name", ["../x", "A", "a b", ".hidden", "", "a/b", "x" * 65, "编码"])
def test_graphs_and_inputs_have_safe_names(name):
    with pytest.raises(MainstemError, match="is not allowed"):
        artifact.safe_name(name)


def test_a_folder_that_holds_no_model_says_what_one_is(tmp_path, folder):
    assert artifact.find(folder.parent) == folder  # a run folder has it under model/
    with pytest.raises(MainstemError, match="there is no such model"):
        artifact.find(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(MainstemError, match="this holds no model"):
        artifact.find(tmp_path / "empty")


# --- ids --------------------------------------------------------------------------------------------------------------

W = {"w": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.zeros(0, np.float32)}


def test_ids_are_stable_from_version_to_version():
    """These ids are keys of caches, and say which models share a session: they change only on purpose."""
    assert artifact.weights_id(W, {"graph": "head"}) == "4b5e5cb63614e24a17db88c7d0b1a465"
    assert WHOLE.inputs[0].encode_id == "38fbd35825c9a3805c566ab6cf52ec0b"


def test_ids_tell_weights_and_settings_apart_and_nothing_else():
    reference = artifact.weights_id(W, {"graph": "head", "n": 1})
    assert artifact.weights_id(dict(reversed(W.items())), {"n": 1, "graph": "head"}) == reference
    assert artifact.weights_id({**W, "w": np.asfortranarray(W["w"])}, {"graph": "head", "n": 1}) == reference
    for changed in (
        {**W, "w": np.nextafter(W["w"], np.float32(9))},
        {**W, "w": W["w"].astype(np.float64)},
        {**W, "w": W["w"].reshape(3, 2)},
        {"v": W["w"], "b": W["b"]},
    ):
        assert artifact.weights_id(changed, {"graph": "head", "n": 1}) != reference
    assert artifact.weights_id(W, {"graph": "head", "n": 2}) != reference


def test_encode_ids_depend_on_what_encoding_does():
    def changed(**fields):
        return Input(**{**{k: getattr(WHOLE.inputs[0], k) for k in ("name", "modality", "columns", "processor", "state")}, **fields})

    reference = changed().encode_id
    assert changed(name="other", columns=("x",)).encode_id == reference  # names are no part of it
    assert changed(processor={"form": "ngrams"}).encode_id != reference
    assert changed(state=State(TEXT.json, TEXT.arrays, {"tokenizer.json": b"{ }"})).encode_id != reference
    assert changed(state=State({"pad": 1}, TEXT.arrays, TEXT.files)).encode_id != reference


# --- adapters -----------------------------------------------------------------------------------------------------------


def adapter_folder(folder, config=None, arrays=None):
    """An adapter of one layer in PEFT's format; `config` and `arrays` change it."""
    files = {f"{artifact.ADAPTER_PREFIX}q.{part}.weight": np.ones(shape, np.float32) for part, shape in PAIR.items()}
    folder.mkdir()
    (folder / artifact.ADAPTER_CONFIG).write_text(json.dumps({"peft_type": "LORA", "lora_alpha": 6, **(config or {})}))
    (folder / artifact.ADAPTER_WEIGHTS).write_bytes(artifact.pack_arrays({**files, **(arrays or {})}))
    return folder


PAIR = {"lora_A": (3, 4), "lora_B": (5, 3)}


@pytest.mark.parametrize(("config", "factor"), [({}, 2.0), ({"use_rslora": True}, 6 / 3**0.5), ({"lora_alpha": 3.0}, 1.0)])
def test_an_adapter_is_read_with_the_factor_of_its_product(tmp_path, config, factor):
    [(name, (down, up, scale))] = artifact.read_adapter(adapter_folder(tmp_path / "a", config)).layers.items()
    assert (name, down.shape, up.shape) == ("q", (3, 4), (5, 3))
    assert scale == pytest.approx(factor)


@pytest.mark.parametrize(
    ("config", "arrays", "told"),
    [
        ({"peft_type": "IA3"}, {}, "of the kind IA3"),
        ({"lora_alpha": float("nan")}, {}, "no adapter_config.json of PEFT"),
        ({"lora_alpha": None}, {}, "no adapter_config.json of PEFT"),
        ({"use_dora": True}, {}, "'use_dora' cannot be loaded"),
        ({"bias": "all"}, {}, "train biases"),
        ({}, {f"{artifact.ADAPTER_PREFIX}q.lora_B.weight": np.ones((5, 2), np.float32)}, "no whole pair for the layer 'q'"),
        ({}, {f"{artifact.ADAPTER_PREFIX}k.lora_A.weight": np.ones((3, 4), np.float32)}, "no whole pair for the layer 'k'"),
        ({}, {"q.weight": np.ones((3, 4), np.float32)}, "holds 'q.weight', which is no LoRA"),
    ],
)
def test_what_is_no_lora_of_linear_layers_is_refused(tmp_path, config, arrays, told):
    with pytest.raises(MainstemError, match=told):
        artifact.read_adapter(adapter_folder(tmp_path / "a", config, arrays))


def test_an_adapter_of_rank_0_and_one_through_a_link_are_refused(tmp_path):
    empty = {f"{artifact.ADAPTER_PREFIX}q.lora_A.weight": np.ones((0, 4), np.float32)}
    empty[f"{artifact.ADAPTER_PREFIX}q.lora_B.weight"] = np.ones((5, 0), np.float32)
    with pytest.raises(MainstemError, match="no whole pair"):
        artifact.read_adapter(adapter_folder(tmp_path / "a", arrays=empty))
    folder = adapter_folder(tmp_path / "b")
    (folder / artifact.ADAPTER_WEIGHTS).rename(tmp_path / "elsewhere")
    (folder / artifact.ADAPTER_WEIGHTS).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(MainstemError, match="through a link"):
        artifact.read_adapter(folder)
