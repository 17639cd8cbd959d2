"""Every code block of every text is run, or looked at, by a test that is named here: none is skipped silently."""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from textwrap import indent

import pytest

from clstr_testing import Server, nats_server, valkey_server
from pages.test_guides import BLOCKS

TOP = Path(__file__).parents[2]
PATTERNS = ("*.md", "docs/**/*.md", "packages/*/README.md", "plugins/*/README.md")
PAGES = {str(path.relative_to(TOP)): path for pattern in PATTERNS for path in sorted(TOP.glob(pattern))}
FENCE = re.compile(r'^( *)```(\w*)(?: title="([^"]+)")?\n(.*?)^\1```$', re.DOTALL | re.MULTILINE)
TEMPLATE = "docs/examples/transport-template/README.md"
FOLLOWED = {"docs/start.md", "docs/guides/writing-a-transport.md", TEMPLATE}
OF_OTHER_MACHINES = {"docs/transports/zmq.md"}  # fragments that name addresses and keys: they are compiled
FRAGMENTS = re.compile(r"docs/transports/.+\.md|(packages|plugins)/[\w-]+/README\.md")

# Commands outside of the pages that are followed, and what runs them.
COMMANDS = {
    "python3 -m venv .venv && .venv/bin/pip install -q nox && .venv/bin/nox": ".ci/run",
    "python3 -m venv .venv && .venv/bin/pip install -q nox && .venv/bin/nox -s demo": "the session demo",
    'pip install "clstr-testing[nats,redis]" clstr-memory': "tests-integration/install/test_distributions.py",
    "python -m clstr_zmq keygen node node-1 >> peers.txt      # writes node-1.key, a secret": "the plugin's tests",
    "python -m clstr_zmq keygen client web >> peers.txt": "the plugin's tests",
}
SHOWN = {  # what nothing can run, and what looks at it
    ("README.md", "text"): "test_programs.py: what the program prints",
    ("docs/engine.md", "text"): "a drawing",
    ("docs/transports/nats.md", "text"): "test_docs.py: the configuration that the tests run with",
    ("docs/transports/zmq.md", "text"): "lines of a list of peers, as the plugin's tests write them",
    ("docs/transports/redis.md", "text"): "test_docs.py: the users that the tests run as",
    ("docs/reliability.md", "text"): "what runs of the session chaos have printed",
    ("docs/performance.md", "console"): "bench/test_bench.py: the command line and what it runs",
    ("docs/concepts.md", "mermaid"): "test_site.py: drawn in a browser",
    ("docs/guides/testing-your-application.md", "ini"): "test_guides.py: what every block runs with",
    ("docs/guides/deploying.md", "dockerfile"): "test_deploy.py",
    ("docs/guides/deploying.md", "ini"): "test_deploy.py",
    ("docs/guides/deploying.md", "yaml"): "test_deploy.py",
}


def blocks(page: str) -> list[tuple[str, str, str]]:
    """Return language, title and text of each block of a page."""
    return [found[1:] for found in FENCE.findall(PAGES[page].read_text(encoding="utf-8"))]


def runner(page: str, language: str, title: str, text: str) -> str | None:  # noqa: PLR0911 -- a table
    """Return what runs a block, or ``None`` if nothing does."""
    if page in FOLLOWED and (title or language == "console"):
        return "tests-integration/install/test_walkthroughs.py"
    if language == "console" and (page, language) not in SHOWN:
        commands = [line.removeprefix("$ ") for line in text.splitlines()]
        return "COMMANDS" if all(command in COMMANDS for command in commands) else None
    if text.startswith('--8<-- "examples/'):
        return "test_examples.py"
    if language == "python" and page.removeprefix("docs/guides/") in BLOCKS:
        return "test_guides.py"
    if language == "python" and page == "README.md":
        return "test_programs.py"
    if language == "python" and FRAGMENTS.fullmatch(page):
        return "test_a_fragment_runs"
    return SHOWN.get((page, language))


@pytest.mark.parametrize("page", PAGES)
def test_something_runs_every_block(page: str) -> None:
    text = PAGES[page].read_text(encoding="utf-8")
    assert len(re.findall(r"^ *```", text, re.MULTILINE)) == 2 * len(blocks(page)), "a block does not end"
    assert [(language, text) for language, title, text in blocks(page) if not runner(page, language, title, text)] == []


@pytest.mark.parametrize("page", PAGES)
def test_code_stands_in_fences(page: str) -> None:
    """Indented code would be counted by nobody."""
    prose = FENCE.sub("", PAGES[page].read_text(encoding="utf-8"))
    prose = re.sub(r"^(::: .+\n)(    .+\n)+", "", prose, flags=re.MULTILINE)  # options of mkdocstrings
    assert re.findall(r"\n\n    \S.*", prose) == []


def test_every_exception_is_needed() -> None:
    found = {(page, language) for page in PAGES for language, _, _ in blocks(page)}
    assert {(page, language) for page, language in SHOWN if page in PAGES} <= found
    typed = {line.removeprefix("$ ") for page in PAGES for _, _, text in blocks(page) for line in text.splitlines()}
    missing = {command for command in COMMANDS if command not in typed}
    assert not missing or OF_OTHER_MACHINES.isdisjoint(PAGES)


def test_the_pages_that_are_followed_have_nothing_but_steps() -> None:
    for page in FOLLOWED:
        assert all(title or language == "console" for language, title, _ in blocks(page)), page


@asynccontextmanager
async def nothing() -> AsyncIterator[None]:
    yield


BROKERS: dict[str, tuple[int, Callable[[], AbstractAsyncContextManager[Server | None]]]] = {
    "memory": (0, nothing),
    "nats": (4222, nats_server),
    "redis": (6379, valkey_server),
    "zmq": (0, nothing),
}
RUN = [
    (page, number, text)
    for page in PAGES
    if FRAGMENTS.fullmatch(page)
    for number, (language, _, text) in enumerate(blocks(page))
    if language == "python"
]


def broker_of(page: str) -> str:
    """Return the broker that a page is about."""
    found = re.search(r"clstr-(\w+)/README|transports/(\w+)\.md", page)
    assert found, page
    return found[1] or found[2]


@pytest.mark.parametrize(
    ("page", "text"), [pytest.param(page, text, id=f"{page}-{number}") for page, number, text in RUN]
)
async def test_a_fragment_runs(page: str, text: str, tmp_path: Path) -> None:
    """Inside an async function, with clstr imported, and on a real broker in place of the one that it names."""
    if page in OF_OTHER_MACHINES:
        compile(program_of(text), page, "exec")
        return
    name = broker_of(page)
    port, start = BROKERS.get(name, (0, nothing))
    async with start() as server, asyncio.timeout(30):
        if server is not None:
            text = text.replace(f"127.0.0.1:{port}", f"127.0.0.1:{server.port}")
        program = tmp_path / "fragment.py"
        program.write_text(program_of(text), encoding="utf-8")
        process = await asyncio.create_subprocess_exec(sys.executable, "-W", "error", program)
        assert await process.wait() == 0


def program_of(text: str) -> str:
    if "await " in text or "async with" in text:
        text = f"async def main():\n{indent(text, '    ')}\nimport asyncio\nasyncio.run(main())\n"
    return f"import clstr\n{text}"
