"""The driver's side of a process that takes orders, see `orders`."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

PEER = Path(__file__).with_name("peer.py")
PATIENCE = 30.0  # seconds; a machine may be slow, and a process that is stuck is found all the same


class PeerError(RuntimeError):
    """A process did not do what it was told; its standard error says more."""


class Process:
    """
    A node or a client in a process of its own.

    Args:
        arguments: What the program is called with.
        log: Where its standard error goes.
        program: The program, `peer` by default.
        patience: Seconds for an answer.
        environment: Variables beside this process's own.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        log: Path,
        *,
        program: Path = PEER,
        patience: float = PATIENCE,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._arguments = arguments
        self._log = log
        self._program = program
        self._patience = patience
        self._environment = {**os.environ, **(environment or {})}
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Start it; on return it is ready."""
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                str(self._program),
                *self._arguments,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                env=self._environment,
            )
        await self._answer("start")

    async def tell(self, command: str, *arguments: Any) -> Any:
        """Give a command and return its answer."""
        self._write(command, *arguments)
        return await self._answer(command)

    async def stop(self) -> None:
        """Let it drain and end."""
        self._write("stop")
        await self._ended("stop")

    def freeze(self) -> None:
        """Stop it in its tracks: its connections stay, nothing is answered."""
        self._running.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        self._running.send_signal(signal.SIGCONT)

    async def kill(self) -> None:
        """End it at once."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()

    @property
    def _running(self) -> asyncio.subprocess.Process:
        assert self._process is not None
        return self._process

    def _write(self, command: str, *arguments: Any) -> None:
        stdin = self._running.stdin
        assert stdin is not None
        stdin.write(json.dumps([command, *arguments]).encode() + b"\n")

    async def _answer(self, command: str) -> Any:
        stdout = self._running.stdout
        assert stdout is not None
        try:
            async with asyncio.timeout(self._patience):
                line = await stdout.readline()
            return json.loads(line)
        except (TimeoutError, ValueError) as error:
            raise self._failure(command) from error

    async def _ended(self, command: str) -> None:
        try:
            async with asyncio.timeout(self._patience):
                status = await self._running.wait()
        except TimeoutError as error:
            raise self._failure(command) from error
        if status:
            raise self._failure(command)

    def _failure(self, command: str) -> PeerError:
        log = self._log.read_text(encoding="utf-8", errors="replace")
        return PeerError(f"{' '.join(self._arguments[:2])} did not {command}; it wrote:\n{log[-4000:]}")
