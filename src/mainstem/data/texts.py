"""Texts of any amount, one after the other: from one file or a folder of shards, never held together.

CSV and TSV, JSONL, Parquet, and plain text, whose texts are paragraphs (or lines, where no line is empty).
"""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

from mainstem.data import delimited, encoding, kinds
from mainstem.data.frames import open_parquet
from mainstem.errors import MainstemError, suggest
from mainstem.schema import checked, is_missing

SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet", ".pq", ".txt")
_SAMPLE = 1 << 20  # bytes that choose an encoding
_SEEN = 200  # rows that choose the column
_BATCH = 1024  # rows of Parquet at once
BETWEEN = "\v"  # the texts of a pair: a space to whatever reads it otherwise

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

    def read(self, file: int = 0, row: int = 0) -> Iterator[tuple[int, int, list[str]]]:
        """Each row's texts, with where the next row stands (file, row): reading on from there misses none and repeats none.

        Missing and empty cells give no text. Raises MainstemError with file and row for what is no text.
        """
        for number in range(file, len(self.files)):
            path = self.files[number]
            skipped = row if number == file else 0
            left = max(0, self.most - skipped) if self.most else None
            for done, (line, cells) in enumerate(islice(self._rows(path, self.columns, skipped), left), skipped + 1):
                yield number, done, [text for cell in cells if (text := _text(cell, path, line))]

    def taken(self) -> float:
        """The share of all rows that are read, where those of a file are at most `most`."""
        if not self.most:
            return 1.0
        counts = Counter(file for file, _, _ in Texts(self.path, self.columns, self.encoding).read())
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
        rows = [cells for _, cells in islice(self._rows(path, names), _SEEN)]
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
        with self._opened(path) as stream:
            if suffix in (".csv", ".tsv"):
                return _records(stream, path, suffix)[0]
            return list(dict.fromkeys(name for _, row in islice(_objects(stream, path), _SEEN) for name in row))

    def _rows(self, path: Path, columns: Sequence[str], skipped: int = 0) -> Iterator[Cells]:
        """The rows of a file but the first `skipped`, which are passed over unread where the format allows it."""
        suffix = path.suffix.casefold()
        if suffix in (".parquet", ".pq"):
            yield from _parquet(path, columns, skipped)
            return
        with self._opened(path) as stream:
            if suffix == ".txt":
                yield from ((line, [text]) for line, text in islice(_paragraphs(stream), skipped, None))
            elif suffix in (".csv", ".tsv"):
                names, records = _records(stream, path, suffix)
                places = [_place(name, names, path) for name in columns]
                yield from ((line, [record[i] for i in places]) for line, record in islice(records, skipped, None))
            else:
                yield from ((line, [row.get(name) for name in columns]) for line, row in _objects(stream, path, skipped))

    @contextmanager
    def _opened(self, path: Path) -> Iterator[io.TextIOWrapper]:
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
                yield io.TextIOWrapper(raw, encoding=codec, newline="" if path.suffix.casefold() in (".csv", ".tsv") else None)
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

    def read(self, file: int = 0, row: int = 0) -> Iterator[tuple[int, int, list[str]]]:
        """Each row's pair, with where the next row stands."""
        for number, done, texts in super().read(file, row):
            yield number, done, [BETWEEN.join(text.replace(BETWEEN, " ") for text in texts)] if len(texts) == len(self.columns) else []


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


def _records(stream: io.TextIOWrapper, path: Path, suffix: str) -> tuple[list[str], Iterator[tuple[int, list[str]]]]:
    """The header of delimited text, and its records with the line that each ends in."""
    usual = "\t" if suffix == ".tsv" else ","
    start = "".join(islice(stream, 100))
    delimiter = delimited.find_delimiter(start, usual)
    reader = csv.reader(_chained(start, stream), delimiter=delimiter)
    with delimited.large_fields():
        header = next(reader, None)
    if header is None:
        raise MainstemError("the file is empty", where=str(path))
    return delimited.column_names(header, str(path), []), _checked_records(reader, len(header), path)


def _chained(start: str, stream: io.TextIOWrapper) -> Iterator[str]:
    yield from io.StringIO(start, newline="")
    yield from stream


def _checked_records(reader: Any, width: int, path: Path) -> Iterator[tuple[int, list[str]]]:
    try:
        with delimited.large_fields():
            for record in reader:
                if not record:
                    continue
                if len(record) != width:
                    raise MainstemError(
                        f"this line has {len(record)} fields, the header {width}",
                        where=f"{path}:{reader.line_num}",
                        do="Put cells that contain the delimiter between double quotes.",
                    )
                yield reader.line_num, record
    except csv.Error as error:
        raise MainstemError(f"this is not CSV: {error}", where=f"{path}:{reader.line_num}") from None


def _objects(stream: io.TextIOWrapper, path: Path, skipped: int = 0) -> Iterator[tuple[int, dict[str, Any]]]:
    """The objects of JSONL but the first `skipped`, which are not parsed; blank lines are none."""
    for number, line in islice(((n, line) for n, line in enumerate(stream, 1) if line.strip()), skipped, None):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            raise MainstemError(
                "this line is not JSON", where=f"{path}:{number}", do="A .jsonl file holds one JSON object a line."
            ) from None
        if not isinstance(row, dict):
            raise MainstemError("this line is no JSON object", where=f"{path}:{number}", do='For example {"text": "…"}.')
        yield number, row


def _paragraphs(stream: io.TextIOWrapper) -> Iterator[tuple[int, str]]:
    """Texts of plain text with the line that they start in: paragraphs, or lines where the beginning has no empty line."""
    start = list(islice(stream, 1000))
    lines = enumerate((line for part in (start, stream) for line in part), 1)
    if any(not line.strip() for line in start[:-1]):
        held: list[str] = []
        first = 1
        for number, line in lines:
            if line.strip():
                first = first if held else number
                held.append(line)
            elif held:
                yield first, "".join(held)
                held = []
        if held:
            yield first, "".join(held)
    else:
        yield from ((number, line) for number, line in lines if line.strip())


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
