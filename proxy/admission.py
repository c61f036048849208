"""Who may ask the engine now: in the order in which they came, and no more at once than it works on.

What waits here costs the engine nothing, and a drain takes as long as an answer, whatever the crowd. Where
there are several engines, `proxy.pods` chooses one of them for who comes next.
"""

import asyncio
from collections import Counter, OrderedDict
from dataclasses import replace

from proxy.pods import GONE_SECONDS, Fleet, Pods
from proxy.route import ProxyRoute

SWITCH_HEARS_SECONDS = 3.0
"""By then the switch knows that an engine has ended, and says so; else it has not ended."""

PACE_SECONDS, CROWD_SECONDS = 0.002, 0.2
"""Between two of a crowd that is let in, so that the first is answered before the last is asked for: about as
long as the way to the engine takes, and less where many wait, who have no time to lose."""


class Dropped(Exception):
    """This proxy ends: what waits in it has to be asked of another one, if it can."""


class Admission:
    """`running` counts requests from their admission to their end, by the engine's name.

    With `pods`, each request goes to one of these, and the engine that the route names is not asked.
    """

    def __init__(self, pods: Pods | None = None) -> None:
        self.route, self.pods = ProxyRoute(), pods
        self.running: Counter[str] = Counter()
        self._heard: dict[str, float] = {}
        """When a byte of what its model computes came last from each engine."""
        self._heard_of: dict[str, float] = {}
        """The same of each of `pods`, by its address."""
        self._queue: OrderedDict[asyncio.Future[ProxyRoute], bytes] = OrderedDict()
        """Who waits, the next one first, and which conversation each goes on with."""
        self._not_before = 0.0
        self._next: asyncio.TimerHandle | None = None
        self._ended = False

    @property
    def waiting(self) -> int:
        """How many wait. Who is let in counts as `running` in the same moment."""
        return len(self._queue)

    def change(self, route: ProxyRoute) -> None:
        """From now on this route is in force."""
        self.route, self._not_before = route, 0.0
        self._let_in()

    def change_fleet(self, fleet: Fleet) -> None:
        """From now on these are the pods. Only with `pods`."""
        assert self.pods is not None
        self.pods.change(fleet)
        self._let_in()

    def gone(self, route: ProxyRoute, *, asked: bool) -> float:
        """The engine of this route has ended during a request, which had reached it if `asked`, or it can't
        be reached. Returns for how many seconds a request may wait for another one: 0 among several pods."""
        assert route.engine is not None
        if self.pods is not None:
            loop = asyncio.get_running_loop()
            self.pods.gone(route.engine.host, loop.time())
            # where there is no other, somebody waits for it
            loop.call_later(GONE_SECONDS + 0.001, self._let_in)
            return 0
        # It can't be reached, which holds for everybody, unless something else is to be asked now.
        if not asked and route is self.route:
            self.pause()
        return SWITCH_HEARS_SECONDS

    def pause(self, seconds: float = SWITCH_HEARS_SECONDS) -> None:
        """Nobody is let in until there is another route, or so many seconds have gone by."""
        loop = asyncio.get_running_loop()
        self._not_before = loop.time() + seconds
        loop.call_later(seconds + 0.001, self._let_in)

    async def another(self, than: ProxyRoute, seconds: float) -> None:
        """Returns once there is another route, or this one ends, or so many seconds have gone by."""
        until = asyncio.get_running_loop().time() + seconds
        while self._in_force(than) and not self._ended and asyncio.get_running_loop().time() < until:
            await asyncio.sleep(0.02)

    def _in_force(self, route: ProxyRoute) -> bool:
        """Whether it is the route of now, by whichever of the pods."""
        if self.pods is None:
            return route is self.route
        return route == replace(self.route, engine=route.engine)

    def end(self) -> None:
        """What waits, and what will come, is Dropped."""
        self._ended = True
        for waiter in self._queue:
            if not waiter.done():
                waiter.set_exception(Dropped())

    async def enter(
        self, *, first: bool = False, stays: bool = False, conversation: bytes = b""
    ) -> ProxyRoute:
        """The route by which to ask, once it is this one's turn. `first`: it was let in before; `stays`: no
        other proxy can answer it; `conversation`: what `proxy.conversation` says of it.

        Every `enter` needs its `leave`. Raises Dropped.
        """
        if self._ended and not stays:
            raise Dropped
        waiter: asyncio.Future[ProxyRoute] = asyncio.get_running_loop().create_future()
        self._queue[waiter] = conversation
        self._queue.move_to_end(waiter, last=not first)
        self._let_in()
        try:
            return await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                self.leave(waiter.result())  # it was let in, and has gone in the same moment
            raise
        finally:
            self._queue.pop(waiter, None)

    def leave(self, route: ProxyRoute) -> None:
        """The request that came in by `route` has ended."""
        assert route.engine is not None, "nobody is let in without an engine"
        if self.pods is not None:
            self.pods.left(route.engine.host)
        self.count(route.engine.name, -1)

    def count(self, engine: str, by: int) -> None:
        """So many more, or fewer, are at an engine."""
        self.running[engine] += by
        if not self.running[engine]:
            del self.running[engine]
        if by < 0:
            self._let_in()

    def heard(self, engine: str, host: str = "") -> None:
        """A byte of what its model computes has come from it (`protocols.is_computed`); of several of this
        name from the one at the address `host`."""
        now = self._heard[engine] = asyncio.get_running_loop().time()
        if self.pods is not None and host:
            self._heard_of[host] = now

    def silent_of(self, host: str) -> float:
        """For how many seconds nothing has come from the pod at this address; infinite: nothing ever came."""
        return asyncio.get_running_loop().time() - self._heard_of.get(host, float("-inf"))

    def forget(self, host: str) -> None:
        """The pod at this address is there no more."""
        self._heard_of.pop(host, None)

    def silent(self) -> dict[str, float]:
        """For how many seconds nothing has come from each engine from which something came."""
        now = asyncio.get_running_loop().time()
        return {engine: round(now - at, 1) for engine, at in self._heard.items()}

    def _let_in(self) -> None:
        """One who waits; the next of them follows a little later."""
        loop = asyncio.get_running_loop()
        while self._queue and next(iter(self._queue)).done():
            self._queue.popitem(last=False)  # it has gone
        if not self._queue or loop.time() < self._not_before:
            return
        waiter, conversation = next(iter(self._queue.items()))
        if (route := self._place(conversation)) is not None:
            del self._queue[waiter]
            waiter.set_result(route)
            if self._queue and self._next is None:
                pace = min(PACE_SECONDS, CROWD_SECONDS / len(self._queue))
                self._next = loop.call_later(pace, self._let_in_next)

    def _place(self, conversation: bytes) -> ProxyRoute | None:
        """The route by which one more may ask, who counts from now on; None: nobody may."""
        route, engine = self.route, self.route.engine
        if self.pods is not None:
            if route.held or not (engine := self.pods.pick(conversation, asyncio.get_running_loop().time())):
                return None
            route = replace(route, engine=engine)
        elif engine is None or route.held or self.running[engine.name] >= engine.at_a_time:
            return None
        self.count(engine.name, 1)
        return route

    def _let_in_next(self) -> None:
        self._next = None
        self._let_in()
