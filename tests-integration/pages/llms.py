"""
Writes ``docs/llms.txt``, which tells programs that read documentation what there is: one line for each page.

    python tests-integration/pages/llms.py
"""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

TOP = Path(__file__).parents[2]
DOCS = TOP / "docs"
TARGET = DOCS / "llms.txt"
HEAD = """# clstr

> Routes a request by key to the one node that owns it, over the message broker that a team already runs (NATS, Redis or
> Valkey, ZeroMQ, or none): key -> BLAKE2b shard -> rendezvous-hashed node -> handler -> reply. Python 3.11.3 or later,
> asyncio. At most once: every error says in `maybe_executed` whether the handler may have run.

Install the transport, which brings the core: `pip install clstr-nats`; then `import clstr`. The bare name `clstr` on
the package index is an unrelated project.
"""


class _Loader(yaml.SafeLoader):
    """Reads mkdocs.yml, which names Python functions."""


_Loader.add_multi_constructor("tag:yaml.org,2002:python/name:", lambda *_: None)


def configuration() -> dict[str, Any]:
    """Return mkdocs.yml."""
    loaded: dict[str, Any] = yaml.load((TOP / "mkdocs.yml").read_text(encoding="utf-8"), Loader=_Loader)
    return loaded


def pages() -> Iterator[tuple[str, str, str]]:
    """Yield section, title and file of each page, in the order of the navigation."""
    for entry in configuration()["nav"]:
        yield from _pages("", entry)


def _pages(section: str, entry: Any) -> Iterator[tuple[str, str, str]]:
    if isinstance(entry, str):
        yield section, section, entry
        return
    ((title, target),) = entry.items()
    if isinstance(target, str):
        yield section, title, target
        return
    for each in target:
        yield from _pages(title, each)


def summary(file: str) -> str:
    """Return the first sentence of a page, or of the docstring that it shows."""
    text = (DOCS / file).read_text(encoding="utf-8")
    shown = re.match(r"::: (\S+)", text)
    if shown:
        text = inspect.getdoc(importlib.import_module(shown[1])) or ""
    included = re.match(r'--8<-- "(.+)"', text)
    if included:
        text = (TOP / included[1]).read_text(encoding="utf-8")
    paragraphs = (part for part in text.split("\n\n") if part.strip() and not part.lstrip().startswith(("#", "<", "|")))
    sentence = re.match(r"(.+?[.!?])(?=\s|$)", " ".join(next(paragraphs).split()))
    plain = sentence[1] if sentence else ""
    return re.sub(r"\[(.+?)\]\(.+?\)", r"\1", plain).rstrip(".").replace("``", "`")


def render() -> str:
    """Return what belongs into the file."""
    lines, last = [HEAD], ""
    for section, title, file in pages():
        if section != last:
            lines.append(f"\n## {section}\n" if section else "")
        last = section
        lines.append(f"- [{title}]({_address(file)}): {summary(file)}")
    return "\n".join(lines) + "\n"


def _address(file: str) -> str:
    """Return where a page lies, relative to the top of the site."""
    path = file.removesuffix(".md").removesuffix("index").rstrip("/")
    return f"{path}/" if path else "./"


if __name__ == "__main__":
    TARGET.write_text(render(), encoding="utf-8")
