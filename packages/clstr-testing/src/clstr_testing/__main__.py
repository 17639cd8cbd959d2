"""``python -m clstr_testing URL``: hold a transport against the contract, without a test file."""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import clstr
from clstr_testing._contract import CONTRACT
from clstr_testing._report import Result, run_suite, sentences
from clstr_testing._suite import TransportSuite


def main(arguments: list[str] | None = None) -> int:
    """Run the suite against the URL of the command line; return 0 if nothing failed."""
    parser = argparse.ArgumentParser(
        prog="python -m clstr_testing",
        description="Check a transport against the contract of clstr.abc.",
    )
    parser.add_argument(
        "url", help="where to connect to; {cluster} in it becomes a name of its own for each check: memory://{cluster}"
    )
    parser.add_argument("--guard", type=float, default=20.0, help="seconds after which a check is stuck (%(default)g)")
    options = parser.parse_args(arguments)

    class Suite(TransportSuite):
        url = options.url
        guard = options.guard

    with _quiet():
        return _check(Suite, parser)


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


def _check(suite: type[TransportSuite], parser: argparse.ArgumentParser) -> int:
    """Run the suite and print what holds."""
    try:
        asyncio.run(_try_to_connect(suite.url))
    except (clstr.ClstrError, ValueError) as error:
        parser.error(f"cannot connect: {error}")
    results = []
    for result in run_suite(suite):
        _print(f"{result.status:12} {result.check.name} ({', '.join(result.check.proves)})")
        results.append(result)
    _print(*_table(results))
    return int(any(result.status == "failed" for result in results))


async def _try_to_connect(url: str) -> None:
    """Connect once, so that a mistake in the URL is named once."""
    async with clstr.connect(url.replace("{cluster}", "try")):
        pass


def _table(results: list[Result]) -> Iterator[str]:
    """Write what holds, sentence by sentence, and what failed."""
    yield ""
    for number, status in sentences(results).items():
        yield f"{number:6} {status:12} {CONTRACT[number]}"
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
