"""What every runtime does around a graph: dtypes, optional inputs, what is wanted, what is kept."""

import numpy as np
import pytest

from mainstem.contracts import Call, GraphSpec, Kept, Port
from mainstem.runtimes._calls import GraphRunner, by_name, prepare

SPEC = GraphSpec(
    (
        Port("token", "int64", ("row",)),
        Port("past", "float32", ("row", "pad:past", "2"), optional=True),
        Port("past.mask", "float32", ("row", "pad:past"), optional=True),
        Port("adapter", "int64", ("row",), optional=True),
    ),
    (
        Port("logits", "float32", ("row", "3")),
        Port("spare", "float32", ("row",)),
        Port("past", "float32", ("row", "pad:grown", "2")),
        Port("past.mask", "float32", ("row", "pad:grown")),
    ),
)


def decoder(arrays, wanted):
    """Adds the token to its past, as a cache does."""
    token = arrays["token"].astype(np.float32)
    past = np.concatenate([arrays["past"], np.repeat(token[:, None, None], 2, 2)], 1)
    outputs = {
        "logits": np.repeat(past.sum((1, 2))[:, None], 3, 1),
        "spare": token,
        "past": past,
        "past.mask": np.concatenate([arrays["past.mask"], np.ones((len(token), 1), np.float32)], 1),
    }
    return {name: outputs[name] for name in wanted}


RUNNER = GraphRunner({"decoder": decoder}, {"decoder": SPEC})


def test_optional_inputs_are_empty_or_zero():
    arrays = prepare(Call("decoder", {"token": np.array([1, 2])}), SPEC)
    assert {name: array.shape for name, array in arrays.items()} == {
        "token": (2,),
        "past": (2, 0, 2),
        "past.mask": (2, 0),
        "adapter": (2,),
    }
    assert arrays["adapter"].tolist() == [0, 0]


def test_arrays_come_in_the_dtype_of_the_port_and_others_are_left_out():
    arrays = prepare(Call("decoder", {"token": np.array([1.0, 2.0]), "unknown": np.zeros(2)}), SPEC)
    assert arrays["token"].dtype == np.int64
    assert "unknown" not in arrays


def test_an_array_that_fits_is_not_copied():
    """Shared inputs are told apart by who they are: a copy would keep calls from being merged."""
    token = np.array([1, 2])
    assert prepare(Call("decoder", {"token": token}), SPEC)["token"] is token


def test_a_missing_input_is_named():
    with pytest.raises(KeyError, match="graph 'decoder' needs the input 'token'"):
        prepare(Call("decoder", {"past": np.zeros((1, 0, 2))}), SPEC)


def test_what_is_kept_stays_in_the_runtime_and_goes_back_in():
    first = RUNNER(Call("decoder", {"token": np.array([1, 10])}, outputs=("logits",), keep=("past",)))
    assert set(first) == {"logits", "past"}
    assert isinstance(first["past"], Kept)
    assert set(first["past"].arrays) == {"past", "past.mask"}
    second = RUNNER(Call("decoder", {"token": np.array([2, 20]), "past": first["past"]}, keep=("past",)))
    assert second["logits"][:, 0].tolist() == [6, 60]
    assert second["past"].arrays["past.mask"].shape == (2, 2)
    assert first["past"].arrays["past"].shape == (2, 1, 2)  # the first cache is as it was


def test_a_kept_cache_selects_and_repeats_rows():
    kept = RUNNER(Call("decoder", {"token": np.array([1, 10])}, keep=("past",)))["past"]
    taken = kept.take(np.array([1, 1, 0]))
    assert taken.arrays["past"][:, 0, 0].tolist() == [10, 10, 1]
    again = RUNNER(Call("decoder", {"token": np.zeros(3), "past": taken}))
    assert again["logits"][:, 0].tolist() == [20, 20, 2]


def test_only_what_is_wanted_is_run():
    asked = []
    runner = GraphRunner({"decoder": lambda arrays, wanted: asked.append(wanted) or decoder(arrays, wanted)}, {"decoder": SPEC})
    assert set(runner(Call("decoder", {"token": np.array([1])}, outputs=("spare",)))) == {"spare"}
    assert asked == [("spare",)]
    assert len(runner(Call("decoder", {"token": np.array([1])}))) == 4


def test_both_sides_of_a_graph_may_share_names():
    assert by_name(SPEC.inputs)["past"].axes[1] == "pad:past"
    assert by_name(SPEC.outputs)["past"].axes[1] == "pad:grown"
