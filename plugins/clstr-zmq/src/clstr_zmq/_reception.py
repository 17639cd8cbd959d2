"""The reception of an inbox: strangers say who they are, and become guests or are sent away."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from typing import NamedTuple, Protocol

from clstr.spi import RateLimitedLog
from clstr_zmq._counters import Counters
from clstr_zmq._guests import Guest, Guests
from clstr_zmq._identity import Identity
from clstr_zmq._post import Post
from clstr_zmq._protocol import Bye, Hello, Message, Ping, Refused

TRIAL = 0.5  # seconds in which the holder of a peer id that somebody else claims has to show that it is alive


class Trial(NamedTuple):
    """
    Whose is a peer id?

    Attributes:
        hello: What the newcomer said.
        rival: Who has the id now, and was sent a ping.
        number: The ping's.
        timer: Ends the wait for the answer.
    """

    hello: Hello
    rival: Guest
    number: int
    timer: asyncio.TimerHandle


class Doors(Protocol):
    """What the reception asks of its inbox."""

    def admit(self, route: bytes, hello: Hello) -> None:
        """This stranger is welcome."""

    def dismiss(self, guest: Guest, why: str) -> None:
        """This guest is no more."""

    def check_guest(self, user: str, hello: Hello) -> str:
        """Return why the owner of the key that ZeroMQ calls ``user`` must not say so; empty if it may."""


class Reception:
    """
    Judges strangers.

    Args:
        me: Who this peer is.
        guests: Who is here.
        post: Writes to connections.
        doors: The inbox.
        numbers: The numbers of pings.
        counters: Where refusals are counted.
        logger: Told who was refused.
    """

    def __init__(
        self,
        me: Identity,
        guests: Guests,
        post: Post,
        doors: Doors,
        *,
        numbers: Iterator[int],
        counters: Counters,
        logger: logging.Logger,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._me = me
        self._guests = guests
        self._post = post
        self._doors = doors
        self._numbers = numbers
        self._counters = counters
        self._logger = logger
        self._log = RateLimitedLog(logger)
        self._trials: dict[bytes, Trial] = {}

    def receive(self, route: bytes, user: str, message: Message) -> None:
        """A message came from a connection that is no guest's."""
        if route in self._trials:
            return  # it has said who it is; whether that is so is being found out
        if isinstance(message, Hello):
            self._check(route, user, message)
        elif not isinstance(message, Bye | Refused):
            self.refuse(route, "stranger", "say hello first: this peer does not know you, or took you for dead")

    def refuse(self, route: bytes, code: str, reason: str) -> None:
        """Send a stranger away."""
        self._counters.refused_peers += 1
        if code == "stranger":  # this peer restarted, or took that one for dead
            self._logger.debug("refused a peer (%s): %s", code, reason)
        else:
            self._log.say(logging.WARNING, "refused a peer (%s): %s", code, reason, kind=code)
        self._post.say(route, Refused(code=code, reason=reason))

    def has_answered(self, guest: Guest, number: int) -> None:
        """A guest has answered a ping: if its id was in question, that is settled."""
        for route, trial in self._trials_of(guest):
            if trial.number == number:
                self.forget(route)
                self._refuse_taken(route, trial.hello)

    def has_left(self, guest: Guest) -> None:
        """A guest is no more: who claims its id may have it."""
        for route, trial in self._trials_of(guest):
            self.forget(route)
            self._greet(route, trial.hello)

    def forget(self, route: bytes) -> None:
        """A connection is closed, or judged."""
        trial = self._trials.pop(route, None)
        if trial is not None:
            trial.timer.cancel()

    def close(self) -> None:
        """Judge nobody any more."""
        for route in list(self._trials):
            self.forget(route)

    def _trials_of(self, guest: Guest) -> list[tuple[bytes, Trial]]:
        return [(route, trial) for route, trial in self._trials.items() if trial.rival is guest]

    def _check(self, route: bytes, user: str, hello: Hello) -> None:
        here, there = self._me.cluster, hello.cluster
        if here != there:
            self.refuse(route, "cluster", f"this peer is in the cluster {here!r}, the other one in {there!r}")
        elif reason := self._doors.check_guest(user, hello):
            self.refuse(route, "identity", reason)
        elif hello.peer_id == self._me.peer_id and hello.epoch != self._me.epoch:
            self._refuse_taken(route, hello)
        else:
            self._greet(route, hello)

    def _greet(self, route: bytes, hello: Hello) -> None:
        """Admit a newcomer, unless its id is a guest's: then that one is asked whether it lives."""
        rival = self._guests.rival(hello)
        if rival is None:
            self._doors.admit(route, hello)
            return
        number = next(self._numbers)
        self._trials[route] = Trial(hello, rival, number, self._wait_for(rival))
        self._post.say(rival.route, Ping(number=number))

    def _wait_for(self, rival: Guest) -> asyncio.TimerHandle:
        return self._loop.call_later(TRIAL, self._judge, rival, rival.received)

    def _judge(self, rival: Guest, received: int) -> None:
        """Dismiss a guest that was silent; the answer of one that is sending much may be behind that."""
        if rival.received == received:
            self._doors.dismiss(rival, "did not defend its id")
            return
        for route, trial in self._trials_of(rival):
            trial.timer.cancel()
            self._trials[route] = trial._replace(timer=self._wait_for(rival))

    def _refuse_taken(self, route: bytes, hello: Hello) -> None:
        self.refuse(route, "taken", f"the peer id {hello.peer_id!r} belongs to another live peer: choose another one")
