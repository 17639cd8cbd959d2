"""Reaching a place: its name is looked up, and its addresses race for the first connection."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial

from clstr.errors import TransportUnavailableError
from clstr.spi import race
from clstr_zmq._dealer import Dealer, DialError
from clstr_zmq._names import Lookup, host_and_port, tcp_endpoint

DIAL_TIMEOUT = 5.0  # seconds; ZeroMQ has 2 to connect and 2 to shake hands, and says nothing if it has no descriptor
NEXT_ADDRESS_AFTER = 0.25  # seconds: RFC 8305 recommends it as the Connection Attempt Delay

Order = Callable[[str], tuple[int, bool]]
"""What endpoints are sorted by before they are tried."""


async def dial(
    address: str, *, lookup: Lookup, order: Order, new_dealer: Callable[[str], Dealer]
) -> tuple[str, Dealer]:
    """
    Connect to whichever address of a place answers.

    A name is looked up each time anew: it may have moved. The next of its addresses is tried 0.25 s after the last, or
    as soon as that fails, so that a mute one costs a moment.

    Args:
        address: As peers advertise it: ``tcp://host:5555``, ``ipc:///run/app/a.sock``.
        lookup: Resolves the host's name.
        order: Which endpoint is tried first.
        new_dealer: Begins to connect to an endpoint.

    Returns:
        The endpoint, and the connection.

    Raises:
        DialError: No address answers.
    """
    endpoints = sorted(await _endpoints(address, lookup), key=order)
    attempts = [partial(_attempt, endpoint, new_dealer) for endpoint in endpoints]
    try:
        return await race(attempts, delay=NEXT_ADDRESS_AFTER, discard=lambda won: won[1].close())
    except ExceptionGroup as group:
        raise _one_of(group) from None


async def _endpoints(address: str, lookup: Lookup) -> list[str]:
    named = host_and_port(address)
    if named is None:
        return [address]
    host, port = named
    try:
        return [tcp_endpoint(each, port) for each in await lookup(host, port)]
    except OSError as error:
        raise DialError(f"cannot look up {host}: {error.strerror or error}", was_tried=False) from error


async def _attempt(endpoint: str, new_dealer: Callable[[str], Dealer]) -> tuple[str, Dealer]:
    try:
        dealer = new_dealer(endpoint)
    except TransportUnavailableError as error:
        raise DialError(str(error), was_tried=False) from error
    try:
        async with asyncio.timeout(DIAL_TIMEOUT):
            problem = await dealer.opened
    except TimeoutError:
        problem = DialError(f"no connection within {DIAL_TIMEOUT:g} s")
    except asyncio.CancelledError:
        dealer.close()
        raise
    if problem is not None:
        dealer.close()
        raise problem
    return endpoint, dealer


def _one_of(group: ExceptionGroup[Exception]) -> DialError:
    """Return one error for all addresses."""
    failures = [each for each in group.exceptions if isinstance(each, DialError)]
    if len(failures) < len(group.exceptions):
        raise group  # a defect of ours
    return DialError(
        "; ".join(dict.fromkeys(map(str, failures))),
        is_denied=any(each.is_denied for each in failures),
        was_tried=any(each.was_tried for each in failures),
    )
