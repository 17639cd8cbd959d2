"""TLS, users, and the least rights that nodes and clients need."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import os
import re
import signal
import ssl
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import nats
import nkeys  # type: ignore[import-untyped]  # it has no types
import pytest
import trustme
from nats.aio.client import Client

import clstr
from clstr import Envelope
from clstr.errors import (
    AccessDeniedError,
    AuthenticationError,
    ClstrError,
    NoShardSubscriberError,
    PluginImportError,
    RequestTimeoutError,
    TransportUnavailableError,
)
from clstr_testing import Server, free_port, nats_server

Connect = Callable[..., Awaitable[clstr.Transport]]
GET = Envelope(shard=7, type="Get")

PAGE = Path(__file__).parents[3] / "docs" / "transports" / "nats.md"


def documented_users() -> str:
    """Return what the documentation tells operators to write, with a neighbour of the client, and somebody else."""
    block = re.search(r"^```text\n(authorization .*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    assert block
    config = re.sub(r"user: (\w)(\w+), password: \.\.\.", r"user: \1\2, password: PLANTED-\1", block[1])
    client = re.search(r"    \{ user: client.*?\} \}\n", config, re.DOTALL)
    assert client
    other = """
    { user: other, password: PLANTED-o, permissions: {
        subscribe: ["_INBOX_other.>"]
        publish: ["_INBOX_other.>"] } }
"""
    return config.replace(
        client[0], client[0] + client[0].replace("client", "bob").replace("PLANTED-c", "PLANTED-b") + other
    )


USERS = documented_users()


async def eventually(call: Callable[[], Awaitable[bytes]]) -> bytes:
    """Call until it goes well: for what comes back by itself."""
    async with asyncio.timeout(15):
        while True:
            try:
                return await call()
            except ClstrError:
                await asyncio.sleep(0)


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


async def test_the_least_rights_are_enough_for_answers_that_the_node_keeps(
    as_user: Callable[[str], Awaitable[clstr.Transport]], caplog: pytest.LogCaptureFixture
) -> None:
    node, client = await as_user("node"), await as_user("client")
    answer = bytes(600_000)

    async def large(_: Envelope) -> bytes:
        return answer

    await node.subscribe([7], large)
    answers = await asyncio.gather(*(client.request(GET, timeout=60) for _ in range(60)))
    assert set(answers) == {answer}
    assert node.answers.held.shard in node.link._held  # type: ignore[attr-defined]  # the engine's, and NATS' own
    assert "refuses shard" not in caplog.text


async def test_a_node_that_may_have_its_own_shards_alone_answers_all_the_same(
    connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    users = USERS.replace('"clstr.shard.* clstr"', '"clstr.shard.7 clstr"')

    async def large(_: Envelope) -> bytes:
        return bytes(600_000)

    async with nats_server(config=users) as server:
        node = await connect(server.port, user="node:PLANTED-n", query="?inbox_prefix=_INBOX_node")
        client = await connect(server.port, user="client:PLANTED-c", query="?inbox_prefix=_INBOX_client")
        await node.subscribe([7], large)
        for _ in range(3):
            assert len(await client.request(GET)) == 600_000
    assert caplog.text.count("the broker refuses shard") == 1


async def test_a_client_may_not_own_a_shard(as_user: Callable[[str], Awaitable[clstr.Transport]]) -> None:
    client = await as_user("client")
    async with asyncio.timeout(5):
        with pytest.raises(AccessDeniedError, match=r"may not subscribe to clstr\.shard\.7 .* grant"):
            await client.subscribe([7], echo)


async def test_who_may_not_send_learns_it_at_once(as_user: Callable[[str], Awaitable[clstr.Transport]]) -> None:
    node, other = await as_user("node"), await as_user("other")
    await node.subscribe([7], echo)
    async with asyncio.timeout(5):
        for _ in range(2):
            with pytest.raises(AccessDeniedError, match=r"may not publish to clstr\.shard\.7: grant") as caught:
                await other.request(GET, timeout=60)
            assert not caught.value.maybe_executed
            with pytest.raises(AccessDeniedError):
                await other.notify(Envelope(shard=8, type="Get"), timeout=60)


async def test_however_many_may_not_be_sent_each_is_told(
    as_user: Callable[[str], Awaitable[clstr.Transport]],
) -> None:
    node, other = await as_user("node"), await as_user("other")
    await node.subscribe([7], echo)
    async with asyncio.timeout(10):
        calls = [
            *(other.request(GET, timeout=60) for _ in range(300)),
            *(other.notify(GET, timeout=60) for _ in range(300)),
        ]
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} == {AccessDeniedError}


async def test_an_answer_that_may_not_be_sent_costs_neither_memory_nor_many_lines(
    guarded: Server, as_user: Callable[[str], Awaitable[clstr.Transport]], caplog: pytest.LogCaptureFixture
) -> None:
    node = await as_user("node")
    await node.subscribe([7], echo)
    stranger = await nats.connect(guarded.url, user="client", password="PLANTED-c", inbox_prefix="_INBOX_client")
    for number in range(500):
        body = b'{"shard":7,"type":"t","data":null,"reply_to":"_INBOX.PLANTED%d"}' % number
        await stranger.publish("clstr.shard.7", body)
    await stranger.flush()
    await stranger.close()
    async with asyncio.timeout(10):
        while "refused" not in caplog.text:  # noqa: ASYNC110 -- a log tells no event
            await asyncio.sleep(0)
    client = await as_user("client")
    assert await client.request(GET) == b"reply"  # and all the others are behind us
    assert len(caplog.records) < 10
    assert "PLANTED" not in caplog.text
    assert not node.link._rights._denied  # type: ignore[attr-defined]  # the fixture's type is any transport


# Rights that change while everybody is connected.


async def reloaded(server: Server, config: str) -> None:
    """Let ``server`` read ``config``."""
    (server.log.parent / "config").write_text(config, encoding="utf-8")
    count = server.log.read_text().count("Reloaded server configuration")
    os.kill(server.pid, signal.SIGHUP)
    async with asyncio.timeout(10):
        while server.log.read_text().count("Reloaded server configuration") == count:  # noqa: ASYNC110 -- a log
            await asyncio.sleep(0.001)


async def test_a_right_to_send_that_is_granted_later_is_used(
    guarded: Server, as_user: Callable[[str], Awaitable[clstr.Transport]]
) -> None:
    node, other = await as_user("node"), await as_user("other")
    await node.subscribe([7], echo)
    with pytest.raises(AccessDeniedError):
        await other.request(GET)
    await reloaded(guarded, USERS.replace('publish: ["_INBOX_other.>"]', 'publish: ["clstr.shard.*"]'))
    assert await eventually(lambda: other.request(GET)) == b"reply"


async def test_a_right_to_listen_that_is_taken_is_logged_and_when_granted_again_used(
    guarded: Server, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    query = "?inbox_prefix=_INBOX_{}&heartbeat=0.05"
    node = await connect(guarded.port, user="node:PLANTED-n", query=query.format("node"))
    client = await connect(guarded.port, user="client:PLANTED-c", query=query.format("client"))
    await node.subscribe([7], echo)
    await reloaded(guarded, USERS.replace('"clstr.shard.* clstr", ', ""))
    async with asyncio.timeout(10):
        while "may no longer subscribe to: clstr.shard.7" not in caplog.text:  # noqa: ASYNC110 -- a log tells no event
            await asyncio.sleep(0)
    await reloaded(guarded, USERS)
    assert await eventually(lambda: client.request(GET)) == b"reply"


async def test_a_right_to_send_that_is_taken_is_no_proof_that_what_was_sent_did_not_run(
    guarded: Server, connect: Connect, as_user: Callable[[str], Awaitable[clstr.Transport]]
) -> None:
    node, client = await as_user("node"), await as_user("client")
    started, go_on = asyncio.Event(), asyncio.Event()

    async def wait(_: Envelope) -> bytes:
        started.set()
        await go_on.wait()
        return b"done"

    go_on.set()
    await node.subscribe([7], wait)
    assert await client.request(GET) == b"done"
    go_on.clear()
    started.clear()
    running = asyncio.create_task(client.request(GET, timeout=60))
    await started.wait()
    await reloaded(guarded, USERS.replace('publish: ["clstr.shard.*"]', 'publish: ["nothing"]'))
    with pytest.raises(RequestTimeoutError):  # the shard was proved before: nothing is claimed of it any more
        await client.request(GET, timeout=0.2)
    with pytest.raises(AccessDeniedError):
        await client.request(GET, timeout=60)
    assert not running.done()
    running.cancel()


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


# Hostile peers: each has exactly the documented rights of a client, or of a node, and its own ways of using them.


class Hostile:
    """A plain client of the server with one user's rights, and what the server refused it."""

    def __init__(self, server: Server, user: str) -> None:
        self._server = server
        self._user = user
        self.denied: list[str] = []
        self.nats: Client

    async def __aenter__(self) -> Self:
        async def note(error: Exception) -> None:
            self.denied.append(str(error))

        credentials = {"user": self._user, "password": f"PLANTED-{self._user[0]}"}
        self.nats = await nats.connect(self._server.url, error_cb=note, allow_reconnect=False, **credentials)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.nats.close()

    async def flush(self) -> None:
        """Return when the server has said what it refuses: its word comes before the second PONG."""
        await self.nats.flush()
        await self.nats.flush()

    async def may_not_listen(self, *subjects: str) -> None:
        self.denied.clear()
        for subject in subjects:
            for queue in ("", "clstr"):
                await self.nats.subscribe(subject, queue=queue)
        await self.flush()
        assert [each.partition(" to ")[0] for each in self.denied] == [
            "nats: permissions violation for subscription"
        ] * (2 * len(subjects))

    async def may_not_say(self, *subjects: str) -> None:
        self.denied.clear()
        for subject in subjects:
            await self.nats.publish(subject, FORGED)
        await self.flush()
        assert [each.partition(" to ")[0] for each in self.denied] == ["nats: permissions violation for publish"] * len(
            subjects
        )


FORGED = b'{"v":1,"data":"Zm9yZ2Vk"}'


class Told:
    """A node's handler that tells what it was asked, and answers when it is told to."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.go_on = asyncio.Event()

    async def __call__(self, _: Envelope) -> bytes:
        self.asked.set()
        await self.go_on.wait()
        return b"from the node"


def address_of(transport: clstr.Transport) -> str:
    """Return where the answer of its one request is expected."""
    (token,) = transport.pending._by_token  # type: ignore[attr-defined]  # the engine's
    address: str = transport.link._subjects.reply_to(7, token)  # type: ignore[attr-defined]
    return address


async def test_a_hostile_client_sees_and_changes_nothing_of_its_neighbour_s(
    guarded: Server, as_user: Callable[[str], Awaitable[clstr.Transport]]
) -> None:
    """It knows every name, the neighbour's address included, which it could not."""
    node, neighbour = await as_user("node"), await as_user("bob")
    handler = Told()
    await node.subscribe([7], handler)
    async with Hostile(guarded, "client") as hostile:
        request = asyncio.create_task(neighbour.request(GET, timeout=60))
        await handler.asked.wait()
        address = address_of(neighbour)
        await hostile.may_not_listen(address, "_INBOX_bob.>", "_INBOX_node.>", "clstr.shard.7", "clstr.>", ">")
        await hostile.may_not_say(address, "_INBOX_node.x", "clstr.other")
        handler.go_on.set()
        assert await request == b"from the node"
        assert await neighbour.request(GET) == b"from the node"


async def test_a_hostile_node_neither_hears_nor_answers_what_another_was_asked(
    guarded: Server, as_user: Callable[[str], Awaitable[clstr.Transport]]
) -> None:
    """It knows the address of the answer, which it could not, and was asked something by the same client itself."""
    node, client = await as_user("node"), await as_user("client")
    handler = Told()
    await node.subscribe([7], handler)
    async with Hostile(guarded, "node") as hostile:
        own = await hostile.nats.subscribe("clstr.shard.8", queue="clstr")
        await hostile.flush()
        asked = asyncio.create_task(client.request(Envelope(shard=8, type="Get"), timeout=60))
        message = await own.next_msg(timeout=10)
        await hostile.nats.publish(message.reply, FORGED)
        assert await asked == b"forged"  # what it is asked itself it may answer, once
        await hostile.may_not_say(message.reply)
        request = asyncio.create_task(client.request(GET, timeout=60))
        await handler.asked.wait()
        await hostile.may_not_listen(address_of(client), "_INBOX_client.>", ">")
        await hostile.may_not_say(address_of(client), "_INBOX_client.x", "_INBOX_node.x", "clstr.shard.7")
        handler.go_on.set()
        assert await request == b"from the node"


@pytest.mark.parametrize("address", ["clstr.shard.9", "news", "$JS.ACK.s.c.1.1.1.1.0", "_INBOXES"])
async def test_a_node_answers_nowhere_but_at_inboxes(server: Server, connect: Connect, address: str) -> None:
    """A node that may publish everything, and a stranger that names a subject as where to answer."""
    node = await connect(server.port)
    await node.subscribe([7], echo)
    stranger = await nats.connect(server.url)
    heard = [await stranger.subscribe(address), await stranger.subscribe("_INBOX.x.1_7")]
    body = b'{"shard":7,"type":"t","data":null%s}'
    await stranger.publish("clstr.shard.7", body % b"", reply=address)
    await stranger.publish("clstr.shard.7", body % b',"reply_to":"_INBOX.x.1_7"', reply=address)
    await stranger.publish("clstr.shard.7", body % (b',"reply_to":"%s"' % address.encode()))
    assert (await stranger.request("clstr.shard.7", body % b"", timeout=10)).data  # all of these are behind us
    assert [each.pending_msgs for each in heard] == [0, 0]
    await stranger.close()


async def test_an_inbox_that_may_not_be_read_is_an_error_at_once(guarded: Server, connect: Connect) -> None:
    with pytest.raises(AccessDeniedError, match="inbox_prefix"):
        await connect(guarded.port, user="client:PLANTED-c")


@pytest.mark.parametrize("user", ["client:hunter2", "nobody:hunter2", "just-a-token", ""])
async def test_wrong_credentials_are_refused_and_told_to_nobody(
    guarded: Server, connect: Connect, user: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with pytest.raises(AuthenticationError, match="refused the credentials") as caught:
        await connect(guarded.port, user=user)
    told = f"{caught.value!r} {caught.value} {caplog.text}"
    assert not any(secret and secret in told for secret in user.split(":"))


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


async def test_a_bad_nkey_is_an_authentication_error(connect: Connect, seed: tuple[str, str]) -> None:
    async with nats_server(config=f"authorization {{ users: [{{ nkey: {seed[1]} }}] }}") as server:
        for bad in (seed[0][:-4], "SUAnonsense", "x"):
            with pytest.raises(AuthenticationError, match="nkey") as caught:
                await connect(server.port, nkey_seed=bad)
            assert seed[0][:20] not in str(caught.value)


async def test_nkeys_that_are_not_installed_are_asked_for(
    connect: Connect, seed: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "nkeys", None)
    async with nats_server(config=f"authorization {{ users: [{{ nkey: {seed[1]} }}] }}") as server:
        with pytest.raises(PluginImportError, match=r"pip install 'clstr-nats\[nkeys\]'"):
            await connect(server.port, nkey_seed=seed[0])


async def test_of_several_servers_the_one_that_refuses_the_credentials_is_named(
    guarded: Server, connect: Connect, unused_tcp_port: int
) -> None:
    for _ in range(4):  # whichever comes first
        with pytest.raises(AuthenticationError, match=str(guarded.port)):
            await clstr.connect(f"nats://client:no@127.0.0.1:{unused_tcp_port},127.0.0.1:{guarded.port}")


# Credentials files, as an operator's tools write them.


class Operator:
    """An operator with one account and one user, and the files that it hands out."""

    def __init__(self, path: Path) -> None:
        self.path = path
        operator, account, user = (
            nkeys.encode_seed(os.urandom(32), prefix)
            for prefix in (nkeys.PREFIX_BYTE_OPERATOR, nkeys.PREFIX_BYTE_ACCOUNT, nkeys.PREFIX_BYTE_USER)
        )
        self._user_seed = bytes(user).decode()
        self._account = nkeys.from_seed(bytearray(account))
        self._user = nkeys.from_seed(bytearray(user)).public_key.decode()
        signer = nkeys.from_seed(bytearray(operator))
        name, self.account = signer.public_key.decode(), self._account.public_key.decode()
        limits = dict.fromkeys(("subs", "conn", "leaf", "imports", "exports", "data", "payload"), -1)
        claims = {"type": "account", "version": 2, "limits": {**limits, "wildcards": True}}
        own = _token(signer, sub=name, nats={"type": "operator", "version": 2})
        theirs = _token(signer, sub=self.account, nats=claims)
        self.config = f'operator: "{own}"\nresolver: MEMORY\nresolver_preload: {{ {self.account}: "{theirs}" }}\n'

    def write(self, **claims: object) -> str:
        """Write the user's file anew; return what it says."""
        nats_claims = {"type": "user", "version": 2, "subs": -1, "data": -1, "payload": -1, "pub": {}, "sub": {}}
        token = _token(self._account, sub=self._user, nats=nats_claims, **claims)
        blocks = {"NATS USER JWT": token, "USER NKEY SEED": self._user_seed}
        text = "".join(f"-----BEGIN {name}-----\n{block}\n------END {name}------\n\n" for name, block in blocks.items())
        self.path.write_text(text)
        return text


def _token(signer: Any, **claims: object) -> str:  # Any: nkeys has no types
    def text(value: bytes) -> str:
        return base64.urlsafe_b64encode(value).rstrip(b"=").decode()

    claims = {**claims, "name": "n", "jti": "x", "iss": signer.public_key.decode(), "iat": int(time.time())}
    head = text(json.dumps({"typ": "JWT", "alg": "ed25519-nkey"}).encode())
    body = f"{head}.{text(json.dumps(claims).encode())}"
    return f"{body}.{text(signer.sign(body.encode()))}"


@pytest.fixture
def operator(tmp_path: Path) -> Operator:
    return Operator(tmp_path / "user.creds")


async def test_a_credentials_file(connect: Connect, operator: Operator) -> None:
    operator.write()
    async with nats_server(config=operator.config) as server:
        for options in ({"creds": str(operator.path)}, {"query": f"?creds={operator.path}"}):
            transport = await connect(server.port, **options)
            with pytest.raises(NoShardSubscriberError):
                await transport.request(GET)


async def test_a_secret_s_file_that_everybody_can_read_is_warned_of(
    connect: Connect, operator: Operator, seed: tuple[str, str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    operator.write()
    (tmp_path / "seed").write_text(seed[0])
    for path in (operator.path, tmp_path / "seed"):
        path.chmod(0o604)
    async with nats_server(config=operator.config) as server:
        await connect(server.port, creds=str(operator.path))
    async with nats_server(config=f"authorization {{ users: [{{ nkey: {seed[1]} }}] }}") as server:
        await connect(server.port, nkey=str(tmp_path / "seed"))
    warnings = [record.getMessage() for record in caplog.records if "every user of this machine" in record.getMessage()]
    assert [warning.partition(" can be")[0] for warning in warnings] == [
        f"the credentials in {operator.path}",
        f"the nkey in {tmp_path}/seed",
    ]


async def test_a_credentials_file_is_read_again_when_its_user_has_expired(
    connect: Connect, operator: Operator, caplog: pytest.LogCaptureFixture
) -> None:
    operator.write(exp=int(time.time()) + 2)
    async with nats_server(config=operator.config) as server:
        transport = await connect(server.port, creds=str(operator.path))
        await transport.subscribe([7], echo)
        operator.write()
        async with asyncio.timeout(20):
            while "down" not in caplog.text:  # noqa: ASYNC110 -- a log tells no event
                await asyncio.sleep(0.01)
        assert await eventually(lambda: transport.request(GET)) == b"reply"


@pytest.mark.parametrize("keep", ["USER NKEY SEED", "NATS USER JWT", "nothing"])
async def test_a_credentials_file_that_is_cut_off_is_an_error_at_once(
    connect: Connect, operator: Operator, keep: str
) -> None:
    _, _, rest = operator.write().partition(f"-----BEGIN {keep}")
    block, _, _ = rest.partition("\n\n")
    operator.path.write_text(f"-----BEGIN {keep}{block}\n" if block else "")
    async with nats_server(config=operator.config) as server, asyncio.timeout(10):
        with pytest.raises(AuthenticationError, match=r"user\.creds is not complete"):
            await connect(server.port, creds=str(operator.path))


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


async def test_a_tls_key_that_everybody_can_read_is_warned_of(
    connect: Connect, tls_server: Server, authority: trustme.CA, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The key is in the certificate's file here."""
    authority.issue_cert("client").private_key_and_cert_chain_pem.write_to_path(tmp_path / "client.pem")
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    (tmp_path / "client.pem").chmod(0o644)
    query = f"?tls_ca={tmp_path}/ca.pem&tls_cert={tmp_path}/client.pem"
    await connect(tls_server.port, scheme="nats+tls", query=query)
    assert f"the TLS key in {tmp_path}/client.pem can be read" in caplog.text


async def test_tls_from_the_first_byte(connect: Connect, authority: trustme.CA, tmp_path: Path) -> None:
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(tmp_path / "server.pem")
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    files = f'cert_file: "{tmp_path}/server.pem", key_file: "{tmp_path}/server.pem"'
    async with nats_server(config=f"tls {{ {files}, handshake_first: true }}", tls=True) as server:
        query = f"?tls_ca={tmp_path}/ca.pem&tls_first=true"
        transport = await connect(server.port, scheme="nats+tls", query=query)
        with pytest.raises(NoShardSubscriberError):
            await transport.request(GET)


async def test_files_that_were_renewed_are_read_at_the_next_connect(
    connect: Connect, authority: trustme.CA, tmp_path: Path
) -> None:
    """The authority changes, and everything that it has signed."""

    def write(by: trustme.CA) -> None:
        by.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(tmp_path / "server.pem")
        by.issue_cert("client").private_key_and_cert_chain_pem.write_to_path(tmp_path / "client.pem")
        by.cert_pem.write_to_path(tmp_path / "ca.pem")

    write(authority)
    files = f'cert_file: "{tmp_path}/server.pem", key_file: "{tmp_path}/server.pem", ca_file: "{tmp_path}/ca.pem"'
    async with nats_server(config=f"tls {{ {files}, verify: true }}") as server:
        query = f"?tls_ca={tmp_path}/ca.pem&tls_cert={tmp_path}/client.pem&tls_key={tmp_path}/client.pem"
        transport = await connect(server.port, scheme="nats+tls", query=query)
        await transport.subscribe([7], echo)
        await server.stop()
        write(trustme.CA())
        await server.restart()
        async with asyncio.timeout(20):
            while True:
                with suppress(ClstrError):
                    assert await transport.request(GET) == b"reply"
                    break


async def test_a_tls_file_that_is_half_written_is_an_outage_and_no_end(
    connect: Connect, authority: trustme.CA, tmp_path: Path, tls_server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    transport = await connect(tls_server.port, scheme="nats+tls", query=f"?tls_ca={tmp_path}/ca.pem")
    (tmp_path / "ca.pem").write_text("half written")
    tls_server.kill()
    await tls_server.restart()
    async with asyncio.timeout(20):
        while "TLS files or the credentials cannot be read" not in caplog.text:  # noqa: ASYNC110 -- a log
            await asyncio.sleep(0)
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    async with asyncio.timeout(20):
        while True:
            try:
                await transport.request(GET)
            except NoShardSubscriberError:
                break
            except ClstrError:
                continue


# Credentials that expire.


@pytest.mark.parametrize("form", ["user and password", "token"])
async def test_credentials_are_asked_for_at_each_connect(connect: Connect, form: str, tmp_path: Path) -> None:
    """The server forgets the old ones as it restarts."""
    current = "first"

    async def ask() -> str | tuple[str, str]:
        return current if form == "token" else ("ada", current)

    def config() -> str:
        return f"token: {current}" if form == "token" else f"user: ada, password: {current}"

    port = free_port()
    async with nats_server(config=f"authorization {{ {config()} }}", port=port):
        transport = await connect(port, credentials=ask)
        await transport.subscribe([7], echo)
        assert await transport.request(GET) == b"reply"
    current = "second"
    async with nats_server(config=f"authorization {{ {config()} }}", port=port), asyncio.timeout(20):
        while True:
            with suppress(ClstrError):
                assert await transport.request(GET) == b"reply"
                break


async def test_credentials_that_do_not_come_in_time_are_an_error(server: Server, connect: Connect) -> None:
    async def never() -> str:
        await asyncio.Event().wait()
        return ""

    with pytest.raises(TransportUnavailableError, match=r"in time|within"):
        await connect(server.port, credentials=never, connect_timeout=0.1)


# What the server says may repeat what it was sent.


def chain_of(error: BaseException) -> list[BaseException]:
    """Return ``error`` and all that led to it, as a debugger or an error tracker walks it."""
    found, left = list[BaseException](), [error]
    while left:
        each = left.pop()
        if each not in found:
            found.append(each)
            left += [other for other in (each.__cause__, each.__context__) if other is not None]
    return found


@pytest.mark.parametrize("said", ["Authorization Violation for PLANTED", "who is PLANTED?"])
@pytest.mark.parametrize("way", ["url", "token", "credentials"])
async def test_a_secret_that_the_server_repeats_is_in_no_error_and_in_no_chain(
    fake_server: Any, connect: Connect, said: str, way: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    fake_server.on_ping = f"-ERR '{said}'\r\n".encode()
    ways: dict[str, dict[str, Any]] = {
        "url": {"user": "u:PLANTED"},
        "token": {"token": "PLANTED"},
        "credentials": {"credentials": lambda: ("u", "PLANTED")},
    }
    with pytest.raises(ClstrError) as caught:
        await connect(fake_server.port, **ways[way])
    assert "PLANTED" in str(fake_server.said)  # it was sent
    assert "PLANTED" not in f"{[repr(each) for each in chain_of(caught.value)]} {caplog.text}"


async def test_a_bad_seed_is_in_no_error_and_in_no_chain(
    fake_server: Any, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    fake_server.info["nonce"] = "nonce"
    with pytest.raises(AuthenticationError) as caught:
        await connect(fake_server.port, nkey_seed="SUAPLANTED")
    assert "PLANTED" not in f"{[repr(each) for each in chain_of(caught.value)]} {caplog.text}"
