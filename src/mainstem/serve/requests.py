"""What a request holds → raw rows. Every mistake is a MainstemError; nothing here opens a path or a network address."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from mainstem.contracts import Rows
from mainstem.errors import MainstemError, suggest
from mainstem.schema import Column

MOST_ROWS = 10_000
MOST_PIXELS = 40_000_000  # as many as the modality takes (modalities/image.py); less can be asked for
MOST_DEPTH = 16  # of lists and objects within a row
MOST_TASKS = 256  # that one request may name
_PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif")
_EXAMPLE = 'Send {"rows": [{"COLUMN": value}]}.'


@dataclass(frozen=True)
class Limits:
    """What one request may hold, and how long it may take: bytes of a body and of a line, rows, characters of a text, pixels of a
    picture, seconds until the answer."""

    body: int = 32 << 20
    line: int = 8 << 20
    rows: int = MOST_ROWS
    text: int = 50_000
    pixels: int = MOST_PIXELS
    timeout: float = 60.0

    def check(self, rows: Rows, columns: Iterable[Column]) -> None:
        """Raises TooMuch where there are too many rows, or a cell is too large to be read."""
        self.check_count(len(rows))
        for column in columns:
            if column.name in rows.columns:
                self._check_cells(column, rows)

    def check_count(self, rows: int) -> None:
        """Raises TooMuch above the number of rows."""
        if rows > self.rows:
            raise TooMuch(f"{rows:,} rows are more than one request may hold ({self.rows:,})", do="Send them in several requests.")

    def _check_cells(self, column: Column, rows: Rows) -> None:
        cells = rows.columns[column.name]
        if column.kind == "image":
            large = [i for i, cell in enumerate(cells) if self.pixels < MOST_PIXELS and self._has_more_pixels(column, cell)]
            what = f"the picture has more than {self.pixels:,} pixels"
        else:
            large = [i for i, cell in enumerate(cells) if isinstance(cell, str) and len(cell) > self.text]
            what = f"the text is longer than {self.text:,} characters"
        if large:
            raise TooMuch(what, where=rows.place(large[0], column.name), do="Send less of it.")

    def _has_more_pixels(self, column: Column, cell: Any) -> bool:
        """By the header alone; what is no picture is told by whoever parses it."""
        try:
            picture: Any = column.modality.parse(cell, column.settings)
            width, height = picture.open().size if picture is not None else (0, 0)
        except (MainstemError, AttributeError):
            return False
        return bool(width * height > self.pixels)


class TooMuch(MainstemError):
    """More than one request may hold."""

    status = 413


class Malformed(MainstemError):
    """A body that cannot be read at all."""

    status = 400


class NotFound(MainstemError):
    """A model that is not served."""

    status = 404


def body(data: bytes, fields: Sequence[str], do: str = _EXAMPLE) -> dict[str, Any]:
    """The JSON object of a request. Raises MainstemError for anything else, and for fields that are not among `fields`."""
    asked = parsed(data, "the body", do)
    if not isinstance(asked, dict):
        raise Malformed(f"the body is an object with the fields {', '.join(fields)}", do=do)
    if unknown := [name for name in asked if name not in fields]:
        raise MainstemError(f"unknown field '{unknown[0][:64]}'", do=suggest(unknown[0][:64], fields))
    return asked


def from_json(data: bytes, columns: Sequence[str], limits: Limits) -> tuple[Rows, Any]:
    """{"rows": […], "options": {…}} → raw rows, and the options as they came."""
    asked = body(data, ("rows", "options"))
    return from_list(_field(asked, "rows"), columns, limits), options_of(asked)


def for_tasks(data: bytes, known: Iterable[str], limits: Limits) -> tuple[list[str], Any, dict[str, Any]]:
    """{"tasks": [names] | "*", "rows": […], "options": {name: {}}} → names, rows as they came, options by name.

    Raises NotFound where a name is not served.
    """
    do = 'Send {"tasks": [names] or "*", "rows": [{"COLUMN": value}]}.'
    served = list(known)
    asked = body(data, ("tasks", "rows", "options"), do)
    tasks, options = _field(asked, "tasks", do), options_of(asked)
    if tasks == "*":
        tasks = served
    if not isinstance(tasks, list) or not all(isinstance(name, str) for name in tasks) or not tasks:
        raise MainstemError("tasks are a list of names, or '*' for all", do=do)
    names = list(dict.fromkeys(tasks))
    if len(names) > MOST_TASKS:
        raise TooMuch(f"{len(names):,} tasks are more than one request may name ({MOST_TASKS})", do="Send several requests.")
    if unknown := [name for name in names if name not in served]:
        raise NotFound(f"no model is served as '{unknown[0][:64]}'", do=suggest(unknown[0][:64], served))
    if not isinstance(options, dict) or not all(isinstance(each, dict) for each in options.values()):
        raise MainstemError("options are an object by the name of each task", do='Send "options": {"TASK": {}}.')
    if strange := [name for name in options if name not in names]:
        raise MainstemError(f"options for '{strange[0][:64]}', which is not asked", do=suggest(strange[0][:64], names))
    return names, _field(asked, "rows", do), options


def options_of(asked: Mapping[str, Any]) -> Any:
    """The options of a request as they came; none where they are null or not there."""
    options = asked.get("options")
    return {} if options is None else options


def _field(asked: Mapping[str, Any], name: str, do: str = _EXAMPLE) -> Any:
    if name not in asked:
        raise Malformed(f"the body has no '{name}'", do=do)
    return asked[name]


def from_file(name: str, data: bytes, columns: Sequence[str], limits: Limits) -> Rows:
    """An uploaded CSV, TSV, JSONL or JSON file, or a picture for a model that takes a single column."""
    from mainstem.data import delimited, encoding

    suffix = name[name.rfind(".") :].casefold() if "." in name else ""
    if suffix in _PICTURES:
        if len(columns) != 1:
            raise MainstemError(f"the model takes {len(columns)} columns, and a picture is one", do="Send the rows as JSON.")
        return Rows({columns[0]: [data]}, "the file")
    if suffix not in (".csv", ".tsv", ".txt", ".jsonl", ".ndjson", ".json"):
        raise MainstemError(
            f"do not know how to read '{suffix[:16] or 'a file without an ending'}'", do="Send .csv, .tsv, .jsonl, .json or a picture."
        )
    text, _ = encoding.decode(data, "the file")
    if suffix == ".json":
        return from_list(parsed(text, "the file"), columns, limits)
    if suffix in (".jsonl", ".ndjson"):
        return from_list([parsed(line, f"line {n}") for n, line in enumerate(text.split("\n"), 1) if line.strip()], columns, limits)
    rows = delimited.parse(text, "the file", usual="\t" if suffix == ".tsv" else ",")
    limits.check_count(len(rows))
    return dataclasses.replace(rows, base=None)


def parsed(text: str | bytes, where: str, do: str = "") -> Any:
    """JSON. Raises Malformed where it is none."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise Malformed(f"this is not JSON: {error}", where=where, do=do) from None


def from_list(rows: Any, columns: Sequence[str], limits: Limits) -> Rows:
    """A list of objects → raw rows; a key that a row lacks is ABSENT."""
    from mainstem.data import sources

    if isinstance(rows, list):
        limits.check_count(len(rows))
        deep = [i for i, row in enumerate(rows, 1) if not is_flat(row)]
        if deep:
            raise MainstemError(f"row {deep[0]} is nested deeper than {MOST_DEPTH} levels")
    return sources.from_json(rows, columns)


def is_flat(value: Any, depth: int = MOST_DEPTH) -> bool:
    """Whether lists and objects in a row are nested no deeper than `depth`."""
    if not isinstance(value, dict | list):
        return True
    return depth > 0 and all(is_flat(each, depth - 1) for each in (value.values() if isinstance(value, dict) else value))
