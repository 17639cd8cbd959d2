"""How a place is reached: which address of a name is tried when, and what is said when none answers."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Coroutine
from typing import Any, cast

import pytest

from clstr.errors import TransportUnavailableError
from clstr_testing import VirtualTimeLoop
from clstr_zmq import _dial
from clstr_zmq._dealer import Dealer, DialError


class FakeDealer:
    """A connection attempt that ends after some seconds; ``None`` is never."""

    def __init__(self, seconds: float | None, problem: DialError | None) -> None:
        loop = asyncio.get_running_loop()
        self.opened: asyncio.Future[DialError | None] = loop.create_future()
        self.is_closed = False
        if seconds is not None:
            loop.call_later(seconds, self._open, problem)

    def _open(self, problem: DialError | None) -> None:
        if not self.opened.done():
            self.opened.set_result(problem)

    def close(self, _linger: int = 0) -> None:
        self.is_closed = True


class Network:
    """A name with some addresses, and what becomes of a connection to each."""

    def __init__(self, **hosts: tuple[float | None, DialError | None] | TransportUnavailableError) -> None:
        self.hosts = hosts
        self.tried: list[tuple[float, str]] = []
        self.dealers: dict[str, FakeDealer] = {}

    async def look_up(self, host: str, port: int) -> list[str]:
        if not self.hosts:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return list(self.hosts)

    def new_dealer(self, endpoint: str) -> Dealer:
        host = endpoint.removeprefix("tcp://").partition(":")[0]
        self.tried.append((asyncio.get_running_loop().time(), host))
        fate = self.hosts[host]
        if isinstance(fate, TransportUnavailableError):
            raise fate
        self.dealers[host] = FakeDealer(*fate)
        return cast("Dealer", self.dealers[host])

    async def dial(self, worst: str = "") -> str:
        """Return the host that there is a connection to; ``worst`` is tried last."""
        endpoint, dealer = await _dial.dial(
            "tcp://name:1",
            lookup=self.look_up,
            order=lambda endpoint: (int(worst != "" and worst in endpoint), True),
            new_dealer=self.new_dealer,
        )
        assert not cast("FakeDealer", dealer).is_closed
        return endpoint.removeprefix("tcp://").partition(":")[0]


def run(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        runner.run(work())


MUTE = (None, None)
GOOD = (0.01, None)
DEAD = (0.01, DialError("nobody listens there"))
DENIED = (0.01, DialError("it does not accept our key", is_denied=True))


def test_a_mute_address_costs_a_quarter_of_a_second() -> None:
    async def work() -> None:
        begin = asyncio.get_running_loop().time()
        network = Network(mute=MUTE, silent=MUTE, good=GOOD)
        assert await network.dial() == "good"
        assert [(round(when - begin, 3), host) for when, host in network.tried] == [
            (0, "mute"),
            (_dial.NEXT_ADDRESS_AFTER, "silent"),
            (2 * _dial.NEXT_ADDRESS_AFTER, "good"),
        ]
        assert network.dealers["mute"].is_closed
        assert network.dealers["silent"].is_closed

    run(work)


def test_a_dead_address_costs_nothing() -> None:
    async def work() -> None:
        network = Network(dead=DEAD, good=GOOD)
        begin = asyncio.get_running_loop().time()
        assert await network.dial() == "good"
        assert asyncio.get_running_loop().time() - begin < _dial.NEXT_ADDRESS_AFTER
        assert network.dealers["dead"].is_closed

    run(work)


def test_the_order_is_the_callers() -> None:
    async def work() -> None:
        network = Network(first=GOOD, second=GOOD)
        assert await network.dial(worst="first") == "second"
        assert [host for _, host in network.tried] == ["second"]

    run(work)


@pytest.mark.parametrize(
    ("hosts", "message", "facts"),
    [
        ({}, "cannot look up name: Name or service not known", (False, False)),
        ({"one": DEAD, "two": DEAD}, "nobody listens there", (False, True)),
        ({"one": DEAD, "two": MUTE}, "nobody listens there; no connection within 5 s", (False, True)),
        ({"one": DEAD, "two": DENIED}, "nobody listens there; it does not accept our key", (True, True)),
        ({"one": TransportUnavailableError("Too many open files")}, "Too many open files", (False, False)),
    ],
    ids=["no address", "dead", "dead and mute", "denied", "no descriptors"],
)
def test_one_error_tells_why_no_address_answers(hosts: dict[str, Any], message: str, facts: tuple[bool, bool]) -> None:
    async def work() -> None:
        network = Network(**hosts)
        with pytest.raises(DialError) as caught:
            await network.dial()
        assert (str(caught.value), (caught.value.is_denied, caught.value.was_tried)) == (message, facts)
        assert all(dealer.is_closed for dealer in network.dealers.values())

    run(work)


def test_an_attempt_that_is_cancelled_leaves_no_connection() -> None:
    async def work() -> None:
        network = Network(mute=MUTE, silent=MUTE)
        dialling = asyncio.create_task(network.dial())
        await asyncio.sleep(2 * _dial.NEXT_ADDRESS_AFTER)
        dialling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await dialling
        assert [dealer.is_closed for dealer in network.dealers.values()] == [True, True]

    run(work)


def test_a_unix_socket_is_dialled_as_it_is() -> None:
    async def work() -> None:
        dealers: list[str] = []

        def new_dealer(endpoint: str) -> Dealer:
            dealers.append(endpoint)
            return cast("Dealer", FakeDealer(*GOOD))

        network = Network()
        await _dial.dial("ipc:///a.sock", lookup=network.look_up, order=lambda _: (0, True), new_dealer=new_dealer)
        assert dealers == ["ipc:///a.sock"]

    run(work)
