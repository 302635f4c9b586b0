"""CSV and TSV text → raw rows, with the standard library alone (RFC 4180, and the delimiters people use instead of commas)."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

from mainstem.contracts import Rows
from mainstem.errors import MainstemError

_DELIMITERS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar"}
_LARGEST = 1 << 26  # characters of one cell; beyond it is an unclosed quote rather than a text
_SAMPLE = 50  # records that choose the delimiter


def parse(text: str, where: str, *, usual: str = ",", base: Path | None = None) -> Rows:
    """Delimited text → Rows of strings. `usual`: the delimiter that needs no note; others are detected and noted.

    Raises MainstemError on NUL bytes, no rows, repeated column names, an unclosed quote, and on ragged lines (all of them).
    """
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise MainstemError(f"line {line} holds a NUL byte, so this is no text file or a damaged one", where=where)
    delimiter = find_delimiter(text, usual)
    notes = [] if delimiter == usual else [f"columns are separated by '{_DELIMITERS[delimiter]}'"]
    header, records, numbers = _records(text, delimiter, where)
    names = column_names(header, where, notes)
    _drop_empty_end(records, numbers, notes)
    if not records:
        raise MainstemError("there is a header but not a single row", where=where)
    _check_ragged(records, numbers, len(names), where)
    return Rows(dict(zip(names, map(list, zip(*records, strict=True)), strict=True)), where, numbers, base, tuple(notes))


def column_names(header: Sequence[str], where: str, notes: list[str]) -> list[str]:
    """The names of a header, stripped; those without one are called "column N", which is noted.

    Raises MainstemError where a name comes twice: which of the two is meant could only be guessed.
    """
    names = [name.strip() for name in header]
    unnamed = [f"column {i}" for i, name in enumerate(names, 1) if not name]
    if unnamed:
        notes.append(f"no name in the header, called {', '.join(repr(name) for name in unnamed)}")
    names = [name or f"column {i}" for i, name in enumerate(names, 1)]
    twice = list(dict.fromkeys(name for name in names if names.count(name) > 1))
    if twice:
        listed = ", ".join(f"'{name}'" for name in twice)
        raise MainstemError(f"the header names {listed} more than once", where=where, do="Give every column a name of its own.")
    return names


def find_delimiter(text: str, usual: str) -> str:
    """The usual one where it parts the header; else the one that parts header and first records alike, into most columns."""
    widths = {d: _widths(text, d) for d in (usual, *_DELIMITERS)}
    if widths[usual][:1] > [1]:
        return usual
    alike = {d: w[0] for d, w in widths.items() if w and w[0] > 1 and w.count(w[0]) >= 0.9 * len(w)}
    return max(alike, key=lambda d: alike[d], default=usual)


def _widths(text: str, delimiter: str) -> list[int]:
    with large_fields():
        try:
            records = islice(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter), _SAMPLE)
            return [len(record) for record in records if record]
        except csv.Error:
            return []


def _records(text: str, delimiter: str, where: str) -> tuple[list[str], list[list[str]], list[int]]:
    """The header, the other records, and the line that each of them starts in. Blank lines are no records.

    In a file of one column a blank line is a row whose cell is empty.
    """
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    header: list[str] = []
    records: list[list[str]] = []
    numbers: list[int] = []
    start = 1
    try:
        with large_fields():
            for record in reader:
                if not header:
                    header = record
                elif record or len(header) == 1:
                    records.append(record or [""])
                    numbers.append(start)
                last, start = start, reader.line_num + 1
    except csv.Error as error:
        raise MainstemError(
            f"the record that starts in line {start} is not CSV: {error}", where=where, do="Is a quote opened there and never closed?"
        ) from None
    if not header:
        raise MainstemError("the file is empty", where=where)
    if start - last > 1:
        _check_closed(text, delimiter, last, where)
    return header, records, numbers


def _check_closed(text: str, delimiter: str, start: int, where: str) -> None:
    """The last record spans several lines: an error where its quote is never closed."""
    end = "".join(islice(io.StringIO(text, newline=""), start - 1, None))
    with large_fields():
        try:
            list(csv.reader(io.StringIO(end, newline=""), delimiter=delimiter, strict=True))
        except csv.Error as error:
            if "unexpected end" in str(error):
                raise MainstemError(f"a quote opened in the record of line {start} is never closed", where=where) from None


def _drop_empty_end(records: list[list[str]], numbers: list[int], notes: list[str]) -> None:
    """Forget lines at the end that hold delimiters at most, as spreadsheets leave them."""
    count = len(records)
    while records and not any(cell.strip() for cell in records[-1]):
        records.pop()
        numbers.pop()
    if any_delimiters := count - len(records):
        notes.append(f"{any_delimiters} empty {'line' if any_delimiters == 1 else 'lines'} at the end ignored")


def _check_ragged(records: list[list[str]], numbers: list[int], width: int, where: str) -> None:
    ragged = [(number, len(record)) for number, record in zip(numbers, records, strict=True) if len(record) != width]
    if ragged:
        listed = ", ".join(f"line {number} has {found}" for number, found in ragged[:5])
        more = f" and {len(ragged) - 5:,} more lines are ragged" if len(ragged) > 5 else ""
        raise MainstemError(
            f"{len(ragged):,} {'line differs' if len(ragged) == 1 else 'lines differ'} from the header's {width} fields: {listed}{more}",
            where=where,
            do="Put cells that contain the delimiter between double quotes.",
        )


@contextmanager
def large_fields() -> Iterator[None]:
    """The csv module's limit is one for the process: raised while we read, then as it was."""
    before = csv.field_size_limit(_LARGEST)
    try:
        yield
    finally:
        csv.field_size_limit(before)
