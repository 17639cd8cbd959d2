"""The suite as a third party uses it: a class in a test file, run by pytest."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from clstr_testing import TransportSuite

pytest_plugins = "pytester"
Run = Callable[..., pytest.RunResult]

TEN_LINES = """
    from clstr_testing import TransportSuite


    class TestMine(TransportSuite):
        url = "loopback://{cluster}"
"""
URL_FIXTURE = """
    import pytest
    from clstr_testing import TransportSuite


    @pytest.fixture
    def url():
        return "loopback://{cluster}"


    class TestMine(TransportSuite):
        '''Of a fixture.'''
"""
CONNECT_HOOK = """
    import clstr
    from clstr_testing import TransportSuite


    class TestMine(TransportSuite):
        async def connect(self, **options):
            return await clstr.connect(f"loopback://{self.cluster}", **options)
"""
HOOKS = """
    from clstr_testing import TransportSuite
    from conformance.plugin import NamedHubs


    class TestMine(TransportSuite):
        url = "loopback://{cluster}"

        async def cut(self):
            NamedHubs.get(self.cluster).cut()

        async def cut_peer(self, peer):
            peer.link.cut()

        async def restore(self):
            NamedHubs.get(self.cluster).restore()

        async def inject(self, shard, body):
            NamedHubs.get(self.cluster).inject(shard, body)
"""
EXPECTED_FAILURE = """
    from clstr_testing import TransportSuite


    class TestMine(TransportSuite):
        url = "loopback://{{cluster}}?fault={fault}"
        expected_failures = {{"test_none_becomes_empty_bytes": "null is not yet nothing"}}
"""
CHECKS = len(TransportSuite.checks())
CHECKS_NAMED = sum("becomes" in check.name or "any_bytes" in check.name for check in TransportSuite.checks())
NEED_HOOKS = sum(bool(check.needs) for check in TransportSuite.checks())


@pytest.fixture
def run(pytester: pytest.Pytester, loopback_plugin: None) -> Run:
    """Run a test file on its own, with warnings as errors."""
    pytester.makeini("[pytest]\nfilterwarnings = error\nasyncio_default_fixture_loop_scope = function\n")

    def run_file(source: str, *options: str, mode: str = "strict") -> pytest.RunResult:
        pytester.makepyfile(source)
        return pytester.runpytest_inprocess(f"--asyncio-mode={mode}", "-p", "no:cacheprovider", "-rs", *options)

    return run_file


@pytest.mark.parametrize("mode", ["strict", "auto"])
def test_a_strangers_file_of_ten_lines_runs_every_check(run: Run, mode: str) -> None:
    """What needs hooks is skipped, and says so."""
    outcome = run(TEN_LINES, mode=mode)
    outcome.assert_outcomes(passed=CHECKS - NEED_HOOKS, skipped=NEED_HOOKS)
    outcome.stdout.fnmatch_lines_random([f"*not checked: there is no hook {hook!r}" for hook in ("cut", "inject")])


def test_with_its_hooks_everything_is_checked(run: Run) -> None:
    run(HOOKS).assert_outcomes(passed=CHECKS)


@pytest.mark.parametrize("mode", ["strict", "auto"])
@pytest.mark.parametrize("source", [URL_FIXTURE, CONNECT_HOOK], ids=["fixture", "hook"])
def test_the_url_may_be_a_fixture_or_connecting_a_hook(run: Run, source: str, mode: str) -> None:
    run(source, "-k", "none_becomes or to_an_unowned", mode=mode).assert_outcomes(passed=3, deselected=CHECKS - 3)


def test_a_url_fixture_may_be_asynchronous(run: Run) -> None:
    source = URL_FIXTURE.replace("def url", "async def url")
    run(source, "-k", "none_becomes", mode="auto").assert_outcomes(passed=1, deselected=CHECKS - 1)


def test_a_url_fixture_that_cannot_be_made_is_an_error(run: Run) -> None:
    """It is not taken for one that is not there."""
    outcome = run(URL_FIXTURE.replace("url()", "url(broker)"), "-k", "none_becomes")
    outcome.assert_outcomes(errors=1, deselected=CHECKS - 1)
    outcome.stdout.fnmatch_lines(["*fixture 'broker' not found"])


def test_an_expected_failure_is_one(run: Run) -> None:
    outcome = run(EXPECTED_FAILURE.format(fault="NoneBecomesNull"), "-rx", "-k", "becomes or any_bytes")
    outcome.assert_outcomes(xfailed=1, passed=CHECKS_NAMED - 1, deselected=CHECKS - CHECKS_NAMED)
    outcome.stdout.fnmatch_lines(["XFAIL *test_none_becomes_empty_bytes*null is not yet nothing"])


def test_an_expected_failure_that_passes_is_a_failure(run: Run) -> None:
    """Whoever repairs it takes the expectation away."""
    outcome = run(EXPECTED_FAILURE.format(fault=""), "-k", "none_becomes")
    outcome.assert_outcomes(failed=1, deselected=CHECKS - 1)
    outcome.stdout.fnmatch_lines(["*XPASS(strict)* null is not yet nothing"])


def test_a_check_cannot_be_overridden() -> None:
    with pytest.raises(TypeError, match="Mine overrides the check test_none_becomes_empty_bytes: state it in exp"):
        type("Mine", (TransportSuite,), {"test_none_becomes_empty_bytes": None})


def test_a_check_cannot_be_overridden_below_a_subclass() -> None:
    class Mine(TransportSuite):
        """Has nothing of its own."""

    with pytest.raises(TypeError, match="overrides the check"):
        type("Ours", (Mine,), {"test_none_becomes_empty_bytes": None})


def test_only_a_check_can_be_expected_to_fail() -> None:
    with pytest.raises(TypeError, match="Mine expects the failure of test_nothing, which is no check"):
        type("Mine", (TransportSuite,), {"expected_failures": {"test_nothing": "?"}})


def test_a_suite_may_have_tests_of_its_own(run: Run) -> None:
    own = TEN_LINES + "\n        def test_of_mine(self):\n            assert self.url\n"
    run(own, "-k", "of_mine").assert_outcomes(passed=1, deselected=CHECKS)


def test_a_check_cannot_be_overridden_by_a_mixin() -> None:
    mixin = type("Mixin", (), {"test_none_becomes_empty_bytes": None})
    with pytest.raises(TypeError, match="overrides the check test_none_becomes_empty_bytes"):
        type("Mine", (mixin, TransportSuite), {})


def test_what_decides_on_skipping_cannot_be_overridden() -> None:
    with pytest.raises(TypeError, match="overrides the check skip_unless_checkable"):
        type("Mine", (TransportSuite,), {"skip_unless_checkable": lambda *_: None})


def test_an_expected_failure_needs_a_reason() -> None:
    with pytest.raises(TypeError, match="expects the failure of test_none_becomes_empty_bytes: say why"):
        type("Mine", (TransportSuite,), {"expected_failures": {"test_none_becomes_empty_bytes": " "}})
