"""Schema.parse: one table and one hash a row, whatever the source; errors that say row and column."""

import csv
import datetime as dt
import io
import json
from decimal import Decimal

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from mainstem import schema
from mainstem.contracts import ABSENT, Rows
from mainstem.errors import MainstemError
from mainstem.schema import Column, Schema

COLUMNS = (
    Column("n", "number"),
    Column("c", "category"),
    Column("d", "date"),
    Column("t", "text"),
    Column("l", "labels", {"separator": "|"}),
)
CSV = """n,c,d,t,l
3,1,2024-01-31,good film,a|b
2.5,2,2024-01-31 12:00:00,"很好, 好看",b
N/A,,,NA,
-1000,1,1969-12-31,7,c|a
"""
RECORDS = [
    {"n": 3, "c": 1, "d": "2024-01-31", "t": "good film", "l": ["b", "a"]},
    {"n": 2.5, "c": 2, "d": "2024-01-31T12:00:00Z", "t": "很好, 好看", "l": ["b"]},
    {"n": None, "c": None, "d": None, "t": None, "l": None},
    {"n": -1000, "c": 1.0, "d": "1969-12-31", "t": "7", "l": ["a", "c"]},
]


def from_csv():
    lines = list(csv.reader(io.StringIO(CSV)))
    return Rows(dict(zip(lines[0], zip(*lines[1:], strict=True), strict=True)), where="x.csv", numbers=[2, 3, 4, 5])


def from_json():
    records = json.loads(json.dumps(RECORDS))
    return Rows({name: [record[name] for record in records] for name in records[0]})


def from_frame():
    frame = pd.DataFrame(RECORDS)
    frame["d"] = pd.to_datetime(pd.Series(["2024-01-31", "2024-01-31 12:00", None, "1969-12-31"]), format="ISO8601")
    frame["n"] = frame["n"].astype("float32")
    return Rows({name: list(frame[name]) for name in frame})


def from_nullable_frame():
    frame = pd.DataFrame(RECORDS).convert_dtypes()
    frame["c"] = frame["c"].astype("Int64")
    return Rows({name: list(frame[name]) for name in frame})


def test_one_table_for_every_source():
    tables = [Schema(COLUMNS).parse(source()) for source in (from_csv, from_json, from_frame, from_nullable_frame)]
    assert [errors for _, errors in tables] == [{}] * 4
    first = tables[0][0]
    assert first.columns["n"] == [3.0, 2.5, None, -1000.0]
    assert first.columns["c"] == ["1", "2", None, "1"]
    assert first.columns["l"] == [("a", "b"), ("b",), None, ("a", "c")]
    assert first.columns["d"][1] == dt.datetime(2024, 1, 31, 12, tzinfo=dt.UTC).timestamp()
    for table, _ in tables[1:]:
        assert table.columns == first.columns
        assert table.hashes == first.hashes
    assert len(set(first.hashes)) == 4


@pytest.mark.parametrize(
    "raw",
    [
        None,
        float("nan"),
        np.float32("nan"),
        np.datetime64("NaT"),
        np.timedelta64("NaT"),
        pd.NA,
        pd.NaT,
        Decimal("NaN"),
        "",
        " n/a ",
        "缺失",
    ],
)
def test_missing(raw):
    assert schema.is_missing(raw)


@pytest.mark.parametrize("raw", [0, False, "0", "-", "no", [], np.zeros(3), b"", np.float64(0)])
def test_not_missing(raw):
    assert not schema.is_missing(raw)


def test_a_bad_cell_costs_its_row_alone_and_is_named():
    rows = Rows({"n": ["1", "two", "3"], "m": ["1", "2", ABSENT]}, where="x.csv", numbers=[2, 3, 5])
    table, errors = Schema((Column("n", "number"), Column("m", "number"))).parse(rows)
    assert table.columns == {"n": [1.0], "m": [1.0]}
    assert table.source == [0]
    assert str(errors[1]).startswith("x.csv:3 column 'n': expected a number, found 'two'.")
    assert str(errors[2]).startswith("x.csv:5 column 'm': this row has no such value.")


def test_missing_columns_are_named_all_at_once():
    with pytest.raises(MainstemError) as caught:
        Schema((Column("price", "number"), Column("size", "number"), Column("n", "number"))).parse(
            Rows({"prize": [1], "n": [1]}, where="x.csv")
        )
    assert "the columns 'price', 'size' are missing" in str(caught.value)
    assert "Did you mean 'prize'?" in str(caught.value)


def test_a_missing_answer_is_an_error_of_its_row():
    rows = Rows({"n": [1, 2], "y": ["a", None]})
    table, errors = Schema((Column("n", "number"),), (Column("y", "category"),)).parse(rows, target=True)
    assert table.target == ["a"]
    assert "the answer is missing" in str(errors[1])
    assert Schema((Column("n", "number"),), (Column("y", "category"),)).parse(rows)[0].target is None


def test_several_yes_or_no_answers_are_labels():
    rows = Rows({"n": [1, 2, 3, 4, 5], "b": ["yes", 0, "是", None, "maybe"], "a": [True, "N", 1.0, 1, 1]})
    table, errors = Schema((Column("n", "number"),), (Column("b", "category"), Column("a", "category"))).parse(rows, target=True)
    assert table.target == [("a", "b"), (), ("a", "b")]
    assert "missing" in str(errors[3])
    assert "expected yes or no, found 'maybe'" in str(errors[4])


def test_pictures_hash_by_content(tmp_path):
    pixels = (np.arange(300) % 251).astype(np.uint8).reshape(10, 10, 3)
    for name, array in (("a.png", pixels), ("b.png", pixels), ("c.png", pixels[::-1])):
        Image.fromarray(array).save(tmp_path / name)
    rows = Rows({"p": ["a.png", "b.png", "c.png", (tmp_path / "a.png").read_bytes()]}, base=tmp_path)
    a, b, c, raw = Schema((Column("p", "image"),)).parse(rows)[0].hashes
    assert a == b == raw != c


def test_hashes_tell_missing_from_the_word_and_one_column_from_the_next():
    columns = (Column("a", "category"), Column("b", "category"))
    hashes = Schema(columns).parse(Rows({"a": ["x", None, "xy", "x"], "b": [None, "x", "z", "yz"]}))[0].hashes
    assert len(set(hashes)) == 4
