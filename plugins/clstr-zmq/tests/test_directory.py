"""Names that are looked up again, and peers that are given up."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable

import pytest

import clstr
from clstr.spi import Engine, Limits
from clstr_zmq import _directory
from clstr_zmq._directory import Directory, Seed
from clstr_zmq._link import ZmqLink
from clstr_zmq._names import new_lookup
from clstr_zmq._options import Bind, Options
from clstr_zmq._outbox import Outbox
from clstr_zmq._protocol import MAX_PLACES, Place
from clstr_zmq._tasks import Tasks

NewPort = Callable[[], int]
LOGGER = logging.getLogger("test")


class Names:
    """A name server of one name, whose addresses a test changes."""

    def __init__(self, *addresses: str) -> None:
        self.addresses = list(addresses)
        self.asked = asyncio.Condition()
        self.questions = 0
        self.is_reachable = True

    async def __call__(self, host: str, port: int) -> list[str]:
        async with self.asked:
            self.questions += 1
            self.asked.notify_all()
        if not self.is_reachable:
            raise OSError("no name server")
        return list(self.addresses)

    async def until_asked_again(self) -> None:
        async with asyncio.timeout(10), self.asked:
            before = self.questions
            await self.asked.wait_for(lambda: self.questions > before)


async def echo(message: clstr.Envelope) -> bytes:
    return message.data


async def open_peer(options: Options, names: Names) -> Engine:
    link = ZmqLink(options, peer_id=f"peer-{id(options)}", epoch=1, max_bytes=2**22, logger=LOGGER, lookup=names)
    return await Engine(link, limits=Limits(drain_timeout=1.0)).open()


@pytest.fixture
def quick_lookups(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_directory, "LOOKUP_INTERVAL", 0.02)


@pytest.fixture
async def port(new_port: NewPort) -> AsyncIterator[int]:
    """A port on which 127.0.0.1, 127.0.0.2 and 127.0.0.3 are three peers, each holding the shard of its number."""
    port = new_port()
    peers = []
    for number in (1, 2, 3):
        bind = Bind(endpoint=f"tcp://127.0.0.{number}:{port}", host=f"127.0.0.{number}")
        peers.append(await open_peer(Options(bind=bind), Names()))
        await peers[-1].subscribe([number], echo)
    yield port
    for peer in peers:
        await peer.aclose()


async def answers(client: Engine, shard: int) -> bool:
    try:
        return await client.request(clstr.Envelope(shard=shard, type="t", data=b"x"), timeout=10) == b"x"
    except clstr.NoShardSubscriberError:
        return False


@pytest.mark.usefixtures("quick_lookups")
async def test_a_name_with_several_addresses_is_several_peers_and_is_looked_up_again(port: int) -> None:
    names = Names("127.0.0.1", "127.0.0.2")
    client = await open_peer(Options(seeds=(Seed(host="headless", port=port),)), names)
    assert [await answers(client, shard) for shard in (1, 2, 3)] == [True, True, False]
    names.addresses.append("127.0.0.3")
    async with asyncio.timeout(10):
        while not await answers(client, 3):
            await names.until_asked_again()
    await client.aclose()


@pytest.mark.usefixtures("quick_lookups")
async def test_a_name_server_that_fails_is_asked_again(port: int, caplog: pytest.LogCaptureFixture) -> None:
    names = Names("127.0.0.1")
    names.is_reachable = False
    client = await open_peer(Options(seeds=(Seed(host="headless", port=port),)), names)
    assert "cannot look up headless: no name server" in caplog.text
    assert not await answers(client, 1)
    names.is_reachable = True
    async with asyncio.timeout(10):
        while not await answers(client, 1):
            await names.until_asked_again()
    names.is_reachable = False
    await names.until_asked_again()
    assert await answers(client, 1)
    await client.aclose()


async def test_a_name_server_that_does_not_answer_does_not_keep_a_peer_from_opening(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_directory, "PATIENCE", 0.01)

    async def hang(host: str, port: int) -> list[str]:
        await asyncio.Event().wait()
        return []

    link = ZmqLink(
        Options(seeds=(Seed(host="headless", port=1),)),
        peer_id="p",
        epoch=1,
        max_bytes=1,
        logger=LOGGER,
        lookup=hang,
    )
    async with asyncio.timeout(10):
        engine = await Engine(link).open()
        await engine.aclose()


async def test_the_system_is_asked_for_every_address() -> None:
    assert "127.0.0.1" in await new_lookup()("localhost", 5555)


class FakeOutbox:
    """What a directory needs of an outbox."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.lost_at: float | None = 0.0
        self.is_settling = False
        self.dials = 0

    def dial(self) -> None:
        self.dials += 1


def new_directory(*seeds: Seed) -> tuple[Directory, dict[str, FakeOutbox]]:
    made: dict[str, FakeOutbox] = {}

    def new_outbox(place: Place) -> Outbox:
        outbox = made[place.address] = FakeOutbox(place)
        return outbox  # type: ignore[return-value]  # it is called for nothing else

    return Directory(seeds, new_outbox, lambda: None, logger=LOGGER, lookup=Names(), tasks=Tasks()), made


async def test_each_place_is_dialled_once_and_ones_own_never() -> None:
    directory, made = new_directory()
    directory.is_own("tcp://127.0.0.1:1")
    for _ in range(2):
        directory.add(Place(address="tcp://127.0.0.1:1"))
        directory.add(Place(address="tcp://127.0.0.1:2"))
    assert {address: outbox.dials for address, outbox in made.items()} == {"tcp://127.0.0.1:2": 1}


async def test_a_peer_that_is_not_reached_for_long_is_given_up_unless_the_url_names_it() -> None:
    directory, made = new_directory(Seed(host="127.0.0.1", port=1))
    directory.start()
    directory.add(Place(address="tcp://127.0.0.1:2"))
    directory.add(Place(address="tcp://127.0.0.1:3"))
    made["tcp://127.0.0.1:3"].lost_at = None
    for outbox in made.values():
        if outbox.lost_at is not None:
            outbox.lost_at = asyncio.get_running_loop().time() - _directory.FORGET_AFTER - 1
    assert [each.place.address for each in directory.forget_lost()] == ["tcp://127.0.0.1:2"]
    assert [each.place.address for each in directory] == ["tcp://127.0.0.1:1", "tcp://127.0.0.1:3"]
    directory.close()


async def test_nobody_can_send_a_peer_to_more_places_than_a_cluster_has(caplog: pytest.LogCaptureFixture) -> None:
    directory, made = new_directory()
    for number in range(MAX_PLACES + 5):
        directory.add(Place(address=f"tcp://127.0.0.1:{number}"))
    assert len(made) == MAX_PLACES
    assert "is not connected to" in caplog.text
