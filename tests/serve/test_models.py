"""Versions of models: loaded beside the old one, switched to once they reproduce, taken back, let go of; many models asked at once."""

import asyncio
import contextlib
import os
import shutil
import signal
import time

import pytest
from live_server import altered

import mainstem as ms
from mainstem.contracts import Rows
from mainstem.errors import MainstemError
from mainstem.seal import Mismatch
from mainstem.serve.engine import AHEAD
from mainstem.serve.models import Models, held
from mainstem.serve.scheduler import Cancelled

ROW = {"area": [70.5], "rooms": [3], "城区": ["朝阳"]}


class Client:
    """Whoever asked, as far as a model looks at it."""

    def __init__(self):
        self.left = asyncio.Event()

    async def receive(self):
        await self.left.wait()
        return {"type": "http.disconnect"}


@contextlib.asynccontextmanager
async def served(folders, **settings):
    models, failures = Models(folders, **settings), []
    async with models.running(failures.append):
        await asyncio.to_thread(models.done.wait)
        assert failures == []
        assert models.ready
        yield models


async def value(models, name="dear"):
    [answer] = await models.find(name).answer(Client(), Rows(ROW), {})
    return answer.value


@pytest.mark.parametrize("processes", [False, True])
def test_a_version_is_loaded_beside_the_old_one_and_taken_back(table_run, number_run, processes):
    async def run():
        async with served({"dear": table_run.path}, processes=processes) as models:
            first = models.find("dear")
            assert (first.version, first.state) == (1, "replayed")
            old = await value(models)
            second = await models.load("dear", number_run.path)
            assert models.find("dear") is second
            assert (second.version, second.digest != first.digest) == (2, True)
            assert isinstance(await value(models), float)
            assert await models.rollback("dear") is first  # the same object: nothing is loaded again
            assert await value(models) == old
            third = await models.load("dear", table_run.path)
            assert (third.version, await value(models)) == (3, old)
            with pytest.raises(KeyError, match="no model is served as 'deer'"):
                await models.unload("deer")
            await models.load("rent", number_run.path)
            await models.unload("dear")
            with pytest.raises(KeyError):
                models.find("dear")
            assert isinstance(await value(models, "rent"), float)
            await models.unload("rent")
            assert models.lines == {}
            with pytest.raises(MainstemError, match="no version before"):
                await models.rollback("rent")

    asyncio.run(run())


def test_a_version_that_does_not_reproduce_is_refused_and_the_old_one_stays(table_run, tmp_path):
    wrong = altered(table_run.path / "model", tmp_path / "wrong")
    torn = shutil.copytree(table_run.path / "model", tmp_path / "torn")
    (torn / "card.md").write_text("other")

    async def run():
        async with served({"dear": table_run.path}) as models:
            first, old = models.find("dear"), await value(models)
            for folder, error in ((wrong, Mismatch), (torn, MainstemError), (tmp_path / "none", MainstemError)):
                with pytest.raises(error):
                    await models.load("dear", folder)
                assert models.find("dear") is first
                assert await value(models) == old
            [line] = models.lines
            assert set(line.engine.engine._models) == {first.number}
            with pytest.raises(MainstemError, match="not allowed"):
                await models.load("../x", table_run.path)

    asyncio.run(run())


def test_what_is_under_way_ends_with_the_version_that_it_began_with(table_run):
    async def run():
        async with served({"dear": table_run.path}) as models:
            first = models.find("dear")
            with held(first):
                for _ in range(2):
                    await models.load("dear", table_run.path)
                [line] = models.lines
                assert first.number in line.engine.engine._models
                assert (await first.answer(Client(), Rows(ROW), {}))[0].value
            assert first.number not in line.engine.engine._models

    asyncio.run(run())


def test_many_models_are_asked_at_once_with_one_error_each(table_run, number_run):
    async def run():
        async with served({"dear": table_run.path, "again": table_run.path, "rent": number_run.path}) as models:
            alone = {served.name: (await served.answer(Client(), Rows(ROW), {}))[0].value for served in models}
            calls, runs = models.scheduler.calls, models.scheduler.runs
            found = await models.ask(list(alone), Rows(ROW), {}, Client())
            assert {name: answers[0].value for name, answers in found.items()} == alone
            assert models.scheduler.calls - calls == models.scheduler.runs - runs == 2  # two of them are one graph, asked the same
            found = await models.ask(["dear", "rent"], Rows({"area": [1]}), {})
            assert {type(answers) for answers in found.values()} == {MainstemError}
            models.find("rent").state = "waiting"
            found = await models.ask(["dear", "rent"], Rows(ROW), {})
            assert "not ready" in str(found["rent"])
            assert found["dear"][0].value == alone["dear"]
            with pytest.raises(KeyError, match="no model is served"):
                await models.ask(["dear", "other"], Rows(ROW), {})

    asyncio.run(run())


def test_who_leaves_frees_the_place(table_run):
    async def run():
        async with served({"dear": table_run.path}) as models:
            dear, client = models.find("dear"), Client()
            graph = dear.line.engine.engine._graphs[dear.graphs["head"].shared.number]
            ran, real = [], graph.function
            slow = type(graph)(
                lambda arrays, wanted: (ran.append(1), time.sleep(0.2), real(arrays, wanted))[2], graph.inputs, graph.outputs
            )
            dear.line.engine.engine._graphs[dear.graphs["head"].shared.number] = slow
            rows = [Rows({**ROW, "area": [float(i)]}) for i in range(12)]
            asked = [asyncio.create_task(dear.answer(client, each, {})) for each in rows]
            await asyncio.sleep(0.1)
            client.left.set()
            answers = await asyncio.gather(*asked, return_exceptions=True)
            await asyncio.sleep(0.5)
            assert {type(answer) for answer in answers} == {Cancelled}
            assert len(ran) <= dear.line.engine.lanes + AHEAD
            assert models.scheduler.requests == 0

    asyncio.run(run())


def test_models_go_on_after_their_engine_was_killed(table_run, number_run, tmp_path):
    mine = shutil.copytree(number_run.path / "model", tmp_path / "mine")

    async def run():
        async with served({"dear": table_run.path, "rent": mine}, processes=True) as models:
            old = await value(models)
            [line] = models.lines  # neither has a backbone
            (mine / "card.md").write_text("changed while it was served")
            os.kill(line.engine.pid, signal.SIGKILL)
            while not line.engine.restarts or not line.engine.up:
                await asyncio.sleep(0.05)
            assert await value(models) == old
            assert "card.md: changed" in models.find("rent").state
            assert not models.ready

    asyncio.run(run())


@pytest.mark.parametrize("processes", [False, True])
def test_a_model_that_answers_from_its_context_is_served(tmp_path, processes):
    rows = [{"x": float(i), "y": "low" if i < 20 else "high"} for i in range(40)]
    run = ms.train(rows, "y", backbone="incontext", out=tmp_path / "run")

    async def serve():
        async with served({"context": run.path}, processes=processes) as models:
            [answer] = await models.find("context").answer(Client(), Rows({"x": [3.0]}), {})
            return answer.value

    assert asyncio.run(serve()) == run.model.predict([{"x": 3.0}])[0]["prediction"] == "low"
