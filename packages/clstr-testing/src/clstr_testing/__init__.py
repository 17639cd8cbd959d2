"""Tools for those who test transports, and for those who test what they build on clstr."""

from clstr_testing._check import Bench as Bench
from clstr_testing._check import Check as Check
from clstr_testing._contract import CONTRACT as CONTRACT
from clstr_testing._report import Result as Result
from clstr_testing._report import run_suite as run_suite
from clstr_testing._report import sentences as sentences
from clstr_testing._suite import TransportSuite as TransportSuite
from clstr_testing._virtual_time import NothingCanHappenError as NothingCanHappenError
from clstr_testing._virtual_time import VirtualTimeLoop as VirtualTimeLoop

__all__ = [
    "CONTRACT",
    "Bench",
    "Check",
    "NothingCanHappenError",
    "Result",
    "TransportSuite",
    "VirtualTimeLoop",
    "run_suite",
    "sentences",
]
