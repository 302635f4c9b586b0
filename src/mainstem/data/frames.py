"""Frames, Arrow tables, Parquet and spreadsheets → raw rows. Needs the extra [tables], imported where it is used."""

from __future__ import annotations

import importlib
import warnings
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mainstem.contracts import Rows
from mainstem.data.delimited import column_names
from mainstem.errors import MainstemError, MissingExtra


def is_frame(source: Any) -> bool:
    """Whether it is a pandas DataFrame, told without importing pandas."""
    return any(c.__module__.partition(".")[0] == "pandas" and c.__name__ == "DataFrame" for c in type(source).__mro__)


def from_frame(frame: Any) -> Rows:
    """A pandas DataFrame; its index is no column."""
    return _rows([str(name) for name in frame.columns], (frame.iloc[:, i].tolist() for i in range(frame.shape[1])), "")


def from_arrow(source: Any, where: str = "") -> Rows:
    """Anything that streams Arrow data (`__arrow_c_stream__`: polars, pyarrow, DuckDB, datasets, …)."""
    table = _library("pyarrow", "Reading Arrow data").table(source)
    return _rows(table.column_names, (column.to_pylist() for column in table.columns), where)


def from_columns(columns: Mapping[Any, Iterable[Any]]) -> Rows:
    """A dict of columns, each a list or an array of the same length."""
    cells = {str(name): plain(values) for name, values in columns.items()}
    lengths = {name: len(values) for name, values in cells.items()}
    if len(set(lengths.values())) > 1:
        listed = ", ".join(f"'{name}' has {n:,}" for name, n in lengths.items())
        raise MainstemError(f"the columns are not equally long: {listed}")
    return _rows(list(cells), cells.values(), "")


def read_parquet(path: Path) -> Rows:
    """A Parquet file."""
    parquet = _library("pyarrow.parquet", "Reading Parquet")
    try:
        table = parquet.read_table(path)
    except (_library("pyarrow", "Reading Parquet").ArrowException, OSError) as error:
        raise MainstemError(f"this is not a readable Parquet file: {' '.join(str(error).split())}", where=str(path)) from None
    return from_arrow(table, str(path))


def open_parquet(path: Path) -> Any:
    """A pyarrow ParquetFile, of which nothing but the footer is read."""
    parquet = _library("pyarrow.parquet", "Reading Parquet")
    try:
        return parquet.ParquetFile(path)
    except (_library("pyarrow", "Reading Parquet").ArrowException, OSError) as error:
        raise MainstemError(f"this is not a readable Parquet file: {' '.join(str(error).split())}", where=str(path)) from None


def read_xlsx(path: Path) -> Rows:
    """The first sheet of a spreadsheet: its first row that is not empty is the header, cells are typed as the sheet holds them."""
    openpyxl = _library("openpyxl", "Reading spreadsheets")
    notes: list[str] = []
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of features of the sheet that do not concern its cells
            book = openpyxl.load_workbook(path, read_only=True, data_only=True)
            sheet = book.worksheets[0]
            sheet.reset_dimensions()  # what some programs write there is wrong
            lines = [(number, list(cells)) for number, cells in enumerate(sheet.iter_rows(values_only=True), 1)]
            if len(book.worksheets) > 1:
                notes.append(f"read the sheet '{sheet.title}', the first of {len(book.worksheets)}")
            book.close()
    except (zipfile.BadZipFile, KeyError, ValueError, OSError, IndexError, SyntaxError) as error:
        raise MainstemError(f"this is not a readable .xlsx file: {' '.join(str(error).split())}", where=str(path)) from None
    filled = [(number, cells) for number, cells in lines if any(cell not in (None, "") for cell in cells)]
    if not filled:
        raise MainstemError("the sheet is empty", where=str(path))
    width = max(i for _, cells in filled for i, cell in enumerate(cells, 1) if cell not in (None, ""))
    filled = [(number, (cells + [None] * width)[:width]) for number, cells in filled]
    names = column_names(["" if cell is None else str(cell) for cell in filled[0][1]], str(path), notes)
    if len(filled) == 1:
        raise MainstemError("there is a header but not a single row", where=str(path))
    columns = dict(zip(names, map(list, zip(*(cells for _, cells in filled[1:]), strict=True)), strict=True))
    return Rows(columns, str(path), [number for number, _ in filled[1:]], path.parent, tuple(notes))


def plain(values: Iterable[Any]) -> list[Any]:
    """Cells as Python values: numpy's scalars become Python's, an array of numbers a list."""
    cells = values.tolist() if hasattr(values, "tolist") else list(values)
    return [cell.item() if isinstance(cell, np.generic) else cell for cell in cells]


def _rows(names: list[str], columns: Iterable[Iterable[Any]], where: str) -> Rows:
    notes: list[str] = []
    names = column_names(names, where, notes)
    rows = Rows({name: plain(cells) for name, cells in zip(names, columns, strict=True)}, where, base=Path.cwd(), notes=tuple(notes))
    if not len(rows):
        raise MainstemError("there is not a single row", where=where)
    return rows


def _library(name: str, what: str) -> Any:
    """A library of the extra [tables]. Raises MissingExtra where it is not installed."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise MissingExtra(what, "tables", error.name or name) from None
