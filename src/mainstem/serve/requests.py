"""What a request holds → raw rows. Every mistake is a MainstemError; nothing here opens a path or a network address."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import orjson

from mainstem.contracts import Rows
from mainstem.errors import MainstemError, suggest

MOST_ROWS = 10_000
MOST_DEPTH = 16  # of lists and objects within a row
_PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif")
_FIELDS = ("rows", "options")


class TooMuch(MainstemError):
    """More than one request may hold."""

    status = 413


class Malformed(MainstemError):
    """A body that cannot be read at all."""

    status = 400


def from_json(body: bytes, columns: Sequence[str]) -> tuple[Rows, Any]:
    """{"rows": […], "options": {…}} → raw rows, and the options as they came."""
    try:
        asked = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise Malformed(f"the body is not JSON: {error}", do='Send {"rows": [{"COLUMN": value}]}.') from None
    if not isinstance(asked, dict) or "rows" not in asked:
        raise Malformed("the body is an object with the rows", do='Send {"rows": [{"COLUMN": value}]}.')
    if unknown := [name for name in asked if name not in _FIELDS]:
        raise MainstemError(f"unknown field '{unknown[0]}'", do=suggest(unknown[0], _FIELDS))
    return _rows(asked["rows"], columns), asked.get("options") or {}


def from_file(name: str, data: bytes, columns: Sequence[str]) -> Rows:
    """An uploaded CSV, TSV, JSONL or JSON file, or a picture for a model that takes a single column."""
    from mainstem.data import delimited, encoding

    suffix = name[name.rfind(".") :].casefold() if "." in name else ""
    if suffix in _PICTURES:
        if len(columns) != 1:
            raise MainstemError(f"the model takes {len(columns)} columns, and a picture is one", do="Send the rows as JSON.")
        return Rows({columns[0]: [data]}, "the file")
    if suffix not in (".csv", ".tsv", ".txt", ".jsonl", ".ndjson", ".json"):
        raise MainstemError(
            f"do not know how to read '{suffix or 'a file without an ending'}'", do="Send .csv, .tsv, .jsonl, .json or a picture."
        )
    text, _ = encoding.decode(data, "the file")
    if suffix == ".json":
        return _rows(_parsed(text, "the file"), columns)
    if suffix in (".jsonl", ".ndjson"):
        return _rows([_parsed(line, f"line {n}") for n, line in enumerate(text.split("\n"), 1) if line.strip()], columns)
    rows = delimited.parse(text, "the file", usual="\t" if suffix == ".tsv" else ",")
    _check_count(len(rows))
    return dataclasses.replace(rows, base=None)


def _parsed(text: str, where: str) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise Malformed(f"this is not JSON: {error}", where=where) from None


def _rows(rows: Any, columns: Sequence[str]) -> Rows:
    from mainstem.data import sources

    if isinstance(rows, list):
        _check_count(len(rows))
        deep = [i for i, row in enumerate(rows, 1) if not _is_flat(row, MOST_DEPTH)]
        if deep:
            raise MainstemError(f"row {deep[0]} is nested deeper than {MOST_DEPTH} levels")
    return sources.from_json(rows, columns)


def _check_count(rows: int) -> None:
    if rows > MOST_ROWS:
        raise TooMuch(f"{rows:,} rows are more than one request may hold ({MOST_ROWS:,})", do="Send them in several requests.")


def _is_flat(value: Any, depth: int) -> bool:
    if not isinstance(value, dict | list):
        return True
    return depth > 0 and all(_is_flat(each, depth - 1) for each in (value.values() if isinstance(value, dict) else value))
