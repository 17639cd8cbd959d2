"""
Makes the keys that protect peers beyond one machine.

    python -m clstr_zmq keygen node node-1 >> peers.txt
    python -m clstr_zmq keygen client web >> peers.txt

write the key pairs to ``node-1.key`` and ``web.key``, each of which stays with its peer, and print the lines for the
list of peers, which all of them have.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import zmq

from clstr_zmq._key_files import write_key_file
from clstr_zmq._peers_file import NAME, Role, line_of


def main(arguments: list[str] | None = None) -> None:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(prog="python -m clstr_zmq", description="Keys for clstr over ZeroMQ.")
    commands = parser.add_subparsers(required=True)
    keygen = commands.add_parser("keygen", help="make a key pair; print its line for the list of peers")
    roles = [role.value for role in Role]
    keygen.add_argument("role", choices=roles, help="a node may hold shards, a client may only ask")
    keygen.add_argument("name", help="who has the key: its peer ids are NAME and NAME:*")
    keygen.add_argument("--output", type=Path, metavar="FILE", help="where the pair is written (default: NAME.key)")
    chosen = parser.parse_args(arguments)
    if not NAME.fullmatch(chosen.name):
        keygen.error("a name has 1 to 100 of A-Z, a-z, 0-9, '_', '.' and '-'")
    try:
        line = make_key(Role(chosen.role), chosen.name, chosen.output or Path(f"{chosen.name}.key"))
    except OSError as error:
        keygen.error(f"cannot write the key: {error}")
    print(line)  # noqa: T201 -- the command's result


def make_key(role: Role, name: str, file: Path) -> str:
    """
    Write a new key pair to ``file``; return the line that lets its owner in, for the list of peers.

    Raises:
        OSError: The file exists, or cannot be written.
    """
    public_key, secret_key = (key.decode() for key in zmq.curve_keypair())
    write_key_file(file, public_key, secret_key)
    return line_of(role, name, public_key)


if __name__ == "__main__":
    main()
