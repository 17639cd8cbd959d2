"""Debian's chromium without a head, spoken to over two pipes: no driver and no package is needed for that."""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import os
import shlex
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

PATIENCE = 30.0  # seconds
NAMES = ("chromium", "chromium-browser", "google-chrome")


def find_chromium() -> str | None:
    """Return where chromium is, or ``None``."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Page:
    """One tab. Any: what a page answers is JavaScript's affair."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._loaded = asyncio.Event()
        self._session = ""
        self.complaints: list[str] = []

    async def open(self) -> None:
        """Open the tab."""
        target = await self.command("Target.createTarget", url="about:blank")
        attached = await self.command("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            await self.command(f"{domain}.enable")

    async def command(self, method: str, **parameters: Any) -> Any:
        """Send a command of the DevTools protocol, and return its result."""
        number = next(self._numbers)
        self._waiting[number] = asyncio.get_running_loop().create_future()
        message = {"id": number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        self._writer.write(json.dumps(message).encode() + b"\0")
        return await self._waiting[number]

    async def listen(self) -> None:
        """Read what the browser says, until it ends."""
        while True:
            message = json.loads((await self._reader.readuntil(b"\0"))[:-1])
            if "id" in message:
                self._answer(message)
            else:
                self._note(message["method"], message.get("params", {}))

    def _answer(self, message: dict[str, Any]) -> None:
        waiting = self._waiting.pop(message["id"])
        if "error" in message:
            waiting.set_exception(RuntimeError(f"the browser refuses: {message['error']}"))
        else:
            waiting.set_result(message["result"])

    def _note(self, method: str, parameters: dict[str, Any]) -> None:
        if method == "Page.loadEventFired":
            self._loaded.set()
        elif method == "Runtime.exceptionThrown":
            self.complaints.append(str(parameters["exceptionDetails"]))
        elif method == "Log.entryAdded" and parameters["entry"]["level"] == "error":
            self.complaints.append(f"{parameters['entry']['text']} {parameters['entry'].get('url', '')}")

    async def look(self, width: int, height: int, scheme: str) -> None:
        """Have a window of this size, and a person who prefers ``light`` or ``dark``."""
        phone = width < 600
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": phone}
        await self.command("Emulation.setDeviceMetricsOverride", **size)
        preference = {"name": "prefers-color-scheme", "value": scheme}
        await self.command("Emulation.setEmulatedMedia", features=[preference])

    async def go(self, url: str) -> None:
        """Open a page, and wait until it is loaded."""
        self._loaded.clear()
        await self.command("Page.navigate", url=url)
        async with asyncio.timeout(PATIENCE):
            await self._loaded.wait()

    async def evaluate(self, expression: str) -> Any:
        """Return the value of a JavaScript expression; a promise is awaited."""
        options = {"returnByValue": True, "awaitPromise": True}
        answer = await self.command("Runtime.evaluate", expression=expression, **options)
        if "exceptionDetails" in answer:
            raise RuntimeError(f"{expression} raised {answer['exceptionDetails']}")
        return answer["result"].get("value")

    async def wait_for(self, expression: str) -> Any:
        """
        Return the value of an expression as soon as it is true; look at every frame that is drawn.

        Raises:
            TimeoutError: It was not true for too long.
        """
        async with asyncio.timeout(PATIENCE):
            return await self.evaluate(
                "new Promise(resolve => { const look = () => { const value = "
                f"{expression}; value ? resolve(value) : requestAnimationFrame(look) }}; look() }})"
            )

    async def picture(self) -> bytes:
        """Return what is seen, as PNG."""
        answer = await self.command("Page.captureScreenshot", format="png")
        return base64.b64decode(answer["data"])


@asynccontextmanager
async def browser(program: str, profile: Path) -> AsyncIterator[Page]:
    """
    Run chromium with one page.

    Args:
        program: Where it is.
        profile: A folder of its own.
    """
    commands, answers = os.pipe(), os.pipe()
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--hide-scrollbars"]
    line = shlex.join([program, *options, "--remote-debugging-pipe", f"--user-data-dir={profile}"])
    process = await asyncio.create_subprocess_exec(
        "bash",
        "-c",
        f"exec {line} 3<&{commands[0]} 4>&{answers[1]}",  # it wants these numbers
        pass_fds=(commands[0], answers[1]),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    os.close(commands[0])
    os.close(answers[1])
    page = Page(*await _streams(answers[0], commands[1]))
    listening = asyncio.create_task(page.listen())
    try:
        await page.open()
        yield page
        await page.command("Page.close")
    finally:
        process.kill()
        await process.wait()
        await asyncio.wait([listening])  # its pipe has ended
        listening.exception()
        page._writer.close()


async def _streams(incoming: int, outgoing: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=64 * 1024 * 1024, loop=loop)  # a picture is one message
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader, loop=loop), os.fdopen(incoming, "rb"))
    transport, protocol = await loop.connect_write_pipe(
        lambda: asyncio.streams.FlowControlMixin(loop=loop), os.fdopen(outgoing, "wb")
    )
    return reader, asyncio.StreamWriter(transport, protocol, None, loop)
