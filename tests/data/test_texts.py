"""Streams of texts: every format, the column that is chosen, where reading goes on, what is wrong."""

import json

import pandas as pd
import pytest

from mainstem.data.texts import Texts
from mainstem.errors import MainstemError

LINES = [f"A sentence that is number {i} of a longer row of them." for i in range(300)]


def texts(source):
    return [text for _, _, row in source.read() for text in row]


def write(folder, suffix, rows):
    path = folder / f"some{suffix}"
    frame = pd.DataFrame({"id": range(len(rows)), "body": rows})
    if suffix in (".csv", ".tsv"):
        frame.to_csv(path, index=False, sep="\t" if suffix == ".tsv" else ",")
    elif suffix == ".parquet":
        frame.to_parquet(path, row_group_size=50)
    elif suffix == ".jsonl":
        path.write_text("".join(json.dumps({"id": i, "body": row}) + "\n" + "\n" * (i % 9 == 0) for i, row in enumerate(rows)))
    else:
        path.write_text("".join(f"{row}\n" for row in rows))
    return path


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet", ".txt"])
def test_every_format_gives_the_same_texts_and_goes_on_where_it_was(tmp_path, suffix):
    source = Texts(write(tmp_path, suffix, LINES))
    assert texts(source) == LINES
    read = list(source.read())
    for at in (0, 49, 50, 122, 298):
        file, row, _ = read[at]
        assert list(source.read(file, row)) == read[at + 1 :]
    assert list(Texts(source.path, source.columns, most=130).read(0, 123)) == read[123:130]


def test_what_was_read_before_is_not_parsed_again(tmp_path):
    path = write(tmp_path, ".jsonl", LINES)
    path.write_text(path.read_text().replace('{"id": 230,', "not JSON: {", 1))
    source = Texts(path, ["body"])
    assert len(list(source.read(0, 250))) == 50
    with pytest.raises(MainstemError, match="not JSON"):
        list(source.read())


def test_a_folder_is_read_by_name_and_what_holds_no_texts_is_told(tmp_path):
    (tmp_path / "b.txt").write_text("second\n")
    (tmp_path / "a.jsonl").write_text('{"text": "a first text of some length"}\n')
    (tmp_path / "picture.png").write_bytes(b"x")
    source = Texts(tmp_path)
    assert texts(source) == ["a first text of some length", "second"]
    assert any("1 files" in note for note in source.notes)
    assert [row for *_, row in source.read(1, 0)] == [["second"]]


def test_plain_text_is_paragraphs_or_lines(tmp_path):
    path = tmp_path / "book.txt"
    path.write_text("One.\nTwo.\n\n\nThree.\n")
    assert texts(Texts(path)) == ["One.\nTwo.", "Three."]
    path.write_text("One.\nTwo.\nThree.\n")
    assert texts(Texts(path)) == ["One.", "Two.", "Three."]


def test_chinese_in_gb18030(tmp_path):
    path = tmp_path / "中文.csv"
    path.write_bytes("编号,正文\n1,这是一段中文文本，用来测试编码。\n2,第二段也是普通的中文文本。\n".encode("gb18030"))
    source = Texts(path, ["正文"])
    assert texts(source) == ["这是一段中文文本，用来测试编码。", "第二段也是普通的中文文本。"]
    assert any("GB18030" in note for note in source.notes)


def test_utf16(tmp_path):
    path = tmp_path / "x.txt"
    path.write_bytes("A line.\nAnother line.\n".encode("utf-16"))
    assert texts(Texts(path)) == ["A line.", "Another line."]


def test_several_columns_give_several_texts_and_missing_ones_none(tmp_path):
    path = tmp_path / "pairs.jsonl"
    path.write_text('{"a": "one", "b": "two"}\n{"a": null, "b": "three"}\n')
    assert texts(Texts(path, ["b", "a"])) == ["two", "one", "three"]


@pytest.mark.parametrize(
    ("name", "content", "columns", "message"),
    [
        ("x.csv", "a,b\n1,2\n", (), r"none of the columns may be the texts \('a', 'b'\).*--input"),
        ("x.csv", "a,b\n1,2\n", ("c",), "no column 'c'"),
        ("x.jsonl", '{"a": "one"}\n', ("c",), "no column 'c'"),
        ("x.csv", "a,b\n1,2,3\n", ("a",), r"x\.csv:2: this line has 3 fields"),
        ("x.csv", "", ("a",), "empty"),
        ("x.jsonl", '{"a": 1}\n', ("a",), r"x\.jsonl:1: expected a text, found int"),
        ("x.jsonl", "[1]\n", ("a",), "no JSON object"),
        ("x.jsonl", "{\n", ("a",), r"x\.jsonl:1: this line is not JSON"),
        ("x.jsonl", '{"a": "\\ud800"}\n', ("a",), "surrogate"),
        ("x.parquet", "PAR", ("a",), "not a readable Parquet"),
        ("x.docx", "x", (), "texts are not read from .docx"),
    ],
)
def test_what_is_wrong_is_told(tmp_path, name, content, columns, message):
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(MainstemError, match=message):
        texts(Texts(path, columns))


def test_several_columns_of_texts_are_for_the_user_to_choose(tmp_path):
    pd.DataFrame({"a": LINES, "b": LINES[::-1]}).to_csv(tmp_path / "x.csv", index=False)
    with pytest.raises(MainstemError, match=r"several of the columns may be the texts \('a', 'b'\).*--input"):
        Texts(tmp_path / "x.csv")


def test_no_texts_at_all(tmp_path):
    with pytest.raises(MainstemError, match="no file in this folder"):
        Texts(tmp_path)
    with pytest.raises(MainstemError, match="no such file"):
        Texts(tmp_path / "none.csv")
    path = tmp_path / "x.txt"
    path.write_bytes(b"fine\n" * 300_000 + b"\xff\xfe\n")
    with pytest.raises(MainstemError, match="undecodable bytes: 0xff"):
        texts(Texts(path))
