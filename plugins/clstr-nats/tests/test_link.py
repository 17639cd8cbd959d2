"""`clstr_nats._link`: what NATS does to a peer, and what the peer makes of it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from typing import Any

import nats
import pytest

import clstr
from clstr import Envelope
from clstr.errors import (
    ClstrError,
    ConnectionLostError,
    NoShardSubscriberError,
    OverloadedError,
    PayloadTooLargeError,
    RequestTimeoutError,
    TransportUnavailableError,
)
from clstr.spi import Engine
from clstr_nats._dialer import Dialer
from clstr_nats._options import Options
from clstr_testing import FaultProxy, Server, nats_server, no_leaks

Connect = Callable[..., Awaitable[clstr.Transport]]


async def echo(envelope: Envelope) -> bytes:
    return envelope.data


def message(shard: int = 1, data: bytes = b"", **fields: Any) -> Envelope:
    return Envelope(shard=shard, type="Echo", data=data, **fields)


def no_responders(reply: bytes) -> bytes:
    """What the server says of a message to `reply` that nobody takes."""
    return b"HMSG %s 1 16 16\r\nNATS/1.0 503\r\n\r\n\r\n" % reply


async def eventually(call: Callable[[], Awaitable[Any]]) -> Any:
    """Call until it goes well: for what comes back by itself, some time after an outage."""
    async with asyncio.timeout(15):
        while True:
            try:
                return await call()
            except ClstrError:
                await asyncio.sleep(0)


# Subscribing and letting go (N1, N11).


async def test_who_subscribed_is_found_at_once(server: Server, connect: Connect) -> None:
    node, client = await connect(server.port), await connect(server.port)
    for shard in range(300):
        await node.subscribe([shard], echo)
        assert await client.request(message(shard, b"x")) == b"x"


async def test_who_let_go_is_not_found_and_loses_nothing(server: Server, connect: Connect) -> None:
    node, client = await connect(server.port), await connect(server.port)
    ran: list[bytes] = []

    async def count(envelope: Envelope) -> bytes:
        ran.append(envelope.data)
        return envelope.data

    async def ask(n: int) -> bytes | None:
        try:
            return await client.request(message(1, b"%d" % n))
        except NoShardSubscriberError:
            return None

    subscription = await node.subscribe([1], count)
    asked = [asyncio.ensure_future(ask(n)) for n in range(500)]
    await asyncio.sleep(0)
    await subscription.aclose()
    answers = await asyncio.gather(*asked)
    assert sorted(answer for answer in answers if answer is not None) == sorted(ran)
    with pytest.raises(NoShardSubscriberError):
        await client.request(message(1))


async def test_4096_shards_cost_a_handful_of_pings(fake_server: Any, connect: Connect) -> None:
    node = await connect(fake_server.port)
    before = len(fake_server.said)
    subscription = await node.subscribe(range(4096), echo)
    said = fake_server.said[before:]
    assert sum(line.startswith(b"SUB clstr.shard.") for line in said) == 4096
    assert all(line.split()[2] == b"clstr" for line in said if line.startswith(b"SUB"))
    assert sum(line == b"PING\r\n" for line in said) <= 4
    await subscription.aclose()
    assert sum(line.startswith(b"UNSUB ") for line in fake_server.said) == 4096


# Notifies (N19).


async def test_a_notify_for_nobody_is_refused_although_it_wants_no_answer(server: Server, connect: Connect) -> None:
    client = await connect(server.port)
    async with asyncio.timeout(5):
        with pytest.raises(NoShardSubscriberError):
            await client.notify(message(), timeout=60)


async def test_as_many_notifies_as_are_written_at_once_are_all_on_their_way(server: Server, connect: Connect) -> None:
    node, client = await connect(server.port), await connect(server.port)
    await node.subscribe([1], echo)
    async with asyncio.timeout(5):
        await asyncio.gather(*(client.notify(message(1), timeout=60) for _ in range(64)))


async def test_one_ping_fences_all_notifies_of_a_write(fake_server: Any, connect: Connect) -> None:
    client = await connect(fake_server.port)
    before = len(fake_server.said)
    await asyncio.gather(*(client.notify(message(n)) for n in range(1000)))
    said = fake_server.said[before:]
    assert sum(line.startswith(b"PUB ") for line in said) == 1000
    assert sum(line == b"PING\r\n" for line in said) <= 20  # one for each write: 64 at a time


# The connection is lost, and found again (N2, N3, N7, N8, N9).


async def test_a_stalled_link_keeps_neither_deadline_nor_cancellation_from_working(
    proxy: FaultProxy, connect: Connect
) -> None:
    client = await connect(proxy.port, query="?heartbeat=60&drain_timeout=0.1", max_inflight_bytes=1 << 30)
    proxy.black_hole()
    requests = [asyncio.ensure_future(client.request(message(n, bytes(1 << 19)), timeout=60)) for n in range(20)]
    await asyncio.sleep(0)
    with pytest.raises(RequestTimeoutError):
        await client.request(message(), timeout=0.05)
    for request in requests:
        request.cancel()
    done, _ = await asyncio.wait(requests, timeout=5)
    assert len(done) == 20


async def test_what_the_socket_does_not_take_is_bounded(proxy: FaultProxy, connect: Connect) -> None:
    client = await connect(proxy.port, query="?heartbeat=60&drain_timeout=0.1", max_inflight_bytes=1 << 30)
    proxy.black_hole()
    requests: list[asyncio.Task[bytes]] = []
    async with asyncio.timeout(60):
        while not any(request.done() for request in requests):  # the system's buffers take some megabytes first
            requests.append(asyncio.create_task(client.request(message(1, bytes(500_000)), timeout=60)))
            await asyncio.sleep(0)
    errors = [request.exception() for request in requests if request.done()]
    assert all(isinstance(error, OverloadedError) and not error.maybe_executed for error in errors)
    for request in requests:
        request.cancel()
    await asyncio.wait(requests)


async def test_a_request_of_an_outage_never_runs_afterwards(proxy: FaultProxy, connect: Connect) -> None:
    ran: list[bytes] = []

    async def note(envelope: Envelope) -> bytes:
        ran.append(envelope.data)
        return b""

    node, client = await connect(proxy.port), await connect(proxy.port, query="?reconnect_wait=0.05")
    await node.subscribe([1], note)
    proxy.refuse()
    await proxy.reset()
    for n in range(20):
        with pytest.raises((TransportUnavailableError, ConnectionLostError)):
            await client.request(message(1, b"outage %d" % n))
    proxy.accept()
    await eventually(lambda: client.request(message(1, b"after")))
    assert ran == [b"after"]


async def test_a_link_that_is_mute_is_given_up_after_three_heartbeats(
    proxy: FaultProxy, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    client = await connect(proxy.port, query="?heartbeat=0.05")
    proxy.black_hole()
    async with asyncio.timeout(10):
        with pytest.raises(ConnectionLostError, match=r"has not answered for 0\.15 s"):
            await client.request(message(), timeout=60)
    proxy.heal()
    await proxy.reset()
    with pytest.raises(NoShardSubscriberError):
        await client.request(message())


async def test_a_server_that_was_killed_and_comes_back_empty_is_used_again(server: Server, connect: Connect) -> None:
    node, client = await connect(server.port), await connect(server.port)
    await node.subscribe(range(64), echo)
    server.kill()
    await server.restart()
    assert await eventually(lambda: client.request(message(0, b"x"))) == b"x"
    assert await eventually(lambda: client.request(message(63, b"x"))) == b"x"


async def test_a_server_that_is_gone_for_longer_than_any_budget_is_used_again(
    proxy: FaultProxy, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    node, client = await connect(proxy.port), await connect(proxy.port)
    await node.subscribe([1], echo)
    proxy.refuse()
    await proxy.reset()
    async with asyncio.timeout(20):
        while sum("still unreachable" in each.message for each in caplog.records) < 6:  # noqa: ASYNC110 -- a log
            await asyncio.sleep(0)
    proxy.accept()
    assert await eventually(lambda: client.request(message(1, b"x"))) == b"x"


@pytest.mark.parametrize(
    "line",
    [
        b"-ERR 'User Authentication Expired'\r\n",
        b"-ERR 'User Authentication Revoked'\r\n",
        b"-ERR 'Account Authentication Expired'\r\n",
        b"-ERR 'Authentication Timeout'\r\n",
        b"-ERR 'Slow Consumer Detected'\r\n",
        b"-ERR 'Stale Connection'\r\n",
        b"-ERR 'Maximum Connections Exceeded'\r\n",
        b"-ERR 'Maximum Payload Violation'\r\n",
        b"-ERR 'Parser Error'\r\n",
        b"-ERR 'Server Shutdown'\r\n",
    ],
)
async def test_an_error_of_the_server_is_survived(fake_server: Any, connect: Connect, line: bytes) -> None:
    node = await connect(fake_server.port)
    await node.subscribe([7], echo)
    fake_server.said.clear()
    fake_server.say(line)
    await fake_server.until(lambda: any(line.startswith(b"SUB clstr.shard.7 clstr ") for line in fake_server.said))


async def test_an_error_beside_the_pong_is_no_success(fake_server: Any, connect: Connect) -> None:
    node = await connect(fake_server.port)
    fake_server.on_ping = b"-ERR 'maximum subscriptions exceeded'\r\nPONG\r\n"
    with pytest.raises(TransportUnavailableError, match="maximum subscriptions exceeded"):
        await node.subscribe([7], echo)


async def test_a_server_that_throws_everybody_out_is_not_opened_and_leaves_nothing(
    fake_server: Any, unused_tcp_port: int
) -> None:
    fake_server.on_ping = b"PONG\r\n-ERR 'User Authentication Expired'\r\nPONG\r\n"
    async with no_leaks():
        with pytest.raises(TransportUnavailableError, match=r"(?i)user authentication expired"):
            await clstr.connect(f"nats://127.0.0.1:{fake_server.port}")


@pytest.mark.parametrize("is_clustered", [True, False])
async def test_a_503_is_believed_at_once_by_one_server_and_the_second_time_by_several(
    fake_server: Any, connect: Connect, is_clustered: bool
) -> None:
    if is_clustered:
        fake_server.info["cluster"] = "c"
    fake_server.on_publish = no_responders
    client = await connect(fake_server.port)
    with pytest.raises(NoShardSubscriberError):
        await client.request(message(7))
    assert sum(line.startswith(b"PUB clstr.shard.7") for line in fake_server.said) == 1 + is_clustered


async def test_who_is_found_the_second_time_answers(fake_server: Any, connect: Connect) -> None:
    fake_server.info["cluster"] = "c"
    answers: Iterator[Callable[[bytes], bytes]] = iter(
        [no_responders, lambda reply: b'MSG %s 1 15\r\n{"data":"aGk="}\r\n' % reply]
    )

    def answer(reply: bytes) -> bytes:
        return next(answers)(reply)

    fake_server.on_publish = answer
    client = await connect(fake_server.port)
    assert await client.request(message(7)) == b"hi"


async def test_a_reply_with_a_body_is_one_whatever_its_status(fake_server: Any, connect: Connect) -> None:
    fake_server.on_publish = lambda reply: b"HMSG %s 1 16 18\r\nNATS/1.0 503\r\n\r\n{}\r\n" % reply
    client = await connect(fake_server.port)
    assert await client.request(message(7)) == b""


async def test_a_shard_that_was_let_go_stays_so_after_a_reconnection(
    server: Server, proxy: FaultProxy, connect: Connect
) -> None:
    node, client = await connect(proxy.port), await connect(server.port)
    kept, dropped = await node.subscribe([1], echo), await node.subscribe([2], echo)
    await dropped.aclose()
    await proxy.reset()
    assert await eventually(lambda: client.request(message(1, b"x"))) == b"x"
    with pytest.raises(NoShardSubscriberError):
        await client.request(message(2))
    await kept.aclose()


async def test_notifies_that_were_accepted_before_a_shard_was_let_go_have_run(server: Server, connect: Connect) -> None:
    ran: set[bytes] = set()

    async def note(envelope: Envelope) -> bytes:
        ran.add(envelope.data)
        return b""

    client, accepted = await connect(server.port), set[bytes]()

    async def tell(number: int) -> None:
        try:
            await client.notify(message(1, b"%d" % number))
        except NoShardSubscriberError:
            return
        accepted.add(b"%d" % number)

    for first in range(0, 4000, 200):
        node = await connect(server.port, max_queue=1000)
        subscription = await node.subscribe([1], note)
        telling = [asyncio.create_task(tell(number)) for number in range(first, first + 200)]
        await asyncio.sleep(0)
        await subscription.aclose()
        await asyncio.gather(*telling)
        await node.aclose()
    assert accepted == ran
    assert accepted


async def test_a_frozen_server_is_noticed_and_nothing_of_that_time_runs(server: Server, connect: Connect) -> None:
    ran: list[bytes] = []

    async def note(envelope: Envelope) -> bytes:
        ran.append(envelope.data)
        return b""

    node = await connect(server.port, query="?heartbeat=0.1")
    client = await connect(server.port, query="?heartbeat=0.1&reconnect_wait=0.01")
    await node.subscribe([1], note)
    server.pause()
    async with asyncio.timeout(20):
        with pytest.raises(ConnectionLostError):
            await client.request(message(1, b"in flight"), timeout=60)
    with pytest.raises(TransportUnavailableError):
        await client.request(message(1, b"outage"), timeout=60)
    server.resume()
    await eventually(lambda: client.request(message(1, b"after")))
    assert ran.count(b"in flight") <= 1
    assert b"outage" not in ran


async def test_a_slow_consumer_is_cut_off_and_comes_back(connect: Connect) -> None:
    """The node reads nothing until the server has closed its connection, however much the system's buffers take."""
    config = 'max_pending: 1048576\nwrite_deadline: "2s"'
    async with nats_server(config=config) as server, FaultProxy(server.host, server.port) as proxy:
        node, client = await connect(proxy.port, query="?heartbeat=60"), await connect(server.port)
        await node.subscribe([1], echo)
        proxy.to_client.stall()
        async with asyncio.timeout(60):
            while "slow consumer" not in server.log.read_text().lower():
                with suppress(NoShardSubscriberError):  # it has been cut off
                    await client.notify(message(1, bytes(300_000)))
        proxy.heal()
        assert await eventually(lambda: client.request(message(1, b"x"))) == b"x"


async def test_a_link_that_is_slow_but_moves_is_not_given_up(
    proxy: FaultProxy, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    """A PING waits behind megabytes for many times the patience that a mute link gets."""
    client = await connect(proxy.port, query="?heartbeat=0.3", max_inflight_bytes=1 << 25)
    proxy.to_server.piece_bytes = 8192
    proxy.to_server.delay = 0.001
    requests = [client.request(message(n, bytes(600_000)), timeout=50) for n in range(14)]
    answers = await asyncio.gather(*requests, return_exceptions=True)
    assert {type(answer) for answer in answers} == {NoShardSubscriberError}
    assert "unreachable" not in caplog.text


async def test_replies_that_a_slow_network_has_not_taken_yet_arrive_after_the_close_began(
    server: Server, proxy: FaultProxy, connect: Connect
) -> None:
    node, client = await connect(proxy.port, drain_timeout=20), await connect(server.port)
    started = asyncio.Semaphore(0)

    async def large(envelope: Envelope) -> bytes:
        started.release()
        return bytes(600_000)

    await node.subscribe([1], large)
    proxy.to_server.piece_bytes = 16_384
    proxy.to_server.delay = 0.005
    requests = [asyncio.create_task(client.request(message(1), timeout=30)) for _ in range(4)]
    for _ in requests:
        await started.acquire()
    await node.aclose()
    assert [len(reply) for reply in await asyncio.gather(*requests)] == [600_000] * 4


async def test_replies_that_nobody_takes_hold_handlers_back_and_arrive_when_somebody_does(
    server: Server, proxy: FaultProxy, connect: Connect
) -> None:
    node = await connect(proxy.port, query="?heartbeat=60&drain_timeout=0.1", max_concurrent=10)
    assert isinstance(node, Engine)
    client, ran = await connect(server.port), 0

    async def large(_: Envelope) -> bytes:
        nonlocal ran
        ran += 1
        return bytes(700_000)

    await node.subscribe([1], large)
    proxy.to_server.stall()
    requests = [asyncio.create_task(client.request(message(1), timeout=60)) for _ in range(100)]
    async with asyncio.timeout(20):
        while not node.answer_budget.blocked:  # noqa: ASYNC110 -- a state tells no event
            await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert ran < 100
    assert node.link._connection.unsent_bytes < 20 * 1024 * 1024  # type: ignore[attr-defined]  # NATS' own
    proxy.heal()
    assert [len(reply) for reply in await asyncio.gather(*requests)] == [700_000] * 100
    assert (ran, node.counters.dropped_replies) == (100, 0)


async def test_a_reply_that_is_ready_while_the_node_reconnects_is_sent_when_it_is_back(
    server: Server, proxy: FaultProxy, connect: Connect
) -> None:
    """The client's own connection is not touched, and it waits (T13)."""
    node, client = await connect(proxy.port), await connect(server.port)
    assert isinstance(node, Engine)
    started, go_on = asyncio.Event(), asyncio.Event()

    async def wait(_: Envelope) -> bytes:
        started.set()
        await go_on.wait()
        return b"kept"

    await node.subscribe([1], wait)
    request = asyncio.create_task(client.request(message(1), timeout=60))
    await started.wait()
    await proxy.reset()
    async with asyncio.timeout(20):
        while node.state.is_up:  # noqa: ASYNC110 -- a state tells no event
            await asyncio.sleep(0)
    go_on.set()
    async with asyncio.timeout(20):
        assert await request == b"kept"
    assert node.counters.dropped_replies == 0


@pytest.mark.parametrize("is_noticed", [True, False])
async def test_answers_of_the_tick_in_which_the_connection_is_lost_are_counted(
    server: Server, connect: Connect, is_noticed: bool
) -> None:
    """The loss is noticed before they are written, or by writing them."""
    node = await connect(server.port)
    assert isinstance(node, Engine)
    connection = node.link._connection  # type: ignore[attr-defined]  # NATS' own
    for _ in range(3):
        assert node.link.reply(b"_INBOX.somebody.1_1", b"answer")
    if is_noticed:
        connection._lose(ConnectionResetError("cut"))
    else:
        connection._socket = None  # whatever it raises
    await asyncio.sleep(0)
    assert node.counters.dropped_replies == 3


async def test_one_byte_at_a_time_is_enough(proxy: FaultProxy, connect: Connect) -> None:
    proxy.to_client.piece_bytes = 1
    node, client = await connect(proxy.port), await connect(proxy.port)
    await node.subscribe([1], echo)
    assert await client.request(message(1, b"x" * 200)) == b"x" * 200


async def test_closing_in_an_outage_takes_no_longer_than_it_may(proxy: FaultProxy) -> None:
    async with no_leaks():
        transport = await clstr.connect(f"nats://127.0.0.1:{proxy.port}", drain_timeout=0.1)
        proxy.refuse()
        await proxy.reset()
        async with asyncio.timeout(5):
            await transport.aclose()
    proxy.accept()


async def test_opening_and_closing_leaves_nothing(server: Server) -> None:
    async with no_leaks():
        for _ in range(20):
            async with clstr.connect(f"nats://127.0.0.1:{server.port}") as transport:
                await transport.subscribe([1], echo)


# Load (N4, N5, N6).


async def test_a_slow_handler_holds_up_nobody_of_its_shard(server: Server, connect: Connect) -> None:
    go_on = asyncio.Event()

    async def handler(envelope: Envelope) -> bytes:
        if envelope.data == b"slow":
            await go_on.wait()
        return envelope.data

    node, client = await connect(server.port), await connect(server.port)
    await node.subscribe([1], handler)
    slow = asyncio.ensure_future(client.request(message(1, b"slow"), timeout=60))
    assert await client.request(message(1, b"quick")) == b"quick"
    go_on.set()
    assert await slow == b"slow"


async def test_a_handler_that_cancels_itself_ends_nothing_else(server: Server, connect: Connect) -> None:
    async def handler(envelope: Envelope) -> bytes:
        if envelope.data == b"cancel":
            raise asyncio.CancelledError
        return envelope.data

    node, client = await connect(server.port), await connect(server.port)
    await node.subscribe([1], handler)
    with pytest.raises(clstr.HandlerError):
        await client.request(message(1, b"cancel"))
    assert await client.request(message(1, b"x")) == b"x"


async def test_tenfold_overload_is_answered(server: Server, connect: Connect) -> None:
    node = await connect(server.port, max_concurrent=10, max_queue=100)
    client = await connect(server.port)

    async def handler(envelope: Envelope) -> bytes:
        await asyncio.sleep(0)
        return envelope.data

    await node.subscribe([1], handler)
    answers = await asyncio.gather(
        *(client.request(message(1, b"%d" % n), timeout=30) for n in range(1100)), return_exceptions=True
    )
    assert {type(answer) for answer in answers} <= {bytes, OverloadedError}
    assert sum(isinstance(answer, bytes) for answer in answers) >= 110


# Sizes (N10).


async def test_an_error_fits_whatever_the_server_carries(connect: Connect) -> None:
    async def fail(_: Envelope) -> bytes:
        raise ValueError("\x01" * 1000)

    async with nats_server(config="max_payload: 2048") as server:
        node, client = await connect(server.port), await connect(server.port)
        await node.subscribe([1], fail)
        for _ in range(2):  # the node is not cut off
            with pytest.raises(clstr.HandlerError, match="ValueError"):
                await client.request(message(1), timeout=30)


async def test_the_payload_limit_is_that_of_the_server_that_came_back(connect: Connect) -> None:
    async with nats_server(config="max_payload: 100000") as server:
        node, client = await connect(server.port), await connect(server.port)
        await node.subscribe([1], echo)
        for maximum in (20_000, 200_000):
            (server.log.parent / "config").write_text(f"max_payload: {maximum}", encoding="utf-8")
            await server.restart()
            assert await eventually(lambda: client.request(message(1, b"x"))) == b"x"
            largest = client.max_payload_bytes
            assert maximum // 2 < largest < maximum
            assert len(await client.request(message(1, bytes(largest)), timeout=30)) == largest
            with pytest.raises(PayloadTooLargeError, match=f"{largest}"):
                await client.request(message(1, bytes(largest + 1)))


@pytest.mark.parametrize("headers", [0, 50])
async def test_the_largest_reply_passes_and_one_byte_more_does_not(connect: Connect, headers: int) -> None:
    async def of_size(envelope: Envelope) -> bytes:
        return bytes(int(envelope.data))

    async with nats_server(config="max_payload: 100000") as server:
        node, client = await connect(server.port), await connect(server.port)
        await node.subscribe([1], of_size)
        given = {f"h{n}": "v" * 100 for n in range(headers)}
        largest = node.max_payload_bytes
        for size in (largest - 1, largest):
            assert len(await client.request(message(1, b"%d" % size, headers=given), timeout=30)) == size
        with pytest.raises(PayloadTooLargeError) as caught:
            await client.request(message(1, b"%d" % (largest + 1), headers=given))
        assert caught.value.maybe_executed
        assert len(await client.request(message(1, b"7"))) == 7


@pytest.mark.parametrize("codec", ["json", "msgpack"])
@pytest.mark.parametrize("headers", [0, 1, 50])
async def test_the_largest_payload_passes_and_one_byte_more_does_not(
    server: Server, connect: Connect, codec: str, headers: int
) -> None:
    node, client = (
        await connect(server.port, query=f"?codec={codec}"),
        await connect(server.port, query=f"?codec={codec}"),
    )
    await node.subscribe([1], echo)
    given = {f"h{n}": "v" * 100 for n in range(headers)}
    largest = client.max_payload_bytes
    for size in (largest - 1, largest):
        assert len(await client.request(message(1, bytes(size), headers=given), timeout=30)) == size
    with pytest.raises(PayloadTooLargeError) as caught:
        await client.request(message(1, bytes(largest + 1), headers=given))
    assert not caught.value.maybe_executed
    assert await client.request(message(1, b"still there")) == b"still there"


async def test_a_reply_that_is_too_large_is_an_error_and_no_disconnect(server: Server, connect: Connect) -> None:
    async def handler(envelope: Envelope) -> bytes:
        return bytes(1 << 21) if envelope.data == b"large" else b"small"

    node, client = await connect(server.port), await connect(server.port)
    await node.subscribe([1], handler)
    with pytest.raises(PayloadTooLargeError) as caught:
        await client.request(message(1, b"large"))
    assert caught.value.maybe_executed
    assert await client.request(message(1)) == b"small"


# Strangers.


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b'{"shard":"1"}',
        b'{"shard":2,"type":"T","data":null}',
        b"\xff" * 100,
        b"[" * 10_000,
        b'{"shard":1,"type":"T","data":' + b"[" * 100_000,
        b'{"shard":1,"type":"T","data":"' + b"A" * 1_000_000 + b'"}',
        b'{"shard":1,"type":"T","data":null,"headers":{' + b",".join(b'"h%d":""' % n for n in range(60_000)) + b"}}",
        b'{"shard":1,"type":"T","data":null,"reply_to":"clstr.shard.1"}',
        b'{"shard":1,"type":"T","data":null,"headers":{"x-clstr-admin":"1"}}',
    ],
)
async def test_an_envelope_from_a_stranger_harms_nobody(server: Server, connect: Connect, body: bytes) -> None:
    node, client = await connect(server.port), await connect(server.port)
    await node.subscribe([1], echo)
    stranger = await nats.connect(server.url)
    await stranger.publish("clstr.shard.1", body)
    await stranger.publish("clstr.shard.1", body, reply="clstr.shard.1")
    await stranger.flush()
    await stranger.close()
    assert await client.request(message(1, b"x")) == b"x"


async def test_an_answer_to_nobody_is_dropped(server: Server, connect: Connect) -> None:
    node, client = await connect(server.port), await connect(server.port)
    await node.subscribe([1], echo)
    inbox = client.link._subjects.inbox  # type: ignore[attr-defined]  # a stranger could not know it
    stranger = await nats.connect(server.url)
    for address in ("nonsense", "7_1", "_"):
        await stranger.publish(inbox.replace("*", address), b"{}")
    await stranger.flush()
    await stranger.close()
    assert await client.request(message(1, b"x")) == b"x"


# Opening.


async def test_an_unreachable_server_is_named(unused_tcp_port: int) -> None:
    with pytest.raises(TransportUnavailableError, match=f"127.0.0.1:{unused_tcp_port} cannot be used"):
        await clstr.connect(f"nats://127.0.0.1:{unused_tcp_port}")


async def test_a_server_that_never_answers_costs_connect_timeout(proxy: FaultProxy) -> None:
    proxy.to_client.stall()
    async with asyncio.timeout(5):
        with pytest.raises(TransportUnavailableError, match=r"in time|within"):
            await clstr.connect(f"nats://127.0.0.1:{proxy.port}", connect_timeout=0.1)


async def test_one_server_of_several_is_enough(server: Server, unused_tcp_port: int) -> None:
    for _ in range(5):
        async with clstr.connect(f"nats://127.0.0.1:{unused_tcp_port},127.0.0.1:{server.port}") as transport:
            with pytest.raises(NoShardSubscriberError):
                await transport.request(message())


async def test_a_mute_server_hides_no_other(server: Server, proxy: FaultProxy) -> None:
    proxy.to_client.stall()
    for _ in range(6):  # whichever comes first
        async with clstr.connect(f"nats://127.0.0.1:{proxy.port},127.0.0.1:{server.port}", connect_timeout=1) as client:
            with pytest.raises(NoShardSubscriberError):
                await client.request(message())


async def test_a_server_that_is_slow_to_greet_is_not_given_up_for_the_next(
    proxy: FaultProxy,
) -> None:
    """With five servers each once had a fifth of the time, too little for TLS over half a second of round trip."""
    proxy.to_client.stall()
    connecting = asyncio.create_task(
        clstr.connect(f"nats://{','.join([f'127.0.0.1:{proxy.port}'] * 5)}", connect_timeout=20).__aenter__()
    )
    async with asyncio.timeout(20):
        await proxy.until(lambda: proxy.connections == 5)
    proxy.heal()
    client = await connecting
    with pytest.raises(NoShardSubscriberError):
        await client.request(message())
    await proxy.until(lambda: proxy.connections == 1)  # nothing is left of the others
    await client.aclose()


async def test_plaintext_to_elsewhere_is_warned_of_once(caplog: pytest.LogCaptureFixture) -> None:
    dialer = Dialer(Options(servers=()), "peer", 1.0, logging.getLogger("clstr"))
    for host in ("127.0.0.1", "localhost", "::1", "10.0.0.7", "nats.example"):
        dialer._warn_of_plaintext(host)
    assert [record.args for record in caplog.records] == [("10.0.0.7",)]
