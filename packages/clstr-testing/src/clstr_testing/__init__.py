"""
Tools for those who test transports, and for those who test what they build on clstr.

Nothing is loaded before it is used: pytest imports this package in every test run where it is installed.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from clstr_testing._actor_driver import ActorDriver as ActorDriver
    from clstr_testing._actor_driver import actor as actor
    from clstr_testing._brokers import ServerNotFoundError as ServerNotFoundError
    from clstr_testing._check import Bench as Bench
    from clstr_testing._check import Check as Check
    from clstr_testing._cluster import Cluster as Cluster
    from clstr_testing._cluster import cluster as cluster
    from clstr_testing._contract import CONTRACT as CONTRACT
    from clstr_testing._contract import DIRECTORY_CONTRACT as DIRECTORY_CONTRACT
    from clstr_testing._directory_suite import DirectorySuite as DirectorySuite
    from clstr_testing._fault_direction import Direction as Direction
    from clstr_testing._fault_proxy import FaultProxy as FaultProxy
    from clstr_testing._faulty_directory import DirectoryFaults as DirectoryFaults
    from clstr_testing._faulty_directory import FaultyDirectory as FaultyDirectory
    from clstr_testing._leaks import LeakError as LeakError
    from clstr_testing._leaks import no_leaks as no_leaks
    from clstr_testing._oracle import Verdict as Verdict
    from clstr_testing._oracle import Violation as Violation
    from clstr_testing._oracle import judge as judge
    from clstr_testing._ports import free_port as free_port
    from clstr_testing._process import ServerStartError as ServerStartError
    from clstr_testing._records import Ended as Ended
    from clstr_testing._records import Executed as Executed
    from clstr_testing._records import Journal as Journal
    from clstr_testing._records import Records as Records
    from clstr_testing._records import Sent as Sent
    from clstr_testing._records import digest as digest
    from clstr_testing._records import read_journals as read_journals
    from clstr_testing._report import Result as Result
    from clstr_testing._report import run_suite as run_suite
    from clstr_testing._report import sentences as sentences
    from clstr_testing._servers import Server as Server
    from clstr_testing._servers import ServerOptions as ServerOptions
    from clstr_testing._servers import nats_server as nats_server
    from clstr_testing._servers import redis_server as redis_server
    from clstr_testing._servers import valkey_server as valkey_server
    from clstr_testing._suite import TransportSuite as TransportSuite
    from clstr_testing._virtual_time import NothingCanHappenError as NothingCanHappenError
    from clstr_testing._virtual_time import VirtualTimeLoop as VirtualTimeLoop

_HOMES = {
    "_actor_driver": ("ActorDriver", "actor"),
    "_brokers": ("ServerNotFoundError",),
    "_check": ("Bench", "Check"),
    "_cluster": ("Cluster", "cluster"),
    "_contract": ("CONTRACT", "DIRECTORY_CONTRACT"),
    "_directory_suite": ("DirectorySuite",),
    "_fault_direction": ("Direction",),
    "_fault_proxy": ("FaultProxy",),
    "_faulty_directory": ("DirectoryFaults", "FaultyDirectory"),
    "_leaks": ("LeakError", "no_leaks"),
    "_oracle": ("Verdict", "Violation", "judge"),
    "_ports": ("free_port",),
    "_process": ("ServerStartError",),
    "_records": ("Ended", "Executed", "Journal", "Records", "Sent", "digest", "read_journals"),
    "_report": ("Result", "run_suite", "sentences"),
    "_servers": ("Server", "ServerOptions", "nats_server", "redis_server", "valkey_server"),
    "_suite": ("TransportSuite",),
    "_virtual_time": ("NothingCanHappenError", "VirtualTimeLoop"),
}


def __getattr__(name: str) -> object:
    """Import a public name from where it is defined."""
    for module, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """List the public names, loaded or not."""
    return sorted({*globals(), *__all__})


__all__ = [
    "CONTRACT",
    "DIRECTORY_CONTRACT",
    "ActorDriver",
    "Bench",
    "Check",
    "Cluster",
    "Direction",
    "DirectoryFaults",
    "DirectorySuite",
    "Ended",
    "Executed",
    "FaultProxy",
    "FaultyDirectory",
    "Journal",
    "LeakError",
    "NothingCanHappenError",
    "Records",
    "Result",
    "Sent",
    "Server",
    "ServerNotFoundError",
    "ServerOptions",
    "ServerStartError",
    "TransportSuite",
    "Verdict",
    "Violation",
    "VirtualTimeLoop",
    "actor",
    "cluster",
    "digest",
    "free_port",
    "judge",
    "nats_server",
    "no_leaks",
    "read_journals",
    "redis_server",
    "run_suite",
    "sentences",
    "valkey_server",
]
