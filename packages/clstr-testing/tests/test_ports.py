"""Ports that are free, and stay so."""

from __future__ import annotations

import socket
import sys

import pytest

from clstr_testing._ports import HeldPort, free_port


def test_a_free_port_can_be_listened_on() -> None:
    with socket.create_server(("127.0.0.1", free_port())) as listener:
        assert listener.getsockname()[1] > 0


def test_a_held_port_can_be_listened_on_again_and_again() -> None:
    held = HeldPort()
    for _ in range(3):
        socket.create_server(("127.0.0.1", held.number)).close()
    held.release()


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nothing can hold a port")
def test_a_held_port_is_given_to_nobody_else() -> None:
    held = HeldPort()
    with socket.socket() as other:  # a program that does not set SO_REUSEADDR
        with pytest.raises(OSError, match="in use"):
            other.bind(("127.0.0.1", held.number))
        held.release()
        other.bind(("127.0.0.1", held.number))


def test_a_port_that_somebody_listens_on_cannot_be_held() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, pytest.raises(OSError, match="in use"):
        HeldPort(listener.getsockname()[1])
