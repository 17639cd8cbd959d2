"""Guests and routes: who is known, who is alive, who has acknowledged what."""

from __future__ import annotations

import pytest

from clstr_zmq import _guests
from clstr_zmq._guests import Guest, Guests
from clstr_zmq._pieces import Pieces
from clstr_zmq._protocol import Hello, Place
from clstr_zmq._routes import Routes


def guest(route: str, peer_id: str = "", epoch: int = 1, address: str = "") -> Guest:
    inbox = Place(address=address) if address else None
    hello = Hello(cluster="c", peer_id=peer_id or route, epoch=epoch, inbox=inbox, max_bytes=1)
    return Guest(route.encode(), hello, Pieces(2**20))


async def test_a_round_ends_when_everybody_has_acknowledged_it_or_something_later() -> None:
    guests, a, b = Guests(), guest("a"), guest("b")
    guests.enter(a)
    guests.enter(b)
    first, second = guests.begin(1, {a, b}), guests.begin(2, {a, b})
    guests.acknowledge(a, 2)
    guests.acknowledge(b, 1)
    assert (first.done.done(), second.done.done()) == (True, False)
    guests.acknowledge(b, 2)
    assert second.done.done()


async def test_a_round_does_not_wait_for_those_who_have_gone() -> None:
    guests, a, b = Guests(), guest("a"), guest("b")
    guests.enter(a)
    guests.enter(b)
    begun = guests.begin(1, {a, b})
    guests.acknowledge(a, 1)
    guests.remove(b)
    guests.remove(b)
    assert begun.done.done()


async def test_a_round_of_nobody_is_done() -> None:
    assert Guests().begin(1, set()).done.done()


async def test_a_round_that_a_newcomer_waits_for_is_forgotten_when_it_leaves() -> None:
    """Else newcomers that come and go would pile them up, as long as somebody does not acknowledge."""
    guests, mute, newcomer = Guests(), guest("a"), guest("b")
    guests.enter(mute)
    guests.enter(newcomer)
    guests.begin(1, {mute}, newcomer)
    kept = guests.begin(2, {mute})
    guests.remove(newcomer)
    assert guests._rounds == [kept]


async def test_the_rival_of_a_newcomer_is_another_life_of_its_id() -> None:
    guests, old = Guests(), guest("a", "x", epoch=1)
    guests.enter(old)
    assert guests.rival(guest("b", "x", epoch=2).hello) is old
    assert guests.rival(guest("b", "x", epoch=1).hello) is None
    assert guests.rival(guest("b", "y", epoch=2).hello) is None


async def test_everybody_is_told_once_of_each_place_and_never_of_its_own() -> None:
    guests, a, b = Guests(), guest("a", address="tcp://a:1"), guest("b")
    guests.enter(a)
    guests.enter(b)
    places = [Place(address="tcp://a:1"), Place(address="tcp://c:1")]
    told = {each.route: [place.address for place in news] for each, news in guests.untold(places, [*guests])}
    assert told == {b"a": ["tcp://c:1"], b"b": ["tcp://a:1", "tcp://c:1"]}
    assert list(guests.untold(places, [*guests])) == []


async def test_of_a_place_whose_peer_went_and_came_everybody_is_told_again() -> None:
    guests, a, b = Guests(), guest("a", address="tcp://a:1"), guest("b")
    guests.enter(a)
    guests.enter(b)
    places = [Place(address="tcp://a:1")]
    assert [each for each, _ in guests.untold(places, [*guests])] == [b]
    guests.remove(a)
    assert [each for each, _ in guests.untold(places, [*guests])] == [b]


async def test_what_a_guest_was_told_is_remembered_up_to_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """Peers may tell of inboxes that do not exist, one after another."""
    monkeypatch.setattr(_guests, "MAX_TOLD", 4)
    guests, a = Guests(), guest("a")
    guests.enter(a)
    for number in range(100):
        assert list(guests.untold([Place(address=f"tcp://b:{number}")], [a]))
        assert len(a.told) <= 5


def test_a_guest_dies_after_three_silent_beats_in_a_row() -> None:
    silent = guest("a")
    assert [silent.beat() for _ in range(4)] == [True, True, True, False]
    silent = guest("a")
    silent.beat(), silent.beat(), silent.beat()
    silent.was_heard = True
    assert [silent.beat() for _ in range(4)] == [True, True, True, False]


def test_what_a_guest_has_read_is_known_by_the_ping_behind_it() -> None:
    reader = guest("a")
    reader.sent_bytes = 100
    reader.probe = 7, 80
    reader.has_read(6)
    assert reader.unread_bytes == 100
    reader.has_read(7)
    reader.has_read(7)
    assert reader.unread_bytes == 20


def test_messages_go_to_each_holder_in_turn() -> None:
    routes = Routes[str]()
    routes.hold("a", [1, 2])
    routes.hold("b", [1])
    routes.hold("b", [1])
    assert [routes.pick(1) for _ in range(4)] in (["a", "b", "a", "b"], ["b", "a", "b", "a"])
    assert (routes.pick(2), routes.pick(3)) == ("a", None)
    routes.drop("a", [1, 2, 3])
    routes.drop("c", [1])
    assert (routes.pick(1), routes.pick(2)) == ("b", None)
