"""``connect``: what it checks at the call, what it hands to the plugin, and how opening ends."""

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from pathlib import Path
from typing import Any, assert_type

import pytest

import clstr_testing
from clstr._plugins import connect as _connect
from clstr._plugins.connect import PendingTransport, connect
from clstr._plugins.registry import Provider
from clstr.abc import CloseReport, Handler, Subscription, Transport, TransportStats
from clstr.errors import (
    AuthenticationError,
    PluginApiError,
    PluginImportError,
    TransportUnavailableError,
    UnknownSchemeError,
)
from clstr.plugins import ConnectOptions, Limits, TransportSpec, TransportURL

Opener = Callable[[TransportURL, ConnectOptions], Awaitable[Transport]]


class FakeTransport(Transport):
    """Remembers what it was opened with, and whether it was closed."""

    def __init__(self, url: TransportURL, options: ConnectOptions) -> None:
        self.url, self.options, self.closes = url, options, 0

    @property
    def max_payload_bytes(self) -> int:
        return self.options.limits.max_payload_bytes

    async def request(self, envelope: object, *, timeout: float = 5.0) -> bytes:
        raise NotImplementedError

    async def notify(self, envelope: object, *, timeout: float = 5.0) -> None:
        raise NotImplementedError

    async def subscribe(self, shards: Iterable[int], handler: Handler) -> Subscription:
        raise NotImplementedError

    async def wait_closed(self) -> None:
        raise NotImplementedError

    def stats(self) -> TransportStats:
        return TransportStats()

    async def aclose(self) -> CloseReport:
        self.closes += 1
        return CloseReport()


async def open_fake(url: TransportURL, options: ConnectOptions) -> Transport:
    return FakeTransport(url, options)


def even(text: str) -> int:
    if int(text) % 2:
        raise ValueError(f"{text!r} is odd: give an even number")
    return int(text)


@pytest.fixture
def provide(monkeypatch: pytest.MonkeyPatch) -> Callable[[Opener], None]:
    """Let every scheme lead to this opener."""

    def provide(opener: Opener) -> None:
        def resolve(scheme: str) -> Provider:
            parameters: dict[str, Callable[[str], object]] = {"db": even, "password": even, "prefix": str}
            spec = TransportSpec(scheme=scheme, open=opener, api=1, parameters=parameters)
            return Provider(distribution="clstr-fake", spec=spec)

        monkeypatch.setattr(_connect, "resolve", resolve)

    return provide


@pytest.fixture
def fake(provide: Callable[[Opener], None]) -> None:
    provide(open_fake)


async def options_of(pending: PendingTransport) -> ConnectOptions:
    transport = await pending
    assert isinstance(transport, FakeTransport)
    return transport.options


@pytest.mark.usefixtures("fake")
async def test_awaiting_gives_an_open_transport() -> None:
    transport = await connect("fake://h:1/p?db=2")
    assert_type(transport, Transport)
    assert isinstance(transport, FakeTransport)
    assert transport.url == TransportURL.parse("fake://h:1/p?db=2")
    assert transport.closes == 0


@pytest.mark.usefixtures("fake")
async def test_the_context_closes_the_transport() -> None:
    async with connect("fake://") as transport:
        assert_type(transport, Transport)
        assert isinstance(transport, FakeTransport)
        assert transport.closes == 0
    assert transport.closes == 1


@pytest.mark.usefixtures("fake")
async def test_the_context_closes_the_transport_when_its_body_raises() -> None:
    opened: list[Any] = []

    async def use() -> None:
        async with connect("fake://") as transport:
            opened.append(transport)
            raise LookupError("the body's own")

    with pytest.raises(LookupError, match="the body's own"):
        await use()
    assert opened[0].closes == 1


@pytest.mark.usefixtures("fake")
async def test_a_second_await_is_an_error() -> None:
    """It could only open a second transport that nobody closes, or give the first one to two owners."""
    pending = connect("fake://")
    async with pending as transport:
        with pytest.raises(RuntimeError, match="was awaited before: call connect"):
            await pending
    assert isinstance(transport, FakeTransport)
    assert transport.closes == 1


@pytest.mark.usefixtures("fake")
async def test_leaving_a_context_that_was_not_entered_does_nothing() -> None:
    await connect("fake://").__aexit__(None, None, None)


@pytest.mark.usefixtures("fake")
def test_connecting_needs_no_running_loop_until_the_await() -> None:
    pending = connect("fake://u:hidden@h")
    assert repr(pending) == "<PendingTransport fake://u:***@h>"


@pytest.mark.usefixtures("fake")
async def test_defaults_are_those_of_the_contract() -> None:
    options = await options_of(connect("fake+tls://"))
    assert options.limits == Limits()
    assert options.connect_timeout == 5.0
    assert options.logger is logging.getLogger("clstr.transport.fake")
    assert options.extra == {}
    assert re.fullmatch(r"peer-[A-Za-z0-9_-]{12}", options.peer_id)


@pytest.mark.usefixtures("fake")
async def test_peer_ids_are_random_unless_given() -> None:
    assert len({(await options_of(connect("fake://"))).peer_id for _ in range(20)}) == 20
    assert (await options_of(connect("fake://", peer_id="A.b_c-1"))).peer_id == "A.b_c-1"


@pytest.mark.usefixtures("fake")
async def test_a_logger_may_be_given() -> None:
    logger = logging.getLogger("mine")
    assert (await options_of(connect("fake://", logger=logger))).logger is logger


@pytest.mark.usefixtures("fake")
async def test_a_keyword_beats_limits_and_limits_beat_the_url_as_a_whole() -> None:
    url = "fake://?max_concurrent=5&handler_timeout=1.5&max_queue=0"
    from_url = await options_of(connect(url))
    assert from_url.limits == Limits(max_concurrent=5, handler_timeout=1.5, max_queue=0)
    from_limits = await options_of(connect(url, limits=Limits(max_queue=7)))
    assert from_limits.limits == Limits(max_queue=7)
    from_keyword = await options_of(connect(url, limits=Limits(max_queue=7), max_concurrent=6))
    assert from_keyword.limits == Limits(max_queue=7, max_concurrent=6)
    without_limits = await options_of(connect(url, max_concurrent=6))
    assert without_limits.limits == Limits(max_concurrent=6, handler_timeout=1.5, max_queue=0)


@pytest.mark.usefixtures("fake")
async def test_the_plugins_own_parameters_are_parsed() -> None:
    assert (await options_of(connect("fake://?db=2&prefix=x"))).extra == {"db": 2, "prefix": "x"}


@pytest.mark.usefixtures("fake")
async def test_a_keyword_beats_the_url_and_is_parsed_only_if_it_is_text() -> None:
    anything = object()
    assert (await options_of(connect("fake://?db=2", db="4"))).extra == {"db": 4}
    assert (await options_of(connect("fake://?db=2", db=anything))).extra == {"db": anything}


@pytest.mark.usefixtures("fake")
@pytest.mark.parametrize(
    ("url", "keywords", "error", "fact"),
    [
        (7, {}, TypeError, "a transport URL must be a str"),
        ("fake", {}, ValueError, "does not begin with scheme://"),
        ("fake://h:x", {}, ValueError, "host 1 has a port"),
        (
            "fake://?colour=1&zone=2",
            {},
            ValueError,
            "unknown URL parameter 'colour' for fake; known: db, drain_timeout",
        ),
        ("fake://", {"colour": 1}, TypeError, "an unknown keyword 'colour' for fake; known: db, drain_timeout"),
        ("fake://?connect_timeout=1", {}, ValueError, "unknown URL parameter 'connect_timeout'"),
        ("fake://?max_concurrent=0", {}, ValueError, "max_concurrent must be"),
        ("fake://?max_concurrent=many", {}, ValueError, "max_concurrent must be an integer, not 'many'"),
        ("fake://?max_concurrent=many", {"limits": Limits()}, ValueError, "max_concurrent must be an integer"),
        ("fake://", {"max_concurrent": 0}, ValueError, "max_concurrent must be"),
        ("fake://", {"max_concurrent": "5"}, TypeError, "max_concurrent must be an int, not '5'"),
        ("fake://", {"limits": {"max_concurrent": 5}}, TypeError, "limits must be a clstr.Limits"),
        ("fake://", {"logger": "clstr"}, TypeError, "logger must be a logging.Logger, not 'clstr'"),
        ("fake://", {"peer_id": ""}, ValueError, "peer_id must be 1 to 128 of"),
        ("fake://", {"peer_id": "a" * 129}, ValueError, "peer_id must be 1 to 128 of"),
        ("fake://", {"peer_id": "a b"}, ValueError, "not 'a b'"),
        ("fake://", {"peer_id": "a\n"}, ValueError, "peer_id must be"),
        ("fake://", {"peer_id": "ä"}, ValueError, "peer_id must be"),
        ("fake://", {"peer_id": 7}, TypeError, "peer_id must be a str, not 7"),
        ("fake://", {"connect_timeout": 0}, ValueError, "connect_timeout must be finite and above 0"),
        ("fake://", {"connect_timeout": float("nan")}, ValueError, "connect_timeout must be"),
        ("fake://", {"connect_timeout": float("inf")}, ValueError, "connect_timeout must be"),
        ("fake://", {"connect_timeout": None}, TypeError, "connect_timeout must be a number of seconds"),
        ("fake://?wait=1", {}, ValueError, "unknown URL parameter 'wait'"),
        ("fake://", {"wait": -1}, ValueError, "wait must be finite and above 0"),
        ("fake://", {"wait": True}, TypeError, "wait must be a number of seconds"),
        ("fake://", {"wait": float("inf")}, ValueError, "wait must be finite"),
        ("fake://?db=3", {}, ValueError, "parameter 'db': '3' is odd: give an even number"),
        ("fake://", {"db": "3"}, ValueError, "parameter 'db': '3' is odd"),
    ],
)
def test_a_wrong_argument_is_refused_at_the_call(
    url: Any, keywords: dict[str, Any], error: type[Exception], fact: str
) -> None:
    with pytest.raises(error) as caught:
        _ = connect(url, **keywords)
    assert fact in str(caught.value)


@pytest.mark.usefixtures("fake")
def test_a_malformed_secret_is_not_quoted() -> None:
    with pytest.raises(ValueError, match=r"^parameter 'password': it is malformed$"):
        _ = connect("fake://?password=31337")


def test_an_unknown_scheme_is_refused_at_the_call() -> None:
    with pytest.raises(UnknownSchemeError, match="no installed distribution provides the URL scheme 'no-such'"):
        _ = connect("no-such://")


async def test_an_installed_plugin_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without anything injected: entry point, module, hook, opener."""
    module = "clstr_plugin_of_test_connect"
    source = f"""
from clstr.plugins import TransportSpec, hookimpl

async def open_it(url, options):
    raise PermissionError(options.extra["level"])

@hookimpl
def clstr_transports():
    return [TransportSpec(scheme="{module.replace("_", "-")}", open=open_it, api=1, parameters={{"level": int}})]
"""
    (tmp_path / f"{module}.py").write_text(source, encoding="utf-8")
    metadata = tmp_path / f"{module}-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(f"[clstr.transports]\n{module.replace('_', '-')} = {module}\n")
    monkeypatch.syspath_prepend(tmp_path)
    pending = connect(f"{module.replace('_', '-')}://?level=3")
    with pytest.raises(PermissionError, match="3"):
        await pending


async def test_opening_that_takes_too_long_is_cancelled(provide: Callable[[Opener], None]) -> None:
    cancelled = asyncio.Event()

    async def hang(url: TransportURL, options: ConnectOptions) -> Transport:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()
        raise AssertionError

    provide(hang)
    with pytest.raises(TransportUnavailableError, match=r"^fake://u:\*\*\*@h did not open within") as caught:
        await connect("fake://u:hidden@h", connect_timeout=0.01)
    assert "connect_timeout=0.01 s" in str(caught.value)
    assert isinstance(caught.value.__cause__, TimeoutError)
    assert cancelled.is_set()


class Starting:
    """An opener for a broker that cannot be reached ``unreachable`` times."""

    def __init__(self, unreachable: int, error: Exception | None = None) -> None:
        self.unreachable = unreachable
        self.error = error or TransportUnavailableError("nobody listens at fake:1")
        self.attempts: list[float] = []

    async def __call__(self, url: TransportURL, options: ConnectOptions) -> Transport:
        self.attempts.append(asyncio.get_running_loop().time())
        if len(self.attempts) <= self.unreachable:
            raise self.error
        return FakeTransport(url, options)


def in_virtual_time(work: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=clstr_testing.VirtualTimeLoop) as runner:
        runner.run(work)


def test_it_waits_for_a_broker_that_starts_later(
    provide: Callable[[Opener], None], caplog: pytest.LogCaptureFixture
) -> None:
    opener = Starting(unreachable=3)
    provide(opener)

    async def use() -> None:
        async with connect("fake://", wait=60) as transport:
            assert isinstance(transport, FakeTransport)

    in_virtual_time(use())
    assert len(opener.attempts) == 4
    assert "nobody listens at fake:1; trying again for 60 s" in caplog.text


def test_it_gives_up_with_the_last_error_when_the_wait_is_over(provide: Callable[[Opener], None]) -> None:
    opener = Starting(unreachable=1_000_000)
    provide(opener)

    async def use() -> None:
        with pytest.raises(TransportUnavailableError, match="nobody listens"):
            await connect("fake://", wait=60)
        assert 50 < asyncio.get_running_loop().time() - opener.attempts[0] < 60

    in_virtual_time(use())
    assert len(opener.attempts) > 10


@pytest.mark.parametrize(
    ("wait", "error"),
    [(60, AuthenticationError("wrong password")), (0, TransportUnavailableError("away")), (60, ValueError("odd"))],
    ids=["refused credentials", "no wait", "a mistake"],
)
async def test_what_waiting_does_not_mend_is_raised_at_once(
    provide: Callable[[Opener], None], wait: float, error: Exception
) -> None:
    opener = Starting(unreachable=1, error=error)
    provide(opener)
    with pytest.raises(type(error)):
        await connect("fake://", wait=wait)
    assert len(opener.attempts) == 1


async def test_a_timeout_of_the_plugins_own_stays_as_it_is(provide: Callable[[Opener], None]) -> None:
    async def give_up(url: TransportURL, options: ConnectOptions) -> Transport:
        raise TimeoutError("the plugin's own")

    provide(give_up)
    with pytest.raises(TimeoutError, match="the plugin's own"):
        await connect("fake://")


async def test_cancelling_the_caller_cancels_the_opening(provide: Callable[[Opener], None]) -> None:
    started = asyncio.Event()

    async def hang(url: TransportURL, options: ConnectOptions) -> Transport:
        started.set()
        await asyncio.Event().wait()
        raise AssertionError

    async def use() -> None:
        await connect("fake://", connect_timeout=60)

    provide(hang)
    task = asyncio.create_task(use())
    async with asyncio.timeout(5):
        await started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_a_driver_that_is_missing_is_named_with_its_distribution(provide: Callable[[Opener], None]) -> None:
    async def import_driver(url: TransportURL, options: ConnectOptions) -> Transport:
        raise ModuleNotFoundError("No module named 'driver'", name="driver")

    provide(import_driver)
    with pytest.raises(PluginImportError) as caught:
        await connect("fake://")
    assert str(caught.value) == (
        "clstr-fake cannot import its driver: No module named 'driver': reinstall clstr-fake with its dependencies"
    )
    assert caught.value.distribution == "clstr-fake"
    assert isinstance(caught.value.__cause__, ModuleNotFoundError)


@pytest.mark.parametrize(
    "error", [PluginImportError("clstr-fake", "needs libfake"), AuthenticationError("no"), OSError("no route")]
)
async def test_errors_that_the_plugin_raises_pass(provide: Callable[[Opener], None], error: Exception) -> None:
    async def fail(url: TransportURL, options: ConnectOptions) -> Transport:
        raise error

    provide(fail)
    with pytest.raises(type(error)) as caught:
        await connect("fake://")
    assert caught.value is error


async def test_what_is_opened_must_be_a_transport(provide: Callable[[Opener], None]) -> None:
    async def open_nothing(url: TransportURL, options: ConnectOptions) -> Any:
        return None

    provide(open_nothing)
    with pytest.raises(PluginApiError, match=r"^clstr-fake opened a NoneType, not a clstr\.abc\.Transport: report it"):
        await connect("fake://")


async def test_opening_that_failed_leaves_nothing_to_close(provide: Callable[[Opener], None]) -> None:
    async def fail(url: TransportURL, options: ConnectOptions) -> Transport:
        raise AuthenticationError("no")

    provide(fail)
    pending = connect("fake://")
    with pytest.raises(AuthenticationError):
        async with pending:
            raise AssertionError
    with pytest.raises(RuntimeError, match="call connect"):
        await pending


async def test_a_transport_that_does_not_tell_clusters_apart_is_an_error_and_closed(
    provide: Callable[[Opener], None],
) -> None:
    """It would take what another cluster sends, without a word."""
    opened: list[FakeTransport] = []

    async def open_and_note(url: TransportURL, options: ConnectOptions) -> Transport:
        opened.append(FakeTransport(url, options))
        return opened[0]

    provide(open_and_note)
    with pytest.raises(ValueError, match="FakeTransport does not tell clusters apart: leave out cluster='prod'"):
        await connect("fake://", cluster="prod")
    assert opened[0].closes == 1
