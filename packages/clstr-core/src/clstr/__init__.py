"""
Route a request by key to the one node that owns it, over the broker that you already run.

    key --BLAKE2b--> shard --rendezvous--> node --handler--> reply
"""

from importlib import metadata as _metadata
from typing import TYPE_CHECKING

from clstr._actors.actor import Actor as Actor
from clstr._actors.actor import every as every
from clstr._actors.actor import handles as handles
from clstr._actors.actor_handler import ActorHandler as ActorHandler
from clstr._actors.key_handler import KeyHandler as KeyHandler
from clstr._actors.pause import Paused as Paused
from clstr._client.client import Client as Client
from clstr._client.request import Request as Request
from clstr._client.scoped_client import ScopedClient as ScopedClient
from clstr._context import refuse as refuse
from clstr._limits import Limits as Limits
from clstr._messages.envelope import Envelope as Envelope
from clstr._messages.message import Message as Message
from clstr._messages.node_info import NodeInfo as NodeInfo
from clstr._node.metrics import Metrics as Metrics
from clstr._node.middleware import Middleware as Middleware
from clstr._node.node import Node as Node
from clstr._node.route import Context as Context
from clstr._node.router import Router as Router
from clstr._node.router import TypedHandler as TypedHandler
from clstr._plugins.connect import connect as connect
from clstr._routing.hashing import Assignment as Assignment
from clstr._routing.hashing import assign_shards as assign_shards
from clstr._routing.hashing import shard_for_key as shard_for_key
from clstr._routing.hashing import shards_for_node as shards_for_node
from clstr.abc import CloseReport as CloseReport
from clstr.abc import Handler as Handler
from clstr.abc import ReleaseReport as ReleaseReport
from clstr.abc import Transport as Transport
from clstr.abc import TransportStats as TransportStats
from clstr.errors import AccessDeniedError as AccessDeniedError
from clstr.errors import AuthenticationError as AuthenticationError
from clstr.errors import CallCycleError as CallCycleError
from clstr.errors import ClstrError as ClstrError
from clstr.errors import ConnectionLostError as ConnectionLostError
from clstr.errors import DrainingError as DrainingError
from clstr.errors import EnvelopeExpiredError as EnvelopeExpiredError
from clstr.errors import HandlerError as HandlerError
from clstr.errors import HandlerTimeoutError as HandlerTimeoutError
from clstr.errors import InvalidEnvelopeError as InvalidEnvelopeError
from clstr.errors import InvalidReplyError as InvalidReplyError
from clstr.errors import KeyRequiredError as KeyRequiredError
from clstr.errors import MissingKeyHeaderError as MissingKeyHeaderError
from clstr.errors import NodeIdInUseError as NodeIdInUseError
from clstr.errors import NoShardSubscriberError as NoShardSubscriberError
from clstr.errors import NotOwnerError as NotOwnerError
from clstr.errors import OverloadedError as OverloadedError
from clstr.errors import PayloadTooLargeError as PayloadTooLargeError
from clstr.errors import PluginApiError as PluginApiError
from clstr.errors import PluginConflictError as PluginConflictError
from clstr.errors import PluginError as PluginError
from clstr.errors import PluginImportError as PluginImportError
from clstr.errors import RequestTimeoutError as RequestTimeoutError
from clstr.errors import ReservedHeaderError as ReservedHeaderError
from clstr.errors import StateNotStoredError as StateNotStoredError
from clstr.errors import TransportClosedError as TransportClosedError
from clstr.errors import TransportUnavailableError as TransportUnavailableError
from clstr.errors import UnknownMessageError as UnknownMessageError
from clstr.errors import UnknownSchemeError as UnknownSchemeError

if TYPE_CHECKING:
    __version__: str  # of the distribution clstr-core
else:  # a type checker that sees this function takes any name for an attribute

    def __getattr__(name: str) -> str:
        """Read the version only when it is asked for: that opens a file."""
        if name == "__version__":
            return _metadata.version("clstr-core")
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    "AccessDeniedError",
    "Actor",
    "ActorHandler",
    "Assignment",
    "AuthenticationError",
    "CallCycleError",
    "Client",
    "CloseReport",
    "ClstrError",
    "ConnectionLostError",
    "Context",
    "DrainingError",
    "Envelope",
    "EnvelopeExpiredError",
    "Handler",
    "HandlerError",
    "HandlerTimeoutError",
    "InvalidEnvelopeError",
    "InvalidReplyError",
    "KeyHandler",
    "KeyRequiredError",
    "Limits",
    "Message",
    "Metrics",
    "Middleware",
    "MissingKeyHeaderError",
    "NoShardSubscriberError",
    "Node",
    "NodeIdInUseError",
    "NodeInfo",
    "NotOwnerError",
    "OverloadedError",
    "Paused",
    "PayloadTooLargeError",
    "PluginApiError",
    "PluginConflictError",
    "PluginError",
    "PluginImportError",
    "ReleaseReport",
    "Request",
    "RequestTimeoutError",
    "ReservedHeaderError",
    "Router",
    "ScopedClient",
    "StateNotStoredError",
    "Transport",
    "TransportClosedError",
    "TransportStats",
    "TransportUnavailableError",
    "TypedHandler",
    "UnknownMessageError",
    "UnknownSchemeError",
    "assign_shards",
    "connect",
    "every",
    "handles",
    "refuse",
    "shard_for_key",
    "shards_for_node",
]
