"""``python -m clstr_testing URL``: hold a transport, or with ``--directory`` a directory, against its contract."""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import pkgutil
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import clstr
from clstr_testing._check import Check
from clstr_testing._contract import CONTRACT, DIRECTORY_CONTRACT
from clstr_testing._directory_suite import DirectorySuite
from clstr_testing._memory_directory_suite import MemoryDirectorySuite
from clstr_testing._report import Result, run_suite, sentences
from clstr_testing._suite import TransportSuite

PATIENCE = 5.0  # seconds for two peers to find each other


def main(arguments: list[str] | None = None) -> int:
    """Run the suite against the URL of the command line; return 0 if nothing failed."""
    parser = argparse.ArgumentParser(
        prog="python -m clstr_testing",
        description="Check a transport against the contract of clstr.abc, or a directory against that of clstr.spi.",
    )
    parser.add_argument(
        "url", help="where to connect to; {cluster} in it becomes a name of its own for each check: memory://{cluster}"
    )
    parser.add_argument(
        "--directory",
        action="store_true",
        help="check a directory: memory://, or module:class for a subclass of clstr_testing.DirectorySuite",
    )
    parser.add_argument("--guard", type=float, default=20.0, help="seconds after which a check is stuck (%(default)g)")
    parser.add_argument(
        "--only", action="append", metavar="LINE", help="check this line of the contract alone: T13, D3"
    )
    parser.add_argument("--json", action="store_true", help="print a JSON object for each check, and nothing else")
    options = parser.parse_args(arguments)
    with _quiet():
        if options.directory:
            return _check(_directory_suite(parser, options), DIRECTORY_CONTRACT, parser, options)
        return _check(_transport_suite(parser, options), CONTRACT, parser, options)


def _transport_suite(parser: argparse.ArgumentParser, options: argparse.Namespace) -> type[TransportSuite]:
    """Return the suite over the URL, which must lead two transports to each other."""

    class Suite(TransportSuite):
        url = options.url
        guard = options.guard

    try:
        asyncio.run(_try_two_peers(options.url))
    except (clstr.ClstrError, ValueError) as error:
        parser.error(f"cannot connect: {error}")
    except _StrangersError as error:
        parser.error(str(error))
    return Suite


def _directory_suite(parser: argparse.ArgumentParser, options: argparse.Namespace) -> type[DirectorySuite]:
    """Return the suite that ``memory://`` or ``module:class`` names."""
    try:
        named = MemoryDirectorySuite if options.url.startswith("memory:") else pkgutil.resolve_name(options.url)
    except (ImportError, AttributeError, ValueError) as error:
        parser.error(f"cannot import {options.url!r}: {error}")
    if not (isinstance(named, type) and issubclass(named, DirectorySuite)):
        parser.error(
            f"{options.url!r} is no subclass of clstr_testing.DirectorySuite: write module:class, or memory://"
        )
    return type(named.__name__, (named,), {"guard": options.guard})


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the log: the checks provoke what it would warn of."""
    logger = logging.getLogger("clstr")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


def _check(
    suite: type[TransportSuite | DirectorySuite],
    contract: Mapping[str, str],
    parser: argparse.ArgumentParser,
    options: argparse.Namespace,
) -> int:
    """Run the suite and print what holds."""
    chosen = [check for check in sorted(suite.checks(), key=_line) if _is_wanted(check, options.only)]
    if not chosen:
        first, last = (number.partition(".")[0] for number in (min(contract, key=_number), max(contract, key=_number)))
        parser.error(
            f"no check proves {', '.join(options.only)}: lines are {first} to {last}, sentences {first}.1 and so on"
        )
    results = []
    for result in run_suite(suite, only=[check.name for check in chosen]):
        _print(_json(result) if options.json else _text(result))
        results.append(result)
    if not options.json:
        _print(*_table(results, contract))
    return int(any(result.status == "failed" for result in results))


def _is_wanted(check: Check, only: Sequence[str] | None) -> bool:
    return not only or any(number in only or number.partition(".")[0] in only for number in check.proves)


def _line(check: Check) -> tuple[list[int], str]:
    """Sort by the first sentence that a check proves: T1 comes first, T10 after T9."""
    return _number(check.proves[0]), check.name


def _number(sentence: str) -> list[int]:
    return [int(part) for part in sentence[1:].split(".")]


def _text(result: Result) -> str:
    stuck = f": {result.reason}" if result.reason.startswith("stuck") else ""
    return f"{result.status:12} {result.check.name} ({', '.join(result.check.proves)}){stuck}"


def _json(result: Result) -> str:
    check = result.check
    fields = {"check": check.name, "proves": check.proves, "status": result.status, "reason": result.reason}
    return json.dumps(fields)


class _StrangersError(Exception):
    """Two transports of one URL do not reach each other."""


async def _try_two_peers(url: str) -> None:
    """Connect twice, so that a mistake in the URL is named once, and before every check waits for it."""
    is_isolated, url = "{cluster}" in url, url.replace("{cluster}", "try")
    async with clstr.connect(url) as server, clstr.connect(url) as client:
        await server.subscribe([0], _answer)
        try:
            async with asyncio.timeout(PATIENCE):
                await client.request(clstr.Envelope(shard=0, type="try"), timeout=PATIENCE)
        except (clstr.ClstrError, TimeoutError) as error:
            hint = "" if is_isolated else "; each check needs a cluster of its own: put {cluster} into the URL"
            raise _StrangersError(
                f"two transports of {url} do not reach each other: {str(error) or 'no reply'}{hint}"
            ) from error


async def _answer(_: clstr.Envelope) -> bytes:
    return b""


def _table(results: list[Result], contract: Mapping[str, str]) -> Iterator[str]:
    """Write what holds, sentence by sentence, and what failed."""
    yield ""
    for number, status in sentences(results, contract).items():
        yield f"{number:6} {status:12} {contract[number]}"
    counts = Counter(result.status for result in results)
    yield ""
    yield f"{counts['passed']} checks passed, {counts['failed']} failed, {counts['not checked']} not checked"
    for result in results:
        if result.reason:
            yield f"  {result.status}: {result.check.name}: {result.reason}"


def _print(*lines: str) -> None:
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
