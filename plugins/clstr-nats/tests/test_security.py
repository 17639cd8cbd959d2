"""TLS, users, and the least rights that nodes and clients need."""

from __future__ import annotations

import asyncio
import logging
import os
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import nats
import nkeys  # type: ignore[import-untyped]  # it has no types
import pytest
import trustme

import clstr
from clstr import Envelope
from clstr.errors import AccessDeniedError, AuthenticationError, NoShardSubscriberError, TransportUnavailableError
from clstr_testing import Server, nats_server

Connect = Callable[..., Awaitable[clstr.Transport]]
GET = Envelope(shard=7, type="Get")

# What docs/transports/nats.md tells operators to write.
USERS = """
authorization {
  users = [
    { user: node, password: PLANTED-n, permissions: {
        subscribe: ["clstr.shard.* clstr", "_INBOX_node.>"]
        publish: ["_INBOX_node.>"]
        allow_responses: { max: 1, expires: "1m" } } }
    { user: client, password: PLANTED-c, permissions: {
        subscribe: ["_INBOX_client.>"]
        publish: ["clstr.shard.*"] } }
    { user: other, password: PLANTED-o, permissions: {
        subscribe: ["_INBOX_other.>"]
        publish: ["_INBOX_other.>"] } }
  ]
}
"""


async def echo(envelope: Envelope) -> bytes:
    return envelope.data or b"reply"


@pytest.fixture
async def guarded() -> AsyncIterator[Server]:
    async with nats_server(config=USERS) as server:
        yield server


@pytest.fixture
def as_user(guarded: Server, connect: Connect) -> Callable[[str], Awaitable[clstr.Transport]]:
    async def open_one(user: str) -> clstr.Transport:
        query = f"?inbox_prefix=_INBOX_{user}"
        return await connect(guarded.port, user=f"{user}:PLANTED-{user[0]}", query=query)

    return open_one


async def test_the_least_rights_are_enough(as_user: Callable[[str], Awaitable[clstr.Transport]]) -> None:
    node, client = await as_user("node"), await as_user("client")
    await node.subscribe([7], echo)
    assert await client.request(GET) == b"reply"
    await client.notify(GET)
    with pytest.raises(NoShardSubscriberError):
        await client.request(Envelope(shard=8, type="Get"))


async def test_a_client_may_not_own_a_shard(as_user: Callable[[str], Awaitable[clstr.Transport]]) -> None:
    client = await as_user("client")
    async with asyncio.timeout(5):
        with pytest.raises(AccessDeniedError, match=r"may not subscribe to clstr\.shard\.7 .* grant"):
            await client.subscribe([7], echo)


async def test_who_may_not_send_learns_it_at_once(as_user: Callable[[str], Awaitable[clstr.Transport]]) -> None:
    node, other = await as_user("node"), await as_user("other")
    await node.subscribe([7], echo)
    async with asyncio.timeout(5):
        for _ in range(2):  # told by the server, and then known
            with pytest.raises(AccessDeniedError, match=r"may not publish to clstr\.shard\.7: grant") as caught:
                await other.request(GET, timeout=60)
            assert not caught.value.maybe_executed
            with pytest.raises(AccessDeniedError):
                await other.notify(Envelope(shard=8, type="Get"), timeout=60)


async def test_nobody_else_can_listen_to_a_shard_or_to_another_s_answers(guarded: Server) -> None:
    denied: list[str] = []

    async def note(error: Exception) -> None:
        denied.append(str(error))

    for user, password, subject, queue in [
        ("client", "PLANTED-c", "clstr.shard.7", ""),
        ("client", "PLANTED-c", "clstr.shard.7", "clstr"),
        ("client", "PLANTED-c", "_INBOX_node.>", ""),
        ("node", "PLANTED-n", "clstr.shard.7", ""),
        ("node", "PLANTED-n", "_INBOX_client.>", ""),
    ]:
        connection = await nats.connect(guarded.url, user=user, password=password, error_cb=note)
        await connection.subscribe(subject, queue=queue)
        await connection.flush()
        await connection.flush()
        await connection.close()
    assert len(denied) == 5
    assert all("permissions violation for subscription" in sentence for sentence in denied)


async def test_an_inbox_that_may_not_be_read_is_an_error_at_once(guarded: Server, connect: Connect) -> None:
    with pytest.raises(AccessDeniedError, match="inbox_prefix"):
        await connect(guarded.port, user="client:PLANTED-c")


@pytest.mark.parametrize("user", ["client:wrong", "nobody:x", "just-a-token", ""])
async def test_wrong_credentials_are_refused_and_told_to_nobody(
    guarded: Server, connect: Connect, user: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with pytest.raises(AuthenticationError, match="refused the credentials") as caught:
        await connect(guarded.port, user=user)
    told = f"{caught.value!r} {caught.value} {caplog.text}"
    assert not user or user not in told


async def test_a_password_is_told_to_nobody(
    as_user: Callable[[str], Awaitable[clstr.Transport]], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    node = await as_user("node")
    assert "PLANTED" not in f"{node!r} {vars(node)} {vars(getattr(node, 'link'))} {caplog.text}"  # noqa: B009


async def test_a_token(connect: Connect) -> None:
    async with nats_server(config="authorization { token: PLANTED }") as server:
        for options in ({"user": "PLANTED"}, {"token": "PLANTED"}):
            with pytest.raises(NoShardSubscriberError):
                await (await connect(server.port, **options)).request(GET)


@pytest.fixture
def seed() -> Iterator[tuple[str, str]]:
    """A user's seed and its public key."""
    made = nkeys.encode_seed(os.urandom(32), nkeys.PREFIX_BYTE_USER)
    pair = nkeys.from_seed(bytearray(made))
    yield bytes(made).decode(), pair.public_key.decode()
    pair.wipe()


async def test_an_nkey(connect: Connect, seed: tuple[str, str], tmp_path: Path) -> None:
    secret, public = seed
    (tmp_path / "seed").write_text(secret)
    async with nats_server(config=f"authorization {{ users: [{{ nkey: {public} }}] }}") as server:
        for options in ({"nkey_seed": secret}, {"nkey": str(tmp_path / "seed")}):
            with pytest.raises(NoShardSubscriberError):
                await (await connect(server.port, **options)).request(GET)


# TLS.


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
async def tls_server(authority: trustme.CA, tmp_path: Path) -> AsyncIterator[Server]:
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(tmp_path / "server.pem")
    config = f'tls {{ cert_file: "{tmp_path}/server.pem", key_file: "{tmp_path}/server.pem" }}'
    async with nats_server(config=config) as server:
        yield server


@pytest.fixture
def context(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


async def test_tls(
    tls_server: Server, connect: Connect, authority: trustme.CA, context: ssl.SSLContext, tmp_path: Path
) -> None:
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    node = await connect(tls_server.port, scheme="nats+tls", tls=context)
    client = await connect(tls_server.port, scheme="tls", query=f"?tls_ca={tmp_path}/ca.pem")
    await node.subscribe([7], echo)
    assert await client.request(GET) == b"reply"
    assert await client.request(Envelope(shard=7, type="Get", data=bytes(500_000))) == bytes(500_000)


async def test_a_certificate_that_nobody_vouches_for_is_refused(tls_server: Server, connect: Connect) -> None:
    with pytest.raises(TransportUnavailableError, match="certificate"):
        await connect(tls_server.port, scheme="nats+tls")


async def test_a_server_without_tls_gets_no_secret(fake_server: object, connect: Connect) -> None:
    port: int = getattr(fake_server, "port")  # noqa: B009 -- its type is the conftest's own
    with pytest.raises(TransportUnavailableError, match="offers no TLS"):
        await connect(port, scheme="nats+tls", user="u:PLANTED")
    assert getattr(fake_server, "said") == []  # noqa: B009


async def test_a_client_s_certificate_can_be_asked_for(connect: Connect, authority: trustme.CA, tmp_path: Path) -> None:
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(tmp_path / "server.pem")
    authority.issue_cert("client").private_key_and_cert_chain_pem.write_to_path(tmp_path / "client.pem")
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    files = f'cert_file: "{tmp_path}/server.pem", key_file: "{tmp_path}/server.pem", ca_file: "{tmp_path}/ca.pem"'
    async with nats_server(config=f"tls {{ {files}, verify: true }}") as server:
        query = f"?tls_ca={tmp_path}/ca.pem&tls_cert={tmp_path}/client.pem&tls_key={tmp_path}/client.pem"
        transport = await connect(server.port, scheme="nats+tls", query=query)
        with pytest.raises(NoShardSubscriberError):
            await transport.request(GET)
        with pytest.raises(TransportUnavailableError):
            await connect(server.port, scheme="nats+tls", query=f"?tls_ca={tmp_path}/ca.pem")


async def test_tls_from_the_first_byte(connect: Connect, authority: trustme.CA, tmp_path: Path) -> None:
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(tmp_path / "server.pem")
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    files = f'cert_file: "{tmp_path}/server.pem", key_file: "{tmp_path}/server.pem"'
    async with nats_server(config=f"tls {{ {files}, handshake_first: true }}", tls=True) as server:
        query = f"?tls_ca={tmp_path}/ca.pem&tls_first=true"
        transport = await connect(server.port, scheme="nats+tls", query=query)
        with pytest.raises(NoShardSubscriberError):
            await transport.request(GET)
