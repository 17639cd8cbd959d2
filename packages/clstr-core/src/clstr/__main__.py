"""``python -m clstr transports``: what is installed, and why something is refused."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Iterable, Sequence
from importlib import metadata

from clstr._plugins.inventory import InstalledTransport, installed_transports
from clstr._plugins.registry import KNOWN_DISTRIBUTIONS, Registry
from clstr.plugins import API_VERSION

COLUMNS = ("scheme", "distribution", "version", "API", "capabilities")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; return 0, or 1 if a transport is refused."""
    parser = argparse.ArgumentParser(prog="python -m clstr")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    listing = commands.add_parser(
        "transports",
        help="list the installed transports",
        description="List the installed transports; the exit status is 1 if one of them is refused.",
    )
    listing.add_argument("--json", action="store_true", help="for programs")
    options = parser.parse_args(arguments)
    found = list(installed_transports(Registry()))
    sys.stdout.write(_as_json(found) if options.json else _as_text(found))
    return int(any(transport.refused for transport in found))


def _as_json(found: Iterable[InstalledTransport]) -> str:
    facts = {
        "clstr_core": metadata.version("clstr-core"),
        "plugin_api": API_VERSION,
        "transports": [dataclasses.asdict(transport) for transport in found],
    }
    return f"{json.dumps(facts, indent=2)}\n"


def _as_text(found: Sequence[InstalledTransport]) -> str:
    lines = [f"clstr-core {metadata.version('clstr-core')}, plugin API {API_VERSION}", ""]
    if found:
        lines += _table([COLUMNS, *(_row(transport) for transport in found)])
    else:
        lines.append(
            f"no transport is installed: pip install one of {', '.join(sorted({*KNOWN_DISTRIBUTIONS.values()}))}"
        )
    return "".join(f"{line}\n" for line in lines)


def _row(transport: InstalledTransport) -> tuple[str, ...]:
    api = "-" if transport.api is None else str(transport.api)
    last = f"refused: {transport.refused}" if transport.refused else ", ".join(transport.capabilities) or "-"
    return transport.scheme, transport.distribution, transport.version or "-", api, last


def _table(rows: Sequence[Sequence[str]]) -> Iterable[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


if __name__ == "__main__":
    sys.exit(main())
