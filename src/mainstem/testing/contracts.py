"""What every plug-in must pass; third parties run it on theirs. Each function raises AssertionError with what is broken.

check_backbone("mlp", {"a": [1.0, None, 3.0]}, {"a": "number"}, tmp_path)
check_modality("number", ["1,200", "", "3"])
check_task("classification", rows, "label", tmp_path / "run", backbone="mlp", epochs=2)
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from mainstem import files, registry
from mainstem.contracts import Array, Arrays, Call, Feature, Info, Rows, State, Table, Value
from mainstem.schema import Column, Schema

ABSOLUTE, RELATIVE = 1e-5, 1e-4  # of two ways to the same numbers, as the seal allows


def check_cold(texts: Sequence[str]) -> None:
    """Describing these backbones imports no PyTorch. One fresh process for all."""
    code = """
import json, sys
from mainstem import registry
for text in json.loads(sys.argv[1]):
    ref = registry.resolve(text)
    module = registry.load("backbones", ref.family)
    for kind in ("plugin", "predictor"):
        if hasattr(module, kind):
            getattr(module, kind).describe(ref)
    assert "torch" not in sys.modules, text
"""
    done = subprocess.run([sys.executable, "-c", code, json.dumps(list(texts))], capture_output=True, text=True, encoding="utf-8")
    _that(done.returncode == 0, f"describe fails or imports torch: {done.stderr[-800:]}")


def check_backbone(
    text: str, columns: Mapping[str, Sequence[Value]], kinds: Mapping[str, str], folder: Path, settings: Mapping[str, Any] | None = None
) -> Path:
    """A network from its description to a saved folder that answers alike; returns that folder.

    columns: typed values of the input by column, three rows at least, of different lengths where the input has lengths.
    It is what it says (features by name, width and axes); a row alone gives what it gives in a padded batch; ONNX Runtime
    gives what PyTorch gives, on one row and on many; saved and built again it gives the same, bit for bit.
    """
    from mainstem.network import BackboneNet

    ref = replace(registry.resolve(text), settings=dict(settings or {}))
    plugin = registry.load("backbones", ref.family).plugin
    encoded = _Encoded(plugin.describe(ref), columns, kinds)
    ref = replace(ref, state=encoded.state)
    info: Info = plugin.describe(ref)

    def network(ref: Any) -> Any:
        net = BackboneNet(plugin, plugin.build(ref), info)
        net.features = tuple(info.features)
        return net

    net = network(ref)
    answer, whole = _torch(net), encoded.rows()
    expected = answer(whole)
    _check_features(info.features, expected, len(encoded))
    _check_alone(net, encoded, expected)
    _check_onnx(net, encoded, expected)
    made = folder / f"{ref.family}-saved"
    with files.folder(made) as writing:
        for name, content in plugin.save(net.module, ref).items():
            writing.add(name, content)
    again = _torch(network(replace(ref, folder=made)))(whole)
    _that(all(np.array_equal(again[name], expected[name]) for name in expected), "saved and built again it answers otherwise")
    bare = registry.resolve(str(made))
    _that(
        registry.load("backbones", bare.family).plugin.describe(replace(bare, state=encoded.state)).modality == info.modality, "bare folder"
    )
    return made


def check_predictor(
    text: str,
    columns: Mapping[str, Sequence[Value]],
    kinds: Mapping[str, str],
    answers: Mapping[str, Arrays],
    settings: Mapping[str, Any] | None = None,
) -> None:
    """A predictor for each task in `answers` (task → encoded answers): its graph gives what its library gives.

    columns: typed values by column. settings: of the task, where the input is no table.
    """
    from mainstem.runtimes import onnx
    from mainstem.runtimes._calls import GraphRunner, prepare

    ref = registry.resolve(text)
    predictor = registry.load("backbones", ref.family).predictor
    info = predictor.describe(ref)
    encoded = _Encoded(info, columns, kinds)
    arrays = encoded.rows()
    categories = [len(c["values"]) + 2 for c in encoded.state.json.get("categories", ())]
    given = {"categories": categories, "input": encoded.state.json, "settings": dict(settings or {})}
    for task, target in answers.items():
        outputs = {"classification": int(target.get("index", np.zeros(1)).max()) + 1, "labels": np.shape(target.get("hot", [[]]))[-1]}.get(
            task, 1
        )
        state = predictor.fit(arrays, target, {"task": task, "outputs": outputs, **given}, None, {}, 0)
        specs = predictor.graphs(state)
        _that(set(specs) <= {"head", "head.shared"}, f"{task}: graphs {sorted(specs)} instead of head")
        call = Call("head", {f"{info.modality}.{name}": array for name, array in arrays.items()})
        taken = prepare(call, specs["head"])
        _that(len(taken) == len(arrays) or info.modality != "table", f"{task}: the graph does not take the encoded columns")
        runner = GraphRunner(onnx.functions({name: spec.proto for name, spec in specs.items()}), specs)
        for name, array in predictor.run(state, arrays).items():
            _near(np.asarray(runner(call)[name]), array, f"{task}: output {name} of ONNX Runtime and of the library")


def check_modality(name: str, cells: Sequence[Any], settings: Mapping[str, Any] | None = None, *, answer: bool = False) -> None:
    """A kind of column from raw cells to arrays; with `answer` also back. `cells`: raw, at least one of them missing.

    Parsing twice gives the same and a missing cell is None; what is learned is JSON, arrays and files; a value alone gives
    what it gives among others, up to padding; rendering gives JSON, or a media type and bytes.
    """
    plugin, given = registry.load("modalities", name).plugin, {**(settings or {}), **({"answer": True} if answer else {})}
    values = [plugin.parse(cell, given) for cell in cells]
    _that(plugin.parse(None, given) is None and None in values, "a missing cell is not None")
    _that([plugin.parse(cell, given) for cell in cells] == values, "parsing twice gives another value")
    values = [value for value in values if value is not None] if answer else values
    state = plugin.fit(given, values)
    json.dumps(state.json)
    arrays, meta = plugin.encode(values, given, state)
    again, _ = plugin.encode(values, given, State(json.loads(json.dumps(state.json)), state.arrays, state.files))
    for key, array in arrays.items():
        _that(len(array) == len(values), f"{key} has {len(array)} rows for {len(values)} values")
        _that(np.array_equal(array, again[key], equal_nan=array.dtype.kind == "f"), f"{key} is encoded otherwise by the state as JSON")
    for i, value in enumerate(values):
        for key, one in plugin.encode([value], given, state)[0].items():
            own = arrays[key][i : i + 1][tuple(slice(size) for size in one.shape)]
            _that(np.array_equal(one, own, equal_nan=one.dtype.kind == "f"), f"{key} of value {i + 1} depends on the others")
    if answer:
        _that(_same_values(plugin.decode(arrays, meta, given, state), values), "decoding does not give the values back")
    for value in values:
        rendered = plugin.render(value)
        if not (isinstance(rendered, tuple) and isinstance(rendered[1], bytes)):
            json.dumps(rendered, allow_nan=False)


def check_task(task: str, rows: Sequence[Mapping[str, Any]], target: str | None, folder: Path, **settings: Any) -> Any:
    """A task from rows to a sealed model that answers each row alone as among others; returns the Run. `settings`: of `train`."""
    from mainstem import api, seal

    run = api.train(list(rows), target or (), task=task, out=folder, **settings)
    model = run.model
    _that(model.verify()["rows"] > 0, "nothing was replayed")
    names = [name for name in model.pipeline.artifact.schema.names if name in rows[0]]
    given = Rows({name: [row[name] for row in rows] for name in names})
    asked = model.pipeline.artifact.schema.gathered(given)
    asked = asked.take(range(min(8, len(asked))))
    together = model.predict(asked)
    json.dumps(together, allow_nan=False)
    judge = model.pipeline.task
    for i, answer in enumerate(together):
        alone = model.predict(asked.take([i]))[0]
        _that(
            judge.differ(seal.as_prediction(answer), seal.as_prediction(alone)) <= judge.tolerance, f"alone {alone}, among others {answer}"
        )
    return run


# --- parts --------------------------------------------------------------------------------------------------------------


class _Encoded:
    """The rows of one input, to be encoded in any selection."""

    def __init__(self, info: Info, columns: Mapping[str, Sequence[Value]], kinds: Mapping[str, str]) -> None:
        from mainstem.artifact import Input
        from mainstem.inference import fit_input

        self.table = Table(dict(columns))
        schema = Schema(tuple(Column(name, kinds[name]) for name in columns))
        self.input = fit_input(Input("x", info.modality, tuple(columns), info.processor), schema, self.table)
        self.state = self.input.state

    def __len__(self) -> int:
        return len(self.table)

    def rows(self, *rows: int) -> dict[str, Array]:
        """The arrays of these rows; of all where none is named."""
        from mainstem.contracts import Task
        from mainstem.inference import encode_input

        examples = Task().examples(self.table.take(rows or range(len(self))))
        return encode_input(self.input, examples)[0]


def _torch(net: Any) -> Any:
    """A network on numpy arrays."""
    from mainstem.runtimes import torch as live
    from mainstem.runtimes._calls import prepare

    run, spec = live.function(net), net.spec()
    names = tuple(port.name for port in spec.outputs)
    return lambda arrays: run(prepare(Call("x", arrays), spec), names)


def _check_features(features: Mapping[str, Feature], outputs: Arrays, rows: int) -> None:
    _that(set(outputs) == set(features), f"features {sorted(outputs)} instead of {sorted(features)}")
    for name, feature in features.items():
        array = outputs[name]
        sizes = [
            rows if axis == "row" else int(axis) if axis.isdigit() else size for axis, size in zip(feature.axes, array.shape, strict=False)
        ]
        _that(array.shape == (*sizes, feature.width), f"feature {name} has shape {array.shape} instead of {(*sizes, feature.width)}")
        _that(array.dtype == np.float32 and bool(np.isfinite(array).all()), f"feature {name} is not finite float32")


def _check_alone(net: Any, encoded: _Encoded, expected: Arrays) -> None:
    answer = _torch(net)
    for row in range(len(encoded)):
        for name, one in answer(encoded.rows(row)).items():
            own = expected[name][row : row + 1][tuple(slice(size) for size in one.shape)]
            _near(one, own, f"feature {name} of row {row + 1} alone and in a batch")


def _check_onnx(net: Any, encoded: _Encoded, expected: Arrays) -> None:
    from mainstem.runtimes import onnx
    from mainstem.runtimes._calls import prepare

    spec = net.spec()
    names = tuple(port.name for port in spec.outputs)
    traced = prepare(Call("x", encoded.rows(0, 1)), spec)
    run = onnx.function(onnx.session(onnx.write(spec, traced)))
    for arrays, wanted in ((encoded.rows(), expected), (encoded.rows(len(encoded) - 1), _torch(net)(encoded.rows(len(encoded) - 1)))):
        for name, array in run(prepare(Call("x", arrays), spec), names).items():
            _near(array, wanted[name], f"feature {name} of ONNX Runtime and of PyTorch")


def _near(a: Array, b: Array, what: str) -> None:
    _that(a.shape == b.shape, f"{what}: shapes {a.shape} and {b.shape}")
    difference = np.abs(a.astype(np.float64) - b.astype(np.float64))
    allowed = ABSOLUTE + RELATIVE * float(np.abs(b).max(initial=0.0))
    _that(bool((difference <= allowed).all()), f"{what} differ by {difference.max(initial=0.0):.3g}, allowed {allowed:.3g}")


def _same_values(a: Sequence[Value], b: Sequence[Value]) -> bool:
    return len(a) == len(b) and all(
        np.isclose(x, y) if isinstance(x, float) and isinstance(y, float) else x == y for x, y in zip(a, b, strict=True)
    )


def _that(condition: bool, message: str) -> None:
    if not condition:
        raise AssertionError(message)
