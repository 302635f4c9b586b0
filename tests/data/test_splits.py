from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mainstem.data.splits import folds, record, split
from mainstem.errors import MainstemError

PARTS = ("train", "valid", "test")


def together(keys, parts):
    """Whether no key stands in two parts."""
    sides = [{keys[i] for i in part} for part in parts]
    return not any(a & b for n, a in enumerate(sides) for b in sides[n + 1 :])


def whole(parts, n):
    return np.array_equal(np.sort(np.concatenate(list(parts.values()))), np.arange(n))


@given(st.integers(3, 400), st.integers(0, 5), st.sampled_from([0.1, 0.15, 0.3]), st.sampled_from([0.0, 0.15, 0.4]))
@settings(max_examples=60, deadline=None)
def test_every_row_is_in_one_part(n, seed, valid, test):
    parts = split(n, valid=valid, test=test, seed=seed)
    assert whole(parts, n)
    assert abs(len(parts["valid"]) - n * valid) <= 1
    assert abs(len(parts["test"]) - n * test) <= 1
    assert len(parts["train"]) > 0
    assert all(np.array_equal(part, np.sort(part)) for part in parts.values())


@given(st.lists(st.sampled_from("aaaaaabbbcd"), min_size=10, max_size=300), st.integers(0, 9))
@settings(max_examples=60, deadline=None)
def test_classes_keep_their_shares(target, seed):
    parts = split(len(target), target=target, seed=seed)
    counts = {name: Counter(target[i] for i in parts[name]) for name in PARTS}
    assert whole(parts, len(target))
    for label, count in Counter(target).items():
        assert counts["train"][label] >= 1
        if count >= 20:
            assert all(abs(counts[name][label] - 0.15 * count) <= 1.5 for name in ("valid", "test"))


def test_rare_classes_are_in_train_by_group_too():
    target = ["a"] * 90 + ["b"] * 9 + ["c"]
    groups = [i // 5 for i in range(100)]
    for seed in range(20):
        parts = split(100, target=target, groups=groups, seed=seed)
        assert {target[i] for i in parts["train"]} == {"a", "b", "c"}
        assert together(groups, parts.values())


@given(st.lists(st.integers(0, 30), min_size=60, max_size=300).filter(lambda g: len(set(g)) > 15), st.integers(0, 9))
@settings(max_examples=40, deadline=None)
def test_groups_stay_whole(groups, seed):
    parts = split(len(groups), groups=groups, seed=seed)
    assert whole(parts, len(groups))
    assert together(groups, parts.values())
    largest = max(Counter(groups).values())
    assert all(0 < len(parts[name]) <= 0.15 * len(groups) + largest for name in ("valid", "test"))


@given(st.lists(st.integers(0, 40), min_size=20, max_size=200).filter(lambda t: len(set(t)) > 5))
@settings(max_examples=40, deadline=None)
def test_time_goes_forward(times):
    parts = split(len(times), times=times)
    assert whole(parts, len(times))
    assert together(times, parts.values())
    ends = [(min(times[i] for i in parts[name]), max(times[i] for i in parts[name])) for name in PARTS]
    assert ends[0][1] < ends[1][0]
    assert ends[1][1] < ends[2][0]


def test_time_meets_the_shares():
    times = np.random.default_rng(0).permutation(1000)
    assert [len(part) for part in split(1000, times=times).values()] == [700, 150, 150]
    assert len(split(1000, times=times, test=0)["test"]) == 0


def test_equal_rows_stay_together_only_where_asked():
    hashes = [str(i % 40) for i in range(200)]
    assert together(hashes, split(200, hashes=hashes, keep_together=True).values())
    assert not together(hashes, split(200, hashes=hashes).values())


def test_groups_and_hashes_together():
    groups = [i // 2 for i in range(200)]
    hashes = ["same" if i in (1, 50, 51, 120) else str(i) for i in range(200)]
    for seed in range(5):
        parts = split(200, groups=groups, hashes=hashes, keep_together=True, seed=seed)
        assert together(groups, parts.values())
        assert together(hashes, parts.values())


def test_order_is_a_function_of_the_seed():
    target = ["a", "b", "b"] * 50
    one, same, other = (split(150, target=target, seed=seed) for seed in (1, 1, 2))
    assert all(np.array_equal(one[name], same[name]) for name in PARTS)
    assert not np.array_equal(one["test"], other["test"])
    assert not np.array_equal(one["test"], np.arange(len(one["test"])) + one["test"][0])


def test_too_few():
    for settings_ in ({"groups": ["g"] * 10}, {"times": [1.0] * 10}, {"hashes": ["h"] * 10, "keep_together": True}):
        with pytest.raises(MainstemError, match="too few"):
            split(10, **settings_)
    with pytest.raises(MainstemError, match="too few"):
        split(2)
    with pytest.raises(MainstemError, match="1 rows have no time, such as row 2"):
        split(3, times=[1.0, None, 2.0])
    with pytest.raises(MainstemError, match="not by both"):
        split(3, times=[1.0, 2.0, 3.0], groups=["a", "b", "c"])


@given(st.integers(2, 7), st.integers(20, 150), st.integers(0, 5))
@settings(max_examples=40, deadline=None)
def test_folds(k, n, seed):
    target = [["a", "b", "b", "b"][i % 4] for i in range(2 * n)]
    chosen = list(range(1, 2 * n, 2))  # a part of the rows only
    target = ["a" if i % 8 < 2 else "b" for i in range(2 * n)]
    pairs = folds(chosen, k, target, seed=seed)
    assert len(pairs) == k
    assert sorted(int(i) for _, valid in pairs for i in valid) == chosen
    for train, valid in pairs:
        assert sorted([*train, *valid]) == chosen
        assert abs(len(valid) - len(chosen) / k) <= 2
        share = sum(target[i] == "a" for i in chosen) / k
        assert abs(sum(target[int(i)] == "a" for i in valid) - share) <= 1.5


def test_folds_keep_groups_and_equal_rows_together():
    groups = [i // 6 for i in range(120)]
    hashes = [str(i % 30) for i in range(120)]
    for train, valid in folds(range(120), 4, groups=groups):
        assert together(groups, (train, valid))
    for train, valid in folds(range(120), 4, hashes=hashes):
        assert together(hashes, (train, valid))


def test_a_class_of_one_row_is_never_asked_for():
    target = ["a"] * 20 + ["b"] * 20 + ["c"]
    for train, valid in folds(range(41), 5, target):
        assert 40 in train
        assert 40 not in valid


def test_record_holds_hashes_by_part():
    hashes = list("abcdef")
    parts = {"train": np.array([0, 2, 3]), "valid": np.array([1]), "test": np.array([4, 5])}
    assert record(parts, hashes) == {"train": ["a", "c", "d"], "valid": ["b"], "test": ["e", "f"]}
