"""What is said to kernels and heard of them: the wire, the channels, what journals hold."""

from kernelry.messaging.answers import understood
from kernelry.messaging.channels import BRANCHES, PORTS, Channels, Connection
from kernelry.messaging.journal import Entry, newest_begun, parse, read_journal
from kernelry.messaging.wire import UNSOUND, Message, new_id

__all__ = [
    "BRANCHES",
    "PORTS",
    "UNSOUND",
    "Channels",
    "Connection",
    "Entry",
    "Message",
    "new_id",
    "newest_begun",
    "parse",
    "read_journal",
    "understood",
]
