"""Row 14: a client that hangs up, or a deadline that passes, stops the work: nothing of it that waits is begun, and its place is free."""

import asyncio
import contextlib
import json
import random

import pytest
import serving
import trials

from mainstem.serve.scheduler import Scheduler

PROMISE = "of requests that are abandoned at any moment nothing is begun any more, and their places are free"
SECONDS = 0.02


async def abandon(port, rng, number, most):
    """Ask, and hang up at a random moment: whether it was hung up before the answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    body = json.dumps({"rows": [{"area": 1000.0 + number, "rooms": 2, "城区": "海淀"}]}).encode()
    writer.write(b"POST /predict/table HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    try:
        async with asyncio.timeout(rng.uniform(0, most)):
            await reader.readuntil(b"\r\n\r\n")
        return False
    except TimeoutError:
        return True
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


def torment(count, folder, n, seed, crowd=40):
    """n requests, a crowd at a time, each hung up at a random moment; then the server is as it was."""
    rng = random.Random(seed)
    with serving.Server({"table": folder}, Scheduler(queue=60), SECONDS) as server:
        line, [slow] = server.models.find("table").line, server.slow
        hung_up = 0
        for start in range(0, n, crowd):
            size = min(crowd, n - start)
            most = 2 * size * SECONDS / line.engine.lanes

            async def together(first=start, size=size, most=most):
                return await asyncio.gather(*[abandon(server.port, rng, first + i, most) for i in range(size)])

            begun = len(slow.seen)
            left = sum(asyncio.run(together()))
            hung_up += left

            async def settled():
                end = asyncio.get_running_loop().time() + 0.5
                while server.models.scheduler.requests and asyncio.get_running_loop().time() < end:
                    await asyncio.sleep(0.01)
                return server.models.scheduler.requests, len(line.waiting()), line.running

            state = server.call(settled())
            ran = sum(len(next(iter(arrays.values()))) for arrays in slow.seen[begun:])
            # what ran was answered, or ran in the moment in which it was hung up
            answered = size - left
            count(state[:2] == (0, 0), f"after {start + size}: requests, waiting, running {state}")
            count(ran <= answered + left * 0.5 + 2 * line.engine.lanes, f"{ran} ran, {answered} were answered")
        after = asyncio.run(serving.ask(server.port, "/predict/table", {"rows": [{"area": 1, "rooms": 2, "城区": "海淀"}]}))
        count(after[0] == 200, after)
    return {"requests": n, "hung_up": hung_up}


def test_abandoned_requests_leave_nothing(table_run):
    count = trials.Count(14, PROMISE, 14)
    found = torment(count, table_run.path, 80, 14)
    assert found["hung_up"] > 10
    count.check()


@pytest.mark.torture
def test_a_thousand_abandoned_requests(table_run):
    count = trials.Count(14, PROMISE, 20261127)
    count.write(**torment(count, table_run.path, trials.scaled(1000), 20261127))
