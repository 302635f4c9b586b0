import subprocess
import sys

import numpy as np
import pytest

from mainstem.training.order import batches, order, steps


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
