"""An engine in a process of its own: replaced when it dies or hangs, with its models; what kills it twice is not tried again."""

import asyncio
import os
import signal
import sys
import tempfile
import threading
import time
from contextlib import ExitStack

import numpy as np
import pytest

from mainstem.contracts import Call, Port
from mainstem.errors import MainstemError
from mainstem.serve import supervisor
from mainstem.serve.calls import Graph, Shared
from mainstem.serve.engine import _Lanes
from mainstem.serve.line import Line
from mainstem.serve.scheduler import CallFailed, EngineGone, Quarantined, Scheduler, TooLarge
from mainstem.serve.supervisor import Remote

PORTS = (
    (Port("x", "float32", ("row", "1")), Port("past", "float32", ("row", "pad:past"), optional=True)),
    (Port("y", "float32", ("row", "1")),),
)
CACHED = (PORTS[0], (*PORTS[1], Port("past", "float32", ("row", "pad:past+own"))), "")

# An engine whose graphs double their input, and do worse things where they are told to.
PROGRAM = """
import os, sys, time
import numpy as np
from mainstem.serve import engine
from mainstem.contracts import Port

def function(arrays, wanted):
    x = arrays["x"]
    if (x == 666).any(): os._exit(9)
    if (x == 13).any(): raise ValueError("poison")
    if (x == 14).any(): raise MemoryError("Failed to allocate memory for requested buffer")
    if (x == 99).any(): time.sleep(1.0)
    answer = {"y": 2 * x, "past": np.concatenate([arrays["past"], x], 1)}
    return {name: answer[name] for name in wanted}

def open(self, model, folder, graphs):
    if "broken" in str(folder): raise engine.MainstemError("this graph cannot be read", where=str(folder))
    made = {name: (i, {}) for i, name in enumerate(graphs)}
    for name, (number, _) in made.items():
        inputs, outputs, _ = graphs[name]
        self._graphs[number] = engine._Graph(function, engine.by_name(inputs), engine.by_name(outputs))
    self._models[model] = {number for number, _ in made.values()}
    return made

engine.Engine.open = open
engine.main()
"""


class Bench:
    """A scheduler over one engine process with one model."""

    def __init__(self, lanes=2, check=lambda model: None):
        self.engine = Remote(lanes, check, [sys.executable, "-c", PROGRAM])
        self.line, self.scheduler = Line(self.engine), Scheduler(queue=30)

    async def __aenter__(self):
        await self.engine.start(lambda: self.scheduler.soon(self.line), lambda: self.scheduler.gone(self.line))
        self.graph = Graph("g", Shared(self.line, -1, CACHED))
        await self.open("fine", 1)
        return self

    async def open(self, folder, model):
        def heard(opened):
            self.graph.shared.number = opened["g"][0]

        await self.engine.open(model, folder, {"g": CACHED}, heard)

    async def __aexit__(self, *error):
        await self.engine.stop()

    async def ask(self, value, past=None, **more):
        inputs = {"x": np.array([[value]], np.float32), **({} if past is None else {"past": past})}
        async with self.scheduler.ticket(self.line, "a") as ticket:
            answer = await self.scheduler.ask(self.graph, Call("g", inputs, **{"outputs": ("y",), **more}), ticket)
        return answer if more else answer["y"].item()


def test_it_answers_and_tells_errors_apart():
    async def run():
        async with Bench() as bench:
            assert await asyncio.gather(*map(bench.ask, range(10))) == [2.0 * i for i in range(10)]
            with pytest.raises(CallFailed, match="ValueError: poison"):
                await bench.ask(13)
            with pytest.raises(TooLarge, match="memory"):
                await bench.ask(14)
            with pytest.raises(MainstemError, match="broken: this graph cannot be read"):
                await bench.open("broken", 2)
            assert await bench.ask(1) == 2
            assert bench.engine.restarts == 0

    asyncio.run(run())


def test_a_killed_engine_is_replaced_and_nobody_notices_but_by_the_clock():
    async def run():
        async with Bench() as bench:
            for number in (signal.SIGKILL, signal.SIGSEGV):
                asked = [asyncio.create_task(bench.ask(value)) for value in (99, 1, 2)]
                await asyncio.sleep(0.2)
                before = bench.engine.pid
                os.kill(before, number)
                assert await asyncio.gather(*asked) == [198, 2, 4]
                assert bench.engine.pid != before
            assert bench.engine.restarts == 2

    asyncio.run(run())


def test_a_hung_engine_is_killed(monkeypatch):
    monkeypatch.setattr(supervisor, "HUNG", 2.0)

    async def run():
        async with Bench() as bench:
            assert await bench.ask(1) == 2
            os.kill(bench.engine.pid, signal.SIGSTOP)
            began = time.monotonic()
            await asyncio.sleep(0.1)  # on a busy machine its threads stop one after the other
            assert await bench.ask(3) == 6
            assert 1 < time.monotonic() - began < 20
            assert bench.engine.restarts == 1

    asyncio.run(run())


def test_an_input_that_kills_twice_is_quarantined_and_its_neighbours_are_answered():
    async def run():
        async with Bench(lanes=1) as bench:
            busy = asyncio.create_task(bench.ask(99))
            await asyncio.sleep(0.1)
            asked = [asyncio.create_task(bench.ask(value)) for value in (1, 2, 666, 3)]  # they run as one
            answers = await asyncio.gather(*asked, return_exceptions=True)
            assert await busy == 198
            assert isinstance(answers[2], Quarantined)
            assert [answer for i, answer in enumerate(answers) if i != 2] == [2, 4, 6]
            assert bench.engine.restarts == 2
            with pytest.raises(Quarantined, match="ended the engine twice"):
                await bench.ask(666)
            assert bench.engine.restarts == 2
            assert await bench.ask(5) == 10

    asyncio.run(run())


def test_what_an_engine_kept_goes_with_it():
    async def run():
        async with Bench() as bench:
            kept = (await bench.ask(1, keep=("past",)))["past"]
            assert await bench.ask(2, past=kept) == 4
            os.kill(bench.engine.pid, signal.SIGSTOP)
            await asyncio.sleep(0.1)  # on a busy machine its threads stop one after the other
            asked = asyncio.create_task(bench.ask(2, past=kept))
            await asyncio.sleep(0.1)
            os.kill(bench.engine.pid, signal.SIGKILL)
            with pytest.raises(EngineGone, match="Try again in"):
                await asked
            while not bench.engine.up:
                await asyncio.sleep(0.05)
            with pytest.raises(EngineGone):
                await bench.ask(2, past=kept)
            assert await bench.ask(2) == 4

    asyncio.run(run())


def test_a_model_that_changed_on_the_disk_is_not_loaded_again():
    changed = []

    def check(model):
        changed.append(model)
        raise MainstemError("this is another model")

    async def run():
        async with Bench(check=check) as bench:
            os.kill(bench.engine.pid, signal.SIGKILL)
            while not bench.engine.restarts or not bench.engine.up:
                await asyncio.sleep(0.05)
            assert changed == [1]
            assert not bench.engine._models

    asyncio.run(run())


def test_an_engine_ends_with_its_front():
    """Without a word, as after kill -9."""
    engine = Remote(1)
    engine._process.ours.close()
    assert engine._process.process.wait(20) == 0


# An engine that stops in the middle of loading, when it has written the weights that its sessions share.
LOADING = """
import time
from mainstem import files
from mainstem.serve import engine

def open(self, model, folder, graphs):
    with files.scratch() as scratch:
        (scratch / "weights").write_bytes(bytes(1 << 20))
        time.sleep(60)

engine.Engine.open = open
engine.main()
"""


@pytest.mark.parametrize("killed", ["engine", "front"])
def test_an_engine_that_is_killed_while_it_loads_leaves_nothing_on_the_disk(tmp_path, monkeypatch, killed):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    async def run():
        engine = Remote(1, command=[sys.executable, "-c", LOADING])
        await engine.start(lambda: None, lambda: None)
        opening = asyncio.create_task(engine.open(1, tmp_path, {}, lambda opened: None))
        while not list(tmp_path.glob("*/weights")):
            await asyncio.sleep(0.02)
        if killed == "engine":
            os.kill(engine.pid, signal.SIGKILL)
            with pytest.raises(EngineGone):
                await opening
            await engine.stop()
        else:  # it ends without a word, and nobody clears up but the engine itself
            engine._tasks[0].cancel()
            process, engine._process.ended = engine._process, lambda: None
            process.transport.abort()
            await asyncio.to_thread(process.process.wait, 20)
            opening.cancel()

    asyncio.run(run())
    assert not list(tmp_path.glob(".mainstem-*"))


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system does not tell a thread where to run")
def test_a_run_keeps_to_a_core_of_its_own_while_all_are_taken():
    cores, seen = os.sched_getaffinity(0), []
    lanes = _Lanes(len(cores))

    def work():
        with ExitStack() as held:
            for _ in cores:
                held.enter_context(lanes.taken(1))
                seen.append(os.sched_getaffinity(0))
        for width in (1, 0):
            with lanes.taken(width):
                seen.append(os.sched_getaffinity(0))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    *before, kept, after, wide = seen
    assert all(each == cores for each in (*before, after, wide))
    assert len(kept) == len(kept & cores) == 1
