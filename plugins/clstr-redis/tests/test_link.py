"""`clstr_redis._link`: who gets a message, who learns what of it, and what is left in the server."""

from __future__ import annotations

import asyncio
import random
import shutil
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any, cast

import pytest
import redis.exceptions
from redis.asyncio import Redis

import clstr
from clstr import Envelope
from clstr.errors import (
    AccessDeniedError,
    ClstrError,
    ConnectionLostError,
    DrainingError,
    NoShardSubscriberError,
    OverloadedError,
    PayloadTooLargeError,
    RequestTimeoutError,
    TransportUnavailableError,
)
from clstr_redis import _frames as frames
from clstr_redis._connection import Connection
from clstr_testing import FaultProxy, Server

Connect = Callable[..., Awaitable[clstr.Transport]]


async def echo(envelope: Envelope) -> bytes:
    return envelope.data


def message(shard: int = 1, data: bytes = b"", **fields: Any) -> Envelope:
    return Envelope(shard=shard, type="Echo", data=data, **fields)


async def until(predicate: Callable[[], bool]) -> None:
    """Wait for what no event tells."""
    async with asyncio.timeout(10):
        while not predicate():  # noqa: ASYNC110 -- a counter
            await asyncio.sleep(0)


def stats(transport: clstr.Transport) -> Any:
    return transport.counters  # type: ignore[attr-defined]  # the engine's


def connection_of(transport: clstr.Transport) -> Any:
    return transport.link._session.connection  # type: ignore[attr-defined]  # the link's own


# Holding shards and letting go.


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
    await ask(-1)  # from here on the client knows the owner, and asks no script
    asked = [asyncio.ensure_future(ask(n)) for n in range(500)]
    await asyncio.sleep(0)
    await subscription.aclose()
    answers = await asyncio.gather(*asked)
    assert sorted(answer for answer in [b"-1", *answers] if answer is not None) == sorted(ran)
    with pytest.raises(NoShardSubscriberError):
        await client.request(message(1))


async def test_shards_change_hands_under_load_without_an_error(server: Server, connect: Connect) -> None:
    nodes = [await connect(server.port) for _ in range(2)]
    client = await connect(server.port)
    ran: Counter[bytes] = Counter()
    is_over = False

    async def count(envelope: Envelope) -> bytes:
        ran[envelope.data] += 1
        return envelope.data

    async def call(caller: int) -> int:
        n = 0
        while not is_over:
            data = b"%d.%d" % (caller, n)
            assert await client.request(message(caller % 4, data), timeout=30) == data
            n += 1
        return n

    subscription = await nodes[0].subscribe(range(4), count)
    calls = [asyncio.ensure_future(call(n)) for n in range(32)]
    for n in range(1, 21):
        taken_over = await nodes[n % 2].subscribe(range(4), count)
        await subscription.aclose()
        subscription = taken_over
    is_over = True
    sent = sum(await asyncio.gather(*calls))
    assert sent == ran.total() == len(ran)


async def test_4096_shards_cost_a_few_calls(server: Server, connect: Connect, admin: Redis) -> None:
    node = await connect(server.port, query="?heartbeat=60")
    subscription = await node.subscribe(range(4096), echo)
    assert len(await admin.keys("clstr:shard:*")) == 4096
    calls: Any = await admin.info("commandstats")
    assert calls["cmdstat_evalsha"]["calls"] == 9 + 1  # one at connect, to see whether it may
    await subscription.aclose()
    assert await admin.keys("*") == []


async def test_a_lease_that_is_refused_is_not_held(server: Server, connect: Connect, admin: Redis) -> None:
    await admin.set("clstr:shard:1", "somebody else's")
    node = await connect(server.port)
    with pytest.raises(TransportUnavailableError, match="clstr:shard:1: somebody else has written"):
        await node.subscribe([0, 1], echo)
    with pytest.raises(NoShardSubscriberError):
        await node.request(message(0))


async def test_owners_with_leases_of_different_lengths_do_not_shorten_each_other_s(
    server: Server, connect: Connect, admin: Redis
) -> None:
    long, short = await connect(server.port, query="?heartbeat=60"), await connect(server.port, query="?heartbeat=0.1")
    await long.subscribe([1], echo)
    await short.subscribe([1], echo)
    assert await admin.pttl("clstr:shard:1") > 200_000


async def test_several_owners_share_the_messages(server: Server, connect: Connect) -> None:
    nodes, clients = [await connect(server.port) for _ in range(2)], [await connect(server.port) for _ in range(8)]
    got: Counter[int] = Counter()
    for index, node in enumerate(nodes):

        async def count(envelope: Envelope, index: int = index) -> bytes:
            got[index] += 1
            return b""

        await node.subscribe(range(8), count)
    for client in clients:
        for shard in range(8):
            await client.request(message(shard))
    assert got.total() == 64
    assert min(got.values()) > 0


# What the server keeps.


async def test_nothing_is_left_in_the_server_after_closing(server: Server, connect: Connect, admin: Redis) -> None:
    node, client = await connect(server.port), await connect(server.port)
    await node.subscribe(range(64), echo)
    assert await client.request(message(7, b"x")) == b"x"
    keys = await admin.keys("*")
    assert len(keys) == 64
    for key in keys:
        assert 0 < await admin.pttl(key) <= 5000
    await node.aclose()
    await client.aclose()
    assert await admin.keys("*") == []
    await _until_gone(admin)


async def _until_gone(admin: Redis) -> None:
    """The server notices a closed socket a little later."""
    async with asyncio.timeout(10):
        while await admin.pubsub_channels("*"):  # noqa: ASYNC110 -- the server tells nobody
            await asyncio.sleep(0)


async def test_what_a_dead_peer_leaves_ends_with_its_leases(server: Server, connect: Connect, admin: Redis) -> None:
    async with FaultProxy(server.host, server.port) as proxy:
        node = await connect(proxy.port, query="?heartbeat=0.1")
        await node.subscribe(range(64), echo)
        proxy.refuse()
        await proxy.reset()
        async with asyncio.timeout(10):
            while await admin.keys("*"):  # noqa: ASYNC110 -- the server tells nobody
                await asyncio.sleep(0)
        await node.aclose()


async def test_prefixes_keep_clusters_apart(server: Server, connect: Connect, admin: Redis) -> None:
    one = await connect(server.port, query="?prefix=one")
    two = await connect(server.port, query="?prefix=one:in")
    await one.subscribe([1], echo)
    with pytest.raises(NoShardSubscriberError):
        await two.request(message(1))
    await two.subscribe([1], echo)
    assert await two.request(message(1, b"x")) == b"x"
    assert sorted(await admin.keys("*")) == [b"one:in:shard:1", b"one:shard:1"]


async def test_databases_do_not_keep_clusters_apart_from_their_channels(
    server: Server, connect: Connect, admin: Redis
) -> None:
    """Keys are a database's, so leases are."""
    node, same, other = [await connect(server.port, query=query) for query in ("/3", "?db=3", "")]
    await node.subscribe([1], echo)
    assert await same.request(message(1, b"x")) == b"x"
    with pytest.raises(NoShardSubscriberError):
        await other.request(message(1))


# Nobody there.


async def test_a_notify_for_nobody_is_refused_although_it_wants_no_answer(server: Server, connect: Connect) -> None:
    client = await connect(server.port)
    async with asyncio.timeout(5):
        with pytest.raises(NoShardSubscriberError):
            await client.notify(message(), timeout=60)


async def test_an_owner_that_is_remembered_and_dead_costs_a_second_question_and_no_error(
    server: Server, connect: Connect
) -> None:
    async with FaultProxy(server.host, server.port) as proxy:
        dead = await connect(proxy.port, query="?heartbeat=60")
        await dead.subscribe([1], echo)
        client, heir = await connect(server.port), await connect(server.port)
        assert await client.request(message(1, b"x")) == b"x"
        await heir.subscribe([1], echo)
        proxy.refuse()
        await proxy.reset()
        await _until_deaf(server, 3)
        assert await client.request(message(1, b"y")) == b"y"
        await heir.aclose()
        with pytest.raises(NoShardSubscriberError):  # although the dead one's lease has minutes left
            await client.request(message(1))


async def _until_deaf(server: Server, peers: int) -> None:
    async with Redis(host=server.host, port=server.port) as admin, asyncio.timeout(10):
        while len(await admin.pubsub_channels("*")) >= peers:  # noqa: ASYNC110 -- the server tells nobody
            await asyncio.sleep(0)


async def test_an_owner_that_is_frozen_counts_until_its_lease_ends_and_no_longer(
    server: Server, connect: Connect
) -> None:
    """Although the server still hands it messages, and although the client remembers it."""
    async with FaultProxy(server.host, server.port) as proxy:
        node, client = await connect(proxy.port, query="?heartbeat=0.2"), await connect(server.port)
        await node.subscribe([1], echo)
        assert await client.request(message(1, b"x")) == b"x"
        proxy.black_hole()
        first = await outcome(client, lambda got: not isinstance(got, RequestTimeoutError))
        assert isinstance(first, NoShardSubscriberError)
        proxy.heal()


async def test_a_node_that_drains_is_forgotten(server: Server, connect: Connect) -> None:
    go_on = asyncio.Event()

    async def wait(envelope: Envelope) -> bytes:
        await go_on.wait()
        return b"old"

    old, new, client = [await connect(server.port) for _ in range(3)]
    await old.subscribe([1], wait)
    held = asyncio.ensure_future(client.request(message(1), timeout=60))
    await until(lambda: len(old.dispatcher.running()) == 1)  # type: ignore[attr-defined]  # the engine's
    await new.subscribe([1], echo)
    closing = asyncio.ensure_future(old.aclose())
    await asyncio.sleep(0)
    while True:
        try:
            assert await client.request(message(1, b"new"), timeout=60) == b"new"
        except DrainingError:
            continue
        break
    go_on.set()
    assert await held == b"old"
    await closing


async def test_an_answer_to_somebody_who_is_gone_is_counted(server: Server, connect: Connect) -> None:
    go_on = asyncio.Event()

    async def wait(envelope: Envelope) -> bytes:
        await go_on.wait()
        return b"late"

    async with FaultProxy(server.host, server.port) as proxy:
        node, client = await connect(server.port), await connect(proxy.port)
        await node.subscribe([1], wait)
        request = asyncio.ensure_future(client.request(message(1), timeout=60))
        await until(lambda: len(node.dispatcher.running()) == 1)  # type: ignore[attr-defined]  # the engine's
        await proxy.reset()
        with pytest.raises(ConnectionLostError) as caught:
            await request
        assert caught.value.maybe_executed
        with pytest.raises(NoShardSubscriberError):  # it is connected again, under another name
            await client.request(message(2))
        go_on.set()
        await until(lambda: stats(node).dropped_replies == 1)


async def test_a_reply_that_is_ready_while_the_node_reconnects_is_sent_when_it_is_back(
    server: Server, connect: Connect
) -> None:
    """The client's own connection is not touched, and it waits (T13)."""
    started, go_on = asyncio.Event(), asyncio.Event()

    async def wait(_: Envelope) -> bytes:
        started.set()
        await go_on.wait()
        return b"kept"

    async with FaultProxy(server.host, server.port) as proxy:
        node, client = await connect(proxy.port), await connect(server.port)
        await node.subscribe([1], wait)
        request = asyncio.ensure_future(client.request(message(1), timeout=60))
        await started.wait()
        await proxy.reset()
        await until(lambda: not node.state.is_up)  # type: ignore[attr-defined]  # the engine's
        go_on.set()
        async with asyncio.timeout(20):
            assert await request == b"kept"
        assert stats(node).dropped_replies == 0


async def test_what_one_tick_had_to_say_when_the_link_broke_is_counted_and_failed(
    server: Server, connect: Connect
) -> None:
    peer = await connect(server.port)
    request = asyncio.ensure_future(peer.request(message(), timeout=60))
    await asyncio.sleep(0)
    assert peer.link.reply((connection_of(peer).inbox, 1), b"answer")  # type: ignore[attr-defined]  # the engine's
    connection_of(peer).lose(ConnectionError("in the same tick"))
    with pytest.raises(ConnectionLostError, match="in the same tick"):
        await request
    assert stats(peer).dropped_replies == 1


async def test_two_receivers_are_an_alarm(
    server: Server, connect: Connect, admin: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    node, client = await connect(server.port), await connect(server.port)
    await node.subscribe([1], echo)
    async with admin.pubsub() as spy:
        await spy.psubscribe("clstr:in:*")
        await spy.get_message(timeout=5)
        for send in (client.request, client.notify):
            with pytest.raises(ConnectionLostError, match="2 receivers") as caught:
                await send(message(1))
            assert caught.value.maybe_executed
    assert "who may subscribe" in caplog.text


# What the server refuses.


async def test_scripts_that_somebody_flushed_are_loaded_again(server: Server, connect: Connect, admin: Redis) -> None:
    node, client = await connect(server.port), await connect(server.port)
    before = connection_of(node), connection_of(client)
    for shard in range(3):
        await admin.script_flush()
        subscription = await node.subscribe([shard], echo)
        await admin.script_flush()
        answers = await asyncio.gather(*(client.request(message(shard, b"%d" % n)) for n in range(100)))
        assert answers == [b"%d" % n for n in range(100)]
        await admin.script_flush()
        await subscription.aclose()
        assert await admin.keys("*") == []
    assert before == (connection_of(node), connection_of(client))


async def test_an_emptied_server_knows_everybody_again_after_a_heartbeat(
    server: Server, connect: Connect, admin: Redis
) -> None:
    node, client = await connect(server.port, query="?heartbeat=0.1"), await connect(server.port)
    await node.subscribe([1], echo)
    await admin.flushall()
    assert await outcome(client, lambda got: not isinstance(got, NoShardSubscriberError)) == b"x"


async def test_a_server_without_memory_still_keeps_leases(server: Server, connect: Connect, admin: Redis) -> None:
    node, client = await connect(server.port, query="?heartbeat=0.1"), await connect(server.port)
    await node.subscribe([1], echo)
    await admin.config_set("maxmemory", "1")
    with pytest.raises(redis.exceptions.OutOfMemoryError):
        await admin.set("key", "value")
    await node.subscribe([2], echo)
    (lease,) = await leases_of(admin, 1)
    async with asyncio.timeout(10):
        while await leases_of(admin, 1) == [lease]:  # noqa: ASYNC110 -- the server tells nobody
            await asyncio.sleep(0)
    for shard in (1, 2):
        assert await client.request(message(shard, b"x")) == b"x"


async def test_a_key_of_another_type_costs_its_own_shard_alone(
    server: Server, connect: Connect, admin: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    node, client = await connect(server.port, query="?heartbeat=0.05"), await connect(server.port)
    await node.subscribe(range(8), echo)
    await admin.delete("clstr:shard:2")
    await admin.set("clstr:shard:2", "a stranger's")
    (lease,) = await leases_of(admin, 7)
    async with asyncio.timeout(10):
        while await leases_of(admin, 7) == [lease]:  # noqa: ASYNC110 -- the server tells nobody
            await asyncio.sleep(0.01)
    for shard in (0, 1, 3, 7):
        assert await client.request(message(shard, b"x")) == b"x"
    with pytest.raises(TransportUnavailableError, match="clstr:shard:2: somebody else has written") as caught:
        await client.request(message(2))
    assert not caught.value.maybe_executed
    with pytest.raises(TransportUnavailableError, match="clstr:shard:2: somebody else has written"):
        await client.subscribe([2], echo)
    told = [each.getMessage() for each in caplog.records if "leases cannot be renewed" in each.message]
    assert len(told) == 1
    assert "clstr:shard:2" in told[0]
    await admin.delete("clstr:shard:2")
    async with asyncio.timeout(10):
        while not await leases_of(admin, 2):  # noqa: ASYNC110 -- the server tells nobody
            await asyncio.sleep(0.01)
    assert await client.request(message(2, b"x")) == b"x"


async def test_letting_go_of_shards_passes_over_a_key_of_another_type(
    server: Server, connect: Connect, admin: Redis
) -> None:
    node = await connect(server.port, query="?heartbeat=60")
    subscription = await node.subscribe(range(4), echo)
    await admin.delete("clstr:shard:1")
    await admin.set("clstr:shard:1", "a stranger's")
    await subscription.aclose()
    assert await admin.keys("clstr:shard:*") == [b"clstr:shard:1"]


async def leases_of(admin: Redis, shard: int) -> list[object]:
    """Return the owners of a shard with the ends of their leases."""
    return [*await admin.zrange(f"clstr:shard:{shard}", 0, -1, withscores=True)]


async def _without_replicas(admin: Redis) -> None:
    await admin.config_set("min-replicas-to-write", "1")


async def _without_a_disk(admin: Redis) -> None:
    await admin.config_set("save", "3600 1")
    await admin.set("key", "value")
    shutil.rmtree(str((await admin.config_get("dir"))["dir"]))
    await admin.bgsave()
    async with asyncio.timeout(10):
        while (await admin.info("persistence"))["rdb_last_bgsave_status"] == "ok":  # noqa: ASYNC110 -- as above
            await asyncio.sleep(0)


@pytest.mark.parametrize(("refuse", "reason"), [(_without_replicas, "NOREPLICAS"), (_without_a_disk, "MISCONF")])
async def test_a_server_that_takes_no_writes_ends_leases_and_no_connection(
    server: Server,
    connect: Connect,
    admin: Redis,
    refuse: Callable[[Redis], Awaitable[None]],
    reason: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    node, client = await connect(server.port, query="?heartbeat=0.1"), await connect(server.port)
    await node.subscribe([1], echo)
    before = connection_of(node)
    await refuse(admin)
    with pytest.raises(TransportUnavailableError, match=reason) as caught:
        await node.subscribe([2], echo)
    assert not caught.value.maybe_executed
    assert isinstance(await outcome(client, lambda error: not isinstance(error, bytes)), NoShardSubscriberError)
    await admin.config_set("min-replicas-to-write", "0")
    await admin.config_set("save", "")
    assert await outcome(client, lambda error: isinstance(error, bytes)) == b"x"
    assert connection_of(node) is before
    assert sum("leases cannot be renewed" in each.message for each in caplog.records) == 1
    await admin.delete("key")


async def outcome(client: clstr.Transport, is_awaited: Callable[[object], bool]) -> bytes | ClstrError:
    """Ask again until the outcome is the awaited one."""
    async with asyncio.timeout(10):
        while True:
            try:
                got: bytes | ClstrError = await client.request(message(1, b"x"), timeout=0.5)
            except ClstrError as error:
                got = error
            if is_awaited(got):
                return got


async def test_a_busy_server_refuses_and_nothing_has_run(server: Server, connect: Connect, admin: Redis) -> None:
    node, client = await connect(server.port, query="?heartbeat=60"), await connect(server.port, query="?heartbeat=60")
    ran: list[bytes] = []

    async def note(envelope: Envelope) -> bytes:
        ran.append(envelope.data)
        return b""

    await node.subscribe([1], note)
    await client.request(message(1, b"first"))  # from here on it goes straight to the owner
    await admin.config_set("lua-time-limit", "10")
    async with Redis(host=server.host, port=server.port, socket_timeout=None) as busy:
        await busy.ping()
        script = asyncio.ensure_future(busy.eval("while true do end", 0))
        await asyncio.sleep(0)  # it is written before what follows, and the server reads what was written first
        for shard in (1, 2):
            with pytest.raises(TransportUnavailableError, match="BUSY") as caught:
                await client.request(message(shard, b"busy"), timeout=60)
            assert not caught.value.maybe_executed
        await admin.script_kill()
        await asyncio.wait((script,))
        assert script.exception() is not None
    await client.request(message(1, b"last"))
    assert ran == [b"first", b"last"]


async def test_a_right_that_is_taken_away_is_named(server: Server, connect: Connect, admin: Redis) -> None:
    node, client = await connect(server.port), await connect(server.port)
    await node.subscribe([1], echo)
    assert await client.request(message(1, b"x")) == b"x"
    await (await connect(server.port)).subscribe([2], echo)
    await admin.acl_setuser("default", enabled=True, commands=["-publish"])
    for shard in (1, 2):
        with pytest.raises(AccessDeniedError, match="publish") as caught:
            await client.request(message(shard))
        assert not caught.value.maybe_executed


async def test_an_answer_that_may_not_be_published_is_counted_and_logged(
    server: Server, connect: Connect, admin: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    await admin.acl_setuser("mute", enabled=True, nopass=True, keys=["*"], channels=["*"], categories=["+@all"])
    node, client = await connect(server.port, user="mute:x"), await connect(server.port)
    go_on = asyncio.Event()

    async def wait(envelope: Envelope) -> bytes:
        await go_on.wait()
        return b""

    await node.subscribe([1], wait)
    request = asyncio.ensure_future(client.request(message(1), timeout=60))
    await until(lambda: len(node.dispatcher.running()) == 1)  # type: ignore[attr-defined]  # the engine's
    await admin.acl_setuser("mute", enabled=True, commands=["-publish"])
    go_on.set()
    await until(lambda: stats(node).dropped_replies == 1)
    assert "refused answers" in caplog.text
    request.cancel()


async def test_a_script_that_was_killed_says_nothing_of_what_it_did(fake_server: Any, connect: Connect) -> None:
    client = await connect(fake_server.port)
    fake_server.answers[b"EVALSHA"] = b"-ERR Error running script: Script killed by user with SCRIPT KILL...\r\n"
    with pytest.raises(ConnectionLostError, match="killed") as caught:
        await client.request(message())
    assert caught.value.maybe_executed


# Load.


async def test_5000_requests_at_once_need_one_socket_for_each_peer(
    server: Server, connect: Connect, admin: Redis
) -> None:
    node, client = await connect(server.port, max_queue=10_000), await connect(server.port)
    await node.subscribe(range(64), echo)
    calls = [client.request(message(n % 64, b"%d" % n), timeout=60) for n in range(5000)]
    gathered = asyncio.gather(*calls)
    clients = await admin.client_list()
    assert await gathered == [b"%d" % n for n in range(5000)]
    assert len(clients) <= 3  # the two, and this one


async def test_10000_requests_cancelled_at_random_never_get_another_s_answer(server: Server, connect: Connect) -> None:
    node, client = await connect(server.port, max_queue=10_000), await connect(server.port)
    chance = random.Random(7)
    await node.subscribe(range(16), echo)
    answered = cancelled = 0

    async def ask(n: int) -> None:
        nonlocal answered
        assert await client.request(message(n % 16, b"%d" % n), timeout=60) == b"%d" % n
        answered += 1

    for first in range(0, 10_000, 500):
        tasks = [asyncio.ensure_future(ask(n)) for n in range(first, first + 500)]
        while not all(task.done() for task in tasks):
            for task in chance.sample(tasks, 60):
                if not task.done():
                    task.cancel()
                    cancelled += 1
            await asyncio.sleep(0)
        for task in tasks:
            assert task.cancelled() or task.exception() is None
    assert answered > 500
    assert cancelled > 500
    assert len(client.pending) == 0  # type: ignore[attr-defined]  # the engine's
    assert await client.request(message(1, b"last")) == b"last"


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


async def test_a_burst_of_large_messages_meets_refusals_and_no_cut(server: Server, connect: Connect) -> None:
    go_on = asyncio.Event()

    async def handler(envelope: Envelope) -> bytes:
        await go_on.wait()
        return b""

    node = await connect(server.port, max_concurrent=1, max_queue_bytes=4 << 20)
    client = await connect(server.port, max_inflight_bytes=64 << 20)
    await node.subscribe([1], handler)
    before = connection_of(node)
    calls = [asyncio.ensure_future(client.request(message(1, bytes(1_000_000)), timeout=60)) for _ in range(64)]
    await until(lambda: sum(call.done() for call in calls) >= 58)
    go_on.set()
    answers = await asyncio.gather(*calls, return_exceptions=True)
    assert {type(answer) for answer in answers} == {bytes, OverloadedError}
    assert connection_of(node) is before


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


async def test_one_tick_s_messages_for_one_peer_travel_as_one(server: Server, connect: Connect, admin: Redis) -> None:
    node, client = await connect(server.port, query="?heartbeat=60"), await connect(server.port, query="?heartbeat=60")
    await node.subscribe(range(64), echo)
    await asyncio.gather(*(client.request(message(shard)) for shard in range(64)))  # learns the owner
    await admin.config_resetstat()
    await asyncio.gather(*(client.request(message(n % 64)) for n in range(900)))
    calls: Any = await admin.info("commandstats")
    assert "cmdstat_evalsha" not in calls
    assert calls["cmdstat_publish"]["calls"] < 100


# Sizes.


@pytest.mark.parametrize("codec", ["json", "msgpack"])
async def test_the_largest_payload_passes_and_one_byte_more_does_not(
    server: Server, connect: Connect, codec: str
) -> None:
    node, client = [await connect(server.port, query=f"?codec={codec}") for _ in range(2)]
    await node.subscribe([1], echo)
    given = {f"h{n}": "v" * 100 for n in range(50)}
    largest = client.max_payload_bytes
    assert largest == 1 << 20
    for size in (largest - 1, largest):
        assert len(await client.request(message(1, bytes(size), headers=given), timeout=30)) == size
    with pytest.raises(PayloadTooLargeError) as caught:
        await client.request(message(1, bytes(largest + 1), headers=given))
    assert not caught.value.maybe_executed
    assert await client.request(message(1, b"still there")) == b"still there"


async def test_no_message_is_so_large_that_the_server_would_cut_off_its_receiver(
    server: Server, connect: Connect
) -> None:
    limits = {"max_payload_bytes": 1 << 30, "max_inflight_bytes": 1 << 30}
    node, client = [await connect(server.port, query="?heartbeat=20", **limits) for _ in range(2)]
    await node.subscribe([1], echo)
    largest = client.max_payload_bytes
    assert 15 << 20 < largest < 16 << 20
    before = connection_of(node), connection_of(client)
    assert len(await client.request(message(1, bytes(largest)), timeout=60)) == largest
    assert before == (connection_of(node), connection_of(client))


async def test_a_server_with_a_smaller_limit_than_ours_breaks_the_link_and_says_why_it_may(
    server: Server, connect: Connect, admin: Redis
) -> None:
    await admin.config_set("proto-max-bulk-len", str(1 << 20))
    client = await connect(server.port, max_payload_bytes=2 << 20)
    with pytest.raises(ConnectionLostError) as caught:
        await client.request(message(1, bytes(2 << 20)), timeout=60)
    assert caught.value.maybe_executed
    assert isinstance(
        await outcome(client, lambda got: not isinstance(got, ConnectionLostError)), NoShardSubscriberError
    )


async def test_a_reply_that_is_too_large_is_an_error_and_no_disconnect(server: Server, connect: Connect) -> None:
    async def handler(envelope: Envelope) -> bytes:
        return bytes(1 << 21) if envelope.data == b"large" else b"small"

    node, client = await connect(server.port), await connect(server.port)
    await node.subscribe([1], handler)
    with pytest.raises(PayloadTooLargeError) as caught:
        await client.request(message(1, b"large"))
    assert caught.value.maybe_executed
    assert await client.request(message(1)) == b"small"


# Strangers, and clocks.

STRANGER = b"clstr:in:stranger:" + b"0" * 32


@pytest.mark.parametrize(
    "garbage",
    [
        b"",
        b"hello",
        frames.join(b"clstr:shard:1", [frames.request(1, 1, b"{}")]),
        frames.join(b"other:in:peer:" + b"0" * 32, [frames.request(1, 1, b"{}")]),
        frames.join(STRANGER, [b"short"]),
        frames.join(STRANGER, [frames.request(1, 1, b"")]),
        frames.join(STRANGER, [frames.request(1, 1, b"[" * 10_000)]),
        frames.join(STRANGER, [frames.request(2**32 - 1, 1, b"{}")]),
        frames.join(STRANGER, [frames.answer(1, b"{}")]),
        frames.join(STRANGER, [frames.answer(2**64 - 1, b"\xff")] * 4000),
        frames.join(STRANGER, [b"\x07" + frames.answer(1, b"x")[1:]]),
    ],
)
async def test_a_message_from_a_stranger_harms_nobody(
    server: Server, connect: Connect, admin: Redis, garbage: bytes
) -> None:
    node, client = await connect(server.port), await connect(server.port)
    await node.subscribe([1], echo)
    for inbox in await admin.pubsub_channels("*"):
        assert await admin.publish(inbox, garbage) == 1
    assert await client.request(message(1, b"x")) == b"x"
    for transport in (node, client):
        counted = stats(transport)
        assert counted.garbage + counted.late_replies + counted.refused.total() > 0


async def test_the_clock_of_a_peer_may_jump(server: Server, connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    node, client = await connect(server.port, query="?heartbeat=0.1"), await connect(server.port)
    await node.subscribe([1], echo)
    now, now_ns = time.time, time.time_ns
    for days in (1, -1):
        seconds = days * 86_400
        monkeypatch.setattr(time, "time", lambda seconds=seconds: now() + seconds)
        monkeypatch.setattr(time, "time_ns", lambda seconds=seconds: now_ns() + seconds * 1_000_000_000)
        await client.subscribe([2], echo)
        assert await client.request(message(1, b"x", ttl_ms=5000)) == b"x"
        assert await node.request(message(2, b"x", ttl_ms=5000)) == b"x"
        await (await connect(server.port)).request(message(1))


async def test_errors_are_those_of_clstr(server: Server, connect: Connect) -> None:
    client = await connect(server.port)
    with pytest.raises(ClstrError):
        await client.request(message())


async def test_who_remembers_an_owner_that_has_left_is_told_at_once(
    server: Server, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It publishes straight to the inbox; nothing may reach that between the last that is read and the end."""
    node, client = await connect(server.port), await connect(server.port)
    await node.subscribe([1], echo)
    await client.request(message(1))
    end = Connection.end
    outcomes: list[object] = []

    async def read_no_more(self: Connection) -> None:
        if not outcomes:
            cast("asyncio.ReadTransport", self._socket).pause_reading()
            outcomes.extend(await asyncio.gather(client.request(message(1), timeout=1), return_exceptions=True))
        await end(self)

    monkeypatch.setattr(Connection, "end", read_no_more)
    await node.aclose()
    assert [type(outcome) for outcome in outcomes] == [NoShardSubscriberError]
