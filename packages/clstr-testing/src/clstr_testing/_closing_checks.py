"""T14: closing a transport."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import clstr
from clstr_testing._check import Bench, proves
from clstr_testing._handlers import FAR, Gate, echo, envelope, settle
from clstr_testing._leaks import no_leaks
from clstr_testing._outcomes import failure


class ClosingChecks(Bench):
    """T14."""

    @proves("T14.1")
    async def test_closing_twice_and_at_once_is_one_close(self) -> None:
        """Every call returns the same report."""
        server = await self.peer()
        await server.subscribe([0], echo)
        reports = await asyncio.gather(*(server.aclose() for _ in range(3)))
        assert [*reports, await server.aclose()] == [clstr.CloseReport()] * 4

    @proves("T14.2")
    async def test_a_handler_may_close_its_own_transport(self) -> None:
        """It does not wait for itself."""
        server, client = await self.peer(drain_timeout=FAR), await self.peer()
        closed: asyncio.Queue[clstr.CloseReport] = asyncio.Queue()

        async def handler(_: clstr.Envelope) -> None:
            closed.put_nowait(await server.aclose())

        await server.subscribe([0], handler)
        request = asyncio.create_task(client.request(envelope(), timeout=FAR))
        assert await closed.get() == clstr.CloseReport()
        request.cancel()
        await asyncio.gather(request, return_exceptions=True)

    @proves("T14.3")
    async def test_new_calls_fail_as_soon_as_closing_begins(self) -> None:
        """While a handler still drains, and afterwards."""
        server, client = await self.peer(drain_timeout=FAR), await self.peer()
        gate = Gate()
        await server.subscribe([0], gate)
        await client.subscribe([1], echo)
        request = asyncio.create_task(client.request(envelope(), timeout=FAR))
        await gate.until_started(1)
        closing = asyncio.create_task(server.aclose())
        await settle()
        assert not closing.done()
        await self._refuses_calls(server)
        gate.open()
        await asyncio.gather(request, closing)
        await self._refuses_calls(server)

    async def _refuses_calls(self, transport: clstr.Transport) -> None:
        calls: tuple[Callable[[], Awaitable[object]], ...] = (
            lambda: transport.request(envelope(1), timeout=FAR),
            lambda: transport.notify(envelope(1), timeout=FAR),
            lambda: transport.subscribe([5], echo),
        )
        for call in calls:
            assert not (await failure(call(), clstr.TransportClosedError)).maybe_executed

    @proves("T14.4")
    async def test_draining_handlers_finish_and_their_requests_go_on(self) -> None:
        """The handler asks another peer after closing has begun, and its caller gets the reply."""
        server, other, client = await self.peer(drain_timeout=FAR), await self.peer(), await self.peer()
        gate = Gate()

        async def handler(message: clstr.Envelope) -> bytes:
            await gate(message)
            return await server.request(envelope(1, b"onward"), timeout=FAR)

        await other.subscribe([1], echo)
        await server.subscribe([0], handler)
        request = asyncio.create_task(client.request(envelope(), timeout=FAR))
        await gate.until_started(1)
        closing = asyncio.create_task(server.aclose())
        await settle()
        gate.open()
        assert await request == b"onward"
        assert await closing == clstr.CloseReport()

    @proves("T14.4")
    async def test_handlers_that_wait_for_a_reply_are_drained(self) -> None:
        """When closing begins the handler has lent its slot: it has started, and finishes."""
        server, other, client = await self.peer(drain_timeout=FAR), await self.peer(), await self.peer()
        elsewhere = Gate()

        async def handler(_: clstr.Envelope) -> bytes:
            return await server.request(envelope(1, b"onward"), timeout=FAR)

        await other.subscribe([1], elsewhere)
        await server.subscribe([0], handler)
        request = asyncio.create_task(client.request(envelope(), timeout=FAR))
        await elsewhere.until_started(1)
        closing = asyncio.create_task(server.aclose())
        await settle()
        assert not closing.done()
        elsewhere.open()
        assert await request == b"onward"
        assert await closing == clstr.CloseReport()

    @proves("T14.5")
    async def test_late_arrivals_are_refused(self) -> None:
        """Callers that do not stop learn at once that their messages did not run; none hangs."""
        server, client = await self.peer(), await self.peer()
        gate = Gate(is_open=True)
        await server.subscribe([0], gate)

        async def caller(name: int) -> clstr.ClstrError:
            number = 0
            while True:
                data = b"%d/%d" % (name, number)
                number += 1
                try:
                    await client.request(envelope(data=data), timeout=FAR)
                except clstr.ClstrError as error:
                    assert gate.started[data] == 0
                    return error

        callers = [asyncio.create_task(caller(name)) for name in range(20)]
        await gate.until_started(200)
        await server.aclose()
        refusals = clstr.DrainingError, clstr.NoShardSubscriberError, clstr.NotOwnerError
        for error in await asyncio.gather(*callers):
            assert isinstance(error, refusals), repr(error)
            assert not error.maybe_executed

    @proves("T14.6")
    async def test_closing_cancels_what_does_not_end(self) -> None:
        """One handler obeys and one does not; both callers are answered, and the report tells them apart."""
        server, client = await self.peer(drain_timeout=0.1), await self.peer()
        obeys = Gate()
        with Gate(deaf=True) as ignores:
            await server.subscribe([1], obeys)
            await server.subscribe([2], ignores)
            requests = [asyncio.create_task(client.request(envelope(shard), timeout=FAR)) for shard in (1, 2)]
            await obeys.until_started(1)
            await ignores.until_started(1)
            async with asyncio.timeout(0.1 + 2 + 2):  # 2 s more for a busy machine: a close that hangs takes for ever
                report = await server.aclose()
            for request in requests:
                await failure(request, clstr.HandlerTimeoutError)
            assert (obeys.running, ignores.running) == (0, 1)
            assert (report.cancelled, len(report.abandoned)) == (2, 1)
            assert "shard 2" in report.abandoned[0]
        await ignores.until(lambda gate: gate.running == 0)

    @proves("T14.7")
    async def test_a_request_in_flight_ends_when_its_transport_closes(self) -> None:
        """It may have run."""
        server, client = await self.peer(), await self.peer()
        gate = Gate()
        await server.subscribe([0], gate)
        request = asyncio.create_task(client.request(envelope(), timeout=FAR))
        await gate.until_started(1)
        await client.aclose()
        assert (await failure(request, clstr.TransportClosedError)).maybe_executed
        gate.open()

    @proves("T14.8")
    async def test_nothing_is_left(self) -> None:
        """No task, thread, timer or descriptor, after traffic of every kind."""
        async with no_leaks():
            server, client = await self.peer(), await self.peer()
            gate = Gate(is_open=True)
            await server.subscribe(range(4), gate)
            await asyncio.gather(*(client.request(envelope(n % 4, b"%d" % n), timeout=FAR) for n in range(100)))
            await client.notify(envelope(), timeout=FAR)
            await failure(client.request(envelope(9), timeout=FAR), clstr.NoShardSubscriberError)
            await asyncio.gather(server.aclose(), client.aclose())
