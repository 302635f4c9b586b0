import subprocess
import sys

import numpy as np
import pytest

from mainstem.training.order import batches, order, permuted, steps, stretch


def test_order_is_a_permutation_that_depends_on_seed_and_epoch():
    drawn = order(3, 5, 100)
    assert drawn.dtype == np.int64
    assert sorted(drawn) == list(range(100))
    assert np.array_equal(drawn, order(3, 5, 100))
    assert not np.array_equal(drawn, order(3, 6, 100))
    assert not np.array_equal(drawn, order(4, 5, 100))
    assert not np.array_equal(order(1, 2, 100), order(2, 1, 100))


def test_order_is_the_same_in_a_fresh_process():
    code = "from mainstem.training.order import order; print(order(7, 2, 20).tolist())"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == str(order(7, 2, 20).tolist())


SIZES = [(10, 4, [4, 4, 2]), (9, 4, [4, 5]), (8, 4, [4, 4]), (3, 8, [3]), (1, 8, [1]), (0, 8, []), (3, 1, [1, 1, 1])]


@pytest.mark.parametrize(("n", "size", "sizes"), SIZES)
def test_batches_hold_every_row_once(n, size, sizes):
    made = batches(0, 0, n, size)
    assert [len(b) for b in made] == sizes
    assert steps(n, size) == len(sizes)
    assert [int(i) for b in made for i in b] == order(0, 0, n).tolist()


@pytest.mark.parametrize("seed", [0, -1, 2**63, 2**70])
def test_any_seed_is_taken(seed):
    assert sorted(order(seed, 0, 5)) == list(range(5))


def test_batches_by_length_hold_every_row_once_and_little_padding():
    lengths = np.random.default_rng(0).integers(1, 500, 1001)
    plain, near = batches(0, 0, 1001, 10), batches(0, 0, 1001, 10, lengths)
    assert sorted(i for b in near for i in b.tolist()) == list(range(1001))
    assert sorted(map(len, near)) == sorted(map(len, plain))
    padded, spared = (sum(lengths[b].max() * len(b) for b in made) / lengths.sum() for made in (plain, near))
    assert padded > 1.7
    assert spared < 1.15
    longest = [int(lengths[b].max()) for b in near]
    assert longest != sorted(longest)
    assert all(np.array_equal(a, b) for a, b in zip(near, batches(0, 0, 1001, 10, lengths), strict=True))
    assert not np.array_equal(near[0], batches(0, 1, 1001, 10, lengths)[0])


@pytest.mark.parametrize("n", [1, 2, 5, 64, 65, 1000])
def test_permuted_is_a_permutation_that_is_told_in_parts(n):
    whole = permuted(3, 1, np.arange(n), n)
    assert sorted(whole) == list(range(n))
    assert np.array_equal(permuted(3, 1, np.arange(n)[n // 2 :], n), whole[n // 2 :])
    assert n < 64 or not np.array_equal(whole, permuted(3, 2, np.arange(n), n))
    assert n < 64 or not np.array_equal(whole, permuted(4, 1, np.arange(n), n))


def test_permuted_leaves_no_neighbours_together():
    steps = np.abs(np.diff(permuted(0, 0, np.arange(20_000), 20_000)))
    assert abs(steps.mean() - 20_000 / 3) < 200  # the mean distance of two rows drawn at random
    assert (steps < 20).mean() < 0.005
    assert permuted(0, 0, np.array([10**12]), 10**13)[0] < 10**13


@pytest.mark.parametrize("lengths", [None, np.arange(100)[::-1] % 7])
def test_stretches_are_parts_of_endless_passes(lengths):
    per_pass = 34
    whole = stretch(1, 0, 3 * per_pass, 100, 3, lengths)
    for number in range(3):
        rows = np.concatenate(whole[number * per_pass : (number + 1) * per_pass])
        assert sorted(rows) == list(range(100))
    cut = [batch for first in range(0, 102, 17) for batch in stretch(1, first, 17, 100, 3, lengths)]
    assert all(np.array_equal(a, b) for a, b in zip(whole, cut, strict=True))


def test_a_stretch_by_length_needs_little_padding_in_an_order_that_does_not_show_it():
    lengths = np.random.default_rng(0).integers(1, 100, 3200)
    made = stretch(0, 0, 100, 3200, 32, lengths)
    padding = [lengths[batch].max() * len(batch) / lengths[batch].sum() for batch in made]
    assert np.mean(padding) < 1.2  # 1.97 without
    assert abs(np.corrcoef(np.arange(100), [lengths[batch].mean() for batch in made])[0, 1]) < 0.3
