"""Users, the least rights that nodes and clients need, and TLS."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from pathlib import Path

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
from clstr_testing import Server, ServerStartError, redis_server, valkey_server

Connect = Callable[..., Awaitable[clstr.Transport]]
GET = Envelope(shard=7, type="Get")

# What docs/transports/redis.md tells operators to write.
NODE = (
    "~clstr:shard:* &clstr:in:* -@all +hello +ping +subscribe +unsubscribe "
    "+publish +evalsha +script|load +time +zrangebyscore "
    "+zadd +zrem +zremrangebyscore +pexpire +pttl"
)
CLIENT = (
    "~clstr:shard:* &clstr:in:* -@all +hello +ping +subscribe +unsubscribe "
    "+publish +evalsha +script|load +time +zrangebyscore"
)
OTHER = "~other:* &other:* +@all"
SERVERS = {"valkey": valkey_server, "redis": redis_server}


def users(*rules: tuple[str, str]) -> str:
    return "\n".join(f"user {name} on >PLANTED-{name[0]} resetchannels {rule}" for name, rule in rules)


async def echo(envelope: Envelope) -> bytes:
    return envelope.data or b"reply"


@pytest.fixture
async def guarded(kind: str) -> AsyncIterator[Server]:
    config = users(("node", NODE), ("client", CLIENT), ("other", OTHER)) + "\nuser default off\n"
    async with SERVERS[kind](config=config) as server:
        yield server


@pytest.fixture
def as_user(guarded: Server, connect: Connect) -> Callable[..., Awaitable[clstr.Transport]]:
    async def open_one(user: str, query: str = "") -> clstr.Transport:
        return await connect(guarded.port, user=f"{user}:PLANTED-{user[0]}", query=query)

    return open_one


async def test_the_least_rights_are_enough(as_user: Callable[..., Awaitable[clstr.Transport]]) -> None:
    node, client = await as_user("node"), await as_user("client")
    subscription = await node.subscribe([7], echo)
    assert await client.request(GET) == b"reply"
    await client.notify(GET)
    with pytest.raises(NoShardSubscriberError):
        await client.request(Envelope(shard=8, type="Get"))
    await subscription.aclose()
    with pytest.raises(NoShardSubscriberError):
        await client.request(GET)


async def test_a_client_may_not_own_a_shard(as_user: Callable[..., Awaitable[clstr.Transport]]) -> None:
    client = await as_user("client")
    async with asyncio.timeout(5):
        with pytest.raises(AccessDeniedError, match=r"grant .*(zremrangebyscore|clstr:shard:\*)"):
            await client.subscribe([7], echo)


RIGHTS = {
    "+subscribe": r"grant \+subscribe",
    "&clstr:in:*": r"grant &clstr:in:\*",
    "+script|load": r"grant \+script",
    "+publish": r"grant \+publish",
    "+evalsha": r"grant \+evalsha",
    "~clstr:shard:*": r"grant ~clstr:shard:\*",
    "+zrangebyscore": r"grant .*\+zrangebyscore",
    "+time": r"grant .*\+time",
}


@pytest.mark.parametrize(("right", "missing"), RIGHTS.items())
async def test_a_right_that_every_peer_needs_is_named_at_connect(
    kind: str, connect: Connect, right: str, missing: str
) -> None:
    """The first request would be too late, and would not know whether its message was sent."""
    async with SERVERS[kind](config=users(("node", NODE.replace(right, "")))) as server:
        async with asyncio.timeout(5):
            with pytest.raises(AccessDeniedError, match=missing):
                await connect(server.port, user="node:PLANTED-n", connect_timeout=60)


async def test_a_right_that_is_taken_away_is_named_and_nothing_has_run(kind: str, connect: Connect) -> None:
    async with SERVERS[kind](config=users(("node", NODE))) as server:
        client = await connect(server.port, user="node:PLANTED-n")
        async with Redis(host=server.host, port=server.port) as admin:
            await admin.acl_setuser("node", enabled=True, commands=["-evalsha"])
        async with asyncio.timeout(5):
            for send in (client.request, client.notify):
                with pytest.raises(AccessDeniedError, match=r"grant \+evalsha") as caught:
                    await send(GET, timeout=60)
                assert not caught.value.maybe_executed


async def test_looking_for_rights_leaves_no_trace(kind: str, connect: Connect) -> None:
    async with SERVERS[kind]() as server:
        node, client = await connect(server.port), await connect(server.port)
        await node.subscribe([7], echo)
        assert await client.request(GET) == b"reply"
        for peer in (node, client):
            stats = peer.stats  # type: ignore[attr-defined]  # the engine's
            assert (stats.garbage, stats.late_replies, stats.dropped_replies) == (0, 0, 0)
        async with Redis(host=server.host, port=server.port) as admin:
            assert await admin.keys("*") == [b"clstr:shard:7"]


@pytest.mark.parametrize("right", ["+zadd", "+zremrangebyscore", "+pttl", "+pexpire"])
async def test_a_right_that_holding_needs_is_named(kind: str, connect: Connect, right: str) -> None:
    async with SERVERS[kind](config=users(("node", NODE.replace(right, "")))) as server:
        node = await connect(server.port, user="node:PLANTED-n")
        with pytest.raises(AccessDeniedError, match=rf"grant .*\{right}"):
            await node.subscribe([7], echo)


async def test_another_application_can_neither_listen_nor_send(guarded: Server, connect: Connect) -> None:
    node = await connect(guarded.port, user="node:PLANTED-n")
    await node.subscribe([7], echo)
    async with Redis(host=guarded.host, port=guarded.port, username="other", password="PLANTED-o") as other:
        (inbox,) = await other.pubsub_channels("clstr:*")
        async with other.pubsub() as spy:
            await spy.subscribe(inbox)
            with pytest.raises(redis.exceptions.NoPermissionError):
                await spy.get_message(timeout=5)
        with pytest.raises(redis.exceptions.NoPermissionError):
            await other.publish(inbox, b"x")
        with pytest.raises(redis.exceptions.NoPermissionError):
            await other.zadd("clstr:shard:7", {"x": 1})
        with pytest.raises(redis.exceptions.NoPermissionError):
            await other.zrange("clstr:shard:7", 0, -1)
    with pytest.raises(AccessDeniedError, match=r"grant &clstr:in:\*"):
        await connect(guarded.port, user="other:PLANTED-o")


@pytest.mark.parametrize("user", ["client:wrong-password", "nobody:x", ":just-a-password", ""])
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
    node = await as_user("node", "?heartbeat=0.1")
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
