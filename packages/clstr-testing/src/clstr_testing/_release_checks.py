"""T5: letting go of shards."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from itertools import product

import clstr
from clstr_testing._check import Bench, proves
from clstr_testing._handlers import FAR, Gate, block, echo, envelope, settle
from clstr_testing._outcomes import failure

LEAVES = ("aclose", "remove")
SENDS = ("request", "notify", "nested")
MOST = 5_000  # messages of one caller: without an end, a transport that takes all of them would never be told
REFUSALS = clstr.DrainingError, clstr.NotOwnerError, clstr.NoShardSubscriberError


@dataclass(frozen=True, kw_only=True)
class Case:
    """
    One way to send to a shard and to let go of it.

    Attributes:
        shard: The shard; with a nested request, the handler that makes it is at shard 100 higher.
        send: How it is sent to.
        leave: How it is let go of.
    """

    shard: int
    send: str
    leave: str

    def start(self, client: clstr.Transport, data: bytes = b"x") -> asyncio.Task[object]:
        """Send a message."""
        shard = self.shard + 100 * (self.send == "nested")
        call = client.notify if self.send == "notify" else client.request
        return asyncio.ensure_future(call(envelope(shard, data), timeout=FAR))

    async def release(self, subscription: clstr.abc.Subscription) -> clstr.abc.ReleaseReport:
        """Let go of the shard."""
        return await (subscription.aclose() if self.leave == "aclose" else subscription.remove([self.shard]))


CASES = tuple(Case(shard=n, send=send, leave=leave) for n, (send, leave) in enumerate(product(SENDS, LEAVES)))


async def forwards(server: clstr.Transport) -> None:
    """Let handlers of ``server`` pass what comes for the shards 100 higher on to those of the cases."""

    async def handler(message: clstr.Envelope) -> bytes:
        return await server.request(envelope(message.shard - 100, message.data), timeout=FAR)

    await server.subscribe([case.shard + 100 for case in CASES], handler)


class ReleaseChecks(Bench):
    """T5."""

    @proves("T5.1")
    async def test_nothing_starts_after_a_subscription_is_closed(self) -> None:
        """Under load; the requests that come too late are refused, and none of them ran."""
        server, client = await self.peer(), await self.peer()
        for case in CASES:
            if case.send != "nested":
                await self._nothing_starts(server, client, case)

    async def _nothing_starts(self, server: clstr.Transport, client: clstr.Transport, case: Case) -> None:
        gate = Gate(is_open=True)
        subscription = await server.subscribe([case.shard], gate)

        async def caller(name: int) -> tuple[bytes, clstr.ClstrError]:
            for number in range(MOST):
                data = b"%d/%d" % (name, number)
                try:
                    await case.start(client, data)
                except clstr.ClstrError as error:
                    return data, error
            raise AssertionError("messages for a shard that nobody holds are taken")

        callers = [asyncio.create_task(caller(name)) for name in range(20)]
        await gate.until_started(200)
        await case.release(subscription)
        started = gate.started.total()
        for data, error in await asyncio.gather(*callers):
            assert not error.maybe_executed
            assert gate.started[data] == 0
        await settle()
        assert gate.started.total() == started

    @proves("T5.1")
    async def test_what_waits_when_closing_gives_up_never_starts(self) -> None:
        """A message waits for a slot when ``drain_timeout`` is over: a request is refused, and says so."""
        server, client = await self.peer(drain_timeout=0.05, max_concurrent=1), await self.peer()
        for case in CASES:
            if case.send != "nested":
                await self._waits_in_vain(server, client, case)

    async def _waits_in_vain(self, server: clstr.Transport, client: clstr.Transport, case: Case) -> None:
        gate = Gate()
        subscription = await server.subscribe([case.shard], gate)
        first = case.start(client, b"first")
        await gate.until_started(1)
        second = case.start(client, b"second")
        await settle()
        if case.send == "notify":  # it has left; what was sent after it arrives after it, or is refused too
            await second
        await case.release(subscription)
        gate.open()
        await first
        try:
            await second
        except REFUSALS as error:
            assert not error.maybe_executed
        else:
            assert case.send == "notify"
        await server.subscribe([50], echo)
        await client.request(envelope(50), timeout=FAR)
        await settle()
        assert gate.started == {b"first": 1}

    @proves("T5.2")
    async def test_closing_a_subscription_waits_for_its_handlers(self) -> None:
        """For each of them, whatever it is asked and by whom, and however long it takes."""
        server, client = await self.peer(drain_timeout=FAR), await self.peer()
        await forwards(server)
        for case in CASES:
            await self._is_waited_for(server, client, case)

    async def _is_waited_for(self, server: clstr.Transport, client: clstr.Transport, case: Case) -> None:
        gates = {b"": Gate(), b"x": Gate()}

        async def handler(message: clstr.Envelope) -> bytes:
            return await gates[message.data](message)

        subscription = await server.subscribe([case.shard], handler)
        sent = [case.start(client, data) for data in gates]
        for gate in gates.values():
            await gate.until_started(1)
        closing = asyncio.create_task(case.release(subscription))
        await settle()
        block(0.05)
        for gate in reversed(gates.values()):
            await settle()
            assert not closing.done()
            gate.open()
        assert await closing == clstr.ReleaseReport()
        assert [gate.running for gate in gates.values()] == [0, 0]
        await asyncio.gather(*sent)

    @proves("T5.2")
    async def test_closing_a_subscription_waits_for_no_other_handler(self) -> None:
        """Neither for those of its other shards, if it keeps them, nor for those of another one of the same shard."""
        server, client = await self.peer(drain_timeout=FAR), await self.peer()
        arrivals, mine, others = Gate(is_open=True), Gate(), Gate()

        async def handler(message: clstr.Envelope) -> bytes:
            await arrivals(message)
            return await (others if message.shard == 1 else mine)(message)

        async def handler_of_another(message: clstr.Envelope) -> bytes:
            await arrivals(message)
            return await others(message)

        subscription = await server.subscribe([0, 1], handler)
        await server.subscribe([0], handler_of_another)
        messages = [envelope(number % 2, b"x") for number in range(16)]
        requests = [asyncio.create_task(client.request(message, timeout=FAR)) for message in messages]
        await arrivals.until_started(16)
        await settle()
        running = others.running
        assert mine.running + running == 16
        closing = asyncio.create_task(subscription.remove([0]))
        await settle()
        assert closing.done() == (mine.running == 0)
        mine.open()
        await closing
        assert (mine.running, others.running, sorted(subscription.shards)) == (0, running, [1])
        others.open()
        await asyncio.gather(*requests)

    @proves("T5.2")
    async def test_closing_a_subscription_waits_for_handlers_that_wait_for_a_reply(self) -> None:
        """A handler that has lent its slot has started too."""
        server, other, client = await self.peer(drain_timeout=FAR), await self.peer(), await self.peer()
        elsewhere = Gate()
        await other.subscribe([99], elsewhere)

        async def handler(_: clstr.Envelope) -> bytes:
            return await server.request(envelope(99, b"onward"), timeout=FAR)

        for number, case in enumerate(CASES[:4]):
            subscription = await server.subscribe([case.shard], handler)
            sent = case.start(client)
            elsewhere.close()
            await elsewhere.until_started(number + 1)
            closing = asyncio.create_task(case.release(subscription))
            await settle()
            assert not closing.done()
            elsewhere.open()
            await closing
            assert await sent == (None if case.send == "notify" else b"onward")

    @proves("T5.2")
    async def test_closing_a_subscription_twice_at_once_waits_twice(self) -> None:
        """The second call does not return before the first: its caller relies on the same promise."""
        server, client = await self.peer(drain_timeout=FAR), await self.peer()
        gate = Gate()
        subscription = await server.subscribe([0], gate)
        request = asyncio.create_task(client.request(envelope(data=b"x"), timeout=FAR))
        await gate.until_started(1)
        closings = [asyncio.create_task(subscription.aclose()) for _ in range(2)]
        await settle()
        assert not any(closing.done() for closing in closings)
        gate.open()
        await asyncio.gather(*closings)
        assert await request == b"x"

    @proves("T5.3")
    async def test_closing_a_subscription_gives_up_after_drain_timeout(self) -> None:
        """A handler that does not end holds it up for as long as the option says, and no longer."""
        server, client = await self.peer(drain_timeout=0.1), await self.peer()
        loop = asyncio.get_running_loop()
        for case in CASES:
            if case.send != "nested":
                with Gate() as gate:
                    subscription = await server.subscribe([case.shard], gate)
                    sent = case.start(client)
                    await gate.until_started(1)
                    begun = loop.time()
                    async with asyncio.timeout(5):  # half of the default
                        await case.release(subscription)
                    assert loop.time() - begun > 0.09
                    assert gate.running == 1
                await sent

    @proves("T5.5")
    async def test_closing_a_subscription_reports_what_still_runs(self) -> None:
        """Each by shard and type: whoever takes the shard next has to know; what has ended is not reported."""
        server, client = await self.peer(drain_timeout=0.05), await self.peer()
        for case in CASES:
            if case.send != "nested":
                await self._is_reported(server, client, case)

    async def _is_reported(self, server: clstr.Transport, client: clstr.Transport, case: Case) -> None:
        gates = {data: Gate() for data in (b"first", b"second", b"ended")}

        async def handler(message: clstr.Envelope) -> bytes:
            return await gates[message.data](message)

        subscription = await server.subscribe([case.shard, case.shard + 50], handler)
        sent = [case.start(client, data) for data in gates]
        for gate in gates.values():
            await gate.until_started(1)
        gates[b"ended"].open()
        await gates[b"ended"].until(lambda gate: gate.running == 0)
        assert await subscription.remove([case.shard + 50]) == clstr.ReleaseReport()
        report = await case.release(subscription)
        assert [(f"shard {case.shard}," in line, "check" in line) for line in report.running] == [(True, True)] * 2
        for gate in gates.values():
            gate.open()
        await asyncio.gather(*sent)
        assert await subscription.aclose() == clstr.ReleaseReport()

    @proves("T5.4")
    async def test_a_handler_may_close_its_own_subscription(self) -> None:
        """It does not wait for itself, and still answers: itself, in a task of its own, or for one that awaits it."""
        server, client = await self.peer(drain_timeout=FAR), await self.peer()
        for number, (inside, case) in enumerate(product(("handler", "task", "nested"), CASES[:4])):
            await self._closes_itself(server, client, Case(shard=number, send=case.send, leave=case.leave), inside)

    async def _closes_itself(self, server: clstr.Transport, client: clstr.Transport, case: Case, inside: str) -> None:
        closed = asyncio.Event()

        async def close() -> bytes:
            await case.release(subscription)
            closed.set()
            return b"closed"

        async def close_for_another(_: clstr.Envelope) -> bytes:
            return await close()

        async def handler(_: clstr.Envelope) -> bytes:
            if inside == "nested":
                return await server.request(envelope(case.shard + 100), timeout=FAR)
            return await (asyncio.create_task(close()) if inside == "task" else close())

        subscription = await server.subscribe([case.shard], handler)
        other = await server.subscribe([case.shard + 100], close_for_another)
        message = clstr.Envelope(shard=case.shard, type="check", headers={"x-clstr-key": "key"})
        call = client.notify if case.send == "notify" else client.request
        assert await call(message, timeout=FAR) == (None if case.send == "notify" else b"closed")
        await closed.wait()
        await other.aclose()
        await failure(client.request(envelope(case.shard), timeout=FAR), clstr.NoShardSubscriberError)
