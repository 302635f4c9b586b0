import io
import time
from datetime import datetime

import numpy as np
import pytest
from PIL import Image

from mainstem.contracts import Rows
from mainstem.data.kinds import infer, kind_of
from mainstem.errors import MainstemError

SENTENCES = [f"the {a} {b} was {c} and I liked it" for a in ("old", "new", "red") for b in ("film", "book") for c in ("good", "dull")]


def table(n=60, **columns):
    """Rows with a plain number column beside those given, each repeated to n cells."""
    columns = {"x": [f"{i}.5" for i in range(n)], **columns}
    return Rows({name: (list(cells) * n)[:n] for name, cells in columns.items()}, where="a.csv")


def refused(*args, **settings):
    with pytest.raises(MainstemError) as caught:
        infer(*args, **settings)
    return str(caught.value)


# --- inputs ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cells", "kind"),
    [
        (["1", "2.5", "-3e4", "N/A", ""], "number"),
        (["1", "2", "-", "?"], "number"),
        (["1,234", "5,678,901", "12"], "number"),
        ([1, 2.5, None, float("nan")], "number"),
        (["007", "008", "123"], "category"),
        (["1", "2", "three"], "category"),
        ([True, False, None], "category"),
        (["yes", "no"], "category"),
        (["2024-01-31", "2024/1/31", None], "date"),
        (["31.01.2024", "01.02.2024"], "date"),
        (["2024年1月31日", "2024年12月1日"], "date"),
        (["2024-01-31 15:30:00", "2024-02-01T08:00"], "date"),
        ([datetime(2024, 1, 31), None], "date"),
        (["2024", "2025"], "number"),
        (["20240131", "20240201"], "number"),
        (["New York", "Los Angeles", "New York"], "category"),
        (SENTENCES, "text"),
        (SENTENCES[:3] * 40, "category"),
        (["房间很干净服务态度也好", "上网费用很贵不会再来", "位置还差胡同里面车子", "图画凌乱质量也很差啊"], "text"),
        (["北京", "上海", "广州", "深圳"], "category"),
        ([b"\x89PNG\r\n\x1a\n123", b"\x89PNG\r\n\x1a\n456"], "image"),
        ([np.zeros((4, 4, 3), np.uint8)], "image"),
        ([["a", "b"], ["c"]], ""),
        ([b"abc"], ""),
        ([None, "", "NA"], "category"),
    ],
)
def test_kind_of_cells(cells, kind):
    assert kind_of(cells) == kind


def test_long_ids_stay_exact():
    assert kind_of(["12345678901234567890", "12345678901234567891"]) == "category"


def test_only_input_of_different_strings_is_text():
    names = [f"name{i}" for i in range(50)]
    assert kind_of(names) == "category"
    assert kind_of(names, alone=True) == "text"


def test_pictures_by_path(tmp_path):
    stream = io.BytesIO()
    Image.new("RGB", (2, 2)).save(stream, "PNG")
    (tmp_path / "a.PNG").write_bytes(stream.getvalue())
    assert kind_of(["a.PNG", "b.png"], tmp_path) == "image"
    with pytest.raises(MainstemError, match=r"'b\.png' names a picture that does not exist"):
        kind_of(["b.png", "c.jpg"], tmp_path)
    assert kind_of(["https://x.org/b.png"], tmp_path) == "category"
    found = infer(
        Rows({"image": ["a.PNG"] * 4, "i": ["1", "2", "3", "4"], "y": list("abab")}, base=tmp_path), ["y"], kinds={"i": "category"}
    )
    assert [c.kind for c in found.schema.columns] == ["category"]  # the one picture is constant


def test_useless_columns_are_left_out_and_said():
    rows = table(same=["a"], nothing=["", None], lists=[["a"], ["b"]], y=["u", "v"])
    found = infer(rows, ["y"])
    assert [c.name for c in found.schema.columns] == ["x"]
    text = "\n".join(found.notes)
    assert "'same' is left out: it is 'a' in every row" in text
    assert "'nothing' is left out: it is missing in every row" in text
    assert "'lists' is left out" in text
    assert "no column to learn from" in refused(rows, ["y"], inputs=["same", "nothing"])


def test_index_without_a_name_is_left_out():
    rows = Rows({"column 1": [str(i) for i in range(9)], "x": list("123123123"), "y": list("ababababa")})
    assert [c.name for c in infer(rows, ["y"]).schema.columns] == ["x"]
    assert [c.name for c in infer(rows, ["y"], kinds={"column 1": "number"}).schema.columns] == ["column 1", "x"]


def test_inputs_restrict_and_order():
    rows = table(a=["1", "2"], b=["u", "v"], when=["2024-01-31", "2024-02-01"], y=["u", "v"])
    assert [c.name for c in infer(rows, ["y"], inputs=["b", "a"]).schema.columns] == ["b", "a"]
    assert [c.name for c in infer(rows, ["y"], exclude=["when", "b"]).schema.columns] == ["x", "a"]
    assert [c.kind for c in infer(rows, ["y"], inputs=["a"], kinds={"a": "category"}).schema.columns] == ["category"]


def test_a_column_that_is_almost_numbers_says_what_is_in_the_way():
    rows = Rows({"x": [str(i) for i in range(99)] + ["abc"], "y": ["u", "v"] * 50}, where="a.csv", numbers=range(2, 102))
    notes = "\n".join(infer(rows, ["y"], inputs=["x"]).notes)
    assert "1 cells such as 'abc' (a.csv:101) (--column x=number)" in notes


def test_dates_learn_which_is_the_day():
    rows = table(when=["1/2/2024", "25/12/2023"], y=["u", "v"])
    column = next(c for c in infer(rows, ["y"]).schema.columns if c.name == "when")
    assert (column.kind, column.settings) == ("date", {"day_first": True})


# --- targets ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cells", "task"),
    [
        (["yes", "no"], "classification"),
        ([True, False], "classification"),
        (["0", "1"], "classification"),
        ([0.0, 1.0], "classification"),
        (["1", "2", "3", "N/A"], "classification"),
        (["007", "008"], "classification"),
        (["New York", "New Jersey", "Los Angeles"], "classification"),
        (["0.5", "1.25", "3"], "regression"),
        ([str(i) for i in range(30)], "regression"),
        ([str(i) for i in range(20)], "regression"),  # three rows a value
        (SENTENCES[:3], "classification"),
        ([["a", "b"], ["c"], []], "labels"),
        (["a|b", "b|c", "a", "c|a"], "labels"),
        (['["a", "b"]', '["b"]'], "classification"),
    ],
)
def test_task_of_target(cells, task):
    found = infer(table(y=cells), ["y"])
    assert found.task == task
    assert "--task" in found.notes[0]
    assert [c.kind for c in found.schema.targets] == [{"classification": "category", "regression": "number", "labels": "labels"}[task]]


def test_many_integers_of_few_rows_each_are_a_quantity():
    cells = [str(i % 45) for i in range(2000)]
    assert infer(table(2000, y=cells), ["y"]).task == "regression"
    assert infer(table(2000, y=[str(i % 20) for i in range(2000)]), ["y"]).task == "classification"


def test_the_caller_knows_better():
    rows = table(y=["1", "2", "3"], z=["1.5", "2.5"])
    assert infer(rows, ["y"], task="regression").schema.targets[0].kind == "number"
    assert infer(rows, ["z"], task="tabular-classification").task == "classification"
    assert infer(rows, ["y"], kinds={"y": "number"}).task == "regression"
    assert "kind text does not go with" in refused(rows, ["y"], kinds={"y": "text"})
    assert "no task is named 'clasification'" in refused(rows, ["y"], task="clasification")
    assert "Did you mean 'category'" in refused(rows, ["y"], kinds={"x": "categroy"})


@pytest.mark.parametrize(
    ("cells", "word"),
    [
        (["a"], "one class only"),
        (["1.5"], "the same number in every row"),
        ([None, "NA"], "missing in every row"),
        ([f"id{i}" for i in range(60)], "60 different values in 60 rows"),
        ([f"{s} number {i} of all" for i, s in enumerate(SENTENCES * 5)], "free text"),
        (["2024-01-31", "2024-02-01"], "holds date"),
    ],
)
def test_targets_that_cannot_be_predicted(cells, word):
    assert word in refused(table(y=cells), ["y"], task="regression" if cells == ["1.5"] else "")


def test_names_that_do_not_exist():
    rows = table(label=["u", "v"])
    message = refused(rows, ["lable"])
    assert "the target 'lable' does not exist" in message
    assert "Did you mean 'label'?" in message
    assert "the input 'xx'" in refused(rows, ["label"], inputs=["xx"])
    assert "both target and input" in refused(rows, ["label"], inputs=["label"])
    assert "--target" in refused(rows, [])


def test_answers_that_are_no_numbers_are_named():
    rows = Rows({"x": ["1", "2", "3"], "y": ["1.5", "about 2", "3.5"]}, where="a.csv", numbers=[2, 3, 4])
    message = refused(rows, ["y"], task="regression")
    assert "a.csv:3 column 'y': 1 answers are no numbers, such as 'about 2'" in message


# --- labels -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cells", "mark"),
    [
        (["a|b", "b|c", "a", "c|a", "b"], "|"),
        (["drama, comedy", "comedy", "drama, action", "action, comedy", "action"], ","),
        (["red;green", "green;blue", "blue", "red;blue;green"], ";"),
        (["房间、服务", "服务", "位置、房间", "位置、服务"], "、"),
        (["red green", "green", "blue red", "blue", "red", "blue green red"], " "),
        (["12;15", "15", "12;7", "7;15"], ";"),
    ],
)
def test_labels_in_a_cell(cells, mark):
    found = infer(table(y=cells), ["y"])
    assert (found.task, found.schema.targets[0].settings) == ("labels", {"separator": mark})
    assert "--separator" in found.notes[0]


@pytest.mark.parametrize(
    "cells",
    [
        ["New York", "New Jersey", "Los Angeles", "Las Vegas", "York"],
        ["Austin, TX", "Dallas, TX", "Boston, MA", "Salem, MA", "Reno, NV"],
        ["male, single", "female, single", "male, married", "female, married"],
        ["low risk", "high risk", "low income", "high income"],
        ["very good", "good", "bad", "very bad", "average"],
        ["strongly agree", "agree", "neutral", "disagree", "strongly disagree"],
        ["yes, registered under the customers name", "no phone"],
        ["Iris setosa", "Iris virginica", "Iris versicolor"],
        ["gnu-r", "web", "sound"],
        ["$10,000 to $15,000", "over $15,000", "up to $10,000"],
    ],
)
def test_names_are_no_labels(cells):
    found = infer(table(y=cells), ["y"])
    assert (found.task, found.schema.targets[0].settings) == ("classification", {})


def test_separator_as_asked():
    rows = table(y=["a/b", "b", "a"])
    found = infer(rows, ["y"], task="labels", separator="/")
    assert found.schema.targets[0].settings == {"separator": "/"}
    answers, _ = found.schema.parse(rows, target=True)
    assert answers.target[:3] == [("a", "b"), ("b",), ("a",)]


def test_yes_no_targets():
    rows = table(a=["yes", "no"], b=["0", "1", "1"], c=["是", "否"], d=["maybe", "no"])
    found = infer(rows, ["a", "b", "c"])
    assert found.task == "labels"
    assert [c.name for c in found.schema.columns] == ["x", "d"]
    answers, _ = found.schema.parse(rows, target=True)
    assert [list(v) for v in answers.target[:2]] == [["a", "c"], ["b"]]
    assert "'d' holds 'maybe'" in refused(rows, ["a", "d"])
    assert "regression has one target" in refused(rows, ["a", "b"], task="regression")


def test_a_large_table_is_quick():
    rng, n = np.random.default_rng(0), 100_000
    columns = {f"f{i}": [str(v) for v in rng.normal(size=n)] for i in range(4)}
    columns |= {"c": [str(v) for v in rng.choice(list("abc"), n)], "y": [str(v) for v in rng.integers(0, 3, n)]}
    start = time.process_time()
    assert infer(Rows(columns), ["y"]).task == "classification"
    assert time.process_time() - start < 3


# --- a task that goes on where a text ends --------------------------------------------------------------------------------


def test_the_one_text_is_what_generation_goes_on_with():
    found = infer(table(said=SENTENCES), [], task="text-generation")
    assert (found.task, [(c.name, c.kind) for c in found.schema.columns], found.schema.targets) == ("generation", [("said", "text")], ())
    assert any("'said' is learned from whole" in note and "x left out" in note for note in found.notes)
    short = infer(Rows({"word": ["a", "b"] * 30}), [], task="generation")
    assert short.schema.columns[0].kind == "text"  # the only column, whatever it looks like


def test_prompts_and_completions_are_known_by_their_names_or_named():
    cells = {"prompt": [f"q{i % 9}" for i in range(60)], "completion": [f"a{i % 9}" for i in range(60)]}
    for rows, targets, inputs in (
        (Rows(cells), [], []),
        (Rows(cells), ["completion"], []),
        (Rows({"more": ["x y z"] * 60, **cells}), ["completion"], ["prompt"]),
    ):
        found = infer(rows, targets, inputs, task="generation")
        assert [c.name for c in found.schema.columns] == ["prompt"]
        assert [(c.name, c.kind, c.settings) for c in found.schema.targets] == [("completion", "text", {"form": "plain"})]


def test_generation_asks_which_text_where_there_are_several():
    rows = table(a=SENTENCES, b=SENTENCES[::-1])
    assert "there are 2: 'a', 'b'. Say which: --input COLUMN" in refused(rows, [], task="generation")
    assert "there are 2: 'a', 'b'" in refused(rows, [], ["a", "b"], task="generation")
    assert infer(rows, [], ["b"], task="generation").schema.columns[0].name == "b"
    assert "there are 0: none" in refused(table(y=["1", "2"]), [], task="generation")
    assert "has one target, and 2 are named" in refused(rows, ["a", "b"], ["x"], task="generation")
