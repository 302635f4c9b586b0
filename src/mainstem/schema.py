"""Column kinds, and `Schema.parse`: the only caller of raw → typed, for CSV cells, DataFrames and request JSON alike."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from functools import cached_property
from typing import Any

import numpy as np

from mainstem import registry
from mainstem.contracts import ABSENT, Modality, Rows, Table, Value
from mainstem.errors import MainstemError, suggest

TABULAR = ("number", "category", "date")  # kinds that form the one `table` input together
UNANSWERED = "the answer is missing"  # the error of a row without one
MISSING = frozenset({"", "na", "n/a", "nan", "null", "none", "#n/a", "缺失"})


@dataclass(frozen=True)
class Column:
    """One column: its name in the data, its kind (a modality), and the settings its parser takes."""

    name: str
    kind: str
    settings: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def module(self) -> Any:
        """The module of its kind."""
        return registry.load("modalities", self.kind)

    @property
    def modality(self) -> Modality:
        """The plug-in of its kind."""
        plugin: Modality = self.module.plugin
        return plugin


@dataclass(frozen=True)
class Schema:
    """Input columns and answer columns. Several answer columns make one labels answer: the names of those that say yes."""

    columns: tuple[Column, ...]
    targets: tuple[Column, ...] = ()

    def parse(self, rows: Rows, *, target: bool = False) -> tuple[Table, dict[int, MainstemError]]:
        """Raw cells → typed values, and the rows that did not parse by index with their error.

        With `target`, the answers are parsed too; a row whose answer is missing is an error of that row. Rows are those of
        `gathered`. Raises MainstemError where a column is missing altogether.
        """
        rows = self.gathered(rows, target=target)
        self._check_columns(rows, self.columns + (self.targets if target else ()))
        errors: dict[int, MainstemError] = {}
        typed = {column.name: _parse_column(column, rows, errors) for column in self.columns}
        answers = self._parse_targets(rows, errors, typed) if target and self.targets else None
        good = [i for i in range(len(rows)) if i not in errors]
        if errors:
            typed = {name: [values[i] for i in good] for name, values in typed.items()}
            answers = None if answers is None else [answers[i] for i in good]
        hashes = Later(len(good), lambda: [row_hash(values[i] for values in typed.values()) for i in range(len(good))])
        return Table(typed, answers, hashes, good), errors

    @cached_property
    def long(self) -> tuple[Column, ...]:
        """The columns as rows of the data have them: for a value that is spread over many rows, those it is gathered from."""
        held = ([Column(*each) for each in c.module.parts(c.settings)] if hasattr(c.module, "gather") else [c] for c in self.columns)
        return tuple(column for columns in held for column in columns)

    @cached_property
    def names(self) -> list[str]:
        """The columns that a row may have, as it is or gathered."""
        return [*dict.fromkeys(column.name for column in (*self.columns, *self.long))]

    def gathered(self, rows: Rows, *, target: bool = False) -> Rows:
        """One row an example, where a column's value is spread over many rows (a series); else the rows as they are."""
        for column in self.columns:
            if gather := getattr(column.module, "gather", None):
                rows = gather(rows, column.name, column.settings, self.targets if target else (), answered=target)
        return rows

    def _check_columns(self, rows: Rows, columns: Sequence[Column]) -> None:
        missing = [c.name for c in columns if c.name not in rows.columns]
        if missing:
            listed = ", ".join(f"'{name}'" for name in missing)
            noun = "the column" if len(missing) == 1 else "the columns"
            raise MainstemError(
                f"{noun} {listed} {'is' if len(missing) == 1 else 'are'} missing", where=rows.where, do=suggest(missing[0], rows.columns)
            )

    def _parse_targets(self, rows: Rows, errors: dict[int, MainstemError], inputs: Mapping[str, Sequence[Value]]) -> list[Value]:
        if len(self.targets) == 1:
            answers = _parse_column(self.targets[0], rows, errors)
            if beside := getattr(self.targets[0].modality, "beside", None):
                given = [dict(zip(inputs, cells, strict=True)) for cells in zip(*inputs.values(), strict=True)]
                answers = [a if a is None else beside(a, values) for a, values in zip(answers, given, strict=True)]
        else:
            flags = [_parse_flags(column, rows, errors) for column in self.targets]
            answers = [_chosen([c.name for c in self.targets], row) for row in zip(*flags, strict=True)]
        for i, answer in enumerate(answers):
            if answer is None and i not in errors:
                errors[i] = MainstemError(UNANSWERED, where=rows.place(i, self.targets[0].name), do="Fill it in or leave the row out.")
        return answers


YES = frozenset({"yes", "y", "true", "t", "1", "是", "有", "对"})
NO = frozenset({"no", "n", "false", "f", "0", "否", "无", "没有", "错"})


def _chosen(names: Sequence[str], flags: Sequence[bool | None]) -> tuple[str, ...] | None:
    """The names whose flag says yes; None where a flag is missing."""
    if any(flag is None for flag in flags):
        return None
    return tuple(sorted(name for name, flag in zip(names, flags, strict=True) if flag))


def _parse_flags(column: Column, rows: Rows, errors: dict[int, MainstemError]) -> list[bool | None]:
    flags: list[bool | None] = []
    for i, value in enumerate(_parse_column(replace(column, kind="category", settings={}), rows, errors)):
        word = None if value is None else str(value).casefold()
        if word is not None and word not in YES | NO:
            errors.setdefault(i, MainstemError(f"expected yes or no, found {show(value)}", where=rows.place(i, column.name)))
        flags.append(None if word is None else word in YES)
    return flags


def _parse_column(column: Column, rows: Rows, errors: dict[int, MainstemError]) -> list[Value]:
    modality, settings = column.modality, {**column.settings, "base": rows.base}
    values: list[Value] = []
    for i, raw in enumerate(rows.columns[column.name]):
        value = None
        try:
            if raw is ABSENT:
                raise MainstemError("this row has no such value", do="Send null for a value that is missing.")
            value = modality.parse(raw, settings)
        except MainstemError as error:
            errors.setdefault(i, MainstemError(error.what, where=rows.place(i, column.name), do=error.do))
        values.append(value)
    return values


def is_missing(raw: Any) -> bool:
    """Whether a raw cell of any source stands for "no value": None, NaN, NaT, and the words people write for it."""
    if raw is None:
        return True
    if isinstance(raw, str):
        return raw.strip().casefold() in MISSING
    if isinstance(raw, float | np.floating | np.datetime64 | np.timedelta64 | Decimal):
        return bool(raw != raw)
    return type(raw).__name__ in ("NaTType", "NAType")


def show(raw: Any) -> str:
    """A raw cell as messages quote it: short, on one line; of huge integers and objects only the type."""
    if isinstance(raw, str):
        text = repr(str(raw))
    elif isinstance(raw, float | np.number | np.bool_) or (isinstance(raw, int) and abs(raw) < 10**50):
        text = str(raw)
    else:
        text = f"a value of type {type(raw).__name__}"
    return text if len(text) <= 60 else f"{text[:56]}…{text[-1]}"


def checked(text: str) -> str:
    """The text as a plain str. Raises MainstemError where it holds half a surrogate pair, which no file and no JSON can hold."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise MainstemError("the text is not valid Unicode (half a surrogate pair)", do="Save it as UTF-8 again.") from None
    return str(text)


class Later(Sequence[Any]):
    """So many values that are found together, once one is asked for: hashes and seeds of rows, which who only predicts seldom needs."""

    def __init__(self, count: int, find: Callable[[], list[Any]]) -> None:
        self._count, self._find = count, find

    @cached_property
    def _found(self) -> list[Any]:
        return self._find()

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, place: Any) -> Any:
        return self._found[place]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and self._found == list(other)


def row_hash(values: Iterable[Value]) -> str:
    """One hash for the typed values of a row, the same whatever format they came in."""
    digest = hashlib.blake2b(digest_size=16)
    for value in values:
        data = value if isinstance(value, bytes) else getattr(value, "data", None)
        data = data if isinstance(data, bytes) else repr(value).encode()
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()
