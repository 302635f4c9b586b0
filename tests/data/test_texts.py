"""Streams of texts: every format, the column that is chosen, where reading goes on, what is wrong."""

import json
from itertools import islice

import pandas as pd
import pytest

from mainstem.data.texts import Place, Texts
from mainstem.errors import MainstemError

LINES = [f"A sentence that is number {i} of a longer row of them." for i in range(300)]


def texts(source):
    return [text for row in source.read() for text in row.texts]


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
    places = [row.following() for row in source.read()]
    assert [place.row for place in places] == list(range(1, 301))
    for i in (0, 49, 50, 122, 298, 299):
        assert [row.texts for row in source.read(places[i])] == [[line] for line in LINES[i + 1 :]]
    assert [row.texts for row in Texts(source.path, source.columns, most=130).read(places[122])] == [[line] for line in LINES[123:130]]


CHINESE = ["第一段：天地玄黄，宇宙洪荒。", "二，日月盈昃，辰宿列张。", "a line of ASCII", "🙂 寒来暑往", "秋收冬藏"] * 50


@pytest.mark.parametrize("codec", ["utf-8", "utf-8-sig", "gb18030", "utf-16"])
@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".txt"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_reading_goes_on_at_any_row_in_any_encoding_with_any_line_ends(tmp_path, codec, suffix, end):
    path = tmp_path / f"some{suffix}"
    if suffix == ".csv":
        content = "".join(f'{i},"{row}{end}next"{end}' for i, row in enumerate(CHINESE))
        path.write_bytes(f"id,body{end}{content}".encode(codec))
    elif suffix == ".jsonl":
        path.write_bytes(
            "".join(json.dumps({"body": row}, ensure_ascii=False) + end * (1 + i % 2) for i, row in enumerate(CHINESE)).encode(codec)
        )
    else:
        path.write_bytes("".join(f"{row}{end}next{end}{end}" for row in CHINESE).encode(codec))
    source = Texts(path, () if suffix == ".txt" else ["body"])
    read = [(row.texts, row.following()) for row in source.read()]
    assert [texts[0].splitlines()[0] for texts, _ in read] == CHINESE
    for i, (_, place) in enumerate(read):
        assert place == Place(*json.loads(json.dumps(place)))
        assert [texts for texts, _ in read[i + 1 : i + 4]] == [row.texts for row in islice(source.read(place), 3)]


def test_what_was_read_before_is_not_read_again_and_lines_keep_their_numbers(tmp_path):
    path = write(tmp_path, ".jsonl", LINES)
    source = Texts(path, ["body"])
    rows = source.read()
    *_, last = islice(rows, 250)
    place = last.following()
    lines = path.read_bytes().splitlines(keepends=True)
    assert place.byte == sum(map(len, lines[: place.line]))
    path.write_bytes(b"?" * place.byte + b"".join(lines[place.line :]))
    assert [row.texts[0] for row in source.read(place)] == LINES[250:]
    path.write_bytes(b"?" * place.byte + b"{\n")
    with pytest.raises(MainstemError, match=rf"some\.jsonl:{place.line + 1}: this line is not JSON"):
        list(source.read(place))


def test_a_folder_is_read_by_name_and_what_holds_no_texts_is_told(tmp_path):
    (tmp_path / "b.txt").write_text("second\n")
    (tmp_path / "a.jsonl").write_text('{"text": "a first text of some length"}\n')
    (tmp_path / "picture.png").write_bytes(b"x")
    source = Texts(tmp_path)
    assert texts(source) == ["a first text of some length", "second"]
    assert any("1 files" in note for note in source.notes)
    assert [row.texts for row in source.read(Place(1))] == [["second"]]


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
