"""The calls that wait for one engine: whose turn it is, what runs as one, and how long a new request would wait.

The oldest call goes first, but a model that used more seconds than another by some leeway waits for it (after start-time fair
queueing, Goyal et al. 1996), so that a slow one does not starve a fast one; within a model a call is due the later the more its
request asked before, so that a request of a thousand rows does not make one of a single row wait for its end, and of two such requests
the older one ends first.
"""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any

from mainstem.serve.calls import Asked, Graph
from mainstem.serve.costs import AROUND, LONGEST, steps

MOST_ROWS = 1024  # of one run
NEAREST = 16  # calls that wait longest, among which a call finds its mates: more would jump the queue
LATER = 8.0  # a call is due so many times the seconds after its request came as the request asked for before; of a large one, in all
LARGE = 4 * LONGEST  # seconds of a request from which on it lets smaller ones go first
LEEWAY = 2 * LONGEST  # seconds that a model may use more than another before it waits for it: as much comes by chance
WAITED = 0.2  # weight of the newest request in what a model's row is expected to cost


@dataclass
class Flow:
    """The calls of one model. `used`: virtual seconds; `owed`: seconds that its admitted requests still need, but those that are `large`;
    `row`: what a row of it costs."""

    waiting: list[tuple[float, int, Asked]] = field(default_factory=list)
    used: float = 0.0
    owed: float = 0.0
    row: float = 0.0
    requests: int = 0
    large: set[Any] = field(default_factory=set)

    def first(self, seconds: float) -> float:
        """Seconds of what a request of so many asks first: a row, or a few."""
        return max(self.row, min(seconds, LONGEST))

    def before(self, now: float) -> float:
        """Seconds of work whose turn comes before that of a new request: of large ones what they ask first, or all once it is due."""
        ahead = self.owed
        for one in self.large:
            first = min(one.planned, self.first(one.planned))
            ahead += one.left if one.began + LATER * one.planned <= now else max(0.0, first - one.done)
        return ahead

    def left(self) -> float:
        """Seconds of work in all."""
        return sum((one.left for one in self.large), self.owed)


class Line:
    """Calls for one engine. `life` counts the processes that it had: what an earlier one kept is gone."""

    def __init__(self, engine: Any) -> None:
        self.engine = engine
        self.life = 0
        self.running = 0
        self.again: deque[list[Asked]] = deque()  # parts of a run that failed
        self.suspects: deque[Asked] = deque()  # that ran when the engine died: each runs alone now
        self.alone = False
        self.graphs: list[Graph] = []  # of the models that are served from it
        self.flows: dict[str, Flow] = {}
        self._mates: dict[Hashable, dict[Asked, None]] = {}
        self._busy: set[str] = set()
        self._now = 0.0
        self._numbers = itertools.count()

    def flow(self, name: str) -> Flow:
        """The calls of this model."""
        flow = self.flows.get(name)
        if flow is None:
            flow = self.flows[name] = Flow()
        return flow

    def wait(self, name: str, rows: int, now: float) -> tuple[float, float]:
        """Seconds that a new request of this model would wait for its first turn, and until it is answered."""
        own = self.flow(name)
        seconds = own.row * rows
        others = [flow for flow in self.flows.values() if flow is not own and (flow.owed > 0 or flow.large)]
        total = own.left() + sum(flow.left() for flow in others)
        turns = own.before(now) * (len(others) + 1) + (LONGEST + LEEWAY) * len(others)
        back = float(self.engine.back_in())
        return min(total, turns) / self.engine.lanes + back, (total + seconds * (total > LONGEST)) / self.engine.lanes + back

    def add(self, asked: Asked) -> None:
        """A call that is to wait."""
        flow = self.flow(asked.flow)
        if asked.flow not in self._busy:
            self._busy.add(asked.flow)
            flow.used = max(flow.used, self._now)
        asked.state = "waiting"
        heapq.heappush(flow.waiting, (asked.due, next(self._numbers), asked))
        self._mates.setdefault(asked.key, {})[asked] = None

    def drop(self, asked: Asked) -> None:
        """A call that nobody waits for any more."""
        if asked.state == "waiting":
            asked.state = "gone"
            self._part_from_mates(asked)

    def take(self, forget: Callable[[Asked], None]) -> list[Asked]:
        """The calls that the engine should run next, as one; none where nothing may run now. forget: hears of what nobody waits for."""
        if self.alone:
            return []
        while self.suspects:
            if not self.suspects[0].alive:
                forget(self.suspects.popleft())
            elif self.running:
                return []
            else:
                self.alone = True
                return [self.suspects.popleft()]
        while self.again:
            asked = self.again.popleft()
            for gone in (one for one in asked if not one.alive):
                forget(gone)
            if group := [one for one in asked if one.alive]:
                return group
        head = self._next()
        return [] if head is None else self._with_mates(head)

    def waiting(self) -> list[Asked]:
        """Every call that waits for its turn."""
        return [asked for mates in self._mates.values() for asked in mates]

    def cores(self) -> int:
        """Of the engine's, those that each of the runs under way and the calls that wait may use."""
        lanes = int(self.engine.lanes)
        return lanes // min(lanes, max(1, self.running + sum(map(len, self._mates.values()))))

    def free(self, handle: int, life: int) -> None:
        """What is kept under this handle is not needed any more. May be called from any thread."""
        if life == self.life:
            self.engine.free(handle)

    def _next(self) -> Asked | None:
        """The call whose turn it is: that which is due first, of the models that are not ahead of the others."""
        if not self._mates:  # nothing waits
            for name in self._busy:
                self.flows[name].waiting.clear()  # of what ran with others
            self._busy.clear()
        while self._busy:
            least = min(self.flows[name].used for name in self._busy)
            heads = {name: self.flows[name] for name in self._busy if self.flows[name].used <= least + LEEWAY}
            for name, flow in heads.items():
                while flow.waiting and flow.waiting[0][2].state != "waiting":
                    heapq.heappop(flow.waiting)
                if not flow.waiting:
                    self._busy.discard(name)
            if found := [flow for flow in heads.values() if flow.waiting]:
                self._now = max(self._now, least)
                asked = heapq.heappop(min(found, key=lambda flow: flow.waiting[0][:2]).waiting)[2]
                self._taken(asked)
                return asked
        return None

    def _taken(self, asked: Asked) -> None:
        asked.state = "running"
        self.flows[asked.flow].used += asked.seconds
        self._part_from_mates(asked)

    def _part_from_mates(self, asked: Asked) -> None:
        mates = self._mates[asked.key]
        del mates[asked]
        if not mates:
            del self._mates[asked.key]

    def _with_mates(self, head: Asked) -> list[Asked]:
        """The call and those that run with it for less than they would alone, nearest lengths first."""
        group = [head]
        mates = self._mates.get(head.key)
        if not mates:
            return group
        cost = head.graph.shared.cost
        room = cost.cells(cost.budget()) if cost.known else 0.0
        rows, lengths, each, cells, seconds = head.count, head.lengths, head.steps, head.cells, head.seconds
        for mate in sorted(itertools.islice(mates, NEAREST), key=lambda one: (abs(one.steps - head.steps), one.due)):
            if mate.lengths == lengths:
                wider, most = lengths, each
            else:
                wider = {axis: max(size, lengths[axis]) for axis, size in mate.lengths.items()}
                most = steps(head.graph.shared.inputs, wider, head.graph.shared.caches)
            together = cost.seconds((rows + mate.count) * most)
            padded = (rows + mate.count) * most > cells + mate.cells
            if rows + mate.count > MOST_ROWS or (cost.known and (rows + mate.count) * most > room):
                break
            if padded and (not cost.known or together > seconds + mate.seconds + AROUND):
                break
            group.append(mate)
            rows, lengths, each, cells, seconds = rows + mate.count, wider, most, (rows + mate.count) * most, together
        for mate in group[1:]:
            self._taken(mate)
        return group
