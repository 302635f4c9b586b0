import csv
import inspect
import shlex
import sys
from datetime import date

import numpy as np
import pytest

from mainstem.cli.example import command
from mainstem.data import examples, sources
from mainstem.errors import MainstemError, MissingExtra


def cells(path):
    with open(path, encoding="utf-8-sig", newline="") as stream:
        return list(csv.DictReader(stream))


def test_linear_is_a_noisy_line_with_the_worked_command(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command = examples.write("linear")
    assert command == "mainstem train data.csv --target output --backbone linear --optimizer gd --lr 0.01 --epochs 1000"
    rows = cells("data.csv")
    x, y = (np.array([float(row[name]) for row in rows]) for name in ("input", "output"))
    slope, intercept = np.polyfit(x, y, 1)
    assert len(rows) == 100
    assert abs(slope - 2.5) < 0.15
    assert abs(intercept - 4) < 0.6
    assert 0.5 < np.std(y - slope * x - intercept) < 1.5


@pytest.mark.parametrize("name", ["linear", "table", "iris-in-context", "reviews", "series", "pretrain-tiny"])
def test_the_same_bytes_every_time(name, tmp_path):
    first, second = (examples.write(name, tmp_path / part) for part in "ab")
    assert first.replace(str(tmp_path / "a"), str(tmp_path / "b")) == second
    assert shlex.split(second)[0] == "mainstem"
    (one,), (two,) = (list((tmp_path / part).iterdir()) for part in "ab")
    assert one.read_bytes() == two.read_bytes()


def test_table_has_every_kind_and_gaps_and_a_rent_that_can_be_learned(tmp_path):
    command = examples.write("table", tmp_path)
    assert command.endswith("table.csv --target rent")
    rows = cells(tmp_path / "table.csv")
    assert len(rows) == 600
    gaps = {name for row in rows for name, cell in row.items() if cell == ""}
    assert gaps == {"rooms", "heating", "built", "remark"}
    assert {row["district"] for row in rows} >= {"old town", "centre"}
    assert all(date.fromisoformat(row["listed"]).year in (2024, 2025) for row in rows)
    assert len({row["remark"] for row in rows}) > 100
    area, rent = (np.array([float(row[name]) for row in rows]) for name in ("area", "rent"))
    assert 0.5 < np.corrcoef(area, rent)[0, 1] ** 2 < 0.95
    assert rent.min() > 0


def test_series_are_in_long_format_and_what_is_to_come_is_empty(tmp_path):
    command = examples.write("series", tmp_path)
    assert command.endswith("--target sales --series shop --time month --horizon 12 --future campaign")
    rows = cells(tmp_path / "sales.csv")
    shops = {row["shop"] for row in rows}
    assert len(shops) == 4
    ahead = [row for row in rows if row["sales"] == ""]
    assert len(ahead) == 12 * len(shops)
    assert {row["month"][:4] for row in ahead} == {"2025"}
    assert 400 < len(rows) - len(ahead) < 120 * len(shops)  # some months are missing


def test_reviews_are_of_two_languages_and_no_sentence_comes_twice(tmp_path):
    assert examples.write("reviews", tmp_path).endswith("reviews.csv --target label")
    assert (tmp_path / "reviews.csv").read_bytes().startswith(b"\xef\xbb\xbf")
    read = sources.read(tmp_path / "reviews.csv")
    texts, labels = read.columns["text"], read.columns["label"]
    assert len(set(texts)) == len(texts) == 400
    chinese = [any("\u4e00" <= c <= "\u9fff" for c in text) for text in texts]
    for language in (True, False):
        found = [label for label, one in zip(labels, chinese, strict=True) if one is language]
        assert sorted(set(found)) == ["negative", "positive"]
        assert found.count("positive") == found.count("negative") == 100


def test_digits_are_a_folder_of_class_folders(tmp_path, monkeypatch):
    from PIL import Image
    from sklearn.datasets import load_digits

    monkeypatch.setattr("mainstem.files.os.fsync", lambda handle: None)  # 1,797 waits for the disk
    command = examples.write("digits", tmp_path / "new place")
    assert shlex.split(command)[:5] == ["mainstem", "train", str(tmp_path / "new place" / "digits"), "--target", "label"]
    read = sources.read(tmp_path / "new place" / "digits")
    data = load_digits()
    assert len(read) == 1797
    assert sorted(map(int, read.columns["label"])) == sorted(data.target)
    with Image.open(tmp_path / "new place" / "digits" / str(data.target[5]) / "0005.png") as picture:
        np.testing.assert_array_equal(np.asarray(picture), np.rint(data.images[5] * 255 / 16))


def test_digits_without_scikit_learn_say_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(MissingExtra, match=r"mainstem\[tables\]"):
        examples.write("digits", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_overwritten_and_names_are_suggested(tmp_path):
    (tmp_path / "data.csv").write_text("mine")
    with pytest.raises(MainstemError, match="is not overwritten"):
        examples.write("linear", tmp_path)
    assert (tmp_path / "data.csv").read_text() == "mine"
    (tmp_path / "digits").mkdir()
    with pytest.raises(MainstemError, match="is not overwritten"):
        examples.write("digits", tmp_path)
    with pytest.raises(MainstemError, match="Did you mean 'linear'"):
        examples.write("liner", tmp_path)


def test_help_names_every_example():
    told = inspect.get_annotations(command, eval_str=True)["name"].__metadata__[0].help
    assert set(told.replace(" or ", ", ").split(", ")) == set(examples.NAMES)
