"""Row 13: ten times what a server can do is refused at once, and what is let in is answered in time."""

import asyncio

import pytest
import serving
import trials

from mainstem.serve.scheduler import Scheduler

PROMISE = (
    "at ten times its capacity a server answers what it lets in within its usual time and the queue budget, and refuses the rest at once"
)
SECONDS, QUEUE = 0.2, 1.0  # of a row; that a request may wait


def row(rng):
    return {"rows": [{"area": 100 * rng.random(), "rooms": 2, "城区": "海淀"}]}


def overload(count, folder, seconds):
    """One trial: calm, ten times too much, calm again."""
    with serving.Server({"table": folder}, Scheduler(queue=QUEUE), SECONDS) as server:
        capacity = server.models.find("table").line.engine.lanes / SECONDS
        load = serving.Load(server.port, "/predict/table", row)
        before = list(asyncio.run(load.run(0.6 * capacity, seconds)))
        during = list(asyncio.run(load.run(10 * capacity, seconds)))
        after = list(asyncio.run(load.run(0.5 * capacity, seconds)))
    usual, loaded = serving.percentile(serving.good(before), 0.99), serving.percentile(serving.good(during), 0.99)
    refused = [answer for answer in during if answer[2] != 200]
    late = serving.percentile([answer[1] for answer in refused], 0.5)
    settled = [answer for answer in after if answer[0] - after[0][0] > min(5, seconds / 2)]
    rate = len(serving.good(during)) / (seconds + QUEUE)
    count.timely(all(answer[2] == 200 for answer in before), "refused where there was room")
    other = [answer[2:] for answer in refused if answer[2] != 503]
    count(refused and not other, f"other than refused: {other[:3]}")
    count(all(int(answer[3].get("retry-after", 0)) >= 1 for answer in refused if answer[2] == 503), "no Retry-After")
    count(serving.good(during), "none was let in")
    count.timely(loaded <= 2 * usual + QUEUE, f"p99 {loaded:.3f} s, usually {usual:.3f} s")
    count.timely(late <= 0.05, f"refused after {late:.3f} s")
    count.timely(rate >= 0.8 * capacity, f"{rate:.0f} a second of {capacity:.0f}")
    count.timely(all(answer[2] == 200 for answer in settled), "still refusing after five seconds")
    count(any(answer[2] == 200 for answer in after[-5:]), "still refusing")
    return {
        "usual_p99": round(usual, 4),
        "overloaded_p99": round(loaded, 4),
        "refused_after": round(late, 4),
        "share": round(rate / capacity, 3),
    }


def test_too_much_is_refused_and_the_rest_answered(table_run):
    count = trials.Count(13, PROMISE, 13)
    overload(count, table_run.path, 5)
    count.check()


@pytest.mark.torture
def test_a_minute_of_overload(table_run):
    count, found = trials.Count(13, PROMISE, 13), []
    for _ in range(trials.scaled(5)):
        found.append(overload(count, table_run.path, 60 * trials.share() if trials.share() < 1 else 60))
    count.write(runs=found, seconds_of_a_row=SECONDS, queue=QUEUE, client="in the process of the server")
