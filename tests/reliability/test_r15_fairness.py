"""Row 15: small requests do not wait for big ones, of the same model or of another."""

import asyncio
import time

import pytest
import serving
import trials

from mainstem.serve.scheduler import Scheduler

PROMISE = (
    "with a request of a hundred times the cost among a hundred small ones, "
    "small ones take at most twice their time, big ones at most five times theirs"
)


def body(rng, rows=1):
    return {"rows": [{"area": 100 * rng.random(), "rooms": 2, "城区": "海淀"} for _ in range(rows)]}


def mix(count, folders, big_path, seconds, of_row, times, load):
    """Small requests alone, then among big ones; big ones alone. The load is the same with and without."""
    with serving.Server(folders, Scheduler(queue=30), of_row) as server:
        capacity = server.models.find("table").line.engine.lanes / of_row
        small = serving.Load(server.port, "/predict/table", body)
        big = serving.Load(server.port, big_path, lambda rng: body(rng, times), seed=1)

        async def together():
            return await asyncio.gather(small.run(load / 2 * capacity, seconds), big.run(load / 2 * capacity / times, seconds))

        for _ in range(2):  # what it costs is known the second time
            began = time.perf_counter()
            asyncio.run(serving.ask(server.port, big_path, body(big.rng, times)))
            lone = time.perf_counter() - began
        alone = serving.percentile(serving.good(list(asyncio.run(small.run(load * capacity, seconds)))), 0.99)
        answers, bigs = asyncio.run(together())
        mixed = serving.percentile(serving.good(answers), 0.99)
        typical = serving.percentile(serving.good(bigs), 0.5)
    count(all(answer[2] == 200 for answer in [*answers, *bigs]), f"{[a[4] for a in [*answers, *bigs] if a[2] != 200][:2]}")
    count.timely(mixed <= 2 * alone + 0.05, f"small p99 {mixed:.3f} s, without big ones {alone:.3f} s")
    count.timely(0 < typical <= 5 * lone, f"big ones took {typical:.2f} s, alone {lone:.2f} s")
    return {
        "small_p99_alone": round(alone, 4),
        "small_p99": round(mixed, 4),
        "big_alone": round(lone, 3),
        "big_median": round(typical, 3),
        "bigs": len(bigs),
    }


def test_small_ones_do_not_wait(table_run):
    count = trials.Count(15, PROMISE, 15)
    folders = {"table": table_run.path, "other": table_run.path}
    for path in folders:
        mix(count, folders, f"/predict/{path}", 5, 0.03, 20, 0.6)
    count.check()


@pytest.mark.torture
def test_ten_minutes_of_both(table_run):
    count = trials.Count(15, PROMISE, 15)
    folders, seconds = {"table": table_run.path, "other": table_run.path}, trials.scaled(150)
    found = {path: mix(count, folders, f"/predict/{path}", seconds, 0.01, 100, 0.8) for path in ("table", "other")}
    count.write(big_ones_of_the_same_model=found["table"], big_ones_of_another=found["other"], seconds_of_a_row=0.01, times=100, load=0.8)
