"""Transports that break T1: content that some of the messages lose."""

from __future__ import annotations

import unicodedata
from typing import Any

import msgspec

import clstr
from clstr._messages.wire import RequestFrame
from clstr.spi._answers import Answers
from clstr.spi._delivery import Delivery
from clstr.spi._receiver import Receiver
from conformance.broken import breaks

LONG_BYTES = 100_000


class _Changes(Receiver):
    """What arrives is changed."""

    def _check(self, frame: RequestFrame, shard: int) -> clstr.Envelope:
        envelope = super()._check(frame, shard)
        return msgspec.structs.replace(envelope, **self.changes(envelope, is_notify=frame.oneway))

    def changes(self, envelope: clstr.Envelope, *, is_notify: bool) -> dict[str, Any]:
        """Return the fields that are others."""
        raise NotImplementedError


class _ChangesHeaders(_Changes):
    def changes(self, envelope: clstr.Envelope, *, is_notify: bool) -> dict[str, Any]:
        return {"headers": dict(self.header(name, value) for name, value in envelope.headers.items())}

    def header(self, name: str, value: str) -> tuple[str, str]:
        """Return what becomes of one header."""
        raise NotImplementedError


@breaks("T1.1")
class HeaderNamesLowerCased(_ChangesHeaders):
    """Header names arrive in lower case, as HTTP/2 has them."""

    def header(self, name: str, value: str) -> tuple[str, str]:
        return name.lower(), value


@breaks("T1.1")
class HeaderNamesTitleCased(_ChangesHeaders):
    """Header names arrive as HTTP/1 writes them, but for our own."""

    def header(self, name: str, value: str) -> tuple[str, str]:
        return name if name.startswith("x-clstr-") else name.title(), value


@breaks("T1.1")
class HeaderNamesStripped(_ChangesHeaders):
    """White space around a header's name is lost."""

    def header(self, name: str, value: str) -> tuple[str, str]:
        return name.strip(), value


@breaks("T1.1")
class HeaderValuesStripped(_ChangesHeaders):
    """White space around a header's value is lost."""

    def header(self, name: str, value: str) -> tuple[str, str]:
        return name, value.strip()


@breaks("T1.1")
class HeaderSpacesCollapsed(_ChangesHeaders):
    """Of several spaces in a header's value one arrives."""

    def header(self, name: str, value: str) -> tuple[str, str]:
        return name, value.replace("  ", " ")


@breaks("T1.1")
class HeaderValuesCut(_ChangesHeaders):
    """A header's value has 4,096 characters at most."""

    def header(self, name: str, value: str) -> tuple[str, str]:
        return name, value[:4096]


@breaks("T1.1")
class HeaderNamesCut(_ChangesHeaders):
    """A header's name has 64 characters at most."""

    def header(self, name: str, value: str) -> tuple[str, str]:
        return name[:64], value


@breaks("T1.1")
class KeysCut(_ChangesHeaders):
    """A key has 255 characters at most."""

    def header(self, name: str, value: str) -> tuple[str, str]:
        return name, value[:255] if name == "x-clstr-key" else value


@breaks("T1.1")
class HeadersNormalised(_ChangesHeaders):
    """Two ways to write one character become one."""

    def header(self, name: str, value: str) -> tuple[str, str]:
        return unicodedata.normalize("NFC", name), unicodedata.normalize("NFC", value)


@breaks("T1.1")
class HeadersAreLatin(_ChangesHeaders):
    """A character that Latin-1 does not have becomes a question mark."""

    def header(self, name: str, value: str) -> tuple[str, str]:
        return name, value.encode("latin-1", "replace").decode("latin-1")


@breaks("T1.1")
class EmptyHeadersLost(_Changes):
    """A header without a value is lost."""

    def changes(self, envelope: clstr.Envelope, *, is_notify: bool) -> dict[str, Any]:
        return {"headers": {name: value for name, value in envelope.headers.items() if value}}


@breaks("T1.1")
class ManyHeadersCut(_Changes):
    """Of many headers 50 arrive."""

    def changes(self, envelope: clstr.Envelope, *, is_notify: bool) -> dict[str, Any]:
        return {"headers": dict(list(envelope.headers.items())[:50])}


@breaks("T1.1", "T5.4")
class NotifyHeadersLost(_Changes):
    """A notify has no headers."""

    def changes(self, envelope: clstr.Envelope, *, is_notify: bool) -> dict[str, Any]:
        return {"headers": {}} if is_notify else {}


@breaks("T1.1")
class NotifyKeepsOnlyItsKey(_Changes):
    """A notify has its key, and no other header."""

    def changes(self, envelope: clstr.Envelope, *, is_notify: bool) -> dict[str, Any]:
        return {"headers": {name: text for name, text in envelope.headers.items() if not is_notify or "key" in name}}


@breaks("T1.1")
class HeadersOfOneInSevenLost(_Changes):
    """One message in seven has no headers."""

    arrived = 0

    def changes(self, envelope: clstr.Envelope, *, is_notify: bool) -> dict[str, Any]:
        self.arrived += 1
        return {} if self.arrived % 7 else {"headers": {}}


@breaks("T1.1", "T5.4")
class HeadersWithoutDataLost(_Changes):
    """A message without data has no headers either."""

    def changes(self, envelope: clstr.Envelope, *, is_notify: bool) -> dict[str, Any]:
        return {} if envelope.data else {"headers": {}}


@breaks("T1.1")
class TypeCut(_Changes):
    """A message type has 128 characters at most."""

    def changes(self, envelope: clstr.Envelope, *, is_notify: bool) -> dict[str, Any]:
        return {"type": envelope.type[:128]}


@breaks("T1.1")
class NotifyTypeCut(_Changes):
    """The type of a notify has 255 characters at most."""

    def changes(self, envelope: clstr.Envelope, *, is_notify: bool) -> dict[str, Any]:
        return {"type": envelope.type[:255]} if is_notify else {}


@breaks("T1.1")
class TypeBytesCut(_Changes):
    """A message type has 256 bytes at most."""

    def changes(self, envelope: clstr.Envelope, *, is_notify: bool) -> dict[str, Any]:
        return {"type": envelope.type.encode()[:256].decode(errors="ignore")}


@breaks("T1.1")
class TypeStripped(_Changes):
    """White space around a type is lost."""

    def changes(self, envelope: clstr.Envelope, *, is_notify: bool) -> dict[str, Any]:
        return {"type": envelope.type.strip()}


@breaks("T1.1", "T5.2", "T9.2")
class EmptyRequestIsNone(_Changes):
    """A message without data has none instead of empty bytes."""

    def changes(self, envelope: clstr.Envelope, *, is_notify: bool) -> dict[str, Any]:
        return {"data": envelope.data or None}


@breaks("T1.1", "T5.2")
class EmptyNotifyIsNone(_Changes):
    """A notify without data has none instead of empty bytes."""

    def changes(self, envelope: clstr.Envelope, *, is_notify: bool) -> dict[str, Any]:
        return {"data": envelope.data or None} if is_notify else {}


@breaks("T1.1", "T1.3")
class DataIsABuffer(_Changes):
    """The data of a large message is a view of the buffer that it was read into."""

    def changes(self, envelope: clstr.Envelope, *, is_notify: bool) -> dict[str, Any]:
        return {"data": memoryview(envelope.data)} if len(envelope.data) > LONG_BYTES else {}


@breaks("T1.1", "T11.1")
class TrailingZerosLost(_Changes):
    """Zero bytes at the end are lost, as if data were a C string."""

    def changes(self, envelope: clstr.Envelope, *, is_notify: bool) -> dict[str, Any]:
        return {"data": envelope.data.rstrip(b"\0")}


@breaks("T1.1")
class LineEndsTranslated(_Changes):
    """A line's end arrives as another one."""

    def changes(self, envelope: clstr.Envelope, *, is_notify: bool) -> dict[str, Any]:
        return {"data": envelope.data.replace(b"\r\n", b"\n")}


@breaks("T1.1")
class ByteOrderMarkLost(_Changes):
    """A byte order mark at the beginning is lost."""

    def changes(self, envelope: clstr.Envelope, *, is_notify: bool) -> dict[str, Any]:
        return {"data": envelope.data.removeprefix(b"\xef\xbb\xbf")}


@breaks("T1.1", "T1.3")
class NotifyDataIsText(_Changes):
    """The data of a notify passes through a text."""

    def changes(self, envelope: clstr.Envelope, *, is_notify: bool) -> dict[str, Any]:
        return {"data": envelope.data.decode(errors="replace").encode()} if is_notify else {}


@breaks("T1.1", "T1.3")
class NotifyDataCut(_Changes):
    """A notify has 64 KiB of data at most."""

    def changes(self, envelope: clstr.Envelope, *, is_notify: bool) -> dict[str, Any]:
        return {"data": envelope.data[: 64 * 1024]} if is_notify else {}


@breaks("T1.1")
class OneSizeLosesAByte(_Changes):
    """Data of just 256 bytes loses its last one."""

    def changes(self, envelope: clstr.Envelope, *, is_notify: bool) -> dict[str, Any]:
        return {"data": envelope.data[:255]} if len(envelope.data) == 256 else {}


@breaks("T1.1")
class LargeShardsAreSigned(_Changes):
    """The handler sees the number of a shard above 2**31 as a negative one."""

    def changes(self, envelope: clstr.Envelope, *, is_notify: bool) -> dict[str, Any]:
        return {"shard": envelope.shard - 2**32} if envelope.shard >= 2**31 else {}


class _ChangesReplies(Answers):
    def _reply(self, delivery: Delivery, data: bytes) -> None:
        super()._reply(delivery, self.change(data))

    def change(self, data: bytes) -> bytes:
        """Return what the reply becomes."""
        raise NotImplementedError


@breaks("T1.1", "T1.3")
class LongBinaryRepliesCut(_ChangesReplies):
    """A long reply that is no text is cut."""

    def change(self, data: bytes) -> bytes:
        is_text = data[:100].isascii() or data.decode(errors="ignore").encode() == data
        return data if is_text else data[:LONG_BYTES]


@breaks("T1.1", "T1.3", "T6.6")
class RepliesOfWholePagesLoseAByte(_ChangesReplies):
    """A reply whose size is a multiple of 4,096 bytes loses its last byte."""

    def change(self, data: bytes) -> bytes:
        return data if len(data) % 4096 else data[:-1]


@breaks("T1.1", "T1.4", "T1.5", "T2.1", "T2.2", "T4.1", "T6.4", "T6.6", "T9.2", "T9.3", "T16.1", "T16.2")
class OneReplyInAHundredIsEmpty(_ChangesReplies):
    """One reply in a hundred is lost."""

    sent = 0

    def change(self, data: bytes) -> bytes:
        self.sent += 1
        return b"" if self.sent % 100 == 50 else data


@breaks("T1.1")
class RepliesOfOneByteAreEmpty(_ChangesReplies):
    """A reply that is a single zero is taken for none."""

    def change(self, data: bytes) -> bytes:
        return b"" if data == b"\0" else data


@breaks("T1.2")
class LaterNoneIsNull(Answers):
    """A handler that has waited and returns nothing answers with JSON's null."""

    def handler_returned(self, delivery: Delivery, result: object) -> None:
        has_waited = self._clock() > delivery.since + 2e-6  # two turns of the loop
        super().handler_returned(delivery, b"null" if result is None and has_waited else result)


@breaks("T1.1", "T1.2")
class NoneIsAnErrorForLargeRequests(Answers):
    """A handler has to answer a request that is large."""

    def handler_returned(self, delivery: Delivery, result: object) -> None:
        if result is None and delivery.size > 1000:
            result = "nothing"
        super().handler_returned(delivery, result)
