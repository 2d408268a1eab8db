"""A copy of a kernel that waits as it is, as its owner sees it: a live checkpoint's process."""

import asyncio
import json
import socket
from collections.abc import Coroutine, Iterable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from kernelry.apart import in_thread
from kernelry.engines.forkserver import ForkServer
from kernelry.engines.kernel import record_of, remove_files
from kernelry.messaging import BRANCHES, Connection
from kernelry.models import KernelRecord
from kernelry.processes import Group, KernelProcess, resident
from kernelry.shielding import to_the_end
from kernelry.walls import Walls

PACKET_BYTES = 1 << 16
REAP_DEADLINE = 60.0  # seconds; a kernel in native code hears of it later


class FrozenKernel:
    """A copy of a kernel that waits as it is: kernels with all that it has are forked from it.

    Args:
        process: It.
        connection: Where its socket is.
        walls: What it stands behind.
        guardian: The fork server that ends it when no server comes for it.
    """

    def __init__(
        self,
        process: KernelProcess,
        connection: Connection,
        walls: Walls,
        guardian: ForkServer | None,
    ) -> None:
        self.process = process
        self.walls = walls
        self.guardian = guardian
        #: the execution in the middle of which it was made; empty: between two
        self.inside = ""
        #: the control group that it is in; None: there is none
        self.group: Group | None = None
        self._settling: asyncio.Future[None] | None = None
        self._lender: tuple[Group, int] | None = None
        self._connection = connection

    @property
    def record(self) -> KernelRecord:
        """What the next server needs to take it over."""
        return record_of(self.process, self._connection, self.walls)

    def settle(self, work: Coroutine[Any, Any, None]) -> "asyncio.Future[None]":
        """Have it become what can be forked, beside what else is done; the future is its end."""
        self._settling = asyncio.ensure_future(work)
        self._settling.add_done_callback(lambda done: done.cancelled() or done.exception())
        return self._settling

    async def settled(self) -> None:
        """Wait until it can be forked.

        Raises:
            KernelStartError: It did not get that far, and has ended.
        """
        if self._settling is not None:
            await asyncio.shield(self._settling)

    def borrow(self, group: Group) -> None:
        """Have a control group's limit raised, until our end, by what we may keep of its memory.

        Pages that are there stay counted where they were made, also when only a copy has them.
        """
        self._lender = group, resident(self.process.pid)
        group.allow(self._lender[1])

    async def reap(self, pid: int) -> None:
        """Have it wait for a kernel that was forked from it and has ended."""
        door = f"{self._connection.path}-{BRANCHES}"
        with closing(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)) as asking:
            asking.setblocking(False)
            with suppress(OSError, TimeoutError, ValueError):  # it ends: then nobody has to
                async with asyncio.timeout(REAP_DEADLINE):
                    await asyncio.get_running_loop().sock_connect(asking, door)
                    await ask(asking, json.dumps({"reap": pid}).encode(), [])

    async def end(self) -> None:
        """End it, and remove what is there of it; to the end, whoever is cancelled."""
        await to_the_end(self._end())

    async def _end(self) -> None:
        await self.process.kill()
        if self._settling is not None:
            await asyncio.wait([self._settling])
        if self.group is not None:
            await in_thread(self.group.end, name="strays")
            self.group.remove()
        if self._lender is not None:
            self._lender[0].allow(-self._lender[1])
        remove_files(self._connection)

    def leave(self) -> None:
        """Leave it for the next server."""
        self.process.leave()


def held(copies: Iterable[int], kernels: Iterable[int]) -> int:
    """Return about how many bytes of memory copies have that the kernels do not; reads files.

    What several copies share and no kernel has any more is found by shares: all that any of them
    has, less what the kernels have. It may be some 60 MB more, which are shared with fork servers.

    Args:
        copies: Pids of copies.
        kernels: Pids of the kernels that they were forked from, or that were forked from them.
    """
    pids = list(copies)
    private = sum(memory_of(pid, "Private_Clean:", "Private_Dirty:") for pid in pids)
    living = list(kernels)
    shares = sum(memory_of(pid, "Pss:") for pid in (*pids, *living))
    return max(private, shares - sum(memory_of(pid, "Rss:") for pid in living))


def memory_of(pid: int, *names: str) -> int:
    """Return the bytes that a process has of some kinds of memory; 0: it has ended."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) << 10 for line in lines if line.startswith(names))


async def ask(asking: socket.socket, packet: bytes, fds: list[int]) -> object:
    """Send a request with descriptors to a kernel; return what it answers, as JSON.

    Raises:
        OSError: The connection ended.
        ValueError: It is no JSON.
    """
    socket.send_fds(asking, [packet], fds)
    data = await asyncio.get_running_loop().sock_recv(asking, PACKET_BYTES)
    if not data:
        raise ConnectionResetError("it hung up")
    return json.loads(data)
