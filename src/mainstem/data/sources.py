"""Where rows come from: files, folders, frames, lists, standard input and requests → `Rows` of raw cells.

Nothing is converted here: a CSV gives strings, typed sources give what they hold. `Schema.parse` is the only converter.
"""

from __future__ import annotations

import difflib
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mainstem.contracts import ABSENT, Rows
from mainstem.data import delimited, frames, images
from mainstem.data import encoding as encodings
from mainstem.errors import MainstemError
from mainstem.schema import Schema

_USUAL = {".csv": ",", ".tsv": "\t", ".tab": "\t", ".txt": ","}
_JSON_LINES = (".jsonl", ".ndjson")
_BINARY = {".parquet": frames.read_parquet, ".pq": frames.read_parquet, ".xlsx": frames.read_xlsx, ".xlsm": frames.read_xlsx}
_KNOWN = ".csv, .tsv, .jsonl, .json, .parquet, .xlsx, or a folder of class folders of pictures"


def read(source: Any, *, encoding: str = "", like: Schema | None = None) -> Rows:
    """Any source of rows → raw rows, in the source's order.

    source: the path of a file or folder, "-" for standard input, a pandas DataFrame, anything that streams Arrow data, a
        dict of columns, a list of dicts, or rows already read.
    encoding: of a text file; "" detects it, and what was detected stands in the notes.
    like: the schema of a model. With it, sources that name no column are read too, if the model takes a single one: a list
        of bare values, a picture, a folder of pictures.

    Raises MainstemError, one sentence for all that is wrong, and MissingExtra where a library is needed that is missing.
    """
    if isinstance(source, Rows):
        return source
    if isinstance(source, str | Path):
        return (
            replace(_read_text(sys.stdin.buffer.read(), "stdin", encoding), base=Path.cwd())
            if str(source) == "-"
            else _read_path(Path(source), encoding, like)
        )
    if frames.is_frame(source):
        return frames.from_frame(source)
    if hasattr(source, "__arrow_c_stream__"):
        return frames.from_arrow(source)
    if isinstance(source, Mapping):
        return frames.from_columns(source)
    if hasattr(source, "tolist") or (isinstance(source, Sequence) and not isinstance(source, bytes)):
        return _from_list(frames.plain(source), like)
    raise MainstemError(
        f"cannot read rows from a {type(source).__name__}",
        do="Give a path, a DataFrame, an Arrow table, a dict of columns or a list of dicts.",
    )


def from_json(rows: Any, columns: Sequence[str]) -> Rows:
    """The rows of a request: a key that a row lacks is ABSENT, keys that are no column are ignored.

    Raises MainstemError with the number (from 1) of each row that is no object.
    """
    if not isinstance(rows, list):
        raise MainstemError(f"rows are a list of objects, not {_json_type(rows)}", do='Send {"rows": [{"COLUMN": value}]}.')
    _check_objects(rows, "", range(1, len(rows) + 1))
    return Rows({name: [row.get(name, ABSENT) for row in rows] for name in columns})


def _read_path(path: Path, encoding: str, like: Schema | None) -> Rows:
    path = path.expanduser()
    try:
        if path.is_dir():
            return images.read_classes(path) if like is None else _read_loose(path, like)
        suffix = path.suffix.casefold()
        if not path.exists():
            raise _missing(path)
        if suffix in images.SUFFIXES and like is not None:
            return Rows({_only_column(like, str(path)): [path.name]}, str(path), base=path.parent)
        if not path.stat().st_size:
            raise MainstemError("the file is empty", where=str(path))
        if suffix in _BINARY:
            return replace(_BINARY[suffix](path), base=path.parent)
        if suffix in (*_USUAL, *_JSON_LINES, ".json"):
            return replace(_read_text(path.read_bytes(), str(path), encoding, suffix), base=path.parent)
    except OSError as error:
        raise MainstemError(f"cannot read: {error.strerror or error}", where=str(path)) from None
    do = "Save the spreadsheet as .xlsx." if suffix == ".xls" else f"mainstem reads {_KNOWN}."
    raise MainstemError(f"do not know how to read {f'{suffix} files' if suffix else 'a file without an ending'}", where=str(path), do=do)


def _missing(path: Path) -> MainstemError:
    if not path.parent.is_dir():
        return MainstemError("there is no such file, nor the folder it should lie in", where=str(path))
    near = difflib.get_close_matches(path.name, (p.name for p in path.parent.iterdir()), n=1)
    return MainstemError("there is no such file", where=str(path), do=f"Did you mean '{path.with_name(near[0])}'?" if near else "")


def _read_text(data: bytes, where: str, encoding: str, suffix: str = "") -> Rows:
    """Text by its file's ending, or, without one, by how it starts: "{" JSONL, "[" JSON, else CSV."""
    text, note = encodings.decode(data, where, encoding)
    if not text.strip():
        raise MainstemError("the file is empty" if suffix else "there is nothing to read", where=where)
    if not suffix:
        suffix = {"{": ".jsonl", "[": ".json"}.get(text.lstrip()[0], ".csv")
    if suffix in _JSON_LINES:
        rows = _json_lines(text, where)
    elif suffix == ".json":
        rows = _json_list(text, where)
    else:
        rows = delimited.parse(text, where, usual=_USUAL[suffix])
    return replace(rows, notes=(note, *rows.notes)) if note else rows


def _json_lines(text: str, where: str) -> Rows:
    """One JSON object a line; blank lines are none."""
    objects, numbers, broken = [], [], []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            objects.append(json.loads(line))
            numbers.append(number)
        except (ValueError, RecursionError) as error:
            broken.append(f"line {number} ({_json_fault(error)})")
    if broken:
        raise MainstemError(f"not JSON: {_first(broken)}", where=where, do="A .jsonl file holds one JSON object a line.")
    return _from_objects(objects, where, numbers)


def _json_fault(error: Exception) -> str:
    """What is wrong with a line, without the decoder's own count of lines."""
    return f"{error.msg} at character {error.pos + 1}" if isinstance(error, json.JSONDecodeError) else str(error)


def _json_list(text: str, where: str) -> Rows:
    try:
        objects = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise MainstemError(f"this is not JSON: {error}", where=where) from None
    if not isinstance(objects, list):
        raise MainstemError(f"a .json file holds a list of objects, not {_json_type(objects)}", where=where)
    return _from_objects(objects, where, [])


def _from_list(values: list[Any], like: Schema | None) -> Rows:
    """A list of dicts, or of bare values for a model that takes one column."""
    if like is None or any(isinstance(value, Mapping) for value in values):
        return _from_objects(values, "", [])
    return Rows({_only_column(like, ""): values}, base=Path.cwd())


def _from_objects(objects: list[Any], where: str, numbers: list[int]) -> Rows:
    """Objects → columns in the order in which keys first appear; a key that an object lacks is a missing value."""
    _check_objects(objects, where, numbers or range(1, len(objects) + 1))
    names = list(dict.fromkeys(name for row in objects for name in row))
    if not names:
        raise MainstemError("there is not a single row", where=where)
    return Rows({str(name): [row.get(name) for row in objects] for name in names}, where, numbers, Path.cwd())


def _check_objects(rows: list[Any], where: str, numbers: Sequence[int]) -> None:
    wrong = [f"row {number} is {_json_type(row)}" for number, row in zip(numbers, rows, strict=True) if not isinstance(row, Mapping)]
    if wrong:
        raise MainstemError(f"a row is an object of columns and values: {_first(wrong)}", where=where)


def _only_column(like: Schema, where: str) -> str:
    if len(like.columns) != 1:
        names = ", ".join(f"'{column.name}'" for column in like.columns)
        raise MainstemError(f"the model takes {len(like.columns)} columns ({names}), and this names none", where=where)
    return like.columns[0].name


def _read_loose(path: Path, like: Schema) -> Rows:
    return images.read_loose(path, _only_column(like, str(path)), like.targets[0].name if len(like.targets) == 1 else "")


def _first(problems: list[str]) -> str:
    return ", ".join(problems[:5]) + (f" and {len(problems) - 5:,} more" if len(problems) > 5 else "")


def _json_type(value: Any) -> str:
    if isinstance(value, Mapping):
        return "an object"
    names = {list: "a list", str: "a string", bool: "a boolean", int: "a number", float: "a number", type(None): "null"}
    return names.get(type(value), type(value).__name__)
