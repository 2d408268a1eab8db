"""How sessions begin, go, come back and end."""

from kernelry.lives.branching import Branched, Branching
from kernelry.lives.cleanup import CleanUpReport, carry_out, choose, find_stray
from kernelry.lives.lifecycle import STOP_GRACE, Lifecycle, furnish
from kernelry.lives.making import Branch
from kernelry.lives.promotion import Promoted, promote
from kernelry.lives.recovery import STARTED, Recovery, RecoveryReport, entries, last_report
from kernelry.lives.supervisor import Supervisor
from kernelry.lives.suspension import WITHOUT, Suspension

__all__ = [
    "STARTED",
    "STOP_GRACE",
    "WITHOUT",
    "Branch",
    "Branched",
    "Branching",
    "CleanUpReport",
    "Lifecycle",
    "Promoted",
    "Recovery",
    "RecoveryReport",
    "Supervisor",
    "Suspension",
    "carry_out",
    "choose",
    "entries",
    "find_stray",
    "furnish",
    "last_report",
    "promote",
]
