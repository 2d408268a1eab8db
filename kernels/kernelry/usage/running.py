"""Scripts that run: each session's programs, counted for its limits and ended by them."""

import os
import secrets
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from kernelry.apart import in_thread
from kernelry.processes import Group, family, make_group
from kernelry.usage.measuring import Usage, measure_script


class ScriptRun:
    """A script that runs in a process of its own.

    Args:
        limit: Bytes of memory that its session may use; 0: no limit.
        grouped: Whether it gets a control group, where that can be had.
    """

    def __init__(self, limit: int, *, grouped: bool) -> None:
        self._limit = limit
        self._grouped = grouped
        self._pid = 0
        self._group: Group | None = None
        #: why it was ended; empty: it was not
        self.why = ""

    def begin(self, pid: int) -> None:
        """Take note of the process that guards it."""
        self._pid = pid
        if self._grouped:
            name = f"script-{secrets.token_hex(4)}"
            self._group = make_group(name, family(pid), self._limit)

    def measure(self) -> Usage:
        """Return what it and all that it started use; reads files."""
        return measure_script(self._pid, self._group, self._limit) if self._pid else Usage()

    def end(self, why: str) -> None:
        """Tell its guardian to end all of it."""
        if self._pid and not self.why:
            self.why = why
            with suppress(ProcessLookupError):
                os.kill(self._pid, signal.SIGTERM)

    async def finish(self) -> None:
        """Give its group back; what is still in there is ended."""
        self._pid = 0
        if self._group is not None:
            await in_thread(self._group.end, name="strays")
            self._group.remove()


class Scripts:
    """The scripts of all sessions of a service that run now."""

    def __init__(self) -> None:
        self._runs: dict[str, list[ScriptRun]] = {}

    @contextmanager
    def noted(self, session: str, run: ScriptRun) -> Iterator[None]:
        """Have a run counted for a session while this lasts."""
        self._runs.setdefault(session, []).append(run)
        try:
            yield
        finally:
            self._runs[session].remove(run)
            if not self._runs[session]:
                del self._runs[session]

    def of(self, session: str) -> list[ScriptRun]:
        """Return those of a session."""
        return list(self._runs.get(session, ()))
