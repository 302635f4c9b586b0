"""Merged calls answer as lone ones; a call that fails hurts only its own request; nobody is starved, and too much is refused."""

import asyncio
import threading
import time

import numpy as np
import pytest

from mainstem.contracts import Call, Port
from mainstem.serve.calls import Graph, Shared
from mainstem.serve.engine import Engine, _Graph
from mainstem.serve.line import Line
from mainstem.serve.scheduler import CallFailed, Cancelled, Late, Refused, Scheduler, Ticket
from mainstem.serve.supervisor import Local

PORTS = (
    (Port("ids", "int64", ("row", "pad:tokens")), Port("mask", "float32", ("row", "pad:tokens"))),
    (Port("sum", "float32", ("row",)), Port("steps", "float32", ("row", "pad:tokens"))),
    "",
)
POOLED = (PORTS[0], PORTS[1][:1], "")


class Sums:
    """Sums ids under the mask; raises where an id is negative. Counts how often it runs and on how many rows, and waits to be let go."""

    def __init__(self):
        self.rows, self.shapes, self.gate, self.seconds = [], [], threading.Event(), 0.0
        self.gate.set()

    def __call__(self, arrays, wanted):
        self.gate.wait(10)
        time.sleep(self.seconds * arrays["ids"].size)
        self.rows.append(len(arrays["ids"]))
        self.shapes.append(arrays["ids"].shape)
        if (arrays["ids"] < 0).any():
            raise ValueError("poison")
        steps = (arrays["ids"] * arrays["mask"]).astype(np.float32)
        answer = {"sum": steps.sum(1), "steps": steps}
        return {name: answer[name] for name in wanted}


class Bench:
    """A scheduler over one engine in this process with fakes for graphs."""

    def __init__(self, lanes=1, **settings):
        self.engine = Local(lanes)
        self.line, self.scheduler = Line(self.engine), Scheduler(**settings)

    def graph(self, function, ports=PORTS, rows=None, cost=None):
        number = len(self.engine.engine._graphs)
        sides = [{port.name: port for port in side} for side in ports[:2]]
        self.engine.engine._graphs[number] = _Graph(function, *sides)
        shared = Shared(self.line, number, ports)
        if cost:
            for cells in (1, 1000):
                shared.cost.add(cells, cost[0] + cost[1] * cells)
            shared.cost.add = lambda cells, seconds: None  # what is tested must not depend on this machine
        return Graph("encoder", shared, rows or {})

    async def ask(self, graph, call, flow="a", rows=1, timeout=None):
        async with self.scheduler.ticket(self.line, flow, rows, timeout) as ticket:
            return await self.scheduler.ask(graph, call, ticket)

    async def together(self, graphs, calls):
        """All calls while the engine is held, then it is let go; results or exceptions in order."""
        gates = {graph.shared: self.engine.engine._graphs[graph.shared.number].function.gate for graph in graphs}
        for gate in gates.values():
            gate.clear()
        busy = asyncio.create_task(self.ask(graphs[0], call([7])))  # holds the lane
        await asyncio.sleep(0.02)
        asked = [asyncio.create_task(self.ask(graph, each)) for graph, each in zip(graphs, calls, strict=True)]
        await asyncio.sleep(0.02)
        for gate in gates.values():
            gate.set()
        await busy
        return await asyncio.gather(*asked, return_exceptions=True)


def call(row, **more):
    return Call("encoder", {"ids": np.array([row]), "mask": np.ones((1, len(row)), np.float32)}, **more)


def rows_of(*rows):
    """One call of several rows, padded as an encoder pads."""
    width = max(map(len, rows))
    ids = np.array([[*row, *[0] * (width - len(row))] for row in rows])
    mask = np.array([[1.0] * len(row) + [0.0] * (width - len(row)) for row in rows], np.float32)
    return Call("encoder", {"ids": ids, "mask": mask})


def test_calls_of_two_models_that_hold_one_graph_run_as_one_and_answer_as_alone():
    async def run():
        bench, sums = Bench(), Sums()
        graph = bench.graph(sums, cost=(0.02, 1e-5))
        models = [Graph("encoder", graph.shared), Graph("encoder", graph.shared)]
        rows = [list(range(1, 2 + i)) for i in range(8)]
        alone = [await bench.ask(graph, call(row)) for row in rows]
        sums.rows.clear()
        merged = await bench.together([models[i % 2] for i in range(8)], [call(row) for row in rows])
        for a, b in zip(alone, merged, strict=True):
            assert a["sum"].tolist() == b["sum"].tolist()
            assert a["steps"].tolist() == b["steps"].tolist()  # padding of longer neighbours is cut off
        return sums.rows

    rows = asyncio.run(run())
    assert rows == [1, 8]


def test_identical_calls_pass_the_graph_once_also_while_it_runs():
    async def run():
        bench, sums = Bench(), Sums()
        graph = bench.graph(sums)
        answers = await bench.together([graph] * 6, [call([7])] * 6)
        return sums.rows, [a["sum"].tolist() for a in answers], bench.scheduler

    rows, answers, scheduler = asyncio.run(run())
    assert rows == [1]
    assert answers == [[7.0]] * 6
    assert (scheduler.calls, scheduler.runs) == (7, 1)


def test_a_poisoned_call_fails_alone_and_is_found_by_halving():
    async def run():
        bench, sums = Bench(), Sums()
        graph = bench.graph(sums)
        return sums, await bench.together(
            [graph] * 32, [call([i if i != 20 else -1]) for i in range(100, 132)][:20] + [call([-1])] + [call([i]) for i in range(11)]
        )

    sums, answers = asyncio.run(run())
    assert isinstance(answers[20], CallFailed)
    assert "poison" in str(answers[20])
    assert all(isinstance(answer, dict) for i, answer in enumerate(answers) if i != 20)
    assert len(sums.rows) < 16  # of 33, not one by one


def test_other_graphs_other_outputs_and_other_shared_arrays_stay_apart():
    async def run():
        bench, sums, other = Bench(), Sums(), Sums()
        graph, claimed, narrow = bench.graph(sums), bench.graph(other), bench.graph(sums, POOLED)
        answers = await bench.together([graph, narrow, graph, claimed], [call([1]), call([2]), call([3], outputs=("sum",)), call([4])])
        return sums.rows, other.rows, answers

    rows, others, answers = asyncio.run(run())
    assert (rows, others) == ([1] * 4, [1])
    assert set(answers[2]) == {"sum"}

    async def tables():
        bench, ran = Bench(), []
        ports = ((Port("row", "float32", ("row", "1")), Port("table", "float32", ("shared",))), (Port("out", "float32", ("row", "1")),))

        def scale(arrays, wanted):
            ran.append(len(arrays["row"]))
            return {"out": arrays["row"] * arrays["table"].sum()}

        scale.gate = threading.Event()
        graph, tables = bench.graph(scale, ports), [np.ones(2, np.float32), np.full(2, 2, np.float32)]
        calls = [Call("head", {"row": np.ones((1, 1), np.float32) * i, "table": tables[i % 2]}) for i in range(4)]
        answers = await asyncio.gather(*[bench.ask(graph, each) for each in calls])
        return [answer["out"].item() for answer in answers], ran

    assert asyncio.run(tables()) == ([0, 4, 4, 12], [2, 2])


def test_rows_of_different_adapters_run_in_one_batch():
    ports = ((Port("x", "float32", ("row",)), Port("adapter", "int64", ("row",), optional=True)), (Port("out", "float32", ("row",)),))

    async def run():
        bench, seen = Bench(), []

        def adapted(arrays, wanted):
            seen.append(arrays["adapter"].tolist())
            return {"out": arrays["x"] * arrays["adapter"]}

        plain = bench.graph(adapted, ports, cost=(1e-3, 1e-6))
        graphs = [Graph("backbone", plain.shared, {"adapter": i}) for i in range(3)]
        calls = [Call("backbone", {"x": np.ones(2, np.float32)}) for _ in graphs]
        answers = await asyncio.gather(*[bench.ask(graph, each) for graph, each in zip(graphs, calls, strict=True)])
        return seen, [answer["out"].tolist() for answer in answers]

    seen, answers = asyncio.run(run())
    assert seen == [[0, 0, 1, 1, 2, 2]]
    assert answers == [[0, 0], [1, 1], [2, 2]]


def test_functions_of_the_front_that_stack_run_at_once_and_fail_alone():
    class Head:
        stack_key, ran = "linear", 0

        def __init__(self, weight):
            self.weight = weight

        def stacked(self, calls):
            Head.ran += 1
            if any(function.weight is None for function, _ in calls):
                raise ValueError("broken head")
            return [{"logits": arrays["x"] * function.weight, "more": arrays["x"]} for function, arrays in calls]

    async def run(weights):
        bench = Bench()
        Head.ran = 0
        async with bench.scheduler.ticket(bench.line, "a") as ticket:
            ticket.several = True
            asked = [bench.scheduler.stacked(Head(weight), {"x": np.ones(1)}, ("logits",), ticket) for weight in weights]
            return await asyncio.gather(*asked, return_exceptions=True), Head.ran

    answers, _ = asyncio.run(run((1, 2, None, 3)))
    assert isinstance(answers[2], ValueError)
    assert [answer["logits"].item() for i, answer in enumerate(answers) if i != 2] == [1, 2, 3]
    assert set(answers[0]) == {"logits"}
    assert asyncio.run(run(range(20)))[1] == 1


def test_the_head_of_a_lone_model_is_computed_at_once():
    async def run():
        bench = Bench()
        async with bench.scheduler.ticket(bench.line, "a") as ticket:
            asked = bench.scheduler.stacked(lambda arrays, wanted: {"y": arrays["x"] * 2}, {"x": np.ones(1)}, ("y",), ticket)
            return asked.done(), await asked

    done, answer = asyncio.run(run())
    assert done
    assert answer["y"].tolist() == [2]


def test_padding_is_weighed_against_what_a_run_costs():
    """Calls of different lengths run as one where a run has a high fixed cost, and apart where padding costs more."""

    async def shapes(cost):
        bench, sums = Bench(), Sums()
        graph = bench.graph(sums, cost=cost)
        await bench.together([graph] * 4, [call(list(range(1, n))) for n in (10, 12, 90, 101)])
        return sorted(sums.rows[1:])

    assert asyncio.run(shapes((1e-5, 1e-3))) == [1, 1, 1, 1]
    assert asyncio.run(shapes((2e-3, 1e-5))) == [4]
    assert asyncio.run(shapes((5e-4, 1e-5))) == [2, 2]
    assert asyncio.run(shapes((1e-7, 1e-5))) == [2, 2]  # a run costs something around the graph as well


def test_no_run_is_much_larger_than_those_that_were_seen():
    """The first runs of a server are no measure: where their times do not grow with their size, everything that waits would be one run."""

    async def shapes(cells):
        bench, sums = Bench(), Sums()
        graph = bench.graph(sums)
        for size in cells:
            graph.shared.cost.add(size, 0.03)
        graph.shared.cost.add = lambda cells, seconds: None
        await bench.together([graph] * 8, [call(list(range(n, n + 50))) for n in range(1, 9)])
        return sorted(sums.rows[1:])

    assert asyncio.run(shapes((50, 100))) == [4, 4]
    assert asyncio.run(shapes((50, 1000))) == [8]


def test_a_large_call_runs_in_parts_without_padding_and_others_take_turns():
    async def run():
        bench, sums = Bench(), Sums()
        graph = bench.graph(sums, POOLED, cost=(1e-4, 1e-3))
        rng = np.random.default_rng(0)
        rows = [rng.integers(1, 9, int(n)).tolist() for n in rng.integers(1, 60, 40)]
        order = []

        async def ask(name, each, flow):
            answer = await bench.ask(graph, each, flow)
            order.append(name)
            return answer

        sums.seconds = 2e-5
        large = asyncio.create_task(ask("large", rows_of(*rows), "a"))
        await asyncio.sleep(0.005)
        small = asyncio.create_task(ask("small", call([5]), "a"))
        answer, _ = await asyncio.gather(large, small)
        return rows, answer, sums, order

    rows, answer, sums, order = asyncio.run(run())
    assert answer["sum"].tolist() == [sum(row) for row in rows]
    assert len(sums.rows) > 5
    assert sum(a * b for a, b in sums.shapes) < 1.5 * sum(map(len, rows))
    assert order == ["small", "large"]


def test_a_slow_model_does_not_starve_a_fast_one():
    async def run():
        bench, sums = Bench(queue=60), Sums()
        slow, fast = bench.graph(sums, cost=(0.0, 1e-3)), bench.graph(sums, cost=(0.0, 1e-3))
        order = []

        async def ask(name, graph, each):
            await bench.ask(graph, each, name)
            order.append(name)

        sums.seconds = 1e-4
        asked = [asyncio.create_task(ask("slow", slow, call([i] * 100))) for i in range(30)]
        await asyncio.sleep(0.005)
        asked += [asyncio.create_task(ask("fast", fast, call([i]))) for i in range(5)]
        await asyncio.gather(*asked)
        return order

    order = asyncio.run(run())
    assert max(i for i, name in enumerate(order) if name == "fast") < 12


def test_of_large_requests_the_older_ends_first_and_small_ones_pass_by_both():
    async def run():
        bench, sums = Bench(queue=60), Sums()
        graph, order = bench.graph(sums, POOLED, cost=(0.0, 1e-3)), []

        async def ask(name, each, rows=1):
            await bench.ask(graph, each, "a", rows)
            order.append((name, len(sums.rows)))

        await ask("first", call([1] * 10))  # what a row costs is known
        order.clear()
        sums.seconds = 1e-4
        asked = []
        for name, value in (("older", 2), ("newer", 3)):
            asked.append(asyncio.create_task(ask(name, rows_of(*[[value, i, *[value] * 8] for i in range(1, 51)]), 50)))
            await asyncio.sleep(0.005)
        asked += [asyncio.create_task(ask("small", call([4] * 10)))]
        await asyncio.gather(*asked)
        return order

    (small, after_small), (older, after_older), (newer, after_newer) = asyncio.run(run())
    assert (small, older, newer) == ("small", "older", "newer")
    assert after_older - after_small > 3
    assert after_newer - after_older > 7  # of its ten parts of 50 ms: in turns it would have one left


def test_who_would_wait_for_large_requests_is_told_so():
    """Of one call each, the cost of which was thought to be a little higher when they came; and what a larger one asks first."""
    line = Bench().line
    line.flow("a").row = 0.25
    for _ in range(8):
        Ticket(line, "a", 1, began=0.0)
    line.flow("a").row = 0.2
    assert 1.5 < line.wait("a", 1, now=0.01)[0] < 2.1
    line.flow("b").row = 0.01
    Ticket(line, "b", 500, began=0.0)
    assert line.flow("b").before(0.01) == pytest.approx(0.05)
    assert line.flow("b").before(41.0) == pytest.approx(5.0)


def test_the_oldest_goes_first_until_its_model_is_far_ahead():
    async def run():
        bench, sums = Bench(queue=60), Sums()
        graph, order = bench.graph(sums, cost=(0.0, 1e-3)), []

        async def ask(name, i):
            await bench.ask(graph, call([i] * 10), name)
            order.append(name)

        sums.gate.clear()
        asked = [asyncio.create_task(ask(name, i)) for i, name in enumerate("aaabc" + "d" * 30 + "e")]
        await asyncio.sleep(0.02)
        sums.gate.set()
        await asyncio.gather(*asked)
        return "".join(order)

    order = asyncio.run(run())
    assert order.startswith("aaabc")
    assert 15 < order.index("e") < 30  # d is let 100 ms ahead, ten of its calls and those under way


def test_what_nobody_waits_for_is_never_run():
    async def run():
        bench, sums = Bench(), Sums()
        graph = bench.graph(sums)
        sums.gate.clear()
        busy = asyncio.create_task(bench.ask(graph, call([1])))
        await asyncio.sleep(0.02)
        ahead = asyncio.create_task(bench.ask(graph, call([1, 1])))
        await asyncio.sleep(0.02)
        gone = [asyncio.create_task(bench.ask(graph, call([i]))) for i in range(2, 6)]
        late = asyncio.create_task(bench.ask(graph, call([9]), timeout=0.05))
        async with bench.scheduler.ticket(bench.line, "a") as ticket:
            left = bench.scheduler.ask(graph, call([10]), ticket)
            await asyncio.sleep(0.02)
            for task in gone:
                task.cancel()
            ticket.fail(Cancelled())
            with pytest.raises(Cancelled):
                await left
            with pytest.raises(Cancelled):
                bench.scheduler.ask(graph, call([11]), ticket)
        with pytest.raises(Late, match=r"no answer within 0\.05 seconds"):
            await late
        sums.gate.set()
        await busy
        await ahead
        await asyncio.sleep(0.05)
        assert not bench.line.waiting()
        assert bench.scheduler.requests == 0
        return sums.rows

    assert asyncio.run(run()) == [1, 1]  # and none of those that nobody waits for


def test_one_of_two_who_ask_the_same_may_leave():
    async def run():
        bench, sums = Bench(), Sums()
        graph = bench.graph(sums)
        sums.gate.clear()
        busy = asyncio.create_task(bench.ask(graph, call([1])))
        await asyncio.sleep(0.02)
        first, second = (asyncio.create_task(bench.ask(graph, call([5]))) for _ in range(2))
        await asyncio.sleep(0.02)
        first.cancel()
        await asyncio.sleep(0)
        sums.gate.set()
        await busy
        return await second

    assert asyncio.run(run())["sum"].tolist() == [5.0]


def test_what_failed_with_nobody_waiting_is_asked_anew():
    async def run():
        bench, sums = Bench(), Sums()
        graph = bench.graph(sums)
        sums.gate.clear()
        busy = asyncio.create_task(bench.ask(graph, call([7])))
        await asyncio.sleep(0.02)
        asked = [asyncio.create_task(bench.ask(graph, call([i]))) for i in (3, -1)]  # they run as one, which fails
        await asyncio.sleep(0.02)
        sums.gate.set()
        await busy
        sums.gate.clear()
        await asyncio.sleep(0.02)
        for task in asked:
            task.cancel()
        sums.gate.set()
        await asyncio.sleep(0.1)
        async with asyncio.timeout(5):
            answer = await bench.ask(graph, call([3]))
        return answer["sum"].tolist(), bench.scheduler._live

    assert asyncio.run(run()) == ([3.0], {})


def test_more_than_fits_is_refused_at_once_with_the_time_to_wait():
    async def run():
        bench, sums = Bench(queue=0.2), Sums()
        graph = bench.graph(sums, cost=(0.0, 0.01))
        sums.gate.clear()
        sums.seconds = 0.0
        asked = [asyncio.create_task(bench.ask(graph, call([i, i]))) for i in range(100)]
        await asyncio.sleep(0.1)
        refused = [task.exception() for task in asked if task.done()]
        waiting = [task for task in asked if not task.done()]
        other = asyncio.create_task(bench.ask(graph, call([1]), "another model"))
        await asyncio.sleep(0.01)
        assert not other.done()  # it is let in: the queue is not its own
        sums.gate.set()
        await asyncio.gather(*waiting, other)
        await bench.ask(graph, call([3]))  # and all is well again
        return refused, len(waiting)

    refused, waiting = asyncio.run(run())
    assert {type(error) for error in refused} == {Refused}
    assert refused[0].headers == {"Retry-After": "1"}
    assert 5 <= waiting <= 20
    assert waiting + len(refused) == 100


def test_a_call_that_lacks_an_input_fails_before_it_waits():
    async def run():
        bench = Bench()
        await bench.ask(bench.graph(Sums()), Call("encoder", {"ids": np.array([[1]])}))

    with pytest.raises(KeyError, match="mask"):
        asyncio.run(run())


# --- caches -------------------------------------------------------------------------------------------------------------

STEP = (
    (Port("ids", "int64", ("row", "pad:tokens")), Port("past", "float32", ("row", "pad:past"), optional=True)),
    (Port("past", "float32", ("row", "pad:past+tokens")), Port("sum", "float32", ("row",))),
)


def test_a_cache_stays_in_its_engine_and_comes_back_as_it_would_be_alone():
    ran = []

    def step(arrays, wanted):
        ran.append(len(arrays["ids"]))
        past = np.concatenate([arrays["past"], arrays["ids"].astype(np.float32)], 1)
        answer = {"past": past, "sum": past.sum(1)}
        return {name: answer[name] for name in wanted}

    async def run():
        bench = Bench()
        graph = bench.graph(step, STEP)
        begun = [Call("step", {"ids": np.arange(1, 2 + i)[None].repeat(2, 0)}, keep=("past",)) for i in (0, 5, 2)]
        kept = [(await bench.ask(graph, each))["past"] for each in begun]
        ran.clear()
        picked = [kept[0], kept[1].take([1, 0, 0]).take([2]), kept[2].take([1])]
        calls = [Call("step", {"ids": np.full((n, 1), 100)}, keep=()) for n in (2, 1, 1)]
        calls = [Call("step", {**c.inputs, "past": past}, ("sum",)) for c, past in zip(calls, picked, strict=True)]
        answers = await asyncio.gather(*[bench.ask(graph, each) for each in calls])
        held = len(bench.engine.engine._kept)
        del kept, picked, calls, begun
        await asyncio.sleep(0.01)
        return [answer["sum"].tolist() for answer in answers], held, bench.engine.engine._kept

    sums, held, left = asyncio.run(run())
    assert sums == [[101, 101], [121], [106]]
    assert ran == [4]  # a longer cache keeps no call apart
    assert (held, left) == (3, {})


def test_the_engine_numbers_equal_graphs_alike(table_run):
    engine, folder = Engine(), table_run.path / "model"
    from mainstem import artifact

    ports = {name: (spec.inputs, spec.outputs, "") for name, spec in artifact.read(folder).graphs.items()}
    first, second = engine.open(1, folder, ports), engine.open(2, folder, ports)
    assert first == second
    engine.close(1)
    assert engine._graphs
    engine.close(2)
    assert not engine._graphs
    assert not engine._sessions


def test_a_request_holds_no_call_that_was_answered():
    async def run():
        bench, sums = Bench(), Sums()
        graph = bench.graph(sums)
        async with bench.scheduler.ticket(bench.line, "a") as ticket:
            same = call([1, 2])
            both = [bench.scheduler.ask(graph, same, ticket) for _ in range(2)]
            assert len(ticket.known) == 1
            answers = await asyncio.gather(*both)
            await asyncio.sleep(0)
            assert ticket.known == {}
        assert answers[0]["sum"].tolist() == answers[1]["sum"].tolist() == [3]
        assert sums.rows == [1]

    asyncio.run(run())
