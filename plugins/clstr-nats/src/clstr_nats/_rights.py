"""What the server has refused: it says so in a sentence that names a subject, some time after the attempt."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable

from clstr.errors import AccessDeniedError, ClstrError
from clstr_nats._subjects import Subjects

_SENTENCE = re.compile(r'permissions violation for (publish|subscription) to "([^"]*)"')  # nats-py lowers the case
MAX_UNPROVED = 100


class Rights:
    """
    The rights that a connection turned out not to have.

    Args:
        subjects: This peer's.
        failed: Gets the token of a message that the server did not let pass, and why.
        logger: Told of what nobody waits for.
    """

    def __init__(self, subjects: Subjects, failed: Callable[[int, ClstrError], None], logger: logging.Logger) -> None:
        self._subjects = subjects
        self._failed = failed
        self._logger = logger
        self._denied: set[str] = set()
        self._proved: set[int] = set()
        # The first messages to each shard, until one of them is answered: those may turn out to be denied.
        self._unproved: dict[int, list[int]] = {}

    def forget(self) -> None:
        """Start again: another connection may have other rights."""
        self._denied.clear()
        self._proved.clear()
        self._unproved.clear()

    def deny(self, sentence: str) -> None:
        """Note what the server says."""
        found = _SENTENCE.search(sentence)
        what, subject = found.groups() if found else ("", "")
        self._denied.add(f"{what} {subject}")
        shard = self._subjects.read_shard(subject)
        if what == "publish" and shard is not None:
            for token in self._unproved.pop(shard, ()):
                self._failed(token, self._may_not_publish(shard))
        elif what != "subscription":  # an answer, which nobody here waits for
            self._logger.warning("NATS refused a message: %s", sentence)

    def may_subscribe(self, subject: str) -> bool:
        """Tell whether nothing is known against subscribing to ``subject``. To be asked behind a fence."""
        return f"subscription {subject.lower()}" not in self._denied

    def check_publish(self, shard: int, token: int) -> None:
        """
        Note that ``token`` is about to go to ``shard``.

        Raises:
            AccessDeniedError: The server has refused that before.
        """
        if shard in self._proved:
            return
        if self._denied and f"publish {self._subjects.shard(shard).lower()}" in self._denied:
            raise self._may_not_publish(shard)
        tokens = self._unproved.setdefault(shard, [])
        if len(tokens) < MAX_UNPROVED:
            tokens.append(token)

    def prove(self, shard: int) -> None:
        """Note that a message to ``shard`` was answered."""
        if shard not in self._proved:
            self._proved.add(shard)
            self._unproved.pop(shard, None)

    def _may_not_publish(self, shard: int) -> AccessDeniedError:
        return AccessDeniedError(
            f"the NATS user may not publish to {self._subjects.shard(shard)}: "
            f'grant it {{publish: ["{self._subjects.every_shard}"]}}'
        )
