"""Row 21: SIGTERM ends a server without a lost request: not ready first, then what was taken is answered, exit 0, no orphan."""

import asyncio
import contextlib
import random
import signal
import subprocess
import sys
import time

import pytest
import serving
import trials

PROMISE = (
    "on SIGTERM a server says first that it is not ready, answers all that it took, "
    "and ends with 0 and without orphans; a second one ends it at once"
)
ROWS = {"rows": [{"area": 50, "rooms": 2, "城区": "海淀"}] * 300}


def stop(count, folder, after, times=1):
    """SIGTERM under load; the load sees answers until connections are refused, and none that is cut off."""
    with serving.started(f"dear={folder}") as (process, port):
        pids = [process.pid, *serving.children(process.pid)]
        told, lost, answered = [], [], []

        async def client():
            while True:
                try:
                    connection = serving.Connection(port)
                    connection.reader, connection.writer = await asyncio.open_connection("127.0.0.1", port)
                except OSError:
                    return
                try:
                    status, _, answer = await connection.ask("/predict/dear", ROWS)
                    answered.append(status)
                    if status != 200:
                        lost.append((status, answer))
                except (OSError, ValueError) as error:  # what a second signal cuts off is no JSON
                    if not told:
                        lost.append(repr(error))  # after the signal a connection may find the door closed before it is taken
                finally:
                    await connection.hang_up()

        async def look():
            """Whether /ready says no while the server still answers."""
            while True:
                try:
                    reader, writer = await asyncio.open_connection("127.0.0.1", port)
                    writer.write(b"GET /ready HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
                    head = await reader.readline()
                    writer.close()
                    with contextlib.suppress(OSError):
                        await writer.wait_closed()
                except OSError:
                    return False
                if b" 503 " in head:
                    return True
                await asyncio.sleep(0.02)

        async def together():
            clients = [asyncio.create_task(client()) for _ in range(4)]
            await asyncio.sleep(after)
            began = time.monotonic()
            process.send_signal(signal.SIGTERM)
            seen = await look() if times == 1 else True
            told.append(True)
            for _ in range(times - 1):
                await asyncio.sleep(0.05)
                process.send_signal(signal.SIGTERM)
            code = await asyncio.to_thread(process.wait, 30)
            took = time.monotonic() - began
            await asyncio.gather(*clients)
            return seen, code, took

        seen, code, took = asyncio.run(together())
    count(seen, "it was ready until it was gone")
    count(code == 0, f"exit {code}")
    count.timely(took < (30 if times == 1 else 5), f"it took {took:.1f} s")
    count(times > 1 or (not lost and answered), f"lost {lost[:2]}")
    count(serving.gone(pids), "a process stayed")
    return took


def stop_early(count, folder, after):
    """SIGTERM while models are loaded."""
    process = subprocess.Popen(
        [sys.executable, "-c", serving.PROGRAM, "serve", f"dear={folder}", "--port", "0"], stderr=subprocess.PIPE, text=True
    )
    time.sleep(after)
    pids = []
    with contextlib.suppress(OSError):
        pids = serving.children(process.pid)
    process.send_signal(signal.SIGTERM)
    try:
        _, said = process.communicate(timeout=30)
    finally:
        process.kill()
    early = process.returncode == -signal.SIGTERM and not said  # Python itself had not begun yet
    count(process.returncode == 0 or early, f"after {after:.2f} s: exit {process.returncode}, {said[-300:]}")
    count("Traceback" not in said, said[-600:])
    count(serving.gone(pids), f"after {after:.2f} s an engine stayed")


def test_it_stops_without_losing_a_request(table_run):
    count = trials.Count(21, PROMISE, 21)
    stop(count, table_run.path, 0.5)
    stop(count, table_run.path, 0.5, times=2)
    for after in (0.3, 0.9, 1.5):
        stop_early(count, table_run.path, after)
    count.check()


@pytest.mark.torture
def test_two_hundred_stops(table_run):
    count, rng = trials.Count(21, PROMISE, 21), random.Random(21)
    took = [stop(count, table_run.path, rng.uniform(0.05, 1)) for _ in range(trials.scaled(100))]
    twice = [stop(count, table_run.path, rng.uniform(0.05, 0.5), times=2) for _ in range(trials.scaled(30))]
    for _ in range(trials.scaled(70)):
        stop_early(count, table_run.path, rng.uniform(0.05, 3))
    count.write(slowest=round(max(took), 2), slowest_of_two_signals=round(max(twice), 2), while_loading=trials.scaled(70))
