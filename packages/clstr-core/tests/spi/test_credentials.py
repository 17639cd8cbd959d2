"""`clstr.spi._links.credentials`: who is asked, what may be answered, and what is said when it is something else."""

from __future__ import annotations

from typing import Any

import pytest

from clstr.errors import AuthenticationError
from clstr.spi import check_credentials, hide_secrets, read_credentials


class Provider:
    """As redis-py's."""

    def get_credentials(self) -> tuple[str, str]:
        return "sync", "secret"


class AsyncProvider(Provider):
    async def get_credentials_async(self) -> tuple[str, str]:
        return "async", "secret"


async def ask() -> str:
    return "secret"


@pytest.mark.parametrize(
    ("credentials", "given"),
    [
        (lambda: "secret", (None, "secret")),
        (lambda: ("secret",), (None, "secret")),
        (lambda: ("user", "secret"), ("user", "secret")),
        (ask, (None, "secret")),
        (Provider(), ("sync", "secret")),
        (AsyncProvider(), ("async", "secret")),
    ],
)
async def test_functions_and_providers_are_asked(credentials: Any, given: tuple[str | None, str]) -> None:
    assert await read_credentials(check_credentials(credentials)) == given


@pytest.mark.parametrize("credentials", ["secret", ("user", "secret"), None, 7])
def test_what_cannot_be_asked_is_refused(credentials: Any) -> None:
    with pytest.raises(TypeError, match="get_credentials"):
        check_credentials(credentials)


@pytest.mark.parametrize("given", [None, 7, b"PLANTED", (), ("a", "b", "PLANTED"), ("user", None)])
async def test_something_else_than_credentials_is_an_error_that_does_not_show_it(given: Any) -> None:
    with pytest.raises(AuthenticationError, match="must return") as caught:
        await read_credentials(lambda: given)
    assert "PLANTED" not in str(caught.value)


async def test_a_provider_that_fails_is_an_error_that_does_not_show_what_it_knew() -> None:
    def fail() -> str:
        raise LookupError("PLANTED")

    with pytest.raises(AuthenticationError, match="LookupError") as caught:
        await read_credentials(fail)
    assert "PLANTED" not in str(caught.value)
    assert isinstance(caught.value.__cause__, LookupError)


def test_secrets_are_hidden_in_what_others_say() -> None:
    said = "unknown command 'HELLO' '3' 'AUTH' 'u' 'hunter2', hunter2"
    assert hide_secrets(said, ["hunter2", None, ""]) == "unknown command 'HELLO' '3' 'AUTH' 'u' '***', ***"
