"""What the documentation names exists."""

from __future__ import annotations

import re
from functools import reduce
from pathlib import Path

import pytest

import clstr
import clstr.abc
import clstr.errors
import clstr.plugins
import clstr.spi

TOP = Path(__file__).parents[2]
MAPPING = (TOP / "docs" / "coming-from-clstr-go.md").read_text(encoding="utf-8")
NAMES = sorted(set(re.findall(r"`(clstr(?:\.\w+)+)`", MAPPING)) - {"clstr.transport"})  # that one is a logger
SPECIFIED = """
Envelope Transport ClientTransport ServerTransport Subscription ServerHandlerFunc NodeOptions NewNode Node.Run
ClientOptions NewClient Client.RequestShard Client.NotifyShard Client.RequestKey Client.NotifyKey Client.Key
Client.Shard ScopedClient.Request ScopedClient.Notify ScopedClient.GetNodeInfo NewRequest ShardFromString
ShardsForNode NewKeyHandler NewKeyHandlerWithOpts NewInMemoryTransport MaxConcurrentHandlers HandlerTimeout WithLog
WithHeader WithTTL GetHeader Expired TTL Validate ErrTransportClosed ErrTransportNoShardSubscriber
NewActorHandler CreateInMemoryTransport CreateTestCluster
ErrEnvelopeExpired ErrReservedHeader ErrHandlerTimeout ErrKeyRequired ErrMissingKeyHeader EnvelopeOptions
""".split()  # noqa: SIM905 -- as a list it would be a page long


@pytest.mark.parametrize("name", NAMES)
def test_every_name_on_the_page_for_go_users_exists(name: str) -> None:
    assert reduce(getattr, name.split(".")[1:], clstr) is not None


@pytest.mark.parametrize("name", SPECIFIED)
def test_every_name_of_the_reference_is_on_the_page(name: str) -> None:
    rows = "\n".join(re.findall(r"^\| (.*?) \|", MAPPING, re.MULTILINE))
    assert re.search(rf"[`.]{re.escape(name)}\b", rows), name


@pytest.mark.parametrize("module", [clstr, clstr.abc, clstr.errors, clstr.plugins, clstr.spi])
def test_public_names_are_sorted_and_real(module: object) -> None:
    names = list(getattr(module, "__all__"))  # noqa: B009 -- modules have no declared __all__
    assert names == sorted(names, key=lambda name: (not name.isupper(), name[0].islower(), name))
    assert all(hasattr(module, name) for name in names)
