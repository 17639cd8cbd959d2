"""What keeps a suite whole: its checks cannot be overridden, and what is expected to fail must fail."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import pytest

from clstr_testing._check import Check, Isolated, checks_of


class Integrity(Isolated):
    """
    The part of a suite that is the same for every contract.

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
        whole = next(each for each in cls.__mro__ if Integrity in each.__bases__)
        names = {check.name for check in checks_of(whole)}
        for name in sorted({*names, "skip_unless_checkable"}):
            if getattr(cls, name, None) is not getattr(whole, name):
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
