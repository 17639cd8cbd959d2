"""From a URL scheme to the plugin that provides it, with real distributions on a path made for the test."""

import importlib
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import EntryPoint
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from clstr._plugins import registry as _registry
from clstr._plugins.registry import Registry
from clstr.abc import Transport
from clstr.errors import PluginApiError, PluginConflictError, PluginError, PluginImportError, UnknownSchemeError
from clstr.plugins import ConnectOptions, TransportSpec, TransportURL, hookimpl

GOOD = """
from clstr.plugins import TransportSpec, hookimpl

async def open_it(url, options):
    raise NotImplementedError

@hookimpl
def clstr_transports():
    return [TransportSpec(scheme=scheme, open=open_it, api=1) for scheme in {schemes!r}]
"""

Install = Callable[..., str]


async def open_it(url: TransportURL, options: ConnectOptions) -> Transport:
    raise NotImplementedError


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Install a distribution: its metadata and the one module that its schemes point to, as pip would lay them out."""
    monkeypatch.syspath_prepend(tmp_path)
    modules: list[str] = []

    def install(distribution: str, *schemes: str, source: str = GOOD) -> str:
        escaped = distribution.replace("-", "_")  # as in a wheel's name
        module = f"{escaped}_of_{tmp_path.name}"
        modules.append(module)
        (tmp_path / f"{module}.py").write_text(source.replace("{schemes!r}", repr(schemes)), encoding="utf-8")
        metadata = tmp_path / f"{escaped}-1.0.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
        entries = "".join(f"{scheme} = {module}\n" for scheme in schemes)
        (metadata / "entry_points.txt").write_text(f"[clstr.transports]\n{entries}")
        importlib.invalidate_caches()  # finders remember a folder by its time stamp, which may not have changed
        return module

    yield install
    for module in modules:
        sys.modules.pop(module, None)


def entry_to(plugin: object, *schemes: str, distribution: str | None = None) -> list[Any]:
    """Entry points whose import cannot fail: they stand for ``plugin`` itself."""
    dist = distribution and SimpleNamespace(metadata={"Name": distribution})
    return [SimpleNamespace(name=scheme, value="mod:x", dist=dist, load=lambda: plugin) for scheme in schemes]


def answering(answer: object) -> object:
    """A plugin whose hook gives ``answer``."""

    class Plugin:
        @hookimpl
        def clstr_transports(self) -> object:
            return answer

    return Plugin()


def resolve_answer(answer: object) -> None:
    Registry(lambda: entry_to(answering(answer), "carrier", distribution="clstr-carrier")).resolve("carrier")


def spec_with(**changes: Any) -> TransportSpec:
    return TransportSpec(**{"scheme": "carrier", "open": open_it, "api": 1, **changes})


def test_a_scheme_resolves_to_its_spec_and_distribution(install: Install) -> None:
    module = install("clstr-carrier", "carrier", "carrier+tls")
    registry = Registry()
    for scheme in ("carrier", "carrier+tls"):
        provider = registry.resolve(scheme)
        assert (provider.distribution, provider.spec.scheme) == ("clstr-carrier", scheme)
        assert provider.spec.open is sys.modules[module].open_it


def test_only_the_chosen_plugin_is_imported(install: Install) -> None:
    chosen, other = install("clstr-carrier", "carrier"), install("clstr-other", "other")
    registry = Registry()
    assert {"carrier", "other"} <= set(registry.schemes())
    assert not {chosen, other} & sys.modules.keys()
    registry.resolve("carrier")
    assert {chosen, other} & sys.modules.keys() == {chosen}


def test_each_plugin_answers_for_itself_alone(install: Install) -> None:
    install("clstr-carrier", "carrier")
    install("clstr-other", "other")
    registry = Registry()
    assert registry.resolve("carrier").distribution == "clstr-carrier"
    assert registry.resolve("other").distribution == "clstr-other"


def test_a_resolved_scheme_is_remembered() -> None:
    entries = entry_to(answering([spec_with()]), "carrier")
    registry = Registry(lambda: entries)
    first = registry.resolve("carrier")
    entries.clear()
    assert registry.resolve("carrier") is first


def test_a_distribution_that_is_installed_later_is_found(install: Install) -> None:
    registry = Registry()
    with pytest.raises(UnknownSchemeError):
        registry.resolve("carrier")
    install("clstr-carrier", "carrier")
    assert registry.resolve("carrier").distribution == "clstr-carrier"


@pytest.mark.parametrize(
    ("scheme", "distribution"),
    [
        ("memory", "clstr-memory"),
        ("nats", "clstr-nats"),
        ("nats+tls", "clstr-nats"),
        ("tls", "clstr-nats"),
        ("zmq", "clstr-zmq"),
        ("zmq+ipc", "clstr-zmq"),
        ("redis", "clstr-redis"),
        ("rediss", "clstr-redis"),
        ("redis+unix", "clstr-redis"),
        ("redis+sentinel", "clstr-redis"),
    ],
)
def test_a_known_scheme_names_the_distribution_to_install(scheme: str, distribution: str) -> None:
    with pytest.raises(
        UnknownSchemeError, match=f"'{scheme.replace('+', '.')}': pip install {distribution}$"
    ) as caught:
        Registry(list).resolve(scheme)
    assert caught.value.scheme == scheme
    assert isinstance(caught.value, LookupError)


def test_an_unknown_scheme_lists_the_installed_ones() -> None:
    entries = entry_to(answering([]), "b") + entry_to(answering([]), "a", "b")
    with pytest.raises(UnknownSchemeError, match=r"'natz': correct it, or install .*; installed schemes: a, b$"):
        Registry(lambda: entries).resolve("natz")


def test_an_unknown_scheme_says_when_nothing_is_installed() -> None:
    with pytest.raises(UnknownSchemeError, match=r"installed schemes: none$"):
        Registry(list).resolve("natz")


def test_two_distributions_with_one_scheme_are_both_named_and_not_imported(install: Install) -> None:
    modules = {install("clstr-b", "carrier", "b"), install("clstr-a", "carrier")}
    registry = Registry()
    with pytest.raises(PluginConflictError, match=r"^clstr-a and clstr-b provide the same scheme 'carrier'") as caught:
        registry.resolve("carrier")
    assert (caught.value.scheme, caught.value.distributions) == ("carrier", ("clstr-a", "clstr-b"))
    assert not modules & sys.modules.keys()
    assert registry.resolve("b").distribution == "clstr-b"


def test_one_distribution_that_is_found_twice_is_no_conflict() -> None:
    """An editable install next to a copy of its metadata, for example."""
    entries = entry_to(answering([spec_with()]), "carrier", "carrier", distribution="clstr-carrier")
    assert Registry(lambda: entries).resolve("carrier").distribution == "clstr-carrier"


@pytest.mark.parametrize(
    ("source", "error_type", "fact"),
    [
        ("import a_driver_that_nobody_has", ModuleNotFoundError, "No module named 'a_driver_that_nobody_has'"),
        ("raise RuntimeError('no luck')", RuntimeError, "RuntimeError: no luck"),
        ("raise RuntimeError", RuntimeError, "cannot be imported: RuntimeError: upgrade"),
        ("def", SyntaxError, "SyntaxError"),
    ],
)
def test_a_plugin_that_cannot_be_imported_is_named_with_the_cause(
    install: Install, source: str, error_type: type[Exception], fact: str
) -> None:
    install("clstr-broken", "broken", source=source)
    with pytest.raises(PluginImportError, match=r"upgrade or reinstall clstr-broken$") as caught:
        Registry().resolve("broken")
    assert fact in str(caught.value)
    assert caught.value.distribution == "clstr-broken"
    assert isinstance(caught.value.__cause__, error_type)


def test_a_missing_module_is_an_import_error() -> None:
    entry = EntryPoint(name="carrier", value="no_such_module_of_clstr:plugin", group=_registry.GROUP)
    with pytest.raises(PluginImportError, match="no_such_module_of_clstr") as caught:
        Registry(lambda: [entry]).resolve("carrier")
    assert caught.value.distribution == "no_such_module_of_clstr"  # an entry point without metadata names its module


def test_one_broken_plugin_never_stops_another(install: Install) -> None:
    install("clstr-broken", "broken", source="raise RuntimeError")
    install("clstr-wrong", "wrong", source=GOOD.replace("api=1", "api=99"))
    install("clstr-bad-hook", "bad-hook", source=GOOD.replace("clstr_transports()", "clstr_transports(extra)"))
    install("clstr-carrier", "carrier")
    registry = Registry()
    for scheme in ("broken", "wrong", "bad-hook"):
        with pytest.raises(PluginError, match=f"clstr-{scheme}"):
            registry.resolve(scheme)
    assert registry.resolve("carrier").distribution == "clstr-carrier"


def test_a_plugin_that_failed_may_be_tried_again(install: Install) -> None:
    """The failure is not remembered."""
    module = install("clstr-hook", "carrier", source="raise RuntimeError")
    registry = Registry()
    with pytest.raises(PluginImportError):
        registry.resolve("carrier")
    answers: list[object] = [[spec_with(api=99)], [spec_with()]]

    class Plugin:
        @hookimpl
        def clstr_transports(self) -> object:
            return answers.pop(0)

    plugin: Any = Plugin()
    sys.modules[module] = plugin
    with pytest.raises(PluginApiError):
        registry.resolve("carrier")
    assert registry.resolve("carrier").spec.api == 1


@pytest.mark.parametrize(
    ("source", "fact"),
    [
        ("", "the plugin of clstr-carrier has no hook clstr_transports that answers"),
        ("def clstr_transports(): return []", "has no hook clstr_transports that answers"),
        (GOOD.replace("return [", "["), "has no hook clstr_transports that answers"),
        (
            GOOD.replace("clstr_transports()", "clstr_transports(extra)"),
            "the hook clstr_transports of clstr-carrier has the wrong form",
        ),
        (GOOD.replace("return [", "raise ValueError('oops')  # ["), "of clstr-carrier raised ValueError: oops"),
    ],
    ids=["no hook", "no marker", "no answer", "wrong arguments", "raises"],
)
def test_a_hook_that_cannot_be_called_is_an_api_error(install: Install, source: str, fact: str) -> None:
    install("clstr-carrier", "carrier", source=source)
    with pytest.raises(PluginApiError) as caught:
        Registry().resolve("carrier")
    assert fact in str(caught.value)
    assert caught.value.distribution == "clstr-carrier"


def test_an_import_error_in_the_hook_is_an_import_failure(install: Install) -> None:
    install("clstr-carrier", "carrier", source=GOOD.replace("    return", "    import no_such_driver\n    return"))
    with pytest.raises(PluginImportError, match="No module named 'no_such_driver'") as caught:
        Registry().resolve("carrier")
    assert isinstance(caught.value.__cause__, ImportError)


@pytest.mark.parametrize(
    ("api", "outdated"),
    [(2, "this clstr-core has 1: upgrade clstr-core"), (0, "this clstr-core has 1: upgrade clstr-carrier")],
)
def test_another_api_version_says_what_to_upgrade(api: int, outdated: str) -> None:
    with pytest.raises(PluginApiError, match=f"clstr-carrier was written for plugin API {api}, {outdated}$"):
        resolve_answer([spec_with(api=api)])


@pytest.mark.parametrize(
    ("answer", "fault"),
    [
        (spec_with(), "returns TransportSpec, not a list of TransportSpec"),
        ({"carrier": spec_with()}, "returns dict, not a list"),
        ("carrier", "returns str, not a list"),
        (["carrier"], "returns a str where a TransportSpec belongs"),
        ([], "returns no spec for 'carrier', only for nothing"),
        ([spec_with(scheme="a"), spec_with(scheme="b")], "returns no spec for 'carrier', only for a, b"),
        ([spec_with(), spec_with()], "returns two specs for the scheme 'carrier'"),
        ([spec_with(scheme="Carrier")], "returns the scheme 'Carrier', which is not lower-case URL syntax"),
        ([spec_with(scheme="")], "returns the scheme ''"),
        ([spec_with(scheme=7)], "returns the scheme 7"),
        ([spec_with(api="1")], "returns the API version '1', which is not an int"),
        ([spec_with(api=True)], "returns the API version True"),
        ([spec_with(open=None)], "whose open cannot be called"),
        ([spec_with(capabilities=["a"])], "whose capabilities are not a frozenset of str"),
        ([spec_with(capabilities=frozenset({1}))], "whose capabilities are not a frozenset of str"),
        ([spec_with(parameters=["db"])], "whose parameters are not a mapping"),
        ([spec_with(parameters={"a-b": int})], "returns the parameter 'a-b', which is not an identifier with a parser"),
        ([spec_with(parameters={7: int})], "returns the parameter 7"),
        ([spec_with(parameters={"db": "int"})], "returns the parameter 'db', which is not an identifier with a parser"),
        ([spec_with(parameters={"max_queue": int})], "returns the parameter 'max_queue', whose name is clstr's own"),
        ([spec_with(parameters={"peer_id": str})], "returns the parameter 'peer_id', whose name is clstr's own"),
    ],
)
def test_an_answer_of_the_wrong_form_is_an_api_error(answer: object, fault: str) -> None:
    with pytest.raises(PluginApiError, match=r"^the hook clstr_transports of clstr-carrier ") as caught:
        resolve_answer(answer)
    assert str(caught.value).endswith(": report it to its authors")
    assert fault in str(caught.value)
    assert caught.value.distribution == "clstr-carrier"


def test_a_tuple_of_specs_with_parameters_is_fine() -> None:
    resolve_answer((spec_with(parameters={"db": int}, capabilities=frozenset({"x"})),))


def test_several_threads_may_resolve_at_once() -> None:
    """They meet right after the import, with the same module in hand."""
    barrier = threading.Barrier(4, timeout=5)
    plugin = answering([spec_with()])

    def load() -> object:
        barrier.wait()
        return plugin

    entry: Any = SimpleNamespace(name="carrier", value="mod", dist=None, load=load)
    registry = Registry(lambda: [entry])
    with ThreadPoolExecutor(4) as pool:
        providers = list(pool.map(lambda _: registry.resolve("carrier"), range(4)))
    assert {provider.spec for provider in providers} == {spec_with()}


def test_a_distribution_without_a_name_goes_by_its_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is left of a half-removed installation: entry points, but no METADATA."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "ghost-1.0.dist-info").mkdir()
    (tmp_path / "ghost-1.0.dist-info" / "entry_points.txt").write_text("[clstr.transports]\nghost = no_such_ghost\n")
    with pytest.raises(PluginImportError, match="the plugin of no_such_ghost cannot be imported"):
        Registry().resolve("ghost")


def test_an_installed_distribution_that_has_lost_its_metadata_is_found_all_the_same(
    install: Install, tmp_path: Path
) -> None:
    module = install("clstr-carrier", "carrier")
    (tmp_path / "clstr_carrier-1.0.dist-info" / "METADATA").unlink()
    assert Registry().resolve("carrier").distribution == module
