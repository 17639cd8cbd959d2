"""``python -m clstr_testing URL``."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from clstr_testing import CONTRACT, DIRECTORY_CONTRACT, TransportSuite
from clstr_testing.__main__ import main

NEED_HOOKS = sum(bool(check.needs) for check in TransportSuite.checks())

pytestmark = pytest.mark.usefixtures("loopback_plugin")

NEED_HOOKS = sum(bool(check.needs) for check in TransportSuite.checks())


def test_a_transport_that_keeps_the_contract_exits_with_0(capsys: pytest.CaptureFixture[str]) -> None:
    """Every check is printed as it ends, then a table of every sentence, then what was not checked."""
    assert main(["loopback://{cluster}"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "passed       test_none_becomes_empty_bytes (T1.2)" in lines
    assert "not checked  test_garbage_never_stops_the_receiver (T15.1)" in lines
    for number, sentence in CONTRACT.items():
        is_checked = any(number in check.proves and not check.needs for check in TransportSuite.checks())
        status = "passed" if is_checked else "not checked"
        assert f"{number:6} {status:12} {sentence}" in lines
    assert any(line.endswith(f" checks passed, 0 failed, {NEED_HOOKS} not checked") for line in lines)
    assert "  not checked: test_garbage_never_stops_the_receiver: there is no hook 'inject'" in lines


def test_a_transport_that_breaks_it_exits_with_1(capsys: pytest.CaptureFixture[str]) -> None:
    """The reason stands at the end."""
    assert main(["loopback://{cluster}?fault=NoneBecomesNull", "--guard", "5"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert "failed       test_none_becomes_empty_bytes (T1.2)" in lines
    assert f"T1.2   failed       {CONTRACT['T1.2']}" in lines
    assert f"T1.1   passed       {CONTRACT['T1.1']}" in lines
    assert any(line.endswith(f" checks passed, 1 failed, {NEED_HOOKS} not checked") for line in lines)
    assert lines[-1].startswith("  ")
    [reason] = [line for line in lines if line.startswith("  failed: ")]
    assert reason.startswith("  failed: test_none_becomes_empty_bytes: AssertionError (_message_checks.py:")


def test_a_url_is_required(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main([])
    assert "the following arguments are required: url" in capsys.readouterr().err


def test_the_module_is_a_program() -> None:
    program = subprocess.run(
        [sys.executable, "-m", "clstr_testing", "--help"], capture_output=True, text=True, check=True, timeout=30
    )
    assert program.stdout.startswith("usage: python -m clstr_testing")


def test_a_url_that_cannot_be_connected_to_is_named_once(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["loopbakc://{cluster}"])
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("loopbakc") == 1


def test_peers_that_do_not_reach_each_other_are_reported_before_any_check(capsys: pytest.CaptureFixture[str]) -> None:
    """An anonymous hub belongs to its transport alone, as ``memory://`` does."""
    with pytest.raises(SystemExit):
        main(["memory://"])
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "two transports of memory:// do not reach each other" in printed.err
    assert "put {cluster} into the URL" in printed.err


def test_only_chooses_lines_and_json_prints_an_object_for_each_check(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["loopback://{cluster}", "--only", "T1", "--only", "T9.1", "--json"]) == 0
    results = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert "passed" in {result["status"] for result in results} <= {"passed", "not checked"}
    proved = [number for result in results for number in result["proves"]]
    assert {"T1.1", "T1.2", "T9.1"} <= set(proved)
    assert proved[0] == "T1.1"


def test_an_unknown_line_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["loopback://{cluster}", "--only", "T99"])
    assert "no check proves T99" in capsys.readouterr().err


def test_a_directory_that_keeps_the_contract_exits_with_0(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--directory", "memory://"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for number, sentence in DIRECTORY_CONTRACT.items():
        assert f"{number:6} passed       {sentence}" in lines
    assert any(line.endswith(" checks passed, 0 failed, 0 not checked") for line in lines)


def test_a_suite_of_directories_is_named_by_its_module_and_class(capsys: pytest.CaptureFixture[str]) -> None:
    """One that says nothing of how to connect fails."""
    assert main(["--directory", "clstr_testing:DirectorySuite", "--only", "D8.4", "--json"]) == 1
    [result] = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert result["status"] == "failed"


@pytest.mark.parametrize(
    ("url", "error"),
    [
        (
            "clstr_testing:TransportSuite",
            "'clstr_testing:TransportSuite' is no subclass of clstr_testing.DirectorySuite",
        ),
        ("clstr_testing:Nothing", "cannot import 'clstr_testing:Nothing'"),
        ("nats://127.0.0.1", "cannot import 'nats://127.0.0.1'"),
    ],
)
def test_what_is_no_suite_of_directories_is_refused(url: str, error: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--directory", url])
    assert error in capsys.readouterr().err


def test_a_line_that_no_check_of_directories_proves_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--directory", "memory://", "--only", "T1"])
    assert "no check proves T1: lines are D1 to D8, sentences D1.1 and so on" in capsys.readouterr().err
