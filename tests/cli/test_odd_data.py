"""Data that is odd but no mistake, through the command line: train, evaluate, predict and verify end well, and say what they did."""

import csv
import random

import numpy as np
import pytest

from mainstem.cli import main

N = 80
RNG = random.Random(4)
X = [round(RNG.gauss(0, 1), 3) for _ in range(N)]
Y = ["是" if x + RNG.gauss(0, 0.3) > 0 else "否" for x in X]


def write(path, columns, encoding="utf-8"):
    with path.open("w", encoding=encoding, newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))


@pytest.fixture
def whole(tmp_path, capfd, monkeypatch):
    """Every verb, one after the other, on one table; returns what training said."""
    monkeypatch.chdir(tmp_path)

    def run(columns, target, *flags, encoding="utf-8", backbone="linear"):
        write(tmp_path / "odd.csv", columns, encoding)
        code = main(["train", "odd.csv", "--target", target, "--backbone", backbone, "-o", "run", *flags])
        said = capfd.readouterr().err
        assert code == 0, said
        for line in (["evaluate", "run", "odd.csv"], ["predict", "run", "odd.csv", "-o", "out.csv"], ["verify", "run"]):
            assert main(line) == 0, capfd.readouterr().err
        with (tmp_path / "out.csv").open(encoding="utf-8") as stream:
            assert len(list(csv.DictReader(stream))) == len(columns[target])
        return said + capfd.readouterr().err

    return run


def test_names_that_are_words_of_ours(whole):
    whole({"prediction": X, "score": X[::-1], "label": Y}, "label")


def test_names_with_spaces_in_a_chinese_spreadsheet(whole):
    assert "read as GB18030" in whole({"面积 平方米": X, "答 案": Y}, "答 案", encoding="gb18030")


def test_columns_that_hold_nothing_are_told_in_one_line(whole):
    said = whole({**{f"m{i}": [""] * N for i in range(30)}, "x": X, "y": Y}, "y")
    assert said.count("left out") == 1
    assert "30 columns are left out: they are missing in every row (m0, m1, " in said


@pytest.mark.parametrize("backbone", ["linear", "trees"])
def test_a_column_that_is_empty_in_some_fold(whole, backbone):
    whole({"x": ["" if i % 27 else x for i, x in enumerate(X)], "z": X[::-1], "y": Y}, "y", backbone=backbone)


def test_rows_without_an_answer_are_left_out_wherever_they_are(whole):
    said = whole({"x": X, "y": [y if i % 4 else "" for i, y in enumerate(Y)]}, "y")
    assert said.count("20 rows") == 2  # while training, and while evaluating
    assert said.count("have no answer and are left out") == 2


def test_words_that_are_read_as_a_missing_answer_are_told(whole):
    said = whole({"x": X, "y": [y if i % 4 else "none" for i, y in enumerate(Y)]}, "y")
    assert "have no answer (written 'none') and are left out" in said


def test_fewer_rows_than_folds(whole):
    whole({"x": [1, 2, 3, 4, 5], "y": [1.5, 2.5, 3.1, 4.2, 5.7]}, "y", "--backbone", "trees")


@pytest.mark.parametrize("factor", [1e300, 1e-250, 1e-9])
def test_very_large_and_very_small_numbers(whole, factor):
    whole({"x": [x * factor for x in X], "z": X, "y": [2 * x * min(factor, 1e99) for x in X[::-1]]}, "y")


def test_booleans_duplicates_and_contradictions(whole):
    rng = np.random.default_rng(0)
    flags = [str(bool(b)) for b in rng.integers(0, 2, N)]
    said = whole({"a": flags, "b": ["x", "y"] * (N // 2), "y": [f.lower() for f in flags[::-1]]}, "y")
    assert "repeats are ordinary here" in said


def test_many_classes_and_an_id(whole):
    classes = [f"c{i % 40}" for i in range(160)]
    said = whole({"id": range(1000, 1160), "x": [i % 40 + RNG.random() for i in range(160)], "y": classes}, "y")
    assert "40 classes" in said
    assert "'id' looks like an id" in said


def test_text_with_anything_in_it(whole):
    marks = ["😀", "\u200b", "‮", "é", 'say "hi"\nand go', "؟", "𝔸"]
    texts = [f"row {i} is {'grand' if y == '是' else 'awful'} {RNG.choice(marks)} {RNG.random():.3f}" for i, y in enumerate(Y)]
    whole({"t": texts, "y": Y}, "y", "--epochs", "2", backbone="ngram")
