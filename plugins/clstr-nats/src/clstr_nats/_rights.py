"""What the server has refused: it says so in a sentence that names a subject, some time after the attempt."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable

from clstr.errors import AccessDeniedError, ClstrError
from clstr.spi import RateLimitedLog
from clstr_nats._subjects import Subjects

_SENTENCE = re.compile(r'permissions violation for (publish|subscription) to "([^"]*)"')  # nats-py lowers the case


class Rights:
    """
    The rights that a connection turned out not to have.

    Which message was refused the server does not say, only its subject. So the messages to a shard are remembered
    until a fence has shown that they passed; once one of them was answered, there is a right that needs no fence.

    Args:
        subjects: This peer's.
        failed: Gets the token of a message that the server did not let pass, and why.
        logger: Told of what nobody waits for.

    Attributes:
        proved: The shards to which messages certainly pass.
        may_probe: Whether nothing is known against messages to subjects like a shard's.
    """

    def __init__(self, subjects: Subjects, failed: Callable[[int, ClstrError], None], logger: logging.Logger) -> None:
        self._subjects = subjects
        self._failed = failed
        self._log = RateLimitedLog(logger)
        self._denied: set[str] = set()  # subscriptions, our own
        self.proved: set[int] = set()
        self._on_their_way: dict[int, int] = {}  # the shard of each message that no fence has passed, by token
        self._unfenced: list[int] = []
        self.may_probe: bool = True

    def forget(self) -> None:
        """Start again: another connection may have other rights."""
        self.may_probe = True
        self._denied.clear()
        self.proved.clear()
        self._on_their_way.clear()
        self._unfenced.clear()

    def forget_subscriptions(self, shards: Iterable[int]) -> None:
        """Forget that subscriptions to ``shards`` were refused: they are about to be tried again."""
        self._denied.difference_update(self._subjects.shard(shard).lower() for shard in shards)

    def deny(self, sentence: str) -> None:
        """Note what the server says."""
        found = _SENTENCE.search(sentence)
        what, subject = found.groups() if found else ("", "")
        shard = self._subjects.read_shard(subject)
        if what == "subscription":
            self._denied.add(subject)
        elif shard is not None:
            self._deny_publish(shard)
        elif self._subjects.is_probe(subject):
            self.may_probe = False
        else:  # an answer, which nobody here waits for: its subject is another's secret
            self._log.say(logging.WARNING, "NATS refused an answer: the user may not publish to the inbox of who asked")

    def _deny_publish(self, shard: int) -> None:
        self.proved.discard(shard)  # there was a right, and it was taken away
        for token in [token for token, each in self._on_their_way.items() if each == shard]:
            del self._on_their_way[token]
            error = AccessDeniedError(
                f"the NATS user may not publish to {self._subjects.shard(shard)}: "
                f'grant it {{publish: ["{self._subjects.every_shard}"]}}'
            )
            self._failed(token, error)

    def may_subscribe(self, subject: str) -> bool:
        """Tell whether nothing is known against subscribing to ``subject``. To be asked behind a fence."""
        return subject.lower() not in self._denied

    def sending(self, shard: int, token: int) -> None:
        """Note that ``token`` is about to go to ``shard``, which is not proved."""
        self._on_their_way[token] = shard
        self._unfenced.append(token)

    def unfenced(self) -> list[int]:
        """Return the messages that were sent since this was last asked and need a fence, which is up to who asks."""
        tokens, self._unfenced = self._unfenced, []
        return tokens

    def passed(self, tokens: Iterable[int]) -> None:
        """Note that the server has let these pass, or has said that it did not."""
        for token in tokens:
            self._on_their_way.pop(token, None)

    def prove(self, shard: int) -> None:
        """Note that a message to ``shard`` was answered."""
        self.proved.add(shard)
