import pytest

from mainstem.evaluation import baseline


def test_the_most_frequent_class_with_frequencies():
    answer = baseline.constant("category", ["b", "a", "b", "c"], ["a", "b", "c", "d"])
    assert (answer.value, answer.score) == ("b", 0.5)
    assert answer.scores == {"a": 0.25, "b": 0.5, "c": 0.25, "d": 0.0}


def test_of_equals_the_first_by_name():
    assert baseline.constant("category", ["b", "a"]).value == "a"


@pytest.mark.parametrize(("middle", "value"), [("mean", 4.0), ("median", 2.0)])
def test_numbers(middle, value):
    assert baseline.constant("number", [1.0, 2.0, 9.0], middle=middle).value == value


def test_labels_that_half_of_the_rows_have_or_the_most_frequent():
    assert baseline.constant("labels", [("a", "b"), ("a",), ("b",), ()]).value == ["a", "b"]
    rare = baseline.constant("labels", [("a",), ("b",), ("b",), (), ()], ["a", "b", "c"])
    assert rare.value == ["b"]
    assert rare.scores == {"a": 0.2, "b": 0.4, "c": 0.0}
    assert baseline.constant("labels", [(), ()]).value == []
