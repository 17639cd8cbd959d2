"""The conformance suite: the transport contract as a class of checks."""

from __future__ import annotations

from clstr_testing._answer_checks import AnswerChecks
from clstr_testing._closing_checks import ClosingChecks
from clstr_testing._deadline_checks import DeadlineChecks
from clstr_testing._ending_checks import EndingChecks
from clstr_testing._error_checks import ErrorChecks
from clstr_testing._garbage_checks import GarbageChecks
from clstr_testing._integrity import Integrity
from clstr_testing._message_checks import MessageChecks
from clstr_testing._notify_checks import NotifyChecks
from clstr_testing._once_checks import OnceChecks
from clstr_testing._order_checks import OrderChecks
from clstr_testing._outage_checks import OutageChecks
from clstr_testing._ownership_checks import OwnershipChecks
from clstr_testing._release_checks import ReleaseChecks
from clstr_testing._running_checks import RunningChecks
from clstr_testing._sharing_checks import SharingChecks
from clstr_testing._slot_checks import SlotChecks
from clstr_testing._ttl_checks import TtlChecks


class TransportSuite(
    MessageChecks,
    SharingChecks,
    OwnershipChecks,
    ReleaseChecks,
    RunningChecks,
    SlotChecks,
    DeadlineChecks,
    TtlChecks,
    EndingChecks,
    ErrorChecks,
    NotifyChecks,
    OutageChecks,
    ClosingChecks,
    GarbageChecks,
    OnceChecks,
    OrderChecks,
    AnswerChecks,
    Integrity,
):
    """
    The transport contract as checks. Subclass it in a test file; every check must pass.

        class TestMine(TransportSuite):
            url = "mine://127.0.0.1:4000?prefix={cluster}"

    ``{cluster}`` becomes a name that no other check has. Instead of the class attribute there may be a fixture
    ``url``, or the method ``async def connect(self, **options)``, which opens one more transport of this check's
    isolated cluster; ``options`` are the names of `clstr.Limits`.

    Optional hooks, without which the checks that need them are skipped as *not checked*:

    * ``async def cut(self)``: every connection to the broker breaks, and none can be made.
    * ``async def cut_peer(self, peer)``: the same for the connections of one transport that `connect` has returned;
      where a connection joins two peers, it breaks for both.
    * ``async def restore(self)``: connections can be made again.
    * ``async def inject(self, shard, body)``: a holder of ``shard`` receives ``body`` as a message.

    A check cannot be deleted or overridden. What a transport cannot do yet stands in `expected_failures`, which must
    fail then.
    """
