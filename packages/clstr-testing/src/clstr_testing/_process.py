"""A server's process: started, watched, stopped, and never left behind."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from clstr_testing import _launcher

TIE = "kernel"  # how it ends with us, see _launcher; tests set "watchdog", what systems other than Linux get
LOOK_AGAIN = 0.005  # seconds between two looks at a process that starts or stops; waiting for it would take a thread


class ServerStartError(RuntimeError):
    """
    A server did not start.

    Attributes:
        name: The program's name.
        reason: What happened instead.
        log: What it wrote.
    """

    def __init__(self, name: str, reason: str, log: str) -> None:
        super().__init__(f"{name} {reason}; its log:\n{log or '(empty)'}")
        self.name = name
        self.reason = reason
        self.log = log


class ServerProcess:
    """
    A program that serves, with a folder for its data and a log.

    Args:
        command: The program's path and its arguments.
        home: The folder for its log; its working directory is the folder ``data`` in it, empty at each start.
        until_ready: Returns when the server answers; it is asked as long as the process lives.
        start_timeout: Seconds that it may take to answer.
    """

    def __init__(
        self, command: Sequence[str], home: Path, until_ready: Callable[[], Awaitable[None]], start_timeout: float
    ) -> None:
        self.name = Path(command[0]).name
        self.log = home / "log"
        self._data = home / "data"
        self._command = command
        self._until_ready = until_ready
        self._start_timeout = start_timeout
        self._popen: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The id of the process, the last one if it has ended."""
        assert self._popen is not None, "not started"
        return self._popen.pid

    def is_running(self) -> bool:
        """Return whether the process lives; one that is paused does."""
        return self._popen is not None and self._popen.poll() is None

    async def start(self) -> None:
        """
        Start it in an empty folder and wait until it answers.

        Raises:
            ServerStartError: It ended, or did not answer in time.
        """
        shutil.rmtree(self._data, ignore_errors=True)
        self._data.mkdir(parents=True)
        self._popen = self._spawn()
        try:
            async with asyncio.timeout(self._start_timeout):
                await self._answers_or_ends()
        except TimeoutError:
            raise self._failure(f"did not answer within {self._start_timeout:g} s") from None
        except BaseException:
            self.kill()
            raise

    async def stop(self, timeout: float) -> None:
        """Ask it to end; after ``timeout`` seconds, and if we are cancelled, kill it."""
        try:
            self.signal(signal.SIGTERM)
            self.signal(signal.SIGCONT)  # what is paused does not hear
            async with asyncio.timeout(timeout):
                while self.is_running():  # noqa: ASYNC110 -- see LOOK_AGAIN
                    await asyncio.sleep(LOOK_AGAIN)
        except TimeoutError:
            pass
        finally:
            self.kill()

    def kill(self) -> None:
        """End it at once and wait for its end."""
        if self._popen is not None:
            self.signal(signal.SIGKILL)
            self._popen.wait()
            assert self._popen.stdin is not None
            self._popen.stdin.close()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal, if the process lives."""
        if self._popen is not None:
            self._popen.send_signal(number)

    def log_tail(self, lines: int) -> str:
        """Return the last ``lines`` lines of the log; nothing if its folder has been removed with the server."""
        if not self.log.exists():
            return ""
        return "\n".join(self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])

    def _spawn(self) -> subprocess.Popen[bytes]:
        launcher = [sys.executable, "-I", "-S", str(_launcher.__file__), str(os.getpid()), TIE]
        with self.log.open("ab") as log:
            return subprocess.Popen(  # noqa: S603 -- the program is the caller's choice
                [*launcher, *self._command],
                stdin=subprocess.PIPE,  # the watchdog waits for its end
                stdout=log,
                stderr=log,
                cwd=self._data,
                start_new_session=True,  # Ctrl-C is for the tests, which then stop the server
            )

    async def _answers_or_ends(self) -> None:
        ready = asyncio.ensure_future(self._until_ready())
        try:
            while not ready.done():
                if not self.is_running():
                    raise self._failure(f"ended with status {self._popen and self._popen.returncode}")
                await asyncio.wait({ready}, timeout=LOOK_AGAIN)
            ready.result()
        finally:
            ready.cancel()
            await asyncio.gather(ready, return_exceptions=True)

    def _failure(self, reason: str) -> ServerStartError:
        self.kill()
        return ServerStartError(self.name, reason, self.log_tail(100))
