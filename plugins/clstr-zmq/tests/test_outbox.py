"""An outbox against an inbox that says whatever a test says."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import zmq

import clstr
from clstr.spi import Engine, pack, unpack
from clstr_zmq import _outbox
from clstr_zmq._link import ZmqLink
from clstr_zmq._protocol import (
    Ack,
    Bye,
    Control,
    Drops,
    Hello,
    Holds,
    Introduced,
    Message,
    Ping,
    Place,
    Pong,
    Refused,
    Request,
    TooLarge,
    Welcome,
    decode,
    encode,
    encode_answer,
)

Connect = Callable[..., Awaitable[clstr.Transport]]
NewPort = Callable[[], int]


class RawInbox:
    """A ROUTER on the loop's own thread, read by polling; ``route`` is who said hello last."""

    def __init__(self, port: int) -> None:
        self.context = zmq.Context()
        self.socket = self.context.socket(zmq.ROUTER)
        self.socket.linger = 0
        self.address = f"tcp://127.0.0.1:{port}"
        self.socket.bind(self.address)
        self.route = b""
        self._unread: deque[Message] = deque()

    async def heard(self, kind: type[Any]) -> Any:
        """Return the next thing of this kind that it is told."""
        async with asyncio.timeout(10):
            while True:
                while not self._unread:
                    await self._read()
                message = self._unread.popleft()
                if isinstance(message, kind):
                    return message

    async def _read(self) -> None:
        while not self.socket.poll(0):  # noqa: ASYNC110 -- it must not take part in the loop
            await asyncio.sleep(0.005)
        route, body = self.socket.recv_multipart()
        messages = [decode(frame) for frame in unpack(body)]
        self._unread.extend(messages)
        if any(isinstance(message, Hello) for message in messages):
            self.route = route

    def say(self, *messages: Control | Refused | bytes) -> None:
        frames = (each if isinstance(each, bytes) else encode(each) for each in messages)
        self.socket.send_multipart([self.route, pack(frames)])

    async def welcome(self, *shards: int) -> None:
        """Wait for a hello, and welcome it."""
        await self.heard(Hello)
        inbox = Place(address=self.address)
        welcome = Welcome(peer_id="raw", epoch=1, inbox=inbox, max_bytes=2**20)
        self.say(Holds(number=0, shards=list(shards)), welcome, Introduced())

    def close(self) -> None:
        self.socket.close(0)
        self.context.term()


@pytest.fixture
async def inbox(new_port: NewPort) -> AsyncIterator[RawInbox]:
    made = RawInbox(new_port())
    yield made
    made.close()


@pytest.fixture
async def client(inbox: RawInbox, connect: Connect) -> Engine:
    """A peer that is welcome there, where shard 0 is held."""
    connecting = asyncio.ensure_future(connect(inbox.address.replace("tcp", "zmq"), reconnect_wait=0.1))
    await inbox.welcome(0)
    transport = await connecting
    assert isinstance(transport, Engine)
    return transport


def outbox_of(client: Engine) -> _outbox.Outbox:
    assert isinstance(client.link, ZmqLink)
    [outbox] = client.link._directory
    return outbox


def request(client: Engine, shard: int = 0) -> asyncio.Task[bytes]:
    return asyncio.create_task(client.request(clstr.Envelope(shard=shard, type="t"), timeout=60))


async def test_it_acknowledges_what_it_is_told_behind_what_it_sent_before(client: Engine, inbox: RawInbox) -> None:
    """So whoever is told knows that nothing comes any more."""
    asked = [request(client) for _ in range(3)]
    await asyncio.sleep(0)
    inbox.say(Drops(number=9, shards=[0]))
    for _ in range(3):
        await inbox.heard(Request)
    assert (await inbox.heard(Ack)).number == 9
    with pytest.raises(clstr.NoShardSubscriberError):
        await request(client)
    for task in asked:
        task.cancel()
    await asyncio.gather(*asked, return_exceptions=True)


async def test_an_answer_that_is_too_large_for_it_is_an_error(client: Engine, inbox: RawInbox) -> None:
    asked = request(client)
    token = (await inbox.heard(Request)).token
    inbox.say(TooLarge(token=token, size=2**30))
    async with asyncio.timeout(10):
        with pytest.raises(clstr.PayloadTooLargeError) as caught:
            await asked
    assert (caught.value.size, caught.value.maybe_executed) == (2**30, True)


@pytest.mark.parametrize(
    "message",
    [
        b"Z",
        b"C\xc1",
        Ack(number=1),
        encode_answer(2**40, b"x")[:3],
        b"Q" + b"\0" * 12,
        Welcome(peer_id="another", epoch=1, inbox=Place(address="tcp://127.0.0.1:1"), max_bytes=1),
    ],
    ids=repr,
)
async def test_what_no_inbox_says_is_garbage(client: Engine, inbox: RawInbox, message: Any) -> None:
    inbox.say(message)
    inbox.say(Ping(number=7))
    assert (await inbox.heard(Pong)).number == 7
    assert client.counters.garbage == 1


async def test_a_message_of_several_zeromq_frames_is_garbage(client: Engine, inbox: RawInbox) -> None:
    inbox.socket.send_multipart([inbox.route, b"a", b"b"])
    inbox.say(Ping(number=7))
    await inbox.heard(Pong)
    assert client.counters.garbage == 1


async def test_nobody_holds_millions_of_shards(
    client: Engine, inbox: RawInbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_outbox, "MAX_SHARDS", 10)
    inbox.say(Holds(number=1, shards=list(range(11))))
    inbox.say(Ping(number=7))
    await inbox.heard(Pong)
    assert client.counters.garbage == 1
    assert outbox_of(client).shards == {0}


async def test_it_says_hello_again_where_it_was_taken_for_dead(client: Engine, inbox: RawInbox) -> None:
    asked = request(client)
    await inbox.heard(Request)
    inbox.say(Refused(code="stranger", reason="say hello first"))
    async with asyncio.timeout(10):
        with pytest.raises(clstr.ConnectionLostError) as caught:
            await asked
    assert caught.value.maybe_executed
    await inbox.welcome(0)
    async with asyncio.timeout(10):
        while outbox_of(client).peer is None:  # noqa: ASYNC110 -- ZeroMQ's threads tell no event
            await asyncio.sleep(0.005)
        asked = request(client)
        await inbox.heard(Request)
        asked.cancel()


async def test_a_good_bye_is_answered_and_what_is_under_way_may_have_run(client: Engine, inbox: RawInbox) -> None:
    asked = request(client)
    await inbox.heard(Request)
    inbox.say(Bye())
    await inbox.heard(Bye)
    async with asyncio.timeout(10):
        with pytest.raises(clstr.ConnectionLostError) as caught:
            await asked
    assert caught.value.maybe_executed


async def test_a_request_of_an_earlier_connection_is_answered_on_that_one_alone(
    client: Engine, inbox: RawInbox
) -> None:
    """What somebody else answers with the same number is garbage, or late."""
    asked = request(client)
    token = (await inbox.heard(Request)).token
    outbox_of(client).lost("the test says so")
    await inbox.welcome(0)
    inbox.say(encode_answer(token, b"\x95\xc4\x00"))
    inbox.say(Ping(number=7))
    await inbox.heard(Pong)
    with pytest.raises(clstr.ConnectionLostError):
        await asked
    assert client.counters.late_replies == 1


async def test_a_peer_at_two_addresses_has_one_connection_and_the_other_takes_over(
    connect: Connect, new_port: NewPort
) -> None:
    """Itself included: all addresses of this machine lead to the same inbox."""
    port = new_port()
    hosts = f"127.0.0.1:{port},127.0.0.2:{port}"
    bind = f"bind=tcp://0.0.0.0:{port}&advertise=127.0.0.1:{port}&insecure=true"
    owner = await connect(f"zmq://{hosts}?{bind}")
    assert isinstance(owner, Engine)
    assert isinstance(owner.link, ZmqLink)
    assert all(each.leads_home for each in owner.link._directory)  # the address that it does not advertise

    async def echo(message: clstr.Envelope) -> bytes:
        return message.data

    await owner.subscribe([0], echo)
    client = await connect(f"zmq://{hosts}")
    assert isinstance(client, Engine)
    assert isinstance(client.link, ZmqLink)
    directory = client.link._directory
    for _ in range(2):
        async with asyncio.timeout(10):
            while not any(each.twin for each in directory):  # noqa: ASYNC110 -- ZeroMQ's threads tell no event
                await asyncio.sleep(0.005)
            assert await request(client) == b""
        [life] = [each for each in directory if each.peer is not None]
        [idle] = [each for each in directory if each.peer is None]
        assert idle.twin is life
        life.lost("the test says so")
        async with asyncio.timeout(10):
            while not idle.peer:  # noqa: ASYNC110 -- as above
                await asyncio.sleep(0.005)
