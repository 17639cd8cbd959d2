"""
One connection to one Redis server, and everything that needs private names of redis-py.

redis-py dials, authenticates and parses (RESP3). Commands go out as they come, many at once, and their replies find
their callbacks in order; messages are pushed in between. Nothing is ever sent again, save a script that the server has
lost and therefore did not run. A connection ends once, and another one takes its place.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, cast

import redis.exceptions
from redis._parsers import _AsyncRESP3Parser
from redis.asyncio.connection import AbstractConnection

from clstr.errors import TransportUnavailableError
from clstr.spi import MeteredReader, answered_while_moving, end_socket
from clstr_redis._scripts import SCRIPTS, Script
from clstr_redis._streams import metered

Answer = Any  # whatever a command answers with, or the error that it answers with
Reply = Callable[[Answer], None]
Command = Sequence[bytes]

_PUSHED = object()


class _Parser(_AsyncRESP3Parser):
    """Hands every push to one function; redis-py's own answers `None` to some kinds, as to a command."""

    on_push: Callable[[list[Any]], Awaitable[object]]

    async def handle_push_response(self, response: list[Any], **_: object) -> object:
        """Return what becomes of a push."""
        return await self.on_push(response)


class Connection:
    """
    A connection in use.

    Args:
        raw: redis-py's, not yet connected.
        inbox: The channel that it will subscribe to.
        patience: Seconds without a byte that moves while an answer is outstanding; then the connection is lost.
        on_message: Gets each message that arrives, and when it was read: loop time. Must not raise.
        on_lost: Called once, when the connection is of no use any more.

    Attributes:
        inbox: As above.
        may_load: Whether nothing is known against loading scripts: nodes may, clients need not.
        lost: Done with the reason when the connection is of no use any more.
    """

    _reading: MeteredReader

    def __init__(
        self,
        raw: AbstractConnection,
        *,
        inbox: bytes,
        patience: float,
        on_message: Callable[[bytes, float], None],
        on_lost: Callable[[Connection], None],
    ) -> None:
        # Not hiredis, which redis-py takes where it is installed: it hands pushes over in another way.
        raw.set_parser(_Parser)
        self._raw = raw
        self._patience = patience
        self._on_message = on_message
        self._on_lost = on_lost
        self._replies: deque[Reply] = deque()
        self._socket: asyncio.WriteTransport | None = None
        self._reader: asyncio.Task[None] | None = None
        self._is_leaving = False
        self._written = 0
        self.inbox: bytes = inbox
        self.may_load: bool = True
        self.lost: asyncio.Future[Exception] = asyncio.get_running_loop().create_future()

    async def dial(self) -> None:
        """
        Connect, authenticate, and read from then on.

        Raises:
            redis.exceptions.RedisError: The server refuses.
            OSError: It cannot be reached.
        """
        await self._raw.connect()  # type: ignore[no-untyped-call]  # redis-py's
        cast("_Parser", self._raw._parser).on_push = self._pushed  # noqa: SLF001 -- see the module's docstring
        self._socket, self._reading = self._transport(), metered(self._raw)
        self._reader = asyncio.get_running_loop().create_task(self._read())
        self._reader.add_done_callback(self._reader_ended)

    @property
    def unsent_bytes(self) -> int:
        """What the socket has not taken yet; nothing once the connection is lost."""
        return 0 if self._socket is None or self.lost.done() else self._socket.get_write_buffer_size()

    def send(self, commands: Sequence[tuple[Reply, Command]]) -> None:
        """
        Send commands with one write. Each reply gets its answer, or the `ResponseError` that it is.

        Never raises: a socket that takes nothing is the loss of the connection.
        """
        if self._socket is None or self.lost.done():
            return
        parts: list[bytes] = []
        for reply, command in commands:
            self._replies.append(reply)
            parts += _encode(command)
        data = b"".join(parts)
        self._written += len(data)
        try:
            self._socket.write(data)
        except Exception as error:  # noqa: BLE001 -- uvloop raises RuntimeError where asyncio ignores what is written
            self.lose(ConnectionResetError(f"the socket takes nothing any more: {error}"))

    def _progress(self, mark: int) -> int:
        """Count bytes read, and those up to ``mark`` that the socket has taken: later ones prove nothing."""
        return self._reading.bytes_read + min(mark, self._written - self.unsent_bytes)

    def script_call(
        self, reply: Reply, script: Script, keys: Sequence[bytes], *arguments: bytes
    ) -> tuple[Reply, Command]:
        """Return what `send` needs to run a script, and to load it and run it if the server has lost it."""
        command = (b"EVALSHA", script.digest, b"%d" % len(keys), *keys, *arguments)
        return partial(self._ran, reply, script, command), command

    def _ran(self, reply: Reply, script: Script, command: Command, answer: Answer) -> None:
        if not (isinstance(answer, redis.exceptions.NoScriptError) and self.may_load):
            reply(answer)
            return
        # Somebody flushed the scripts; nothing ran. All are loaded: clients may not be able to load theirs.
        scripts = dict.fromkeys([*SCRIPTS, script])
        self.send([*((self._loaded, (b"SCRIPT", b"LOAD", each.text)) for each in scripts), (reply, command)])

    def _loaded(self, answer: Answer) -> None:
        """Note a right that is not there; any other failure shows in the next command."""
        if isinstance(answer, redis.exceptions.NoPermissionError):
            self.may_load = False

    async def load_scripts(self) -> None:
        """
        Load the scripts, if the user may.

        Raises:
            redis.exceptions.ResponseError: The server says no, for another reason than a right that is not there.
            TransportUnavailableError: The connection is lost.
        """
        for script in SCRIPTS:
            try:
                await self.ask(b"SCRIPT", b"LOAD", script.text)
            except redis.exceptions.NoPermissionError:
                self.may_load = False
                return

    async def ask(self, *command: bytes) -> Answer:
        """
        Send a command and return its answer.

        Raises:
            redis.exceptions.ResponseError: The server says no.
            TransportUnavailableError: The connection is lost; an answer that does not come is its loss.
        """
        answer = self._new_answer()
        self.send([(partial(_resolve, answer), command)])
        return await self._answered(answer)

    async def leave(self) -> None:
        """
        Unsubscribe from the inbox: on return nothing reaches it any more, and its senders are told; what did was read.

        Raises:
            redis.exceptions.ResponseError: The server says no.
            TransportUnavailableError: The connection is lost.
        """
        self._is_leaving = True
        await self.ask(b"UNSUBSCRIBE", self.inbox)

    async def run(self, script: Script, keys: Sequence[bytes], *arguments: bytes) -> Answer:
        """Run a script and return its answer; as `ask` otherwise."""
        answer = self._new_answer()
        self.send([self.script_call(partial(_resolve, answer), script, keys, *arguments)])
        return await self._answered(answer)

    def _new_answer(self) -> asyncio.Future[Answer]:
        return asyncio.get_running_loop().create_future()

    async def _answered(self, answer: asyncio.Future[Answer]) -> Answer:
        progress = partial(self._progress, self._written)
        if not await answered_while_moving(answer, self.lost, progress=progress, patience=self._patience):
            self.lose(TimeoutError(f"the server has not answered for {self._patience:g} s"))
            raise TransportUnavailableError(f"the connection to Redis is lost: {self.lost.result()}")
        result = answer.result()
        if isinstance(result, redis.exceptions.ResponseError):
            raise result
        return result

    def lose(self, reason: Exception) -> None:
        """Give the connection up, for ``reason``; only the first one counts."""
        if not self.lost.done():
            self.lost.set_result(reason)
            self._abort()
            self._on_lost(self)

    async def end(self) -> None:
        """Close the socket; what it has not taken is given up. Never raises."""
        if not self.lost.done():
            self.lost.set_result(ConnectionError("the connection was closed"))
        self._abort()
        if self._reader is not None and not self._reader.done():
            self._reader.cancel()
            await asyncio.wait((self._reader,))
        await self._raw.disconnect(nowait=True)  # else redis-py warns that somebody forgot it

    def _abort(self) -> None:
        end_socket(self._socket or self._transport())

    def _transport(self) -> asyncio.WriteTransport | None:
        writer = self._raw._writer  # noqa: SLF001 -- see the module's docstring
        return None if writer is None else writer.transport

    async def _read(self) -> None:
        """Hand over replies and messages until the connection ends."""
        while True:
            try:
                reply = await self._raw.read_response(disable_decoding=True, timeout=math.inf, push_request=True)
            except redis.exceptions.ResponseError as error:
                reply = error
            if reply is _PUSHED:
                continue
            if not self._replies:
                raise ConnectionError(f"the server said what it was not asked: {str(reply)[:100]}")
            self._replies.popleft()(reply)

    async def _pushed(self, push: list[Any]) -> object:
        kind, *rest = push
        if kind == b"message":
            self._on_message(rest[1], self._reading.read_at)
        elif kind == b"subscribe" or (kind == b"unsubscribe" and self._is_leaving):
            return push  # the answer to a command, although it looks like a message
        elif kind == b"unsubscribe":
            raise ConnectionError("the server unsubscribed this peer from its inbox")
        return _PUSHED

    def _reader_ended(self, reader: asyncio.Task[None]) -> None:
        error = None if reader.cancelled() else reader.exception()
        self.lose(error if isinstance(error, Exception) else ConnectionError("the connection was closed"))


def _resolve(future: asyncio.Future[Answer], answer: Answer) -> None:
    if not future.done():
        future.set_result(answer)


def _encode(command: Command) -> list[bytes]:
    parts = [b"*%d\r\n" % len(command)]
    parts += [b"$%d\r\n%s\r\n" % (len(part), part) for part in command]
    return parts
