import json
import random

import numpy as np
import pytest
import torch

from mainstem.training.randomness import capture, deterministic, restore, seed_everything


def generators():
    return {
        "pcg": np.random.default_rng(1),
        "philox": np.random.Generator(np.random.Philox(2)),
        "twister": np.random.Generator(np.random.MT19937(3)),
        "torch": torch.Generator().manual_seed(4),
    }


def draws(made):
    numbers = [random.random(), random.gauss(0, 1), np.random.standard_normal(), float(torch.randn(())), float(torch.rand(1))]
    numbers += [float(made[name].standard_normal()) for name in ("pcg", "philox", "twister")]
    numbers += [int(made["pcg"].integers(0, 2**31, dtype=np.int32))]
    return [*numbers, float(torch.randn((), generator=made["torch"]))]


@pytest.mark.parametrize("drawn", [0, 1, 2, 7])
def test_every_state_comes_back_exactly(drawn):
    seed_everything(5)
    made = generators()
    for _ in range(drawn):
        draws(made)
    held, arrays = capture(made)
    expected = [draws(made) for _ in range(3)]
    seed_everything(6)
    again = generators()
    restore(json.loads(json.dumps(held, allow_nan=False)), arrays, again)
    assert [draws(again) for _ in range(3)] == expected


def test_capture_is_a_copy():
    made = generators()
    _, arrays = capture(made)
    copies = {name: array.copy() for name, array in arrays.items()}
    draws(made)
    assert all(np.array_equal(arrays[name], copies[name]) for name in copies)


def test_seeding_makes_the_same_numbers():
    seed_everything(11)
    first = draws(generators())
    seed_everything(11)
    assert draws(generators()) == first
    seed_everything(12)
    assert draws(generators()) != first


def test_deterministic_is_on_within_and_as_before_afterwards():
    tiny = torch.tensor(1e-38)
    assert not torch.are_deterministic_algorithms_enabled()
    with deterministic() as facts:
        assert torch.are_deterministic_algorithms_enabled()
        if facts["flush_denormal"]:
            assert float(tiny / 100) == 0
    assert facts["threads"] == torch.get_num_threads()
    assert facts["torch"] == torch.__version__
    assert not torch.are_deterministic_algorithms_enabled()
    assert float(tiny / 100) > 0
