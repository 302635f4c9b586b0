"""From a data source to typed rows, parts and findings: everything before the first candidate is fitted."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mainstem import registry
from mainstem.config import Config
from mainstem.contracts import Array, Rows, Table, Task, Value
from mainstem.data import kinds, leaks, sources, splits
from mainstem.errors import MainstemError
from mainstem.schema import UNANSWERED, Column, Schema
from mainstem.training import windows


@dataclass(frozen=True)
class Prepared:
    """Typed rows in parts. `parts`: "train", "valid", "test" → row numbers of `table`; `notes`: sentences for people."""

    task: Task
    name: str
    schema: Schema
    table: Table
    files: tuple[Rows, ...]
    source: Array  # by row of the table: which file, and which row of it
    parts: Mapping[str, Array]
    groups: Array | None
    keep_together: bool
    roles: Mapping[str, str] = field(default_factory=dict)  # role → column, for a task with roles
    notes: list[str] = field(default_factory=list)
    findings: list[str] = field(default_factory=list)
    times: Array | None = None  # by row, where they are windows of series: when each begins to forecast
    by_time: bool = False  # whether the parts follow each other in time
    noun: str = "rows"

    def raw(self, rows: Sequence[int] | Array) -> Rows:
        """The raw cells of these rows of the table. All of them lie in one file or have pictures of one base."""
        rows = np.asarray(rows, np.int64)
        names = [c.name for c in self.schema.columns] + [c.name for c in self.schema.targets]
        columns = {name: [self.files[f].columns[name][i] for f, i in self.source[rows]] for name in names}
        numbers = [_number(self.files[f], int(i)) for f, i in self.source[rows]]
        first = self.files[int(self.source[rows[0]][0])] if len(rows) else self.files[0]
        return Rows(columns, first.where, numbers, first.base)

    def answers(self, rows: Sequence[int] | Array) -> list[Value]:
        """The answers of these rows; none where the task has no answers."""
        answers = self.table.target
        return [] if answers is None else [answers[int(i)] for i in rows]

    @property
    def sentence(self) -> str:
        """What is to be learned from what, and how many rows each part has."""
        sizes = ", ".join(f"{len(self.parts[p]):,} {p}" for p in ("train", "valid", "test"))
        inputs = ", ".join(f"{c.name} ({c.kind})" for c in self.schema.columns)
        inputs = inputs if len(inputs) < 400 else f"{len(self.schema.columns)} columns"
        answer = ", ".join(t.name for t in self.schema.targets)
        return f"{self.name}{' of ' * bool(answer)}{answer} from {inputs}; {self.noun}: {sizes}"

    @property
    def fingerprint(self) -> str:
        """One hash of all typed rows and answers, by which a resumed run knows its data."""
        digest = hashlib.sha256()
        for row, answer in zip(self.table.hashes, self.table.target or [None] * len(self.table), strict=True):
            digest.update(f"{row} {answer!r}\n".encode())
        return digest.hexdigest()[:32]


def prepare(config: Config, source: Any = None) -> Prepared:
    """Read, infer, parse, split and check for leaks. Raises MainstemError for what is wrong with the data.

    source: a DataFrame or the like in place of config.data.path.
    """
    data = config.data
    main = sources.read(source if source is not None else data.path, encoding=data.encoding)
    others = {name: sources.read(path, encoding=data.encoding) for name, path in (("valid", data.valid), ("test", data.test)) if path}
    if windows.wanted(config):
        if windows.is_forecast(config):
            made: Prepared = windows.forecasts(config, main, others)
            return made
        gathered = windows.watched if windows.is_watched(config) else windows.labelled
        config, main, others = gathered(config, main, others)
        data = config.data
    steering = [name for name in (data.group, data.time) if name]
    _check_steering(main, steering)
    inferred = kinds.infer(
        main,
        data.targets,
        data.inputs,
        {c.name: c.kind for c in data.columns},
        config.task,
        data.separator,
        [name for name in steering if name not in data.inputs],
    )
    schema = _with_settings(inferred.schema, config)
    task: Task = registry.load("tasks", inferred.task).plugin(config.task_settings)
    notes = [*main.notes, *inferred.notes]
    files = (main, *others.values())
    table, source_of = _parse(schema, files, notes)
    given = {name: np.flatnonzero(source_of[:, 0] == i + 1) for i, name in enumerate(others)}
    own = np.flatnonzero(source_of[:, 0] == 0)
    groups = _column(files, source_of, data.group) if data.group else None
    times = _times(files, source_of, data.time) if data.time else None
    together = leaks.keep_together(table, schema)
    parts = _split(config, task, table, own, given, groups, times, together)
    if (ordinary := getattr(task, "ordinary", None)) and table.target is not None:
        parts = _ordinary(parts, windows.undisturbed(table, ordinary(table.target)))
    if len(parts["train"]) == 0:
        raise MainstemError(
            "no rows are left to train on", where=main.where, do="Give more rows, or smaller parts with --set split.test=0.1."
        )
    numbered = Rows({}, numbers=[_number(files[f], int(i)) for f, i in source_of])
    findings = leaks.check(schema, table, numbered, parts, groups=groups, times=times, given_files=bool(given))
    leaks.stop(findings, config.split.allow_leak)
    said = [*(f.sentence for f in (*findings.certain, *findings.suspicious)), *findings.notes]
    return Prepared(
        task, inferred.task, schema, table, files, source_of, parts, groups, together, inferred.roles, notes, said, by_time=bool(data.time)
    )


def _number(rows: Rows, index: int) -> int:
    """The number by which people know a row of a file."""
    return int(rows.numbers[index]) if len(rows.numbers) else index + 1


def _check_steering(rows: Rows, names: Sequence[str]) -> None:
    from mainstem.errors import suggest

    for name in names:
        if name not in rows.columns:
            raise MainstemError(f"there is no column '{name}'", where=rows.where, do=suggest(name, rows.columns))


def _with_settings(schema: Schema, config: Config) -> Schema:
    """The schema with the settings that the config gives to columns."""
    asked = {c.name: c.settings for c in config.data.columns if c.settings}

    def overlaid(columns: Sequence[Column]) -> tuple[Column, ...]:
        return tuple(Column(c.name, c.kind, {**c.settings, **asked.get(c.name, {})}) for c in columns)

    return Schema(overlaid(schema.columns), overlaid(schema.targets))


def _spelled(schema: Schema, rows: Rows, unanswered: Sequence[int]) -> str:
    """How missing answers are written, where they are words: one of them may have been meant as a class."""
    cells = [rows.columns[column.name][i] for column in schema.targets for i in unanswered]
    words = sorted({cell.strip() for cell in cells if isinstance(cell, str)} - {""})
    return f" (written {', '.join(repr(word) for word in words[:5])})" if words else ""


def _parse(schema: Schema, files: Sequence[Rows], notes: list[str]) -> tuple[Table, Array]:
    """All files as one table, and for each of its rows (file, row in the file). Rows without an answer are left out and counted."""
    columns: dict[str, list[Any]] = {c.name: [] for c in schema.columns}
    target: list[Any] = []
    hashes: list[str] = []
    places: list[tuple[int, int]] = []
    for number, rows in enumerate(files):
        table, errors = schema.parse(rows, target=True)
        unanswered = [i for i, error in errors.items() if error.what == UNANSWERED]
        wrong = [error for i, error in sorted(errors.items()) if i not in unanswered]
        if wrong:
            more = f" ({len(wrong)} rows have such cells)" if len(wrong) > 1 else ""
            raise MainstemError(f"{wrong[0].what}{more}", where=wrong[0].where, do=wrong[0].do)
        if unanswered:
            place = Path(rows.where).name or "the data"
            notes.append(f"{len(unanswered)} rows of {place} have no answer{_spelled(schema, rows, unanswered)} and are left out")
        for name, values in table.columns.items():
            columns[name] += values
        target += table.target or []
        hashes += table.hashes
        places += [(number, i) for i in table.source]
    if not places:
        raise MainstemError("no row has an answer", where=files[0].where)
    return Table(columns, target if schema.targets else None, hashes, list(range(len(places)))), np.array(places, np.int64).reshape(-1, 2)


def _column(files: Sequence[Rows], places: Array, name: str) -> Array:
    """The cells of a steering column as text, "" where missing or absent."""
    cells = [files[f].columns[name][i] if name in files[f].columns else "" for f, i in places]
    return np.array([str(cell) for cell in cells])


def _times(files: Sequence[Rows], places: Array, name: str) -> Array:
    """The column that orders the rows, as numbers. Raises MainstemError where a cell is neither a date nor a number."""
    column = Column(name, "date")
    number = Column(name, "number")
    result = []
    for f, i in places:
        raw = files[f].columns[name][i]
        value = None
        for kind in (column, number):
            try:
                value = kind.modality.parse(raw, {})
                break
            except MainstemError:
                continue
        if value is None:
            raise MainstemError(
                f"expected a date or a number, found {raw!r}", where=files[f].place(int(i), name), do="Clean the --time column."
            )
        result.append(float(value))
    return np.array(result)


def _ordinary(parts: Mapping[str, Array], ordinary: Array) -> dict[str, Array]:
    """The parts with rows that are not to be learned from moved to the test part."""
    unusual = np.flatnonzero(~ordinary)
    kept = {name: rows[ordinary[rows]] for name, rows in parts.items() if name != "test"}
    return {**kept, "test": np.union1d(parts["test"], unusual)}


def _split(
    config: Config,
    task: Task,
    table: Table,
    own: Array,
    given: Mapping[str, Array],
    groups: Array | None,
    times: Array | None,
    together: bool,
) -> dict[str, Array]:
    """Row numbers by part: those of given files as they are, the rest drawn from the main file."""

    def of(values: Any) -> Any:
        return None if values is None else np.asarray(values, dtype=object if values is table.target else None)[own]

    drawn = splits.split(
        len(own),
        target=[(table.target or [])[i] for i in own] if task.target == "category" else None,
        groups=of(groups),
        times=of(times),
        hashes=[table.hashes[i] for i in own] if together else None,
        keep_together=together,
        valid=0.0 if "valid" in given else config.split.valid,
        test=0.0 if "test" in given else config.split.test,
        seed=config.seed,
    )
    parts = {name: own[indices] for name, indices in drawn.items()}
    return {name: given.get(name, parts.get(name, np.zeros(0, np.int64))) for name in ("train", "valid", "test")}
