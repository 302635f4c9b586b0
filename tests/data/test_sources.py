import builtins
import csv
import io
import json
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from mainstem.contracts import ABSENT
from mainstem.data.sources import from_json, read
from mainstem.errors import MainstemError, MissingExtra
from mainstem.schema import Column, Schema

CHINESE = "评论,标签\n房间很干净，服务态度也好,好\n上网费用很贵，不会再来,差\n"


def write(path, text, encoding="utf-8"):
    path.write_bytes(text.encode(encoding))
    return path


def refused(source, **settings):
    with pytest.raises(MainstemError) as caught:
        read(source, **settings)
    return str(caught.value)


# --- delimited text -----------------------------------------------------------------------------------------------------


def test_cells_stay_strings(tmp_path):
    rows = read(write(tmp_path / "a.csv", "id,price,when\n007,1.50,2024-01-31\n008, N/A ,\n"))
    assert rows.columns == {"id": ["007", "008"], "price": ["1.50", " N/A "], "when": ["2024-01-31", ""]}
    assert rows.base == tmp_path
    assert rows.notes == ()


def test_quoted_newlines_count_as_lines(tmp_path):
    rows = read(write(tmp_path / "a.csv", 'text,label\n"two\nlines",x\nplain,y\n\n"say ""hi"", then\r\ngo",z\n'))
    assert rows.columns["text"] == ["two\nlines", "plain", 'say "hi", then\r\ngo']
    assert list(rows.numbers) == [2, 4, 6]
    assert rows.place(2, "text").endswith("a.csv:6 column 'text'")


@pytest.mark.parametrize(("name", "delimiter", "word"), [("a.csv", ";", "semicolon"), ("a.csv", "\t", "tab"), ("a.tsv", "|", "bar")])
def test_delimiter_is_found_and_said(tmp_path, name, delimiter, word):
    lines = [["name", "price"], ["tea", "1,5"], ["milk, fresh", "2,0"]]
    rows = read(write(tmp_path / name, "\n".join(delimiter.join(line) for line in lines)))
    assert rows.columns == {"name": ["tea", "milk, fresh"], "price": ["1,5", "2,0"]}
    assert any(word in note for note in rows.notes)


def test_usual_delimiter_is_not_said(tmp_path):
    assert read(write(tmp_path / "a.tsv", "a\tb\n1;2\t3;4\n")).notes == ()
    assert read(write(tmp_path / "a.csv", "text\none; two\nthree\n")).columns == {"text": ["one; two", "three"]}


def test_empty_lines(tmp_path):
    rows = read(write(tmp_path / "a.csv", "a,b\n1,2\n\n3,4\n,\n,\n\n\n"))
    assert rows.columns == {"a": ["1", "3"], "b": ["2", "4"]}
    assert list(rows.numbers) == [2, 4]
    assert "2 empty lines at the end ignored" in rows.notes
    one = read(write(tmp_path / "b.csv", "text\nfirst\n\nthird\n\n"))
    assert one.columns == {"text": ["first", "", "third"]}  # a row of one column that holds nothing is a row


def test_unnamed_index_column(tmp_path):
    frame = pd.DataFrame({"a": [1, 2]})
    frame.to_csv(tmp_path / "a.csv")
    rows = read(tmp_path / "a.csv")
    assert rows.columns == {"column 1": ["0", "1"], "a": ["1", "2"]}
    assert any("column 1" in note for note in rows.notes)


def test_ragged_lines_are_listed_together(tmp_path):
    body = "".join(f"{i},x\n" if i % 2 else f"{i},x,y\n" for i in range(20))
    message = refused(write(tmp_path / "a.csv", "a,b\n" + body))
    assert "10 lines differ from the header's 2 fields" in message
    assert "line 2 has 3, line 4 has 3" in message
    assert "5 more" in message
    assert "line 14" not in message


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("", "empty"),
        ("\n \n", "empty"),
        ("a,b\n", "not a single row"),
        ("a,b,a\n1,2,3\n", "'a' more than once"),
        ("a,b\n1,\0\n", "line 2 holds a NUL byte"),
        ('a,b\n1,2\n3,"open\nand more\n', "line 3 is never closed"),
    ],
)
def test_broken_files(tmp_path, text, word):
    assert word in refused(write(tmp_path / "a.csv", text))


def test_large_cells_and_the_global_limit(tmp_path):
    before = csv.field_size_limit()
    rows = read(write(tmp_path / "a.csv", f'a,b\n"{"x" * 300_000}",1\n'))
    assert len(rows.columns["a"][0]) == 300_000
    assert csv.field_size_limit() == before


# --- encodings ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("encoding", "note"),
    [
        ("utf-8", ""),
        ("utf-8-sig", "byte-order mark"),
        ("utf-16", "UTF-16"),
        ("utf-16-le", "UTF-16-LE"),
        ("utf-16-be", "UTF-16-BE"),
        ("gb18030", "GB18030"),
        ("utf-32", "UTF-32"),
    ],
)
@pytest.mark.parametrize("text", [CHINESE, CHINESE * 3000, "name,price\ntea,1\nmilk,2\n"])
def test_encodings_are_found_and_said(tmp_path, text, encoding, note):
    plain = encoding == "gb18030" and text.isascii()
    rows = read(write(tmp_path / "a.csv", text, encoding))
    assert list(rows.columns) == text.split("\n")[0].split(",")
    assert rows.columns[next(iter(rows.columns))][0] == text.split("\n")[1].split(",")[0]
    assert "".join(rows.notes) == "" if not note or plain else note in rows.notes[0]


def test_traditional_chinese_in_gb18030(tmp_path):
    text = "評論,標籤\n房間很乾淨，服務態度也很好，下次還會再來,好\n上網費用很貴，不會再來住了,差\n"
    assert list(read(write(tmp_path / "a.csv", text, "gb18030")).columns) == ["評論", "標籤"]


@pytest.mark.parametrize("text", ["naïve,café\nThé à la crème,déjà vu\n", "größe,länge\nschön,für\nüber,öfter\n"])
def test_latin1_is_refused_with_place_and_can_be_named(tmp_path, text):
    path = write(tmp_path / "a.csv", text, "latin-1")
    message = refused(path)
    assert "undecodable bytes" in message
    assert "line 1" in message
    assert "data.encoding" in message
    assert list(read(path, encoding="latin-1").columns) == text.split("\n")[0].split(",")


def test_broken_utf8_is_not_taken_for_chinese(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(CHINESE.encode() + b"ab\xff,c\n")
    assert "0xff" in refused(path)
    path.write_bytes((CHINESE * 20).encode()[:-2])
    assert "undecodable bytes" in refused(path)


def test_wrong_and_unknown_encoding_names(tmp_path):
    path = write(tmp_path / "a.csv", CHINESE, "gb18030")
    assert "undecodable bytes" in refused(path, encoding="utf-8")
    assert "no encoding is named 'utf-99'" in refused(path, encoding="utf-99")


# --- JSON ---------------------------------------------------------------------------------------------------------------


def test_jsonl(tmp_path):
    rows = read(write(tmp_path / "a.jsonl", '{"a": 1, "b": ["x", "y"]}\n\n{"a": null, "c": "007"}\n'))
    assert rows.columns == {"a": [1, None], "b": [["x", "y"], None], "c": [None, "007"]}
    assert list(rows.numbers) == [1, 3]


def test_broken_jsonl_names_the_lines(tmp_path):
    message = refused(write(tmp_path / "a.jsonl", '{"a": 1}\n{"a": }\n{"a": 2}\n[oops\n'))
    assert "line 2 (Expecting value" in message
    assert "line 4" in message
    assert "row 2 is a list" in refused(write(tmp_path / "b.jsonl", '{"a": 1}\n[1]\n'))


def test_json(tmp_path):
    assert read(write(tmp_path / "a.json", '[{"a": 1}, {"b": true}]')).columns == {"a": [1, None], "b": [None, True]}
    assert "a list of objects, not an object" in refused(write(tmp_path / "b.json", '{"a": 1}'))
    assert "not JSON" in refused(write(tmp_path / "c.json", "[1,"))


def test_requests_are_strict():
    rows = from_json([{"a": 1, "extra": 2}, {"b": None}], ["a", "b"])
    assert rows.columns["a"] == [1, ABSENT]
    assert rows.columns["b"] == [ABSENT, None]
    with pytest.raises(MainstemError, match=r"row 2 is a string, row 3 is null"):
        from_json([{"a": 1}, "x", None], ["a"])
    with pytest.raises(MainstemError, match="list of objects"):
        from_json({"a": 1}, ["a"])


@pytest.mark.parametrize("text", ["a,b\n1,2\n", '{"a": "1", "b": "2"}\n', '[{"a": "1", "b": "2"}]'])
def test_stdin_tells_its_format(monkeypatch, text):
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(text.encode())))
    assert read("-").columns == {"a": ["1"], "b": ["2"]}


# --- frames, spreadsheets -------------------------------------------------------------------------------------------------


FRAME = {"n": [1.5, None], "s": ["007", None], "d": [pd.Timestamp("2024-01-31"), pd.NaT]}


def test_dataframe():
    rows = read(pd.DataFrame(FRAME, index=[5, 9]))
    assert rows.columns["n"][0] == 1.5
    assert rows.columns["s"][0] == "007"
    assert rows.columns["d"][0] == pd.Timestamp("2024-01-31")
    assert rows.place(1) == "row 2"
    assert type(read(pd.DataFrame({"a": np.array([np.int64(3)], dtype=object)})).columns["a"][0]) is int
    with pytest.raises(MainstemError, match="'a' more than once"):
        read(pd.DataFrame([[1, 2]], columns=["a", "a"]))


class Stream:
    """The least that speaks Arrow."""

    def __init__(self, table):
        self.table = table

    def __arrow_c_stream__(self, requested_schema=None):
        return self.table.__arrow_c_stream__(requested_schema)


def test_arrow():
    table = pyarrow.table({"n": [1, None], "s": pyarrow.array(["x", "y"]).dictionary_encode(), "l": [["a"], ["b", "c"]]})
    for source in (table, Stream(table)):
        assert read(source).columns == {"n": [1, None], "s": ["x", "y"], "l": [["a"], ["b", "c"]]}


def test_parquet(tmp_path):
    pyarrow.parquet.write_table(pyarrow.table({"a": [1, None], "b": ["007", "x"]}), tmp_path / "a.parquet")
    rows = read(tmp_path / "a.parquet")
    assert rows.columns == {"a": [1, None], "b": ["007", "x"]}
    assert rows.base == tmp_path
    assert "not a readable Parquet file" in refused(write(tmp_path / "b.parquet", "PAR1 not really"))


def test_xlsx(tmp_path):
    import openpyxl

    book = openpyxl.Workbook()
    for line in ([None, None], ["name", "n", None], ["茶", 1, None], [None, None, None], ["007", 2.5, None]):
        book.active.append(line)
    book.create_sheet("second")
    book.save(tmp_path / "a.xlsx")
    rows = read(tmp_path / "a.xlsx")
    assert rows.columns == {"name": ["茶", "007"], "n": [1, 2.5]}
    assert list(rows.numbers) == [3, 5]
    assert "first of 2" in rows.notes[0]
    assert "not a readable .xlsx" in refused(write(tmp_path / "b.xlsx", "nonsense"))


@pytest.mark.parametrize(("name", "library"), [("a.parquet", "pyarrow.parquet"), ("a.xlsx", "openpyxl")])
def test_what_needs_an_extra_says_so(tmp_path, monkeypatch, name, library):
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(MissingExtra, match=r"mainstem\[tables\]"):
        read(write(tmp_path / name, "x"))


def test_text_sources_need_no_pandas(tmp_path):
    path = write(tmp_path / "a.csv", CHINESE, "gb18030")
    code = f"""
import sys
for name in ("pandas", "pyarrow", "openpyxl", "sklearn", "torch"):
    sys.modules[name] = None
from mainstem.data.sources import read
print(len(read({str(path)!r})))
"""
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "2\n"


def test_dicts_and_lists():
    assert read({"a": np.array([1, 2]), "b": ["x", None]}).columns == {"a": [1, 2], "b": ["x", None]}
    assert read([{"a": 1}, {"b": 2}]).columns == {"a": [1, None], "b": [None, 2]}
    with pytest.raises(MainstemError, match="'a' has 1, 'b' has 2"):
        read({"a": [1], "b": [1, 2]})
    with pytest.raises(MainstemError, match="cannot read rows from a int"):
        read(5)


def test_bare_values_for_a_model_of_one_column():
    one = Schema((Column("text", "text"),))
    assert read(["fine film"], like=one).columns == {"text": ["fine film"]}
    with pytest.raises(MainstemError, match="row 1 is a string"):
        read(["fine film"])
    with pytest.raises(MainstemError, match="takes 2 columns"):
        read(["fine film"], like=Schema((Column("a", "text"), Column("b", "number"))))


# --- folders and paths ----------------------------------------------------------------------------------------------------


@pytest.fixture
def pets(tmp_path):
    for label, name in [("dog", "b.png"), ("cat", "2.JPG"), ("cat", "1.png"), ("cat/more", "0.webp"), (".hidden", "x.png")]:
        folder = tmp_path / "pets" / label
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(folder / name)
    (tmp_path / "pets" / "cat" / "notes.txt").write_text("not a picture")
    return tmp_path / "pets"


def test_folder_of_class_folders(pets):
    rows = read(pets)
    assert rows.columns == {"image": ["cat/1.png", "cat/2.JPG", "cat/more/0.webp", "dog/b.png"], "label": ["cat", "cat", "cat", "dog"]}
    assert rows.base == pets


def test_pictures_for_a_model(pets):
    like = Schema((Column("photo", "image"),))
    assert read(pets / "cat", like=like).columns == {"photo": ["1.png", "2.JPG", "more/0.webp"]}
    one = read(pets / "dog" / "b.png", like=like)
    assert one.columns == {"photo": ["b.png"]}
    assert one.base == pets / "dog"


def test_class_folders_to_evaluate_a_model_on(pets):
    like = Schema((Column("photo", "image"),), (Column("animal", "category"),))
    assert read(pets, like=like).columns["animal"] == ["cat", "cat", "cat", "dog"]
    (pets / "loose.png").touch()
    assert list(read(pets, like=like).columns) == ["photo"]


def test_folders_that_are_something_else(tmp_path, pets):
    (tmp_path / "empty").mkdir()
    assert "no pictures" in refused(tmp_path / "empty")
    assert "they lie in the folder itself" in refused(pets / "dog")
    (pets / "cat").rename(pets / "train")
    (pets / "dog").rename(pets / "test")
    assert "parts, not classes" in refused(pets)
    (pets / "test" / "b.png").unlink()
    write(pets / "index.csv", "a,b\n1,2\n")
    assert "index.csv" in refused(pets)


def test_paths_that_do_not_exist(tmp_path):
    write(tmp_path / "reviews.csv", "a\n1\n")
    assert f"Did you mean '{tmp_path / 'reviews.csv'}'?" in refused(tmp_path / "review.csv")
    assert "nor the folder" in refused(tmp_path / "nowhere" / "a.csv")
    assert ".xlsx" in refused(write(tmp_path / "a.xls", "x"))
    assert "do not know how to read .docx files" in refused(write(tmp_path / "a.docx", "x"))
    assert "without an ending" in refused(write(tmp_path / "a", "x"))


def test_unreadable_file(tmp_path, monkeypatch):
    path = write(tmp_path / "a.csv", "a\n1\n")

    def fail(*args, **settings):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(type(path), "read_bytes", fail)
    assert "Permission denied" in refused(path)


def test_messages_are_one_sentence_in_json(tmp_path):
    message = refused(write(tmp_path / "a.json", json.dumps(3)))
    assert "\n" not in message
    assert builtins.str(message).endswith(".")
