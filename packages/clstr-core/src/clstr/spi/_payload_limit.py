"""How many data bytes a message may have, on a broker that may change its mind."""

from __future__ import annotations

from clstr._limits import Limits
from clstr._messages.wire import Codec
from clstr.errors import PayloadTooLargeError
from clstr.spi._link import Link


class PayloadLimit:
    """
    The smaller of ``max_payload_bytes`` and what the broker carries now.

    Args:
        link: Says what the broker carries: after a reconnection it may be more, or less.
        limits: Has the option.
        codec: What messages are sent in.
    """

    def __init__(self, link: Link, limits: Limits, codec: Codec) -> None:
        self._link = link
        self._option = limits.max_payload_bytes
        self._codec = codec
        self._carried: int | None = None
        self._bytes = self._option

    def current(self) -> int:
        """Return the data bytes that pass whatever else is in the message."""
        carried = self._link.max_message_bytes
        if carried != self._carried:
            self._carried = carried
            self._bytes = self._option if carried is None else min(self._option, self._codec.most_data(carried))
        return self._bytes

    def exceeded(self, size: int, *, is_reply: bool = False) -> PayloadTooLargeError:
        """Return the error for ``size`` data bytes, which are more than `current`."""
        return self._error(size, self.current(), is_reply=is_reply)

    def exceeded_by_frame(
        self, size: int, frame_bytes: int, codec: Codec, *, is_reply: bool = False
    ) -> PayloadTooLargeError:
        """Return the error for a frame of ``frame_bytes`` with ``size`` data bytes, which the broker does not carry."""
        envelope_bytes = frame_bytes - codec.encoded(size)
        fits = codec.most_data_beside(envelope_bytes, self._link.max_message_bytes or 0)
        return self._error(size, min(fits, self._option), is_reply=is_reply)

    def _error(self, size: int, maximum: int, *, is_reply: bool) -> PayloadTooLargeError:
        if maximum == self._option:
            return PayloadTooLargeError(size, maximum, is_reply=is_reply)
        return PayloadTooLargeError(size, maximum, is_reply=is_reply, setting=self._link.size_setting)
