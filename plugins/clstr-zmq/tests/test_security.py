"""CURVE: who gets in, who does not, and that it fails closed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import zmq
from zmq.utils import z85

import clstr
from clstr.spi import Engine, pack, unpack
from clstr_zmq.__main__ import main, make_key
from clstr_zmq._counters import Counters
from clstr_zmq._curve import Curve, Security
from clstr_zmq._key_files import read_key_file
from clstr_zmq._link import ZmqLink
from clstr_zmq._peers_file import Listed, Role, read_peers
from clstr_zmq._protocol import Control, Hello, Holds, Peers, Ping, Place, Pong, Refused, Welcome, decode, encode

Connect = Callable[..., Awaitable[clstr.Transport]]


class Keys:
    """Key files and a list of peers."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.peers = folder / "peers"
        self.peers.write_text("# who may connect\n\n")

    def make(self, name: str, role: Role = Role.NODE, *, listed: bool = True) -> dict[str, Any]:
        """Make a key; return the options of a peer that has it."""
        file = self.folder / f"{name}-{len(list(self.folder.iterdir()))}.key"
        line = make_key(role, name, file)
        if listed:
            self.allow(line)
        return {"curve_key": file, "curve_peers": self.peers}

    def allow(self, line: str) -> None:
        self.peers.write_text(f"{self.peers.read_text()}{line}\n")


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    return Keys(tmp_path)


def link_of(transport: clstr.Transport) -> ZmqLink:
    assert isinstance(transport, Engine)
    assert isinstance(transport.link, ZmqLink)
    return transport.link


def address_of(transport: clstr.Transport) -> str:
    inbox = link_of(transport).me.inbox
    assert inbox is not None
    return inbox.address.removeprefix("tcp://")


def public_key(options: dict[str, Any]) -> str:
    return read_key_file(options["curve_key"])[0]


async def echo(message: clstr.Envelope) -> bytes:
    return message.data


def envelope(data: bytes = b"") -> clstr.Envelope:
    return clstr.Envelope(shard=0, type="t", data=data)


class Impostor:
    """A DEALER with whatever keys a test gives it."""

    def __init__(self, address: str, server_key: str = "", own: tuple[str, str] | None = None) -> None:
        self.context = zmq.Context()
        self.socket = self.context.socket(zmq.DEALER)
        self.socket.linger = 0
        if server_key:
            public, secret = own or tuple(key.decode() for key in zmq.curve_keypair())
            self.socket.curve_serverkey = server_key.encode()
            self.socket.curve_publickey, self.socket.curve_secretkey = public.encode(), secret.encode()
        self.monitor = self.socket.get_monitor_socket(zmq.EVENT_DISCONNECTED | zmq.EVENT_HANDSHAKE_FAILED_AUTH)
        self.socket.connect(f"tcp://{address}")

    def hello(self, peer_id: str, inbox: Place | None = None) -> None:
        hello = Hello(cluster="clstr", peer_id=peer_id, epoch=1, inbox=inbox, max_bytes=2**20)
        self.socket.send(pack([encode(hello)]))

    def say(self, *messages: Control) -> None:
        self.socket.send(pack(map(encode, messages)))

    async def heard(self, *kinds: type[Any]) -> Any:
        async with asyncio.timeout(10):
            while True:
                while not self.socket.poll(0):  # noqa: ASYNC110 -- it must not take part in the loop
                    await asyncio.sleep(0.005)
                for frame in unpack(self.socket.recv()):
                    message = decode(frame)
                    if isinstance(message, kinds):
                        return message

    async def is_denied(self) -> bool:
        """Return when the connection is refused."""
        async with asyncio.timeout(10):
            while not self.monitor.poll(0):  # noqa: ASYNC110 -- as above
                await asyncio.sleep(0.005)
        return True

    def close(self) -> None:
        self.socket.disable_monitor()
        self.monitor.close(0)
        self.socket.close(0)
        self.context.term()


@pytest.fixture
def impostor() -> Any:
    made: list[Impostor] = []

    def make(*arguments: Any) -> Impostor:
        made.append(Impostor(*arguments))
        return made[-1]

    yield make
    for each in made:
        each.close()


async def test_peers_with_keys_of_their_own_find_each_other(connect: Connect, keys: Keys) -> None:
    """The URL has the seed's key; the others' are told, and checked against the list."""
    options = [keys.make(name) for name in ("seed", "node", "client")]
    seed = await connect("zmq://?bind=tcp://127.0.0.1:*", **options[0])
    node = await connect(
        f"zmq://{address_of(seed)}?bind=tcp://127.0.0.1:*", server_key=public_key(options[0]), **options[1]
    )
    await node.subscribe([0], echo)
    client = await connect(f"zmq://{address_of(seed)}", server_key=public_key(options[0]), **options[2])
    assert await client.request(envelope(b"x"), timeout=60) == b"x"
    assert link_of(node).me.peer_id.startswith("node:peer-")


async def test_a_key_that_is_not_on_the_list_is_refused(
    connect: Connect, keys: Keys, caplog: pytest.LogCaptureFixture
) -> None:
    options = keys.make("seed")
    seed = await connect("zmq://?bind=tcp://127.0.0.1:*", **options)
    elsewhere = keys.folder / "elsewhere"
    elsewhere.mkdir()
    stranger = Keys(elsewhere)
    own = stranger.make("stranger")
    stranger.allow(f"node seed {public_key(options)}")
    with pytest.raises(clstr.AuthenticationError, match="does not accept our key"):
        await connect(f"zmq://{address_of(seed)}", server_key=public_key(options), **own)
    assert "its key is not on the list" in caplog.text


async def test_a_key_that_is_taken_off_the_list_gets_in_no_more(connect: Connect, keys: Keys, impostor: Any) -> None:
    seed_options, own = keys.make("seed"), keys.make("fired")
    seed = await connect("zmq://?bind=tcp://127.0.0.1:*", **seed_options)
    keys.peers.write_text(f"node seed {public_key(seed_options)}\n")
    peer = impostor(address_of(seed), public_key(seed_options), read_key_file(own["curve_key"]))
    assert await peer.is_denied()


@pytest.mark.parametrize("damage", [Path.unlink, lambda file: file.write_text("x")], ids=["gone", "bad"])
async def test_a_list_that_cannot_be_read_lets_nobody_in(
    connect: Connect, keys: Keys, impostor: Any, damage: Callable[[Path], object], caplog: pytest.LogCaptureFixture
) -> None:
    seed_options, own = keys.make("seed"), keys.make("node")
    seed = await connect("zmq://?bind=tcp://127.0.0.1:*", **seed_options)
    damage(keys.peers)
    peer = impostor(address_of(seed), public_key(seed_options), read_key_file(own["curve_key"]))
    assert await peer.is_denied()
    assert "nobody can connect" in caplog.text


async def test_nobody_gets_in_while_nobody_answers_who_may(connect: Connect, keys: Keys, impostor: Any) -> None:
    """ZeroMQ itself would let everybody in."""
    seed_options, own = keys.make("seed"), keys.make("node")
    seed = await connect("zmq://?bind=tcp://127.0.0.1:*", **seed_options)
    link = link_of(seed)
    assert link._sockets is not None
    inbox = link._inbox
    assert inbox is not None
    [zap] = [wire for wire in link._sockets._wires if wire is not inbox._post._wire]
    zap.close()
    for keys_of_its_own in (read_key_file(own["curve_key"]), None):
        peer = impostor(address_of(seed), public_key(seed_options), keys_of_its_own)
        peer.hello("node")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):
                await peer.heard(Welcome, Refused)
    assert inbox.guests == []


@pytest.mark.parametrize("key", [b"", b"k" * 31, b"k" * 33, b"k" * 40])
def test_a_question_about_something_that_is_no_key_is_answered_with_no(keys: Keys, key: bytes) -> None:
    options = keys.make("seed")
    public, secret = read_key_file(options["curve_key"])
    curve = Curve(owner=Listed(Role.NODE, "seed"), public_key=public, secret_key=secret, peers_file=keys.peers)
    question = [b"route", b"", b"1.0", b"7", b"clstr", b"127.0.0.1", b"", b"CURVE", key]
    answers: list[tuple[bytes, ...]] = []

    def note(*answer: bytes) -> bool:
        answers.append(answer)
        return True

    security = Security(curve, "seed", counters=Counters(), logger=logging.getLogger("test"))
    security._answer([zmq.Frame(part) for part in question], note)
    [answer] = answers
    assert answer[:5] == (b"route", b"", b"1.0", b"7", b"400")


async def test_a_peer_without_curve_does_not_get_in(connect: Connect, keys: Keys, impostor: Any) -> None:
    seed = await connect("zmq://?bind=tcp://127.0.0.1:*", **keys.make("seed"))
    peer = impostor(address_of(seed))
    peer.hello("seed")
    assert await peer.is_denied()


async def test_a_seed_with_another_key_is_not_believed(connect: Connect, keys: Keys) -> None:
    """Whoever took its address has not got its key."""
    seed_options, own = keys.make("seed"), keys.make("client")
    seed = await connect("zmq://?bind=tcp://127.0.0.1:*", **seed_options)
    client = await connect(f"zmq://{address_of(seed)}", server_key=public_key(own), reconnect_wait=0.1, **own)
    with pytest.raises(clstr.TransportUnavailableError, match="no peer can be reached"):
        await client.request(envelope(), timeout=60)


async def test_a_peer_id_belongs_to_its_key(connect: Connect, keys: Keys, impostor: Any) -> None:
    """Also where one name begins with another and a dot."""
    seed_options, own, _ = keys.make("seed"), keys.make("node-1"), keys.make("node-1.db")
    seed = await connect("zmq://?bind=tcp://127.0.0.1:*", **seed_options)
    others = ("seed", "node-10", "node-1.db", "node-1.db:b")
    for peer_id in (*others, "node-1", "node-1:b"):
        peer = impostor(address_of(seed), public_key(seed_options), read_key_file(own["curve_key"]))
        peer.hello(peer_id)
        answer = await peer.heard(Refused, Welcome)
        assert isinstance(answer, Refused) == (peer_id in others), peer_id
        if isinstance(answer, Refused):
            assert (answer.code, "the key 'node-1' may have" in answer.reason) == ("identity", True)
    assert link_of(seed).counters.refused_peers == 4


# What a client's key may do: the tests use it as a hostile client would, with nothing but its rights.


async def test_a_client_asks_and_is_answered(connect: Connect, keys: Keys) -> None:
    node_options, own = keys.make("node"), keys.make("web", Role.CLIENT)
    node = await connect("zmq://?bind=tcp://127.0.0.1:*", **node_options)
    await node.subscribe([0], echo)
    client = await connect(f"zmq://{address_of(node)}", server_key=public_key(node_options), **own)
    assert link_of(client).me.peer_id.startswith("web:")
    assert await client.request(envelope(b"x"), timeout=60) == b"x"
    with pytest.raises(clstr.TransportUnavailableError, match="has no inbox"):
        await client.subscribe([1], echo)


async def test_a_client_that_says_it_has_an_inbox_is_refused_and_nobody_is_sent_there(
    connect: Connect, keys: Keys, impostor: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Under its own key, or that of a node: peers would learn there what it holds."""
    node_options, own = keys.make("node"), keys.make("web", Role.CLIENT)
    node = await connect("zmq://?bind=tcp://127.0.0.1:*", **node_options)
    other = await connect(f"zmq://{address_of(node)}?bind=tcp://127.0.0.1:*", **node_options)
    before = [each.place.address for each in link_of(other)._directory]
    for key in (public_key(own), public_key(node_options), ""):
        peer = impostor(address_of(node), public_key(node_options), read_key_file(own["curve_key"]))
        peer.hello("web", Place(address="tcp://127.0.0.1:9", key=key))
        answer = await peer.heard(Refused, Welcome)
        assert isinstance(answer, Refused)
        assert (answer.code, "'web' is a client's" in answer.reason) == ("identity", True)
    assert link_of(node).counters.refused_peers == 3
    assert caplog.text.count("refused a peer (identity)") == 1
    assert [each.place.address for each in link_of(other)._directory] == before
    assert [each.place.address for each in link_of(node)._directory if "127.0.0.1:9" in each.place.address] == []


async def test_an_announcement_of_a_client_is_garbage(connect: Connect, keys: Keys, impostor: Any) -> None:
    """On the connection on which it may ask."""
    node_options, own = keys.make("node"), keys.make("web", Role.CLIENT)
    node = await connect("zmq://?bind=tcp://127.0.0.1:*", **node_options)
    assert isinstance(node, Engine)
    await node.subscribe([0], echo)
    peer = impostor(address_of(node), public_key(node_options), read_key_file(own["curve_key"]))
    peer.hello("web")
    await peer.heard(Welcome)
    for message in (Holds(number=1, shards=[0, 1]), Peers(number=2, places=[Place(address="tcp://127.0.0.1:9")])):
        peer.say(message)
    peer.say(Ping(number=7))
    await peer.heard(Pong)
    assert node.counters.garbage == 2
    assert list(link_of(node)._directory) == []
    with pytest.raises(clstr.NoShardSubscriberError):
        await node.request(clstr.Envelope(shard=1, type="t"), timeout=60)
    assert await node.request(envelope(b"x"), timeout=60) == b"x"


async def test_an_inbox_with_a_clients_key_is_asked_nothing(
    connect: Connect, keys: Keys, caplog: pytest.LogCaptureFixture
) -> None:
    """Its owner has a client's key, and believes the list that it wrote itself; it holds a shard of somebody else."""
    node_options, own, asking = keys.make("node"), keys.make("web", Role.CLIENT), keys.make("ask", Role.CLIENT)
    forged = keys.folder / "forged"
    forged.write_text(keys.peers.read_text().replace("client web", "node web"))
    hostile = await connect("zmq://?bind=tcp://127.0.0.1:*", **{**own, "curve_peers": forged})
    node = await connect("zmq://?bind=tcp://127.0.0.1:*", **node_options)
    await node.subscribe([0], echo)
    ran: list[clstr.Envelope] = []

    async def note(message: clstr.Envelope) -> None:
        ran.append(message)

    await hostile.subscribe([0, 1], note)
    hosts = f"zmq://{address_of(hostile)},{address_of(node)}"
    seed_keys = f"{public_key(own)},{public_key(node_options)}"
    client = await connect(hosts, server_key=seed_keys, **asking)
    for _ in range(20):
        assert await client.request(envelope(b"x"), timeout=60) == b"x"
    assert ran == []
    with pytest.raises(clstr.NoShardSubscriberError):
        await client.request(clstr.Envelope(shard=1, type="t"), timeout=60)
    assert link_of(client).counters.refused_peers >= 1
    assert "is not asked: the key 'web' is a client's" in caplog.text
    with pytest.raises(clstr.AuthenticationError, match="the key 'web' is a client's"):
        await connect(f"zmq://{address_of(hostile)}", server_key=public_key(own), **asking)


async def test_nobody_is_sent_to_an_inbox_with_a_clients_key(connect: Connect, keys: Keys) -> None:
    own = keys.make("web", Role.CLIENT)
    node = await connect("zmq://?bind=tcp://127.0.0.1:*", **keys.make("node"))
    link_of(node).heard_of([Place(address="tcp://127.0.0.1:9", key=public_key(own))])
    assert list(link_of(node)._directory) == []


async def test_a_refusal_cannot_write_lines_into_the_log(
    connect: Connect, keys: Keys, caplog: pytest.LogCaptureFixture
) -> None:
    options = keys.make("node")
    node = await connect("zmq://?bind=tcp://127.0.0.1:*", **options)
    client = await connect(f"zmq://{address_of(node)}", **options)
    [outbox] = link_of(client)._directory
    link_of(client).refused(outbox, Refused(code="cluster", reason="no\n\x1b[2Jall is well\u202e"))
    assert "no\\n\\x1b[2Jall is well\\u202e" in caplog.text
    assert "\x1b" not in caplog.text


async def test_refused_keys_are_counted_and_one_line_a_second_says_so(
    connect: Connect, keys: Keys, impostor: Any, caplog: pytest.LogCaptureFixture
) -> None:
    options = keys.make("node")
    node = await connect("zmq://?bind=tcp://127.0.0.1:*", **options)
    security = link_of(node)._security
    key = zmq.curve_keypair()[0]
    question = [b"", b"", b"1.0", b"7", b"clstr", b"127.0.0.1", b"", b"CURVE", z85.decode(key)]
    for _ in range(50):
        assert security._judge(question) == ""
    assert link_of(node).counters.refused_peers == 50
    assert caplog.text.count("its key is not on the list") <= 2


async def test_a_key_file_that_others_can_read_is_warned_of(
    connect: Connect, keys: Keys, caplog: pytest.LogCaptureFixture
) -> None:
    options = keys.make("node")
    await connect("zmq://?bind=tcp://127.0.0.1:*", **options)
    assert "can be read" not in caplog.text
    options["curve_key"].chmod(0o644)
    await connect("zmq://?bind=tcp://127.0.0.1:*", **options)
    assert "the CURVE key in" in caplog.text


async def test_an_inbox_that_goes_by_anothers_name_is_left(connect: Connect, keys: Keys) -> None:
    """Its key is on the list, under another name than the id that it says."""
    seed_options, own = keys.make("seed"), keys.make("client")
    seed = await connect("zmq://?bind=tcp://127.0.0.1:*", **seed_options)
    keys.peers.write_text(f"node other {public_key(seed_options)}\nnode client {public_key(own)}\n")
    with pytest.raises(clstr.AuthenticationError, match="the key 'other' may have the peer ids"):
        await connect(f"zmq://{address_of(seed)}", server_key=public_key(seed_options), **own)


async def test_an_inbox_that_a_peer_tells_of_must_have_a_key_of_the_list(connect: Connect, keys: Keys) -> None:
    seed = await connect("zmq://?bind=tcp://127.0.0.1:*", **keys.make("seed"))
    link = link_of(seed)
    assert link._security.trusts(link.me.inbox.key if link.me.inbox else "")
    assert not link._security.trusts("")
    assert not link._security.trusts(zmq.curve_keypair()[0].decode())


async def test_secrets_show_nowhere(connect: Connect, keys: Keys, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    options = keys.make("seed")
    seed = await connect("zmq://?bind=tcp://127.0.0.1:*", **options)
    await connect(f"zmq://{address_of(seed)}", **options)
    secret = read_key_file(options["curve_key"])[1]
    assert secret not in repr(link_of(seed)._options)
    assert secret not in caplog.text


async def test_bytes_on_the_wire_are_encrypted(connect: Connect, keys: Keys, new_port: Callable[[], int]) -> None:
    """A relay that listens sees no data."""
    options = keys.make("node")
    seen = bytearray()
    seed = await connect("zmq://?bind=tcp://127.0.0.1:*", **options)
    host, port = address_of(seed).split(":")

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        onward_reader, onward_writer = await asyncio.open_connection(host, int(port))

        async def copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
            while data := await source.read(65536):
                seen.extend(data)
                target.write(data)
            target.close()

        await asyncio.gather(copy(reader, onward_writer), copy(onward_reader, writer))

    listener = await asyncio.start_server(relay, "127.0.0.1", 0)
    await seed.subscribe([0], echo)
    client = await connect(f"zmq://127.0.0.1:{listener.sockets[0].getsockname()[1]}", **options)
    assert await client.request(envelope(b"plain text"), timeout=60) == b"plain text"
    await client.aclose()
    listener.close()
    await listener.wait_closed()
    assert len(seen) > 200
    assert b"plain text" not in seen


# The command line.


def test_keygen_writes_a_pair_for_its_owner_alone_and_prints_the_line_for_the_list(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    main(["keygen", "node", "node-1"])
    file = tmp_path / "node-1.key"
    public, secret = read_key_file(file)
    assert capsys.readouterr().out == f"node node-1 {public}\n"
    assert file.stat().st_mode & 0o777 == 0o600
    assert zmq.curve_public(secret.encode()).decode() == public


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["keygen", "node", "node 1"], "a name has"),
        (["keygen", "node", "a:b"], "a name has"),
        (["keygen", "node-1"], "invalid choice: 'node-1'"),
        (["keygen", "directory", "d"], "invalid choice: 'directory'"),
        (["keygen", "node", "a", "--output", "no/such/folder"], "cannot write"),
        ([], ""),
    ],
    ids=["bad name", "separator", "no role", "no such role", "bad folder", "nothing"],
)
def test_keygen_explains_what_is_wrong(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(arguments)
    assert message in capsys.readouterr().err


def test_keygen_overwrites_no_key(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "node.key"
    main(["keygen", "node", "node", "--output", str(file)])
    before = file.read_text()
    with pytest.raises(SystemExit):
        main(["keygen", "node", "node", "--output", str(file)])
    assert file.read_text() == before
    assert "File exists" in capsys.readouterr().err


def test_a_file_without_keys_says_how_to_make_some(tmp_path: Path) -> None:
    file = tmp_path / "empty"
    file.write_text("")
    with pytest.raises(ValueError, match="python -m clstr_zmq keygen"):
        read_key_file(file)


NO_KEYS = ["k" * 39, "k" * 41, '"' * 40, "#" * 40, "é" * 40]  # the fourth is a larger number than 32 bytes hold


@pytest.mark.parametrize("key", NO_KEYS)
def test_a_key_file_whose_keys_are_none_is_refused(tmp_path: Path, key: str) -> None:
    file = tmp_path / "node.key"
    file.write_text(f'public-key = "{"k" * 40}"\nsecret-key = "{key}"\n', encoding="utf-8")
    with pytest.raises(ValueError, match="has no key pair"):
        read_key_file(file)


K = "k" * 40


@pytest.mark.parametrize(
    ("line", "message"),
    [
        *((line, "write 'node NAME KEY'") for line in ("node", f"node {K}", f"node-1 {K}", f"boss a {K}")),
        (f"node a {K} more", "or 'client NAME KEY' for one that may only ask"),
        (f"node a:b {K}", "a name has 1 to 100"),
        (f"node {'a' * 101} {K}", "a name has 1 to 100"),
        *((f"node a {key}", "no public key of 40 characters after 'a'") for key in NO_KEYS),
        (f"client a {K}\nnode b {K}", "line 3: this key is there already, for 'a'"),
    ],
)
def test_a_malformed_line_of_the_list_is_named(tmp_path: Path, line: str, message: str) -> None:
    """So is a line of a list as it was before there were roles."""
    file = tmp_path / "peers"
    file.write_text(f"# comment\n{line}\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"line [23]: ") as caught:
        read_peers(file)
    assert message in str(caught.value)


def test_a_name_may_have_two_keys_while_one_replaces_the_other(tmp_path: Path) -> None:
    file = tmp_path / "peers"
    first, second = (zmq.curve_keypair()[0].decode() for _ in range(2))
    file.write_text(f"node a {first}\nnode a {second}\n")
    assert read_peers(file) == dict.fromkeys((first, second), Listed(Role.NODE, "a"))
