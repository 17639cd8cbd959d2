"""CURVE keys in Z85, and files with a pair of them."""

from __future__ import annotations

import os
import re
import struct
from pathlib import Path

from zmq.utils import z85

KEY_CHARACTERS, KEY_BYTES = 40, 32
_PUBLIC = re.compile(r'public-key = "([^"\s]{40})"')
_SECRET = re.compile(r'secret-key = "([^"\s]{40})"')


def is_key(text: str) -> bool:
    """Tell whether ZeroMQ takes ``text`` for a key."""
    try:
        return len(z85.decode(text)) == KEY_BYTES
    except (KeyError, ValueError, struct.error):  # not one of Z85's characters, a wrong length, a number too large
        return False


def write_key_file(file: Path, public_key: str, secret_key: str) -> None:
    """
    Write a key pair, readable by its owner alone.

    Raises:
        FileExistsError: There is such a file: keys are not overwritten.
    """
    with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as text:
        text.write("# A secret: whoever has it is this peer.\n")
        text.write(f'curve\n    public-key = "{public_key}"\n    secret-key = "{secret_key}"\n')


def read_key_file(file: Path) -> tuple[str, str]:
    """
    Return the public and the secret key of a file of `write_key_file`, or of ``zmq.auth.create_certificates``.

    Raises:
        ValueError: It has none.
    """
    text = file.read_text(encoding="utf-8")
    public, secret = _PUBLIC.search(text), _SECRET.search(text)
    if public is None or secret is None or not (is_key(public[1]) and is_key(secret[1])):
        raise ValueError(f"{file} has no key pair: make one with python -m clstr_zmq keygen")
    return public[1], secret[1]
