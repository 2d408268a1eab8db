"""Warm kernels: forked ahead of time, each in a private directory of its own.

The session that gets a kernel gets its directory too, so that nothing of the hand-over
depends on the kernel. The pool is refilled one at a time while no other kernel starts, and
emptied while the machine is short of memory.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import psutil

from kernelry.engines.kernel import LocalKernel
from kernelry.engines.launch import Launch
from kernelry.engines.local import LocalEngine
from kernelry.errors import KernelStartError

log = logging.getLogger(__name__)

MEMORY_FLOOR = 0.1  # share of the machine's memory below which nothing is kept warm
CHECK_INTERVAL = 15.0  # seconds between looks at the memory
REFILL_DELAY = 0.1  # seconds without a start before the next kernel is forked
START_DELAY = 0.3  # seconds in which a new server answers its first calls undisturbed
FAILURES = 3  # starts in a row that may fail before the pool gives up


@dataclass(frozen=True, slots=True)
class WarmKernel:
    """A kernel that is ready, and what it was started with."""

    #: the kernel
    kernel: LocalKernel
    #: its launch, with the directory that goes to the session
    launch: Launch


class WarmPool:
    """Up to `size` warm kernels."""

    def __init__(self, engine: LocalEngine, size: int, new_launch: Callable[[], Launch]) -> None:
        self._engine = engine
        self._size = size
        self._new_launch = new_launch
        self._ready: deque[WarmKernel] = deque()
        self._dead: list[Launch] = []  # of kernels that ended before they were wanted
        self._wanted = asyncio.Event()
        self._wanted.set()
        self._starts = 0
        #: it was filled once, or never will be
        self.settled = asyncio.Event()

    def take(self) -> WarmKernel | None:
        """Return a warm kernel, if there is one."""
        self._wanted.set()
        while self._ready:
            warm = self._ready.popleft()
            if not warm.kernel.process.has_ended:
                return warm
            warm.kernel.release()
            self._dead.append(warm.launch)
        return None

    def begin_start(self) -> None:
        """Tell that a kernel is being started for somebody: they come first."""
        self._starts += 1

    def end_start(self) -> None:
        """Tell that it has started, or has not."""
        self._starts -= 1
        self._wanted.set()

    async def run(self) -> None:
        """Start the fork server, then keep the pool filled, until cancelled."""
        try:
            if not self._engine.can_fork:
                await asyncio.sleep(START_DELAY)
            if await self._engine.ensure_fork_server() and self._size:
                await self._keep_filled()
        except KernelStartError as error:  # whoever asks for a kernel is told the same
            log.warning("%s", error)
        finally:
            self.settled.set()

    async def _keep_filled(self) -> None:
        failures = 0
        while failures < FAILURES:
            await self._wait_for_work()
            await self._forget_dead()
            if is_short_of_memory():
                await self.drain()
                continue
            if self._starts or len(self._ready) >= self._size:
                continue
            launch = self._new_launch()
            try:
                kernel = await self._engine.start(launch)
            except KernelStartError as error:
                failures += 1
                log.warning("a warm kernel did not start: %s", error)
                await launch.discard()
            except BaseException:
                await launch.discard()
                raise
            else:
                failures = 0
                self._ready.append(WarmKernel(kernel, launch))
        log.warning("%d warm kernels in a row did not start; the pool gives up", FAILURES)

    async def drain(self) -> None:
        """End the warm kernels."""
        while self._ready:
            warm = self._ready.popleft()
            await warm.kernel.shutdown(grace=0)
            await warm.launch.discard()
        await self._forget_dead()

    async def _forget_dead(self) -> None:
        while self._dead:
            await self._dead.pop().discard()

    async def _wait_for_work(self) -> None:
        """Return when a kernel may be missing, or when the memory is to be looked at."""
        if len(self._ready) >= self._size or self._starts:
            self.settled.set()
            self._wanted.clear()
            try:
                async with asyncio.timeout(CHECK_INTERVAL):
                    await self._wanted.wait()
            except TimeoutError:
                return
            await asyncio.sleep(REFILL_DELAY)


def is_short_of_memory() -> bool:
    """Say whether the machine has too little memory to keep kernels that nobody asked for."""
    memory = psutil.virtual_memory()
    return bool(memory.available < MEMORY_FLOOR * memory.total)
