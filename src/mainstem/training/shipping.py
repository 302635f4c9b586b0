"""Write a fitted candidate as a model folder: contents, weights, graphs, replay, the seal of a fresh process, and last the manifest."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mainstem import artifact, files, seal
from mainstem.contracts import Arrays, GraphSpec, Rows, Table
from mainstem.inference import Pipeline
from mainstem.runtimes import onnx
from mainstem.training.fitting import Fitted

MISSING = seal.ROWS // 2  # rows of the replay at most that are there because a value is missing
TESTED = 1000  # test rows at most that the sealing process answers again, drawn at random


def golden(rows: Rows, typed: Table, seed: int) -> Rows:
    """Rows for the replay, drawn at random, but first some with a missing value in each spelling that a column has for it.

    rows: raw held-out rows; typed: the same rows, parsed.
    """
    order = np.random.default_rng(seed).permutation(len(rows)).tolist()
    spelled: dict[tuple[str, str], int] = {}
    for name, values in typed.columns.items():
        for i in order:
            if values[i] is None:
                spelled.setdefault((name, str(rows.columns[name][i])), i)
    chosen = [*dict.fromkeys(spelled.values())][:MISSING]
    return rows.take(sorted([*dict.fromkeys([*chosen, *order])][: seal.ROWS]))


def ship(
    path: Path, fitted: Fitted, golden: Rows, test: Rows | None, expected: Mapping[str, float | None], replay: str = "full"
) -> dict[str, Any]:
    """Write and seal the model at `path`; returns what seal.json says. Raises Mismatch where the folder does not reproduce.

    golden: the raw rows of the replay. test: raw rows that are answered again, with `expected` the live model's figures.
    A folder that does not reproduce is not written; what was at `path` stands.
    """
    pipeline = Pipeline(fitted.artifact)
    recorded = seal.record(pipeline, fitted.runner, golden)
    with files.folder(path, {"format": artifact.FORMAT}) as folder:
        _add_weights(folder, fitted)
        _add_contents(folder, fitted, recorded)
        seal.write(folder, recorded, replay)
        folder.add("card.md", card(fitted.artifact))
        sealed = seal.seal(folder.path, recorded, test, {k: v for k, v in expected.items() if v is not None})
        folder.add_json("seal.json", sealed)
    return sealed


def bare(path: Path, fitted: Fitted, rows: Rows) -> None:
    """What answers alone, at `path`: neither weights to go on from, nor replay, nor seal. rows: raw ones, to trace graphs with."""
    recorded = seal.record(Pipeline(fitted.artifact), fitted.runner, rows)
    with files.folder(path, {"format": artifact.FORMAT}) as folder:
        _add_contents(folder, fitted, recorded)


def _add_contents(folder: files.Folder, fitted: Fitted, recorded: Any) -> None:
    artifact.write_contents(folder, fitted.artifact)
    for name, spec in fitted.artifact.graphs.items():
        example = _example(spec, recorded.examples.get(name, {}))
        folder.add(f"onnx/{name}.onnx", _base(spec, example) if spec.adapter else onnx.write(spec, example))
    if any(spec.adapter for spec in fitted.artifact.graphs.values()):
        from mainstem import network

        for place, content in network.adapters(fitted.networks).items():
            folder.add(place, content)


def _base(spec: GraphSpec, example: Arrays) -> bytes:
    """The graph over the weights of the backbone alone: all that adapt it ship the same."""
    from mainstem import network

    with network.without_adapters(spec.module):
        return onnx.write(spec, example)


def _add_weights(folder: files.Folder, fitted: Fitted) -> None:
    if fitted.learned is not None:
        folder.add("head.safetensors", artifact.pack_arrays(fitted.learned.arrays))
        folder.add_json("head.json", dict(fitted.learned.json))
        return
    from mainstem import network

    for place, made in network.weights(fitted.networks).items():
        for name, content in made.items():
            folder.add(f"{place}/{name}" if place else name, content)


def _example(spec: GraphSpec, inputs: Arrays) -> dict[str, Any]:
    """The inputs of a recorded call as the graph takes them; two at least along each axis whose size may differ, so that nothing
    is traced as a constant 1."""
    arrays: dict[str, Any] = {}
    for port in spec.inputs:
        array = np.asarray(inputs[port.name] if port.name in inputs else np.zeros([_size(a) for a in port.axes]), port.dtype)
        for place, axis in enumerate(port.axes):
            if array.shape[place] == 1 and not axis.isdigit():
                array = np.repeat(array, 2, axis=place)
        arrays[port.name] = array
    return arrays


def _size(axis: str) -> int:
    return int(axis) if axis.isdigit() else 2


def card(model: artifact.Artifact) -> str:
    """What a person should know of a model, as Markdown."""
    about = model.about
    answer = ", ".join(f"`{t.name}`" for t in model.schema.targets)
    lines = [f"# A model for {model.task}", "", f"Predicts {answer} from:" if answer else "Reads:", ""]
    lines += [f"- `{c.name}` ({c.kind})" for c in model.schema.columns]
    lines += [
        "",
        " ".join(filter(None, [about.get("chosen", ""), about.get("holds", "")])),
    ]
    if about.get("metrics"):
        lines += ["", "| metric | value | 95 % interval |", "|---|---|---|"]
    for name, figure in dict(about.get("metrics", {})).items():
        if figure.get("value") is not None:
            low, high = figure.get("low"), figure.get("high")
            span = f"{low:.4g} to {high:.4g}" if low is not None and high is not None else ""
            lines.append(f"| {name} | {figure['value']:.4g} | {span} |")
    if rows := about.get("rows"):
        lines += ["", "Rows: " + ", ".join(f"{n} {part}" for part, n in dict(rows).items()) + "."]
    lines += ["", *(f"- {note}" for note in about.get("notes", []))]
    return "\n".join(lines) + "\n"
