"""The conformance suite: the transport contract as a class of checks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import pytest

from clstr_testing._check import Check, checks_of
from clstr_testing._closing_checks import ClosingChecks
from clstr_testing._deadline_checks import DeadlineChecks
from clstr_testing._ending_checks import EndingChecks
from clstr_testing._error_checks import ErrorChecks
from clstr_testing._garbage_checks import GarbageChecks
from clstr_testing._message_checks import MessageChecks
from clstr_testing._notify_checks import NotifyChecks
from clstr_testing._once_checks import OnceChecks
from clstr_testing._order_checks import OrderChecks
from clstr_testing._outage_checks import OutageChecks
from clstr_testing._ownership_checks import OwnershipChecks
from clstr_testing._release_checks import ReleaseChecks
from clstr_testing._running_checks import RunningChecks


class TransportSuite(
    MessageChecks,
    OwnershipChecks,
    ReleaseChecks,
    RunningChecks,
    DeadlineChecks,
    EndingChecks,
    ErrorChecks,
    NotifyChecks,
    OutageChecks,
    ClosingChecks,
    GarbageChecks,
    OnceChecks,
    OrderChecks,
):
    """
    The transport contract as checks. Subclass it in a test file; every check must pass.

        class TestMine(TransportSuite):
            url = "mine://127.0.0.1:4000?prefix={cluster}"

    ``{cluster}`` becomes a name that no other check has. Instead of the class attribute there may be a fixture
    ``url``, or the method ``async def connect(self, **options)``, which opens one more transport of this check's
    isolated cluster; ``options`` are the names of `clstr.Limits`.

    Optional hooks, without which the checks that need them are skipped as *not checked*:

    * ``async def cut(self)``: every connection to the broker breaks, and none can be made.
    * ``async def restore(self)``: connections can be made again.
    * ``async def inject(self, shard, body)``: a holder of ``shard`` receives ``body`` as a message.

    A check cannot be deleted or overridden. What a transport cannot do yet stands in `expected_failures`, which must
    fail then.

    Attributes:
        expected_failures: A reason by the name of the check.
    """

    expected_failures: ClassVar[Mapping[str, str]] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.check_integrity()

    @classmethod
    def check_integrity(cls) -> None:
        """
        Refuse a suite that is not whole.

        Raises:
            TypeError: A check was overridden, or a failure is expected that cannot be or has no reason.
        """
        names = {check.name for check in checks_of(TransportSuite)}
        for name in sorted({*names, "skip_unless_checkable"}):
            if getattr(cls, name, None) is not getattr(TransportSuite, name):
                raise TypeError(f"{cls.__name__} overrides the check {name}: state it in expected_failures instead")
        for name, reason in cls.expected_failures.items():
            if name not in names:
                raise TypeError(f"{cls.__name__} expects the failure of {name}, which is no check")
            if not reason.strip():
                raise TypeError(f"{cls.__name__} expects the failure of {name}: say why")

    @pytest.fixture(autouse=True)
    def _prepare(self, request: pytest.FixtureRequest) -> None:
        """Take the URL from a fixture, if there is one, and mark what is expected to fail."""
        self.check_integrity()
        try:
            url: str = request.getfixturevalue("url")
        except pytest.FixtureLookupError as error:
            if error.argname != "url":  # there is one, and what it needs is missing
                raise
        else:
            self.url = url
        reason = self.expected_failures.get(request.node.originalname)
        if reason is not None:
            request.applymarker(pytest.mark.xfail(reason=reason, strict=True))

    @classmethod
    def checks(cls) -> list[Check]:
        """Return every check, by name."""
        return checks_of(cls)
