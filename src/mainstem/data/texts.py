"""Texts of any amount, one after the other: from one file or a folder of shards, never held together.

CSV and TSV, JSONL, Parquet, and plain text, whose texts are paragraphs (or lines, where no line is empty).
"""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from mainstem.data import delimited, encoding, kinds
from mainstem.data.frames import open_parquet
from mainstem.errors import MainstemError, suggest
from mainstem.schema import checked, is_missing

SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet", ".pq", ".txt")
_SAMPLE = 1 << 20  # bytes that choose an encoding
_SEEN = 200  # rows that choose the column
_BATCH = 1024  # rows of Parquet at once
BETWEEN = "\v"  # the texts of a pair: a space to whatever reads it otherwise


class Place(NamedTuple):
    """Where a row stands: in which file, after how many of its rows; in a text file, at which byte, after how many lines.

    The byte is what `TextIOBase.tell` says: with encodings that keep a state, this state is part of the number.
    """

    file: int = 0
    row: int = 0
    byte: int = 0
    line: int = 0


class Row(NamedTuple):
    """The texts of a row, and where it was read."""

    texts: list[str]
    file: int
    row: int
    told: Callable[[], tuple[int, int]]

    def following(self) -> Place:
        """Where the next row stands; to be asked before that one is read."""
        return Place(self.file, self.row, *self.told())


START = Place()
Cells = tuple[int, list[Any]]  # number of a row for messages, and its cells of the columns asked for


class Texts:
    """The texts of `path`. `files` are read in the order of their names; `notes` say what was chosen.

    columns: those that hold texts (a row gives one each); () takes the only column of one of the `wanted` kinds. encoding: of text
    files; "" detects it.
    Raises MainstemError where there is nothing to read, or the column is missing or not to be told.
    """

    def __init__(
        self, path: Path | str, columns: Sequence[str] = (), encoding: str = "", most: int = 0, wanted: Sequence[str] = ("text",)
    ) -> None:
        self.path, self.encoding, self.most, self.wanted = Path(path).expanduser(), encoding, most, wanted
        self.notes: list[str] = []
        self.files = self._found()
        self.columns = tuple(columns)
        if not self.columns:
            self.columns = self._chosen()
        elif named := next((p for p in self.files if p.suffix.casefold() != ".txt"), None):
            names = self._names(named)
            for name in self.columns:
                _place(name, names, named)

    def read(self, at: Place = START) -> Iterator[Row]:
        """Every row's texts; `Row.following` is where reading goes on, missing none and repeating none.

        Missing and empty cells give no text. Raises MainstemError with file and row for what is no text.
        """
        for number in range(at.file, len(self.files)):
            path = self.files[number]
            begin = at if number == at.file else START
            left = max(0, self.most - begin.row) if self.most else None
            with self._rows(path, self.columns, begin) as (rows, told):
                for row, (line, cells) in enumerate(islice(rows, left), begin.row + 1):
                    yield Row([text for cell in cells if (text := _text(cell, path, line))], number, row, told)

    def taken(self) -> float:
        """The share of all rows that are read, where those of a file are at most `most`."""
        if not self.most:
            return 1.0
        counts = Counter(row.file for row in Texts(self.path, self.columns, self.encoding).read())
        return sum(min(count, self.most) for count in counts.values()) / max(1, counts.total())

    def size(self) -> int:
        """Bytes of all files."""
        return sum(path.stat().st_size for path in self.files)

    def _found(self) -> list[Path]:
        if not self.path.exists():
            raise MainstemError("there is no such file or folder", where=str(self.path))
        if not self.path.is_dir():
            if self.path.suffix.casefold() not in SUFFIXES:
                raise MainstemError(
                    f"texts are not read from {self.path.suffix or 'a file without an ending'}",
                    where=str(self.path),
                    do=f"Give a file, or a folder of files, that end in {', '.join(SUFFIXES)}.",
                )
            return [self.path]
        held = [p for p in sorted(self.path.rglob("*")) if p.is_file() and not p.name.startswith(".")]
        found = [p for p in held if p.suffix.casefold() in SUFFIXES]
        if not found:
            raise MainstemError(f"no file in this folder holds {self._what()}", where=str(self.path), do=f"It reads {', '.join(SUFFIXES)}.")
        if len(found) < len(held):
            self.notes.append(f"{len(held) - len(found)} files of {self.path} are left out: it reads {', '.join(SUFFIXES)}")
        return found

    def _what(self) -> str:
        return " or ".join({"text": "texts", "image": "pictures"}[kind] for kind in self.wanted)

    def _chosen(self) -> tuple[str, ...]:
        """The one column that is of a kind that is wanted."""
        path = next((p for p in self.files if p.suffix.casefold() != ".txt"), None)
        if path is None:
            return ()
        names = self._names(path)
        with self._rows(path, names) as (found, _):
            rows = [cells for _, cells in islice(found, _SEEN)]
        known = [
            name for name, cells in zip(names, zip(*rows, strict=True), strict=True) if kinds.kind_of(cells, path.parent) in self.wanted
        ]
        if len(names) == 1 or len(known) == 1:
            self.notes.append(f"the {self._what()} are those of the column '{(known or names)[0]}' (--input overrides)")
            return ((known or names)[0],)
        listed = ", ".join(f"'{name}'" for name in known or names)
        raise MainstemError(
            f"{'several' if known else 'none'} of the columns may be the {self._what()} ({listed})",
            where=str(path),
            do="Name it: --input COLUMN.",
        )

    def _names(self, path: Path) -> list[str]:
        """The columns of a file: its header, or the keys of its first objects."""
        suffix = path.suffix.casefold()
        if suffix in (".parquet", ".pq"):
            return list(open_parquet(path).schema_arrow.names)
        with self._opened(path) as lines:
            if suffix in (".csv", ".tsv"):
                return _records(lines, path, suffix, START)[0]
            return list(dict.fromkeys(name for _, row in islice(_objects(lines, path, START), _SEEN) for name in row))

    @contextmanager
    def _rows(
        self, path: Path, columns: Sequence[str], at: Place = START
    ) -> Iterator[tuple[Iterator[Cells], Callable[[], tuple[int, int]]]]:
        """The rows of a file from `at`, and what tells at which byte and after how many lines the next one stands (0, 0 in Parquet)."""
        suffix = path.suffix.casefold()
        if suffix in (".parquet", ".pq"):
            yield _parquet(path, columns, at.row), lambda: (0, 0)
            return
        with self._opened(path) as lines:
            if suffix == ".txt":
                yield ((line, [text]) for line, text in _paragraphs(lines, at)), lines.told
            elif suffix in (".csv", ".tsv"):
                names, records = _records(lines, path, suffix, at)
                places = [_place(name, names, path) for name in columns]
                yield ((line, [record[i] for i in places]) for line, record in records), lines.told
            else:
                yield ((line, [row.get(name) for name in columns]) for line, row in _objects(lines, path, at)), lines.told

    @contextmanager
    def _opened(self, path: Path) -> Iterator[_Lines]:
        """A text file, decoded as it is read. Raises MainstemError where bytes are not of its encoding."""
        with open(path, "rb") as raw:
            sample = raw.read(_SAMPLE)
            if b"\0" in sample:
                sample = sample[: len(sample) // 2 * 2]
            elif len(sample) == _SAMPLE:
                sample = sample[: sample.rfind(b"\n") + 1] or sample + raw.read()
            codec, note = encoding.detect(sample, str(path), self.encoding)
            if note and f"{path}: {note}" not in self.notes:
                self.notes.append(f"{path}: {note}")
            raw.seek(0)
            try:
                newline = "" if path.suffix.casefold() in (".csv", ".tsv") else None
                yield _Lines(io.TextIOWrapper(raw, encoding=codec, newline=newline))
            except LookupError:
                raise MainstemError(f"no encoding is named '{codec}'", where=str(path), do="Common ones: utf-8, gb18030.") from None
            except UnicodeDecodeError as error:
                raise MainstemError(
                    f"undecodable bytes: 0x{error.object[error.start]:02x} is not {codec.upper()}",
                    where=str(path),
                    do="Save it as UTF-8, or name its encoding: --set encoding=NAME.",
                ) from None


class Pairs(Texts):
    """Two columns of `path`, the texts of a row as one with BETWEEN between them; a row that lacks one of the two gives none."""

    def read(self, at: Place = START) -> Iterator[Row]:
        """Every row's pair."""
        for row in super().read(at):
            pair = [BETWEEN.join(text.replace(BETWEEN, " ") for text in row.texts)] if len(row.texts) == len(self.columns) else []
            yield row._replace(texts=pair)


class _Lines:
    """The lines of a text file, read one by one, so that it is known where the next one begins."""

    def __init__(self, stream: io.TextIOWrapper) -> None:
        self.stream, self.number = stream, 0

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        line = self.stream.readline()
        if not line:
            raise StopIteration
        self.number += 1
        return line

    def told(self) -> tuple[int, int]:
        """At which byte the next line begins, and after how many."""
        return self.stream.tell(), self.number

    def go(self, at: Place) -> None:
        """Go on with the line that begins there."""
        self.stream.seek(at.byte)
        self.number = at.line


def _text(cell: Any, path: Path, line: int) -> str:
    """The text of a cell, "" where there is none."""
    if is_missing(cell):
        return ""
    if not isinstance(cell, str):
        raise MainstemError(f"expected a text, found {type(cell).__name__}", where=f"{path}:{line}", do="Name another column: --input.")
    try:
        return checked(cell).strip()
    except MainstemError as error:
        raise MainstemError(error.what, where=f"{path}:{line}", do=error.do) from None


def _place(name: str, names: Sequence[str], path: Path) -> int:
    if name not in names:
        raise MainstemError(f"there is no column '{name}'", where=str(path), do=suggest(name, names))
    return list(names).index(name)


def _records(lines: _Lines, path: Path, suffix: str, at: Place) -> tuple[list[str], Iterator[tuple[int, list[str]]]]:
    """The header of delimited text, and its records from `at` (the first one at the START) with the line that each ends in."""
    usual = "\t" if suffix == ".tsv" else ","
    delimiter = delimited.find_delimiter("".join(islice(lines, 100)), usual)
    lines.go(START)
    reader = csv.reader(lines, delimiter=delimiter)
    with delimited.large_fields():
        header = next(reader, None)
    if header is None:
        raise MainstemError("the file is empty", where=str(path))
    if at.line:
        lines.go(at)
    return delimited.column_names(header, str(path), []), _checked_records(reader, lines, len(header), path)


def _checked_records(reader: Any, lines: _Lines, width: int, path: Path) -> Iterator[tuple[int, list[str]]]:
    try:
        with delimited.large_fields():
            for record in reader:
                if not record:
                    continue
                if len(record) != width:
                    raise MainstemError(
                        f"this line has {len(record)} fields, the header {width}",
                        where=f"{path}:{lines.number}",
                        do="Put cells that contain the delimiter between double quotes.",
                    )
                yield lines.number, record
    except csv.Error as error:
        raise MainstemError(f"this is not CSV: {error}", where=f"{path}:{lines.number}") from None


def _objects(lines: _Lines, path: Path, at: Place) -> Iterator[tuple[int, dict[str, Any]]]:
    """The objects of JSONL from `at`; blank lines are none."""
    lines.go(at)
    for line in lines:
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            raise MainstemError(
                "this line is not JSON", where=f"{path}:{lines.number}", do="A .jsonl file holds one JSON object a line."
            ) from None
        if not isinstance(row, dict):
            raise MainstemError("this line is no JSON object", where=f"{path}:{lines.number}", do='For example {"text": "…"}.')
        yield lines.number, row


def _paragraphs(lines: _Lines, at: Place) -> Iterator[tuple[int, str]]:
    """Texts of plain text from `at` with the line that they start in: paragraphs, or lines where the beginning has no empty line."""
    parted = any(not line.strip() for line in list(islice(lines, 1000))[:-1])
    lines.go(at)
    held: list[str] = []
    first = at.line + 1
    for line in lines:
        if line.strip():
            first = first if held else lines.number
            held.append(line)
        if held and not (parted and line.strip()):
            yield first, "".join(held)
            held = []
    if held:
        yield first, "".join(held)


def _parquet(path: Path, columns: Sequence[str], skipped: int = 0) -> Iterator[Cells]:
    """The rows but the first `skipped`: of the groups before them nothing is read."""
    file = open_parquet(path)
    for name in columns:
        _place(name, file.schema_arrow.names, path)
    groups = list(range(file.num_row_groups))
    number = 0
    while groups and number + (rows := file.metadata.row_group(groups[0]).num_rows) <= skipped:
        number += rows
        del groups[0]
    for batch in file.iter_batches(batch_size=_BATCH, row_groups=groups, columns=list(columns)):
        lists = {name: column.to_pylist() for name, column in zip(batch.schema.names, batch.columns, strict=True)}
        for cells in zip(*(lists[name] for name in columns), strict=True):
            number += 1
            if number > skipped:
                yield number, list(cells)
