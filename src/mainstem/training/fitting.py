"""Fit one candidate on some rows: a predictor by its library, networks by the loop. The result answers like any model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from mainstem import registry, schema
from mainstem.artifact import Artifact, Input
from mainstem.config import Candidate, InputSettings, Training
from mainstem.contracts import Array, Arrays, Call, Example, GraphSpec, Info, Prediction, Runner, State, Table, Task, Value
from mainstem.errors import MainstemError
from mainstem.inference import Pipeline, Processors, at_once, chunked, drive, encoder, fit_input, seeds_of
from mainstem.runtimes._calls import GraphRunner
from mainstem.training.loader import Encoded

Report = Callable[[Mapping[str, Any]], None]


@dataclass(frozen=True)
class Problem:
    """What is to be learned, whatever the candidate: the same for all of them."""

    task: Task
    name: str  # of the task
    schema: schema.Schema
    target: State
    seed: int
    class_weight: str = ""
    groups: Array | None = None  # by row of the whole table, where rows of one group stay together
    times: Array | None = None  # by row of the whole table, where the rows that a predictor compares by come after the others


@dataclass
class Fitted:
    """A candidate that has learned. `artifact` is not calibrated yet; `networks` is None for a predictor."""

    artifact: Artifact
    runner: Runner
    networks: Any = None
    learned: State | None = None  # of a predictor
    epochs: int = 0
    steps: int = 0
    reason: str = ""
    loss: float | None = None  # of the validation part, at its best
    losses: Sequence[float] = ()
    kept: Mapping[str, Callable[[Table], Array]] = field(default_factory=dict)  # features of frozen backbones by input


def predictor_of(settings: InputSettings, training: Training) -> Any:
    """The predictor that an input's backbone names, or None where it is a network (or is asked to be one by an optimiser)."""
    if not settings.backbone:
        return None
    module = registry.load("backbones", registry.resolve(settings.backbone).family)
    predictor = getattr(module, "predictor", None)
    return predictor if predictor is not None and (not training.optimizer or not hasattr(module, "plugin")) else None


def describe(settings: InputSettings, training: Training, state: State | None = None) -> Info:
    """The Info of an input's backbone or predictor."""
    ref = registry.resolve(settings.backbone)
    plugin = predictor_of(settings, training) or registry.load("backbones", ref.family).plugin
    info: Info = plugin.describe(replace(ref, settings=settings.settings, state=state or State()))
    return info


def fit_target(task: Task, columns: Sequence[schema.Column], values: Sequence[Value]) -> State:
    """The state of the answers' modality, with "labels" where there are any; an empty one where there are no answers."""
    if task.target is None or not columns:
        return State()
    column = columns[0]
    state = encoder(task.target).fit({**column.settings, "answer": True}, values)
    return replace(state, json={**state.json, "labels": state.json["values"]}) if "values" in state.json else state


def fit(
    candidate: Candidate,
    problem: Problem,
    train: Table,
    valid: Table | None,
    *,
    folder: Path | None = None,
    final: bool = False,
    report: Report = lambda figures: None,
    stopped: Callable[[], bool] = lambda: False,
) -> Fitted:
    """Fit `candidate` on the rows of `train`; `valid` steers early stopping alone. Raises MainstemError as its parts do.

    folder, final: where networks leave checkpoints, and whether they leave one of the end (training/loop.py).
    """
    inputs = tuple(_fitted_input(each, candidate, problem, train) for each in candidate.inputs)
    if predictor := candidate.inputs and predictor_of(candidate.inputs[0], candidate.training):
        return _fit_predictor(predictor, candidate, problem, inputs, train)
    return _fit_networks(candidate, problem, inputs, train, valid, folder, final, report, stopped)


def _fitted_input(settings: InputSettings, candidate: Candidate, problem: Problem, train: Table) -> Input:
    info = describe(settings, candidate.training) if settings.backbone else Info(modality_of(settings.columns, problem.schema))
    direct = not settings.backbone or predictor_of(settings, candidate.training) is not None
    made = Input(
        name=settings.name,
        modality=info.modality,
        columns=settings.columns,
        processor={**info.processor, **settings.processor},
        backbone="" if direct else settings.backbone,
        settings=settings.settings,
        adapt=settings.adapt or ("probe" if info.pretrained else "full"),
        lora=settings.lora.model_dump(mode="json"),
    )
    if problem.task.continues and train.target:
        name = settings.columns[0]
        train = Table({name: [*train.columns[name], *train.target]})
    return fit_input(made, problem.schema, train)


def modality_of(names: Sequence[str], columns: schema.Schema) -> str:
    """The modality of an input by the kinds of its columns."""
    kinds = {column.kind for column in columns.columns if column.name in names}
    return "table" if kinds <= set(schema.TABULAR) else min(kinds)


def _weights(problem: Problem, answers: Sequence[Value]) -> Array | None:
    """Weights by example that even out the classes, 1 on average; None where none are asked for."""
    if problem.class_weight != "balanced" or problem.task.target != "category":
        return None
    values, index, counts = np.unique(np.array(answers), return_inverse=True, return_counts=True)
    return np.asarray((len(answers) / (len(values) * counts))[index])


# --- predictors -------------------------------------------------------------------------------------------------------


def _fit_predictor(predictor: Any, candidate: Candidate, problem: Problem, inputs: tuple[Input, ...], train: Table) -> Fitted:
    table = inputs[0]
    artifact = _artifact(problem, inputs, candidate)
    pipeline = Pipeline(artifact)
    batch = pipeline.task.encode(pipeline.task.examples(train), pipeline.processors)
    kinds: dict[str, Any] = {
        "task": problem.name,
        "outputs": len(problem.target.json.get("labels", [0])),
        "categories": [len(c["values"]) + 2 for c in table.state.json.get("categories", [])],
    }
    if problem.groups is not None:
        kinds["groups"] = np.unique(problem.groups[np.asarray(train.source)], return_inverse=True)[1]
    if problem.times is not None:
        kinds["times"] = problem.times[np.asarray(train.source)]
    if table.modality != "table":
        kinds["input"] = dict(table.state.json)
        kinds["settings"] = dict(pipeline.task.settings)
    folder = registry.resolve(candidate.inputs[0].backbone).folder
    settings = {**candidate.inputs[0].settings, **({"folder": str(folder)} if folder else {})}
    state = predictor.fit(batch.inputs[table.name], batch.target, kinds, _weights(problem, train.target or []), settings, problem.seed)
    graphs: dict[str, GraphSpec] = predictor.graphs(state)

    def run(arrays: Arrays, wanted: tuple[str, ...]) -> dict[str, Array]:
        outputs = predictor.run(state, {name.removeprefix(f"{table.name}."): a for name, a in arrays.items()})
        return {name: outputs[name] for name in wanted}

    artifact = replace(artifact, predictor=candidate.inputs[0].backbone, graphs=graphs)
    return Fitted(artifact, GraphRunner({"head": run}, graphs), learned=state)


def _artifact(problem: Problem, inputs: tuple[Input, ...], candidate: Candidate) -> Artifact:
    return Artifact(
        task=problem.name,
        settings={**problem.task.settings, **candidate.head},
        schema=replace(problem.schema, columns=tuple(c for c in problem.schema.columns if any(c.name in i.columns for i in inputs))),
        inputs=inputs,
        target=problem.target,
        state=problem.target,
        graphs={},
    )


# --- networks ---------------------------------------------------------------------------------------------------------


def _fit_networks(
    candidate: Candidate,
    problem: Problem,
    inputs: tuple[Input, ...],
    train: Table,
    valid: Table | None,
    folder: Path | None,
    final: bool,
    report: Report,
    stopped: Callable[[], bool],
) -> Fitted:
    from mainstem import network
    from mainstem.runtimes import torch as live
    from mainstem.training import loop

    artifact = _artifact(problem, inputs, candidate)
    pipeline = Pipeline(artifact)
    task, processors = pipeline.task, pipeline.processors
    sample = task.encode(task.examples(train)[:2], processors)
    networks = network.assemble(inputs, task, problem.target, candidate.head, problem.seed, sample)
    kept = _keep_features(networks, task, inputs, report)
    ports = {
        name.removeprefix("backbone."): {p.name: p for p in m.info.inputs}
        for name, m in networks.modules.items()
        if name.startswith("backbone.")
    }

    def encode(table: Table) -> Encoded:
        return Encoded(
            task,
            processors,
            task.examples(table),
            ports,
            weights=_weights(problem, table.target or []),
            augmented=any(each.processor.get("augment") for each in inputs),
            features=_features(kept, table),
        )

    encoded = encode(train)
    history = loop.fit(
        task,
        networks.modules,
        encoded,
        encode(valid) if valid is not None and len(valid) else None,
        candidate.training,
        seed=problem.seed,
        folder=folder,
        final=final,
        report=report,
        stopped=stopped,
    )
    batches = (encoded.take(indices) for indices in chunked(len(encoded)))
    backbones = network.backbone_specs(networks)
    state = task.fit_state(batches, problem.target, live.runner(backbones) if backbones else None)
    graphs = network.specs(networks, task, state, sample)
    return Fitted(
        replace(artifact, state=state, graphs=graphs),
        live.runner(graphs),
        networks,
        epochs=history.best_epoch,
        steps=history.steps,
        reason=history.reason,
        loss=min(history.valid, default=None),
        losses=history.losses,
        kept=kept,
    )


Features = Mapping[str, Callable[[Table], Array]]


def _keep_features(networks: Any, task: Task, inputs: tuple[Input, ...], report: Report) -> Features:
    """For each frozen backbone "INPUT.feature": rows → its features, from the cache as far as they are there.

    None for a task that goes another way than from features to the head.
    """
    if type(task).forward is not Task.forward:
        return {}
    from mainstem import network
    from mainstem.runtimes import torch as live
    from mainstem.training import features

    kept: dict[str, Callable[[Table], Array]] = {}
    for each in inputs:
        if each.name not in networks.frozen():
            continue
        graph = f"backbone.{each.name}"
        spec = networks.modules[graph].spec()
        key = network.identify(graph, spec, networks, task)
        run = live.function(networks.modules[graph])
        feature = spec.outputs[0].name

        def compute(each: Input, table: Table, rows: Sequence[int], run: Any = run, feature: str = feature) -> Array:
            part = table.take(rows)
            values = part.columns[each.columns[0]]
            lengths = Processors((each,), State()).lengths([Example({each.columns[0]: value}) for value in values])
            made: list[Array] = [np.empty(0)] * len(values)
            done = 0
            for chosen in chunked(len(values), lengths, 32):
                arrays, _ = encoder(each.modality).encode([values[i] for i in chosen], each.processor, each.state)
                for i, row in zip(chosen, run(arrays, (feature,))[feature], strict=True):
                    made[i] = row
                done += len(chosen)
                report({"features": done, "of": len(values), "rows": len(chosen)})
            return np.stack(made)

        def look_up(table: Table, each: Input = each, key: str = key, feature: str = feature, compute: Any = compute) -> Array:
            hashes = [schema.row_hash([value]) for value in table.columns[each.columns[0]]]
            return features.cached(key, each.encode_id, feature, hashes, lambda rows: compute(each, table, rows))

        kept[f"{each.name}.{feature}"] = look_up
    return kept


def _features(kept: Features, table: Table) -> dict[str, dict[str, Array]]:
    made: dict[str, dict[str, Array]] = {}
    for name, look_up in kept.items():
        each, feature = name.split(".", 1)
        made.setdefault(each, {})[feature] = look_up(table)
    return made


# --- answers ----------------------------------------------------------------------------------------------------------


def answers(fitted: Fitted, table: Table) -> tuple[list[Prediction | MainstemError], dict[str, Array]]:
    """Predictions for these rows by the live model and, for a task that calibrates, the outputs of the last call, row by row."""
    pipeline = Pipeline(fitted.artifact)
    kept = _features(fitted.kept, table)
    examples = pipeline.examples(table, answers=pipeline.judges)
    encoded = Encoded(pipeline.task, pipeline.processors, examples, {}, features=kept)
    seeds = seeds_of(encoded.examples, table)
    predictions: dict[int, Prediction | MainstemError] = {}
    parts: list[Mapping[str, Any]] = []
    for indices in chunked(len(encoded), encoded.lengths, at_once(fitted.artifact.inputs)):
        last: list[Mapping[str, Any]] = [{}]

        def watch(call: Call, outputs: Mapping[str, Any], last: list[Mapping[str, Any]] = last) -> None:
            last[0] = outputs

        made = drive(pipeline.judge(encoded.take(indices), [seeds[i] for i in indices]), fitted.runner, watch)
        predictions.update(zip(indices.tolist(), made, strict=True))
        parts += last if calibrates(pipeline.task) else []
    outputs = {name: np.concatenate([part[name] for part in parts]) for name in (parts[0] if parts else {})}
    if encoded.lengths is not None:  # as they were run → as they stand in the table
        outputs = {name: array[np.argsort([*predictions])] for name, array in outputs.items()}
    return [predictions[i] for i in range(len(predictions))], outputs


def calibrates(task: Task) -> bool:
    """Whether a task fits something on validation outputs."""
    return type(task).calibrate is not Task.calibrate
