"""Drives the graph calls of all requests on one event loop: admits requests, merges calls, hands runs to engines.

Calls for one graph that wait at the same time run as one where that costs less; an identical call runs once, also where it
is under way already. A run that fails is halved until the call at fault fails alone. A call that ran when its engine died
is tried once more, by itself; where it ends the engine again, it is quarantined. Everything here happens on the event loop.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from mainstem.contracts import Array, Arrays, Call
from mainstem.errors import MainstemError
from mainstem.serve.calls import Asked, Graph
from mainstem.serve.costs import LONGEST
from mainstem.serve.engine import AHEAD, Answered
from mainstem.serve.line import LARGE, LATER, WAITED, Flow, Line

QUEUE = 3.0  # seconds that a request may wait for its turn; one that would wait longer is refused
TIMEOUT = 30.0  # seconds that a request may take in all
MOST_REQUESTS = 1000  # under way at a time
UNKNOWN_PARTS = 32  # of a call whose cost is not known yet: from these it is learned, and none of them may be large
MOST_QUARANTINED = 1000

Answer = dict[str, Any]


class Watch(Protocol):
    """Who hears how long things take (serve/metrics.py)."""

    def took(self, stage: str, model: str, seconds: float) -> None:
        """A stage of one request: "queue", "compute"."""

    def batch(self, graph: str, rows: int, padding: float) -> None:
        """One run of a graph: its rows, and the share of its steps that are padding."""

    def rejected(self, reason: str) -> None:
        """A request was turned away."""


class Refused(MainstemError):
    """A request that is not answered now, and may be later."""

    status = 503

    def __init__(self, what: str, after: float = 1.0) -> None:
        self.after = max(1, math.ceil(after))
        super().__init__(what, do=f"Try again in {self.after} s.")

    @property
    def headers(self) -> dict[str, str]:
        """Of the HTTP answer."""
        return {"Retry-After": str(self.after)}


class EngineGone(Refused):
    """The engine ended while it ran this."""


class Late(MainstemError):
    """The answer took longer than a request may."""

    status = 503


class Cancelled(Exception):
    """Whoever asked has gone."""


class Quarantined(MainstemError):
    """An input that ended the engine twice."""

    status = 422


class TooLarge(MainstemError):
    """A call that the memory of the engine does not hold."""

    status = 413


class CallFailed(RuntimeError):
    """A graph raised: a bug, or a model that its replay did not show to be broken."""


class Ticket:
    """One request under way: what it may still use, and the calls that it waits for."""

    def __init__(self, line: Line, flow: str, rows: int, began: float) -> None:
        self.line, self.flow, self.rows, self.began = line, flow, rows, began
        self._flow: Flow = line.flow(flow)
        self.waiting: set[asyncio.Future[Answer]] = set()
        self.known: dict[Hashable, tuple[Call, Asked]] = {}  # calls under way, by the arrays themselves
        self.failure: BaseException | None = None
        self.several = False  # whether several models answer it
        self.asked = self.done = self.planned = 0.0
        self._plan(self._flow.row * rows)

    @property
    def left(self) -> float:
        """Seconds of work that are not done."""
        return self.planned - self.done

    def _plan(self, seconds: float) -> None:
        """It needs so many seconds in all."""
        flow = self._flow
        if self not in flow.large:
            flow.owed -= self.left
        self.planned = seconds
        if seconds > LARGE:
            flow.large.add(self)
        else:
            flow.owed += self.left

    def charge(self, seconds: float) -> float:
        """A call of so many seconds is asked. Returns when it is due."""
        before, self.asked = self.asked, self.asked + seconds
        if self.asked > self.planned:
            self._plan(self.asked)
        if self in self._flow.large and before:
            before = self.planned  # of large ones the older goes first: in turns they would all end last
        return self.began + LATER * before

    def ran(self, seconds: float) -> None:
        """A call of so many seconds was answered."""
        paid = min(seconds, self.left)
        self.done += paid
        if self not in self._flow.large:
            self._flow.owed -= paid

    def fail(self, error: BaseException) -> None:
        """Nothing of it is to be run any more; whoever waits for its calls hears why."""
        self.failure = self.failure or error
        for waiter in list(self.waiting):
            if not waiter.done():
                waiter.set_exception(error)

    def end(self) -> None:
        """It was answered, or not."""
        flow = self._flow
        if self in flow.large:
            flow.large.discard(self)
        else:
            flow.owed = max(0.0, flow.owed - self.left)
        self.done = self.planned
        if self.failure is None and self.asked:
            row = self.asked / max(self.rows, 1)
            flow.row = row if not flow.requests else flow.row + WAITED * (row - flow.row)
            flow.requests += 1


class Scheduler:
    """Of all models of a server."""

    def __init__(self, queue: float = QUEUE, timeout: float = TIMEOUT, watch: Watch | None = None) -> None:
        self.queue, self.timeout, self.watch = queue, timeout, watch
        self.calls = self.runs = self.requests = 0  # calls asked for, runs made, requests under way
        self._live: dict[Hashable, Asked] = {}  # calls that wait or run, by what they hand in
        self._quarantine: dict[Hashable, None] = {}
        self._stack = _Stack(self)
        self._due: set[Line] = set()

    def ticket(self, line: Line, flow: str, rows: int = 1, timeout: float | None = None) -> Admission:
        """A request that is let in. Raises Refused where it would wait too long; Late, its work cancelled, where it took too long."""
        return Admission(self, line, flow, rows, self.timeout if timeout is None else timeout)

    def admit(self, line: Line, flow: str, rows: int, timeout: float) -> None:
        """Raises Refused where a request would wait too long."""
        first, last = line.wait(flow, rows, asyncio.get_running_loop().time())
        if first > min(self.queue, timeout) or last > timeout or self.requests >= MOST_REQUESTS:
            if self.watch:
                self.watch.rejected("overload")
            raise Refused(f"too much is asked at once: this would wait {first:.1f} s", max(first - self.queue, last - timeout))

    def ask(self, graph: Graph, call: Call, ticket: Ticket) -> asyncio.Future[Answer]:
        """Start a call; its answer is awaited. Cancelling the future, or failing the ticket, takes the call back."""
        if ticket.failure is not None:
            raise ticket.failure
        self.calls += 1
        handed = graph.handed(call)
        if (known := ticket.known.get(handed)) and known[1].state in ("waiting", "running"):
            return self._wait(known[1], ticket)
        asked = Asked.of(graph, call)
        if any(held.life != graph.shared.line.life for held in asked.held):
            raise _ended(graph.shared.line)
        if self._quarantine and (graph.shared, asked.digest(1 << 62)) in self._quarantine:
            raise _quarantined()
        if asked.count > 1 and graph.shared.divisible and not (asked.held or asked.keep):
            cost = graph.shared.cost
            most = cost.cells(LONGEST) if cost.known else max(1, asked.count // UNKNOWN_PARTS) * asked.steps
            if asked.cells > (2 if cost.known else 1) * most:
                order, parts = asked.divided(most)
                return asyncio.ensure_future(
                    _joined(asked, order, [self._wait(self._live_of(part, ticket), ticket, part) for part in parts])
                )
        live = self._live_of(asked, ticket)
        future = self._wait(live, ticket, asked)
        ticket.known[handed] = call, live  # while it is under way; the call is held, so that no array takes another's id
        future.add_done_callback(lambda done: ticket.known.pop(handed, None))
        return future

    def stacked(self, function: Any, arrays: Arrays, wanted: tuple[str, ...], ticket: Ticket) -> asyncio.Future[Answer]:
        """A call of a function that the front itself computes (a linear head): those of several models in one moment run as one."""
        if ticket.failure is not None:
            raise ticket.failure
        self.calls += 1
        if ticket.several:
            return self._stack.ask(function, arrays, wanted)
        self.runs += 1
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        future.set_result(function(arrays, wanted))  # nothing is to be waited for
        return future

    def _live_of(self, asked: Asked, ticket: Ticket) -> Asked:
        """The call itself, which waits from now on, or an identical one that waits or runs already."""
        key = (asked.key, asked.digest())
        live = self._live.get(key)
        if live is None or live.state not in ("waiting", "running"):
            live, asked.same = asked, key
            self._live[key] = asked
            asked.flow, asked.due, asked.since = ticket.flow, ticket.charge(asked.seconds), asyncio.get_running_loop().time()
            line = asked.graph.shared.line
            line.add(asked)
            self.soon(line)
        return live

    def _wait(self, live: Asked, ticket: Ticket, own: Asked | None = None) -> asyncio.Future[Answer]:
        """A future of its answer. own: the call of this request, whose seconds are paid where it is the one that runs."""
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        live.waiters.append(future)
        ticket.waiting.add(future)

        def over(done: asyncio.Future[Answer]) -> None:
            ticket.waiting.discard(done)
            done.cancelled() or done.exception()  # heard, also where nobody awaits it any more
            if live is own:
                ticket.ran(live.seconds)
            if live.state == "waiting" and not live.alive:
                live.graph.shared.line.drop(live)
                self._forget(live)

        future.add_done_callback(over)
        return future

    def _forget(self, asked: Asked) -> None:
        if self._live.get(asked.same) is asked:
            del self._live[asked.same]

    # runs

    def soon(self, line: Line) -> None:
        """Give the engine of this line something to do, once all that happens in this moment has happened."""
        if line not in self._due:
            self._due.add(line)
            asyncio.get_running_loop().call_soon(self._dispatch, line)

    def _dispatch(self, line: Line) -> None:
        self._due.discard(line)
        while line.engine.up and line.running < line.engine.lanes + AHEAD and (group := line.take(self._forget)):
            self._run(line, group)

    def _run(self, line: Line, group: list[Asked]) -> None:
        now, first = asyncio.get_running_loop().time(), group[0]
        line.running += 1
        self.runs += 1
        try:
            parts = [asked.part() for asked in group]
            future = line.engine.run(first.graph.shared.number, parts, first.wanted, first.keep, line.cores())
        except Exception as error:  # arrays that cannot be sent
            future = asyncio.get_running_loop().create_future()
            future.set_exception(error)
        if self.watch:
            rows = cells = 0
            for asked in group:
                rows, cells = rows + asked.count, cells + asked.cells
                self.watch.took("queue", asked.flow, now - asked.since)
            self.watch.batch(first.graph.name, rows, 1 - cells / max(_cells(group), 1))
        future.add_done_callback(lambda done: self._ran(line, group, done))

    def _ran(self, line: Line, group: list[Asked], done: asyncio.Future[tuple[list[Answered], float]]) -> None:
        line.running -= 1
        line.alone = False
        error = done.exception()
        if error is None:
            answers, seconds = done.result()
            self._answer(group, answers, seconds)
        elif isinstance(error, EngineGone):
            for asked in group:
                self._suspect(line, asked, error)
        elif len(group) > 1:
            middle = len(group) // 2
            line.again.extend((group[:middle], group[middle:]))
        else:
            self._forget(group[0])
            group[0].fail(error)
        self.soon(line)

    def _answer(self, group: Sequence[Asked], answers: Sequence[Answered], seconds: float) -> None:
        group[0].graph.shared.cost.add(_cells(group), seconds)
        for asked, answered in zip(group, answers, strict=True):
            if self.watch:
                self.watch.took("compute", asked.flow, seconds)
            self._forget(asked)
            asked.deliver(answered)

    def _suspect(self, line: Line, asked: Asked, error: EngineGone) -> None:
        """A call that ran when the engine died: once more by itself, unless it was by itself, or needs what died with the engine."""
        asked.deaths += 1
        if asked.deaths > 1:
            while len(self._quarantine) >= MOST_QUARANTINED:
                del self._quarantine[next(iter(self._quarantine))]
            self._quarantine[asked.graph.shared, asked.digest(1 << 62)] = None
            self._forget(asked)
            asked.fail(_quarantined())
        elif asked.held or not asked.alive:
            self._forget(asked)
            asked.fail(error)
        else:
            line.suspects.append(asked)

    def gone(self, line: Line) -> None:
        """The engine of this line died: calls that wait with what it kept cannot run any more."""
        line.life += 1
        for asked in [asked for asked in line.waiting() if asked.held]:
            line.drop(asked)
            self._forget(asked)
            asked.fail(_ended(line))


class Admission:
    """The life of one ticket, as `Scheduler.ticket` says."""

    def __init__(self, scheduler: Scheduler, line: Line, flow: str, rows: int, timeout: float) -> None:
        self._scheduler, self._timeout, self._asked = scheduler, timeout, (line, flow, rows)

    async def __aenter__(self) -> Ticket:
        self._scheduler.admit(*self._asked, self._timeout)
        self._ticket = Ticket(*self._asked, asyncio.get_running_loop().time())
        self._scheduler.requests += 1
        self._deadline = asyncio.timeout(self._timeout)
        await self._deadline.__aenter__()
        return self._ticket

    async def __aexit__(self, *raised: Any) -> None:
        try:
            await self._deadline.__aexit__(*raised)
        except TimeoutError as error:
            late = Late(f"there was no answer within {self._timeout:g} seconds", do="Send fewer rows, or ask again later.")
            self._ticket.failure = late
            if self._scheduler.watch:
                self._scheduler.watch.rejected("timeout")
            raise late from error
        finally:
            self._scheduler.requests -= 1
            self._ticket.end()


def _cells(group: Sequence[Asked]) -> int:
    """Of one run of these calls, what pads them included."""
    if len(group) == 1:
        return int(group[0].cells)
    return sum([asked.count for asked in group]) * max([asked.steps for asked in group])


def _ended(line: Line) -> EngineGone:
    return EngineGone("the engine ended while this was under way", line.engine.back_in())


def _quarantined() -> Quarantined:
    return Quarantined("this input ended the engine twice and is not tried again", do="Look for what is unusual in it.")


async def _joined(asked: Asked, order: Array, parts: Sequence[asyncio.Future[Answer]]) -> Answer:
    try:
        return asked.joined(order, [await part for part in parts])
    finally:
        for part in parts:
            part.cancel()


class _Stack:
    """Calls of functions that the front itself computes; those that come in one moment run as one."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._calls: list[tuple[Any, Arrays, tuple[str, ...], asyncio.Future[Answer]]] = []

    def ask(self, function: Any, arrays: Arrays, wanted: tuple[str, ...]) -> asyncio.Future[Answer]:
        """Its answer, in a moment."""
        loop = asyncio.get_running_loop()
        if not self._calls:
            loop.call_soon(self._run)
        future: asyncio.Future[Answer] = loop.create_future()
        self._calls.append((function, arrays, wanted, future))
        return future

    def _run(self) -> None:
        calls, self._calls = self._calls, []
        kinds: dict[Hashable, list[Any]] = {}
        for call in calls:
            kinds.setdefault(call[0].stack_key, []).append(call)
        for mine in kinds.values():
            _run_stacked(mine)
            self._scheduler.runs += 1


def _run_stacked(calls: Sequence[tuple[Any, Mapping[str, Array], tuple[str, ...], asyncio.Future[Answer]]]) -> None:
    """Run these at once; where that fails, each by itself."""
    waiting = [call for call in calls if not call[3].done()]
    if not waiting:
        return
    try:
        answers = waiting[0][0].stacked([(function, arrays) for function, arrays, _, _ in waiting])
    except Exception as error:
        if len(waiting) == 1:
            waiting[0][3].set_exception(error)
            return
        for call in waiting:
            _run_stacked([call])
        return
    for (_, _, wanted, future), answer in zip(waiting, answers, strict=True):
        if not future.done():
            future.set_result({name: np.asarray(answer[name]) for name in wanted})
