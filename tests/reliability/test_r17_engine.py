"""Row 17: an engine that dies or hangs is replaced; other models notice nothing, and the front stays up."""

import asyncio
import os
import random
import signal
import time

import pytest
import serving
import trials

PROMISE = (
    "an engine that is killed, or hangs, is replaced; models of other engines have no error, "
    "and what was under way is answered or told when to try again"
)
FAULTS = {"SIGKILL": signal.SIGKILL, "SIGSEGV": signal.SIGSEGV, "SIGSTOP": signal.SIGSTOP}


def folders(place):
    """Models of two backbones, and one without."""
    cases = trials.cases(place)
    cases["linear"] = {**cases["several"], "config": {"candidates": cases["several"]["config"]["candidates"][:1]}}
    for name in ("text", "table", "linear"):
        trials.train(cases[name], place / name)
    return {name: place / name for name in ("text", "table", "linear")}


def row(name, number):
    return {"text": f"a fine lovely day {number}"} if name == "text" else {"a": number / 10, "b": 0.5, "place": "north"}


def torment(count, models, faults, seed):
    """Each fault on the engine of the text model, while all models are asked; how long until it answers again, by fault."""
    rng, back = random.Random(seed), {}
    with serving.started(*[f"{name}={path}" for name, path in models.items()]) as (process, port):
        engines = serving.children(process.pid)
        count(len(engines) == len(models), f"{len(engines)} engines")

        async def until_answered(connection, engine):
            """Seconds until the text model answers without this engine; what it says before is told in words."""
            began = time.monotonic()
            while time.monotonic() - began < 40:
                status, headers, answer = await connection.ask("/predict/text", {"rows": [row("text", rng.randrange(10**6))]})
                if status == 200 and not serving.lives(engine):  # on a busy machine it may answer before it is killed
                    return time.monotonic() - began
                count(status == 200 or (status == 503 and "retry-after" in headers), f"{status} {answer}")
                await asyncio.sleep(0.05)
            return None

        async def others(stop):
            connection = serving.Connection(port)
            while not stop:
                for name in models:
                    if name != "text":
                        status, _, answer = await connection.ask(f"/predict/{name}", {"rows": [row(name, rng.randrange(10**6))]})
                        count(status == 200, f"{name}: {status} {answer}")
                await asyncio.sleep(0.01)
            await connection.hang_up()

        async def trial(name, engine):
            stop, connection = [], serving.Connection(port)
            busy = asyncio.create_task(others(stop))
            await asyncio.sleep(rng.uniform(0, 0.2))
            os.kill(engine, FAULTS[name])
            seconds = await until_answered(connection, engine)
            stop.append(True)
            await busy
            await connection.hang_up()
            return seconds

        # the engine of the text model: the one that is another after it was killed
        engine = next(pid for pid in engines if os.path.exists(f"/proc/{pid}"))
        for name in faults:
            pids = set(serving.children(process.pid))
            seconds = asyncio.run(trial(name, engine))
            count(seconds is not None, f"{name}: no answer any more")
            back.setdefault(name, []).append(round(seconds or 40, 2))
            count(process.poll() is None, "the front ended")
            new = set(serving.children(process.pid)) - pids
            count(len(new) == 1 and serving.gone([engine]), f"{name}: new engines {new}")
            engine = next(iter(new), engine)
        process.send_signal(signal.SIGTERM)
        count(process.wait(30) == 0, "no clean end")
        count(serving.gone([*engines, engine]), "an engine stayed")
    limits = {"SIGKILL": 5, "SIGSEGV": 5, "SIGSTOP": 15}
    for name, seconds in back.items():
        count.timely(max(seconds) <= limits[name], f"{name}: back after {max(seconds)} s")
    return {name: {"n": len(seconds), "slowest": max(seconds)} for name, seconds in back.items()}


def test_engines_are_replaced(tmp_path):
    count = trials.Count(17, PROMISE, 17)
    torment(count, folders(tmp_path), ["SIGKILL", "SIGSEGV", "SIGKILL"], 17)
    count.check()


@pytest.mark.torture
def test_two_hundred_faults(tmp_path):
    count = trials.Count(17, PROMISE, 20261127)
    faults = ["SIGKILL", "SIGSEGV"] * trials.scaled(90) + ["SIGSTOP"] * trials.scaled(20)
    random.Random(17).shuffle(faults)
    count.write(seconds_until_it_answered_again=torment(count, folders(tmp_path), faults, 20261127))
