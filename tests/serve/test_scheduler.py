"""Merged calls answer as lone ones; a call that fails hurts only its own request."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from mainstem.contracts import Call, GraphSpec, Port
from mainstem.runtimes._calls import GraphRunner
from mainstem.serve.scheduler import Scheduler

SPEC = GraphSpec(
    (Port("ids", "int64", ("row", "pad:tokens")), Port("mask", "float32", ("row", "pad:tokens"))),
    (Port("sum", "float32", ("row",)), Port("steps", "float32", ("row", "pad:tokens"))),
    weights_id="same",
)


class Graph:
    """Sums ids under the mask; raises where an id is negative. Counts how often it runs, and on how many rows."""

    def __init__(self):
        self.rows = []

    def __call__(self, arrays, wanted):
        self.rows.append(len(arrays["ids"]))
        if (arrays["ids"] < 0).any():
            raise ValueError("poison")
        steps = (arrays["ids"] * arrays["mask"]).astype(np.float32)
        answer = {"sum": steps.sum(1), "steps": steps}
        return {name: answer[name] for name in wanted}


def call(row):
    return Call("encoder", {"ids": np.array([row]), "mask": np.ones((1, len(row)), np.float32)})


def together(scheduler, runners, calls):
    """All calls at once, each from a thread of its own that holds a request; results or exceptions in order."""
    ready = threading.Barrier(len(calls))

    def ask(runner, each):
        with scheduler.request():
            ready.wait()
            try:
                return runner(each)
            except ValueError as error:
                return error

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(ask, runners, calls))


def test_calls_of_two_models_that_hold_one_graph_run_as_one_and_answer_as_alone():
    graph, scheduler = Graph(), Scheduler(gather=0.5)
    models = [scheduler.runner(GraphRunner({"encoder": graph}, {"encoder": SPEC})) for _ in range(2)]
    rows = [list(range(1, 2 + i)) for i in range(8)]
    alone = [GraphRunner({"encoder": Graph()}, {"encoder": SPEC})(call(row)) for row in rows]
    merged = together(scheduler, [models[i % 2] for i in range(8)], [call(row) for row in rows])
    assert graph.rows == [8]
    for a, b in zip(alone, merged, strict=True):
        assert a["sum"].tolist() == b["sum"].tolist()
        assert a["steps"].tolist() == b["steps"].tolist()  # padding of longer neighbours is cut off


def test_identical_calls_pass_the_graph_once():
    graph, scheduler = Graph(), Scheduler(gather=0.5)
    runner = scheduler.runner(GraphRunner({"encoder": graph}, {"encoder": SPEC}))
    answers = together(scheduler, [runner] * 6, [call([1, 2, 3])] * 6)
    assert graph.rows == [1]
    assert [a["sum"].tolist() for a in answers] == [[6.0]] * 6
    assert (scheduler.calls, scheduler.runs) == (6, 1)


def test_a_poisoned_call_fails_alone():
    scheduler = Scheduler(gather=0.5)
    runner = scheduler.runner(GraphRunner({"encoder": Graph()}, {"encoder": SPEC}))
    answers = together(scheduler, [runner] * 5, [call([i]) for i in (1, 2, -1, 3, 4)])
    assert isinstance(answers[2], ValueError)
    assert [a["sum"].tolist() for i, a in enumerate(answers) if i != 2] == [[1.0], [2.0], [3.0], [4.0]]


def test_other_graphs_other_ports_and_other_outputs_stay_apart():
    graph, claims, scheduler = Graph(), Graph(), Scheduler(gather=0.5)
    ports = GraphSpec(SPEC.inputs, SPEC.outputs[:1], weights_id=SPEC.weights_id)
    first = scheduler.runner(GraphRunner({"encoder": graph}, {"encoder": SPEC}))
    other = scheduler.runner(GraphRunner({"encoder": graph}, {"encoder": ports}))
    claimed = scheduler.runner(GraphRunner({"encoder": claims}, {"encoder": SPEC}))  # the same weights_id, another graph
    only = Call("encoder", call([1]).inputs, outputs=("sum",))
    answers = together(scheduler, [first, other, first, claimed], [call([1]), call([2]), only, call([3])])
    assert (graph.rows, claims.rows) == ([1, 1, 1], [1])
    assert set(answers[2]) == {"sum"}


def test_rows_with_different_shared_arrays_are_not_merged():
    scheduler = Scheduler(gather=0.5)
    inputs = (Port("row", "float32", ("row", "1")), Port("table", "float32", ("shared",)))
    spec = GraphSpec(inputs, (Port("out", "float32", ("row", "1")),), weights_id="t")
    ran = []

    def scale(arrays, wanted):
        ran.append(len(arrays["row"]))
        return {"out": arrays["row"] * arrays["table"].sum()}

    runner = scheduler.runner(GraphRunner({"head": scale}, {"head": spec}))
    tables = [np.ones(2, np.float32), np.full(2, 2, np.float32)]
    calls = [Call("head", {"row": np.ones((1, 1), np.float32) * i, "table": tables[i % 2]}) for i in range(4)]
    assert [a["out"].item() for a in together(scheduler, [runner] * 4, calls)] == [0, 4, 4, 12]
    assert sorted(ran) == [2, 2]


def test_a_lone_request_does_not_wait_for_others():
    scheduler = Scheduler(gather=30)
    runner = scheduler.runner(GraphRunner({"encoder": Graph()}, {"encoder": SPEC}))
    with scheduler.request():
        assert runner(call([5]))["sum"].tolist() == [5.0]


def test_merged_calls_stay_below_the_largest_batch():
    graph, scheduler = Graph(), Scheduler(gather=0.5, most_rows=4)
    runner = scheduler.runner(GraphRunner({"encoder": graph}, {"encoder": SPEC}))
    together(scheduler, [runner] * 10, [call([i]) for i in range(10)])
    assert max(graph.rows) <= 4
    assert sum(graph.rows) == 10


def test_a_call_that_lacks_an_input_fails_before_it_is_merged():
    scheduler = Scheduler()
    runner = scheduler.runner(GraphRunner({"encoder": Graph()}, {"encoder": SPEC}))
    with pytest.raises(KeyError, match="mask"):
        runner(Call("encoder", {"ids": np.array([[1]])}))


def test_calls_of_very_different_lengths_run_apart():
    graph, scheduler = Graph(), Scheduler(gather=0.5)
    runner = scheduler.runner(GraphRunner({"encoder": graph}, {"encoder": SPEC}))
    together(scheduler, [runner] * 4, [call(list(range(n))) for n in (1, 90, 2, 100)])
    assert sorted(graph.rows) == [2, 2]


# --- caches -------------------------------------------------------------------------------------------------------------

STEP = GraphSpec(
    (Port("ids", "int64", ("row", "pad:tokens")), Port("past", "float32", ("row", "pad:past"), optional=True)),
    (Port("past", "float32", ("row", "pad:past+tokens")), Port("sum", "float32", ("row",))),
)


class Step(Graph):
    """Puts what is new behind what was there."""

    def __call__(self, arrays, wanted):
        self.rows.append(len(arrays["ids"]))
        past = np.concatenate([arrays["past"], arrays["ids"].astype(np.float32)], 1)
        answer = {"past": past, "sum": past.sum(1)}
        return {name: answer[name] for name in wanted}


def test_a_cache_comes_back_as_it_would_be_alone_whatever_its_neighbours_hold():
    graph, scheduler = Step(), Scheduler(gather=0.5)
    runner = scheduler.runner(GraphRunner({"step": graph}, {"step": STEP}))
    pasts = [np.arange(n, dtype=np.float32)[None] for n in (1, 60, 0, 7)]
    steps = [Call("step", {"ids": np.array([[100 + i]]), "past": past}) for i, past in enumerate(pasts)]
    answers = together(scheduler, [runner] * 4, steps)
    assert graph.rows == [4]  # a longer cache keeps no call apart
    for i, (past, answer) in enumerate(zip(pasts, answers, strict=True)):
        assert answer["past"].tolist() == [[*past[0].tolist(), 100 + i]]


def test_large_arrays_tell_calls_apart_too(monkeypatch):
    from mainstem.serve import scheduler as module

    monkeypatch.setattr(module, "HASHED", 8)
    graph, scheduler = Step(), Scheduler(gather=0.5)
    runner = scheduler.runner(GraphRunner({"step": graph}, {"step": STEP}))
    pasts = [np.full((1, 50), i % 2, np.float32) for i in range(4)]
    answers = together(scheduler, [runner] * 4, [Call("step", {"ids": np.array([[1]]), "past": past}) for past in pasts])
    assert graph.rows == [2]  # two of each kind are the same call
    assert [answer["sum"].item() for answer in answers] == [1, 51, 1, 51]
