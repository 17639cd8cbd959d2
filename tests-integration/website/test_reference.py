"""The reference has every public name of every distribution, with what a reader needs of it."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

TOP = Path(__file__).parents[2]
SOURCES = [
    *sorted(TOP.glob("p*s/*/src/*/__init__.py")),
    *(TOP / "packages/clstr-core/src/clstr" / f"{name}.py" for name in ("abc", "errors", "plugins")),
    TOP / "packages/clstr-core/src/clstr/spi/__init__.py",
]
HEADING = re.compile(
    r'<h[23] id="(?P<name>[\w.]+)" class="doc doc-heading">.*?doc-symbol-heading doc-symbol-(?P<kind>\w+)', re.DOTALL
)

TAG = re.compile(r"<[^>]+>")
DEFINED = {"class": "class", "function": "def", "method": "def"}  # how the source of each kind begins


def module_of(source: Path) -> str:
    parts = source.with_suffix("").parts
    return ".".join(parts[parts.index("src") + 1 :]).removesuffix(".__init__")


def public_names(source: Path) -> list[str]:
    """Return what stands in ``__all__``, without importing anything."""
    for node in ast.parse(source.read_text(encoding="utf-8")).body:
        target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
        if getattr(target, "id", "") == "__all__":
            return list(ast.literal_eval(getattr(node, "value")))  # noqa: B009 -- of either kind of assignment
    raise ValueError(f"{source} has no __all__")


NAMES = {module_of(source): public_names(source) for source in SOURCES}
MODULES = {module: names for module, names in NAMES.items() if names}


@cache
def page(site: Path, module: str) -> str:
    name = module if module == "clstr" else module.removeprefix("clstr.")
    return (site / "reference" / name / "index.html").read_text(encoding="utf-8")


@cache
def sections(site: Path, module: str) -> dict[str, tuple[str, str]]:
    """Return the kind and the text of each name on a module's page."""
    found = list(HEADING.finditer(page(site, module)))
    ends = [*(each.start() for each in found[1:]), len(page(site, module))]
    return {
        each["name"]: (each["kind"], page(site, module)[each.start() : end])
        for each, end in zip(found, ends, strict=True)
    }


def has_source(name: str, kind: str, text: str) -> bool:
    """Tell whether a source is there, and is that of the name: not what a class inherits, for one."""
    source = TAG.sub("", text.partition("Source code in")[2])
    return re.search(rf"{DEFINED[kind]} {name.rpartition('.')[2]}\b", source) is not None


def test_every_module_with_public_names_is_looked_at() -> None:
    assert {"clstr", "clstr.abc", "clstr.errors", "clstr.plugins", "clstr.spi", "clstr_testing"} <= set(MODULES)
    assert NAMES.keys() - MODULES.keys() == {"clstr_zmq"}  # it is reached by its URL alone


@pytest.mark.parametrize("module", MODULES)
def test_every_public_name_is_there_with_its_description(site: Path, module: str) -> None:
    there = sections(site, module)
    missing = [name for name in MODULES[module] if f"{module}.{name}" not in there]
    assert missing == []
    silent = [name for name, (_, text) in there.items() if not re.search(r"<p>\S", text)]
    assert silent == []


@pytest.mark.parametrize("module", MODULES)
def test_every_function_has_its_signature(site: Path, module: str) -> None:
    for name, (kind, text) in sections(site, module).items():
        if kind in {"function", "method"}:
            assert "doc-signature" in text, name


@pytest.mark.parametrize("module", MODULES)
def test_every_function_and_every_class_has_its_source(site: Path, module: str) -> None:
    there = sections(site, module)
    missing = [name for name, (kind, text) in there.items() if kind in DEFINED and not has_source(name, kind, text)]
    assert missing == []


@pytest.mark.parametrize(
    "text",
    [
        "<details><code>def send(): ...</code></details>",
        "<details>Source code in <code>carrier.py</code><code>def receive(): ...</code></details>",
        "Source code in <code>carrier.py</code>",
    ],
)
def test_a_source_that_is_missing_or_another_s_is_noticed(text: str) -> None:
    right = "<details>Source code in <code>carrier.py</code><code>def <span>send</span>(): ...</code></details>"
    assert has_source("carrier.Pigeon.send", "method", right)
    assert not has_source("carrier.Pigeon.send", "method", text)


def test_functions_and_classes_were_found(site: Path) -> None:
    """The tests above look at something."""
    kinds = [kind for module in MODULES for kind, _ in sections(site, module).values()]
    assert kinds.count("method") > 50
    assert kinds.count("function") > 10
    assert kinds.count("class") > 50
