"""parse → encode → predict → render over any Runner: the one path of predict, evaluate, seal, serve and explain."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Awaitable, Callable, Generator, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any

import numpy as np

from mainstem import registry
from mainstem.artifact import Artifact, Input
from mainstem.contracts import Array, Batch, Call, Emit, Example, Prediction, Rows, Runner, State, Table, Task, Value
from mainstem.errors import MainstemError
from mainstem.schema import Column, Later, Schema

Coroutine = Generator[Any, Any, list[Prediction | MainstemError]]
Watch = Callable[[Call, Mapping[str, Any]], None]
Listen = Callable[[Emit], None]
Ask = Callable[[Call], Awaitable[Mapping[str, Any]]]  # starts a call at once; its answer is awaited
Took = Callable[[str, float], None]  # hears how many seconds a stage took
Answers = list[Prediction | MainstemError]

CHUNK = 64  # examples encoded and predicted at a time: long texts of more would take gigabytes
PART = 16  # the same on an event loop, where the parts of one request take turns with other requests
PARTS = 4  # of one request that are under way at a time
LIGHT_ROWS, LIGHT_TEXT = 8, 4096  # up to so many rows of texts up to so many characters are read without leaving the event loop


def encoder(modality: str) -> Any:
    """The encoder of one input: the modality's plug-in, or the table's, which takes several columns at once."""
    module = registry.load("modalities", modality)
    return module if modality == "table" else module.plugin


def fit_input(each: Input, schema: Schema, table: Table) -> Input:
    """The input with its processor fitted on these rows, and on these alone. Settings that only `fit` reads stay behind."""
    if each.modality == "table":
        state = encoder("table").fit(_columns(each, schema), table.columns, each.processor)
    else:
        state = encoder(each.modality).fit(each.processor, table.columns[each.columns[0]])
    spent = getattr(encoder(each.modality), "fit_only", ())
    return replace(each, processor={name: value for name, value in each.processor.items() if name not in spent}, state=state)


def _columns(each: Input, schema: Schema) -> list[Column]:
    kinds = {column.name: column for column in schema.columns}
    return [kinds[name] for name in each.columns]


@dataclass(frozen=True)
class Processors:
    """What `Task.encode` encodes with: every input by its modality, and the answers where there are any.

    `memo`: what was encoded for other models of the same request, which is not encoded again.
    """

    inputs: tuple[Input, ...]
    target: State
    target_modality: str = ""
    target_settings: Mapping[str, Any] | None = None
    memo: Memo | None = None

    def encode(self, examples: Sequence[Example], rng: np.random.Generator | None = None) -> Batch:
        """Examples → a Batch with one row each, and their answers where all have one. `rng` only while training: inputs may augment."""
        encoded: dict[str, Mapping[str, Array]] = {}
        meta: dict[str, Any] = {}
        for each in self.inputs:
            made = encode_input(each, examples, rng) if self.memo is None else self.memo.encoded(each, examples)
            encoded[each.name], meta[each.name] = made
        names = tuple(each.name for each in self.inputs if each.backbone)
        answers = [example.answer for example in examples]
        target = self.answers(answers) if answers and all(answer is not None for answer in answers) else {}
        return Batch(encoded, np.arange(len(examples)), len(examples), names, target, meta=meta)

    def lengths(self, examples: Sequence[Example]) -> Array:
        """How long the texts of each example are, int64 [n]: examples of like length in a batch need the least padding."""
        columns = [name for each in self.inputs if each.modality != "table" for name in each.columns]
        return np.array([sum(_length(example.values[name]) for name in columns) for example in examples], np.int64)

    def answers(self, values: Sequence[Value]) -> dict[str, Array]:
        """Typed answers → the arrays that losses take."""
        settings = {**(self.target_settings or {}), "answer": True}
        arrays: dict[str, Array] = encoder(self.target_modality).encode(values, settings, self.target)[0]
        return arrays


@dataclass(frozen=True)
class Memo:
    """What several models that are asked for the same rows need do only once: reading them, and encoding them for equal encoders."""

    tables: list[tuple[tuple[Column, ...], tuple[int, Table, dict[int, MainstemError]]]] = field(default_factory=list)
    arrays: dict[Any, tuple[dict[str, Array], Any]] = field(default_factory=dict)
    values: list[Any] = field(default_factory=list)  # held, so that no id is given twice

    def parsed(self, pipeline: Pipeline, rows: Rows) -> tuple[int, Table, dict[int, MainstemError]]:
        """The rows as this model's columns read them, and how many there are."""
        columns = pipeline.artifact.schema.columns
        for known, table in self.tables:
            if known == columns:
                return table
        gathered = pipeline.artifact.schema.gathered(rows)
        self.tables.append((columns, (len(gathered), *pipeline.parse(gathered))))
        return self.tables[-1][1]

    def encoded(self, each: Input, examples: Sequence[Example]) -> tuple[dict[str, Array], Any]:
        """The arrays of one input: the same objects for every model that encodes alike, so that their calls are seen to be identical."""
        values = [example.values[name] for name in each.columns for example in examples]
        key = (each.encode_id, *map(id, values))
        if key not in self.arrays:
            self.values.append(values)
            self.arrays[key] = encode_input(each, examples)
        return self.arrays[key]


def _length(value: Value) -> int:
    return len(value) if isinstance(value, str) else 0


def encode_input(each: Input, examples: Sequence[Example], rng: np.random.Generator | None = None) -> tuple[dict[str, Array], Any]:
    """The arrays of one input of these examples."""
    if each.modality == "table":
        values: Any = {name: [example.values[name] for example in examples] for name in each.columns}
    else:
        values = [example.values[each.columns[0]] for example in examples]
    arrays, meta = encoder(each.modality).encode(values, each.processor, each.state, rng)
    return arrays, meta


class Pipeline:
    """A model's way from raw rows to predictions. It holds no weights: those are behind the Runner."""

    def __init__(self, artifact: Artifact) -> None:
        self.artifact = artifact
        self.task: Task = registry.load("tasks", artifact.task).plugin(artifact.settings)

    @cached_property
    def processors(self) -> Processors:
        """The encoders of its inputs and answers."""
        settings = self.artifact.schema.targets[0].settings if self.artifact.schema.targets else {}
        return Processors(self.artifact.inputs, self.artifact.target, self.task.target or "", settings)

    @cached_property
    def reads(self) -> Hashable:
        """Models with equal ones make the same batches of the same rows."""
        if type(self.task).examples is not Task.examples or type(self.task).encode is not Task.encode:
            return self
        inputs = [(each.name, bool(each.backbone), each.columns, each.encode_id) for each in self.artifact.inputs]
        return repr((self.artifact.schema.columns, inputs))

    def parse(self, rows: Rows, *, target: bool = False) -> tuple[Table, dict[int, MainstemError]]:
        """Raw rows → typed values, and errors by row."""
        return self.artifact.schema.parse(rows, target=target)

    @property
    def judges(self) -> bool:
        """Whether evaluation goes a way of its own, which looks at the answers."""
        return hasattr(self.task, "judge")

    def examples(self, table: Table, *, answers: bool = False) -> list[Example]:
        """What gets a prediction each; answers that the table may hold are not looked at unless they are asked for."""
        return self.task.examples(table if answers or table.target is None else replace(table, target=None))

    def encode(self, table: Table) -> Batch:
        """Typed rows → arrays, as the graphs take them."""
        return self.task.encode(self.examples(table), self.processors)

    def predict_batch(
        self, batch: Batch, runner: Runner, options: Mapping[str, Any] | None = None, seeds: Sequence[int] = ()
    ) -> list[Prediction | MainstemError]:
        """Arrays → predictions. `seeds`: one an example, where the task draws at random."""
        return drive(self.start(batch, options, seeds), runner)

    def start(self, batch: Batch, options: Mapping[str, Any] | None = None, seeds: Sequence[int] = ()) -> Coroutine:
        """The task's coroutine for this batch, for whoever drives it."""
        return self.task.predict(
            batch, self.artifact.state, {**self.task.options, **(options or {})}, _Generators(seeds or [0] * batch.examples)
        )

    def judge(self, batch: Batch, seeds: Sequence[int] = ()) -> Coroutine:
        """The coroutine of evaluation, for a batch of examples with their answers where the task `judges`."""
        if not self.judges:
            return self.start(batch, None, seeds)
        task: Any = self.task
        made: Coroutine = task.judge(batch, self.artifact.state, _Generators(seeds or [0] * batch.examples))
        return made

    def predict_table(self, table: Table, runner: Runner, options: Mapping[str, Any] | None = None, emit: Listen | None = None) -> Answers:
        """Typed rows → predictions, one an example in their order; run a chunk at a time, those of like length together.

        emit: hears what is final before the whole answer is; the example counts from the first of the table.
        """
        return self._run(table, self.examples(table), lambda batch, seeds: self.start(batch, options, seeds), runner, emit)

    def judge_table(self, table: Table, runner: Runner) -> Answers:
        """The same for evaluation: what the metrics read."""
        return self._run(table, self.examples(table, answers=self.judges), self.judge, runner)

    def _run(
        self,
        table: Table,
        examples: Sequence[Example],
        start: Callable[[Batch, Sequence[int]], Coroutine],
        runner: Runner,
        emit: Listen | None = None,
    ) -> Answers:
        seeds = seeds_of(examples, table)
        answers: dict[int, Prediction | MainstemError] = {}
        for part in chunked(len(examples), self.processors.lengths(examples), at_once(self.artifact.inputs)):
            batch = self.task.encode([examples[i] for i in part], self.processors)
            placed = None if emit is None else _placed(emit, part)
            made = drive(start(batch, [seeds[i] for i in part]), runner, emit=placed)
            answers.update(zip(part.tolist(), made, strict=True))
        return [answers[i] for i in range(len(examples))]

    def predict(
        self, rows: Rows, runner: Runner, options: Mapping[str, Any] | None = None, emit: Listen | None = None
    ) -> tuple[Answers, list[int]]:
        """Raw rows → one answer a row (of `Schema.gathered`) in order, bad rows as their error; and the indices of the good ones.

        emit: hears what is final before the whole answer is, by row.
        """
        rows = self.artifact.schema.gathered(rows)
        table, errors = self.parse(rows)
        answers = self.predict_table(table, runner, options, None if emit is None else _placed(emit, table.source))
        return _by_row(answers, table, errors, len(rows))

    def render(self, prediction: Prediction) -> dict[str, Any]:
        """A prediction as JSON: prediction, score, score by label, interval where there is one."""
        rendered: dict[str, Any] = {"prediction": prediction.value}
        if prediction.score is not None:
            rendered["score"] = prediction.score
        if prediction.scores:
            rendered["scores"] = dict(prediction.scores)
        if prediction.low is not None:
            rendered["low"], rendered["high"] = prediction.low, prediction.high
        return {**rendered, **prediction.more}


def _by_row(answers: Answers, table: Table, errors: Mapping[int, MainstemError], count: int) -> tuple[Answers, list[int]]:
    """Answers of the rows that parsed → of all rows, with the errors of the others; and the indices of the good ones."""
    if len(answers) != len(table):
        return answers, list(range(len(answers)))
    if len(answers) == count:
        return answers, list(range(count))
    placed: Answers = [errors.get(i) or MainstemError("not predicted") for i in range(count)]
    for i, answer in zip(table.source, answers, strict=True):
        placed[i] = answer
    return placed, list(table.source)


def is_light(rows: Rows) -> bool:
    """Whether reading and encoding these rows takes a moment only."""
    if len(rows) > LIGHT_ROWS:
        return False
    return all(len(cell) <= LIGHT_TEXT for cells in rows.columns.values() for cell in cells if isinstance(cell, str | bytes | list))


async def _here(function: Callable[..., Any], *arguments: Any) -> Any:
    return function(*arguments)


async def _together(works: Sequence[Any]) -> None:
    """All of these at a time. The first error ends the others, and is raised as it is."""
    tasks = [asyncio.create_task(work) for work in works]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()


def seeds_of(examples: Sequence[Example], table: Table) -> list[int]:
    """A seed an example that depends on its rows alone, so that answers do not depend on the batch."""
    joined = ["".join(table.hashes[i] for i in example.source) for example in examples]
    return [int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") for text in joined]


class _Generators(Sequence[np.random.Generator]):
    """One an example, made when it is asked for: most tasks draw nothing, and making one takes longer than decoding a row."""

    def __init__(self, seeds: Sequence[int]) -> None:
        self._seeds, self._made = seeds, dict[int, np.random.Generator]()

    def __len__(self) -> int:
        return len(self._seeds)

    def __getitem__(self, example: Any) -> Any:
        seed = self._seeds[example]  # beyond the last one it ends, as a sequence does
        if example not in self._made:
            self._made[example] = np.random.default_rng(seed)
        return self._made[example]


def _placed(emit: Listen, places: Sequence[int] | Array) -> Listen:
    """Emits of a selection → of what was selected from."""
    return lambda part: emit(replace(part, example=int(places[part.example])))


def check_options(task: Task, options: Any) -> dict[str, Any]:
    """The options of a request. Raises MainstemError for unknown ones and for values of another type than the default's."""
    known = task.options
    if not isinstance(options, dict):
        raise MainstemError("options are an object", do='Send {"rows": […], "options": {…}}.')
    wrong = [f"unknown option '{name}'" for name in options if name not in known]
    for name in options.keys() & known.keys():
        if not _is_like(options[name], known[name]):
            wrong.append(f"option '{name}' is of another type than its default {known[name]!r}")
    if wrong:
        raise MainstemError("; ".join(sorted(wrong)), do=f"Known: {', '.join(sorted(known)) or 'none'}.")
    return options


def _is_like(value: Any, default: Any) -> bool:
    """Whether a value has the type of a default: a whole number may stand for any number, and one text for a list of them."""
    if default is None or isinstance(default, bool) or isinstance(value, bool):
        return default is None or (isinstance(default, bool) and isinstance(value, bool))
    return isinstance(value, {float: (int, float), list: (list, str)}.get(type(default), type(default)))


def drive(coroutine: Coroutine, runner: Runner, watch: Watch | None = None, emit: Listen | None = None) -> Answers:
    """Run a task's coroutine to its end: every yielded call is run, a tuple of calls in order."""
    answer: Any = None

    def run(call: Call) -> dict[str, Any]:
        outputs = runner(call)
        if watch:
            watch(call, outputs)
        return outputs

    while True:
        try:
            asked = coroutine.send(answer)
        except StopIteration as done:
            result: Answers = done.value
            return result
        if isinstance(asked, Emit):
            answer = None
            if emit:
                emit(asked)
        else:
            answer = tuple(run(call) for call in asked) if isinstance(asked, tuple) else run(asked)


@dataclass(frozen=True)
class Asking:
    """A model that is asked on an event loop. `emit`: hears what is final before the whole answer is; `took`: how long stages take."""

    pipeline: Pipeline
    ask: Ask
    options: Mapping[str, Any] | None = None
    emit: Listen | None = None
    took: Took | None = None


async def answer(rows: Rows, models: Sequence[Asking], memo: Memo | None = None) -> list[Answers | MainstemError]:
    """`Pipeline.predict` on an event loop, for models whose `reads` are equal: one answer a row of each, or what is wrong with all.

    Rows are read and encoded once, for all of them: its seconds are told of the first. What costs more than a moment (pictures, many
    rows) is done in a thread; calls are awaited. `memo`: shared with the other models of a request.
    """
    first, aside = models[0], _here if is_light(rows) else asyncio.to_thread
    pipeline = first.pipeline
    processors = pipeline.processors if memo is None else replace(pipeline.processors, memo=memo)
    answers: list[dict[int, Prediction | MainstemError]] = [{} for _ in models]
    failed: dict[int, MainstemError] = {}

    def read() -> tuple[int, Table, dict[int, MainstemError], list[Example], list[Array]]:
        count, table, errors = (memo or Memo()).parsed(pipeline, rows)
        examples, size = pipeline.examples(table), PART if any(each.backbone for each in pipeline.artifact.inputs) else 16 * PART
        parts = chunked(len(examples), processors.lengths(examples), size)
        return count, table, errors, examples, list(parts)

    def encode(part: Array) -> Batch:
        return pipeline.task.encode([examples[i] for i in part], processors)

    def heard(model: Asking, part: Array) -> Asking:
        return model if model.emit is None else replace(model, emit=_placed(_placed(model.emit, table.source), part))

    async def work() -> None:
        for part in waiting:
            began = time.perf_counter()
            batch = await aside(encode, part)
            if first.took:
                first.took("encode", time.perf_counter() - began)
            places, well = part.tolist(), [i for i in range(len(models)) if i not in failed]
            drawn = Later(len(places), partial(seeds_of, [examples[i] for i in places], table))
            driven = [(models[i].pipeline.start(batch, models[i].options, drawn), heard(models[i], part)) for i in well]
            for i, made in zip(well, await drive_async(driven), strict=True):
                if isinstance(made, MainstemError):
                    failed[i] = made
                else:
                    answers[i].update(zip(places, made, strict=True))
            if len(failed) == len(models):
                raise failed[0]  # which ends the other parts

    try:
        count, table, errors, examples, parts = await aside(read)
        waiting = iter(parts)
        await (work() if len(parts) == 1 else _together([work() for _ in parts[:PARTS]]))
    except MainstemError as error:
        return [failed.get(i, error) for i in range(len(models))]
    return [failed.get(i) or _by_row([made[k] for k in range(len(examples))], table, errors, count)[0] for i, made in enumerate(answers)]


async def drive_async(driven: Sequence[tuple[Coroutine, Asking]]) -> list[Answers | MainstemError]:
    """`drive` of several coroutines on an event loop: all calls of one moment are under way together. An error ends its own alone."""
    ended: dict[int, Answers | MainstemError] = {}
    answers: dict[int, Any] = dict.fromkeys(range(len(driven)))
    while answers:
        under_way: dict[int, tuple[bool, list[Awaitable[Mapping[str, Any]]]]] = {}
        for i, given in answers.items():
            coroutine, model = driven[i]
            began = time.perf_counter()
            try:
                asked = coroutine.send(given)
                while isinstance(asked, Emit):
                    if model.emit:
                        model.emit(asked)
                    asked = coroutine.send(None)
                several = isinstance(asked, tuple)
                under_way[i] = several, [model.ask(call) for call in (asked if several else (asked,))]
            except StopIteration as done:
                ended[i] = done.value
                if model.took:
                    model.took("decode", time.perf_counter() - began)
            except MainstemError as error:
                ended[i] = error
        answers = {}
        for i, (several, calls) in under_way.items():
            try:
                told = [await call for call in calls]
                answers[i] = tuple(told) if several else told[0]
            except MainstemError as error:
                ended[i] = error
    return [ended[i] for i in range(len(driven))]


def at_once(inputs: Sequence[Input]) -> int:
    """Examples that are encoded and predicted at a time: more where no backbone reads them, and what is common to rows costs most."""
    return CHUNK if any(each.backbone for each in inputs) else 4 * CHUNK


def chunked(rows: int, lengths: Array | None = None, size: int = CHUNK) -> Iterator[Array]:
    """The numbers 0..rows-1 in parts of at most `size`: in order, or from the shortest to the longest by `lengths`."""
    order = np.arange(rows) if lengths is None or rows < 2 else np.argsort(lengths, kind="stable")
    return (order[start : start + size] for start in range(0, rows, size))


def chunks(table: Table, size: int = CHUNK) -> Iterator[Table]:
    """The rows in parts of at most `size`."""
    for start in range(0, len(table), size):
        yield table.take(range(start, min(start + size, len(table))))
