"""Users, the least rights that nodes and clients need, and TLS."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any, Self

import pytest
import redis.exceptions
import trustme
from redis.asyncio import Redis

import clstr
from clstr import Envelope
from clstr.errors import (
    AccessDeniedError,
    AuthenticationError,
    ClstrError,
    NoShardSubscriberError,
    TransportUnavailableError,
)
from clstr_redis import _frames as frames
from clstr_redis._scripts import DROP, HOLD
from clstr_testing import Server, ServerStartError, redis_server, valkey_server

Connect = Callable[..., Awaitable[clstr.Transport]]
GET = Envelope(shard=7, type="Get")

OTHER = "resetchannels ~other:* &other:* +@all"
SERVERS = {"valkey": valkey_server, "redis": redis_server}


def users(**rules: str) -> str:
    return "\n".join(f"user {name.replace('_', '-')} on >PLANTED {rule}" for name, rule in rules.items())


async def echo(envelope: Envelope) -> bytes:
    return envelope.data or b"reply"


@pytest.fixture
async def guarded(kind: str, rights: dict[str, str]) -> AsyncIterator[Server]:
    """With the users of the documentation, a second node and a second client, and somebody else."""
    named = {
        "node_1": rights["node-1"],
        "node_2": rights["node-1"].replace("node-1", "node-2"),
        "ada": rights["ada"],
        "bob": rights["ada"].replace("ada", "bob"),
        "other": OTHER,
    }
    config = users(**named) + "\nuser default off\n"
    async with SERVERS[kind](config=config) as server:
        yield server


@pytest.fixture
def as_user(guarded: Server, connect: Connect) -> Callable[..., Awaitable[clstr.Transport]]:
    async def open_one(user: str, query: str = "") -> clstr.Transport:
        return await connect(guarded.port, user=f"{user}:PLANTED", query=query, peer_id=user)

    return open_one


async def test_the_least_rights_are_enough(as_user: Callable[..., Awaitable[clstr.Transport]]) -> None:
    node, client = await as_user("node-1"), await as_user("ada")
    subscription = await node.subscribe([7], echo)
    assert await client.request(GET) == b"reply"
    await client.notify(GET)
    with pytest.raises(NoShardSubscriberError):
        await client.request(Envelope(shard=8, type="Get"))
    await subscription.aclose()
    with pytest.raises(NoShardSubscriberError):
        await client.request(GET)


async def test_a_client_may_not_own_a_shard(as_user: Callable[..., Awaitable[clstr.Transport]]) -> None:
    client = await as_user("ada")
    with pytest.raises(AccessDeniedError, match=r"grant \+script\|load to nodes"):  # no node was here yet
        await client.subscribe([7], echo)
    await as_user("node-1")
    async with asyncio.timeout(5):
        with pytest.raises(AccessDeniedError, match=r"grant .*(zremrangebyscore|clstr:shard:\*)"):
            await client.subscribe([7], echo)


async def test_a_client_may_send_to_nodes_alone(as_user: Callable[..., Awaitable[clstr.Transport]]) -> None:
    """A peer with a lease whose id is no node's: the client is told which right it lacks, and nothing ran."""
    node, client = await as_user("node-1"), await as_user("ada")
    node.link._names._own = "clstr:in:bob:"  # type: ignore[attr-defined]  # a node that does not keep to its name
    await node.link._leases.take(Lessee(node), [7])  # type: ignore[attr-defined]
    with pytest.raises(AccessDeniedError, match=r"grant \(\+publish &clstr:in:\*\)") as caught:
        await client.request(GET)
    assert not caught.value.maybe_executed


class Lessee:
    """Leases for an inbox that is not its connection's."""

    inbox = b"clstr:in:bob:" + b"0" * 32

    def __init__(self, node: clstr.Transport) -> None:
        self.run = node.link._session.connection.run  # type: ignore[attr-defined]


RIGHTS = {
    "+subscribe": r"grant \+subscribe",
    "&clstr:in:node-1:*": r"grant &clstr:in:node-1:\*, or connect with a peer_id",
    "+publish": r"grant \+publish",
    "+evalsha": r"grant \+evalsha",
    "~clstr:shard:*": r"grant ~clstr:shard:\*",
    "+zrangebyscore": r"grant .*\+zrangebyscore",
    "+time": r"grant .*\+time",
}


@pytest.mark.parametrize(("right", "missing"), RIGHTS.items())
async def test_a_right_that_every_peer_needs_is_named_at_connect(
    kind: str, connect: Connect, rights: dict[str, str], right: str, missing: str
) -> None:
    """The first request would be too late, and would not know whether its message was sent."""
    assert right in rights["node-1"]
    async with SERVERS[kind](config=users(node=rights["node-1"].replace(right, ""))) as server:
        async with asyncio.timeout(5):
            with pytest.raises(AccessDeniedError, match=missing):
                await connect(server.port, user="node:PLANTED", peer_id="node-1", connect_timeout=60)


async def test_a_peer_id_that_the_rights_do_not_name_is_an_error_that_says_so(
    guarded: Server, connect: Connect
) -> None:
    with pytest.raises(AccessDeniedError, match=r"&clstr:in:bob:\*, or connect with a peer_id that its rights name"):
        await connect(guarded.port, user="ada:PLANTED", peer_id="bob")


async def test_a_right_that_is_taken_away_is_named_and_nothing_has_run(
    kind: str, connect: Connect, rights: dict[str, str]
) -> None:
    async with SERVERS[kind](config=users(node=rights["node-1"])) as server:
        client = await connect(server.port, user="node:PLANTED", peer_id="node-1")
        async with Redis(host=server.host, port=server.port) as admin:
            await admin.acl_setuser("node", enabled=True, commands=["-evalsha"])
        async with asyncio.timeout(5):
            for send in (client.request, client.notify):
                with pytest.raises(AccessDeniedError, match=r"grant \+evalsha") as caught:
                    await send(GET, timeout=60)
                assert not caught.value.maybe_executed


# Scripts, which nodes load.


async def test_a_client_that_comes_before_any_node_finds_the_first_one(
    as_user: Callable[..., Awaitable[clstr.Transport]],
) -> None:
    """Nobody has loaded the script when it connects."""
    client = await as_user("ada", "?heartbeat=0.01")
    with pytest.raises(NoShardSubscriberError):
        await client.request(GET)
    with pytest.raises(NoShardSubscriberError):
        await client.notify(GET)
    node = await as_user("node-1")
    await node.subscribe([7], echo)
    assert await client.request(GET) == b"reply"


async def test_scripts_that_the_server_has_lost_are_loaded_by_nodes(
    kind: str, connect: Connect, rights: dict[str, str]
) -> None:
    async with SERVERS[kind](config=users(node=rights["node-1"], ada=rights["ada"])) as server:
        node = await connect(server.port, user="node:PLANTED", peer_id="node-1", query="?heartbeat=0.1")
        await node.subscribe([7], echo)
        client = await connect(server.port, user="ada:PLANTED", peer_id="ada", query="?heartbeat=2")
        async with Redis(host=server.host, port=server.port) as admin:
            await admin.script_flush()
        async with asyncio.timeout(30):
            await client.notify(GET, timeout=20)
            assert await client.request(GET, timeout=20) == b"reply"


async def test_a_node_that_may_not_load_scripts_is_told_when_it_needs_them(
    kind: str, connect: Connect, rights: dict[str, str]
) -> None:
    async with SERVERS[kind](config=users(node=rights["node-1"].replace("+script|load ", ""))) as server:
        node = await connect(server.port, user="node:PLANTED", peer_id="node-1")
        with pytest.raises(AccessDeniedError, match=r"grant \+script\|load"):
            await node.subscribe([7], echo)


async def test_looking_for_rights_leaves_no_trace(kind: str, connect: Connect) -> None:
    async with SERVERS[kind]() as server:
        node, client = await connect(server.port), await connect(server.port)
        await node.subscribe([7], echo)
        assert await client.request(GET) == b"reply"
        for peer in (node, client):
            stats = peer.counters  # type: ignore[attr-defined]  # the engine's
            assert (stats.garbage, stats.late_replies, stats.dropped_replies) == (0, 0, 0)
        async with Redis(host=server.host, port=server.port) as admin:
            assert await admin.keys("*") == [b"clstr:shard:7"]


@pytest.mark.parametrize("right", ["+zadd", "+zremrangebyscore", "+pttl", "+pexpire"])
async def test_a_right_that_holding_needs_is_named(
    kind: str, connect: Connect, rights: dict[str, str], right: str
) -> None:
    async with SERVERS[kind](config=users(node=rights["node-1"].replace(right, ""))) as server:
        node = await connect(server.port, user="node:PLANTED", peer_id="node-1")
        with pytest.raises(AccessDeniedError, match=rf"grant .*\{right}"):
            await node.subscribe([7], echo)


async def test_another_application_can_neither_listen_nor_send(
    guarded: Server, connect: Connect, as_user: Callable[..., Awaitable[clstr.Transport]]
) -> None:
    node = await as_user("node-1")
    await node.subscribe([7], echo)
    async with Hostile(guarded, "other") as other:
        (inbox,) = await other.redis.pubsub_channels("clstr:*")
        await other.may_not_listen(inbox)
        await other.may_not("PUBLISH", inbox, b"x")
        await other.may_not("ZADD", "clstr:shard:7", 1, "x")
        await other.may_not("ZRANGE", "clstr:shard:7", 0, -1)
    with pytest.raises(AccessDeniedError, match=r"grant &clstr:in:"):
        await connect(guarded.port, user="other:PLANTED")


# Hostile peers: each has exactly the documented rights of a client, or of a node, and its own ways of using them.


class Hostile:
    """A plain client of the server with one user's rights."""

    def __init__(self, server: Server, user: str) -> None:
        self.redis: Redis = Redis(host=server.host, port=server.port, username=user, password="PLANTED")

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.redis.aclose()

    async def may_not(self, *command: Any) -> None:  # Any: redis-py's arguments
        with pytest.raises(redis.exceptions.ResponseError, match=r"[Pp]ermission|can't"):
            await self.redis.execute_command(*command)  # type: ignore[no-untyped-call]  # redis-py's

    async def may_not_listen(self, inbox: bytes | str) -> None:
        for command in ("subscribe", "psubscribe"):
            async with self.redis.pubsub() as spy:
                await getattr(spy, command)(inbox)
                with pytest.raises(redis.exceptions.NoPermissionError):
                    await spy.get_message(timeout=5)


class Told:
    """A node's handler that tells what it was asked, and answers when it is told to."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.go_on = asyncio.Event()

    async def __call__(self, _: Envelope) -> bytes:
        self.asked.set()
        await self.go_on.wait()
        return b"from node-1"


def inbox_of(transport: clstr.Transport) -> bytes:
    inbox: bytes = transport.link._session.connection.inbox  # type: ignore[attr-defined]  # the engine's
    return inbox


def token_of(transport: clstr.Transport) -> int:
    (token,) = transport.pending._by_token  # type: ignore[attr-defined]  # the engine's
    return int(token)


async def test_a_hostile_client_sees_and_changes_nothing_of_its_neighbour_s(
    guarded: Server, as_user: Callable[..., Awaitable[clstr.Transport]]
) -> None:
    """It knows every name, the neighbour's token included, which it could not."""
    node, neighbour = await as_user("node-1"), await as_user("bob")
    handler = Told()
    await node.subscribe([7], handler)
    async with Hostile(guarded, "ada") as ada:
        request = asyncio.create_task(neighbour.request(GET, timeout=60))
        await handler.asked.wait()
        forged = frames.join(inbox_of(node), [frames.answer(token_of(neighbour), b'{"v":1,"data":"Zm9yZ2Vk"}')])
        for inbox in (inbox_of(neighbour), inbox_of(node), b"clstr:in:*", b"*"):
            await ada.may_not_listen(inbox)
        await ada.may_not("PUBLISH", inbox_of(neighbour), forged)
        for command in (
            ("SCRIPT", "LOAD", "return 1"),
            ("SCRIPT", "FLUSH"),
            ("EVAL", "return 1", 0),
            ("ZADD", "clstr:shard:7", 10**15, inbox_of(neighbour)),
            ("ZREM", "clstr:shard:7", inbox_of(node)),
            ("DEL", "clstr:shard:7"),
            ("EVALSHA", HOLD.digest, 1, "clstr:shard:7", b"clstr:in:ada:" + b"0" * 32, b"60000"),
            ("EVALSHA", DROP.digest, 1, "clstr:shard:7", inbox_of(node)),
            ("PUBSUB", "CHANNELS"),
            ("CLIENT", "LIST"),
            ("MONITOR",),
            ("KEYS", "*"),
            ("ACL", "LIST"),
        ):
            await ada.may_not(*command)
        handler.go_on.set()
        assert await request == b"from node-1"
        assert await neighbour.request(GET) == b"from node-1"


async def test_a_hostile_node_neither_hears_nor_answers_what_another_was_asked(
    guarded: Server, as_user: Callable[..., Awaitable[clstr.Transport]]
) -> None:
    """It may publish to clients' inboxes, as it must; what it cannot know is the token."""
    node, client = await as_user("node-1"), await as_user("ada")
    handler = Told()
    await node.subscribe([7], handler)
    async with Hostile(guarded, "node-2") as hostile:
        request = asyncio.create_task(client.request(GET, timeout=60))
        await handler.asked.wait()
        for inbox in (inbox_of(client), inbox_of(node), b"clstr:in:*"):
            await hostile.may_not_listen(inbox)
        guesses = [frames.answer(token, b'{"v":1,"data":"Zm9yZ2Vk"}') for token in range(1000)]
        assert await hostile.redis.publish(inbox_of(client), frames.join(inbox_of(node), guesses)) == 1
        handler.go_on.set()
        assert await request == b"from node-1"
    assert client.stats().late_replies == 1000


async def test_an_answer_s_channel_is_an_inbox_or_nothing(
    guarded: Server, as_user: Callable[..., Awaitable[clstr.Transport]]
) -> None:
    """A node publishes to no channel that a stranger names, unless it is an inbox of the prefix."""
    node, client = await as_user("node-1"), await as_user("ada")
    await node.subscribe([7], echo)
    frame = frames.request(7, 1, b'{"shard":7,"type":"Get","data":null,"v":1}')
    async with Hostile(guarded, "ada") as ada:
        for name in (b"clstr:shard:7", b"news", b"clstr:in:bob:", b"clstr:in:*", inbox_of(node) + b"0", b""):
            await ada.redis.publish(inbox_of(node), frames.join(name, [frame]))
    assert await client.request(GET) == b"reply"  # and all of these are behind us
    assert node.stats().garbage == 6


@pytest.mark.parametrize("user", ["ada:wrong-password", "nobody:x", ":just-a-password", ""])
async def test_wrong_credentials_are_refused_and_told_to_nobody(
    guarded: Server, connect: Connect, user: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with pytest.raises(AuthenticationError, match="refused the credentials") as caught:
        await connect(guarded.port, user=user)
    told = f"{caught.value!r} {caught.value} {caplog.text}"
    assert not user or user.rpartition(":")[2] not in told or user == "nobody:x"


async def test_a_password_is_told_to_nobody(
    as_user: Callable[..., Awaitable[clstr.Transport]], guarded: Server, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    node = await as_user("node-1", "?heartbeat=0.1")
    await node.subscribe([7], echo)
    await guarded.restart()
    async with asyncio.timeout(10):
        while "connected to Redis again" not in caplog.text:  # noqa: ASYNC110 -- a log
            await asyncio.sleep(0)
    told = [node, vars(node), *(vars(each) for each in _parts(node))]
    assert "PLANTED" not in f"{told!r} {caplog.text}"


def _parts(node: clstr.Transport) -> list[object]:
    link = node.link  # type: ignore[attr-defined]  # the engine's
    return [link, link._session, link._leases]


async def test_a_password_alone_is_the_default_user_s(kind: str, connect: Connect) -> None:
    async with SERVERS[kind]("--requirepass", "PLANTED") as server:
        transport = await connect(server.port, user=":PLANTED")
        with pytest.raises(NoShardSubscriberError):
            await transport.request(GET)


# TLS.


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
async def tls_server(kind: str, authority: trustme.CA, tmp_path: Path) -> AsyncIterator[Server]:
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(tmp_path / "server.pem")
    authority.issue_cert("client").private_key_and_cert_chain_pem.write_to_path(tmp_path / "client.pem")
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    files = [f"tls-cert-file {tmp_path}/server.pem", f"tls-key-file {tmp_path}/server.pem"]
    options = [f"tls-ca-cert-file {tmp_path}/ca.pem", "tls-auth-clients optional"]
    async with AsyncExitStack() as stack:
        try:
            server = await stack.enter_async_context(SERVERS[kind](tls=True, config="\n".join([*files, *options])))
        except ServerStartError as error:
            if "TLS" not in error.log and "tls-" not in error.log:
                raise
            pytest.skip("this server is built without TLS")
        yield server


async def test_tls(tls_server: Server, connect: Connect, tmp_path: Path) -> None:
    node, client = [await connect(tls_server.port, scheme="rediss", query=f"?tls_ca={tmp_path}/ca.pem") for _ in "12"]
    await node.subscribe([7], echo)
    assert await client.request(GET) == b"reply"
    assert await client.request(Envelope(shard=7, type="Get", data=bytes(1_000_000))) == bytes(1_000_000)


async def test_a_certificate_that_nobody_vouches_for_is_refused(tls_server: Server, connect: Connect) -> None:
    with pytest.raises(TransportUnavailableError, match="certificate"):
        await connect(tls_server.port, scheme="rediss")


async def test_a_certificate_for_another_name_is_refused(tls_server: Server, tmp_path: Path) -> None:
    with pytest.raises(TransportUnavailableError, match="certificate"):
        await clstr.connect(f"rediss://localhost:{tls_server.port}?tls_ca={tmp_path}/ca.pem")


async def test_a_client_s_certificate_can_be_asked_for(tls_server: Server, connect: Connect, tmp_path: Path) -> None:
    query = f"?tls_ca={tmp_path}/ca.pem&tls_cert={tmp_path}/client.pem&tls_key={tmp_path}/client.pem"
    admin = Redis(host="127.0.0.1", port=tls_server.port, ssl=True, ssl_ca_certs=f"{tmp_path}/ca.pem")
    async with admin:
        await admin.config_set("tls-auth-clients", "yes")
    transport = await connect(tls_server.port, scheme="rediss", query=query)
    with pytest.raises(NoShardSubscriberError):
        await transport.request(GET)
    with pytest.raises(TransportUnavailableError):
        await connect(tls_server.port, scheme="rediss", query=f"?tls_ca={tmp_path}/ca.pem")


async def test_a_tls_key_that_everybody_can_read_is_warned_of(
    tls_server: Server, connect: Connect, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "client.pem").chmod(0o644)
    query = f"?tls_ca={tmp_path}/ca.pem&tls_cert={tmp_path}/client.pem&tls_key={tmp_path}/client.pem"
    await connect(tls_server.port, scheme="rediss", query=query)
    assert f"the TLS key in {tmp_path}/client.pem can be read" in caplog.text


async def test_a_server_without_tls_gets_no_secret(fake_server: object, connect: Connect) -> None:
    port: int = getattr(fake_server, "port")  # noqa: B009 -- its type is the conftest's own
    with pytest.raises(TransportUnavailableError):
        await connect(port, scheme="rediss", user="u:PLANTED", connect_timeout=0.5)
    assert getattr(fake_server, "said") == []  # noqa: B009


async def test_a_server_that_wants_tls_gets_none_and_is_named(tls_server: Server, connect: Connect) -> None:
    with pytest.raises(TransportUnavailableError, match=f"127.0.0.1:{tls_server.port} cannot be used"):
        await connect(tls_server.port, connect_timeout=1.0)


async def test_files_that_were_renewed_are_read_at_the_next_connect(
    tls_server: Server, connect: Connect, tmp_path: Path
) -> None:
    """The authority changes, and everything that it has signed."""
    query = f"?tls_ca={tmp_path}/ca.pem&tls_cert={tmp_path}/client.pem&tls_key={tmp_path}/client.pem"
    transport = await connect(tls_server.port, scheme="rediss", query=query)
    await transport.subscribe([7], echo)
    renewed = trustme.CA()
    renewed.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(tmp_path / "server.pem")
    renewed.issue_cert("client").private_key_and_cert_chain_pem.write_to_path(tmp_path / "client.pem")
    renewed.cert_pem.write_to_path(tmp_path / "ca.pem")
    await tls_server.restart()
    assert await until_answered(transport) == b"reply"


# Credentials that expire.


async def until_answered(transport: clstr.Transport) -> bytes:
    async with asyncio.timeout(20):
        while True:
            with suppress(ClstrError):
                return await transport.request(GET)


class Provider:
    """As redis-py's `CredentialProvider`."""

    def __init__(self) -> None:
        self.password = "first"

    def get_credentials(self) -> tuple[str, str]:
        return "default", self.password


@pytest.mark.parametrize("form", ["function", "provider"])
async def test_credentials_are_asked_for_at_each_connect(kind: str, connect: Connect, form: str) -> None:
    """The server forgets the old ones, and drops who came with them."""
    provider = Provider()

    async def ask() -> str:
        return provider.password

    async with SERVERS[kind]("--requirepass", "first") as server:
        transport = await connect(server.port, credentials=provider if form == "provider" else ask)
        await transport.subscribe([7], echo)
        async with Redis(host="127.0.0.1", port=server.port, password=provider.password) as admin:
            provider.password = "second"
            await admin.config_set("requirepass", "second")
            await admin.client_kill_filter(_type="pubsub")
        assert await until_answered(transport) == b"reply"


async def test_credentials_beside_a_user_in_the_url_are_refused(connect: Connect) -> None:
    with pytest.raises(ValueError, match="give one"):
        await connect(1, user="ada:secret", credentials=lambda: "secret")


async def test_credentials_in_the_url_are_refused_and_not_shown() -> None:
    with pytest.raises(ValueError, match="'credentials': it is malformed"):
        await clstr.connect("redis://127.0.0.1?credentials=secret")


# What the server says may repeat what it was sent.

ECHOES = {
    "an old server": b"-ERR unknown command 'HELLO', with args beginning with: '3' 'AUTH' 'u' 'PLANTED'\r\n",
    "a proxy": b"-ERR Syntax error in HELLO option 'PLANTED'\r\n",
    "a refusal": b"-WRONGPASS invalid password PLANTED\r\n",
    "another": b"-PLANTED\r\n",
}


def chain_of(error: BaseException) -> list[BaseException]:
    """Return ``error`` and all that led to it, as a debugger or an error tracker walks it."""
    found, left = list[BaseException](), [error]
    while left:
        each = left.pop()
        if each not in found:
            found.append(each)
            left += [other for other in (each.__cause__, each.__context__) if other is not None]
    return found


@pytest.mark.parametrize("said", ECHOES.values(), ids=ECHOES)
@pytest.mark.parametrize("way", ["url", "credentials"])
async def test_a_password_that_the_server_repeats_is_in_no_error_and_in_no_chain(
    fake_server: Any, connect: Connect, said: bytes, way: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    fake_server.answers[b"HELLO"] = said
    how: dict[str, Any] = {"user": "u:PLANTED"} if way == "url" else {"credentials": lambda: ("u", "PLANTED")}
    with pytest.raises(ClstrError) as caught:
        await connect(fake_server.port, **how)
    assert "PLANTED" in str(fake_server.said)  # it was sent
    assert "PLANTED" not in f"{[repr(each) for each in chain_of(caught.value)]} {caplog.text}"
