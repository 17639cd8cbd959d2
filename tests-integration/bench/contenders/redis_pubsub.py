"""Bare redis-py: channels there and back, and pipelines that hold what has gathered meanwhile."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Self

import redis.asyncio as redis

from bench.contender import Ask, Contender, Load, Prepare

TOKEN_BYTES = 8
NO_TOKEN = b"\xff" * TOKEN_BYTES  # of a message that wants no answer
ANSWERS = "answers"
Waiting = dict[bytes, "asyncio.Future[bytes]"]


class RedisPubSub(Contender):
    """Echoes bytes."""

    @asynccontextmanager
    async def serve(self, node: int) -> AsyncIterator[None]:
        """Subscribe to a channel of its own."""
        async with _Channels(self.place.url, f"echo.{node}") as channels:

            def echo(message: bytes) -> None:
                self.handled += 1
                if not message.startswith(NO_TOKEN):
                    channels.publish(ANSWERS, message)

            async with channels.carrying(echo):
                yield

    @asynccontextmanager
    async def client(self) -> AsyncIterator[Prepare]:
        """Subscribe to the channel of answers."""
        async with _Channels(self.place.url, ANSWERS) as channels:
            waiting: Waiting = {}

            def take(message: bytes) -> None:
                waiting.pop(message[:TOKEN_BYTES]).set_result(message[TOKEN_BYTES:])

            async with channels.carrying(take):
                yield lambda load: self._ask(channels, waiting, load)

    def _ask(self, channels: _Channels, waiting: Waiting, load: Load) -> Ask:
        payload, nodes, loop = load.payload, self.place.nodes, asyncio.get_running_loop()

        async def request(number: int) -> bytes:
            token = next(_tokens).to_bytes(TOKEN_BYTES, "big")
            answer: asyncio.Future[bytes] = loop.create_future()
            waiting[token] = answer
            channels.publish(f"echo.{number % nodes}", token + payload)
            return await answer

        async def notify(number: int) -> None:
            await channels.published(f"echo.{number % nodes}", NO_TOKEN + payload)

        return notify if load.oneway else request


_tokens = itertools.count()


class _Channels:
    """One channel to read, and a pipeline at a time for what is published."""

    def __init__(self, url: str, channel: str) -> None:
        self._channel = channel
        self._redis = redis.Redis.from_url(url)
        self._pubsub = self._redis.pubsub(ignore_subscribe_messages=True)
        self._waiting: list[tuple[str, bytes]] = []
        self._notices: list[asyncio.Future[None]] = []
        self._is_waiting = asyncio.Event()

    async def __aenter__(self) -> Self:
        await self._pubsub.subscribe(self._channel)
        await self._pubsub.get_message(timeout=5.0)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._pubsub.aclose()  # type: ignore[no-untyped-call]  # redis-py left it so
        await self._redis.aclose()

    def publish(self, channel: str, message: bytes) -> None:
        self._waiting.append((channel, message))
        self._is_waiting.set()

    async def published(self, channel: str, message: bytes) -> None:
        notice = asyncio.get_running_loop().create_future()
        self._notices.append(notice)
        self.publish(channel, message)
        await notice

    @asynccontextmanager
    async def carrying(self, take: Callable[[bytes], None]) -> AsyncIterator[None]:
        """Write what is published, and hand what arrives to ``take``."""
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._write()), group.create_task(self._read(take))]
            yield
            for task in tasks:
                task.cancel()

    async def _write(self) -> None:
        while True:
            await self._is_waiting.wait()
            self._is_waiting.clear()
            messages, self._waiting = self._waiting, []
            notices, self._notices = self._notices, []
            async with self._redis.pipeline(transaction=False) as pipeline:
                for channel, message in messages:
                    _ = pipeline.publish(channel, message)
                await pipeline.execute()
            for notice in notices:
                notice.set_result(None)

    async def _read(self, take: Callable[[bytes], None]) -> None:
        async for message in self._pubsub.listen():
            take(message["data"])
