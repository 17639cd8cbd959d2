"""An actor is driven without a node, and its time is the test's."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

import clstr
from clstr_testing import VirtualTimeLoop, actor


class Add(msgspec.Struct, clstr.Message[int]):
    amount: int


class Account(clstr.Actor):
    def __init__(self) -> None:
        self.log: list[str] = []

    async def on_start(self) -> None:
        LOG.append(f"start {self.key}")
        self.total = 0

    async def on_stop(self) -> None:
        LOG.append(f"stop at {self.total}")

    @clstr.handles(Add)
    async def add(self, message: Add, _context: clstr.Context) -> int:
        if message.amount < 0:
            raise ValueError("no debts")
        self.total += message.amount
        return self.total

    @clstr.every(60)
    async def earn(self) -> None:
        self.total += 1


LOG: list[str] = []


@pytest.fixture(autouse=True)
def fresh_log() -> None:
    LOG.clear()


async def test_an_actor_lives_from_the_first_message_to_the_end_of_the_block() -> None:
    async with actor(Account, key="ada") as account:
        assert LOG == []
        assert await account.request(Add(2)) == 2
        await account.notify(Add(3))
        assert await account.request(Add(0)) == 5
    assert LOG == ["start ada", "stop at 5"]


async def test_paused_it_handles_one_message_at_each_step() -> None:
    driver = actor(Account, key="ada")
    async with driver as account:
        async with driver.paused() as paused:
            first = asyncio.create_task(account.request(Add(2)))
            second = asyncio.create_task(account.request(Add(3)))
            await paused.step()
            assert await first == 2
            assert (paused.waiting, second.done()) == (1, False)
        assert await second == 5


def test_paused_its_periodic_work_waits_too() -> None:
    async def run() -> None:
        driver = actor(Account)
        async with driver as account:
            await account.request(Add(0))
            async with driver.paused() as paused:
                await asyncio.sleep(61)
                assert paused.waiting == 1
                await paused.step()
            assert await account.request(Add(0)) == 1

    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        runner.run(run())


async def test_what_it_raises_arrives_as_it_is() -> None:
    async with actor(Account) as account:
        with pytest.raises(ValueError, match="no debts"):
            await account.request(Add(-1))
        assert await account.request(Add(1)) == 1


async def test_a_function_may_make_it() -> None:
    made: list[str] = []

    async def create(key: str) -> Account:
        made.append(key)
        return Account()

    for factory in (create, lambda _key: Account()):
        async with actor(factory, key="ada") as account:
            assert await account.request(Add(2)) == 2
    assert made == ["ada"]


class Unknown(msgspec.Struct, clstr.Message[int]):
    pass


async def test_a_refusal_is_no_error_of_the_actor() -> None:
    errors: list[Exception] = []

    class Restarting(Account):
        def on_error(self, error: Exception) -> bool:
            errors.append(error)
            return True

        @clstr.handles(Unknown)
        async def refuse_it(self, _message: Unknown, _context: clstr.Context) -> int:
            raise clstr.refuse(clstr.UnknownMessageError("Unknown", ""))

    async with actor(Restarting) as account:
        await account.request(Add(2))
        with pytest.raises(clstr.UnknownMessageError):
            await account.request(Unknown())
        assert await account.request(Add(1)) == 3
        assert errors == []
        with pytest.raises(ValueError, match="no debts"):
            await account.request(Add(-1))
        assert await account.request(Add(1)) == 1  # started anew
    assert [type(error) for error in errors] == [ValueError]


def test_its_time_is_the_loops() -> None:
    async def drive() -> None:
        async with actor(Account, idle_after=3600) as account:
            await account.request(Add(0))
            await asyncio.sleep(630)
            assert await account.request(Add(0)) == 10  # what it earned
            await asyncio.sleep(7200)
            assert LOG[-1].startswith("stop at")

    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        runner.run(drive())
