"""Skew planted where it happens: in what is installed beside a model, and in the exporter. Each is refused by the stage it is in."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL.Image import Resampling

import mainstem
from mainstem import schema, seal
from mainstem.cli import main
from mainstem.modalities import category, date, image, number, text
from mainstem.nn import pooling
from mainstem.runtimes import onnx as graphs
from mainstem.tasks import _temperature, classification, labels, regression

KINDS = ("table", "number", "labels", "mlp", "ngram", "tokens", "pictures")


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_caught_that_is_not_there(made, kind):
    run = made[kind]
    answer = run.model.verify()
    sealed = json.loads((run.path / "model/seal.json").read_bytes())
    assert answer["worst"] == pytest.approx(sealed["worst"], abs=1e-6)
    assert answer["rows"] > 8
    assert main(["verify", str(run.path)]) == 0


# --- in installed code and libraries ---------------------------------------------------------------------------------


def other_filter(patch):
    patch.setattr(image, "resample", lambda name: Resampling.BICUBIC)


def other_mean(patch):
    real = image.ImageModality.encode
    other = {"mean": image.MEAN, "std": image.STD}
    patch.setattr(image.ImageModality, "encode", lambda self, v, settings, *rest: real(self, v, {**settings, **other}, *rest))


def no_transparency(patch):
    patch.setattr(image, "_rgb", lambda picture: picture.convert("RGB"))


def no_lower_casing(patch):
    class Bare:
        @staticmethod
        def from_str(data):
            from tokenizers import Tokenizer, normalizers

            tokenizer = Tokenizer.from_str(data)
            tokenizer.normalizer = normalizers.Sequence([])
            return tokenizer

    patch.setattr(text, "Tokenizer", Bare)


def other_hash(patch):
    patch.setattr(text, "_STEP", np.uint64(0x9E3779B97F4A7C17))


def swapped_labels(patch):
    real = classification.classified
    patch.setattr(classification, "classified", lambda p, names, good: real(p, names[::-1], good))


def other_fallback(patch):
    patch.setattr(category, "UNSEEN", category.KNOWN)


def one_spelling_less(patch):
    patch.setattr(schema, "MISSING", schema.MISSING - {"n/a"})


def one_word_more(patch):
    patch.setattr(schema, "MISSING", schema.MISSING | {"mitte"})


def dashes_are_text(patch):
    patch.setattr(number, "_DASHES", frozenset())


def decimal_comma(patch):
    real = number.ascii_form
    patch.setattr(number, "ascii_form", lambda cell: real(cell).replace(",", "."))


def other_scaling(patch):
    real = number.Number.encode
    patch.setattr(number.Number, "encode", lambda self, *rest: ({"value": real(self, *rest)[0]["value"] * 1.001}, {}))


def week_from_sunday(patch):
    real, at = date._parts, date.NAMES.index("weekday_sin")
    patch.setattr(date, "_parts", lambda values: turned(real(values), at))


def turned(parts, at):
    return np.where(np.arange(parts.shape[1]) == at, -parts, parts)


def no_zones(patch):
    patch.setattr(date, "_zone", lambda mark: date.UTC)


def half_precision(patch):
    """A runtime that computes with less: its answers are rounded to float16."""
    real = graphs.function

    def function(session):
        run = real(session)
        return lambda *call: {name: array.astype(np.float16).astype(array.dtype) for name, array in run(*call).items()}

    patch.setattr(graphs, "function", function)


def no_temperature(patch):
    real = _temperature.softmax
    patch.setattr(_temperature, "softmax", lambda logits, temperature: real(logits, temperature * 1.1))


def plain_thresholds(patch):
    real = labels.Labels.decode
    clear = {"thresholds": [0.999, 0.999]}
    patch.setattr(labels.Labels, "decode", lambda self, o, b, s: real(self, o, b, type(s)({**s.json, **clear}, s.arrays, s.files)))


def other_units(patch):
    real = regression._unscale
    patch.setattr(regression, "_unscale", lambda scaled, state: [value * 1.05 for value in real(scaled, state)])


SKEWS = [
    ("pictures", other_filter, "encode image/pixels"),
    ("pictures", other_mean, "encode image/pixels"),
    ("pictures", no_transparency, "encode image/pixels"),
    ("tokens", no_lower_casing, "encode text/ids"),
    ("ngram", other_hash, "encode text/ids"),
    ("table", swapped_labels, "decode"),
    ("table", other_fallback, "encode table/categories"),
    ("table", one_spelling_less, "parse"),
    ("table", one_word_more, "parse"),
    ("table", dashes_are_text, "parse"),
    ("table", decimal_comma, "parse"),
    ("mlp", other_scaling, "encode table/numbers"),
    ("table", week_from_sunday, "encode table/numbers"),
    ("table", no_zones, "parse"),
    ("ngram", half_precision, "call backbone.text output mean"),
    ("table", half_precision, "call head output logits"),
    ("tokens", no_temperature, "decode"),
    ("labels", plain_thresholds, "decode"),
    ("number", other_units, "decode"),
]


@pytest.mark.parametrize(("kind", "plant", "stage"), SKEWS, ids=lambda value: getattr(value, "__name__", None))
def test_skew_in_what_is_installed_is_refused(made, kind, plant, stage, monkeypatch, capsys):
    path = str(made[kind].path)
    text._tokenizer.cache_clear()
    plant(monkeypatch)
    code = main(["verify", path])
    monkeypatch.undo()
    text._tokenizer.cache_clear()
    out, err = capsys.readouterr()
    assert (code, out) == (2, "")
    assert re.search(rf"^  stage  {re.escape(stage)}$", err, re.MULTILINE), err
    assert re.search(r"^  row    \d+$", err, re.MULTILINE), err
    assert re.search(r"^  size   \S", err, re.MULTILINE), err
    assert mainstem.load(path).verify()["rows"] > 8  # and none the worse for it


def test_an_altered_copy_of_the_installed_package_is_refused(made, tmp_path):
    """As it happens: a process with another resize filter in its site-packages."""
    copy = tmp_path / "mainstem"
    shutil.copytree(Path(mainstem.__file__).parent, copy, ignore=shutil.ignore_patterns("__pycache__"))
    file = copy / "modalities/image.py"
    before = file.read_text(encoding="utf-8")
    file.write_text(before.replace('"bilinear": Resampling.BILINEAR', '"bilinear": Resampling.BOX'), encoding="utf-8")
    assert file.read_text(encoding="utf-8") != before
    done = subprocess.run(
        [sys.executable, "-m", "mainstem", "verify", str(made["pictures"].path)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert "stage  encode image/pixels" in done.stderr
    assert "Traceback" not in done.stderr


# --- in the exporter, before sealing ---------------------------------------------------------------------------------


def altered(spec, data, change):
    """The graph with its float tensors changed."""
    model = onnx.load_from_string(data)
    for tensor in model.graph.initializer:
        array = onnx.numpy_helper.to_array(tensor)
        if array.dtype.kind == "f":
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.ascontiguousarray(change(array)).astype(array.dtype), tensor.name))
    return model.SerializeToString()


def larger_bias(spec, write):
    data = write()
    return altered(spec, data, lambda a: a * 1.1 if a.shape == (2,) else a) if spec.outputs[0].name == "logits" else data


def in_float16(spec, write):
    from onnxruntime.transformers.float16 import convert_float_to_float16

    return convert_float_to_float16(onnx.load_from_string(write()), keep_io_types=True).SerializeToString()


def over_padding(spec, write):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pooling, "mean", lambda sequence, mask: sequence.mean(1))
        return write()


@pytest.mark.parametrize(
    ("kind", "spoil", "stage"),
    [
        ("tokens", larger_bias, "call head output logits"),
        ("mlp", larger_bias, "call head output logits"),
        ("ngram", in_float16, "call backbone.text output mean"),
        ("pictures", in_float16, "call backbone.image output pooled"),
        ("tokens", over_padding, "call backbone.text output mean"),
    ],
)
def test_a_graph_that_answers_otherwise_is_not_written(made, kind, spoil, stage, monkeypatch, tmp_path):
    real = graphs.write
    monkeypatch.setattr(graphs, "write", lambda spec, inputs: spoil(spec, lambda: real(spec, inputs)))
    with pytest.raises(seal.Mismatch) as raised:
        made.train(kind, tmp_path / "run")
    assert raised.value.stage == stage
    assert raised.value.row is not None
    assert re.search(r"differs by up to [\d.e-]+, allowed [\d.e-]+", raised.value.size)
    assert f"stage {stage}" in str(raised.value)
    assert [p.name for p in (tmp_path / "run").iterdir() if "model" in p.name] == []


def test_training_that_cannot_be_sealed_exits_2(made, monkeypatch, tmp_path, capsys):
    real = graphs.write
    monkeypatch.setattr(graphs, "write", lambda spec, inputs: larger_bias(spec, lambda: real(spec, inputs)))
    data, settings = made.settings["mlp"]
    flags = [f"--input={name}" for name in settings["inputs"]]
    code = main(["train", str(data), "--target", "state", *flags, "--backbone", "mlp", "--epochs", "2", "-o", str(tmp_path / "run")])
    assert code == 2
    assert "stage call head output logits" in capsys.readouterr().err
    assert not (tmp_path / "run/model").exists()
