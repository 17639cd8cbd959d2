"""Errors to and from reply frames."""

from __future__ import annotations

from clstr import errors
from clstr._limits import MAX_ERROR_BYTES
from clstr._messages.wire import Codec, ReplyFrame
from clstr._text import printable
from clstr.errors import ClstrError, Fact, HandlerError

_BY_CODE: dict[str, type[ClstrError]] = {
    error.code: error
    for error in vars(errors).values()
    if isinstance(error, type) and issubclass(error, ClstrError) and error.code
}

# The texts of clstr-go's own errors (core/cluster/errors.go). Text is all that a Go caller has of an error, so what a
# Python node sends begins with them. A Go node's text names an error only if it is exactly one of them: an
# application's "transport closed: the modem went away" is an error of the application.
_BY_GO_TEXT: dict[str, type[ClstrError]] = {
    "no subscriber for shard": errors.NoShardSubscriberError,
    "transport closed": errors.TransportClosedError,
    "envelope TTL expired": errors.EnvelopeExpiredError,
    "cannot set reserved header": errors.ReservedHeaderError,
    "handler exceeded deadline": errors.HandlerTimeoutError,
    "key is required": errors.KeyRequiredError,
    "missing x-clstr-key header": errors.MissingKeyHeaderError,
    "no handler registered": errors.UnknownMessageError,
}

_GO_TEXTS = {kind: text for text, kind in _BY_GO_TEXT.items()}
_CUT = " ... (cut)"


def clip(text: str, max_bytes: int = MAX_ERROR_BYTES) -> str:
    """Cut ``text`` to ``max_bytes`` of UTF-8, saying so if there is room for it, and replace what has no encoding."""
    encoded = text.encode("utf-8", "replace")
    if len(encoded) <= max_bytes:
        return encoded.decode()
    mark = _CUT if max_bytes > len(_CUT) else ""
    return encoded[: max_bytes - len(mark)].decode("utf-8", "ignore") + mark


def encode_error(codec: Codec, error: ClstrError, *, max_bytes: int = MAX_ERROR_BYTES) -> bytes:
    """Write ``error`` as a reply, with at most ``max_bytes`` of each of its texts."""
    details = {
        name: clip(fact, max_bytes) if isinstance(fact, str) else fact
        for name, fact in _facts(type(error), error.details()).items()
    }
    frame = codec.new_reply(
        err=clip(_text(error), max_bytes) or type(error).__name__,  # never empty: without code and text it is a success
        code=error.code,
        details=details,
        executed=error.maybe_executed,
    )
    return codec.encode(frame)


def _text(error: ClstrError) -> str:
    """Return the text of ``error``, which begins with Go's where Go has an error of that meaning."""
    text, go_text = str(error), _GO_TEXTS.get(type(error), "")
    if not text or text.startswith(go_text):
        return text or go_text
    return f"{go_text}: {text}"


def decode_error(frame: ReplyFrame) -> ClstrError:
    """
    Build the error that a reply frame names.

    A frame with text alone comes from a Go peer: it gets the type that its text names, and always
    ``maybe_executed=True``, since text proves nothing.
    """
    if not frame.code:
        return _from_go_text(frame.err)
    kind = _BY_CODE.get(frame.code)
    executed = frame.executed is not False
    if kind is None or kind is HandlerError:
        return _handler_error(frame, maybe_executed=executed)
    return kind.restore(clip(frame.err), {**_facts(kind, frame.details), "maybe_executed": executed})


def _from_go_text(text: str) -> ClstrError:
    kind = _BY_GO_TEXT.get(text)
    if kind is None:
        return HandlerError("", _read(text))
    return kind.restore(text, {**_facts(kind, {}), "maybe_executed": True})


def _handler_error(frame: ReplyFrame, *, maybe_executed: bool) -> HandlerError:
    facts = _facts(HandlerError, frame.details) if frame.code == HandlerError.code else {}
    text = _read(frame.err)
    error = HandlerError.restore(text, {"error_type": "", "error_message": text, **facts})
    error.maybe_executed = maybe_executed
    return error


def _facts(kind: type[ClstrError], details: dict[str, Fact]) -> dict[str, Fact]:
    """Take the facts that ``kind`` declares; a missing or unfit one becomes the type's zero value."""
    return {name: _fact(details.get(name), type_) for name, type_ in kind.facts.items()}


def _fact(value: Fact | None, type_: type[Fact]) -> Fact:
    if isinstance(value, str):
        return _read(value) if type_ is str else type_()
    is_fit = type(value) is type_ or (type_ is float and type(value) is int)
    # A larger number has no msgpack or no float, an infinite one no JSON.
    return type_(value) if is_fit and value is not None and abs(value) < 2**63 else type_()


def _read(text: str) -> str:
    """Return a text of a peer, for a fact: programs may read its lines."""
    return printable(clip(text), keep="\n\t")
