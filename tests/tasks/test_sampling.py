"""The next token: as transformers' own processors choose, and the same whatever else is in the batch."""

import numpy as np
import pytest
import torch

from mainstem.errors import MainstemError
from mainstem.tasks._sampling import NEAR, Sampling

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=50) * 3
NONE = np.zeros(50, bool)


def allowed(logits, seen=NONE, **options):
    """The tokens that are ever drawn, and how often."""
    sampling, rng = Sampling.of({**vars(Sampling()), **options}), np.random.default_rng(1)
    drawn = [sampling.choose(logits, seen, rng)[0] for _ in range(4000)]
    return np.bincount(drawn, minlength=len(logits)) / len(drawn)


def test_greedy_takes_the_likeliest_and_says_by_how_much():
    token, lead = Sampling().choose(LOGITS, NONE, RNG)
    first, second = np.sort(LOGITS)[::-1][:2]
    assert (token, lead) == (int(LOGITS.argmax()), pytest.approx(first - second))
    assert Sampling().choose(np.array([1.0, 2.0, 2.0]), np.zeros(3, bool), RNG) == (1, 0.0)  # the first of equals


def test_temperature_divides_the_logits():
    shares = allowed(LOGITS, temperature=2.0)
    wanted = torch.softmax(torch.from_numpy(LOGITS / 2), 0).numpy()
    assert np.abs(shares - wanted).max() < 0.03


@pytest.mark.parametrize(
    ("options", "warper"),
    [
        ({"top_k": 5}, ("TopKLogitsWarper", 5)),
        ({"top_p": 0.8}, ("TopPLogitsWarper", 0.8)),
        ({"top_p": 0.3, "top_k": 40}, ("TopPLogitsWarper", 0.3)),
        ({"repetition_penalty": 1.7}, ("RepetitionPenaltyLogitsProcessor", 1.7)),
    ],
)
def test_the_same_tokens_are_left_as_in_transformers(options, warper):
    import transformers

    seen = NONE.copy()
    seen[np.argsort(-LOGITS)[:3]] = True
    name, value = warper
    ids = torch.from_numpy(np.flatnonzero(seen)[None])
    left = getattr(transformers, name)(value)(ids, torch.from_numpy(LOGITS[None]))
    wanted = torch.softmax(left[0], 0).numpy()
    shares = allowed(LOGITS, seen, temperature=1.0, **options)
    assert np.abs(shares - wanted).max() < 0.03
    assert not shares[wanted == 0].any()


def test_top_p_looks_beyond_the_nearest_where_they_hold_too_little():
    flat = np.zeros(2 * NEAR)
    sampling = Sampling(temperature=1.0, top_p=0.9)
    assert len(sampling._shares(flat)[0]) == int(np.ceil(0.9 * len(flat)))
    assert len(Sampling(temperature=1.0, top_p=1e-9)._shares(flat)[0]) == 1


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"max_tokens": 0}, "'max_tokens' is a whole number from 1 on"),
        ({"min_tokens": 17}, "from 0 to max_tokens"),
        ({"temperature": -0.1}, "'temperature' is a number from 0 on"),
        ({"temperature": float("nan")}, "'temperature'"),
        ({"top_p": 0.0}, "'top_p'"),
        ({"top_k": -1}, "'top_k'"),
        ({"repetition_penalty": 0}, "'repetition_penalty'"),
        ({"stop": ["a", ""]}, "at most 16 texts of 1 to 200 characters"),
        ({"stop": "x" * 201}, "'stop'"),
        ({"stop": ["x"] * 17}, "'stop'"),
        ({"seed": -1}, "'seed'"),
        ({"top_p": 2, "top_k": -3}, "'top_k' .*'top_p'|'top_p' .*'top_k'"),
    ],
)
def test_what_is_out_of_range_is_told(options, part):
    with pytest.raises(MainstemError, match=part):
        Sampling.of({**vars(Sampling()), **options})


def test_one_stop_may_be_a_text():
    assert Sampling.of({**vars(Sampling()), "stop": "END"}).stop == ("END",)
