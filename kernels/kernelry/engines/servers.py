"""The processes that kernels come from and that look after them, and that there are always some.

A fork server forks kernels; a guardian spawns them, and both end what they have started when no
server comes for it. One that dies is replaced, and the new one is told of the kernels there are.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from kernelry.engines.forkserver import ForkServer, Inventory, Profile
from kernelry.engines.frozen import FrozenKernel
from kernelry.engines.guardians import (
    GUARDIAN,
    Started,
    can_fork,
    find_fork_servers,
    start_fork_server,
    start_guardian,
)
from kernelry.engines.kernel import LocalKernel
from kernelry.engines.launch import Launch
from kernelry.engines.lifelines import Lifelines
from kernelry.errors import KernelryError, KernelStartError
from kernelry.messaging import Connection
from kernelry.paths import private_directory

log = logging.getLogger(__name__)

REPLACEMENTS = 5  # times that a fork server which died is replaced without being needed
LEVELS = ("shell", "imports")  # how far a fork server prepares its kernels; best first


class ForkServers:
    """The fork server and the guardian of one server, and those that a server before has left.

    Args:
        runtime: Short private directory for sockets.
        profile: What they are started with; None: there can't be any here.
        new_probe: Returns a launch of a private directory of its own, to try a fork server by.
        new_connection: Makes a place for the sockets of one kernel.
        mode: As of `LocalEngine`.
        kernels: Those that there are; kept up to date.
    """

    def __init__(
        self,
        runtime: Path,
        profile: Profile | None,
        new_probe: Callable[[], Launch],
        new_connection: Callable[[], Connection],
        mode: str,
        kernels: list[LocalKernel | FrozenKernel],
    ) -> None:
        self._runtime = runtime
        self._profile = profile
        self._mode = mode
        self._kernels = kernels
        self._server: ForkServer | None = None
        self._level = ""
        self._server_lock = asyncio.Lock()
        self._guardian: ForkServer | None = None
        self._guardian_lock = asyncio.Lock()
        self.inherited: list[tuple[ForkServer, Inventory]] = []
        self.lifelines = Lifelines(profile.lifeline if profile else None)
        self._new_probe = new_probe
        self._new_connection = new_connection
        self._starting: set[asyncio.Task[None]] = set()  # guardians and fork servers
        self._replaced = 0
        #: what the fork server said when it started; None: it has not been started
        self.started: Started | None = None

    @property
    def forker(self) -> ForkServer | None:
        """The one that forks kernels now; None: there is none."""
        return self._server if is_alive(self._server) else None

    @property
    def guardian(self) -> ForkServer | None:
        """The one that looks after all kernels; None: there is none yet."""
        return self._guardian

    @property
    def can_fork(self) -> bool:
        """Say whether a kernel can be forked at once."""
        return self.forker is not None

    @property
    def has_died(self) -> bool:
        """Say whether there was one that forks kernels, and there is none."""
        return self._server is not None and self._server.is_closed

    @property
    def pid(self) -> int:
        """The process that kernels are forked from, or else that guards them; 0: none yet."""
        found = (server for server in (self._server, self._guardian) if is_alive(server))
        return next((server.pid for server in found if server is not None), 0)

    def is_ours(self, server: ForkServer) -> bool:
        """Say whether kernels of ours come from one, or are guarded by it."""
        return server in (self._server, self._guardian)

    def begin(self) -> None:
        """Start the guardian, beside what else is to be done; kernels that start wait for it."""
        if self._profile is not None:
            self.soon(self._see_to_guardian())

    async def find_inherited(self) -> None:
        """Connect to the fork servers that an earlier server of this runtime directory left."""
        if self._profile is None:
            return
        self.inherited = await find_fork_servers(self._runtime)
        wanted = self._profile.digest(self._levels)
        for server, inventory in self.inherited:
            await server.wait_for_servers(self._profile.orphan_timeout)
            if inventory.profile == self._profile.digest((GUARDIAN,)):
                if not is_alive(self._guardian):
                    self._take_guardian(server)
            elif inventory.profile == wanted and not is_alive(self._server):
                self._take_server(server, inventory.level)
                preloaded = list(self._profile.preloads)
                self.started = Started(level=inventory.level, preloaded=preloaded)

    async def ensure_fork_server(self) -> bool:
        """Start the fork server if there is none, and try it; say whether kernels can be forked.

        Each level is tried by forking a kernel that must run ``1 + 1``; the next simpler one
        is taken if it does not. Where none does, the guardian spawns kernels.

        Raises:
            KernelStartError: They can't, and it was asked for explicitly.
        """
        if self._profile is None:
            return False
        async with self._server_lock:
            levels = self._levels if not self._level else (self._level,)
            for level in () if is_alive(self._server) else levels:
                if server := await self._start_server(self._profile, level):
                    self._take_server(server, level)
                    break
        if self._mode == "fork" and not self.can_fork:
            why = self.started.why if self.started else ""
            msg = f"kernels can't be forked here (--kernel-start=spawn does without): {why}"
            raise KernelStartError(msg)
        return self.can_fork

    async def ensure_guardian(self) -> ForkServer | None:
        """Return the guardian, which is started if there is none; None: it can't be had here."""
        if self._profile is None:
            return None
        async with self._guardian_lock:
            if not is_alive(self._guardian):
                private_directory(self._runtime)
                server, started = await start_guardian(self._profile)
                if server is None:
                    log.warning("there is no guardian for kernels: %s", started.why)
                    return None
                self._take_guardian(server)
                await self._watch_all(server)
            return self._guardian

    @property
    def _levels(self) -> tuple[str, ...]:
        return () if self._mode == "spawn" else LEVELS

    async def _start_server(self, profile: Profile, level: str) -> ForkServer | None:
        server, started = await start_fork_server(profile, level, profile.digest(self._levels))
        self.started = started
        for name, why in started.refused.items():
            log.warning("not preloaded: %s (%s)", name, why)
        try:
            passes = server is not None and await self._passes_test(server)
        except BaseException:
            if server is not None:
                server.end()
            raise
        if server is not None and not passes:
            await server.end()
            return None
        return server

    def _take_server(self, server: ForkServer, level: str) -> None:
        self._server, self._level = server, level
        server.on_death = self._on_server_death

    def _take_guardian(self, server: ForkServer) -> None:
        self._guardian = server
        server.on_death = self._on_guardian_death

    def _on_server_death(self) -> None:
        """Replace a fork server that died; the guardian has its kernels."""
        if self._replaced < REPLACEMENTS:
            self._replaced += 1
            self.soon(self._replace_server())

    def _on_guardian_death(self) -> None:
        """Replace the guardian: kernels that nobody guards would end with us."""
        if self._replaced < REPLACEMENTS:
            self._replaced += 1
            self.soon(self._see_to_guardian())

    def soon(self, work: Coroutine[Any, Any, None]) -> None:
        """Do something beside, which ends with us."""
        task = asyncio.ensure_future(work)
        self._starting.add(task)
        task.add_done_callback(self._starting.discard)

    async def _see_to_guardian(self) -> None:
        try:
            await self.ensure_guardian()
        except (KernelryError, OSError) as error:  # the next start of a kernel tries it again
            log.warning("the guardian can't be started: %s", error)

    async def _replace_server(self) -> None:
        try:
            private_directory(self._runtime)
            if (guardian := await self.ensure_guardian()) is not None:
                await self._watch_all(guardian)
            await self.ensure_fork_server()
        except (KernelryError, OSError) as error:  # the next start of a kernel tries it again
            log.warning("the fork server died and can't be replaced: %s", error)

    async def _watch_all(self, server: ForkServer) -> None:
        """Tell a guardian of all kernels that are not its own children."""
        for kernel in tuple(self._kernels):
            if kernel.guardian is server or kernel.process.exit is not None:
                continue
            if not is_alive(kernel.guardian):
                kernel.guardian = server
            await server.watch(kernel.process, f"{kernel.record.path}.launch")

    async def _passes_test(self, server: ForkServer) -> bool:
        """Say whether a kernel forked from `server` runs code; leave nothing of it."""
        probe = self._new_probe()
        try:
            return await can_fork(server, probe, self._new_connection())
        finally:
            await probe.discard()

    async def aclose(self) -> None:
        """End the fork servers and give everything back; all kernels must be down."""
        starting = list(self._starting)
        for task in starting:
            task.cancel()
        if starting:
            await asyncio.wait(starting)
        for server in self.all():
            await server.aclose()
        self._close()

    def leave(self) -> None:
        """Go and leave the fork servers with their kernels to the next server."""
        for server in self.all():
            server.leave()
        self._close()

    def all(self) -> list[ForkServer]:
        """Return all that live, those of a server before us too."""
        found = [server for server, _ in self.inherited]
        found += [server for server in (self._server, self._guardian) if server is not None]
        return [server for server in dict.fromkeys(found) if not server.is_closed]

    def _close(self) -> None:
        for task in list(self._starting):
            task.cancel()
        self.lifelines.close()


def is_alive(server: ForkServer | None) -> bool:
    """Say whether there is a fork server, or a guardian, that answers as far as we know."""
    return server is not None and not server.is_closed
