"""Peers of one process, each with sockets of its own."""

from __future__ import annotations

import asyncio
import itertools
import logging
import socket
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import zmq

import clstr
from clstr.spi import Engine, pack, unpack
from clstr_testing import FaultProxy, no_leaks
from clstr_zmq import _outbox
from clstr_zmq._guests import MISSED_HEARTBEATS
from clstr_zmq._link import ZmqLink
from clstr_zmq._protocol import (
    Ack,
    Control,
    Hello,
    Holds,
    Introduced,
    Peers,
    Ping,
    Place,
    Pong,
    Refused,
    TooLarge,
    Welcome,
    decode,
    encode,
    encode_answer,
    encode_request,
)

Connect = Callable[..., Awaitable[clstr.Transport]]
NewPort = Callable[[], int]
FAR = 60.0


def envelope(shard: int = 0, data: bytes = b"") -> clstr.Envelope:
    return clstr.Envelope(shard=shard, type="t", data=data)


async def echo(message: clstr.Envelope) -> bytes:
    return message.data


def link_of(transport: clstr.Transport) -> ZmqLink:
    assert isinstance(transport, Engine)
    assert isinstance(transport.link, ZmqLink)
    return transport.link


def address_of(transport: clstr.Transport) -> str:
    inbox = link_of(transport).me.inbox
    assert inbox is not None
    return inbox.address.removeprefix("tcp://")


async def until(predicate: Callable[[], object]) -> None:
    """Wait for what happens in ZeroMQ's threads; they tell no event."""
    async with asyncio.timeout(10):
        while not predicate():  # noqa: ASYNC110 -- as above
            await asyncio.sleep(0.005)


async def answered(client: clstr.Transport, shard: int = 0) -> None:
    """Send until there is an answer: peers find each other again in their own time."""
    async with asyncio.timeout(10):
        while True:
            try:
                assert await client.request(envelope(shard, b"x"), timeout=FAR) == b"x"
                return
            except (clstr.NoShardSubscriberError, clstr.ConnectionLostError, clstr.TransportUnavailableError):
                await asyncio.sleep(0.01)


class RawPeer:
    """A peer that says only what a test says: a DEALER on the loop's own thread, read by polling."""

    def __init__(self, address: str) -> None:
        self.context = zmq.Context()
        self.socket = self.context.socket(zmq.DEALER)
        self.socket.linger = 0
        self.socket.connect(f"tcp://{address}")

    def say(self, *messages: Hello | Refused | Control | bytes) -> None:
        self.socket.send(pack(each if isinstance(each, bytes) else encode(each) for each in messages))

    def hello(self, peer_id: str = "raw", epoch: int = 1, *, cluster: str = "clstr", inbox: str = "") -> None:
        place = Place(address=inbox) if inbox else None
        self.say(Hello(cluster=cluster, peer_id=peer_id, epoch=epoch, inbox=place, max_bytes=2**22))

    async def heard(self, kind: type[Any] | tuple[type[Any], ...]) -> Any:
        """Return the next thing of this kind that it is told."""
        async with asyncio.timeout(10):
            while True:
                while not self.socket.poll(0):  # noqa: ASYNC110 -- it must not take part in the loop
                    await asyncio.sleep(0.005)
                for frame in unpack(self.socket.recv()):
                    message = decode(frame)
                    if isinstance(message, kind):
                        return message

    def close(self) -> None:
        if not self.socket.closed:
            self.socket.close(0)
        self.context.term()


@pytest.fixture
def raw_peer() -> Any:
    peers: list[RawPeer] = []

    def make(address: str) -> RawPeer:
        peers.append(RawPeer(address))
        return peers[-1]

    yield make
    for each in peers:
        each.close()


# Who finds whom.


async def test_three_peers_that_know_one_seed_find_each_other(connect: Connect) -> None:
    seed = await connect("zmq://?bind=tcp://127.0.0.1:*")
    url = f"zmq://{address_of(seed)}?bind=tcp://127.0.0.1:*"
    peers = [await connect(url) for _ in range(3)]
    for shard, peer in enumerate(peers):
        await peer.subscribe([shard], echo)
    for peer in peers:
        for shard in range(3):
            assert await peer.request(envelope(shard, b"x"), timeout=FAR) == b"x"
    await seed.aclose()
    for peer in peers:
        for shard in range(3):
            assert await peer.request(envelope(shard, b"x"), timeout=FAR) == b"x"


async def test_a_client_without_an_inbox_learns_of_every_owner(connect: Connect) -> None:
    """Also of one that comes after it: its seed tells it before that one's connect returns."""
    seed = await connect("zmq://?bind=tcp://127.0.0.1:*")
    client = await connect(f"zmq://{address_of(seed)}")
    for shard in range(5):
        owner = await connect(f"zmq://{address_of(seed)}?bind=tcp://127.0.0.1:*")
        await owner.subscribe([shard], echo)
        assert await client.request(envelope(shard, b"x"), timeout=FAR) == b"x"


async def test_a_newcomer_is_introduced_when_everybody_knows_of_it(connect: Connect, raw_peer: Any) -> None:
    """So that whoever was there asks it too, as soon as it has opened."""
    seed = await connect("zmq://?bind=tcp://127.0.0.1:*")
    old, newcomer = raw_peer(address_of(seed)), raw_peer(address_of(seed))
    old.hello("old")
    await old.heard(Introduced)
    newcomer.hello("newcomer", inbox="tcp://127.0.0.1:9")
    peers = await old.heard(Peers)
    assert [place.address for place in peers.places] == ["tcp://127.0.0.1:9"]
    newcomer.say(Ping(number=7))
    assert isinstance(await newcomer.heard((Pong, Introduced)), Pong)
    old.say(Ack(number=peers.number))
    await newcomer.heard(Introduced)


async def test_a_request_waits_for_a_peer_that_was_just_heard_of(
    connect: Connect, new_port: NewPort, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may hold the shard: to say that nobody does would be hasty."""
    seed = await connect("zmq://?bind=tcp://127.0.0.1:*")
    client = await connect(f"zmq://{address_of(seed)}", reconnect_wait=FAR)
    monkeypatch.setattr(_outbox, "PATIENCE", FAR)
    port = new_port()
    async with FaultProxy("127.0.0.1", port) as proxy:
        proxy.black_hole()
        owner = await connect(f"zmq://{address_of(seed)}?bind=tcp://127.0.0.1:{port}&advertise=127.0.0.1:{proxy.port}")
        subscribing = asyncio.create_task(owner.subscribe([0], echo))
        request = asyncio.create_task(client.request(envelope(0, b"x"), timeout=FAR))
        async with asyncio.timeout(10):
            await proxy.until(lambda: proxy.connections_accepted >= 2)  # the seed, and the client
        assert not request.done()
        proxy.heal()
        async with asyncio.timeout(10):
            assert await request == b"x"
            await subscribing


async def test_a_subscription_does_not_wait_for_a_peer_that_has_gone_without_a_word(
    connect: Connect, raw_peer: Any
) -> None:
    """Long before its heartbeats are missed: ZeroMQ knows that its connection is closed, and says so when asked."""
    seed = await connect("zmq://?bind=tcp://127.0.0.1:*&heartbeat=60")
    peer = raw_peer(address_of(seed))
    peer.hello()
    await peer.heard(Introduced)
    subscribing = asyncio.create_task(seed.subscribe([0], echo))
    await peer.heard(Holds)
    assert not subscribing.done()
    peer.socket.close(0)
    async with asyncio.timeout(10):
        await subscribing


async def test_a_peer_without_an_inbox_cannot_hold_shards(connect: Connect) -> None:
    seed = await connect("zmq://?bind=tcp://127.0.0.1:*")
    client = await connect(f"zmq://{address_of(seed)}")
    with pytest.raises(clstr.TransportUnavailableError, match="connect with bind="):
        await client.subscribe([0], echo)


async def test_peers_whose_list_has_everybody_do_not_mind_finding_themselves(
    connect: Connect, new_port: NewPort
) -> None:
    """All have the same URL but for their own address, as a deployment would write it; the addresses have two names."""
    ports = [new_port() for _ in range(3)]
    hosts = ",".join(f"localhost:{port}" for port in ports)
    peers = await asyncio.gather(*(connect(f"zmq://{hosts}?bind=tcp://127.0.0.1:{port}") for port in ports))
    for shard, peer in enumerate(peers):
        await peer.subscribe([shard], echo)
    for peer in peers:
        for shard in range(3):
            await answered(peer, shard)
        ways = [outbox.peer.peer_id for outbox in link_of(peer)._directory if outbox.peer is not None]
        assert sorted(ways) == sorted(link_of(other).me.peer_id for other in peers if other is not peer)


async def test_a_peer_with_nobody_around_serves_itself(connect: Connect, new_port: NewPort) -> None:
    """It was told of others, and none is there: what it holds itself goes on; the rest is unknown, not unowned."""
    peer = await connect(f"zmq://127.0.0.1:{new_port()}?bind=tcp://127.0.0.1:*", reconnect_wait=0.1)
    await peer.subscribe([0], echo)
    assert await peer.request(envelope(0, b"x"), timeout=FAR) == b"x"
    with pytest.raises(
        clstr.TransportUnavailableError, match=r"no peer can be reached: tcp://.*: nobody listens there"
    ):
        await peer.request(envelope(1), timeout=FAR)


async def test_peers_that_start_before_their_seed_find_it(connect: Connect, new_port: NewPort) -> None:
    port = new_port()
    client = await connect(f"zmq://127.0.0.1:{port}", reconnect_wait=FAR)
    request = asyncio.create_task(client.request(envelope(0, b"x"), timeout=FAR))
    seed = await connect(f"zmq://?bind=tcp://127.0.0.1:{port}")
    await seed.subscribe([0], echo)
    async with asyncio.timeout(10):
        try:
            assert await request == b"x"
        except clstr.NoShardSubscriberError:  # it was asked between its connection and its subscription
            assert await client.request(envelope(0, b"x"), timeout=FAR) == b"x"


async def test_a_message_for_oneself_goes_through_the_loop(connect: Connect) -> None:
    peer = await connect("zmq://?bind=tcp://127.0.0.1:*")
    ran = asyncio.Event()

    async def handler(_: clstr.Envelope) -> None:
        ran.set()

    await peer.subscribe([0], handler)
    sending = asyncio.create_task(peer.notify(envelope()))
    await asyncio.sleep(0)
    assert not ran.is_set()
    await sending
    async with asyncio.timeout(10):
        await ran.wait()


# Who is refused.


async def test_a_peer_of_another_cluster_is_refused_and_both_are_named(connect: Connect) -> None:
    seed = await connect("zmq://?bind=tcp://127.0.0.1:*&cluster=blue")
    with pytest.raises(clstr.TransportUnavailableError, match="in the cluster 'blue', the other one in 'green'"):
        await connect(f"zmq://{address_of(seed)}?cluster=green")
    assert link_of(seed).counters.refused_peers == 1


async def test_a_peer_of_another_protocol_version_is_refused(connect: Connect, raw_peer: Any) -> None:
    seed = await connect("zmq://?bind=tcp://127.0.0.1:*")
    peer = raw_peer(address_of(seed))
    hello = bytearray(encode(Hello(cluster="clstr", peer_id="old", epoch=1, inbox=None, max_bytes=1)))
    hello[6] = 9
    peer.say(bytes(hello))
    refusal = await peer.heard(Refused)
    assert (refusal.code, refusal.reason) == (
        "version",
        "this peer speaks version 2 of the protocol, the other one 9",
    )


async def test_a_peer_id_that_is_taken_is_refused_to_the_newcomer(connect: Connect) -> None:
    seed = await connect("zmq://?bind=tcp://127.0.0.1:*")
    url = f"zmq://{address_of(seed)}?bind=tcp://127.0.0.1:*"
    first = await connect(url, peer_id="twin")
    with pytest.raises(clstr.TransportUnavailableError, match="the peer id 'twin' belongs to another live peer"):
        await connect(url, peer_id="twin")
    await first.subscribe([0], echo)
    assert await seed.request(envelope(0, b"x"), timeout=FAR) == b"x"


async def test_the_id_of_the_seed_itself_is_refused(connect: Connect) -> None:
    seed = await connect("zmq://?bind=tcp://127.0.0.1:*", peer_id="seed")
    with pytest.raises(clstr.TransportUnavailableError, match="the peer id 'seed'"):
        await connect(f"zmq://{address_of(seed)}", peer_id="seed")


async def test_a_peer_whose_id_turns_out_to_be_taken_later_ends(
    connect: Connect, new_port: NewPort, raw_peer: Any
) -> None:
    """It was open already: whoever runs it learns why it ends."""
    port = new_port()
    late = await connect(f"zmq://127.0.0.1:{port}", peer_id="twin")
    seed = await connect(f"zmq://?bind=tcp://127.0.0.1:{port}", peer_id="twin")
    async with asyncio.timeout(10):
        with pytest.raises(clstr.TransportUnavailableError, match="lost for good"):
            await late.wait_closed()
    await seed.aclose()


async def test_a_peer_that_vanished_without_a_word_may_come_back_at_once(connect: Connect, new_port: NewPort) -> None:
    """Its old connection is still open, into nothing: it does not defend its id, and its new life gets in."""
    seed = await connect("zmq://?bind=tcp://127.0.0.1:*")
    host, port = address_of(seed).split(":")
    async with FaultProxy(host, int(port)) as proxy:
        first = await connect(f"zmq://127.0.0.1:{proxy.port}", peer_id="phoenix")
        assert [guest.hello.epoch for guest in guests_of(seed)] == [link_of(first).me.epoch]
        proxy.black_hole()
        async with asyncio.timeout(10):
            second = await connect(f"zmq://{address_of(seed)}", peer_id="phoenix")
            await until(lambda: [g.hello.epoch for g in guests_of(seed)] == [link_of(second).me.epoch])
        proxy.heal()


def guests_of(transport: clstr.Transport) -> list[Any]:
    inbox = link_of(transport)._inbox
    assert inbox is not None
    return inbox.guests


# What is lost.


async def test_what_a_lost_peer_held_is_unowned_at_once(connect: Connect, new_port: NewPort) -> None:
    """The others go on: only what the lost one was asked may have run."""
    seed = await connect("zmq://?bind=tcp://127.0.0.1:*")
    port = new_port()
    started = asyncio.Event()

    async def hang(_: clstr.Envelope) -> None:
        started.set()
        await asyncio.Event().wait()

    async with FaultProxy("127.0.0.1", port) as proxy:
        url = f"zmq://{address_of(seed)}?bind=tcp://127.0.0.1:{port}&advertise=127.0.0.1:{proxy.port}"
        owner = await connect(url, drain_timeout=0)
        await owner.subscribe([0], hang)
        await seed.subscribe([1], echo)
        request = asyncio.create_task(seed.request(envelope(), timeout=FAR))
        await started.wait()
        proxy.refuse()
        await proxy.reset()
        async with asyncio.timeout(10):
            with pytest.raises(clstr.ConnectionLostError) as caught:
                await request
            assert caught.value.maybe_executed
            with pytest.raises(clstr.NoShardSubscriberError):
                await seed.request(envelope(), timeout=FAR)
        assert await seed.request(envelope(1, b"x"), timeout=FAR) == b"x"


async def test_a_peer_that_hangs_is_dead_after_three_heartbeats(connect: Connect, new_port: NewPort) -> None:
    """Its connection stays open, and nothing comes. The test beats, since a busy machine may be slow to answer."""
    seed = await connect("zmq://?bind=tcp://127.0.0.1:*&heartbeat=3600")
    port = new_port()
    async with FaultProxy("127.0.0.1", port) as proxy:
        url = f"zmq://{address_of(seed)}?bind=tcp://127.0.0.1:{port}&advertise=127.0.0.1:{proxy.port}&heartbeat=3600"
        owner = await connect(url)
        await owner.subscribe([0], echo)
        assert await seed.request(envelope(0, b"x"), timeout=FAR) == b"x"
        proxy.black_hole()
        [outbox] = link_of(seed)._directory
        asked = asyncio.create_task(seed.request(envelope(), timeout=FAR))
        for _ in range(2):
            await asyncio.sleep(0)  # it is accepted, then it is written
        outbox._was_heard = False
        for _ in range(MISSED_HEARTBEATS - 1):
            outbox.beat()
        assert not asked.done()
        outbox.beat()
        async with asyncio.timeout(10):
            with pytest.raises(clstr.ConnectionLostError, match="lost") as caught:
                await asked
            assert caught.value.maybe_executed
            with pytest.raises(clstr.NoShardSubscriberError):
                await seed.request(envelope(), timeout=FAR)
        proxy.heal()
        await answered(seed)


async def test_a_loop_that_was_blocked_takes_nobody_for_dead(connect: Connect) -> None:
    """Ten heartbeats pass at once: that is one, not ten."""
    seed = await connect("zmq://?bind=tcp://127.0.0.1:*&heartbeat=0.05")
    client = await connect(f"zmq://{address_of(seed)}?heartbeat=0.05")
    await seed.subscribe([0], echo)
    [outbox] = link_of(client)._directory
    for _ in range(3):
        threading.Event().wait(0.5)  # the loop itself, not a task
        assert await client.request(envelope(0, b"x"), timeout=FAR) == b"x"
        assert outbox.peer is not None


async def test_a_peer_that_was_silent_too_long_says_why_others_took_it_for_dead(
    connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    seed = await connect("zmq://?bind=tcp://127.0.0.1:*")
    client = await connect(f"zmq://{address_of(seed)}?heartbeat=0.05")
    link = link_of(client)
    [outbox] = link._directory
    link._beaten_at -= 100.0  # as if the loop had been blocked
    await until(lambda: max(link._pauses) >= 100.0)
    link.refused(outbox, Refused(code="stranger", reason="say hello first"))
    assert "took this peer for dead" in caplog.text
    assert "this peer was silent for 100." in caplog.text
    assert "3 heartbeats (0.15 s)" in caplog.text


async def test_a_peer_that_has_restarted_is_no_sign_of_silence(
    connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    seed = await connect("zmq://?bind=tcp://127.0.0.1:*")
    client = await connect(f"zmq://{address_of(seed)}?heartbeat=60")
    [outbox] = link_of(client)._directory
    link_of(client).refused(outbox, Refused(code="stranger", reason="say hello first"))
    assert "took this peer for dead:" not in caplog.text
    assert "silent" not in caplog.text


async def test_what_waits_for_the_end_of_the_tick_when_the_peer_is_lost_goes_to_another_owner(
    connect: Connect,
) -> None:
    """It certainly did not run."""
    seed = await connect("zmq://?bind=tcp://127.0.0.1:*")
    url = f"zmq://{address_of(seed)}?bind=tcp://127.0.0.1:*"
    owners = [await connect(url) for _ in range(2)]
    ran: list[int] = []

    async def handler(_: clstr.Envelope) -> None:
        ran.append(1)

    for owner in owners:
        await owner.subscribe([0], handler)
    requests = [asyncio.create_task(seed.request(envelope(), timeout=FAR)) for _ in range(2)]
    await asyncio.sleep(0)  # one went to each, and is not written yet
    outbox = next(each for each in link_of(seed)._directory if each.shards)
    outbox.lost("the test says so")
    async with asyncio.timeout(10):
        await asyncio.gather(*requests)
    assert len(ran) == 2


async def test_a_frozen_client_holds_up_a_subscription_until_it_is_dead(connect: Connect, raw_peer: Any) -> None:
    """It never acknowledges what it is told."""
    seed = await connect("zmq://?bind=tcp://127.0.0.1:*&heartbeat=0.05")
    peer = raw_peer(address_of(seed))
    peer.hello()
    await peer.heard(Welcome)
    async with asyncio.timeout(10):
        await seed.subscribe([0], echo)
    assert guests_of(seed) == []


async def test_a_subscription_waits_for_every_peer_to_know(connect: Connect, raw_peer: Any) -> None:
    seed = await connect("zmq://?bind=tcp://127.0.0.1:*")
    peer = raw_peer(address_of(seed))
    peer.hello()
    await peer.heard(Introduced)
    subscribing = asyncio.create_task(seed.subscribe([3, 5], echo))
    holds = await peer.heard(Holds)
    assert holds.shards == [3, 5]
    assert not subscribing.done()
    peer.say(Ack(number=holds.number))
    async with asyncio.timeout(10):
        await subscribing


# What strangers say.


async def test_a_message_from_somebody_who_did_not_say_hello_never_runs(connect: Connect, raw_peer: Any) -> None:
    seed = await connect("zmq://?bind=tcp://127.0.0.1:*")
    ran: list[clstr.Envelope] = []

    async def handler(message: clstr.Envelope) -> None:
        ran.append(message)

    await seed.subscribe([0], handler)
    peer = raw_peer(address_of(seed))
    peer.say(encode_request(1, 0, b'{"shard":0,"type":"t","data":""}'), Ping(number=1))
    assert (await peer.heard(Refused)).code == "stranger"
    assert ran == []


@pytest.mark.parametrize(
    "message",
    [Introduced(), TooLarge(token=1, size=1), encode_answer(1, b"x"), b"Z", b"C\xc1", b"Q", b"H", b"Hclstr", b"X\x01"],
    ids=repr,
)
async def test_what_nobody_says_to_an_inbox_is_garbage(connect: Connect, raw_peer: Any, message: Any) -> None:
    seed = await connect("zmq://?bind=tcp://127.0.0.1:*")
    assert isinstance(seed, Engine)
    peer = raw_peer(address_of(seed))
    peer.hello()
    await peer.heard(Introduced)
    peer.say(message)
    peer.say(Ping(number=7))
    assert (await peer.heard(Pong)).number == 7
    assert seed.counters.garbage == 1


async def test_an_answer_that_its_asker_cannot_take_becomes_an_error(connect: Connect, raw_peer: Any) -> None:
    seed = await connect("zmq://?bind=tcp://127.0.0.1:*")

    async def handler(_: clstr.Envelope) -> bytes:
        return b"x" * 100

    await seed.subscribe([0], handler)
    peer = raw_peer(address_of(seed))
    peer.say(Hello(cluster="clstr", peer_id="small", epoch=1, inbox=None, max_bytes=50))
    await peer.heard(Introduced)
    peer.say(encode_request(9, 0, b'{"shard":0,"type":"t","data":""}'))
    told = await peer.heard(TooLarge)
    assert told.token == 9
    assert told.size > 100


async def test_a_payload_that_its_owner_cannot_take_is_not_sent(connect: Connect) -> None:
    owner = await connect("zmq://?bind=tcp://127.0.0.1:*")
    client = await connect(f"zmq://{address_of(owner)}", max_payload_bytes=8 * 2**20, max_inflight_bytes=2**24)
    await owner.subscribe([0], echo)
    with pytest.raises(clstr.PayloadTooLargeError) as caught:
        await client.request(envelope(0, b"x" * (6 * 2**20)), timeout=FAR)
    assert not caught.value.maybe_executed
    assert await client.request(envelope(0, b"x"), timeout=FAR) == b"x"


async def test_a_peer_that_does_not_read_costs_no_memory_without_a_bound(connect: Connect, raw_peer: Any) -> None:
    """Answers that it does not read are kept up to a bound, then no handler starts for it; others are served."""
    seed = await connect("zmq://?bind=tcp://127.0.0.1:*")
    assert isinstance(seed, Engine)
    ran = itertools.count()
    go_on = asyncio.Event()

    async def handler(_: clstr.Envelope) -> bytes:
        next(ran)
        await go_on.wait()  # so that as many as may run do run at once: on Python 3.12 a handler may end as it starts
        return b"x" * 2**20

    await seed.subscribe([0], handler)
    await seed.subscribe([1], echo)
    peer = raw_peer(address_of(seed))
    peer.hello()
    await peer.heard(Introduced)
    for token in range(300):
        peer.say(encode_request(token, 0, b'{"shard":0,"type":"t","data":""}'))
    await until(lambda: seed.dispatcher.active == 100 and seed.dispatcher.waiting == 200)
    go_on.set()  # the 100 answers are kept
    await until(lambda: not seed.dispatcher.active)
    assert (next(ran), seed.dispatcher.waiting) == (100, 200)
    assert seed.counters.dropped_replies == 0
    other = await connect(f"zmq://{address_of(seed)}")
    assert await other.request(envelope(1, b"x"), timeout=FAR) == b"x"


# Its life.


async def test_an_address_in_use_is_said(connect: Connect, new_port: NewPort) -> None:
    port = new_port()
    await connect(f"zmq://?bind=tcp://127.0.0.1:{port}")
    with pytest.raises(clstr.TransportUnavailableError, match=f"cannot bind tcp://127.0.0.1:{port}: Address already"):
        await connect(f"zmq://?bind=tcp://127.0.0.1:{port}")


async def test_a_unix_socket_in_use_is_not_taken_away(connect: Connect, tmp_path: Any) -> None:
    path = tmp_path / "a.sock"
    first = await connect(f"zmq+ipc://?bind={path}")
    with pytest.raises(clstr.TransportUnavailableError, match="Address already in use"):
        await connect(f"zmq+ipc://?bind={path}")
    await first.subscribe([0], echo)
    await answered(await connect(f"zmq+ipc://{path}"))


async def test_a_unix_socket_that_was_left_behind_is_used_again(connect: Connect, tmp_path: Any) -> None:
    path = tmp_path / "a.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    await connect(f"zmq+ipc://?bind={path}")


async def test_a_failed_open_leaves_nothing(connect: Connect, new_port: NewPort) -> None:
    port = new_port()
    await connect(f"zmq://?bind=tcp://127.0.0.1:{port}")
    async with no_leaks():
        with pytest.raises(clstr.TransportUnavailableError):
            await connect(f"zmq://127.0.0.1:{port}?bind=tcp://127.0.0.1:{port}")


async def test_sockets_refuse_other_threads(connect: Connect) -> None:
    """ZeroMQ would abort the process."""
    seed = await connect("zmq://?bind=tcp://127.0.0.1:*")
    inbox = link_of(seed)._inbox
    assert inbox is not None
    with pytest.raises(RuntimeError, match="belongs to the thread of its event loop"):
        await asyncio.to_thread(inbox._post._wire.send, b"route", b"body")


async def test_a_restart_on_the_same_port_is_found_again(connect: Connect, new_port: NewPort) -> None:
    port = new_port()
    client: clstr.Transport | None = None
    for _ in range(3):
        owner = await connect(f"zmq://?bind=tcp://127.0.0.1:{port}", peer_id="owner")
        await owner.subscribe([0], echo)
        client = client or await connect(f"zmq://127.0.0.1:{port}")
        await answered(client)
        await owner.aclose()


async def test_a_peer_that_closes_is_forgotten_by_those_that_were_told_of_it(connect: Connect) -> None:
    seed = await connect("zmq://?bind=tcp://127.0.0.1:*")
    other = await connect(f"zmq://{address_of(seed)}?bind=tcp://127.0.0.1:*")
    client = await connect(f"zmq://{address_of(seed)}")
    await until(lambda: len(list(link_of(client)._directory)) == 2)
    await other.aclose()
    await until(lambda: len(list(link_of(client)._directory)) == 1)


async def test_what_happens_is_logged_without_keys_or_payloads(
    connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, logger="clstr")
    seed = await connect("zmq://?bind=tcp://127.0.0.1:*", peer_id="seed")
    client = await connect(f"zmq://{address_of(seed)}", peer_id="client")
    await seed.subscribe([0], echo)
    await client.request(envelope(0, b"secret payload"), timeout=FAR)
    assert "connected to peer seed at" in caplog.text
    assert "secret" not in caplog.text


async def test_answers_to_peers_that_have_gone_are_dropped_and_counted(connect: Connect) -> None:
    seed = await connect("zmq://?bind=tcp://127.0.0.1:*")
    assert isinstance(seed, Engine)
    client = await connect(f"zmq://{address_of(seed)}")
    started, go_on = asyncio.Event(), asyncio.Event()

    async def handler(_: clstr.Envelope) -> None:
        started.set()
        await go_on.wait()

    await seed.subscribe([0], handler)
    request = asyncio.create_task(client.request(envelope(), timeout=FAR))
    await started.wait()
    await client.aclose()
    with pytest.raises(clstr.TransportClosedError):
        await request
    await until(lambda: guests_of(seed) == [])
    go_on.set()
    await until(lambda: seed.counters.dropped_replies == 1)
