"""
What the author of a transport plugin builds on.

Implement `Link` and hand it to an `Engine`: admission, TTL, timeouts, pending replies, draining and rerouting are the
engine's, the same for every transport. `Reconnector` keeps a link to a broker connected; `connect_tcp`, `Resolver` and
`race` dial; `ProgressCheck` tells a slow connection from a dead one.

A `Directory` is the store in which the nodes of a live cluster keep their records.
"""

from clstr._backoff import Backoff as Backoff
from clstr._context import refuse as refuse
from clstr._limits import Limits as Limits
from clstr._messages.wire import Buffer as Buffer
from clstr._rate_limited_log import RateLimitedLog as RateLimitedLog
from clstr._text import printable as printable
from clstr.spi._directory import CLUSTER_KEY as CLUSTER_KEY
from clstr.spi._directory import Directory as Directory
from clstr.spi._directory import DirectorySink as DirectorySink
from clstr.spi._directory import DirectoryUnavailableError as DirectoryUnavailableError
from clstr.spi._directory import Record as Record
from clstr.spi._directory import Snapshot as Snapshot
from clstr.spi._directory import Swap as Swap
from clstr.spi._directory import SwapConflictError as SwapConflictError
from clstr.spi._directory import Version as Version
from clstr.spi._engine import Engine as Engine
from clstr.spi._link import Link as Link
from clstr.spi._link import Route as Route
from clstr.spi._link import Sink as Sink
from clstr.spi._links.batcher import Batcher as Batcher
from clstr.spi._links.credentials import CredentialProvider as CredentialProvider
from clstr.spi._links.credentials import Credentials as Credentials
from clstr.spi._links.credentials import check_credentials as check_credentials
from clstr.spi._links.credentials import hide_secrets as hide_secrets
from clstr.spi._links.credentials import read_credentials as read_credentials
from clstr.spi._links.forks import close_in_child as close_in_child
from clstr.spi._links.pack import pack as pack
from clstr.spi._links.pack import unpack as unpack
from clstr.spi._links.progress import ProgressCheck as ProgressCheck
from clstr.spi._links.progress import answered_while_moving as answered_while_moving
from clstr.spi._links.race import race as race
from clstr.spi._links.reconnector import Connection as Connection
from clstr.spi._links.reconnector import Reconnector as Reconnector
from clstr.spi._links.resolver import Address as Address
from clstr.spi._links.resolver import Resolver as Resolver
from clstr.spi._links.secret_files import warn_of_exposed_file as warn_of_exposed_file
from clstr.spi._links.sockets import connect_tcp as connect_tcp
from clstr.spi._links.sockets import connect_unix as connect_unix
from clstr.spi._links.sockets import end_socket as end_socket
from clstr.spi._links.sockets import keep_from_children as keep_from_children
from clstr.spi._links.streams import MeteredReader as MeteredReader
from clstr.spi._links.streams import open_stream as open_stream
from clstr.spi._links.write_budget import WriteBudget as WriteBudget
from clstr.spi._memory_directory import MemoryDirectory as MemoryDirectory
from clstr.spi._memory_directory import MemoryRecords as MemoryRecords

__all__ = [
    "CLUSTER_KEY",
    "Address",
    "Backoff",
    "Batcher",
    "Buffer",
    "Connection",
    "CredentialProvider",
    "Credentials",
    "Directory",
    "DirectorySink",
    "DirectoryUnavailableError",
    "Engine",
    "Limits",
    "Link",
    "MemoryDirectory",
    "MemoryRecords",
    "MeteredReader",
    "ProgressCheck",
    "RateLimitedLog",
    "Reconnector",
    "Record",
    "Resolver",
    "Route",
    "Sink",
    "Snapshot",
    "Swap",
    "SwapConflictError",
    "Version",
    "WriteBudget",
    "answered_while_moving",
    "check_credentials",
    "close_in_child",
    "connect_tcp",
    "connect_unix",
    "end_socket",
    "hide_secrets",
    "keep_from_children",
    "open_stream",
    "pack",
    "printable",
    "race",
    "read_credentials",
    "refuse",
    "unpack",
    "warn_of_exposed_file",
]
