"""Row 16: a new version takes over under load without a failed or mixed answer; a broken one never gets traffic; rollback is at once."""

import asyncio
import shutil
import time

import numpy as np
import onnx
import pytest
import safetensors.numpy
import serving
import trials

import mainstem as ms
from mainstem.errors import MainstemError
from mainstem.testing.faults import relist

PROMISE = (
    "models are swapped under load without a failed request or an answer of two versions, "
    "broken ones are refused, and rollback takes less than a second"
)


def other(data, folder):
    """Another model of the same columns, whose answers differ."""
    return ms.train(data, "rent", inputs=["area", "rooms", "城区"], backbone="linear", out=folder, seed=5, split__test=0.4).path / "model"


def broken(folder, place, how):
    """A copy that must not be served: a bit of it changed, weights that are not numbers, or other answers than its golden ones."""
    shutil.copytree(folder, place)
    if how == "hash":
        (place / "card.md").write_text("other")
        return place
    if how == "weights":
        graph = onnx.load(place / "onnx/head.onnx")
        for tensor in graph.graph.initializer:
            array = onnx.numpy_helper.to_array(tensor)
            if array.dtype.kind == "f":
                tensor.CopyFrom(onnx.numpy_helper.from_array(np.full_like(array, np.nan), tensor.name))
        onnx.save(graph, place / "onnx/head.onnx")
    else:
        arrays = safetensors.numpy.load_file(place / "replay/arrays.safetensors")
        arrays = {key: array + 1 if key.startswith("call/") else array for key, array in arrays.items()}
        (place / "replay/arrays.safetensors").write_bytes(safetensors.numpy.save(arrays))
    relist(place)
    return place


ROWS = [{"area": 20.0 + 7 * i, "rooms": i % 5 + 1, "城区": ("海淀", "朝阳", "浦东")[i % 3]} for i in range(12)]


def torment(count, folders, wrong, swaps, clients=4, processes=False):
    """Swaps to one folder after the other and attempts with broken ones, while clients ask the same rows all the time."""
    truth = {str(folder): [p["prediction"] for p in ms.load(folder).predict(ROWS)] for folder in folders}
    assert len({tuple(answers) for answers in truth.values()}) == len(folders)
    slowest, answered, stop = [0.0, 0.0], [0], []
    with serving.Server({"rent": folders[0]}, processes=processes) as server:
        models = server.models

        async def client():
            connection = serving.Connection(server.port)
            while not stop:
                try:
                    status, _, answer = await connection.ask("/predict/rent", {"rows": ROWS})
                except OSError as error:
                    status, answer = 0, repr(error)
                answered[0] += 1
                fits = status == 200 and any(
                    np.allclose([p["prediction"] for p in answer["predictions"]], expected, rtol=1e-5) for expected in truth.values()
                )
                count(fits, f"{status} {answer}")
            await connection.hang_up()

        async def swap():
            for i in range(swaps):
                began = time.monotonic()
                before = models.find("rent")
                served = await asyncio.wrap_future(
                    asyncio.run_coroutine_threadsafe(models.load("rent", folders[(i + 1) % len(folders)]), models._loop)
                )
                slowest[0] = max(slowest[0], time.monotonic() - began)
                count(models.find("rent") is served and served.digest != before.digest, "not switched")
                try:
                    load = models.load("rent", wrong[i % len(wrong)])
                    await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(load, models._loop))
                    count(False, f"{wrong[i % len(wrong)]} was loaded")
                except MainstemError:
                    count(models.find("rent") is served, "a broken one replaced it")
                if i % 5 == 4:
                    began = time.monotonic()
                    back = await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(models.rollback("rent"), models._loop))
                    slowest[1] = max(slowest[1], time.monotonic() - began)
                    count(back is before, "rolled back to another")
                    await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(models.rollback("rent"), models._loop))
            stop.append(True)

        async def together():
            await asyncio.gather(swap(), *[client() for _ in range(clients)])

        asyncio.run(together())
    count.timely(slowest[1] <= 1, f"rollback took {slowest[1]:.2f} s")
    return {
        "swaps": swaps,
        "broken": swaps,
        "answers": answered[0],
        "slowest_swap": round(slowest[0], 3),
        "slowest_rollback": round(slowest[1], 3),
    }


def made(data, run, folder):
    """Two models, and broken copies of the second."""
    second = other(data, folder / "second")
    return [run.path / "model", second], [broken(second, folder / how, how) for how in ("hash", "weights", "answers")]


def test_swaps_under_load(table_data, number_run, tmp_path):
    count = trials.Count(16, PROMISE, 16)
    folders, wrong = made(table_data, number_run, tmp_path)
    torment(count, folders, wrong, 6)
    count.check()


@pytest.mark.torture
def test_a_hundred_swaps_under_load(table_data, number_run, tmp_path):
    count = trials.Count(16, PROMISE, 16)
    folders, wrong = made(table_data, number_run, tmp_path)
    n = trials.scaled(100)
    count.write(in_process=torment(count, folders, wrong, n), engine_process=torment(count, folders, wrong, n, processes=True))
