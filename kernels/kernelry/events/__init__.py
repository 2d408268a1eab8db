"""The log of what happened."""

from kernelry.events.file import read_events
from kernelry.events.log import Events, check_data, check_topic

__all__ = [
    "Events",
    "check_data",
    "check_topic",
    "read_events",
]
