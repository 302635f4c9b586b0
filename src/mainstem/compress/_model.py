"""A model folder → the same model with its backbones compressed, measured against the one it comes from and sealed by itself."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from mainstem import artifact, files, registry, seal
from mainstem.artifact import Artifact, Input
from mainstem.compress import _samples
from mainstem.contracts import Prediction, Rows, Runner
from mainstem.errors import MainstemError
from mainstem.evaluation.report import point_metrics
from mainstem.inference import Pipeline
from mainstem.runtimes import onnx
from mainstem.runtimes._calls import GraphRunner

Say = Callable[[str], None]

BACKBONE = "backbone."
SAME = 0.9  # of the answers at least have to be those of the model it comes from; of the replay's 32 rows three may differ
NEAR = 0.15  # of a backbone's output, relative: by how much it may differ on the replay at most
WEIGHTS = (".safetensors", ".safetensors.index.json")  # of a backbone folder: what the compressed graph holds in their place


def compress(source: Path, out: Path, method: str, data: Rows | None = None, say: Say = lambda text: None) -> dict[str, Any]:
    """Compress the backbones of the model folder `source` into a model folder `out`; returns what seal.json says.

    data: rows to measure both models on besides the replay; needed where the replay keeps hashes only. Raises MainstemError where there
    is nothing to compress, and where the result answers otherwise than the tolerances (SAME, NEAR) allow: then nothing is written.
    """
    plugin = registry.load("compress", method)
    contents = artifact.read(source)
    if told := contents.about.get("compressed"):
        raise MainstemError(
            f"this model is compressed already, by {told.get('method')}", where=str(source), do="Compress the one it comes from."
        )
    if any(each.adapt == "lora" for each in contents.inputs):
        raise MainstemError(
            "this model adapts its backbone by LoRA, which meets weights that are not compressed",
            where=str(source),
            do="Train with --adapt probe or full, and compress that.",
        )
    pipeline, runner = seal.open_folder(source)
    recorded = seal.read(source)
    golden = seal._golden(pipeline, recorded, data)
    seal.compare(pipeline, runner, recorded, golden, str(source))
    graphs = {name: (source / "onnx" / f"{name}.onnx").read_bytes() for name in contents.graphs}
    made = _graphs(contents, graphs, plugin)
    if not made:
        raise MainstemError(
            f"this model has nothing that {method} compresses: {_holds(contents)}", where=str(source), do="Serve it as it is."
        )
    before, after = sum(map(len, graphs.values())), sum(len(made.get(name, data_)) for name, data_ in graphs.items())
    say(f"{', '.join(made)}: {before / 2**20:.1f} MiB of graphs become {after / 2**20:.1f} MiB")
    specs = {
        name: replace(spec, weights_id=_identity(made[name], method, spec.weights_id) if name in made else spec.weights_id)
        for name, spec in contents.graphs.items()
    }
    small = Pipeline(replace(contents, graphs=specs))
    ran = GraphRunner(onnx.functions({**graphs, **made}), specs)
    figures = _figures(pipeline, runner, small, ran, golden.take(range(len(recorded))))
    told = {
        "method": method,
        "of": {name: contents.graphs[name].weights_id for name in made},
        "smaller": before / after,
        **figures.stated(),
    }
    measured, expected = _measure(pipeline, runner, small, ran, data) if data is not None else ({}, {})
    if data is not None:
        told |= {"tested": measured}
    say(figures.sentence(measured))
    figures.check(source, method)
    done = replace(small.artifact, about={**contents.about, "compressed": told})
    return _write(source, out, done, {**graphs, **made}, Pipeline(done), ran, golden.take(range(len(recorded))), data, expected)


def _graphs(contents: Artifact, graphs: Mapping[str, bytes], plugin: Any) -> dict[str, bytes]:
    """The compressed graphs of the backbones by name, those alone that gain."""
    made = {}
    for each in contents.inputs:
        name = f"{BACKBONE}{each.name}"
        if name in graphs and _samples.can_be_made(each) and (found := plugin.compress(graphs[name], _samples.made(each))):
            made[name] = found
    return made


def _holds(contents: Artifact) -> str:
    """What the model is, for the message that it has nothing to compress."""
    if contents.predictor:
        return f"{contents.predictor} is no network"
    return "no network of texts or pictures with products of some size"


def _identity(graph: bytes, method: str, of: str) -> str:
    """weights_id of a compressed graph: of its constants, the method, and the graph that it comes from."""
    from mainstem.compress._graph import Graph

    constants = Graph(graph).constants
    return artifact.weights_id({str(i): constants[name] for i, name in enumerate(sorted(constants))}, ["compressed", method, of])


@dataclass(frozen=True)
class Figures:
    """How the compressed model answers the replay's rows, beside the one it comes from."""

    rows: int
    same: float
    calls: Mapping[str, float]  # by graph: |a - b| / |a| over all rows

    def stated(self) -> dict[str, Any]:
        """For the seal: what was found, and what was allowed."""
        found = {"rows": self.rows, "same": self.same, "calls": dict(self.calls)}
        return {"found": found, "allowed": {"same": SAME, "calls": NEAR}}

    def sentence(self, tested: Mapping[str, Any]) -> str:
        """For people."""
        far = max(self.calls.values(), default=0.0)
        text = f"same answers for {self.same:.1%} of {self.rows} golden rows, features differ by {far:.2%}"
        if not tested:
            return text
        metrics = ", ".join(f"{name} {a:.4g} → {b:.4g}" for name, (a, b) in tested["metrics"].items() if a is not None and b is not None)
        return f"{text}; of {tested['rows']} rows of the data {tested['same']:.1%}: {metrics}"

    def check(self, source: Path, method: str) -> None:
        """Raises MainstemError where the model answers otherwise than is allowed."""
        far = {name: size for name, size in self.calls.items() if not size <= NEAR}
        if self.same < SAME or far:
            what = f"{max(far.values()):.1%} on {', '.join(far)}" if far else f"{1 - self.same:.1%} of its answers"
            raise MainstemError(
                f"{method} changes this model too much: {what}, where {NEAR:.0%} and {1 - SAME:.0%} are allowed",
                where=str(source),
                do="Serve it as it is.",
            )


def _figures(pipeline: Pipeline, runner: Runner, small: Pipeline, ran: Runner, rows: Rows) -> Figures:
    before, after = seal.run(pipeline, runner, rows), seal.run(small, ran, rows)
    sizes: dict[str, list[tuple[float, float]]] = {}
    for (graph, old), (_, new) in zip(before.calls, after.calls, strict=False):
        if graph.startswith(BACKBONE):
            for name, value in old.items():
                a, b = value.astype(np.float64), new[name].astype(np.float64)
                sizes.setdefault(graph, []).append((float(((a - b) ** 2).sum()), float((a**2).sum())))
    calls = {graph: float(np.sqrt(sum(d for d, _ in pairs) / max(sum(n for _, n in pairs), 1e-30))) for graph, pairs in sizes.items()}
    same = [_same(a.get("prediction"), b.get("prediction")) for a, b in zip(before.predictions, after.predictions, strict=True)]
    return Figures(len(rows), float(np.mean(same)) if same else 1.0, calls)


def _same(a: Any, b: Any) -> bool:
    """Whether two answers are one; numbers within 5 %."""
    if isinstance(a, float) and isinstance(b, int | float):
        return abs(a - b) <= 0.05 * max(abs(a), abs(b), 1e-12)
    if isinstance(a, list | tuple) and isinstance(b, list | tuple) and len(a) == len(b):
        return all(map(_same, a, b))
    return bool(a == b)


def _measure(pipeline: Pipeline, runner: Runner, small: Pipeline, ran: Runner, data: Rows) -> tuple[dict[str, Any], dict[str, float]]:
    """Both models on rows with their answers: how many are the same, and the metrics of both; and the compressed model's, for the seal."""
    table, errors = pipeline.parse(pipeline.artifact.schema.gathered(data, target=True), target=True)
    if errors:
        raise next(iter(errors.values()))
    both = [pipeline.judge_table(table, runner), small.judge_table(table, ran)]
    labels = pipeline.artifact.state.json.get("labels", [])
    before, after = (point_metrics(pipeline.artifact.task, answers, table.target or [], labels) for answers in both)
    same = [isinstance(a, Prediction) and isinstance(b, Prediction) and _same(a.value, b.value) for a, b in zip(*both, strict=True)]
    figures = {"rows": len(table), "same": float(np.mean(same)), "metrics": {name: [before[name], after[name]] for name in before}}
    return figures, {name: value for name, value in after.items() if value is not None}


def _write(
    source: Path,
    out: Path,
    contents: Artifact,
    graphs: Mapping[str, bytes],
    pipeline: Pipeline,
    runner: Runner,
    golden: Rows,
    data: Rows | None,
    expected: Mapping[str, float],
) -> dict[str, Any]:
    """The folder, with the replay of the compressed graphs and the seal of a fresh process."""
    mode = json.loads((source / "replay/replay.json").read_bytes())["mode"]
    recorded = seal.record(pipeline, runner, golden)
    with files.folder(out, {"format": artifact.FORMAT}) as folder:
        artifact.write_contents(folder, contents)
        for name, graph in graphs.items():
            folder.add(f"onnx/{name}.onnx", graph)
        for name in sorted(set(_others(source, contents.inputs)) - folder.hashes.keys()):
            folder.add(name, source / name)
        seal.write(folder, recorded, mode)
        folder.add("card.md", _card(source, contents.about["compressed"]))
        sealed = seal.seal(folder.path, recorded, data, expected)
        sealed["compressed"] = contents.about["compressed"]
        folder.add_json("seal.json", sealed)
    return sealed


def _others(source: Path, inputs: tuple[Input, ...]) -> list[str]:
    """What goes over as it is: the head, and of each backbone's folder all but its weights."""
    found = [path.name for path in source.iterdir() if path.name in ("head.safetensors", "head.json")]
    for each in inputs:
        folder = source / "backbones" / each.name
        found += [str(path.relative_to(source)) for path in folder.rglob("*") if path.is_file() and not path.name.endswith(WEIGHTS)]
    return sorted(found)


def _card(source: Path, told: Mapping[str, Any]) -> str:
    """The card of the model it comes from, with what was done to it."""
    card = (source / "card.md").read_text(encoding="utf-8") if (source / "card.md").is_file() else ""
    return f"{card}\n{describe(told)}\n\nThe metrics above are those of the model before.\n"


def describe(told: Mapping[str, Any]) -> str:
    """What a compressed model says of itself, in a sentence."""
    of = ", ".join(f"{name} from weights {str(weights)[:12]}" for name, weights in dict(told["of"]).items())
    found = told["found"]
    return (
        f"Compressed by {told['method']}: {of}; graphs {told['smaller']:.1f} times smaller; "
        f"same answers for {found['same']:.1%} of {found['rows']} golden rows."
    )
